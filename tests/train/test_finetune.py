"""Fine-tuning: that the recipe reaches the optimizer, what is trained and what is not, what each part decides, how an
interrupted run goes on, what is saved, and what is refused."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from probe_corpus import CLASSES, make_rows, save_encoder, write_rows
from safetensors.torch import load_file
from sklearn.metrics import f1_score, roc_auc_score
from transformers import AutoFeatureExtractor, AutoModelForSequenceClassification, Trainer, TrainingArguments

from modeling_ecg_jepa import (
    EcgJepaCheckpointError,
    EcgJepaConfigError,
    EcgJepaDataCollator,
    EcgJepaError,
    EcgJepaForMultiLabelClassification,
    EcgJepaForRegression,
    EcgJepaOutputError,
)
from modeling_ecg_jepa.resampling_ecg_jepa import bandpass
from modeling_ecg_jepa.tools.verify import verify
from train.finetune import finetune, main, make_datasets
from train.finetune_data import FinetuneDataset, class_weights, load_records
from train.finetune_options import FinetuneOptions
from train.finetune_training import build_model, fit_temperature, layer_groups, make_trainer, training_arguments
from train.options import CorpusChoice, read_options
from train.probe_methods import Encoder, load_encoders

ROOT = Path(__file__).resolve().parents[2]
PER_FOLD = 6


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [row | {"age": 40.0 + place} for place, row in enumerate(make_rows(PER_FOLD))]


@pytest.fixture(scope="module")
def corpus(rows, tmp_path_factory) -> CorpusChoice:
    return write_rows(tmp_path_factory.mktemp("corpus"), rows)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder")


@pytest.fixture
def options(corpus, checkpoint, tmp_path) -> FinetuneOptions:
    """A run of one short epoch that learns fast."""
    return FinetuneOptions(
        model=str(checkpoint),
        corpus=corpus,
        output_dir=str(tmp_path / "run"),
        num_train_epochs=1,
        warmup_epochs=0,
        base_learning_rate=0.05,
        resamples=100,
        cpu_threads=1,
    )


@pytest.fixture(scope="module")
def finished(corpus, checkpoint, tmp_path_factory) -> tuple[FinetuneOptions, dict]:
    """Two epochs with everything on, tested; and what results.json holds."""
    options = FinetuneOptions(
        model=str(checkpoint),
        corpus=corpus,
        output_dir=str(tmp_path_factory.mktemp("finished") / "run"),
        num_train_epochs=2,
        warmup_epochs=1,
        base_learning_rate=0.05,
        resamples=100,
        cpu_threads=1,
        test=True,
    )
    finetune(options)
    return options, json.loads((Path(options.output_dir) / "results.json").read_text())


def change(options: FinetuneOptions, **changes) -> FinetuneOptions:
    return dataclasses.replace(options, **changes)


def encoder_of(options: FinetuneOptions) -> Encoder:
    return load_encoders([options.model], torch.device("cpu"))[0]


def records_of(options: FinetuneOptions):
    return load_records(options, encoder_of(options).extractor, quiet=True)


def refusal(kind: type, options: FinetuneOptions, **changes) -> str:
    with pytest.raises(kind) as caught:
        finetune(change(options, **changes))
    return str(caught.value)


def weights_of(folder: str | Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def scores_of(folder: str | Path, dataset: FinetuneDataset) -> np.ndarray:
    """Probabilities that the saved model gives."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = dataset.__getitems__(range(len(dataset)))
    del batch["labels"], batch["record"]
    with torch.no_grad():
        return model(**batch).logits.sigmoid().double().numpy()


# The recipe -----------------------------------------------------------------------------------------------------------


def trainer_of(options: FinetuneOptions):
    encoder, records = encoder_of(options), records_of(options)
    parts = make_datasets(options, encoder, records)
    model = build_model(options, encoder, records)
    return make_trainer(options, training_arguments(options), model, records, parts["train"], parts["validation"])


def test_the_authors_numbers_are_the_defaults_and_reach_optimizer_and_schedule(corpus, checkpoint, tmp_path):
    trainer = trainer_of(FinetuneOptions(model=str(checkpoint), corpus=corpus, output_dir=str(tmp_path)))
    trainer.create_optimizer_and_scheduler(num_training_steps=100)
    optimizer, peak = trainer.optimizer, 1e-4 * 16 / 256
    assert isinstance(optimizer, torch.optim.AdamW) and trainer.args.num_train_epochs == 10
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.95)}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.05, 0.0}
    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        trainer.lr_scheduler.step()
    expected = [
        peak * step / 30 if step < 30 else peak * (1 + np.cos(np.pi * (step - 30) / 70)) / 2 for step in range(101)
    ]
    np.testing.assert_allclose(rates, expected, atol=1e-12)


def test_the_recipe_is_the_defaults_line_by_line():
    recipe = read_options(["--config", str(ROOT / "train/recipes/finetune.yaml"), "--model", "m"], FinetuneOptions)
    choice = CorpusChoice("ptb_xl", options={"label_set": "superdiagnostic", "files": 500})
    assert recipe == FinetuneOptions(model="m", corpus=choice)
    text = (ROOT / "train/recipes/finetune.yaml").read_text()
    assert all("#" in line for line in text.splitlines() if line)


def test_layers_learn_slower_the_lower_they_are(options):
    model = build_model(options, encoder_of(options), records_of(options))
    groups = layer_groups(model, 1.0, 0.05, 0.5)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    found = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    assert len(rates) == len(found)
    assert found["classifier.weight"] == found["encoder.norm.bias"] == 1.0
    assert found["encoder.layers.1.mlp.fc1.weight"] == found["encoder.layers.1.norm1.bias"] == 0.5
    assert found["encoder.layers.0.attention.qkv.weight"] == 0.25
    assert found["encoder.patch_embedding.weight"] == found["encoder.patch_embedding.bias"] == 0.125
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert {decays[id(each)] for name, each in model.named_parameters() if each.dim() == 1} == {0.0}
    assert {decays[id(each)] for name, each in model.named_parameters() if each.dim() > 1} == {0.05}


def test_signals_are_filtered_as_the_saved_extractor_does_and_only_training_is_augmented(options, rows):
    encoder, records = encoder_of(options), records_of(options)
    parts = make_datasets(options, encoder, records)
    row = rows[8 * PER_FOLD]
    millivolts = row["signal"].reshape(8, -1) * row["signal_scale"]
    expected = bandpass(millivolts, (0.67, 40.0), 250)
    np.testing.assert_allclose(parts["validation"][0]["input_values"], expected, atol=1e-5)
    train, plain = parts["train"], FinetuneDataset(records, records.of_part("train"), (0.67, 40.0))
    first = train.__getitems__(range(16))["input_values"]
    assert not torch.equal(first, plain.__getitems__(range(16))["input_values"])
    assert torch.equal(train.__getitems__(range(16))["input_values"], first)
    train.set_epoch(1)
    assert not torch.equal(train.__getitems__(range(16))["input_values"], first)
    unfiltered = make_datasets(change(options, bandpass=False), encoder, records)["validation"][0]
    np.testing.assert_allclose(unfiltered["input_values"], millivolts, atol=1e-6)


# What a run leaves ----------------------------------------------------------------------------------------------------


def test_the_saved_model_has_names_thresholds_and_the_filter_and_verifies(finished, rows):
    options, results = finished
    model = AutoModelForSequenceClassification.from_pretrained(options.output_dir).eval()
    assert isinstance(model, EcgJepaForMultiLabelClassification)
    assert list(model.config.id2label.values()) == list(CLASSES)
    assert model.config.thresholds == list(results["thresholds"].values())
    assert all(check.passed for check in verify(options.output_dir))
    assert not [path for path in Path(options.output_dir).iterdir() if path.suffix in {".bin", ".pt", ".pth"}]
    extractor = AutoFeatureExtractor.from_pretrained(options.output_dir)
    row = rows[9 * PER_FOLD]
    signal = row["signal"].reshape(8, -1) * row["signal_scale"]
    with torch.no_grad():
        logits = model(**extractor(signal, sampling_rate=250, leads=row["lead_names"])).logits
    test = make_datasets(options, encoder_of(options), records_of(options))["test"]
    np.testing.assert_allclose(logits.sigmoid()[0], scores_of(options.output_dir, test)[0], atol=1e-4)


def test_numbers_are_scikit_learns_on_what_the_saved_model_says(finished, rows):
    options, results = finished
    parts = make_datasets(options, encoder_of(options), records_of(options))
    for part, fold in (("validation", 9), ("test", 10)):
        labels = np.array([[name in row["labels"] for name in CLASSES] for row in rows if row["fold"] == fold])
        scores = scores_of(options.output_dir, parts[part])
        for place, name in enumerate(CLASSES):
            found = results[part]["classes"][name]
            assert found["auroc"]["value"] == pytest.approx(roc_auc_score(labels[:, place], scores[:, place]), abs=1e-4)
            predicted = scores[:, place] >= results["thresholds"][name]
            expected = f1_score(labels[:, place], predicted)
            assert found["f1_at_validation_thresholds"]["value"] == pytest.approx(expected, abs=1e-4)
        interval = results[part]["measures"]["macro_auroc"]
        assert interval["low"] <= interval["value"] <= interval["high"]
        assert results[part]["resampled"] == "patients (1), and records where the patient is unknown (4)"


def test_the_json_says_where_the_numbers_come_from(finished):
    results = finished[1]
    assert results["schema_version"] == 1 and results["seeds"] == [0]
    assert results["records"] == {"train": 8 * PER_FOLD, "validation": PER_FOLD, "test": PER_FOLD}
    assert {"torch", "transformers", "ecg_jepa"} <= results["versions"].keys() and len(results["splits_sha256"]) == 64
    assert results["training"]["steps"] == 6 and results["training"]["learning_rate"] == 0.05 / 16
    assert results["model"]["hidden_size"] == 16 and results["options"]["layer_decay"] == 1.0
    assert results["validation"]["thresholds_and_temperature_chosen_here"]
    assert not results["test"]["thresholds_and_temperature_chosen_here"]
    history = [line["eval_macro_auroc"] for line in results["training"]["history"] if "eval_macro_auroc" in line]
    assert history[-1] == pytest.approx(results["validation"]["measures"]["macro_auroc"]["value"], abs=1e-4)


def test_an_interrupted_run_ends_at_the_weights_of_one_that_was_not(finished, tmp_path):
    options, results = finished
    folder = tmp_path / "again"
    folder.mkdir()
    shutil.copytree(Path(options.output_dir) / "checkpoint-3", folder / "checkpoint-3")
    shutil.copy(Path(options.output_dir) / "finetune_options.json", folder)
    (folder / "checkpoint-4").mkdir()  # killed while it was saved
    again = change(options, output_dir=str(folder), resume_from_checkpoint="latest")
    assert refusal(EcgJepaCheckpointError, again, weight_decay=0.1).count("weight_decay was 0.05 and is 0.1") == 1
    assert finetune(again)["test"] == results["test"]
    one, other = weights_of(options.output_dir), weights_of(folder)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_test_part_is_read_only_when_asked_for(options, rows, tmp_path):
    by_part = {"train": rows[: 8 * PER_FOLD], "validation": rows[8 * PER_FOLD : 9 * PER_FOLD]}
    for part, of_part in by_part.items():
        choice = write_rows(tmp_path / part, of_part)
        (tmp_path / "corpus").mkdir(exist_ok=True)
        shutil.move(
            tmp_path / part / "train-00000-of-00001.parquet", tmp_path / f"corpus/{part}-00000-of-00001.parquet"
        )
    (tmp_path / "corpus/test-00000-of-00001.parquet").write_text("nothing that could be read")
    options = change(options, corpus=dataclasses.replace(choice, data_dir=str(tmp_path / "corpus")))
    results = finetune(options)
    assert "test" not in results and results["records"] == {"train": 8 * PER_FOLD, "validation": PER_FOLD}
    with pytest.raises(Exception, match="(?i)parquet"):
        finetune(change(options, test=True, overwrite=True))


def test_the_fold_of_the_test_is_not_among_the_records_without_leave(options):
    records = records_of(options)
    assert set(records.parts) == {"train", "validation"}
    assert records.windows.rows.column("fold").take(records.windows.usable).to_pylist() == [
        fold for fold in range(1, 10) for _ in range(PER_FOLD)
    ]
    assert len(records_of(change(options, test=True)).of_part("test")) == PER_FOLD


def test_temperature_is_found_again_and_leaves_the_order():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 2))
    labels = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    assert fit_temperature(3 * logits, labels, "multi_label") == pytest.approx(3, rel=0.03)
    single = np.log(rng.dirichlet(np.ones(3), 20_000))
    truth = np.array([rng.choice(3, p=row) for row in np.exp(single)])
    assert fit_temperature(0.5 * single, np.arange(3) == truth[:, None], "single_label") == pytest.approx(0.5, rel=0.05)


# What is trained ------------------------------------------------------------------------------------------------------


def test_a_frozen_encoder_stays_as_it_was_under_attention_pooling(options, checkpoint):
    finetune(change(options, freeze_encoder=True, pooling="attention"))
    before, after = weights_of(checkpoint), weights_of(options.output_dir)
    assert all(torch.equal(tensor, after[f"encoder.{name}"]) for name, tensor in before.items())
    untrained = build_model(change(options, pooling="attention"), encoder_of(options), records_of(options))
    assert not torch.equal(after["encoder.pooler.query"], untrained.encoder.pooler.query)
    model = AutoModelForSequenceClassification.from_pretrained(options.output_dir)
    assert model.config.pooling == "attention" and model.encoder.pooler is not None


def test_adapters_are_trained_in_place_of_the_encoder_and_merged_into_it(options, checkpoint):
    results = finetune(change(options, lora=2))
    before, after = weights_of(checkpoint), weights_of(options.output_dir)
    changed = {name for name, tensor in before.items() if not torch.allclose(tensor, after[f"encoder.{name}"])}
    linear = ("attention.qkv", "attention.proj", "mlp.fc1", "mlp.fc2")
    assert changed == {f"layers.{layer}.{name}.weight" for layer in range(2) for name in linear}
    assert set(after) == {f"encoder.{name}" for name in before} | {"classifier.weight", "classifier.bias"}
    assert results["training"]["trained_parameters"] < 0.5 * sum(tensor.numel() for tensor in before.values())


def test_adapters_without_peft_say_what_to_install(options, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    assert 'pip install "ecg-jepa[lora]"' in refusal(EcgJepaConfigError, options, lora=2)


def test_leads_that_are_not_chosen_have_no_influence(options, rows, tmp_path):
    few = change(options, leads=["V1", "II"])
    finetune(few)
    spoilt = []
    for row in rows:
        signal = row["signal"].reshape(8, -1).copy()
        signal[[0, 3, 4, 5, 6, 7]] = np.random.default_rng(0).integers(-1000, 1000, (6, signal.shape[1]))
        spoilt.append(row | {"signal": signal.ravel()})
    other = change(few, corpus=write_rows(tmp_path / "spoilt", spoilt), output_dir=str(tmp_path / "other"))
    finetune(other)
    one, two = weights_of(few.output_dir), weights_of(other.output_dir)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert "the model has only I, II, V1" in refusal(EcgJepaConfigError, options, leads=["aVR"], overwrite=True)


def test_the_best_epoch_is_kept_and_more_without_a_gain_are_not_run(options):
    # A learning rate of nothing: no later epoch is better than the first.
    results = finetune(
        change(options, early_stopping_patience=1, num_train_epochs=6, base_learning_rate=1e-12, augmentations=["none"])
    )
    assert results["training"]["epochs"] == 2 and results["training"]["best_step"] == 3


def test_a_share_of_the_training_part_is_a_share_of_its_patients(options):
    whole, half = records_of(options), records_of(change(options, train_fraction=0.5))
    groups = [patient or record for patient, record in zip(whole.patients, whole.ids, strict=True)]
    by_group = {group: {i for i, g in zip(whole.ids, groups, strict=True) if g == group} for group in set(groups)}
    kept = set(half.ids)
    assert all(ids <= kept or not ids & kept for ids in by_group.values())
    assert 0.4 < len(half.of_part("train")) / len(whole.of_part("train")) < 0.6
    assert len(half.of_part("validation")) == PER_FOLD
    other = records_of(change(options, train_fraction=0.5, seed=1))
    assert set(other.ids) != kept


def test_rare_classes_weigh_more_and_the_weights_are_in_the_model(options):
    records = records_of(options)
    positives = records.values_of("train").sum(0)
    np.testing.assert_allclose(class_weights(records), (48 - positives) / positives, rtol=1e-6)
    finetune(change(options, class_weights=True))
    model = AutoModelForSequenceClassification.from_pretrained(options.output_dir)
    np.testing.assert_allclose(model.config.pos_weight, class_weights(records))


def test_of_single_labels_the_others_are_left_out_and_counted(options, rows, tmp_path):
    mixed = with_labels(rows, lambda place, _: [["FAST"], ["LARGE"], ["FAST", "LARGE"]][place % 3])
    corpus = write_rows(tmp_path / "corpus", mixed)
    results = finetune(change(options, corpus=corpus, problem="single_label", class_weights=True))
    assert results["left_out"] == {"not exactly one label": 3 * PER_FOLD}
    assert sum(results["records"].values()) == 6 * PER_FOLD
    assert results["thresholds"] is None and 0 <= results["validation"]["measures"]["accuracy"]["value"] <= 1
    model = AutoModelForSequenceClassification.from_pretrained(options.output_dir)
    assert model.config.problem_type == "single_label_classification"


def test_measurements_are_predicted_in_their_units(options, rows, tmp_path):
    known = [row | {"age": None if place % 5 == 0 else row["age"]} for place, row in enumerate(rows)]
    corpus = write_rows(tmp_path / "ages", known)
    results = finetune(change(options, corpus=corpus, problem="regression", targets=["age:years"]))
    ages = np.array([row["age"] for row in known[: 8 * PER_FOLD] if row["age"] is not None])
    assert results["left_out"] == {"no measurement": sum(row["age"] is None for row in known[: 9 * PER_FOLD])}
    model = AutoModelForSequenceClassification.from_pretrained(options.output_dir)
    assert isinstance(model, EcgJepaForRegression)
    (target,) = model.config.regression_targets
    assert (target["name"], target["unit"]) == ("age", "years")
    assert target["mean"] == pytest.approx(ages.mean()) and target["scale"] == pytest.approx(ages.std())
    assert results["validation"]["measures"]["macro_mean_absolute_error"]["value"] < 60
    wanted = "has no numeric column 'height'; it has .*age"
    with pytest.raises(EcgJepaConfigError, match=wanted):
        records_of(change(options, problem="regression", targets=["height"]))


def test_accumulated_batches_are_one_large_batch_in_a_users_own_trainer_too(options):
    """The Trainer takes a forward with keywords for one that divides its loss by the accumulated batches itself."""
    records = records_of(options)
    rows = [FinetuneDataset(records, records.of_part("train"), None)[place] for place in range(8)]
    found = []
    for batch, accumulated in ((8, 1), (2, 4)):
        model = build_model(change(options, drop_path_rate=0.0), encoder_of(options), records)
        arguments = TrainingArguments(
            options.output_dir,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulated,
            max_steps=1,
            optim="sgd",
            learning_rate=0.1,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            report_to="none",
            use_cpu=True,
        )
        Trainer(model, arguments, data_collator=EcgJepaDataCollator(), train_dataset=rows).train()
        found.append(model.classifier.weight.detach())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


# Bad input ------------------------------------------------------------------------------------------------------------


def with_labels(rows: list[dict], label) -> list[dict]:
    return [row | {"labels": label(place, row)} for place, row in enumerate(rows)]


def test_records_without_labels_are_left_out_and_counted(options, rows, tmp_path):
    missing = with_labels(rows, lambda place, row: None if place % 10 == 3 else row["labels"])
    records = records_of(change(options, corpus=write_rows(tmp_path / "corpus", missing)))
    assert len(records.ids) == 9 * PER_FOLD - len(records.left_out)
    assert records.describe()["left_out"] == {"labels missing": 6} and records.describe()["unusable_records"] == 6


def test_a_class_that_is_absent_is_noted_with_its_count(options, rows, tmp_path):
    def no_large_in(folds):
        return with_labels(rows, lambda _, row: [n for n in row["labels"] if n != "LARGE" or row["fold"] not in folds])

    untrained = records_of(change(options, corpus=write_rows(tmp_path / "a", no_large_in(range(1, 9)))))
    assert untrained.notes == [
        "In the train part LARGE (0 of 48) holds for none or for all of the records: it cannot be learned."
    ]
    results = finetune(change(options, corpus=write_rows(tmp_path / "b", no_large_in([9]))))
    assert "In the validation part LARGE (0 of 6)" in results["notes"][0]
    assert results["thresholds"]["LARGE"] == 0.5
    assert results["validation"]["classes"]["LARGE"]["auroc"] is None
    assert results["validation"]["undefined_classes"] == [{"name": "LARGE", "positives": 0, "negatives": 6}]
    nothing = with_labels(rows, lambda _, row: [] if row["fold"] == 9 else row["labels"])
    said = refusal(EcgJepaConfigError, options, corpus=write_rows(tmp_path / "c", nothing), overwrite=True)
    assert "in the validation part each of FAST (0 of 6), LARGE (0 of 6)" in said


def test_too_few_patients_and_fewer_records_than_classes_are_refused(options, rows, tmp_path):
    assert "too few to learn" in refusal(EcgJepaConfigError, options, train_fraction=0.01)
    one = [row | {"patient_id": "p" if row["fold"] == 9 else row["patient_id"]} for row in rows]
    said = refusal(EcgJepaConfigError, options, corpus=write_rows(tmp_path / "one", one), overwrite=True)
    assert "its validation part has 6 usable records of a single patient" in said
    many = [f"class{number}" for number in range(60)]
    corpus = write_rows(tmp_path / "many", with_labels(rows, lambda place, _: [many[place]]), many)
    said = refusal(EcgJepaConfigError, options, corpus=corpus, overwrite=True)
    assert "48 training records (train_fraction=1) are fewer than the 60 classes" in said


def test_a_patient_in_two_parts_is_refused(options, rows, tmp_path):
    both = [row | {"patient_id": "p" if row["fold"] in (8, 9) else row["patient_id"]} for row in rows]
    said = refusal(EcgJepaConfigError, options, corpus=write_rows(tmp_path / "both", both))
    assert "1 patients are in several folds, such as 'p'" in said and "validation" in said


def test_without_a_validation_part_a_tenth_of_the_patients_is_drawn(options, rows, tmp_path):
    training = [row | {"fold": None} for row in rows]
    records = records_of(change(options, corpus=write_rows(tmp_path / "corpus", training)))
    parts = {part: set(records.patients_of(part)) - {None} for part in ("train", "validation")}
    assert not parts["train"] & parts["validation"]
    assert 3 <= len(records.of_part("validation")) <= 9 and "has no validation part" in records.notes[0]


def test_a_head_for_other_labels_is_neither_kept_nor_dropped_without_a_word(finished, options, rows, tmp_path):
    fitted = finished[0].output_dir
    other = write_rows(tmp_path / "other", with_labels(rows, lambda place, _: ["AF"] if place % 2 else []), ["AF"])
    said = refusal(EcgJepaConfigError, options, model=fitted, corpus=other)
    assert "a head for 2 labels" in said and "only the checkpoint has FAST, LARGE" in said and "--new_head" in said
    changed = change(options, model=fitted, corpus=other, new_head=True)
    model = build_model(changed, encoder_of(changed), records_of(changed))
    assert model.classifier.out_features == 1 and model.config.thresholds is None
    same = change(options, model=fitted)
    kept = build_model(same, encoder_of(same), records_of(same))
    assert torch.equal(kept.classifier.weight, weights_of(fitted)["classifier.weight"])


def test_a_loss_that_is_not_finite_ends_the_run_with_its_step_and_records(options):
    said = refusal(EcgJepaError, options, base_learning_rate=1e30, num_train_epochs=2)
    assert "The loss is nan at step 2, of the records r0" in said and "--base_learning_rate" in said
    assert not (Path(options.output_dir) / "model.safetensors").exists()


def test_another_run_in_the_folder_is_not_overwritten_without_leave(finished, options):
    assert "holds another run" in refusal(EcgJepaOutputError, options, output_dir=finished[0].output_dir)
    kept = Path(options.output_dir) / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("kept")
    finetune(change(options, overwrite=True, max_steps=1))
    assert kept.read_text() == "kept"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model": None}, "model=None must name a checkpoint"),
        ({"problem": "ranking"}, "problem='ranking' is none of multi_label"),
        ({"problem": "regression"}, "targets=None go with problem regression"),
        ({"warmup_epochs": 1.0}, "must be below num_train_epochs=1"),
        ({"train_fraction": 0.0}, "train_fraction=0.0 must be above 0"),
        ({"augmentations": ["mirror"]}, "mirror is none of"),
        ({"leads": ["Z9"]}, "leads=.'Z9'."),
        ({"pooling": "max"}, "pooling='max' is neither"),
        ({"data_dir": "elsewhere"}, "name two folders"),
        ({"lora": 2, "freeze_encoder": True}, "exclude each other"),
    ],
)
def test_values_that_describe_no_run_are_refused(options, changes, text):
    with pytest.raises(EcgJepaConfigError, match=text):
        change(options, **changes)


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_did_and_fails_with_a_code(options, corpus, capsys):
    words = f"--model {options.model} --corpus prepared:{corpus.data_dir} --output_dir {options.output_dir}".split()
    words += "--max-steps 1 --warmup_epochs 0 --resamples 100 --cpu_threads 1".split()
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert (
        "train 48, validation 6 records; 2 targets" in printed and "--test --resume_from_checkpoint latest" in printed
    )
    assert main([*words, "--test", "--resume_from_checkpoint", "latest"]) == 0
    assert "test: 6 records" in capsys.readouterr().out
    assert main(words) == 1 and "holds another run" in capsys.readouterr().err
    assert main([*words, "--epochs", "3"]) == 2 and "no option '--epochs'" in capsys.readouterr().err


def test_two_processes_train_on_twice_the_records_a_step(options, corpus):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "train.finetune", "--model", options.model, "--corpus", f"prepared:{corpus.data_dir}"]
    command += ["--output_dir", options.output_dir, "--num_train_epochs", "1", "--warmup_epochs", "0"]
    command += ["--resamples", "100", "--cpu_threads", "1", "--batch_size", "8"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((Path(options.output_dir) / "results.json").read_text())
    assert results["processes"] == 2 and results["training"]["steps"] == 3
    assert results["training"]["learning_rate"] == pytest.approx(1e-4 * 16 / 256)
    assert results["validation"]["records"] == PER_FOLD

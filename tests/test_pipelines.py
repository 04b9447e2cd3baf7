"""Pipelines say what extractor and model say by hand; windows, batches and streams change only the order of work."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification, pipeline

from dataset_scripts.records import read_record
from modeling_ecg_jepa import (
    EcgClassificationPipeline,
    EcgEmbeddingPipeline,
    EcgJepaCheckpointError,
    EcgJepaConfig,
    EcgJepaConfigError,
    EcgJepaFeatureExtractor,
    EcgJepaForMultiLabelClassification,
    EcgJepaForRegression,
    EcgJepaInputError,
    EcgJepaModel,
    EcgJepaRecordError,
    EcgMeasurementPipeline,
)
from modeling_ecg_jepa.hub_ecg_jepa import custom_pipelines
from modeling_ecg_jepa.pipelines_ecg_jepa import PIPELINES

RECORDS = Path(__file__).parent / "fixtures/records/ptb-xl"
FIRST, SECOND = RECORDS / "00001_hr", RECORDS / "00002_hr"
LABELS = {0: "NORM", 1: "MI", 2: "CD"}
TARGETS = [
    {"name": "heart rate", "unit": "bpm", "mean": 70.0, "scale": 15.0},
    {"name": "QRS", "unit": "ms", "mean": 90.0, "scale": 10.0},
]
EXACT = {"rtol": 0, "atol": 1e-5}


# So that records differ also with random weights.
LEVERS = {"patch_initializer_range": 0.4, "position_scale": 0.2}


def made(cls, **options):
    torch.manual_seed(0)
    return cls(EcgJepaConfig.from_preset("tiny", num_hidden_layers=2, **LEVERS, **options)).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """Random checkpoints: an encoder, and one with each head."""
    here = tmp_path_factory.mktemp("checkpoints")
    models = {
        "encoder": made(EcgJepaModel),
        "labels": made(EcgJepaForMultiLabelClassification, id2label=LABELS, thresholds=[0.3, 0.95, 0.4]),
        "single": made(EcgJepaForMultiLabelClassification, id2label=LABELS, problem_type="single_label_classification"),
        "measurements": made(EcgJepaForRegression, regression_targets=TARGETS),
    }
    for name, model in models.items():
        model.save_pretrained(here / name)
    return {name: str(here / name) for name in models}


@pytest.fixture(scope="module")
def labels(folders):
    return pipeline("ecg-classification", model=folders["labels"], device="cpu")


@pytest.fixture(scope="module")
def vectors(folders):
    return pipeline("ecg-embedding", model=folders["encoder"], device="cpu")


@pytest.fixture(scope="module")
def twenty_seconds() -> dict:
    """Two real records one after the other, as an array."""
    first, second = read_record(FIRST), read_record(SECOND)
    signal = np.concatenate([first.signal, second.signal], axis=1)
    return {"array": signal, "sampling_rate": 500, "leads": list(first.lead_names)}


def by_hand(pipe, path) -> torch.Tensor:
    """What the pipeline's model returns for the start of a record, without the pipeline."""
    record = read_record(path)
    extractor = AutoFeatureExtractor.from_pretrained(pipe.model.config.name_or_path)
    inputs = extractor(record.signal, record.sampling_rate, record.lead_names, return_tensors="pt")
    with torch.no_grad():
        return pipe.model(**inputs)


def scores_of(result: dict) -> dict[str, float]:
    return {each["label"]: each["score"] for each in result["labels"]}


def holding(result: dict) -> set[str]:
    return {each["label"] for each in result["labels"] if each["holds"]}


# Numbers --------------------------------------------------------------------------------------------------------------


def test_scores_are_the_probabilities_of_the_model_and_hold_from_the_checkpoints_thresholds_on(labels):
    result = labels(FIRST)
    expected = by_hand(labels, FIRST).logits[0].sigmoid()
    found = torch.tensor([scores_of(result)[name] for name in LABELS.values()])
    torch.testing.assert_close(found, expected, **EXACT)
    assert [each["score"] for each in result["labels"]] == sorted(found.tolist(), reverse=True)
    assert {each["label"]: each["threshold"] for each in result["labels"]} == {"NORM": 0.3, "MI": 0.95, "CD": 0.4}
    limits = torch.tensor([0.3, 0.95, 0.4])
    assert holding(result) == {LABELS[place] for place in torch.where(expected >= limits)[0].tolist()}
    assert 0 < len(holding(result)) < 3  # so that the thresholds are seen to matter


def test_without_thresholds_a_label_holds_from_one_half_on(folders):
    model = AutoModelForSequenceClassification.from_pretrained(folders["labels"], thresholds=None)
    extractor = AutoFeatureExtractor.from_pretrained(folders["labels"])
    result = EcgClassificationPipeline(model, extractor, device="cpu")(FIRST)
    assert holding(result) == {label for label, score in scores_of(result).items() if score >= 0.5}


def test_of_labels_that_exclude_each_other_one_holds(folders):
    pipe = pipeline("ecg-classification", model=folders["single"], device="cpu")
    result = pipe(FIRST)
    expected = by_hand(pipe, FIRST).logits[0].softmax(-1)
    torch.testing.assert_close(torch.tensor(scores_of(result)["MI"]), expected[1], **EXACT)
    assert holding(result) == {LABELS[int(expected.argmax())]}
    assert result["labels"][0]["holds"] and "threshold" not in result["labels"][0]


def test_an_embedding_is_the_models_vector_also_of_a_checkpoint_with_a_head(vectors, folders):
    expected = by_hand(vectors, FIRST).pooler_output[0]
    torch.testing.assert_close(torch.from_numpy(vectors(FIRST)["embedding"]), expected, **EXACT)
    with_head = AutoModelForSequenceClassification.from_pretrained(folders["labels"])
    extractor = AutoFeatureExtractor.from_pretrained(folders["labels"])
    encoder = AutoModel.from_pretrained(folders["labels"])
    of_folder = EcgEmbeddingPipeline(encoder, extractor, device="cpu")(FIRST)["embedding"]
    of_head = EcgEmbeddingPipeline(with_head, extractor, device="cpu")(FIRST)["embedding"]
    np.testing.assert_array_equal(of_head, of_folder)


def test_measurements_come_in_their_units(folders):
    pipe = pipeline("ecg-measurement", model=folders["measurements"], device="cpu")
    result = pipe(FIRST)
    expected = by_hand(pipe, FIRST).logits[0]
    assert [(each["name"], each["unit"]) for each in result["measurements"]] == [("heart rate", "bpm"), ("QRS", "ms")]
    torch.testing.assert_close(torch.tensor([each["value"] for each in result["measurements"]]), expected, **EXACT)


# Inputs ---------------------------------------------------------------------------------------------------------------


def test_a_path_an_array_in_any_unit_and_a_row_are_the_same_record(vectors):
    record = read_record(FIRST)
    array = {"array": record.signal, "sampling_rate": 500.0, "leads": record.lead_names}
    row = {
        "record_id": "1",
        "signal": np.rint(1000 * record.signal).astype(np.int16).ravel(),
        "signal_scale": 0.001,
        "lead_names": list(record.lead_names),
        "sampling_rate": 500.0,
        "age": None,
    }
    microvolts = {**array, "array": 1000 * torch.from_numpy(record.signal), "unit": "uV"}
    unnamed = {"array": record.signal, "sampling_rate": 500}
    expected = vectors(FIRST)["embedding"]
    for input_ in (str(FIRST), FIRST.with_suffix(".hea"), array, row, microvolts, unnamed):
        np.testing.assert_allclose(vectors(input_)["embedding"], expected, atol=1e-5)
    (of_dataset,) = vectors(Dataset.from_list([row]))
    np.testing.assert_allclose(of_dataset["embedding"], expected, atol=1e-5)


def test_lists_tuples_streams_and_batches_give_what_single_records_give(vectors, twenty_seconds):
    inputs = [FIRST, twenty_seconds, SECOND]
    expected = [vectors(one, window_seconds=5)["embedding"] for one in inputs]
    for given in (list, tuple, iter, lambda records: (one for one in records)):
        for batch_size in (1, 3, 100):
            results = list(vectors(given(inputs), window_seconds=5, batch_size=batch_size))
            assert [len(result["windows"]) for result in results] == [2, 4, 2]
            np.testing.assert_allclose([result["embedding"] for result in results], expected, atol=1e-5)
    assert vectors([]) == []


def test_records_of_different_leads_and_lengths_share_a_batch(vectors):
    record = read_record(FIRST)
    few = {"array": record.signal[[1, 7]], "sampling_rate": 500, "leads": ["II", "V2"]}
    short = {"array": record.signal[:, :1600], "sampling_rate": 500, "leads": record.lead_names}
    together = vectors([FIRST, few, short], batch_size=3)
    for one, result in zip([FIRST, few, short], together, strict=True):
        np.testing.assert_allclose(result["embedding"], vectors(one)["embedding"], atol=1e-5)
    assert together[2]["windows"][0]["end_s"] == 3.2


def test_a_stream_is_read_as_its_results_are_asked_for(vectors):
    read = []

    def stream():
        for place in range(1000):
            read.append(place)
            yield FIRST

    results = vectors(stream(), batch_size=2)
    assert read in ([], [0])
    next(results)
    assert len(read) <= 5


# Windows --------------------------------------------------------------------------------------------------------------


def test_windows_are_those_of_the_extractor_with_their_times(vectors, twenty_seconds):
    result = vectors(twenty_seconds, window_seconds=10, stride_seconds=5)
    places = [(window["start_s"], window["end_s"]) for window in result["windows"]]
    assert places == [(0, 10), (5, 15), (10, 20)]
    inputs = vectors.feature_extractor(
        twenty_seconds["array"], 500, twenty_seconds["leads"], window_seconds=10, stride_seconds=5
    )
    names = ("input_values", "lead_mask", "attention_mask")
    with torch.no_grad():
        expected = vectors.model(**{name: inputs[name] for name in names}).pooler_output.numpy()
    np.testing.assert_allclose([window["embedding"] for window in result["windows"]], expected, atol=1e-5)
    np.testing.assert_allclose(result["embedding"], expected.mean(0), atol=1e-5)
    result = vectors(twenty_seconds, window_seconds=10, stride_seconds=5, aggregation="max")
    np.testing.assert_allclose(result["embedding"], expected.max(0), atol=1e-5)


def test_without_windows_a_long_record_is_cut_as_the_extractor_says(vectors, twenty_seconds):
    result = vectors(twenty_seconds)
    assert [(window["start_s"], window["end_s"]) for window in result["windows"]] == [(0, 10)]
    np.testing.assert_allclose(result["embedding"], vectors(FIRST)["embedding"], atol=1e-5)


def test_scores_of_windows_aggregate_as_by_hand(folders, twenty_seconds):
    first, second = (by_hand_scores(folders["labels"], path) for path in (FIRST, SECOND))
    # NORM between the two records, so that it holds in one window and not in the mean; MI in none, CD in both.
    limit = float(first[0] + 0.9 * (second[0] - first[0])) if second[0] > first[0] else float(first[0] * 0.9999)
    thresholds = [limit, 0.99, 0.0]
    model = AutoModelForSequenceClassification.from_pretrained(folders["labels"], thresholds=thresholds)
    pipe = EcgClassificationPipeline(model, AutoFeatureExtractor.from_pretrained(folders["labels"]), device="cpu")
    highest = np.maximum(first, second)
    expected = {
        "mean": ((first + second) / 2, {"CD"}),
        "max": (highest, {"NORM", "CD"}),
        "any": (highest, {"NORM", "CD"}),
    }
    for aggregation, (scores, holds) in expected.items():
        result = pipe(twenty_seconds, window_seconds=10, aggregation=aggregation)
        np.testing.assert_allclose([scores_of(result)[name] for name in LABELS.values()], scores, atol=1e-5)
        assert holding(result) == holds, aggregation
    assert sum("NORM" in holding(window) for window in result["windows"]) == 1


def by_hand_scores(folder: str, path: Path) -> np.ndarray:
    pipe = pipeline("ecg-classification", model=folder, device="cpu")
    return by_hand(pipe, path).logits[0].sigmoid().numpy()


def test_of_labels_that_exclude_each_other_several_hold_in_any_window(folders, twenty_seconds):
    pipe = pipeline("ecg-classification", model=folders["single"], device="cpu", aggregation="any")
    first, second = (by_hand(pipe, path).logits[0] for path in (FIRST, SECOND))
    there, here = int((first - second).argmax()), int((first - second).argmin())
    with torch.no_grad():  # these two answers are the likeliest, one in each window
        pipe.model.classifier.bias -= 100
        pipe.model.classifier.bias[here] += 100
        pipe.model.classifier.bias[there] += 100 + float(first[here] - first[there] + second[here] - second[there]) / 2
    result = pipe(twenty_seconds, window_seconds=10)
    assert [holding(window) for window in result["windows"]] == [{LABELS[there]}, {LABELS[here]}]
    assert holding(result) == {LABELS[there], LABELS[here]}
    assert len(holding(pipe(twenty_seconds, window_seconds=10, aggregation="max"))) == 1


def test_a_window_without_signal_is_told_and_does_not_count(vectors, twenty_seconds):
    signal = np.concatenate([twenty_seconds["array"], np.zeros((12, 5000))], axis=1)
    result = vectors({**twenty_seconds, "array": signal}, window_seconds=10)
    assert "No usable lead" in result["windows"][2]["error"]
    assert result["windows"][2]["start_s"] == 20
    expected = vectors(twenty_seconds, window_seconds=10)["embedding"]
    np.testing.assert_allclose(result["embedding"], expected, atol=1e-6)


# Attention ------------------------------------------------------------------------------------------------------------


def test_attention_is_the_share_that_each_patch_receives(labels):
    record = read_record(FIRST)
    input_ = {"array": record.signal[[0, 6], :3000], "sampling_rate": 500, "leads": ["I", "V1"]}  # and III, no more
    window = labels(input_, return_attention=True)["windows"][0]
    assert window["attention"].shape == (2, 4, 8, 50)
    np.testing.assert_allclose(window["attention"].sum((2, 3)), 1, atol=1e-5)
    assert labels.model.config._attn_implementation == "cropa"

    inputs = labels.feature_extractor(input_["array"], 500, input_["leads"])
    model = AutoModelForSequenceClassification.from_pretrained(
        labels.model.config.name_or_path, attn_implementation="eager"
    )
    with torch.no_grad():
        weights = model(**inputs, output_attentions=True).attentions[1][0].numpy()  # (heads, tokens, tokens)
    asking = [lead * 50 + time for lead in (0, 2) for time in range(30)]
    expected = np.mean([weights[:, token] for token in asking], axis=0).reshape(4, 8, 50)
    np.testing.assert_allclose(window["attention"][1], expected, atol=1e-6)
    assert window["attention"][:, :, [1, 3, 4, 5, 6, 7]].max() == 0
    assert window["attention"][..., 30:].max() == 0


def test_attention_changes_no_score(labels):
    with_maps, without = labels(FIRST, return_attention=True), labels(FIRST)
    for label, score in scores_of(without).items():
        assert scores_of(with_maps)[label] == pytest.approx(score, abs=1e-5)
    assert "attention" not in without["windows"][0]


# Errors ---------------------------------------------------------------------------------------------------------------

ARRAY = {"array": np.ones((2, 5000)), "sampling_rate": 500, "leads": ["I", "II"]}


@pytest.mark.parametrize(
    ("input_", "error", "match"),
    [
        ("no/such/record", EcgJepaRecordError, "No WFDB header for no/such/record"),
        (RECORDS, EcgJepaRecordError, "No WFDB header"),
        ({"array": np.ones((2, 5000)), "leads": ["I", "II"]}, EcgJepaInputError, "Input 0: sampling_rate is missing"),
        ({**ARRAY, "leads": ["I", "nose"]}, EcgJepaInputError, "nose"),
        ({**ARRAY, "rate": 500}, EcgJepaInputError, "rate: an input with an array has no such key"),
        ({**ARRAY, "array": np.ones((3, 2, 5000))}, EcgJepaInputError, "3 records in one input"),
        (ARRAY, EcgJepaInputError, "Input 0: No usable lead"),
        (
            {"signal": [1, 2], "record_id": "r7", "lead_names": ["I"]},
            EcgJepaInputError,
            "Record r7: The row has a signal",
        ),
        ({"samples": 3}, EcgJepaInputError, "neither array nor signal"),
        (np.ones((12, 5000)), EcgJepaInputError, "ndarray is no record"),
        (None, EcgJepaInputError, "NoneType is no record"),
    ],
)
def test_an_input_that_is_no_record_says_what_one_is(vectors, input_, error, match):
    with pytest.raises(error, match=match):
        vectors(input_)


def test_the_faulty_one_of_many_is_named_and_may_be_skipped(vectors):
    inputs = [FIRST, ARRAY, "no/such/record", SECOND]
    with pytest.raises(EcgJepaInputError, match="Input 1: No usable lead"):
        vectors(inputs, batch_size=4)
    results = vectors(inputs, batch_size=4, on_error="skip")
    assert isinstance(results[1]["error"], EcgJepaInputError)
    assert isinstance(results[2]["error"], EcgJepaRecordError)
    np.testing.assert_allclose(results[3]["embedding"], vectors(SECOND)["embedding"], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"aggregation": "median"}, "aggregation='median' must be one of 'mean', 'max' here"),
        ({"aggregation": "any"}, "aggregation='any' must be"),
        ({"on_error": "ignore"}, "on_error='ignore' must be"),
        ({"stride_seconds": 5}, "stride_seconds=5 needs window_seconds"),
        ({"window_seconds": 0.33}, "no whole number of patches"),
        ({"windows": 5}, "no option 'windows'; it has window_seconds"),
    ],
)
def test_an_option_that_cannot_be_is_refused(vectors, options, match):
    with pytest.raises(EcgJepaConfigError, match=match):
        vectors(FIRST, **options)


@pytest.mark.parametrize(
    ("task", "folder", "match"),
    [
        ("ecg-classification", "encoder", "made of EcgJepaModel: it has no trained classifier. Fine-tune it"),
        ("ecg-classification", "measurements", "for the measurements of a regression checkpoint ecg-measurement"),
        ("ecg-measurement", "encoder", "it measures nothing"),
        ("ecg-measurement", "labels", "for others ecg-classification"),
    ],
)
def test_a_model_without_the_head_of_the_task_is_refused(folders, task, folder, match):
    with pytest.raises(EcgJepaCheckpointError, match=match):
        pipeline(task, model=folders[folder], device="cpu")


def test_a_model_that_was_just_fine_tuned_is_taken_as_it_is(folders):
    model = AutoModelForSequenceClassification.from_pretrained(folders["encoder"], id2label=LABELS)
    extractor = AutoFeatureExtractor.from_pretrained(folders["encoder"])
    with pytest.raises(EcgJepaCheckpointError, match="no trained classifier"):
        EcgClassificationPipeline(model, extractor, device="cpu")
    inputs = extractor(read_record(FIRST).signal, 500)
    optimizer = torch.optim.AdamW(model.parameters())
    model.train()(**inputs, labels=torch.tensor([[0.0, 1.0, 0.0]])).loss.backward()
    optimizer.step()
    pipe = EcgClassificationPipeline(model, extractor, device="cpu")
    assert pipe(FIRST) == pipe(FIRST)  # without stochastic depth


def test_an_extractor_of_another_model_is_refused(folders):
    model = AutoModel.from_pretrained(folders["encoder"])
    with pytest.raises(EcgJepaConfigError, match="the model 50: use the one that was saved beside"):
        EcgEmbeddingPipeline(model, EcgJepaFeatureExtractor(patch_size=25), device="cpu")
    with pytest.raises(EcgJepaConfigError, match="feature_extractor=None"):
        EcgMeasurementPipeline(made(EcgJepaForRegression, regression_targets=TARGETS), device="cpu")


# Where the package is not ---------------------------------------------------------------------------------------------

ELSEWHERE = textwrap.dedent(
    """
    import importlib.abc, json, sys

    class Absent(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in {"modeling_ecg_jepa", "dataset_scripts", "wfdb", "datasets"}:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Absent())
    import numpy as np
    from transformers import pipeline

    stored = np.load("record.npz")
    array = {"array": stored["signal"], "sampling_rate": 500, "leads": stored["leads"].tolist()}
    row = {"signal": np.rint(1000 * stored["signal"]).astype(np.int16).ravel(), "signal_scale": 0.001,
           "lead_names": array["leads"], "sampling_rate": 500.0}
    trust = {"trust_remote_code": True, "device": "cpu"}
    found = {}
    labels = pipeline("ecg-classification", model="labels", **trust)
    labels.save_pretrained("again")
    labels = pipeline("ecg-classification", model="again", **trust)
    found["labels"] = labels([array, row], batch_size=2, window_seconds=5, aggregation="any")
    found["attention"] = labels(array, return_attention=True)["windows"][0]["attention"].sum((2, 3)).tolist()
    found["embedding"] = pipeline("ecg-embedding", model="labels", **trust)(array)["embedding"].tolist()
    found["measurements"] = pipeline("ecg-measurement", model="measurements", **trust)(array)["measurements"]
    for name, call in {
        "path": lambda: labels("path/to/record"),
        "head": lambda: pipeline("ecg-classification", model="encoder", **trust),
        "untrusted": lambda: pipeline("ecg-classification", model="labels", trust_remote_code=False),
    }.items():
        try:
            call()
        except ValueError as error:
            found[name] = f"{type(error).__name__}: {error}"
        except OSError as error:
            found[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))
    """
)


@pytest.fixture(scope="module")
def elsewhere(folders):
    """What a fresh process finds in the folders: no package, and an empty cache of remote modules."""
    here = Path(folders["labels"]).parent
    record = read_record(FIRST)
    np.savez(here / "record.npz", signal=record.signal, leads=np.array(record.lead_names))
    (here / "load.py").write_text(ELSEWHERE)
    environment = {**os.environ, "HF_MODULES_CACHE": str(here / "modules"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "load.py"], cwd=here, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_remote_code_gives_what_the_package_gives(elsewhere, folders, labels, vectors):
    expected = labels(FIRST, window_seconds=5, aggregation="any")
    for result in elsewhere["labels"]:
        assert scores_of(result) == pytest.approx(scores_of(expected), abs=1e-5)
        assert holding(result) == holding(expected)
        assert [window["start_s"] for window in result["windows"]] == [0, 5]
    np.testing.assert_allclose(elsewhere["attention"], np.ones((2, 4)), atol=1e-5)
    with_head = pipeline("ecg-embedding", model=folders["labels"], device="cpu")
    np.testing.assert_allclose(elsewhere["embedding"], with_head(FIRST)["embedding"], atol=1e-5)
    measured = pipeline("ecg-measurement", model=folders["measurements"], device="cpu")(FIRST)["measurements"]
    for there, here in zip(elsewhere["measurements"], measured, strict=True):
        assert there == {**here, "value": pytest.approx(here["value"], abs=1e-3)}


def test_remote_code_says_what_it_cannot_do(elsewhere):
    assert elsewhere["path"].startswith("EcgJepaInputError: path/to/record: Reading a file needs the package ecg-jepa")
    assert "dataset_scripts is not installed here" in elsewhere["path"]
    assert elsewhere["head"].startswith("EcgJepaCheckpointError: encoder is made of EcgJepaModel")
    assert elsewhere["untrusted"].startswith("ValueError")
    assert "trust_remote_code=True" in elsewhere["untrusted"]


def test_a_folder_names_every_pipeline_that_the_package_registers():
    expected = {
        task: {"impl": f"pipelines_ecg_jepa.{cls.__name__}", "pt": [auto.__name__]}
        for task, (cls, auto) in PIPELINES.items()
    }
    assert custom_pipelines() == expected


def test_a_saved_pipeline_is_a_whole_folder(labels, tmp_path):
    labels.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["custom_pipelines"] == custom_pipelines()
    assert pipeline("ecg-classification", model=tmp_path, device="cpu")(FIRST) == labels(FIRST)

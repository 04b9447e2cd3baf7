"""Ablations: whole small ones, what goes on after a kill, what is refused, and numbers held against scikit-learn."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaError, EcgJepaModel, EcgJepaOutputError
from train.ablate import ablate, equal_time, loader, main, options_of, read_options
from train.ablation_cells import embed, load_records, truth
from train.ablation_report import PLOT, RESULTS, TABLE, cell_file, tables, verdict
from train.experiments import EXPERIMENTS, Experiment, Variant
from train.options import CorpusChoice, PretrainOptions

ROOT = Path(__file__).resolve().parents[2]

#: As little as an ablation can be: four leads, a model of one layer, three steps.
LITTLE = [
    "--max_steps=3",
    "--warmup_steps=1",
    "--logging_steps=2",
    "--batch_size=4",
    *"--leads I II V2 V5".split(),
    "--hidden_size=16",
    "--num_hidden_layers=1",
    "--predictor_hidden_size=8",
    "--cpu_threads=1",
]
TINY_EXPERIMENT = Experiment(
    question="Is a larger step better?",
    finding="none",
    variants=[
        Variant("random weights", trained=False),
        Variant("usual", against=("random weights",)),
        Variant("larger", {"learning_rate": 0.01}, against=("usual",)),
    ],
    views={"all leads": None, "II": ("II",)},
)


FEW_CLASSES = {"records": 120, "classes": ["sinus_rhythm", "sinus_tachycardia", "left_bundle_branch_block"]}


def options_for(folder: Path, *arguments: str) -> PretrainOptions:
    options = read_options(["num_masks", *LITTLE, *arguments, "--output_dir", str(folder)])[1]
    return dataclasses.replace(options, corpus=[CorpusChoice("synthetic", held_out=True, options=FEW_CLASSES)])


@pytest.fixture(autouse=True)
def rate(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "rate", TINY_EXPERIMENT)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a whole ablation of two seeds."""
    folder = tmp_path_factory.mktemp("ablation") / "rate"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXPERIMENTS, "rate", TINY_EXPERIMENT)
        ablate("rate", options_for(folder), [0, 1], "the command")
    return folder


def results_of(folder: Path) -> dict:
    return json.loads((folder / RESULTS).read_text())


def values_in(entry: dict) -> dict[tuple[str, str], dict]:
    return {(value["view"], value["measure"]): value for value in entry["values"]}


# Numbers --------------------------------------------------------------------------------------------------------------


def test_values_are_those_of_scikit_learn_and_gains_their_differences(finished):
    results, records = results_of(finished), json.loads((finished / "records.json").read_text())
    labels, rates = np.array(records["labels"]), np.array(records["heart_rates"])
    expected = {}
    for variant in results["variants"]:
        for view in TINY_EXPERIMENT.views:
            cells = [json.loads(cell_file(finished, variant["name"], seed).read_text()) for seed in (0, 1)]
            said = [cell["views"][view] for cell in cells]
            aurocs = [roc_auc_score(labels, np.array(one["scores"]), average="macro") for one in said]
            errors = [np.abs(rates - one["heart_rates"]).mean() for one in said]
            for measure, seeds in (("auroc", aurocs), ("heart_rate", errors)):
                value = values_in(variant)[view, measure]
                assert value["of_seeds"] == pytest.approx(seeds)
                assert value["value"] == pytest.approx(np.mean(seeds))
                assert value["low"] < value["value"] < value["high"]
                expected[variant["name"], view, measure] = np.array(seeds)
    for gain in results["gains"]:
        for (view, measure), value in values_in(gain).items():
            mine, theirs = (expected[gain[who], view, measure] for who in ("variant", "over"))
            assert value["of_seeds"] == pytest.approx((mine - theirs) * (1 if measure == "auroc" else -1))
            assert value["low"] <= value["value"] <= value["high"]


def test_results_say_what_was_run_on_what(finished):
    results = results_of(finished)
    assert results["command"] == "the command" and results["seeds"] == [0, 1]
    assert results["schema_version"] == 1 and results["versions"]["torch"] == torch.__version__
    assert results["records"]["trained_and_fitted"] + results["records"]["tested"] == 120
    random, usual, larger = results["variants"]
    assert all(run["steps"] == 3 and run["seconds"] > 0 and run["loss"] > 0 for run in usual["runs"] + larger["runs"])
    assert all("steps" not in run for run in random["runs"])
    assert larger["options"] == {"learning_rate": 0.01}


def test_models_of_an_experiments_own_go_through_the_training_loop(tmp_path, monkeypatch):
    made = {variant.make_model for experiment in EXPERIMENTS.values() for variant in experiment.variants}
    variants = [Variant(make.__name__, make_model=make) for make in sorted(made, key=lambda make: make.__name__)]
    assert len(variants) == 3  # the usual one, full attention, raw reconstruction
    monkeypatch.setitem(EXPERIMENTS, "models", dataclasses.replace(TINY_EXPERIMENT, variants=variants))
    ablate("models", options_for(tmp_path / "models"), [0], "the command")
    losses = [variant["runs"][0]["loss"] for variant in results_of(tmp_path / "models")["variants"]]
    assert np.isfinite(losses).all() and len(set(losses)) == 3


def test_the_table_and_the_plot_come_from_the_results_alone(finished, tmp_path):
    table = (finished / TABLE).read_text()
    for variant in results_of(finished)["variants"]:
        value = values_in(variant)["II", "auroc"]
        assert f"| {value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f}) ± " in table
    assert (finished / PLOT).read_bytes().startswith(b"\x89PNG")
    (tmp_path / RESULTS).write_text((finished / RESULTS).read_text())
    section, legend = table.strip().rsplit("\n\n", 1)
    page = tables([tmp_path])
    assert page.endswith(section) and legend in page


def test_a_gain_is_one_where_the_interval_leaves_out_0_and_all_seeds_agree():
    assert verdict({"low": 0.1, "high": 0.3, "of_seeds": [0.1, 0.3]}) == "better"
    assert verdict({"low": 0.1, "high": 0.3, "of_seeds": [-0.1, 0.5]}) == ""
    assert verdict({"low": -0.1, "high": 0.3, "of_seeds": [0.1, 0.2]}) == ""
    assert verdict({"low": 0.1, "high": 0.3, "of_seeds": [0.2]}) == ""  # one seed agrees with none
    assert verdict({"low": -0.3, "high": -0.1, "of_seeds": [-0.1, -0.2]}) == "worse"


def test_what_a_probe_sees_of_some_leads_is_what_the_model_makes_of_these_leads_alone(tmp_path):
    options = options_for(tmp_path)
    records = load_records(options, {})
    encoder = EcgJepaModel(options.model_config()).eval()
    signals = records.windows.__getitems__([0, 1])["input_values"]
    with torch.no_grad():
        expected = encoder(signals[:, [1, 3]], leads=["II", "V5"]).pooler_output
    assert np.allclose(embed(encoder, records, ["II", "V5"])[:2], expected.numpy(), atol=1e-6)
    with pytest.raises(EcgJepaConfigError, match="also needs V6"):
        embed(encoder, records, ["II", "V6"])


# Records --------------------------------------------------------------------------------------------------------------


def corpus_of(make_rows, folder: Path, labels: list[list[str]], patients: list[str]) -> CorpusChoice:
    """A prepared corpus of two classes."""
    rows = make_rows(len(labels)).remove_columns(["labels", "patient_id"])
    classes = datasets.List(datasets.ClassLabel(names=["normal", "ill"]))
    numbers = [[["normal", "ill"].index(name) for name in row] for row in labels]
    rows = rows.add_column("labels", numbers, feature=classes).add_column("patient_id", patients)
    rows.to_parquet(folder / "train-00000.parquet")
    return CorpusChoice("prepared", str(folder))


def test_no_patient_is_tested_that_was_trained_or_fitted_on(make_rows, tmp_path):
    patients = [f"patient {place // 2}" for place in range(200)]
    corpus = corpus_of(make_rows, tmp_path, [["ill"] if place % 3 else [] for place in range(200)], patients)
    records = load_records(dataclasses.replace(options_for(tmp_path), leads=None, corpus=[corpus]), {})
    tested = {records.patients[place] for place in records.of_fold(0)}
    assert len(tested) >= 20
    assert tested.isdisjoint(records.patients[place] for place in np.flatnonzero(records.folds != 0))
    told = truth(records)
    assert told["classes"] == ["ill"] and told["heart_rates"] is None
    assert told["tested"] == 2 * len(tested) and told["trained_and_fitted"] == 200 - 2 * len(tested)


def test_labels_that_hold_for_all_or_none_tell_nothing_apart(make_rows, tmp_path):
    corpus = corpus_of(make_rows, tmp_path, [["ill"]] * 160, [str(place) for place in range(160)])
    with pytest.raises(EcgJepaConfigError, match=r"each label \(normal, ill\) holds for all or for none"):
        load_records(dataclasses.replace(options_for(tmp_path), leads=None, corpus=[corpus]), {})


def test_a_corpus_too_small_to_be_divided_is_refused(tmp_path):
    with pytest.raises(EcgJepaConfigError, match=r"has 60 usable records, .* at least 20 patients.* --num_records"):
        load_records(dataclasses.replace(options_for(tmp_path), corpus=None, num_records=60), {})


def test_corpora_that_an_ablation_cannot_use_are_refused(tmp_path):
    options = dataclasses.replace(options_for(tmp_path), corpus=None)
    several = [CorpusChoice("ptb_xl"), CorpusChoice("code15")]
    for changes, synthetic, message in (
        ({"data_dir": ["somewhere"]}, {}, "names no corpus with labels"),
        ({"corpus": several}, {}, "on one corpus, not on 2"),
        ({"corpus": several[:1]}, {"snr_db": 5}, "makes its own records"),
    ):
        with pytest.raises(EcgJepaConfigError, match=message):
            load_records(dataclasses.replace(options, **changes), synthetic)


def test_variants_with_other_records_are_not_compared(tmp_path):
    first, more = Variant("first"), Variant("more", corpus={"records": 140})
    load = loader(dataclasses.replace(options_for(tmp_path), corpus=None, num_records=130), first)
    assert len(load(first).ids) == 130
    with pytest.raises(EcgJepaError, match="more: 140 records can be used, of first 130, so that nothing is paired"):
        load(more)


# The folder: what goes on, and what is refused ------------------------------------------------------------------------


def test_a_killed_ablation_goes_on_where_it_was_and_comes_to_the_same(finished, tmp_path):
    folder = tmp_path / "rate"
    script = (
        "import sys, pathlib; sys.path[:0] = ['tests/train']; import test_ablate as t; from train.ablate import *; "
        "EXPERIMENTS['rate'] = t.TINY_EXPERIMENT; ablate('rate', t.options_for(pathlib.Path(sys.argv[1])), [0, 1], '')"
    )
    run = subprocess.Popen([sys.executable, "-c", script, str(folder)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    first = cell_file(folder, "random weights", 0)
    while not first.exists() and run.poll() is None:
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL, run.stderr.read()
    assert not cell_file(folder, "larger", 1).exists()
    written = first.stat().st_mtime_ns
    ablate("rate", options_for(folder), [0, 1], "the command")
    assert first.stat().st_mtime_ns == written
    for once, again in zip(results_of(finished)["variants"], results_of(folder)["variants"], strict=True):
        assert once["values"] == again["values"]


def test_more_seeds_are_added_to_those_that_are_there(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "rate")
    files = {file: file.stat().st_mtime_ns for file in (folder / "cells").glob("*.json")}
    ablate("rate", options_for(folder), [0, 1, 2], "more")
    assert results_of(folder)["seeds"] == [0, 1, 2]
    assert {file: file.stat().st_mtime_ns for file in files} == files


def test_another_ablations_folder_is_refused_by_what_differs(finished, tmp_path):
    with pytest.raises(EcgJepaOutputError, match=r"max_steps was 3 and is 4\. .*--overwrite"):
        ablate("rate", options_for(finished, "--max_steps=4"), [0], "")
    with pytest.raises(EcgJepaOutputError, match="the experiment was 'rate' and is 'num_masks'"):
        ablate("num_masks", options_for(finished), [0], "")
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(EcgJepaOutputError, match=r"holds letters\.txt and no ablation"):
        ablate("rate", options_for(tmp_path), [0], "")


def test_another_definition_of_the_variants_is_another_ablation(finished, monkeypatch):
    changed = dataclasses.replace(TINY_EXPERIMENT, variants=TINY_EXPERIMENT.variants[:2])
    monkeypatch.setitem(EXPERIMENTS, "rate", changed)
    with pytest.raises(EcgJepaOutputError, match="the definition of its variants is another"):
        ablate("rate", options_for(finished), [0], "")


def test_overwrite_replaces_an_ablation_and_nothing_else(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "rate")
    (folder / "letters.txt").write_text("mine")
    ablate("rate", options_for(folder, "--overwrite", "--max_steps=2"), [3], "")
    assert results_of(folder)["options"]["max_steps"] == 2
    assert sorted(file.name for file in (folder / "cells").glob("*.json")) == [
        "larger-seed3.json",
        "random-weights-seed3.json",
        "usual-seed3.json",
    ]
    assert (folder / "letters.txt").read_text() == "mine"


def test_a_cell_that_fails_says_which(tmp_path):
    with pytest.raises(EcgJepaError, match=r"^usual, seed 0: .*batch_size=200 is more than"):
        ablate("rate", options_for(tmp_path / "rate", "--batch_size=200"), [0], "")


# Equal time -----------------------------------------------------------------------------------------------------------


def test_in_equal_time_more_masks_take_fewer_steps_with_as_much_shorter_a_warmup(tmp_path):
    options, experiment = options_for(tmp_path, "--max_steps=100", "--warmup_steps=20"), EXPERIMENTS["num_masks"]
    steps = equal_time(experiment, options, loader(options, experiment.variants[0]))
    assert steps["1 mask"] == 100 > steps["2 masks"] > steps["4 masks"] > 20
    four = options_of(experiment.variants[-1], options, 5, {"4 masks": 40})
    assert (four.seed, four.num_masks, four.max_steps, four.warmup_steps) == (5, 4, 40, 8)


# The command line and the definitions ---------------------------------------------------------------------------------


def test_the_nearest_name_is_given_where_there_is_no_such_experiment_or_option(capsys):
    assert main(["num-mask"]) == 2
    assert "Did you mean 'num_masks'?" in capsys.readouterr().err
    assert main(["num_masks", "--max_step", "3"]) == 2
    assert "Did you mean 'max_steps'?" in capsys.readouterr().err
    assert main(["num_masks", "--seed", "3"]) == 2
    assert "give --seeds" in capsys.readouterr().err


def test_dashes_are_as_good_as_underscores_and_a_preset_replaces_the_small_sizes():
    given, options = read_options(["num_masks", "--max-steps", "30", "--output-dir", "some-where", "--seeds", "4", "5"])
    assert (options.max_steps, options.output_dir, given.seeds) == (30, "some-where", [4, 5])
    assert options.hidden_size == 48
    assert read_options(["num_masks", "--preset", "small"])[1].model_config().hidden_size == 384
    tiny = str(ROOT / "train" / "recipes" / "tiny.yaml")
    assert read_options(["num_masks", "--config", tiny])[1].model_config().hidden_size == 192


def test_help_says_what_is_asked_and_what_was_published(capsys):
    with pytest.raises(SystemExit):
        main(["num_masks", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert EXPERIMENTS["num_masks"].question in printed and "arXiv 2212.07525" in printed
    assert "4 masks" in printed and "results.json" in printed


def test_tables_of_a_folder_without_results_are_refused(tmp_path, capsys):
    assert main(["tables", str(tmp_path)]) == 1
    assert f"Cannot read {tmp_path / RESULTS}" in capsys.readouterr().err


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_variant_is_a_run_and_is_compared_with_one_that_there_is(name):
    experiment, options = EXPERIMENTS[name], read_options([name])[1]
    names = [variant.name for variant in experiment.variants]
    assert len({cell_file(Path(), name, 0) for name in names}) == len(names)
    assert any(not variant.trained for variant in experiment.variants)
    for place, variant in enumerate(experiment.variants):
        options_of(variant, options, 0, {}).model_config()
        assert set(variant.against) <= set(names[:place])
        assert bool(variant.against) == variant.trained

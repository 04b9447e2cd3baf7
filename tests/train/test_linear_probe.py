"""Whole probes: what they leave and repeat, what they may look at, how an interrupted one goes on, what is refused."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from probe_corpus import CLASSES, make_rows, save_encoder, write_rows
from sklearn.metrics import roc_auc_score

from modeling_ecg_jepa import EcgJepaCheckpointError, EcgJepaConfigError, EcgJepaOutputError
from train import probe_methods
from train.baselines import NETWORK
from train.linear_probe import main, pretraining_of, probe
from train.options import PretrainOptions
from train.probe_options import ProbeOptions, read_probe_options
from train.probing import SETTINGS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def few_penalties():
    """What takes most of the time, cut down: test_probing.py tests the choice itself."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(SETTINGS, "C", (1e-3, 1e-1))
        patched.setitem(SETTINGS, "inner_splits", 2)
        yield


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return make_rows(per_fold=8)


@pytest.fixture(scope="module")
def setup(rows, tmp_path_factory) -> ProbeOptions:
    """Options of a small probe with everything but the network."""
    folder = tmp_path_factory.mktemp("setup")
    return ProbeOptions(
        models=[str(save_encoder(folder / "mine", seed=5))],
        corpus=write_rows(folder / "corpus", rows),
        output_dir=str(folder / "probe"),
        cache_dir=str(folder / "cache"),
        baselines=("random", "statistics"),
        seeds=(0, 1),
        resamples=200,
        cpu_threads=1,
    )


@pytest.fixture(scope="module")
def finished(setup) -> tuple[Path, dict]:
    """The folder of that probe, and what its probe.json holds."""
    probe(setup)
    folder = Path(setup.output_dir)
    return folder, json.loads((folder / "probe.json").read_text())


def cells_of(folder: Path) -> dict[str, dict]:
    return {
        str(file.relative_to(folder)): json.loads(file.read_text()) for file in sorted(folder.rglob("cells/*/*.json"))
    }


def method_named(table: dict, name: str) -> dict:
    return next(method for method in table["methods"] if method["name"] == name)


# What is left ---------------------------------------------------------------------------------------------------------


def test_every_method_stands_in_the_json_with_its_kind_and_seeds(finished):
    table = finished[1]["tables"][0]
    assert [(each["name"], each["kind"], [run["seed"] for run in each["runs"]]) for each in table["methods"]] == [
        ("mine, mean pool", "pretrained", [0]),
        ("random weights, mean pool", "random", [0, 1]),
        ("mine, lead pool", "pretrained", [0]),
        ("random weights, lead pool", "random", [0, 1]),
        ("statistics of each lead", "statistics", [0]),
    ]
    assert [(each["method"], each["minus"]) for each in table["differences"]] == [
        ("mine, mean pool", "random weights, mean pool"),
        ("mine, mean pool", "statistics of each lead"),
        ("mine, lead pool", "random weights, lead pool"),
        ("mine, lead pool", "statistics of each lead"),
    ]


def test_the_json_says_where_the_numbers_come_from(finished, rows, setup):
    results = finished[1]
    assert results["schema_version"] == 1 and results["seeds"] == [0, 1]
    assert {"torch", "scikit-learn", "ecg_jepa"} <= results["versions"].keys()
    assert results["records"] == 64 and results["records_of_known_patients"] == 32
    assert results["splits"]["records_by_fold"] == {str(fold): 8 for fold in range(1, 9)}
    by_class = {name: sum(name in row["labels"] for row in rows[:64]) for name in CLASSES}
    assert {label["name"]: label["records"] for label in results["labels"]} == by_class
    assert "has seen the records of folds 1-8" in results["leakage"] and "folds 9 and 10 not" in results["leakage"]
    assert results["models"][0]["pretraining"] is None and results["models"][0]["hidden_size"] == 16
    assert results["tables"][0]["resampled"] == "patients (16), and records where the patient is unknown (32)"


def test_a_model_tells_all_options_of_its_pretraining(tmp_path):
    options = dataclasses.asdict(PretrainOptions(max_steps=20, learning_rate=1e-3))
    state = {"schema_version": 1, "steps": 20, "records": 8, "seed": 0, "options": options}
    (tmp_path / "training_state.json").write_text(json.dumps(state))
    told = pretraining_of(tmp_path)
    assert told["options"] == options
    assert (told["steps"], told["records"], told["corpus"]) == (20, 8, None)


def test_numbers_are_scikit_learns_on_the_scores_of_the_cells(finished, rows):
    folder, results = finished
    cells = [cell for name, cell in cells_of(folder).items() if "statistics" in name]
    assert len(cells) == 8
    labels = {row["record_id"]: [name in row["labels"] for name in CLASSES] for row in rows}
    measures = method_named(results["tables"][0], "statistics of each lead")["measures"]
    ordered, total = np.zeros(2), np.zeros(2)
    for cell in cells:
        truth = np.array([labels[name] for name in cell["scores"]])
        scores = np.array(list(cell["scores"].values()))
        pairs = truth.sum(0) * (~truth).sum(0)
        for k in np.flatnonzero(pairs):
            ordered[k] += pairs[k] * roc_auc_score(truth[:, k], scores[:, k])
        total += pairs
    for k, name in enumerate(CLASSES):
        assert measures[f"auroc of {name}"]["value"] == pytest.approx(ordered[k] / total[k], abs=1e-4)
    assert measures["macro_auroc"]["value"] == pytest.approx((ordered / total).mean(), abs=1e-4)
    assert measures["auroc of LARGE"]["value"] > 0.9  # what three times the amplitude does to a standard deviation


def test_no_interval_leaves_what_a_share_can_be(finished):
    for method in finished[1]["tables"][0]["methods"]:
        for number in method["measures"].values():
            assert number["low"] >= 0 and number["high"] <= 1


def test_a_few_leads_give_tables_of_their_own_and_leave_the_cells_of_all_leads(setup, finished, tmp_path):
    folder = tmp_path / "probe"
    shutil.copytree(finished[0], folder)
    before = set(cells_of(folder))
    own = {"output_dir": str(folder), "cache_dir": str(tmp_path / "cache")}
    options = dataclasses.replace(setup, **own, leads=(None, ("II",)), recipe=True, pools=("mean",))
    results, _ = probe(options)
    assert [table["leads"] for table in results["tables"]] == [None, ("II",)]
    assert results["tables"][1]["title"].endswith("all labels, lead II alone")
    whole, alone = (method_named(table, "mine, mean pool")["measures"] for table in results["tables"])
    assert whole == method_named(finished[1]["tables"][0], "mine, mean pool")["measures"] != alone
    assert method_named(results["tables"][0], "mine, mean pool, authors' recipe")["kind"] == "pretrained"
    assert before < set(cells_of(folder))


def test_a_difference_is_that_of_the_two_numbers_with_an_interval_of_its_own(finished):
    table = finished[1]["tables"][0]
    for difference in table["differences"]:
        one, other = (method_named(table, difference[name])["measures"] for name in ("method", "minus"))
        assert {"macro_auroc", "macro_auroc_of_pooled_scores", "fold 1", "fold 8"} <= difference["measures"].keys()
        for name, number in difference["measures"].items():
            assert number["value"] == pytest.approx(one[name]["value"] - other[name]["value"], abs=2e-5)
            assert number["low"] <= number["value"] <= number["high"] or name.startswith("fold")


def test_a_method_of_several_seeds_is_their_mean(finished):
    method = method_named(finished[1]["tables"][0], "random weights, lead pool")
    of_seeds = [run["macro_auroc"] for run in method["runs"]]
    assert of_seeds[0] != of_seeds[1]
    assert method["measures"]["macro_auroc"]["value"] == pytest.approx(np.mean(of_seeds), abs=2e-5)


def test_the_tables_show_the_jsons_numbers_and_the_plot_is_there(finished):
    folder, results = finished
    text = (folder / "probe.md").read_text()
    for method in results["tables"][0]["methods"]:
        number = method["measures"]["macro_auroc"]
        shown = f"{number['value']:.3f} ({number['low']:.3f} to {number['high']:.3f})"
        assert f"| {method['name']} | {len(method['runs'])} | {shown} |" in text
    assert "| mine | 16 x 2 |" in text and "unknown" in text
    assert (folder / "probe.png").read_bytes()[:4] == b"\x89PNG"


# What may be looked at ------------------------------------------------------------------------------------------------


def test_cross_validation_never_scores_or_embeds_folds_9_and_10(finished, rows, setup):
    folder, _ = finished
    scored = {name for cell in cells_of(folder).values() for name in cell["scores"]}
    assert scored == {row["record_id"] for row in rows if row["fold"] <= 8}
    assert len(list(Path(setup.cache_dir).iterdir())) == 3 * 8  # three encoders, eight folds


def test_confirm_and_final_test_one_fold_and_fit_folds_1_to_8(setup, rows, tmp_path):
    options = dataclasses.replace(setup, evaluations=("confirm", "final"), output_dir=str(tmp_path), baselines=())
    results, _ = probe(options)
    assert [table["tested_folds"] for table in results["tables"]] == [[9], [10]]
    assert results["tables"][0]["title"] == "fitted on folds 1-8, tested on fold 9, all labels"
    for cell in cells_of(tmp_path).values():
        fold = {"confirm": 9, "final": 10}[cell["evaluation"]]
        assert set(cell["scores"]) == {row["record_id"] for row in rows if row["fold"] == fold}
        assert cell["fitted_records"] == 64
    measures = results["tables"][1]["methods"][0]["measures"]
    assert "macro_auroc_of_pooled_scores" not in measures and "fold 10" not in measures


def test_few_labels_are_the_same_few_for_all_methods(setup, tmp_path):
    options = dataclasses.replace(setup, train_fractions=(0.5,), output_dir=str(tmp_path), pools=("mean",))
    results, _ = probe(options)
    table = results["tables"][0]
    assert table["title"] == "cross-validation in folds 1-8, 0.5 of the labels"
    fitted = {
        method["name"]: [[cell["fitted_records"] for cell in run["cells"]] for run in method["runs"]]
        for method in table["methods"]
    }
    assert len(fitted["mine, mean pool"]) == 2  # a run for each draw
    assert fitted["mine, mean pool"] == fitted["statistics of each lead"] == fitted["random weights, mean pool"]
    assert all(20 <= count <= 36 for counts in fitted["mine, mean pool"] for count in counts)  # of 56


def test_layers_and_the_network_are_methods_too(setup, tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORK, "epochs", (1,))
    options = dataclasses.replace(
        setup,
        output_dir=str(tmp_path),
        baselines=("supervised",),
        pools=("mean",),
        layers=((-1,), (0, 1)),
        seeds=(0,),
        evaluations=("confirm",),
    )
    results, _ = probe(options)
    names = [method["name"] for method in results["tables"][0]["methods"]]
    assert names == ["mine, mean pool", "mine, mean pool, layer 0 + 1", "supervised network"]
    minus = [(each["method"], each["minus"]) for each in results["tables"][0]["differences"]]
    assert minus == [(name, "supervised network") for name in names[:2]]
    assert results["network"]["width"] == 16


# Interrupted, repeated, added to --------------------------------------------------------------------------------------


def test_an_interrupted_probe_goes_on_to_the_same_numbers(setup, finished, tmp_path, monkeypatch):
    options = dataclasses.replace(setup, output_dir=str(tmp_path))
    left, fit = iter(range(13)), probe_methods._probe

    def interrupted(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return fit(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(probe_methods, "_probe", interrupted)
        with pytest.raises(KeyboardInterrupt):
            probe(options)
    before = cells_of(tmp_path)
    times = {name: os.stat(tmp_path / name).st_mtime_ns for name in before}
    assert len(before) == 13 and not (tmp_path / "probe.json").exists()
    probe(options)
    assert {name: os.stat(tmp_path / name).st_mtime_ns for name in before} == times
    assert json.loads((tmp_path / "probe.json").read_text())["tables"] == finished[1]["tables"]


def test_a_repeated_probe_computes_nothing_and_another_model_joins(setup, finished, tmp_path, monkeypatch):
    folder = tmp_path / "probe"
    shutil.copytree(finished[0], folder)
    other = save_encoder(tmp_path / "other", seed=7)
    options = dataclasses.replace(setup, output_dir=str(folder))
    with monkeypatch.context() as patched:
        patched.setattr(probe_methods, "_probe", lambda *arguments: pytest.fail("computed again"))
        assert probe(options)[0]["tables"] == finished[1]["tables"]
    before = cells_of(folder)
    joined, _ = probe(dataclasses.replace(options, models=[*options.models, str(other)]))
    assert len(cells_of(folder)) == len(before) + 2 * 8
    table = joined["tables"][0]
    assert method_named(table, "mine, mean pool") == method_named(finished[1]["tables"][0], "mine, mean pool")
    assert ("other, mean pool", "mine, mean pool") in [(each["method"], each["minus"]) for each in table["differences"]]
    assert sum(method["kind"] == "random" for method in table["methods"]) == 2  # one shape, two pools


def test_new_weights_under_an_old_name_are_new_cells(setup, finished, tmp_path):
    folder = tmp_path / "probe"
    shutil.copytree(finished[0], folder)
    renewed = save_encoder(tmp_path / "mine", seed=9)
    results, _ = probe(dataclasses.replace(setup, models=[str(renewed)], output_dir=str(folder)))
    one, other = (method_named(each["tables"][0], "mine, mean pool") for each in (results, finished[1]))
    assert one["measures"]["macro_auroc"] != other["measures"]["macro_auroc"]


# Refusals -------------------------------------------------------------------------------------------------------------


def test_a_folder_with_something_else_is_refused_even_to_overwrite(setup, tmp_path):
    (tmp_path / "train_log.jsonl").write_text("{}")
    for overwrite in (False, True):
        options = dataclasses.replace(setup, output_dir=str(tmp_path), overwrite=overwrite)
        with pytest.raises(EcgJepaOutputError, match="holds train_log.jsonl, which no probe left"):
            probe(options)
    assert (tmp_path / "train_log.jsonl").exists()


def test_a_probe_of_other_labels_is_refused_and_replaced_if_told(setup, finished, tmp_path):
    folder = tmp_path / "probe"
    shutil.copytree(finished[0], folder)
    mark = json.loads((folder / "corpus.json").read_text())
    mark["corpus"]["label_set"] = "rhythm"
    (folder / "corpus.json").write_text(json.dumps(mark))
    options = dataclasses.replace(setup, output_dir=str(folder), pools=("mean",), baselines=())
    with pytest.raises(EcgJepaOutputError, match="another corpus or other labels. .* --overwrite"):
        probe(options)
    probe(dataclasses.replace(options, overwrite=True))
    assert len(cells_of(folder)) == 8


def test_a_damaged_cell_is_named(setup, finished, tmp_path):
    folder = tmp_path / "probe"
    shutil.copytree(finished[0], folder)
    cell = next(folder.rglob("cells/*/*.json"))
    for damage in (cell.read_text()[:50], "[]"):
        cell.write_text(damage)
        with pytest.raises(EcgJepaOutputError, match=f"{cell.name}.* Remove it"):
            probe(dataclasses.replace(setup, output_dir=str(folder)))


def test_models_of_two_grids_are_refused(setup, tmp_path):
    other = save_encoder(tmp_path / "other", leads=["I", "II", "V1"])
    with pytest.raises(
        EcgJepaCheckpointError, match=r"other has leads=\['I', 'II', 'V1'\], mine has .* another run|own"
    ):
        probe(dataclasses.replace(setup, models=[*setup.models, str(other)], output_dir=str(tmp_path / "probe")))


def test_a_folder_that_is_no_checkpoint_is_refused(setup, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    for name, named in (("empty", "config.json is missing"), ("bert", "a model of type 'bert'")):
        with pytest.raises(EcgJepaCheckpointError, match=named):
            probe(dataclasses.replace(setup, models=[str(tmp_path / name)], output_dir=str(tmp_path / "probe")))


def test_a_layer_that_is_not_there_is_refused_before_anything_is_computed(setup, tmp_path):
    options = dataclasses.replace(setup, layers=((5,),), output_dir=str(tmp_path))
    with pytest.raises(EcgJepaConfigError, match="--layer 5: mine has 2 layers"):
        probe(options)
    assert not cells_of(tmp_path)


def test_a_class_with_one_outcome_is_named_and_left_out(setup, rows, tmp_path):
    all_fast = [row | {"labels": sorted({*row["labels"], "FAST"})} for row in rows]
    corpus = write_rows(tmp_path / "corpus", all_fast)
    options = dataclasses.replace(setup, corpus=corpus, output_dir=str(tmp_path / "probe"), pools=("mean",))
    table = probe(options)[0]["tables"][0]
    assert table["undefined_classes"] == [{"name": "FAST", "positives": 64, "negatives": 0}]
    measures = method_named(table, "statistics of each lead")["measures"]
    assert measures["macro_auroc"]["value"] == measures["auroc of LARGE"]["value"]
    assert "auroc of FAST" not in measures
    assert "left out of the means: FAST (64 with, 0 without)" in (tmp_path / "probe" / "probe.md").read_text()


def test_no_class_with_both_outcomes_is_refused_before_anything_is_computed(setup, rows, tmp_path):
    corpus = write_rows(tmp_path / "corpus", [row | {"labels": ["FAST"]} for row in rows])
    with pytest.raises(EcgJepaConfigError, match=r"none of the classes has both .* \(FAST 64, LARGE 0\)"):
        probe(dataclasses.replace(setup, corpus=corpus, output_dir=str(tmp_path / "probe")))
    assert not cells_of(tmp_path)


def test_too_small_a_corpus_is_refused_before_anything_is_computed(setup, rows, tmp_path):
    corpus = write_rows(tmp_path / "corpus", rows[:16])
    with pytest.raises(EcgJepaConfigError, match="patients are left to fit on when fold 1 is tested"):
        probe(dataclasses.replace(setup, corpus=corpus, output_dir=str(tmp_path / "probe")))
    assert not cells_of(tmp_path)


# The command line -----------------------------------------------------------------------------------------------------


def test_options_are_read_with_dashes_and_underscores():
    options = read_probe_options(
        "a b --data-dir x --cross-validate --final --train_fraction 1 0.1 --pool lead --layer -1 2,4 --seeds 3".split()
    )
    assert options.models == ["a", "b"] and options.evaluations == ["cross_validate", "final"]
    assert options.corpus.name == "ptb_xl" and options.corpus.data_dir == "x"
    assert options.corpus.options == {"label_set": "superdiagnostic", "files": 100}
    assert options.train_fractions == [1.0, 0.1] and options.pools == ["lead"]
    assert options.layers == [(-1,), (2, 4)] and options.seeds == [3]
    assert read_probe_options(["a"]).evaluations == ["cross_validate"]


def test_a_corpus_may_be_a_mapping_with_options():
    corpus = read_probe_options(
        ["a", "--corpus", "{name: ptb_xl, data_dir: x, min_likelihood: 50}", "--files", "500"]
    ).corpus
    assert corpus.options == {"label_set": "superdiagnostic", "files": 500, "min_likelihood": 50}
    assert read_probe_options(["a", "--corpus", "prepared:y"]).corpus.options == {}
    assert read_probe_options(["a", "--label_set", "rhythm"]).corpus.options["label_set"] == "rhythm"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("a --train_fraction 0", "train_fraction=0.0 must be above 0"),
        ("a a", r"models=\['a', 'a'\] must name at least one, and none twice"),
        ("a --seeds 0 0", "seeds"),
        ("a --seeds -1", "seeds"),
        ("a --resamples 10", "resamples=10 is too few"),
        ("a --batch_size 0", "batch_size=0"),
        ("a --corpus ptb_xl:x --data_dir y", "name two folders"),
        ("a --corpus {data_dir:x}", "--corpus"),
    ],
)
def test_a_value_that_describes_no_probe_is_named(words, named, capsys):
    with pytest.raises(EcgJepaConfigError, match=named):
        read_probe_options(words.split())
    assert main(words.split()) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_command_prints_its_tables_and_leaves_them(setup, rows, tmp_path):
    """In a process of its own, as the README says."""
    words = [*setup.models, "--corpus", f"prepared:{setup.corpus.data_dir}", "--output-dir", str(tmp_path / "probe")]
    words += ["--cache_dir", setup.cache_dir, "--pool", "mean", "--baselines", "statistics", "--cpu_threads", "1"]
    command = [sys.executable, "-m", "train.linear_probe"]
    done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        (tmp_path / "probe" / "probe.md").read_text()
        + f"\nThese tables are in {tmp_path}/probe/probe.md, all numbers in {tmp_path}/probe/probe.json, a plot in "
        f"{tmp_path}/probe/probe.png.\n"
    )
    assert "| mine, mean pool |" in done.stdout and "cells: 100%" in done.stderr
    assert json.loads((tmp_path / "probe" / "probe.json").read_text())["command"].endswith("--cpu_threads 1")


def test_an_error_is_one_line_and_exit_code_1(setup, tmp_path, capsys):
    assert main([*setup.models, "--corpus", "prepared:nowhere", "--output_dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: No Parquet files in nowhere")


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as ended:
        read_probe_options(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0 and "%" not in text.replace("95%", "")
    for field in ("--cross_validate", "--confirm", "--final", "--train_fraction", "--pool", "--layer", "--baselines"):
        assert field in text
    assert "once, for the report" in text and "Exit codes: 0 good, 1 error, 2 usage, 3" in text


# Real records ---------------------------------------------------------------------------------------------------------


def test_records_of_ptb_xl_that_are_not_there_are_counted(setup, shared_ecg, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    words = [*setup.models, "--data_dir", str(shared_ecg / "ptb-xl"), "--output_dir", str(tmp_path / "probe")]
    code = main([*words, "--pool", "mean", "--baselines", "statistics", "--resamples", "100", "--cpu_threads", "1"])
    assert code == 3
    said = capsys.readouterr()
    assert "3 records were left out" in said.err and "header missing" in said.err
    results = json.loads((tmp_path / "probe" / "probe.json").read_text())
    assert [label["name"] for label in results["labels"]] == ["CD", "HYP", "MI", "NORM", "STTC"]
    pairs = {(pair["record"], pair["same_signal_as"]) for pair in results["exclusions"]}
    assert ("145", "463") in pairs or ("463", "145") in pairs  # under two patients' ids, in folds 3 and 1

"""Whole benchmarks: what they leave, how a killed one goes on, what a failed cell does, what is never looked at."""

import dataclasses
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probe_corpus import CLASSES, make_rows, save_encoder, write_rows
from sklearn.metrics import roc_auc_score

from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaOutputError
from modeling_ecg_jepa.tools.card import write_model_card
from train import benchmark_cells, probe_methods
from train.baselines import NETWORK
from train.benchmark import benchmark, main, write_report
from train.benchmark_suites import SUITES, BenchmarkOptions, Suite, read_benchmark_options
from train.probing import SETTINGS

ROOT = Path(__file__).resolve().parents[2]

SMALL = Suite(
    meaning="everything once, for tests",
    seeds=(0,),
    fractions=(0.5,),
    leads=(("II",),),
    pools=("mean",),
    finetune={"num_train_epochs": 1.0, "warmup_epochs": 0.0},
    networks=False,
    delineation=False,
    synthetic=60,
)


@pytest.fixture(scope="module", autouse=True)
def little_to_choose():
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(SETTINGS, "C", (1e-3, 1e-1))
        patched.setitem(SETTINGS, "inner_splits", 2)
        patched.setitem(NETWORK, "epochs", (1,))
        yield


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    ages = np.random.default_rng(0).integers(20, 95, 400)
    rows = make_rows(per_fold=8, folds=range(1, 9))
    rows += [row | {"record_id": f"t{place}", "fold": 9 + place // 48} for place, row in enumerate(_others(96))]
    return [row | {"age": float(ages[k]), "sex": "female" if k % 2 else "male"} for k, row in enumerate(rows)]


def _others(count: int) -> list[dict]:
    """Records that no other is a copy of: of unknown patients, from further on in the synthetic corpus."""
    return [row | {"patient_id": None} for row in make_rows(per_fold=64 + count, folds=(9,))[64:]]


@pytest.fixture(scope="module")
def setup(rows, tmp_path_factory) -> BenchmarkOptions:
    folder = tmp_path_factory.mktemp("setup")
    return BenchmarkOptions(
        model=str(save_encoder(folder / "mine", seed=5)),
        corpus=write_rows(folder / "corpus", rows),
        other_corpus=write_rows(folder / "other", [row | {"fold": 1} for row in _others(140)[96:]]),
        suite=SMALL,
        output_dir=str(folder / "out"),
        subgroups=("age", "sex"),
        resamples=100,
        cpu_threads=1,
    )


@pytest.fixture(scope="module")
def finished(setup) -> tuple[Path, dict]:
    benchmark(setup)
    folder = Path(setup.output_dir)
    return folder, json.loads((folder / "results.json").read_text())


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_times(item) for name, item in value.items() if name != "seconds"}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def method_named(table: dict, name: str) -> dict:
    return next(method for method in table["methods"] if method["name"] == name)


# What is left ---------------------------------------------------------------------------------------------------------


def test_every_part_of_the_suite_is_a_table(finished):
    titles = [table["title"] for table in finished[1]["tables"]]
    assert titles == [
        "fitted on folds 1-8, tested on fold 9, all labels",
        "fitted on folds 1-8, tested on fold 9, 0.5 of the labels",
        "fitted on folds 1-8, tested on fold 9, all labels, lead II alone",
        "fitted on folds 1-8, tested on prepared, all labels",
    ]
    assert finished[1]["measurements"]["measurements"][0]["name"] == "heart_rate"
    assert {cell["status"] for cell in finished[1]["cells"]} == {"done"}
    assert all(cell["seconds"] > 0 for cell in finished[1]["cells"])


def test_fine_tuning_stands_beside_probes_and_baselines_with_paired_differences(finished):
    table = finished[1]["tables"][0]
    assert [method["name"] for method in table["methods"]] == [
        "mine, mean pool",
        "random weights, mean pool",
        "mine, mean pool, authors' recipe",
        "random weights, mean pool, authors' recipe",
        "statistics of each lead",
        "supervised network",
        "mine, fine-tuned",
    ]
    minus = {(each["method"], each["minus"]) for each in table["differences"]}
    assert {("mine, fine-tuned", "supervised network"), ("mine, mean pool", "random weights, mean pool")} <= minus
    assert ("mine, fine-tuned", "random weights, mean pool") not in minus


def test_few_labels_are_three_draws(finished):
    table = finished[1]["tables"][1]
    assert all(len(method["runs"]) == 3 for method in table["methods"])
    assert "supervised network" not in [method["name"] for method in table["methods"]]


def test_the_test_fold_is_read_only_when_told(finished, setup, tmp_path):
    scored = {name for file in finished[0].rglob("cells/*/*.json") for name in json.loads(file.read_text())["scores"]}
    assert "t0" in scored and "t48" not in scored
    assert finished[1]["splits"]["records_by_fold"].keys() == {str(fold) for fold in range(1, 10)}
    assert (
        "fold 10 was not read" in finished[1]["tested"]
        and "fold 10 was not read" in (finished[0] / "tables.md").read_text()
    )
    with pytest.raises(EcgJepaOutputError, match="another model, corpus or test fold"):
        benchmark(dataclasses.replace(setup, final=True))


def test_groups_are_counted_and_are_scikit_learns_numbers(finished, rows):
    table = finished[1]["tables"][0]
    tested = [row for row in rows if row["fold"] == 9]
    of_sex = {group["group"]: group for group in table["subgroups"] if group["by"] == "sex"}
    assert {name: group["records"] for name, group in of_sex.items()} == {"female": 24, "male": 24}
    assert sum(group["records"] for group in table["subgroups"] if group["by"] == "age") == 48
    cell = next(json.loads(file.read_text()) for file in finished[0].glob("cells/statistics*/confirm-1-*.json"))
    women = [row for row in tested if row["sex"] == "female"]
    truth = np.array([[name in row["labels"] for name in CLASSES] for row in women])
    scores = np.array([cell["scores"][row["record_id"]] for row in women])
    number = method_named(of_sex["female"], "statistics of each lead")["measures"]["macro_auroc"]
    assert number["value"] == pytest.approx(roc_auc_score(truth, scores, average="macro"), abs=1e-5)
    assert number["low"] <= number["value"] <= number["high"]


def test_a_class_that_a_group_has_not_is_named_with_its_count(finished):
    text = (finished[0] / "tables.md").read_text()
    for group in finished[1]["tables"][0]["subgroups"]:
        for each in group["undefined_classes"]:
            assert f"{each['name']} ({each['positives']} of {group['records']})" in text


def test_tables_and_plots_come_from_the_json_alone(finished, tmp_path):
    folder, results = finished
    shutil.copy(folder / "results.json", tmp_path)
    write_report(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    plots = {"all_labels.png", "few_labels.png", "few_leads.png", "other_corpus.png", "subgroups.png"}
    assert plots | {"measurements.png", "tables.md", "tables.tex", "results.json"} == left
    for name in ("tables.md", "tables.tex"):
        assert (tmp_path / name).read_text() == (folder / name).read_text()
    number = method_named(results["tables"][0], "mine, fine-tuned")["measures"]["macro_auroc"]
    shown = f"{number['value']:.3f} ({number['low']:.3f} to {number['high']:.3f})"
    assert all(shown in (folder / name).read_text() for name in ("tables.md", "tables.tex"))


def test_the_json_says_where_the_numbers_come_from(finished, setup):
    results = finished[1]
    assert results["schema_version"] == 1 and results["kind"] == "benchmark"
    assert {"versions", "hardware", "commit", "command", "seeds", "exclusions", "leakage", "splits"} <= results.keys()
    assert results["leakage_check"]["recordings_searched"] == results["records"] + len(results["exclusions"])
    assert results["other_corpus"]["splits"]["sha256"] != results["splits"]["sha256"]


def test_the_card_takes_the_numbers_and_the_groups(finished, setup):
    card = write_model_card(setup.model, [finished[0] / "results.json"])
    text = card.read_text()
    for name in ("mine, mean pool", "mine, fine-tuned"):
        number = method_named(finished[1]["tables"][0], name)["measures"]["macro_auroc"]
        assert f"{number['value']:.3f} ({number['low']:.3f} to {number['high']:.3f})" in text
    assert "| sex | female | 24 |" in text and "results here are not told by age" not in text


# Killed, repeated, failed ---------------------------------------------------------------------------------------------


def test_a_benchmark_killed_half_way_goes_on_to_the_same_json(finished, setup, tmp_path, monkeypatch):
    """By a signal that nothing can catch, in a process of its own, as soon as some cells are there."""
    options = dataclasses.replace(setup, output_dir=str(tmp_path / "out"))
    script = tmp_path / "run.py"
    script.write_text(
        "import pickle, sys\n"
        "from train.baselines import NETWORK\nfrom train.probing import SETTINGS\n"
        "from train.benchmark import benchmark\n"
        "if __name__ == '__main__':\n"
        "    SETTINGS |= {'C': (1e-3, 1e-1), 'inner_splits': 2}\n    NETWORK['epochs'] = (1,)\n"
        "    benchmark(pickle.load(open(sys.argv[1], 'rb')))\n"
    )
    (tmp_path / "options").write_bytes(pickle.dumps(options))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, script, tmp_path / "options"], env=environment, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    cells, until = [], time.monotonic() + 300
    while len(cells) < 4 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
        cells = list(tmp_path.rglob("cells/*/*.json"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert cells and not (tmp_path / "out" / "results.json").exists()
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("cells/*/*.json")}
    benchmark(options)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    ours = without_times(json.loads((tmp_path / "out" / "results.json").read_text()))
    theirs = without_times(finished[1])
    for results in (ours, theirs):
        results.pop("hardware"), results.pop("command"), results.pop("commit")
    assert ours == theirs


def test_a_repeated_benchmark_computes_nothing(finished, setup, monkeypatch):
    monkeypatch.setattr(probe_methods, "_probe", lambda *arguments: pytest.fail("computed again"))
    monkeypatch.setattr(benchmark_cells.measure, "run", lambda *arguments: pytest.fail("measured again"))
    assert without_times(benchmark(setup)[0]["tables"]) == without_times(finished[1]["tables"])


def test_a_cell_that_fails_is_named_and_the_rest_goes_on(finished, setup, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "out"
    shutil.copytree(finished[0], folder)
    for file in folder.glob("cells/statistics*/*.json"):
        file.unlink()
    fit = probe_methods._probe

    def broken(features, records, part, seed):
        if part.fitted.size < 60:
            raise RuntimeError("no memory | left")
        return fit(features, records, part, seed)

    monkeypatch.setattr(probe_methods, "_probe", broken)
    results, _ = benchmark(dataclasses.replace(setup, output_dir=str(folder)))
    failed = [cell for cell in results["cells"] if cell["status"] == "failed"]
    assert {cell["method"] for cell in failed} == {"statistics of each lead"} and len(failed) == 3
    assert failed[0]["message"] == "RuntimeError: no memory | left"
    text = (folder / "tables.md").read_text()
    assert f"## Failed: 3 of {len(results['cells'])} cells" in text and "no memory / left" in text
    names = [[method["name"] for method in table["methods"]] for table in results["tables"]]
    assert "statistics of each lead" in names[0] and "statistics of each lead" not in names[1]


def test_too_few_labels_for_a_table_leave_the_others(setup, tmp_path):
    suite = dataclasses.replace(SMALL, fractions=(0.02,), leads=(), finetune=SMALL.finetune)
    options = dataclasses.replace(setup, suite=suite, output_dir=str(tmp_path / "out"), other_corpus=None)
    results, _ = benchmark(options)
    failed = [cell for cell in results["cells"] if cell["status"] == "failed"]
    assert len(failed) == 1 and "patients are left to fit on" in failed[0]["message"]
    assert [table["fraction"] for table in results["tables"]] == [1.0]


def test_several_processes_give_the_same_numbers(finished, setup, tmp_path):
    """Of what does not follow from what this test run has cut down: the workers know nothing of that."""
    suite = dataclasses.replace(SMALL, leads=(), fractions=(), synthetic=40)
    options = dataclasses.replace(
        setup, suite=suite, output_dir=str(tmp_path / "out"), other_corpus=None, processes=2, subgroups=()
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(SETTINGS, "C", (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0))
        patched.setitem(SETTINGS, "inner_splits", 4)
        patched.setitem(NETWORK, "epochs", (6, 12, 24, 48))
        results, _ = benchmark(options)
    ours, theirs = results["tables"][0], finished[1]["tables"][0]
    assert {cell["status"] for cell in results["cells"]} == {"done"}
    for name in ("mine, mean pool, authors' recipe", "mine, fine-tuned"):
        assert method_named(ours, name)["measures"] == method_named(theirs, name)["measures"]


# Refusals and the command line ----------------------------------------------------------------------------------------


def test_a_folder_with_something_else_is_refused_even_to_overwrite(setup, tmp_path):
    (tmp_path / "probe.json").write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(EcgJepaOutputError, match="holds probe.json, which no benchmark left"):
            benchmark(dataclasses.replace(setup, output_dir=str(tmp_path), overwrite=overwrite))


def test_a_column_that_the_corpus_lacks_is_refused_with_those_that_it_has(setup, tmp_path):
    with pytest.raises(EcgJepaConfigError, match="tells no 'device' .* it has age, sex"):
        benchmark(dataclasses.replace(setup, output_dir=str(tmp_path / "out"), subgroups=("device",)))


def test_options_are_read_with_dashes_and_underscores():
    options = read_benchmark_options(
        "m --suite paper --data-dir x --final --ludb_dir y --other-corpus cpsc2018:z --subgroups age --seeds 4".split()
    )
    assert options.corpus.options == {"label_set": "superdiagnostic", "files": 100} and options.final
    assert options.suite == dataclasses.replace(SUITES["paper"], seeds=[4])
    assert options.other_corpus.data_dir == "z" and options.evaluation == "final"
    assert not read_benchmark_options(["m"]).final and read_benchmark_options(["m"]).suite == SUITES["quick"]


@pytest.mark.parametrize(
    ("words", "named"),
    [("m --resamples 10", "resamples=10"), ("m --processes 0", "processes=0"), ("m --seeds 1 1", "seeds")],
)
def test_a_value_that_describes_no_benchmark_is_named(words, named, capsys):
    assert main(words.split()) == 2
    assert named in capsys.readouterr().err

"""`ecg-jepa predict` writes what the pipeline says, of every record that can be used, and lists the others."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline
from typer.testing import CliRunner

from modeling_ecg_jepa import (
    EcgJepaCheckpointError,
    EcgJepaConfig,
    EcgJepaForMultiLabelClassification,
    EcgJepaForRegression,
    EcgJepaInputError,
    EcgJepaOutputError,
    EcgJepaRecordError,
)
from modeling_ecg_jepa.tools.cli import app
from modeling_ecg_jepa.tools.predict import NOT_A_DEVICE, load_pipeline, predict

LABELS = {0: "NORM", 1: "MI", 2: "CD"}
TARGETS = [{"name": "heart rate", "unit": "bpm", "mean": 70.0, "scale": 15.0}]
# One layer, and settings with which records differ also under random weights.
SMALL = {"num_hidden_layers": 1, "patch_initializer_range": 0.4, "position_scale": 0.2}
NAMES = ["ptb-xl/00001_hr", "ptb-xl/00002_hr"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "labels"
    torch.manual_seed(0)
    config = EcgJepaConfig.from_preset("tiny", id2label=LABELS, thresholds=[0.2, 0.99, 0.2], **SMALL)
    EcgJepaForMultiLabelClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def regressor(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "measurements"
    torch.manual_seed(0)
    config = EcgJepaConfig.from_preset("tiny", regression_targets=TARGETS, **SMALL)
    EcgJepaForRegression(config).save_pretrained(folder)
    return folder


@pytest.fixture
def with_faults(records, tmp_path) -> Path:
    """The two records, one that breaks off, and one of two leads that the model does not have enough of."""
    folder = Path(shutil.copytree(records, tmp_path / "records"))
    for suffix in (".hea", ".dat"):
        shutil.copy(folder / f"ptb-xl/00001_hr{suffix}", folder / f"broken{suffix}")
    header = (folder / "broken.hea").read_text().replace("00001_hr", "broken")
    (folder / "broken.hea").write_text(header)
    (folder / "broken.dat").write_bytes((folder / "broken.dat").read_bytes()[:1000])
    np.zeros((1000, 1), dtype="<i2").tofile(folder / "flat.dat")
    (folder / "flat.hea").write_text("flat 1 500 1000\nflat.dat 16 1000/mV 16 0 0 0 0 II\n")
    return folder


def run(*arguments, expect: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == expect, result.output
    return result.output


def scores_of(result: dict) -> dict[str, float]:
    return {each["label"]: each["score"] for each in result["labels"]}


def test_json_holds_what_the_pipeline_says(classifier, records, tmp_path):
    summary = predict([records], classifier, tmp_path / "out.json", device="cpu", window_seconds=5, batch_size=3)
    assert (summary.records, summary.left_out) == (2, ())
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["schema_version"], written["note"], written["left_out"]) == (1, NOT_A_DEVICE, [])
    assert [record["record"] for record in written["records"]] == NAMES
    pipe = pipeline("ecg-classification", model=classifier, device="cpu")
    for record in written["records"]:
        expected = pipe(records / record["record"], window_seconds=5)
        assert scores_of(record) == pytest.approx(scores_of(expected), abs=1e-5)
        assert [window["end_s"] for window in record["windows"]] == [5, 10]
        for window, other in zip(record["windows"], expected["windows"], strict=True):
            assert scores_of(window) == pytest.approx(scores_of(other), abs=1e-5)


def test_csv_holds_a_row_for_each_record(classifier, regressor, records, tmp_path):
    predict([records], classifier, tmp_path / "out.csv", device="cpu")
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["record"] for row in rows] == NAMES
    pipe = pipeline("ecg-classification", model=classifier, device="cpu")
    for row in rows:
        scores = scores_of(pipe(records / row["record"]))
        assert {label: float(row[f"score {label}"]) for label in scores} == pytest.approx(scores, abs=1e-5)
        assert set(row["labels"].split(";")) == {"NORM", "CD"}
        assert (row["start_s"], row["end_s"], row["windows"]) == ("0.0", "10.0", "1")

    predict([records], regressor, tmp_path / "out.csv", device="cpu")  # which replaces it
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    pipe = pipeline("ecg-measurement", model=regressor, device="cpu")
    expected = [pipe(records / name)["measurements"][0]["value"] for name in NAMES]
    assert [float(row["heart rate (bpm)"]) for row in rows] == pytest.approx(expected, abs=1e-3)


def test_the_command_prints_a_table_and_lists_what_it_left_out(classifier, with_faults, tmp_path):
    output = tmp_path / "out.json"
    text = run(
        "predict", with_faults, "nowhere", "--model", classifier, "--output", output, "--device", "cpu", expect=3
    )
    assert re.search(r"ptb-xl/00001_hr +0-10  (NORM|CD) 0\.\d\d, (NORM|CD) 0\.\d\d\n", text)
    assert NOT_A_DEVICE in text
    assert "2 records" in text and "3 left out:" in text
    assert "1 x signal file truncated" in text and "No usable lead" in text and "No WFDB header for nowhere" in text
    written = json.loads(output.read_text())
    assert [record["record"] for record in written["records"]] == NAMES
    assert [record["place"] for record in written["left_out"]] == ["nowhere", "broken", "flat"]


def test_the_command_without_a_file_prints_measurements(regressor, records):
    text = run("predict", records, "--model", regressor, "--device", "cpu", "--no-progress")
    assert re.search(r"ptb-xl/00002_hr +0-10  heart rate [\d.]+ bpm\n", text)
    assert "left out" not in text


def test_a_window_that_cannot_be_used_is_listed(classifier, records, tmp_path):
    header = (records / "ptb-xl/00001_hr.hea").read_text().splitlines()
    signal = np.fromfile(records / "ptb-xl/00001_hr.dat", dtype="<i2").reshape(-1, 12)
    np.concatenate([signal, np.zeros_like(signal)]).tofile(tmp_path / "long.dat")
    lines = ["long 12 500 10000"] + [line.replace("00001_hr", "long") for line in header[1:13]]
    (tmp_path / "long.hea").write_text("\n".join(lines) + "\n")
    shown: list[str] = []
    summary = predict([tmp_path / "long"], classifier, device="cpu", window_seconds=10, show=shown.append)
    assert (summary.records, len(summary.left_out)) == (1, 1)
    assert summary.left_out[0].place == "long, 10 to 20 s"
    assert shown[1].split()[:2] == ["long", "0-10"]


def test_where_nothing_can_be_predicted_nothing_is_written(classifier, with_faults, tmp_path):
    output = tmp_path / "out.csv"
    with pytest.raises(EcgJepaRecordError, match="Nothing could be said of any record"):
        predict([with_faults / "flat", with_faults / "broken"], classifier, output, device="cpu")
    assert not output.exists()
    assert "Error: Nothing could be said" in run("predict", "nowhere", "--model", classifier, expect=1)


def test_what_cannot_be_is_refused_with_a_remedy(classifier, random_model, records, prepared_corpus, tmp_path):
    with pytest.raises(EcgJepaOutputError, match=r"written as \.json or \.csv"):
        predict([records], classifier, tmp_path / "out.xlsx")
    with pytest.raises(EcgJepaCheckpointError, match="made of EcgJepaModel, which has no head"):
        predict([records], random_model)
    with pytest.raises(EcgJepaInputError, match="A prepared corpus is not read here"):
        predict([prepared_corpus], classifier)
    assert "aggregation='median' must be one of" in run(
        "predict", records, "--model", classifier, "--aggregation", "median", expect=1
    )
    assert "needs --window-seconds" in run("predict", records, "--model", classifier, "--stride-seconds", 5, expect=2)


def test_weights_without_the_head_that_the_configuration_names_are_refused(random_model, tmp_path):
    folder = Path(shutil.copytree(random_model, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["EcgJepaForMultiLabelClassification"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EcgJepaCheckpointError, match="lack classifier.bias, classifier.weight"):
        load_pipeline(folder, "cpu")


def test_every_readable_record_of_the_shared_corpora_gets_a_prediction(classifier, shared_ecg, tmp_path):
    folder = shared_ecg / "georgia"
    predict([folder], classifier, tmp_path / "out.csv", device="cpu")
    headers = sorted(path.stem for path in folder.rglob("*.hea"))
    with open(tmp_path / "out.csv", newline="") as file:
        assert [row["record"] for row in csv.DictReader(file)] == headers

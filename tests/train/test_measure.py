"""Whole runs of measurements: what they leave and repeat, the model they save, and what is refused."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import wfdb
from probe_corpus import save_encoder
from scipy.stats import pearsonr

from dataset_scripts.synthesis import synthesize_record
from modeling_ecg_jepa import (
    EcgJepaCheckpointError,
    EcgJepaConfigError,
    EcgJepaFeatureExtractor,
    EcgJepaForRegression,
    EcgJepaOutputError,
)
from modeling_ecg_jepa.tools.verify import verify
from train import delineation, measure_delineator, measure_results
from train.measure import main, run
from train.measure_fit import SETTINGS
from train.measure_options import MeasureOptions, read_measure_options
from train.measure_truth import MEASUREMENTS
from train.options import CorpusChoice

LEADS = ["I", "II"]
HEADER = (
    "ID,Sex,Age,Rhythms,Electric axis of the heart,Conduction abnormalities,Extrasystolies,Hypertrophies,"
    "Cardiac pacing,Ischemia,Non-specific repolarization abnormalities,Other states\n"
)


def write_ludb(folder: Path, records: int) -> Path:
    """LUDB's layout in leads I, II and aVF: synthetic hearts in sinus rhythm, whose known boundaries are the marks of
    every beat but the first and the last."""
    (folder / "data").mkdir(parents=True)
    rows = []
    for index in range(records):
        record, made = synthesize_record(11, index, 500, 10, ("sinus_rhythm",), 30.0)
        rows.append(f"{index + 1},F,50,Sinus rhythm,Electric axis of the heart: normal,,,,,,,\n")
        signal = np.stack([record.signal[record.lead_names.index(lead)] for lead in (*LEADS, "aVF")], axis=1)
        wfdb.wrsamp(
            str(index + 1),
            fs=500,
            units=["mV"] * 3,
            sig_name=["i", "ii", "avf"],
            p_signal=signal.astype(float),
            fmt=["16"] * 3,
            adc_gain=[1000.0] * 3,
            baseline=[0] * 3,
            write_dir=str(folder / "data"),
        )
        for lead in ("i", "ii", "avf"):
            symbols, samples = _marks(made)
            wfdb.wrann(str(index + 1), lead, samples, symbols, write_dir=str(folder / "data"))
    (folder / "ludb.csv").write_text(HEADER + "".join(rows))
    return folder


def _marks(made) -> tuple[list[str], np.ndarray]:
    symbols, seconds = [], []
    beats = list(zip(made.r_peaks, made.qrs_onsets, made.qrs_ends, made.t_ends, strict=True))
    for peak, onset, end, t_end in beats[1:-1]:
        p = onset - made.pr_ms / 1000
        symbols += ["(", "p", ")", "(", "N", ")", "(", "t", ")"]
        seconds += [p, p + 0.03, p + 0.06, onset, peak, end, t_end - 0.15, t_end - 0.08, t_end]
    return symbols, np.round(np.array(seconds) * 500).astype(int)


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(SETTINGS, "penalties", [0.1, 10.0, 1000.0])
        patched.setitem(delineation.SETTINGS, "epochs", 6)
        patched.setitem(delineation.SETTINGS, "batch_size", 128)
        yield


@pytest.fixture(scope="module")
def setup(tmp_path_factory) -> MeasureOptions:
    folder = tmp_path_factory.mktemp("measure")
    return MeasureOptions(
        models=[str(save_encoder(folder / "mine", seed=5, leads=LEADS))],
        corpus=CorpusChoice("ludb", str(write_ludb(folder / "ludb", 24))),
        output_dir=str(folder / "out"),
        folds=3,
        seeds=(0, 1),
        resamples=100,
        save=str(folder / "saved"),
        cpu_threads=1,
    )


@pytest.fixture(scope="module")
def finished(setup) -> tuple[Path, dict]:
    run(setup)
    folder = Path(setup.output_dir)
    return folder, json.loads((folder / "results.json").read_text())


# What is left ---------------------------------------------------------------------------------------------------------


def test_every_measurement_has_every_method_with_interval_and_differences(finished):
    _, results = finished
    assert [table["name"] for table in results["measurements"]] == list(MEASUREMENTS)
    for table in results["measurements"]:
        assert [(each["name"], each["seeds"]) for each in table["methods"]] == [
            ("mine, mean pool", [0]),
            ("mine, lead pool", [0]),
            ("random weights, mean pool", [0, 1]),
            ("random weights, lead pool", [0, 1]),
            ("mean of the other folds", []),
        ]
        for method in table["methods"]:
            error = method["measures"]["mae"]
            assert error["low"] <= error["value"] <= error["high"]
        assert [(each["method"], each["beside"]) for each in table["differences"]] == [
            ("mine, mean pool", "random weights, mean pool"),
            ("mine, mean pool", "mean of the other folds"),
            ("mine, lead pool", "random weights, lead pool"),
            ("mine, lead pool", "mean of the other folds"),
        ]


def test_errors_and_correlations_follow_from_the_predictions(finished):
    _, results = finished
    table = results["measurements"][0]
    truth, method = np.array(table["truth"]), table["methods"][1]
    predictions = np.array(method["predictions"])
    assert method["measures"]["mae"]["value"] == pytest.approx(np.abs(predictions - truth).mean(), abs=1e-3)
    assert method["measures"]["correlation"]["value"] == pytest.approx(pearsonr(truth, predictions).statistic, abs=1e-3)
    less = table["differences"][2]["mae_less"]["value"]
    assert less == pytest.approx(
        table["methods"][3]["measures"]["mae"]["value"] - method["measures"]["mae"]["value"], abs=1e-4
    )


def test_the_truth_is_that_of_the_marks(finished):
    _, results = finished
    for index in range(3):
        _, made = synthesize_record(11, index, 500, 10, ("sinus_rhythm",), 30.0)
        known = {"pr_interval": made.pr_ms, "qrs_duration": made.qrs_ms, "qt_interval": made.qt_ms}
        for table in results["measurements"]:
            if table["name"] in known:
                place = table["records"].index(str(index + 1))
                assert table["truth"][place] == pytest.approx(known[table["name"]], abs=4)


def test_where_the_numbers_come_from_is_told(finished):
    _, results = finished
    assert results["schema_version"] == 1 and results["records"] == 24
    assert results["splits"]["records_by_fold"] == {"fold 0": 8, "fold 1": 8, "fold 2": 8}
    assert len(results["splits"]["sha256"]) == 64 and results["truth"]["source"] == "boundaries"
    assert {"scikit-learn", "torch", "numpy"} <= results["versions"].keys() and "neurokit2" not in results["versions"]


def test_boundaries_are_found_and_counted(finished):
    _, results = finished
    table = results["delineation"]
    assert table["leads"] == LEADS and [each["name"] for each in table["methods"]] == ["mine", "random weights"]
    for method in table["methods"]:
        points = {(point["wave"], point["point"]): point for point in method["points"]}
        marked = {point["marked"] for point in points.values()}
        assert len(points) == 6 and len(marked) == 1  # every marked beat has all three waves
        assert points["QRS", "onset"]["sensitivity"]["value"] > 0.5
    assert len(table["differences"]) == 6


def test_tables_and_plot_stand_beside_the_json(finished):
    folder, _ = finished
    text = (folder / "measure.md").read_text()
    for measurement in MEASUREMENTS.values():
        assert f"{measurement.title[0].upper()}{measurement.title[1:]} ({measurement.unit})" in text
        assert measurement.rule in text
    assert "150 ms" in text and "1000 per mV" in text and "finer" in text
    assert (folder / "measure.png").read_bytes()[:4] == b"\x89PNG"


# The saved model ------------------------------------------------------------------------------------------------------


def test_the_saved_model_measures_as_the_regression_did_and_verifies(setup, finished):
    saved = finished[1]["saved"]
    assert saved["largest_difference_after_loading"] < 1e-4
    model = EcgJepaForRegression.from_pretrained(setup.save)
    names = [(target["name"], target["unit"]) for target in model.config.regression_targets]
    assert names == [
        ("heart_rate", "bpm"),
        ("pr_interval", "ms"),
        ("qrs_duration", "ms"),
        ("qt_interval", "ms"),
        ("axis_sine", "1"),
        ("axis_cosine", "1"),
        ("t_amplitude", "mV"),
    ]
    assert all(check.passed for check in verify(setup.save))


def test_the_saved_model_is_nearer_to_the_truth_of_what_it_was_fitted_to_than_the_mean(setup, finished):
    extractor = EcgJepaFeatureExtractor.from_pretrained(setup.save)
    model = EcgJepaForRegression.from_pretrained(setup.save).eval()
    truth, found = [], []
    for index in range(24):
        record, made = synthesize_record(11, index, 500, 10, ("sinus_rhythm",), 30.0)
        inputs = extractor(record.signal, 500, record.lead_names, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0].tolist()
        values = {model.config.id2label[place]: value for place, value in enumerate(logits)}
        assert -180 <= math.degrees(math.atan2(values["axis_sine"], values["axis_cosine"])) <= 180
        truth.append(made.heart_rate)
        found.append(values["heart_rate"])
    apart = np.abs(np.subtract(found, truth)).mean()
    assert apart <= 1.01 * np.abs(np.array(truth) - np.mean(truth)).mean()


# Runs that go on, and other truths ------------------------------------------------------------------------------------


def test_a_run_from_what_another_left_gives_the_same_numbers_and_computes_nothing_again(
    setup, finished, tmp_path, monkeypatch
):
    def never(*args, **kwargs):
        raise AssertionError("computed again")

    monkeypatch.setattr(measure_results, "delineate_all", never)
    monkeypatch.setattr("train.embeddings.embed_by_lead", never)
    again = dataclasses.replace(
        setup, output_dir=str(tmp_path / "again"), cache_dir=str(finished[0] / "cache"), save=None
    )
    run(again)
    results = json.loads((tmp_path / "again" / "results.json").read_text())
    for part in ("measurements", "delineation", "splits", "exclusions"):
        assert results[part] == finished[1][part], part


def test_synthetic_records_are_measured_by_how_they_were_made(setup, tmp_path):
    options = dataclasses.replace(
        setup,
        corpus=CorpusChoice("synthetic", options={"records": 40, "classes": ["sinus_rhythm", "atrial_fibrillation"]}),
        output_dir=str(tmp_path / "out"),
        pools=("lead",),
        seeds=(0,),
        save=None,
    )
    results, records = run(options)
    assert records.source == "synthesis" and "delineation" not in results
    assert "t_amplitude" in results["not_evaluated"]  # undefined in every record: the others go on
    assert results["exclusions"]["t_amplitude"] == {"synthetic records do not tell it": records.inputs.ids}
    fibrillating = results["exclusions"]["pr_interval"]["no P wave leads to QRS"]
    assert 0 < len(fibrillating) < 40
    assert results["measurements"][0]["name"] == "heart_rate"


def test_the_delineator_stands_beside_the_cardiologists_where_both_marked(setup, tmp_path, monkeypatch):
    pytest.importorskip("neurokit2", reason="needs the extra `measure`")
    monkeypatch.setattr(measure_delineator, "DELINEATED_LEADS", ("II",))  # for time; without aVF there is no axis
    options = dataclasses.replace(
        setup, truth="delineator", output_dir=str(tmp_path / "out"), pools=("mean",), seeds=(0,), save=None
    )
    results, records = run(options)
    assert records.source == "delineator" and "delineation" not in results and "neurokit2" in results["versions"]
    beside = results["truth"]["delineator_beside_marks"]["heart_rate"]
    assert beside["records"] >= 20 and beside["mae"] < 5
    assert "axis" in results["not_evaluated"]
    assert list((tmp_path / "out" / "cache").glob("delineated-*.json"))


# Bad input ------------------------------------------------------------------------------------------------------------


def told(arguments: list[str], capsys) -> tuple[int, str]:
    code = main(arguments)
    return code, capsys.readouterr().err


def test_an_absent_folder_is_an_error(setup, tmp_path, capsys):
    arguments = [*setup.models, "--data_dir", str(tmp_path / "nowhere"), "--output_dir", str(tmp_path / "out")]
    code, error = told(arguments, capsys)
    assert code == 1 and "nowhere" in error


def test_fewer_patients_than_folds_are_refused(setup, tmp_path):
    options = dataclasses.replace(setup, folds=30, output_dir=str(tmp_path / "out"))
    with pytest.raises(EcgJepaConfigError, match="24 usable records, too few for 30 folds"):
        run(options)


def test_fewer_records_than_a_penalty_can_be_chosen_with_are_refused(setup, tmp_path):
    choice = CorpusChoice("ludb", str(write_ludb(tmp_path / "few", 8)))
    options = dataclasses.replace(setup, corpus=choice, output_dir=str(tmp_path / "out"))
    with pytest.raises(EcgJepaConfigError, match=r"at least 20 patients \(heart rate 8, .*8 records"):
        run(options)


def test_what_is_missing_is_counted_by_reason_and_the_rest_goes_on(setup, tmp_path, capsys):
    folder = write_ludb(tmp_path / "ludb", 26)
    for place in range(1, 5):
        for lead in ("i", "ii", "avf"):
            wfdb.wrann(str(place), lead, np.array([1000, 1020, 1040]), ["(", "t", ")"], write_dir=str(folder / "data"))
    (folder / "data" / "26.dat").unlink()
    arguments = ["--data-dir", str(folder), "--output-dir", str(tmp_path / "out"), "--no-delineation"]
    code, error = told([*setup.models, *arguments, "--pool", "mean", "--seeds", "0", "--resamples", "100"], capsys)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert code == 3 and "1 records were left out" in error and sum(results["left_out"].values()) == 1
    assert results["records"] == 25 and "delineation" not in results
    for name, table in zip(MEASUREMENTS, results["measurements"], strict=True):
        assert results["exclusions"][name] == {"no QRS complex is marked": ["1", "2", "3", "4"]}
        assert len(table["records"]) == 21


def test_a_lead_that_the_corpus_lacks_counts_as_missing(setup, tmp_path):
    other = save_encoder(tmp_path / "other", leads=["II", "V6"])
    options = dataclasses.replace(
        setup, models=[str(other)], output_dir=str(tmp_path / "out"), pools=("lead",), seeds=(0,)
    )
    results, _ = run(dataclasses.replace(options, save=str(tmp_path / "saved")))
    assert results["delineation"]["leads"] == ["II"]
    assert all(np.isfinite(table["methods"][0]["predictions"]).all() for table in results["measurements"])
    assert results["saved"]["largest_difference_after_loading"] < 1e-4


def test_models_of_two_grids_are_refused(setup, tmp_path):
    other = save_encoder(tmp_path / "other", leads=["II"])
    options = dataclasses.replace(setup, models=[*setup.models, str(other)], save=None, output_dir=str(tmp_path / "o"))
    with pytest.raises(EcgJepaCheckpointError, match="leads"):
        run(options)


def test_a_model_of_another_signal_is_refused(setup, tmp_path):
    eeg = save_encoder(tmp_path / "eeg", leads=["Fp1", "Fp2"], modality="other")
    options = dataclasses.replace(setup, models=[str(eeg)], output_dir=str(tmp_path / "out"))
    with pytest.raises(EcgJepaConfigError, match="no ECG leads"):
        run(options)


def test_a_finished_run_and_foreign_files_are_not_touched_unasked(setup, finished, tmp_path):
    with pytest.raises(EcgJepaOutputError, match="finished run"):
        run(setup)
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(EcgJepaOutputError, match=r"thesis\.tex"):
        run(dataclasses.replace(setup, output_dir=str(tmp_path), overwrite=True))
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m", "--folds", "1"], "folds=1"),
        (["m", "--resamples", "10"], "resamples=10"),
        (["m", "m"], "none twice"),
        (["a", "b", "--save", "x"], "takes one model"),
        (["m", "--corpus", "{"], "--corpus"),
        (["m", "--corpus", "ludb:a", "--data-dir", "b"], "two folders"),
    ],
)
def test_options_that_describe_no_run_are_usage_errors(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_truth_that_the_corpus_lacks_is_refused(setup):
    options = read_measure_options(["m", "--corpus", "synthetic", "--truth", "boundaries"])
    with pytest.raises(EcgJepaConfigError, match="synthetic has none"):
        run(options)


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0 and "cardiologists" in text and "95% intervals" in text and "Example:" in text

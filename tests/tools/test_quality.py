"""`ecg-jepa quality`: what it prints, its exit codes, and an overview that needs nothing else."""

import re
import shutil
import struct

import numpy as np
import pytest
import wfdb
from typer.testing import CliRunner

from dataset_scripts.ecg_paper import DISCLAIMER
from dataset_scripts.records import find_records, read_record
from modeling_ecg_jepa import EcgJepaOutputError, EcgJepaRecordError
from modeling_ecg_jepa.leads_ecg_jepa import STANDARD_12_LEADS
from modeling_ecg_jepa.tools.cli import app
from modeling_ecg_jepa.tools.quality import findings_of, in_words, survey_quality, worst_records
from modeling_ecg_jepa.tools.quality_page import drawings, page, write_overview


def run(*arguments, expect: int = 0) -> str:
    result = CliRunner().invoke(app, ["quality", *map(str, arguments), "--no_progress"], env={"COLUMNS": "200"})
    assert result.exit_code == expect, result.output
    return result.output


def write(folder, name, signal, leads=STANDARD_12_LEADS, rate=500):
    wfdb.wrsamp(
        name,
        fs=rate,
        units=["mV"] * len(leads),
        sig_name=list(leads),
        p_signal=signal.T,
        fmt=["16"] * len(leads),
        adc_gain=[1000.0] * len(leads),
        baseline=[0] * len(leads),
        write_dir=str(folder),
    )


@pytest.fixture
def faulty(records, tmp_path):
    """A folder with a record of every kind of finding, each broken in one place that the test knows."""
    folder = tmp_path / "faulty"
    folder.mkdir()
    clean = read_record(find_records(records)[0]).signal.astype(float)

    def broken(name, lead, start, end, value):
        signal = clean.copy()
        signal[STANDARD_12_LEADS.index(lead), start:end] = value
        write(folder, name, signal)

    write(folder, "clean", clean)
    broken("missing", "V2", 0, 5000, 0.0)
    broken("spike", "V4", 2500, 2510, -12.0)
    broken("clipped", "V1", 1000, 1050, 5.0)
    broken("flat", "V6", 3000, 3600, 0.251)
    broken("gaps", "V3", 500, 1000, np.nan)
    write(folder, "exchanged", clean[[1, 0, *range(2, 12)]])
    return folder


def test_each_kind_of_finding_is_found_in_the_record_that_has_it(faulty):
    survey = survey_quality([faulty])
    found = {record.header.stem: findings_of(record) for record in survey.records}
    assert found == {
        "clean": [],
        "clipped": ["probably clipped: V1"],
        "exchanged": ["limb equations broken"],
        "flat": ["flat for 1 s or longer: V6"],
        "gaps": ["missing values: 0.83%"],
        "missing": ["missing leads: V2"],
        "spike": ["over 10 mV: V4"],
    }
    assert [record.header.stem for record in worst_records(survey, "limb", 5)] == ["exchanged"]
    lines = in_words(survey)
    assert lines[0] == "7 records read, 0 left out"
    assert [line.split() for line in lines if "over 10 mV" in line] == [["over", "10", "mV", "1", "14.29%"]]
    assert "         7  500 Hz, 10 s" in lines


def test_what_is_drawn_points_at_the_finding(faulty):
    shown = list(drawings(survey_quality([faulty])))[:6]  # then come the noisiest and the most wandering
    marks = {drawing.record.record_id: drawing.options["marks"] for drawing in shown}
    ((spike,), (clipped,), (flat,), (gap,)) = (marks[name] for name in ("spike", "clipped", "flat", "gaps"))
    assert (spike.lead, spike.text) == ("V4", "-12.00 mV") and spike.start < 5.0 < spike.end
    assert (clipped.lead, clipped.start, clipped.end, clipped.text) == ("V1", 2.0, 2.1, "5.00 mV for 0.10 s")
    assert (flat.lead, flat.start, flat.end, flat.text) == ("V6", 6.0, 7.2, "flat for 1.20 s")
    assert (gap.lead, gap.start, gap.end, gap.text) == ("V3", 1.0, 2.0, "1.00 s missing")
    assert [mark.lead for mark in marks["missing"]] == ["V2"]
    assert "II = I + III is off by" in " ".join(mark.text for mark in marks["exchanged"])


def test_the_drawing_of_a_long_record_begins_near_the_finding(records, tmp_path):
    signal = np.tile(read_record(find_records(records)[0]).signal.astype(float), 6)
    signal[9, 20_000] = 12.0
    write(tmp_path, "long", signal)
    drawing = next(drawings(survey_quality([tmp_path])))
    (mark,) = drawing.options["marks"]
    assert drawing.options["start"] < mark.start < mark.end < drawing.options["start"] + 10


def test_the_page_stands_alone_and_runs_nothing(faulty):
    source, target = (faulty / "spike.hea"), faulty / "<b>&$x.hea"
    target.write_text(source.read_text().replace("spike 12", "<b>&$x 12"))
    text = page(survey_quality([faulty]))
    assert DISCLAIMER in text
    assert "<b>&$x" not in text and "&lt;b&gt;&amp;$x" in text
    assert re.findall(r'(?:src|href)="(?!data:image/png;base64,)', text) == []
    assert "<script" not in text and "http" not in re.sub(r'base64,[^"]*', "", text)
    assert text.count("<img") == 1 + 7 + 2  # panels, a drawing a finding with two spikes, noise and wander


def test_the_command_prints_counts_and_writes_a_page_or_a_picture(faulty, tmp_path):
    two = (faulty / "clean", faulty / "spike.dat")
    text = run(*two, "--output", tmp_path / "two.html")
    assert "2 records read, 0 left out" in text and f"overview: {tmp_path / 'two.html'}" in text
    assert (tmp_path / "two.html").read_text().startswith("<!doctype html>")
    run(*two, "--output", tmp_path / "two.png")
    header = (tmp_path / "two.png").read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", header[16:])
    assert 1000 < width < 1400 and height > width
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.is_file()) == [".html", ".png"]


def test_records_that_cannot_be_read_are_counted_and_listed(faulty, tmp_path):
    (faulty / "spike.dat").write_bytes(b"short")
    (faulty / "flat.hea").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    text = run(faulty, tmp_path / "absent", "--output", tmp_path / "some.html", expect=3)
    assert "5 records read, 3 left out" in text
    for reason in ("signal file truncated", "Git LFS pointer", "header missing"):
        assert f"1 x {reason}" in text
        assert reason in (tmp_path / "some.html").read_text()


def test_a_record_named_twice_counts_once(faulty):
    assert len(survey_quality([faulty, faulty / "clean", faulty / "clean.hea"]).records) == 7


def test_leads_that_no_page_expects_are_drawn_too(tmp_path):
    signal = np.random.default_rng(0).normal(scale=0.1, size=(2, 300))
    signal[0, 100:250] = 11.0
    write(tmp_path, "odd", signal, leads=("V4R", "VX"), rate=100)
    write(tmp_path, "short", signal[:1, :2], leads=("II",), rate=100)
    write_overview(survey_quality([tmp_path]), tmp_path / "odd.png")
    assert (tmp_path / "odd.png").stat().st_size > 10_000


def test_nothing_to_read_is_an_error_and_leaves_no_file(tmp_path):
    with pytest.raises(EcgJepaRecordError, match="No record could be read"):
        survey_quality([tmp_path])
    text = run(tmp_path, "--output", tmp_path / "none.html", expect=1)
    assert text.startswith("Error: No record could be read:") and list(tmp_path.iterdir()) == []


def test_a_name_that_says_no_kind_of_overview_is_refused_before_anything_is_read(faulty, tmp_path):
    text = run(tmp_path / "absent", "--output", tmp_path / "overview.pdf", expect=1)
    assert "overview.pdf must end in .html for a page or in .png for a picture" in text
    with pytest.raises(EcgJepaOutputError, match="must end in"):
        write_overview(survey_quality([faulty]), tmp_path / "overview")


def test_an_unwritable_place_is_said_and_the_old_overview_stays(faulty, tmp_path):
    (tmp_path / "taken.html").mkdir()
    assert "is a folder" in run(faulty / "clean", "--output", tmp_path / "taken.html", expect=1)
    shutil.rmtree(tmp_path / "taken.html")
    assert "Cannot write" in run(faulty / "clean", "--output", tmp_path / "no" / "where.html", expect=1)


def test_the_shared_sample_has_these_findings(shared_ecg):
    text = "\n".join(in_words(survey_quality([shared_ecg])))
    counts = dict(re.findall(r"^  (\D+?) +(\d+) +[\d.]+%$", text, re.MULTILINE))
    assert "233 records read, 3 left out" in text
    assert (counts["missing leads"], counts["limb equations broken"], counts["probably clipped"]) == ("2", "0", "1")
    assert re.search(r"over 10 mV +3 ", text)

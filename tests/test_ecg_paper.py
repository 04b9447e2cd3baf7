"""The drawing on ECG paper is to scale, names what it shows, and takes whatever a record may be."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from dataset_scripts.ecg_paper import DISCLAIMER, Mark, draw_ecg, ecg_figure, paper_size
from dataset_scripts.records import EcgRecord, read_record
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaInputError
from modeling_ecg_jepa.leads_ecg_jepa import STANDARD_12_LEADS

RECORD = read_record(Path(__file__).parent / "fixtures" / "records" / "ptb-xl" / "00001_hr")


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def traces(figure: Figure, samples: int) -> list[np.ndarray]:
    """The (samples, 2) lines in mm that have as many points as the lead has samples."""
    collections = [item for item in figure.axes[0].collections if isinstance(item, LineCollection)]
    return [line for item in collections for line in item.get_segments() if len(line) == samples]


def test_a_second_is_25_mm_and_a_millivolt_10_mm_on_paper_and_in_print():
    figure = ecg_figure(RECORD, layout="12x1")
    axes = figure.axes[0]
    width, height = paper_size(RECORD, layout="12x1")
    assert np.allclose(figure.get_size_inches() * 25.4, (width, height))
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, width), (0, height))
    lines = traces(figure, 5000)
    assert len(lines) == 12
    for line, row in zip(lines, RECORD.signal, strict=True):
        assert np.allclose(np.diff(line[:, 0]), 25 / 500)
        assert np.allclose(np.ptp(line[:, 1]), 10 * np.ptp(row), rtol=1e-4)


def test_the_calibration_pulse_stands_for_a_millivolt_and_a_fifth_of_a_second():
    pulses = traces(ecg_figure(RECORD), 6)
    assert len(pulses) == 4  # one a row
    for pulse in pulses:
        assert np.ptp(pulse[:, 1]) == 10
        assert pulse[4, 0] - pulse[1, 0] == 5


def test_the_printed_layout_has_four_columns_and_lead_ii_below():
    figure = ecg_figure(RECORD)
    said = texts(figure)
    assert [said.count(lead) for lead in STANDARD_12_LEADS] == [1, 2] + 10 * [1]
    assert len(traces(figure, 1250)) == 12 and len(traces(figure, 5000)) == 1
    assert "25 mm/s   10 mm/mV   500 Hz   0 to 10 s" in said
    assert DISCLAIMER in said


def test_leads_without_signal_are_named_and_left_blank():
    signal = RECORD.signal.copy()
    signal[3], signal[7] = 0.0, np.nan
    figure = ecg_figure(EcgRecord(signal, 500.0, STANDARD_12_LEADS, "gaps"))
    assert texts(figure).count("no signal") == 2
    assert len(traces(figure, 1250)) == 10


def test_a_mark_lies_over_its_stretch_with_its_text():
    axes = Figure().subplots()
    draw_ecg(axes, RECORD, layout="12x1", marks=[Mark("V4", 2.0, 4.0, "costs $5 or \\frac{")])
    box = axes.patches[-1].get_bbox()
    second = 15.0  # where the first sample stands
    assert (box.x0, box.x1) == (second + 50, second + 100)
    figure = axes.figure
    figure.savefig(io.BytesIO())  # text of a file's name is no formula
    assert "costs $5 or \\frac{" in texts(figure)
    before = len(axes.patches)
    draw_ecg(axes, RECORD, start=5.0, seconds=2.0, marks=[Mark("II", 0.0, 1.0), Mark("V9")])
    assert len(axes.patches) == before - 1  # nothing of these is in sight


@pytest.mark.parametrize(
    ("leads", "samples", "rate"),
    [(("II",), 1, 500.0), (("V1",), 100, 50.0), (("I", "VX"), 4000, 2000.0), (STANDARD_12_LEADS, 3, 257.0)],
)
@pytest.mark.parametrize("layout", ["3x4", "12x1"])
def test_any_leads_at_any_rate_and_length_can_be_drawn(leads, samples, rate, layout):
    signal = np.random.default_rng(0).normal(size=(len(leads), samples)).astype(np.float32)
    signal[0, samples // 3 : samples // 2] = np.nan
    figure = ecg_figure(EcgRecord(signal, rate, leads, "odd"), layout=layout)
    png = io.BytesIO()
    figure.savefig(png, dpi=30)
    assert png.getvalue().startswith(b"\x89PNG")
    assert any(re.search(rf"{rate:g} Hz", text) for text in texts(figure))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "6x2"}, "layout='6x2' must be one of '3x4', '12x1'"),
        ({"start": 10.0}, "start=10.0 must lie inside the record, which lasts 10.000 s"),
        ({"start": -1.0}, "start=-1.0"),
        ({"seconds": 0.0}, "seconds=0.0"),
        ({"seconds": 86400.0}, "at most 60"),
    ],
)
def test_a_part_that_cannot_be_drawn_is_refused(options, message):
    with pytest.raises(EcgJepaInputError, match=re.escape(message)):
        ecg_figure(RECORD, **options)

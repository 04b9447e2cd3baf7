"""Fitted on one corpus, tested on another: shared classes, ids that collide, a signal that both have."""

import numpy as np
import pytest
from probe_corpus import EXTRACTOR, make_rows, write_rows

from modeling_ecg_jepa import EcgJepaConfigError
from train.options import CorpusChoice
from train.probe_records import ProbeRecords, load_probe_records, parts_of
from train.transfer import transfer_records


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return make_rows(per_fold=8)


@pytest.fixture(scope="module")
def records(rows, tmp_path_factory) -> ProbeRecords:
    choice = write_rows(tmp_path_factory.mktemp("corpus"), rows)
    return load_probe_records(choice, EXTRACTOR, range(1, 10), quiet=True)


def other(tmp_path, rows: list[dict], classes: tuple[str, ...]) -> CorpusChoice:
    names = [row | {"labels": [classes[0]] if "LARGE" in row["labels"] else []} for row in rows]
    return write_rows(tmp_path, names, classes)


def test_folds_1_to_8_are_fitted_and_all_of_the_other_corpus_is_tested(records, rows, tmp_path):
    choice = other(tmp_path, rows[64:], ("LARGE", "MORE"))  # the same ids and patients again, other signals
    joined = transfer_records(records, choice, EXTRACTOR, range(1, 11), quiet=True)
    (part,) = parts_of(joined, "transfer")
    assert joined.names == ["LARGE"]
    assert [joined.ids[place] for place in part.fitted] == [row["record_id"] for row in rows[:64]]
    assert [joined.ids[place] for place in part.tested] == [f"prepared/{row['record_id']}" for row in rows[64:]]
    assert joined.labels[:, 0].tolist() == ["LARGE" in row["labels"] for row in rows]


def test_signals_are_those_of_their_records_in_any_order(records, rows, tmp_path):
    joined = transfer_records(records, other(tmp_path, rows[64:], ("LARGE",)), EXTRACTOR, range(1, 11), quiet=True)
    for places in ([70, 3, 65, 0], [1, 2], [79]):
        signals = joined.windows.__getitems__(places)["input_values"].numpy()
        for place, signal in zip(places, signals, strict=True):
            expected = rows[place]["signal"].reshape(8, -1) * rows[place]["signal_scale"]
            assert np.allclose(signal, expected, atol=1e-5)


def test_a_signal_that_was_fitted_is_not_tested(records, rows, tmp_path):
    joined = transfer_records(records, other(tmp_path, rows[60:], ("LARGE",)), EXTRACTOR, range(1, 11), quiet=True)
    assert sum(name.startswith("prepared/") for name in joined.ids) == 16
    assert {pair.second.record_id for pair in joined.duplicates} == {
        f"prepared/{row['record_id']}" for row in rows[60:64]
    }


def test_corpora_without_a_class_in_common_are_refused(records, rows, tmp_path):
    with pytest.raises(EcgJepaConfigError, match="shares no class .* it has OTHER, the other FAST, LARGE"):
        transfer_records(records, other(tmp_path, rows[64:], ("OTHER",)), EXTRACTOR, range(1, 11), quiet=True)

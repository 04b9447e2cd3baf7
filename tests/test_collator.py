"""Rows of mixed leads and lengths become one batch."""

import numpy as np
import pytest
import torch

from modeling_ecg_jepa.collator_ecg_jepa import EcgJepaDataCollator
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaInputError
from modeling_ecg_jepa.feature_extraction_ecg_jepa import EcgJepaFeatureExtractor

extractor = EcgJepaFeatureExtractor()


def raw_row(leads=("II", "V1"), samples=5000, rate=500, seed=0, **columns):
    """A row as the corpora have it: flat int16 counts of 0.001 mV."""
    signal = np.random.default_rng(seed).normal(scale=200, size=(len(leads), samples)).astype(np.int16)
    row = {"signal": signal.ravel(), "signal_scale": 0.001, "lead_names": list(leads), "sampling_rate": rate}
    return {"record_id": str(seed), "report": "sinus rhythm", **row, **columns}


def extracted_row(seconds=10, **columns):
    signal = np.random.default_rng(seconds).normal(scale=0.2, size=(2, seconds * 500))
    made = extractor(signal, 500, ["II", "V1"], padding="longest")
    return {name: array[0] for name, array in made.items()} | columns


def test_corpus_rows_of_mixed_leads_rates_and_lengths_equal_the_extractors_output():
    rows = [raw_row(), raw_row(("V6", "aVR", "III"), 1200, 100, seed=1), raw_row(("V3",), 2500, 500, seed=2)]
    batch = EcgJepaDataCollator(extractor)(rows)
    assert set(batch) == {"input_values", "lead_mask", "attention_mask"}
    for place, row in enumerate(rows):
        signal = row["signal"].reshape(len(row["lead_names"]), -1) * row["signal_scale"]
        alone = extractor(signal, row["sampling_rate"], row["lead_names"], return_tensors="pt")
        for name, tensor in batch.items():
            assert torch.equal(tensor[place], alone[name][0])


def test_corpus_rows_may_be_lists_as_datasets_gives_them():
    row = raw_row()
    batch = EcgJepaDataCollator()([{**row, "signal": row["signal"].tolist()}])
    assert torch.equal(batch["input_values"], EcgJepaDataCollator()([row])["input_values"])


def test_missing_counts_are_missing_values():
    row = raw_row()
    row["signal"] = row["signal"].copy()
    row["signal"][:5000] = -32768
    assert EcgJepaDataCollator()([row])["lead_mask"].sum() == 1
    row["signal"][:5000] = raw_row()["signal"][:5000]
    row["signal"][100:150] = -32768
    with pytest.raises(EcgJepaInputError, match="Record 0: Lead II has 50 values that are NaN"):
        EcgJepaDataCollator()([row])
    tolerant = EcgJepaDataCollator(EcgJepaFeatureExtractor(nan_policy="interpolate"))
    assert tolerant([row])["lead_mask"].sum() == 2


def test_extracted_rows_are_padded_to_the_longest():
    rows = [extracted_row(10), extracted_row(4)]
    batch = EcgJepaDataCollator()(rows)
    assert batch["input_values"].shape == (2, 8, 2500)
    assert batch["attention_mask"].sum(dim=1).tolist() == [50, 20]
    assert not batch["input_values"][1, :, 1000:].any()
    for place, row in enumerate(rows):
        samples = row["input_values"].shape[1]
        np.testing.assert_array_equal(batch["input_values"][place, :, :samples], row["input_values"])
        np.testing.assert_array_equal(batch["lead_mask"][place], row["lead_mask"])


def test_extracted_rows_without_masks_are_whole():
    batch = EcgJepaDataCollator()([{"input_values": np.ones((8, 500)).tolist()}])
    assert batch["lead_mask"].all()
    assert batch["attention_mask"].tolist() == [10 * [True]]


def test_masks_of_extracted_rows_are_kept():
    row = extracted_row()
    row["attention_mask"][40:] = False
    assert EcgJepaDataCollator()([row])["attention_mask"].sum() == 40


def test_class_indices_become_multi_hot():
    rows = [raw_row(labels=[0, 3]), raw_row(labels=[]), raw_row(labels=torch.tensor([4]))]
    labels = EcgJepaDataCollator(num_labels=5)(rows)["labels"]
    assert labels.dtype == torch.float32
    assert labels.tolist() == [[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("given", "expected", "dtype"),
    [
        ([62.5, 80.0], [62.5, 80.0], torch.float32),
        ([[1.0, 0.0], [0.0, 1.0]], [[1, 0], [0, 1]], torch.float32),
        ([2, 0], [2, 0], torch.int64),
    ],
)
@pytest.mark.parametrize("column", ["label", "labels"])
def test_floats_and_single_classes_are_passed_on(given, expected, dtype, column):
    labels = EcgJepaDataCollator(num_labels=3)([raw_row(**{column: value}) for value in given])["labels"]
    assert labels.dtype == dtype
    assert labels.tolist() == expected


def test_pretraining_takes_corpus_rows_without_their_labels():
    assert "labels" not in EcgJepaDataCollator(with_labels=False)([raw_row(labels=[0]), raw_row()])


def test_every_window_has_its_records_labels():
    windows = EcgJepaFeatureExtractor(window_seconds=4)
    batch = EcgJepaDataCollator(windows, num_labels=2)([raw_row(labels=[0]), raw_row(samples=2000, labels=[1])])
    assert batch["input_values"].shape == (3, 8, 1000)
    assert batch["labels"].tolist() == [[1, 0], [1, 0], [0, 1]]
    assert set(batch) == {"input_values", "lead_mask", "attention_mask", "labels"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([raw_row(), extracted_row()], "Row 1 has no signal, row 0 has one"),
        ([{"label": 1}], r"Row 0: input_values of shape \(\) are not \(8 leads.*it has label"),
        ([{"input_values": np.ones((2, 500))}], r"Row 0: input_values of shape \(2, 500\)"),
        ([{"input_values": np.ones((8, 510))}], "a whole number of patches of 50 samples"),
        ([{"input_values": [[1.0], [1.0, 2.0]]}], r"Row 0: input_values are no \(leads, samples\) numbers"),
        ([extracted_row() | {"lead_mask": [True]}], r"lead_mask has the shape \(1,\), its input_values need \(8,\)"),
        ([extracted_row() | {"attention_mask": [True]}], r"attention_mask has the shape \(1,\).*need \(50,\)"),
        ([{"signal": [1, 2], "lead_names": ["II"]}], "Row 0 has a signal but no sampling_rate, signal_scale"),
        ([raw_row() | {"signal": np.ones(10_000)}], "Row 0: signal of type float64"),
        ([raw_row() | {"signal": np.ones(9_999, dtype=np.int16)}], r"shape \(9999,\) must be integer counts"),
        ([raw_row(labels=[1]), raw_row()], "Row 1 has no labels"),
        ([raw_row(labels=[7])], r"labels=\[7\] must be different class indices from 0 to 4"),
        ([raw_row(labels=[-1])], "must be different class indices"),
        ([raw_row(labels=[0, 1, 0, 0, 1])], "multi-hot already are given as floats"),
        ([], "no rows"),
        ([raw_row(label="AF")], "must be numbers of one shape; the batch has 'AF'"),
        ([raw_row(labels=["AF"])], "must be different class indices"),
        ([raw_row(labels=[0.5]), raw_row(labels=[0.5, 1.0])], "must be numbers of one shape"),
    ],
)
def test_rows_that_make_no_batch_are_refused(rows, message):
    with pytest.raises(EcgJepaInputError, match=message):
        EcgJepaDataCollator(num_labels=5)(rows)


def test_class_indices_need_the_number_of_classes():
    with pytest.raises(EcgJepaInputError, match="give EcgJepaDataCollator num_labels"):
        EcgJepaDataCollator()([raw_row(labels=[0])])

"""What an encoder must beat: the statistics by their definition, the network by what it learns and never sees."""

import numpy as np
import pytest
import torch
from probe_corpus import load_rows, make_rows, without_lead

from train.baselines import NETWORK, STATISTICS, ResNet1d, Trained, choose_epochs, fit_network, lead_statistics
from train.metrics import auroc
from train.probe_records import Part

CPU = torch.device("cpu")
RECORDS, FITTED = 96, 64
PART = Part(1, np.arange(FITTED), np.arange(FITTED, RECORDS))
GROUPS = np.array([f"p{place}" for place in range(RECORDS)])


@pytest.fixture(scope="module")
def tones() -> tuple[torch.Tensor, np.ndarray]:
    """Noise of two leads and, anywhere in the first, a rising tone with the class, a falling one without: the same
    samples backwards, so no statistic of `STATISTICS` tells them apart."""
    rng = np.random.default_rng(0)
    labels = rng.random((RECORDS, 1)) < 0.5
    signals = rng.normal(size=(RECORDS, 2, 500)).astype(np.float32)
    rising = np.sin(np.linspace(1, 8, 100) ** 2 / 2) * np.hanning(100) * 4
    for place, rises in enumerate(labels[:, 0]):
        start = rng.integers(0, 400)
        signals[place, 0, start : start + 100] += rising if rises else rising[::-1]
    return torch.from_numpy(signals), labels


def test_statistics_are_what_they_are_called(tmp_path):
    rows = make_rows(per_fold=2, folds=(1, 2))
    rows[2] = without_lead(rows[2], lead=4)
    records = load_rows(tmp_path, rows, folds=(1, 2))
    features = lead_statistics(records).reshape(4, 8, len(STATISTICS))
    millivolts = rows[1]["signal"].reshape(8, -1) * np.float64(rows[1]["signal_scale"])
    expected = [
        millivolts.std(axis=1),
        millivolts.min(axis=1),
        millivolts.max(axis=1),
        np.abs(np.diff(millivolts, axis=1)).mean(axis=1) * 250,  # mV/s
    ]
    np.testing.assert_allclose(features[1], np.stack(expected, axis=1), rtol=1e-4)
    assert np.isnan(features[2, 4]).all() and np.isnan(features).sum() == len(STATISTICS)


def test_the_network_learns_what_no_statistic_shows(tones, monkeypatch):
    monkeypatch.setitem(NETWORK, "epochs", (12, 24))
    signals, labels = tones
    scores, chosen = fit_network(signals, labels, GROUPS, PART, 0, CPU)
    assert auroc(labels[PART.tested], scores)[0] > 0.9
    assert chosen["epochs"] in NETWORK["epochs"]


def test_labels_of_tested_records_change_nothing(tones, monkeypatch):
    monkeypatch.setitem(NETWORK, "epochs", (1, 2))
    signals, labels = tones
    others = labels.copy()
    others[FITTED:] = ~others[FITTED:]
    one, other = (fit_network(signals, each, GROUPS, PART, 0, CPU) for each in (labels, others))
    np.testing.assert_array_equal(one.scores, other.scores)
    assert one.chosen == other.chosen


def test_the_same_seed_gives_the_same_network_and_leaves_the_callers_random_numbers(tones):
    signals, labels = tones
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, again, other = (Trained(signals[:16], labels[:16], 1, seed, CPU).scores(signals[16:20]) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3


def test_the_search_for_epochs_ends_when_more_are_no_better(tones, monkeypatch):
    monkeypatch.setitem(NETWORK, "epochs", (1, 2, 4, 8, 16, 32, 64))
    signals, labels = tones
    best, reached = choose_epochs(signals[:40], labels[:40], GROUPS[:40], 0, CPU)
    tried = [int(epochs) for epochs in reached]
    assert tried == list(NETWORK["epochs"][: len(tried)]) and len(tried) < 7
    assert reached[str(best)] == max(reached.values()) and tried[-2:][0] == best
    assert list(reached.values())[:-1] == sorted(list(reached.values())[:-1])


def test_every_batch_has_more_than_one_record(tones):
    """Batch normalisation of a single vector is an error of torch."""
    signals, labels = tones
    for count in (2, 17, 33):
        assert np.isfinite(Trained(signals[:count], labels[:count], 1, 0, CPU).scores(signals[:3])).all()


def test_the_network_has_the_size_that_its_documentation_says():
    network = ResNet1d(8, 5, *(NETWORK[name] for name in ("width", "kernel", "dropout")))
    assert sum(weights.numel() for weights in network.parameters()) == pytest.approx(120_000, rel=0.02)
    assert network.eval()(torch.zeros(3, 8, 2500)).shape == (3, 5)

"""The online probe: what linear readers get out of the student while it trains. It teaches the encoder nothing."""

import zlib
from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaDataCollator, EcgJepaFeatureExtractor, EcgJepaModel

from .corpora import open_corpus
from .data import Row, SyntheticRecords
from .diagnostics import embed, mean_absolute_error, ridge_predictions
from .options import PretrainOptions
from .windows import Windows, leave_out_refused

#: Labelled records that the probe looks at, spread evenly over the corpus.
MOST_LABELLED = 2000

#: Inverse penalty of the logistic regression: strong, since records are few. A curve needs it to be the same
#: throughout; the evidence of a finished model chooses its own.
INVERSE_PENALTY = 0.01


def heart_rate_records(
    options: PretrainOptions, extractor: EcgJepaFeatureExtractor
) -> tuple[Sequence[Row], np.ndarray]:
    """Synthetic records that training does not see, and their heart rates in beats per minute."""
    held_out = SyntheticRecords(extractor, options.seed, options.probe_records, first=options.num_records)
    rows, truths = zip(*(held_out.with_truth(place) for place in range(len(held_out))), strict=True)
    return rows, np.array([truth.heart_rate for truth in truths])


def labelled_records(
    options: PretrainOptions, extractor: EcgJepaFeatureExtractor, quiet: bool
) -> tuple[list[Row], np.ndarray, np.ndarray]:
    """Rows of `probe_corpus`, their labels (rows, classes) of 0 and 1, and which rows are held out from the fit: those
    of every fourth patient, the same in every run.

    Raises:
        EcgJepaConfigError: a corpus without labels.
    """
    corpus, _ = open_corpus(options.probe_corpus, extractor, num_proc=options.num_workers or None)
    windows = Windows(corpus, extractor, options.probe_corpus.title)
    leave_out_refused(windows, num_workers=options.num_workers, quiet=quiet)
    labels, patients, ids = (corpus.column(name) for name in ("labels", "patient_id", "record_id"))
    classes = 1 + max((label for row in labels.to_pylist() for label in row or ()), default=-1) if labels else 0
    if not classes:
        raise EcgJepaConfigError(f"probe_corpus {windows.corpus} has no labels; name one that has, or leave it out.")
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(MOST_LABELLED, len(windows))).astype(int))
    places = windows.usable[chosen].tolist()
    owners = [(patients and patients[place].as_py()) or ids[place].as_py() for place in places]
    held_out = np.array([zlib.crc32(owner.encode()) % 4 == 0 for owner in owners])
    multi_hot = np.stack([np.isin(np.arange(classes), labels[place].as_py() or []) for place in places])
    return [windows[place] for place in chosen.tolist()], multi_hot.astype(int), held_out


class OnlineProbe:
    """Reads heart rate and, with `probe_corpus`, labels off the student's frozen embeddings, pooled both ways.

    All processes call it, since embedding may need them all.
    """

    def __init__(self, options: PretrainOptions, extractor: EcgJepaFeatureExtractor, quiet: bool):
        self.collator = EcgJepaDataCollator(extractor)
        self.heart = heart_rate_records(options, extractor) if options.probe_records else None
        self.labelled = labelled_records(options, extractor, quiet) if options.probe_corpus else None

    def measure(self, encoder: EcgJepaModel) -> dict[str, float | None]:
        """`probe_bpm_mean`, `probe_bpm_lead`: mean absolute error of heart rate; `probe_auroc_mean`,
        `probe_auroc_lead`: macro AUROC over the classes with both outcomes among the held-out records."""
        line: dict[str, float | None] = {}
        if self.heart:
            rows, heart_rates = self.heart
            fit, truth = np.split(heart_rates, [len(rows) // 2])
            for pooling, embeddings in embed(encoder, rows, self.collator).items():
                errors = mean_absolute_error(truth, ridge_predictions(embeddings, fit))
                line[f"probe_bpm_{pooling}"] = float(errors)
        if self.labelled:
            rows, labels, held_out = self.labelled
            for pooling, embeddings in embed(encoder, rows, self.collator).items():
                line[f"probe_auroc_{pooling}"] = label_auroc(embeddings, labels, held_out)
        return line


def label_auroc(embeddings: np.ndarray, labels: np.ndarray, held_out: np.ndarray) -> float | None:
    """Macro AUROC of logistic regressions, fitted to the rest, on the rows `held_out`; None where no class can be read.

    Args:
        embeddings: (rows, channels).
        labels: (rows, classes) of 0 and 1.
        held_out: (rows,) boolean.
    """
    if held_out.all() or not held_out.any():
        return None
    readable = (np.ptp(labels[held_out], axis=0) > 0) & (np.ptp(labels[~held_out], axis=0) > 0)
    if not readable.any():
        return None
    reader = OneVsRestClassifier(LogisticRegression(C=INVERSE_PENALTY, max_iter=1000))
    model = make_pipeline(StandardScaler(), reader).fit(embeddings[~held_out], labels[~held_out][:, readable])
    scores = model.decision_function(embeddings[held_out]).reshape(int(held_out.sum()), -1)
    truth = labels[held_out][:, readable]
    return float(np.mean([roc_auc_score(truth[:, place], scores[:, place]) for place in range(truth.shape[1])]))

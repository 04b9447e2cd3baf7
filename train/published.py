"""Published numbers of ECG-JEPA and its rivals on the full corpora, to stand beside ours and never to be mixed with
them: other weights, more records, and in part other folds (the authors fit on folds 1-9)."""

from typing import NamedTuple

_PAPER = "ECG-JEPA, arXiv 2410.08559v5"
_LOGS = "the authors' training logs (sehunfromdaegu/ECG_JEPA)"
_INDEPENDENT = "an independent benchmark of ECG foundation models"


class Published(NamedTuple):
    """A number that somebody published.

    Attributes:
        corpus, labels: which records; `labels` is the label set, or "" where a corpus has one.
        task: "linear", "fine-tuned", "supervised", "few labels" or "few leads".
        fraction, leads: of the labels and the leads that were used.
        method: in words.
        auroc, f1: macro; None where not told.
        source: where it stands.
    """

    corpus: str
    labels: str
    task: str
    method: str
    auroc: float
    source: str
    f1: float | None = None
    fraction: float = 1.0
    leads: tuple[str, ...] | None = None


_SUPER = ("ptb_xl", "superdiagnostic")

PUBLISHED = (
    Published(*_SUPER, "linear", "ECG-JEPA base, multi-block", 0.912, _PAPER, f1=0.712),
    Published(*_SUPER, "linear", "ECG-JEPA base, random masks", 0.907, _LOGS, f1=0.698),
    Published(*_SUPER, "linear", "ECG-JEPA base", 0.911, _INDEPENDENT),
    Published(*_SUPER, "linear", "ECG-JEPA base, attention pooling", 0.917, _INDEPENDENT),
    Published(*_SUPER, "fine-tuned", "ECG-JEPA base, random masks", 0.931, _PAPER),
    Published(*_SUPER, "fine-tuned", "ECG-JEPA base", 0.921, _INDEPENDENT),
    Published(*_SUPER, "supervised", "S4", 0.932, _INDEPENDENT),
    Published(*_SUPER, "supervised", "xresnet1d101", 0.928, _INDEPENDENT),
    Published(*_SUPER, "few labels", "ECG-JEPA base, random masks", 0.839, _PAPER, fraction=0.01),
    Published(*_SUPER, "few labels", "ECG-JEPA base, random masks", 0.893, _PAPER, fraction=0.1),
    Published(*_SUPER, "few leads", "ECG-JEPA base", 0.849, _PAPER, leads=("II",)),
    Published(*_SUPER, "few leads", "ECG-JEPA base", 0.879, _PAPER, leads=("II", "V1")),
    Published("ptb_xl", "all", "fine-tuned", "ECG-JEPA base", 0.940, _INDEPENDENT),
    Published("ptb_xl", "all", "linear", "ECG-JEPA base", 0.928, _INDEPENDENT),
    Published("cpsc2018", "", "linear", "ECG-JEPA base, multi-block", 0.966, _PAPER),
    Published("cpsc2018", "", "linear", "ECG-JEPA base, multi-block", 0.971, _LOGS, f1=0.789),
)

#: Mean absolute errors, and their units, of the paper's regression on the full corpora.
PUBLISHED_ERRORS = {"heart_rate": (0.40, "bpm", _PAPER), "qrs_duration": (1.9, "ms", _PAPER)}


def published_for(corpus: str, labels: str, fraction: float, leads: tuple[str, ...] | None) -> list[Published]:
    """What stands beside a table of ours."""
    return [
        each
        for each in PUBLISHED
        if (each.corpus, each.fraction, each.leads) == (corpus, fraction, leads) and each.labels in ("", labels)
    ]

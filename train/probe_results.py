"""From the scores of cells to numbers with intervals and paired differences: the tables of `probe.json`."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from modeling_ecg_jepa import EcgJepaConfigError

from .diagnostics import Estimate
from .metrics import (
    auroc,
    average_precision,
    estimate,
    f1,
    macro,
    macro_values,
    outcomes,
    resample_patients,
)
from .probe_cells import Cell, Setting, scores_of
from .probe_methods import Method
from .probe_records import ProbeRecords, parts_of
from .subgroups import divide

#: Of the resamples: the same for all methods and runs, so that whatever is compared is compared on the same patients.
_SEED = 0

_KEPT_OF_CELLS = (
    *("fold", "fitted_records", "tested_records", "classes_not_fitted", "C", "epochs", "inner_macro_auroc"),
)


#: Kinds of methods that start from pretrained weights; the others are baselines.
OURS = ("pretrained", "fine-tuned")


class Tested:
    """The records that a setting tests, and resamples of their patients.

    Raises:
        EcgJepaConfigError: no class has both outcomes among them.
    """

    def __init__(self, setting: Setting, records: ProbeRecords, resamples: int):
        places = np.concatenate([part.tested for part in parts_of(records, setting.evaluation)])
        self.setting = setting
        self.ids = [records.ids[place] for place in places]
        self.folds = records.folds[places]
        self.labels = records.labels[places]
        self.names = records.names
        self.subgroups = {name: groups[places] for name, groups in records.subgroups.items()}
        self.outcomes = outcomes(self.labels, records.names)
        of_nothing = auroc(self.labels, np.zeros(self.labels.shape), folds=self.folds)
        self.undefined = [each for each, value in zip(self.outcomes, of_nothing, strict=True) if np.isnan(value)]
        self.resamples = resample_patients([records.patients[place] for place in places], _SEED, resamples)
        if len(self.undefined) == len(self.outcomes):
            counts = ", ".join(f"{each.name} {each.positives:,}" for each in self.outcomes)
            raise EcgJepaConfigError(
                f"{setting.title}: none of the classes has both outcomes among the {len(places):,} tested records "
                f"({counts}), so nothing can be measured. Use another --label_set or a larger copy of the corpus."
            )

    def measures(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        """Of each measure its value in the set and in each resample; a class without both outcomes has none.

        In cross-validation records are compared within their fold, where all scores are of one fitted model.
        """
        labels, resamples, weights = self.labels, self.resamples, self.resamples.weights
        of_auroc, of_precision = (metric(labels, scores, weights, self.folds) for metric in (auroc, average_precision))
        values = {"macro_auroc": macro(of_auroc), "macro_average_precision": macro(of_precision)}
        values["macro_f1"] = macro(f1(labels, scores > 0, weights))  # log odds above 0: a probability above one half
        folds = np.unique(self.folds)
        if len(folds) > 1:
            values["macro_auroc_of_pooled_scores"] = macro_values(auroc, labels, scores, resamples)
            for fold in folds:
                here = self.folds == fold
                values[f"fold {fold}"] = macro(auroc(labels[here], scores[here], weights[:, here]))
        for place, outcome in enumerate(self.outcomes):
            values[f"auroc of {outcome.name}"] = of_auroc[:, place]
            values[f"average_precision of {outcome.name}"] = of_precision[:, place]
        return {name: row for name, row in values.items() if not np.isnan(row[0])}

    def measures_of(self, here: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
        """Of the records at some places the two macro measures, as `measures`; none where they are undefined."""
        labels, weights, folds = self.labels[here], self.resamples.weights[:, here], self.folds[here]
        values = {
            name: macro(metric(labels, scores[here], weights, folds))
            for name, metric in (("macro_auroc", auroc), ("macro_average_precision", average_precision))
        }
        return {name: row for name, row in values.items() if not np.isnan(row[0])}


def describe_table(tested: Tested, runs: Mapping[Method, Mapping[int, Sequence[Cell]]]) -> dict[str, Any]:
    """All methods on the same records and resamples, as `probe.json` has it.

    Args:
        runs: of each method, by seed, the cells of all folds. A method's measures are means over its seeds.
    """
    scores = {method: [scores_of(cells, tested.ids) for cells in by_seed.values()] for method, by_seed in runs.items()}
    values = {}
    for method in tqdm(runs, desc=f"intervals, {tested.setting.title}"):
        values[method] = _means([tested.measures(of_seed) for of_seed in scores[method]])
    return {
        **dataclasses.asdict(tested.setting),
        "title": tested.setting.title,
        "tested_records": len(tested.ids),
        "tested_folds": np.unique(tested.folds).tolist(),
        "resampled": tested.resamples.unit,
        "undefined_classes": [dataclasses.asdict(each) for each in tested.undefined],
        "methods": [
            {
                "name": method.name,
                "kind": method.kind,
                "measures": {name: _share(estimate(row)) for name, row in values[method].items()},
                "runs": [_describe_run(tested, seed, cells) for seed, cells in by_seed.items()],
            }
            for method, by_seed in runs.items()
        ],
        "differences": list(_differences(values)),
        "subgroups": list(_subgroups(tested, scores)),
    }


def _means(of_seeds: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.mean([each[name] for each in of_seeds], axis=0) for name in of_seeds[0]}


def _subgroups(tested: Tested, scores: Mapping[Method, Sequence[np.ndarray]]) -> Iterator[dict[str, Any]]:
    """Of each group of records all methods, on the resamples of the whole."""
    for name, groups in tested.subgroups.items():
        for group, here in divide(groups).items():
            undefined = [each for each in outcomes(tested.labels[here], tested.names) if not each.defined]
            methods = []
            for method, of_seeds in scores.items():
                values = _means([tested.measures_of(here, each) for each in of_seeds])
                measures = {measure: _share(estimate(row)) for measure, row in values.items()}
                methods.append({"name": method.name, "kind": method.kind, "measures": measures})
            yield {
                "by": name,
                "group": group,
                "records": len(here),
                "undefined_classes": [dataclasses.asdict(each) for each in undefined],
                "methods": methods,
            }


def _describe_run(tested: Tested, seed: int, cells: Sequence[Cell]) -> dict[str, Any]:
    value = macro(auroc(tested.labels, scores_of(cells, tested.ids), folds=tested.folds))
    kept = [{name: cell[name] for name in _KEPT_OF_CELLS if name in cell} for cell in cells]
    return {"seed": seed, "macro_auroc": round(float(value), 5), "cells": kept}


def _differences(values: Mapping[Method, Mapping[str, np.ndarray]]) -> Iterator[dict[str, Any]]:
    """Each method with pretrained weights minus its rivals among the baselines, and minus the first model's with the
    same features, resample by resample."""
    pretrained = [method for method in values if method.kind in OURS]
    for method in pretrained:
        first = next(each for each in pretrained if each.features["variant"] == method.features["variant"])
        rivals = [other for other in values if other.kind not in OURS and method.is_rival(other)]
        for other in rivals + ([first] if first is not method else []):
            ours, theirs = values[method], values[other]
            names = [name for name in ours if " of " not in name]
            yield {
                "method": method.name,
                "minus": other.name,
                "kind": other.kind,
                "measures": {name: _rounded(estimate(ours[name] - theirs[name])) for name in names},
            }


def _share(number: Estimate) -> dict[str, float]:
    """Of a measure from 0 to 1: what shifts its interval (`metrics.estimate`) must not leave that."""
    return {name: min(max(value, 0.0), 1.0) for name, value in _rounded(number).items()}


def _rounded(number: Estimate) -> dict[str, float]:
    return {name: round(value, 5) for name, value in dataclasses.asdict(number).items()}

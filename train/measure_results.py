"""From embeddings and truth to numbers with intervals: the tables of `results.json`."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from modeling_ecg_jepa.tools.checkpoint import encoder_sha256

from .delineation import delineate_all, keep_delineation, marked_waves
from .delineation_scores import POINTS, count_record, measures
from .embeddings import EmbeddingCache, pooled
from .measure_fit import cross_validate, from_targets, mean_of_others, to_targets
from .measure_records import MeasuredRecords
from .measure_scores import agreement
from .measure_truth import MEASUREMENTS
from .metrics import estimate, resample_patients
from .probe_methods import Encoder, random_encoder

#: Of the resamples: the same for all methods, so that whatever is compared is compared on the same patients.
_SEED = 0

MEAN = "mean of the other folds"


@dataclass(frozen=True, eq=False)
class Method:
    """Features to measure with.

    Attributes:
        name: in tables.
        kind: "pretrained", "random" or "mean", which has none.
        model: name of the encoder.
        shape, pool: of the encoder; what is alike in both is compared.
        features: by seed, (records, features); one seed where another would give the same.
    """

    name: str
    kind: str
    model: str = ""
    shape: str = ""
    pool: str = ""
    features: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)


def methods_of(
    encoders: Sequence[Encoder],
    records: MeasuredRecords,
    pools: Sequence[str],
    seeds: Sequence[int],
    cache: EmbeddingCache,
) -> list[Method]:
    """Every encoder with every pooling, random weights of each shape and seed beside them, and the mean."""
    methods = []
    for encoder in encoders:
        by_lead = cache.embed(encoder.model, encoder.sha256, records.inputs, _last(encoder), encoder.name)
        methods += [_method(encoder.name, "pretrained", encoder.shape, pool, {seeds[0]: by_lead}) for pool in pools]
    shapes = {encoder.shape: encoder for encoder in reversed(encoders)}
    for like in reversed(shapes.values()):
        by_seed = {}
        for seed in seeds:
            model = random_encoder(like, seed)
            sha256 = encoder_sha256(model, like.extractor)
            by_seed[seed] = cache.embed(model, sha256, records.inputs, _last(like), f"random weights {seed}")
        name = f"random weights like {like.name}" if len(shapes) > 1 else "random weights"
        methods += [_method(name, "random", like.shape, pool, by_seed) for pool in pools]
    return [*methods, Method(MEAN, "mean")]


def _method(model: str, kind: str, shape: str, pool: str, by_seed: Mapping[int, np.ndarray]) -> Method:
    features = {seed: pooled(by_lead, pool) for seed, by_lead in by_seed.items()}
    return Method(f"{model}, {pool} pool", kind, model, shape, pool, features)


def _last(encoder: Encoder) -> list[int]:
    return [encoder.model.config.num_hidden_layers]


# Measurements ---------------------------------------------------------------------------------------------------------


def measure_table(
    name: str, records: MeasuredRecords, methods: Sequence[Method], seed: int, resamples: int
) -> dict[str, Any]:
    """One measurement by all methods on the same records and resamples.

    Args:
        seed: of the splits in which a penalty is chosen.
    """
    places = records.with_truth(name)
    truth, circular = records.truth[name][places], MEASUREMENTS[name].circular
    drawn = resample_patients([records.inputs.patients[place] for place in places], _SEED, resamples)
    values, described = {}, []
    for method in tqdm(methods, desc=MEASUREMENTS[name].title, leave=False):
        predicted = list(_predictions(method, name, records, seed))
        of_seeds = [agreement(predictions, truth, drawn.weights, circular) for predictions, _ in predicted]
        values[method] = {measure: np.mean([each[measure] for each in of_seeds], axis=0) for measure in of_seeds[0]}
        if method.kind == "mean":
            del values[method]["correlation"]  # of a number that is the same for all records of a fold
        described.append(
            {
                "name": method.name,
                "kind": method.kind,
                "model": method.model,
                "pool": method.pool,
                "seeds": list(method.features),
                "measures": {measure: rounded(row) for measure, row in values[method].items()},
                "penalties": [penalties for _, penalties in predicted],
                "predictions": predicted[0][0].round(3).tolist(),
            }
        )
    return {
        "name": name,
        **MEASUREMENTS[name]._asdict(),
        "resampled": drawn.unit,
        "records": [records.inputs.ids[place] for place in places],
        "truth": truth.round(3).tolist(),
        "methods": described,
        "differences": list(_differences(values)),
    }


def _predictions(
    method: Method, name: str, records: MeasuredRecords, seed: int
) -> Iterator[tuple[np.ndarray, list[float]]]:
    """Of each seed what is predicted for the records that have the measurement, and the penalties of the folds."""
    places, circular = records.with_truth(name), MEASUREMENTS[name].circular
    targets, folds = to_targets(records.truth[name][places], circular), records.folds[places]
    if method.kind == "mean":
        yield from_targets(mean_of_others(targets, folds), circular), []
    for features in method.features.values():
        predicted, penalties = cross_validate(features[places], targets, records.inputs.groups[places], folds, seed)
        yield from_targets(predicted, circular), penalties


def _differences(values: Mapping[Method, Mapping[str, np.ndarray]]) -> Iterator[dict[str, Any]]:
    """The error of the mean, of random weights of the same shape and pool, and of the first model, minus the model's:
    above 0 is in the model's favour."""
    pretrained = [method for method in values if method.kind == "pretrained"]
    for method in pretrained:
        first = next(other for other in pretrained if other.pool == method.pool)
        for other in values:
            alike = other.kind == "random" and (other.shape, other.pool) == (method.shape, method.pool)
            if alike or other.kind == "mean" or (other is first and first is not method):
                gain = values[other]["mae"] - values[method]["mae"]
                yield {"method": method.name, "beside": other.name, "kind": other.kind, "mae_less": rounded(gain)}


def rounded(values: np.ndarray) -> dict[str, float] | None:
    """A number with its interval from its values in the set and in each resample; None where it is undefined."""
    if not np.isfinite(values[0]):
        return None
    return {name: round(value, 5) for name, value in dataclasses.asdict(estimate(values)).items()}


# Delineation ----------------------------------------------------------------------------------------------------------


def delineation_table(
    encoders: Sequence[Encoder], records: MeasuredRecords, seed: int, resamples: int, folder: Path, batch_size: int
) -> dict[str, Any]:
    """Boundaries found in each model's patches, and in those of random weights of the same shape (one seed)."""
    shapes = {encoder.shape: encoder for encoder in reversed(encoders)}
    tried = [(encoder.name, "pretrained", encoder.shape, encoder.model) for encoder in encoders]
    for like in reversed(shapes.values()):
        name = f"random weights like {like.name}" if len(shapes) > 1 else "random weights"
        tried.append((name, "random", like.shape, random_encoder(like, seed)))
    drawn = resample_patients(records.inputs.patients, _SEED, resamples)
    marked, grid = marked_waves(records.inputs), records.inputs.windows.extractor
    values, methods = {}, []
    for name, kind, shape, model in tried:
        found = keep_delineation(
            folder,
            encoder_sha256(model, grid),
            records.inputs,
            records.folds,
            seed,
            lambda model=model, name=name: delineate_all(model, records.inputs, records.folds, seed, batch_size, name),
        )
        by_record = zip(marked, records.inputs.ids, strict=True)
        counts = np.stack([count_record(waves, found[record], grid.sampling_rate) for waves, record in by_record])
        values[name] = measures(counts, drawn.weights)
        methods.append({"name": name, "kind": kind, "shape": shape, "points": _points(values[name], counts)})
    return {
        "resampled": drawn.unit,
        "leads": [lead for lead in grid.leads if any(lead in waves for waves in marked)],
        "methods": [{key: value for key, value in method.items() if key != "shape"} for method in methods],
        "differences": list(_delineation_differences(methods, values)),
    }


def _points(values: Mapping[str, np.ndarray], counts: np.ndarray) -> list[dict[str, Any]]:
    totals = counts.sum(0)
    return [
        {
            "wave": wave,
            "point": point,
            "marked": int(totals[row, 0] + totals[row, 1]),
            "found": int(totals[row, 0] + totals[row, 2]),
            **{measure: rounded(of_points[:, row]) for measure, of_points in values.items()},
        }
        for row, (wave, point) in enumerate(POINTS)
    ]


def _delineation_differences(
    methods: Sequence[Mapping[str, Any]], values: Mapping[str, Mapping[str, np.ndarray]]
) -> Iterator[dict[str, Any]]:
    for method in methods:
        for other in methods:
            if (method["kind"], other["kind"], method["shape"]) != ("pretrained", "random", other["shape"]):
                continue
            ours, theirs = values[method["name"]], values[other["name"]]
            for row, (wave, point) in enumerate(POINTS):
                yield {
                    "method": method["name"],
                    "beside": other["name"],
                    "wave": wave,
                    "point": point,
                    "sensitivity_more": rounded(ours["sensitivity"][:, row] - theirs["sensitivity"][:, row]),
                    "positive_predictive_value_more": rounded(
                        ours["positive_predictive_value"][:, row] - theirs["positive_predictive_value"][:, row]
                    ),
                    "sd_error_less": rounded(theirs["sd_error"][:, row] - ours["sd_error"][:, row]),
                }

"""The cells of a probe: a method fitted for one fold, each in a file of its own, so that a killed run goes on."""

import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dataset_scripts.outputs import whole_file
from modeling_ecg_jepa import EcgJepaError, EcgJepaOutputError

from .metrics import outcomes
from .probe_methods import Method
from .probe_records import Part, ProbeRecords, parts_of

#: Raised whenever a field of a cell or of `probe.json` changes its meaning.
SCHEMA_VERSION = 1

Cell = dict[str, Any]
"""What stands in a cell's file: `fold`, `seed`, `scores` {record: a number a class}, what was chosen on the way, ..."""

_IN_WORDS = {
    "cross_validate": "cross-validation in folds 1-8",
    "confirm": "fitted on folds 1-8, tested on fold 9",
    "final": "fitted on folds 1-8, tested on fold 10",
    "transfer": "fitted on folds 1-8, tested on another corpus",
}


@dataclass(frozen=True)
class Setting:
    """What all methods of a table share: one of `EVALUATIONS`, the share of the fitted patients that is used, and the
    leads that are seen (None for all)."""

    evaluation: str
    fraction: float
    leads: tuple[str, ...] | None = None

    @property
    def title(self) -> str:
        labels = "all labels" if self.fraction == 1 else f"{self.fraction:.3g} of the labels"
        seen = f", lead{'s' * (len(self.leads) > 1)} {' + '.join(self.leads)} alone" if self.leads else ""
        return f"{_IN_WORDS[self.evaluation]}, {labels}{seen}"

    def seeds_of(self, method: Method, seeds: Sequence[int]) -> Sequence[int]:
        """One where another would give the same scores again."""
        return seeds if method.varies or self.fraction < 1 else seeds[:1]


def run_cells(
    folder: Path, records: ProbeRecords, methods: Sequence[Method], settings: Sequence[Setting], seeds: Sequence[int]
) -> dict[Setting, dict[Method, dict[int, list[Cell]]]]:
    """Every cell, from the file that an earlier run left or computed: by setting, method and seed, a cell a fold.

    Raises:
        EcgJepaConfigError: too few records to fit, before anything is computed.
        EcgJepaOutputError: as `run_cell`.
    """
    plan = [
        (setting, method, seed, parts_of(records, setting.evaluation, setting.fraction, seed))
        for setting in settings
        for method in methods
        for seed in setting.seeds_of(method, seeds)
    ]
    done: dict[Setting, dict[Method, dict[int, list[Cell]]]] = {
        setting: {method: {} for method in methods} for setting in settings
    }
    with tqdm(total=sum(len(parts) for *_, parts in plan), desc="cells", smoothing=0) as bar:
        for setting, method, seed, parts in plan:
            bar.set_postfix_str(f"{method.name}, seed {seed}")
            cells = done[setting][method][seed] = []
            for part in parts:
                cells.append(run_cell(folder, records, method, setting, seed, part))
                bar.update()
    return done


def run_cell(folder: Path, records: ProbeRecords, method: Method, setting: Setting, seed: int, part: Part) -> Cell:
    """One cell, from its file if it is there: the name has the hash of all that the scores follow from.

    Raises:
        EcgJepaOutputError: its file is damaged, or cannot be written.
        EcgJepaError: scores that are no numbers.
    """
    file = cell_file(folder, records, method, setting, seed, part)
    if file.is_file():
        return read_cell(file)
    started = time.perf_counter()
    scores, chosen = method.fit(part, seed)
    if not np.isfinite(scores).all():
        raise EcgJepaError(f"{method.name}: {np.sum(~np.isfinite(scores)):,} scores are no numbers; training diverged.")
    cell = {
        "schema_version": SCHEMA_VERSION,
        "method": method.name,
        **_where(setting, seed, part),
        "seconds": round(time.perf_counter() - started, 2),
        "fitted_records": len(part.fitted),
        "tested_records": len(part.tested),
        "classes_not_fitted": [
            dataclasses.asdict(outcome)
            for outcome in outcomes(records.labels[part.fitted], records.names)
            if not outcome.defined
        ],
        **chosen,
        "scores": {records.ids[place]: row for place, row in zip(part.tested, scores.round(6).tolist(), strict=True)},
    }
    _write_cell(file, cell)
    return cell


def cell_file(folder: Path, records: ProbeRecords, method: Method, setting: Setting, seed: int, part: Part) -> Path:
    """Where a cell stands, whether or not it is there."""
    decides = {
        "schema_version": SCHEMA_VERSION,
        **_where(setting, seed, part),
        "method": method.identity,
        "records": records.part_sha256(part),  # and the leads that are seen
    }
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    name = f"{setting.evaluation}-{setting.fraction:g}-seed{seed}-fold{part.fold}-{key}.json"
    return folder / re.sub(r"[^\w.+-]+", "-", method.name) / name


def _where(setting: Setting, seed: int, part: Part) -> dict[str, Any]:
    return {"evaluation": setting.evaluation, "fraction": setting.fraction, "seed": seed, "fold": part.fold}


def scores_of(cells: Sequence[Cell], ids: Sequence[str]) -> np.ndarray:
    """(records, classes), in the order of `ids`."""
    by_id = {name: row for cell in cells for name, row in cell["scores"].items()}
    return np.array([by_id[name] for name in ids])


def _write_cell(file: Path, cell: Cell) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EcgJepaOutputError(f"Cannot write to {file.parent} ({error.strerror}). Choose another folder.") from error
    with whole_file(file) as unfinished:
        unfinished.write_text(json.dumps(cell) + "\n", encoding="utf-8")


def read_cell(file: Path) -> Cell:
    """
    Raises:
        EcgJepaOutputError: there is no such file, or it is damaged.
    """
    try:
        cell = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EcgJepaOutputError(
            f"The cell {file} is damaged ({error}). Remove it: it is then computed anew."
        ) from error
    if not isinstance(cell, dict) or "scores" not in cell:
        raise EcgJepaOutputError(f"{file} holds no cell of a probe. Remove it: it is then computed anew.")
    return cell

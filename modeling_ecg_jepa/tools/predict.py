"""What a checkpoint with a head says of records, however many: shown as it comes, and written as JSON or CSV."""

import collections
import csv
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from tqdm import tqdm
from transformers import AutoModelForSequenceClassification

from dataset_scripts.outputs import whole_file
from dataset_scripts.skipped import SkippedRecord, list_skipped, skipped_by

from ..errors_ecg_jepa import EcgJepaCheckpointError, EcgJepaInputError, EcgJepaOutputError, EcgJepaRecordError
from ..pipelines_ecg_jepa import EcgClassificationPipeline, EcgMeasurementPipeline, EcgPipeline
from .checkpoint import CONFIG, checkpoint_folder, choose_device, load_model, read_json
from .embed_sources import NamedRecord, name_records

#: Of the JSON; another number would mean other fields.
SCHEMA_VERSION = 1

NOT_A_DEVICE = "For research use. Not a medical device: nothing here is a diagnosis."

_PIPELINES: dict[str, type[EcgPipeline]] = {
    "EcgJepaForMultiLabelClassification": EcgClassificationPipeline,
    "EcgJepaForRegression": EcgMeasurementPipeline,
}


class Prediction(NamedTuple):
    """A record by its name in the output, and its result as the pipeline gives it."""

    record: str
    result: Mapping[str, Any]

    @property
    def used(self) -> list[Mapping[str, Any]]:
        """The windows that the result is made of."""
        return [window for window in self.result["windows"] if "error" not in window]


@dataclasses.dataclass(frozen=True)
class PredictionSummary:
    """How many records something was said of, and what was left out: records, and windows of the others."""

    records: int
    left_out: tuple[SkippedRecord, ...]


def load_pipeline(model: str | os.PathLike[str], device: str = "auto") -> EcgPipeline:
    """The pipeline of a checkpoint's own head: labels or measurements.

    Raises:
        EcgJepaCheckpointError: no such checkpoint, a damaged one, or one without a head.
        EcgJepaInputError: no such device here.
    """
    folder = checkpoint_folder(model)
    made_of = read_json(folder / CONFIG).get("architectures") or ["no class that it names"]
    task = next((_PIPELINES[name] for name in made_of if name in _PIPELINES), None)
    if task is None:
        raise EcgJepaCheckpointError(
            f"{os.fspath(model)} is made of {', '.join(made_of)}, which has no head for labels or measurements. "
            "Fine-tune it first (python -m train.finetune); `ecg-jepa embed` gives its vectors."
        )
    network, extractor = load_model(folder, AutoModelForSequenceClassification)
    return task(network, extractor, device=choose_device(device))


def predict_records(
    records: Sequence[NamedRecord], pipe: EcgPipeline, *, progress: bool = False, **options: Any
) -> Iterator[Prediction | SkippedRecord]:
    """Predictions in the order of the records, computed in batches across them, with bounded memory.

    Args:
        records: as `find` gives them.
        pipe: a pipeline of labels or measurements.
        progress: show a progress bar over records.
        options: of the pipeline, and `batch_size`.

    Yields:
        `Prediction`, and `SkippedRecord` for each record or window that cannot be used.
    """
    results = pipe((record.header for record in records), on_error="skip", **options)
    with tqdm(total=len(records), unit="record", disable=not progress) as bar:
        for record, result in zip(records, results, strict=True):
            bar.update()
            if "error" in result:
                yield skipped_by(result["error"], record.name)
                continue
            for window in result["windows"]:
                if "error" in window:
                    place = f"{record.name}, {window['start_s']:g} to {window['end_s']:g} s"
                    yield skipped_by(EcgJepaInputError(window["error"]), place)
            yield Prediction(record.name, result)


def predict(
    paths: Iterable[str | os.PathLike[str]],
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    show: Callable[[str], Any] = lambda line: None,
    **options: Any,
) -> PredictionSummary:
    """Predict records and folders of them with a checkpoint, a folder or a name on the Hub.

    Args:
        output: a file to write, `.json` with everything or `.csv` with a row for each record; replaced if it is there,
            whole or not at all.
        show: called with each line of a table.
        options: as of `predict_records`.

    Raises:
        EcgJepaError: the checkpoint, the output or an option; or nothing could be said of any record.
    """
    if output is not None and Path(output).suffix not in _WRITERS:
        raise EcgJepaOutputError(f"--output {output}: predictions are written as {' or '.join(_WRITERS)}.")
    pipe = load_pipeline(model, device)
    records, absent = find(paths)
    left_out, done = list(absent), 0

    def predictions() -> Iterator[Prediction]:
        nonlocal done
        width = max([len("record"), *(len(record.name) for record in records)])
        show(_table_line("record", "seconds", _HEADS[type(pipe)], width))
        for item in predict_records(records, pipe, **options):
            if isinstance(item, SkippedRecord):
                left_out.append(item)
                continue
            done += 1
            show(_table_line(item.record, _seconds(item), in_words(item.result), width))
            yield item
        if not done:
            listed = "\n".join(list_skipped(left_out))
            raise EcgJepaRecordError("nothing predicted", f"Nothing could be said of any record:\n{listed}")

    if output is None:
        collections.deque(predictions(), maxlen=0)
    else:
        about = {"schema_version": SCHEMA_VERSION, "note": NOT_A_DEVICE, "model": os.fspath(model), "options": options}
        write = _WRITERS[Path(output).suffix]
        with whole_file(output) as unfinished, open(unfinished, "w", encoding="utf-8", newline="") as file:
            write(file, predictions(), left_out, about)
    return PredictionSummary(done, tuple(left_out))


def find(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[NamedRecord], list[SkippedRecord]]:
    """The WFDB records of some paths and folders, each once, and the paths where there are none.

    Raises:
        EcgJepaInputError: two records of one name, or a prepared corpus.
    """
    found, absent = name_records(paths)
    records = [source for source in found if isinstance(source, NamedRecord)]
    if len(records) < len(found):
        raise EcgJepaInputError(
            "A prepared corpus is not read here: name WFDB records or folders of them, or give its rows to "
            "`transformers.pipeline`."
        )
    return records, absent


# In words ------------------------------------------------------------------------------------------------------------


def in_words(result: Mapping[str, Any]) -> str:
    """A record's result on a line: the labels that hold, or else the most likely one; or what was measured."""
    if "measurements" in result:
        return ", ".join(f"{each['name']} {each['value']:.4g} {each['unit']}" for each in result["measurements"])
    holding = [f"{each['label']} {each['score']:.2f}" for each in result["labels"] if each["holds"]]
    highest = result["labels"][0]
    return ", ".join(holding) or f"none (highest: {highest['label']} {highest['score']:.2f})"


def _seconds(prediction: Prediction) -> str:
    return f"{prediction.used[0]['start_s']:g}-{prediction.used[-1]['end_s']:g}"


def _table_line(record: str, seconds: str, words: str, width: int) -> str:
    return f"{record:<{width}}  {seconds:>12}  {words}"


_HEADS: dict[type[EcgPipeline], str] = {
    EcgClassificationPipeline: "labels that hold, with their probability",
    EcgMeasurementPipeline: "measurements",
}


# As files -------------------------------------------------------------------------------------------------------------


def _write_json(
    file: TextIO, predictions: Iterable[Prediction], left_out: Sequence[SkippedRecord], about: Mapping[str, Any]
) -> None:
    """One object, a line a record: `records` as the pipeline gives them, and `left_out`, known at the end."""
    file.write(json.dumps(about)[:-1] + ', "records": [')
    for place, prediction in enumerate(predictions):
        file.write((",\n" if place else "\n") + json.dumps({"record": prediction.record, **prediction.result}))
    file.write('\n], "left_out": ' + json.dumps([dataclasses.asdict(record) for record in left_out]) + "}\n")


def _write_csv(
    file: TextIO, predictions: Iterable[Prediction], left_out: Sequence[SkippedRecord], about: Mapping[str, Any]
) -> None:
    """A row for each record: where it was looked at, the labels that hold, and every score or measurement."""
    writer = None
    for prediction in predictions:
        row = _row(prediction)
        if writer is None:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
        writer.writerow(row)


def _row(prediction: Prediction) -> dict[str, Any]:
    used, result = prediction.used, prediction.result
    row = {"record": prediction.record, "start_s": used[0]["start_s"], "end_s": used[-1]["end_s"], "windows": len(used)}
    if "measurements" in result:
        return row | {f"{each['name']} ({each['unit']})": each["value"] for each in result["measurements"]}
    row["labels"] = ";".join(each["label"] for each in result["labels"] if each["holds"])
    scores = {each["label"]: each["score"] for each in result["labels"]}
    return row | {f"score {label}": scores[label] for label in sorted(scores)}


_WRITERS = {".json": _write_json, ".csv": _write_csv}

__all__ = [
    "NOT_A_DEVICE",
    "Prediction",
    "PredictionSummary",
    "find",
    "in_words",
    "load_pipeline",
    "predict",
    "predict_records",
]

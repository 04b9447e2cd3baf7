"""The corpora of `--corpus`: opened, checked, and refused where they hold what models are judged on."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from dataset_scripts.loading import corpus_builder
from dataset_scripts.skipped import SkippedRecord
from dataset_scripts.splits import SPLITS
from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaFeatureExtractor, EcgJepaRecordError

from .mixture import Mixture
from .options import PREPARED, CorpusChoice, PretrainOptions
from .windows import ArrowRows, ParquetRows, PreparedRows, Windows, leave_out_refused

#: Folds of PTB-XL on which models are chosen and tested: Wagner et al., Sci Data 7:154 (2020).
HELD_OUT_FOLDS = (9, 10)

#: Corpora on which measurements are judged, all their parts.
HELD_OUT_CORPORA = ("ludb",)

#: Ids of PTB-XL's records in the PhysioNet Challenges 2020 and 2021, which do not tell the fold.
_PTB_XL_IN_CHALLENGE = re.compile(r"HR\d{5}")


def load_corpora(
    options: PretrainOptions, extractor: EcgJepaFeatureExtractor, quiet: bool
) -> tuple[Mixture, list[SkippedRecord]]:
    """The corpora of a run, prepared for the model if they are not yet, and the records left out.

    Raises:
        EcgJepaConfigError: a corpus, folder or option that there is not; no usable record; or records of a held-out
            part without leave.
        EcgJepaRecordError: a folder or table that cannot be read.
    """
    corpora, skipped = [], []
    for choice in options.corpora():
        if choice.name in HELD_OUT_CORPORA and not choice.held_out:
            raise EcgJepaConfigError(f"{choice.name} is kept out of pretraining: models are judged on it. {_LEAVE}")
        rows, left_out = open_corpus(choice, extractor, num_proc=options.num_workers or None)
        windows = Windows(rows, extractor, choice.title)
        if not choice.held_out:
            refuse_held_out(windows)
        skipped += left_out + leave_out_refused(windows, num_workers=options.num_workers, quiet=quiet)
        if not len(windows):
            raise EcgJepaConfigError(f"{choice.title}: none of its {len(rows):,} records can be used.")
        corpora.append(windows)
    return Mixture(corpora, [choice.weight for choice in options.corpora()]), skipped


def open_corpus(
    choice: CorpusChoice, extractor: EcgJepaFeatureExtractor, num_proc: int | None = None
) -> tuple[PreparedRows, list[SkippedRecord]]:
    """Rows of a corpus on the model's grid, and the records that preparing left out: the training part, or all of it
    where the held-out parts are allowed."""
    rows, _, left_out = open_parts(choice, extractor, SPLITS if choice.held_out else SPLITS[:1], num_proc)
    return rows, left_out


def open_parts(
    choice: CorpusChoice, extractor: EcgJepaFeatureExtractor, wanted: Sequence[str], num_proc: int | None = None
) -> tuple[PreparedRows, np.ndarray, list[SkippedRecord]]:
    """Rows of some parts of a corpus on the model's grid, the part of each row, and the records that preparing left
    out.

    Args:
        wanted: of `SPLITS`; a part that the corpus does not have is none of the rows.

    Raises:
        EcgJepaConfigError: as `load_corpora`, or the corpus has none of these parts.
        EcgJepaRecordError: as `load_corpora`.
    """
    if choice.name == PREPARED:
        rows = ParquetRows(prepared_files(choice, wanted))
        return rows, np.repeat([part_of(file) for file, *_ in rows.groups], [count for *_, count in rows.groups]), []
    grid: dict[str, Any] = {
        "leads": list(extractor.leads),
        "sampling_rate": float(extractor.sampling_rate),
        "seconds": extractor.num_patches * extractor.patch_size / extractor.sampling_rate,
    }
    taken = sorted(grid.keys() & choice.options.keys())
    if taken:
        raise EcgJepaConfigError(f"{choice.title}: {', '.join(taken)} follow from the model; leave them out.")
    name, _, config = choice.name.partition("/")
    named = {"config_name": config} if config else {}
    builder = corpus_builder(name, data_dir=choice.data_dir, **grid, **named, **choice.options)
    builder.download_and_prepare(num_proc=num_proc)
    splits = builder.as_dataset()
    chosen = [split for split in wanted if split in splits]
    if not chosen:
        raise EcgJepaConfigError(f"{choice.title} has no training part, only {', '.join(splits)}. {_LEAVE}")
    rows = ArrowRows(datasets.concatenate_datasets([splits[split] for split in chosen]))
    return rows, np.repeat(chosen, [len(splits[split]) for split in chosen]), builder.left_out()


def prepared_files(choice: CorpusChoice, wanted: Sequence[str]) -> list[Path]:
    """The Parquet files of a folder that `ecg-jepa prepare` wrote, those of the wanted parts.

    Raises:
        EcgJepaConfigError: no folder was named, or it has none of these parts.
        EcgJepaRecordError: no such files in it.
    """
    if choice.data_dir is None:
        raise EcgJepaConfigError(
            f"--corpus {PREPARED} needs the folder that ecg-jepa prepare wrote: {PREPARED}:FOLDER."
        )
    folder = Path(choice.data_dir)
    files = sorted([*folder.glob("*.parquet"), *(folder / "data").glob("*.parquet")])
    if not files:
        raise EcgJepaRecordError(
            "no records", f"No Parquet files in {folder} or its data/; ecg-jepa prepare makes them."
        )
    chosen = [file for file in files if part_of(file) in wanted]
    if not chosen:
        raise EcgJepaConfigError(f"{choice.title} has no training part, only {files[0].name} and its like. {_LEAVE}")
    return chosen


def part_of(file: Path) -> str:
    """The part that a prepared file holds; one without a part in its name is training."""
    return next((split for split in SPLITS[1:] if file.name.startswith((f"{split}-", f"{split}."))), SPLITS[0])


_LEAVE = "To pretrain on what models are judged on all the same, pass --allow_held_out, or held_out: true in a recipe."


def refuse_held_out(windows: Windows) -> None:
    """
    Raises:
        EcgJepaConfigError: among the rows are records of PTB-XL's folds 9 and 10, or some that may be.
    """
    folds = windows.rows.column("fold")
    held_out = np.isin(folds.to_numpy(), HELD_OUT_FOLDS).sum() if folds is not None else 0
    if held_out:
        raise EcgJepaConfigError(
            f"{windows.corpus} holds {held_out:,} records of folds 9 and 10, on which models are chosen and tested: an "
            f"encoder that has seen them proves nothing there. Prepare folds 1 to 8 alone. {_LEAVE}"
        )
    ids = windows.rows.column("record_id")
    disguised = sum(bool(_PTB_XL_IN_CHALLENGE.fullmatch(name)) for name in ids.to_pylist()) if ids is not None else 0
    if disguised:
        raise EcgJepaConfigError(
            f"{windows.corpus} holds {disguised:,} records of PTB-XL under the Challenge's ids (HR...), which do not "
            f"tell the fold, so some may be of the test fold. Use the corpus ptb_xl instead. {_LEAVE}"
        )


def held_out_warning(folders: list[str]) -> str | None:
    """What to know of plain WFDB folders that lie in a copy of PTB-XL; None if none does."""
    for folder in map(Path, folders):
        for place in (folder, *folder.resolve().parents[:3]):
            if (place / "ptbxl_database.csv").is_file():
                return (
                    f"WARNING: {folder} belongs to PTB-XL, and every record in it is trained on: those of folds 9 and "
                    "10 too, on which models are chosen and tested, and those of records100 and records500, which are "
                    f"the same. To train on folds 1 to 8, each once: --corpus ptb_xl --data_dir {place}."
                )
    return None

"""A corpus as a folder that plain `datasets.load_dataset` and the Hub read: Parquet shards, a card, plots, lists.

README.md                             the dataset card
data/train-00000-of-00002.parquet     the rows, in shards, with their features
split.json                            which record is in which split, with a hash
left_out.jsonl                        a line for each record that was left out: place, reason, message, by_choice
plots/*.png                           what the card shows
"""

import dataclasses
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq

from .corpus import LEFT_OUT, EcgCorpus
from .dataset_card import SPLIT_MANIFEST, write_card
from .dataset_plots import draw_plots
from .dataset_statistics import SplitStatistics, split_statistics
from .skipped import SkippedRecord
from .splits import SplitManifest, write_split_manifest

#: Rows a shard in bytes, before compression: small enough that many processes find shards of their own.
MAX_SHARD_SIZE = "200MB"


@dataclasses.dataclass(frozen=True)
class PreparedFolder:
    """What was written: figures of each split, and the records that were left out."""

    splits: dict[str, SplitStatistics]
    left_out: list[SkippedRecord]


def write_dataset(
    builder: EcgCorpus, folder: Path, *, num_proc: int | None = None, max_shard_size: str = MAX_SHARD_SIZE
) -> PreparedFolder:
    """Write a corpus into an empty folder. A process holds some rows in memory, however large the corpus is.

    Args:
        builder: with its options; its cache is neither used nor filled.
        folder: exists, and should become visible only when this is done.
        num_proc: processes that prepare; each writes a shard or more of every split.
        max_shard_size: for instance "500MB", before compression.

    Raises:
        EcgJepaRecordError: as `load_ecg_dataset`.
    """
    written = folder / "written"
    builder.download_and_prepare(
        output_dir=str(written / "rows"), file_format="parquet", num_proc=num_proc, max_shard_size=max_shard_size
    )
    left_out = _without_place(builder)
    shards = _named_shards(builder, written / "rows", folder / "data")
    shutil.rmtree(written)
    lines = [json.dumps(dataclasses.asdict(record)) + "\n" for record in left_out]
    (folder / LEFT_OUT).write_text("".join(lines), encoding="utf-8")
    features = builder.info.features
    splits = {split: split_statistics(files, features) for split, files in shards.items()}
    plots = draw_plots(folder / "plots", splits, next(iter(shards.values()))[0])
    ids = {split: statistics.record_ids for split, statistics in splits.items()}
    manifest = SplitManifest.of(builder.name, str(builder.info.version), ids)
    write_split_manifest(folder / SPLIT_MANIFEST, manifest)
    write_card(folder, builder, splits, left_out, plots, manifest)
    return PreparedFolder(splits, left_out)


def _named_shards(builder: EcgCorpus, written: Path, data: Path) -> dict[str, list[Path]]:
    """The Parquet files of each split, moved to where `datasets` finds them and knows their split by name."""
    data.mkdir()
    shards = {}
    for split in builder.info.splits:
        files = sorted(written.glob(f"*-{split}*.parquet"))
        # A process of which all records were left out has written a shard without rows.
        files = [file for file in files if pq.read_metadata(file).num_rows]
        names = [f"{split}-{place:05d}-of-{len(files):05d}.parquet" for place in range(len(files))]
        shards[split] = [file.rename(data / name) for file, name in zip(files, names, strict=True)]
    return shards


def _without_place(builder: EcgCorpus) -> list[SkippedRecord]:
    """The records left out, without the corpus's place on this machine, which would be published with them."""
    root = f"{builder.config.data_dir}/"
    return [dataclasses.replace(record, message=record.message.replace(root, "")) for record in builder.left_out()]

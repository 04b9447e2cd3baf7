"""Embeddings of many records as a folder of shards, on several processes and by arrays of jobs.

What a shard holds follows from the records alone: so many of them in their order. Which process or job makes it changes
nothing, and a shard is done or not there. So a run that was killed goes on with the shards that are missing, also on
another number of processes or jobs.
"""

import dataclasses
import datetime
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from dataset_scripts.outputs import whole_file
from dataset_scripts.skipped import SkippedRecord

from ..errors_ecg_jepa import EcgJepaConfigError, EcgJepaInputError, EcgJepaOutputError
from ..feature_extraction_ecg_jepa import EcgJepaFeatureExtractor
from ..modeling_ecg_jepa import EcgJepaModel
from .checkpoint import checkpoint_folder, choose_device, load_encoder
from .embed import EmbeddingSummary, embed_sources, nothing_embedded, throughput
from .embed_sources import Source, input_sha256, name_records
from .embedding_files import differences, origin_of, read_origin, shard_name, write_embeddings

# An extra of the project.
if TYPE_CHECKING:
    from accelerate import PartialState

#: Records a shard: 3 MB of embeddings at base size, 7 minutes of work for 2 CPU cores, a second for a GPU.
SHARD_RECORDS = 1024

# A process that is done waits for the slowest one, which may take hours longer.
_PATIENCE = datetime.timedelta(days=30)


@dataclasses.dataclass(frozen=True)
class Part:
    """The share of a job: the shards `number`, `number + of`, ... counted from 1."""

    number: int = 1
    of: int = 1


WHOLE = Part()


@dataclasses.dataclass(frozen=True, eq=False)
class Shard:
    """Some of the records, and the file that holds their embeddings."""

    path: Path
    sources: Sequence[Source]


@dataclasses.dataclass(frozen=True)
class ShardSummary(EmbeddingSummary):
    """What is in the shards of a job; `made` of its `shards`, with `made_records`, were made now, by `processes`."""

    shards: int
    made: int
    made_records: int
    processes: int

    def in_words(self) -> list[str]:
        if not self.shards:
            return [f"No shard falls to this job: there are fewer shards than jobs. {self.output}"]
        held = f"{self.records:,} records embedded, {self.rows:,} rows of {self.hidden_size} numbers"
        lines = [f"{held}, shards {self.shards:,}: {self.output}"]
        if self.made < self.shards:
            lines.append(f"shards that were there already: {self.shards - self.made:,}")
        if self.made:
            by = f", by {self.processes} processes" if self.processes > 1 else ""
            lines.append(throughput(self.made_records, self.seconds) + by)
        return lines


def parse_part(text: str) -> Part:
    """The share of a job, written i/n.

    Raises:
        EcgJepaConfigError: not of this form, or no i of 1 to n.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if match and 1 <= int(match[1]) <= int(match[2]):
        return Part(int(match[1]), int(match[2]))
    raise EcgJepaConfigError(
        f"--shard {text!r} must be i/n with i from 1 to n: job 2 of 4 is 2/4. In a SLURM array of 4 jobs: "
        "--array=1-4 and --shard $SLURM_ARRAY_TASK_ID/4."
    )


def embed_to_shards(
    paths: Iterable[str | os.PathLike[str]],
    model: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    part: Part = WHOLE,
    shard_records: int = SHARD_RECORDS,
    device: str = "auto",
    progress: bool = False,
    **options: Any,
) -> ShardSummary | None:
    """Embed records into a folder of Parquet shards, those that are not there yet.

    Under `torchrun` or `accelerate launch` the processes share the shards.

    Args:
        paths, model, device, options: as of `embed.embed_to_parquet`.
        output_dir: is made if it is not there.
        part: the share of this job.
        shard_records: records a shard.

    Returns:
        The summary in the main process, None in all others.

    Raises:
        EcgJepaError: as `embed_to_parquet`; or the folder holds shards of another input, model or options.
    """
    with _processes(device) as state:
        folder = checkpoint_folder(model)
        encoder, extractor = load_encoder(folder, state.device if process_count() > 1 else choose_device(device))
        origin = origin_of(model, folder, encoder, extractor, options)
        found, absent = name_records(paths)
        if not found:
            raise nothing_embedded(absent)
        shards = cut(found, Path(output_dir), shard_records)
        mine = shards[part.number - 1 :: part.of]
        pending = unfinished(shards, mine, origin)
        start = time.perf_counter()
        state.wait_for_everyone()  # all have seen what is there before one of them adds to it
        with state.split_between_processes(pending) as own:
            _make(own, origin, encoder, extractor, options, quiet=not (progress and state.is_main_process))
        state.wait_for_everyone()
        if not state.is_main_process:
            return None
        seconds = time.perf_counter() - start
        return _summary(Path(output_dir), mine, pending, absent, encoder.config.hidden_size, seconds)


def cut(sources: Sequence[Source], folder: Path, shard_records: int) -> list[Shard]:
    """All records in their order, so many a shard."""
    starts = range(0, len(sources), shard_records)
    return [
        Shard(folder / shard_name(number, len(starts)), sources[start : start + shard_records])
        for number, start in enumerate(starts)
    ]


def unfinished(shards: Sequence[Shard], mine: Sequence[Shard], origin: Mapping[str, Any]) -> list[Shard]:
    """Those of `mine` that are not there yet.

    Raises:
        EcgJepaOutputError: the folder is a file, or holds a Parquet file that is none of `shards`, a shard of another
            model or options, or one of `mine` of other records.
    """
    folder = shards[0].path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = sorted(folder.glob("*.parquet"))
    except OSError as error:
        raise EcgJepaOutputError(f"Cannot use {folder} for shards ({error}). Choose another folder.") from error
    expected = {shard.path for shard in shards}
    foreign = [path.name for path in there if path not in expected]
    if foreign:
        raise _refused(folder, f"{foreign[0]}, none of the {len(shards)} shards of this input and --shard-records")
    for path in there:
        differing = _differing(path, origin)
        if differing:
            raise _refused(folder, f"{path.name}, made otherwise: {'; '.join(differing)}")
    done = [shard for shard in mine if shard.path in there]
    for shard in done:
        if read_origin(shard.path)[0].get("input_sha256") != input_sha256(shard.sources):
            raise _refused(folder, f"{shard.path.name}, made of other records")
    return [shard for shard in mine if shard.path not in there]


def _differing(path: Path, origin: Mapping[str, Any]) -> list[str]:
    try:
        return differences(read_origin(path)[0], origin)
    except EcgJepaInputError as error:
        raise EcgJepaOutputError(f"{error} Or remove this file: it is then made anew.") from error


def _refused(folder: Path, what: str) -> EcgJepaOutputError:
    return EcgJepaOutputError(
        f"{folder} holds {what}. Choose an empty folder, or remove these shards if they are no longer wanted."
    )


def _make(
    shards: Sequence[Shard],
    origin: Mapping[str, Any],
    encoder: EcgJepaModel,
    extractor: EcgJepaFeatureExtractor,
    options: Mapping[str, Any],
    quiet: bool,
) -> None:
    with tqdm(total=sum(len(shard.sources) for shard in shards), unit="record", disable=quiet) as bar:
        for shard in shards:
            embedded = embed_sources(shard.sources, encoder, extractor, bar=bar, **options)
            with whole_file(shard.path) as unfinished:
                write_embeddings(unfinished, embedded, {**origin, "input_sha256": input_sha256(shard.sources)})


def _summary(
    folder: Path,
    mine: Sequence[Shard],
    pending: Sequence[Shard],
    absent: Sequence[SkippedRecord],
    hidden_size: int,
    seconds: float,
) -> ShardSummary:
    """What is in the shards of a job, those of earlier runs included.

    Raises:
        EcgJepaRecordError: there is no row in any of them.
    """
    done = {shard.path: read_origin(shard.path)[1] for shard in mine}
    left_out = (*absent, *(record for each in done.values() for record in each.left_out))
    rows = sum(each.rows for each in done.values())
    if mine and not rows:
        raise nothing_embedded(left_out)
    return ShardSummary(
        output=folder,
        records=sum(each.records for each in done.values()),
        rows=rows,
        hidden_size=hidden_size,
        seconds=seconds,
        left_out=left_out,
        shards=len(mine),
        made=len(pending),
        made_records=sum(done[shard.path].records for shard in pending),
        processes=process_count(),
    )


# Processes ------------------------------------------------------------------------------------------------------------


def process_count() -> int:
    """How many processes a launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launcher_warning() -> str | None:
    """What a launcher did silently: `accelerate launch --cpu --num_processes N` starts one process."""
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        return (
            "WARNING: the launcher was asked for several processes and started one. On CPUs: torchrun "
            "--nproc_per_node N -m modeling_ecg_jepa.tools.cli embed ..."
        )
    return None


@contextmanager
def _processes(device: str) -> Iterator["PartialState"]:
    """What Accelerate knows of the processes that a launcher started, or of the one without.

    Raises:
        EcgJepaConfigError: Accelerate is not installed, or several processes are to share one GPU.
        EcgJepaInputError: no such device here.
    """
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise EcgJepaConfigError('--output-dir needs accelerate: pip install "ecg-jepa[train]".') from error
    on_cpu = choose_device(device).type == "cpu"
    if process_count() > 1 and device not in ("auto", "cpu", "cuda"):
        raise EcgJepaConfigError(
            f"--device {device} is one for {process_count()} processes. Pass auto, cpu or cuda: each takes its own."
        )
    state = PartialState(cpu=on_cpu, timeout=_PATIENCE)
    if on_cpu and process_count() > 1:  # a launcher leaves each process a single thread
        local = int(os.environ.get("LOCAL_WORLD_SIZE", process_count()))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local))
    try:
        yield state
    finally:
        state.destroy_process_group()


__all__ = [
    "SHARD_RECORDS",
    "Part",
    "ShardSummary",
    "embed_to_shards",
    "launcher_warning",
    "parse_part",
    "process_count",
]

"""How a run ends before its time: what became of it, in words, and how to go on without loss."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from modeling_ecg_jepa import EcgJepaError

from .checkpoints import checkpoints
from .data import batches_of_step

#: What torch says when a process that this one talks to is no more: gloo, then NCCL.
_PEER_LOST = re.compile(r"by peer|remote process|timed? ?out waiting|Connection refused|NCCL", re.IGNORECASE)

#: So many of a batch's records are named in a message.
_MOST_NAMED = 8


class NotFiniteError(EcgJepaError):
    """The loss or the gradients of a step, counted from 0, are not finite."""

    def __init__(self, step: int, measured: str):
        super().__init__(measured)
        self.step, self.measured = step, measured


def blame(accelerator: Accelerator, loader: DataLoader, parts: int, error: NotFiniteError) -> str:
    """Which records were in the batch that `error` speaks of, and what is wrong with them. All processes call this."""
    records = loader.dataset
    places = [place for batch in batches_of_step(loader, parts, error.step) for place in batch]
    faults = [fault for place in places if (fault := _fault(records.name(place), records[place]))]
    named = [records.name(place) for place in places[:_MOST_NAMED]]
    faults, named = (gather_object(texts) if accelerator.num_processes > 1 else texts for texts in (faults, named))
    batch = f"step {error.step + 1} (of {len(places) * accelerator.num_processes} records)"
    if faults:
        return (
            f"{error.measured} at {batch}, by no fault of the training: {'; '.join(faults[:_MOST_NAMED])}. Leave these "
            "records out or mend them."
        )
    return (
        f"{error.measured} at {batch}. Its records are sound: {', '.join(named[:_MOST_NAMED])}, ... So training "
        "diverges: start another run with a lower --learning_rate or a longer --warmup_steps; with --mixed_precision "
        "fp16 use bf16 or no."
    )


def _fault(name: str, row: dict[str, np.ndarray]) -> str | None:
    values = row["input_values"]
    count = int(np.count_nonzero(~np.isfinite(values)))
    return f"{name} has {count:,} of {values.size:,} values that are not finite" if count else None


@contextmanager
def ends_in_words(accelerator: Accelerator, folder: Path) -> Iterator[None]:
    """Within this, lost processes, interruption and termination become errors that say how to go on.

    Raises:
        EcgJepaError: what happened and which checkpoint is left.
    """
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KeyboardInterrupt as interruption:
        raise EcgJepaError(f"Interrupted{interruption}. {how_to_go_on(folder)}") from interruption
    except RuntimeError as error:  # torch has no classes of its own for these
        if "DataLoader worker" in str(error):
            raise EcgJepaError(
                f"A process that reads records for training is gone ({str(error).splitlines()[0]}); usually the system "
                f"killed it because memory ran out. Lower --num_workers or --memory_gb. {how_to_go_on(folder)}"
            ) from error
        if accelerator.num_processes == 1 or not _PEER_LOST.search(str(error)):
            raise
        raise EcgJepaError(
            f"Process {accelerator.process_index} lost another process of this run ({str(error).splitlines()[0]}); "
            f"look above for why that one ended. {how_to_go_on(folder)}"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(number: int, _frame) -> None:
    raise KeyboardInterrupt(f" by signal {signal.Signals(number).name}")


def how_to_go_on(folder: Path) -> str:
    """Which checkpoint is there, and what goes on from it."""
    newest = next(reversed(checkpoints(folder)), None)
    if newest is None:
        return "There is no checkpoint yet; --checkpointing_steps 500 makes one every 500 steps."
    return f"The newest checkpoint is {newest}: --resume_from_checkpoint latest goes on from there."

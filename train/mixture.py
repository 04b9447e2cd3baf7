"""Several corpora as one dataset, and the order in which training sees them.

The order is a function of (seed, epoch) and, for Parquet, of the number of workers; it is known before anything is
read: so processes share an epoch without a word between them, and a run that goes on finds its place without reading
what it has seen.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from .data import Row
from .windows import LANES_A_STEP, Windows


class Mixture(Dataset):
    """The usable records of some corpora, one corpus after the other.

    Args:
        corpora: each with its records.
        weights: how often a record is drawn beside a record of weight 1, one a corpus.
    """

    def __init__(self, corpora: Sequence[Windows], weights: Sequence[float]):
        self.corpora, self.weights = list(corpora), list(weights)
        self.starts = np.cumsum([0, *map(len, corpora)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def read_in_groups(self) -> bool:
        return any(corpus.rows.read_in_groups for corpus in self.corpora)

    def __getitem__(self, place: int) -> Row:
        windows, in_corpus = self._find(place)
        return windows[in_corpus]

    def name(self, place: int) -> str:
        windows, in_corpus = self._find(place)
        return windows.name(in_corpus)

    def _find(self, place: int) -> tuple[Windows, int]:
        corpus = int(np.searchsorted(self.starts, place, side="right")) - 1
        return self.corpora[corpus], place - int(self.starts[corpus])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch, in the order of `indices`; so the loader's `collate_fn` is `as_it_is`."""
        places = np.asarray(indices)
        origins = np.searchsorted(self.starts, places, side="right") - 1
        rows = [np.flatnonzero(origins == corpus) for corpus in range(len(self.corpora))]
        parts = [
            self.corpora[corpus].__getitems__(places[chosen] - self.starts[corpus])
            for corpus, chosen in enumerate(rows)
            if chosen.size
        ]
        if len(parts) == 1:
            return parts[0]
        back = torch.from_numpy(np.argsort(np.concatenate(rows)))
        return {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}


class MixtureSampler(Sampler[int]):
    """Places of a mixture, epoch by epoch, the same for one process as for several that share its batch.

    An epoch has as many draws as the mixture has records. With equal weights it is every record once, but for the last
    incomplete steps; with others a corpus goes on in the next epoch where it stopped, and begins anew, in another
    order, when all of it was seen.

    Memory-mapped corpora are drawn from anywhere. Of Parquet a step takes equal runs from each of `LANES_A_STEP` lanes,
    stretches of a corpus that are read one after the other, and the next step, which another worker reads, from the
    next so many lanes. Accelerate gives each process its part of every step. So what lies together in a file is read
    by one worker, at least while there are no more than `LANES_A_STEP` processes.

    Args:
        mixture: what is drawn from.
        step: records of an optimizer step, over all processes.
        workers: of each process's loader; 0 is itself.
    """

    def __init__(self, mixture: Mixture, step: int, seed: int, workers: int = 0):
        self.mixture, self.seed = mixture, seed
        self.lanes, self.run = 1, step
        if mixture.read_in_groups:
            in_a_step = math.gcd(step, LANES_A_STEP)
            self.run = step // in_a_step
            # Where workers would go short, fewer lanes.
            self.lanes = in_a_step * max(1, min(workers, len(mixture) // step))
        sizes = np.array([len(corpus) for corpus in mixture.corpora])
        shares = np.cumsum(sizes * mixture.weights) / np.dot(sizes, mixture.weights)
        #: Draws of each corpus in an epoch.
        self.draws = np.diff(np.rint(shares * len(mixture)).astype(int), prepend=0)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self._runs_a_lane() * self.run * self.lanes

    def __iter__(self) -> Iterator[int]:
        count = self._runs_a_lane()
        lanes = [self._lane(lane)[: count * self.run] for lane in range(self.lanes)]
        runs = np.stack(lanes).reshape(self.lanes, count, self.run)
        return iter(runs.swapaxes(0, 1).ravel().tolist())

    def _runs_a_lane(self) -> int:
        # The last part that np.array_split makes is the shortest.
        return int(sum(draws // self.lanes for draws in self.draws)) // self.run

    def _lane(self, lane: int) -> np.ndarray:
        """The places of a lane: each corpus in its own order, the corpora mixed."""
        parts = [np.array_split(self._drawn(corpus), self.lanes)[lane] for corpus in range(len(self.draws))]
        origins = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        np.random.default_rng([self.seed, self.epoch, lane]).shuffle(origins)
        places = np.empty(len(origins), dtype=np.int64)
        for corpus, part in enumerate(parts):
            places[origins == corpus] = part + self.mixture.starts[corpus]
        return places

    def _drawn(self, corpus: int) -> np.ndarray:
        """This epoch's places in a corpus, cut from its endless order: one random order of all after the other."""
        windows, draws = self.mixture.corpora[corpus], self.draws[corpus]
        first, size = self.epoch * draws, len(windows)
        passes = range(first // size, (first + draws - 1) // size + 1) if draws else ()
        orders = [windows.order(np.random.default_rng([self.seed, corpus, number])) for number in passes]
        start = first - (first // size) * size
        return np.concatenate([np.empty(0, dtype=np.int64), *orders])[start : start + draws]

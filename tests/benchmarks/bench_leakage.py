"""What the search for near duplicates costs: `python tests/benchmarks/bench_leakage.py [--folder WFDB_RECORDS]`.

Three parts, each in one process:
- a record: reading it and making its sketch (from --folder, else made up);
- the search alone: candidates among 1,000, 4,000, 16,000 and 50,000 sketches, made of those of real or made-up records
  by mixing two (mean and variance of every coordinate stay), so that there are as many near neighbours as in life;
- a candidate: reading two records and comparing them sample by sample.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np

from dataset_scripts.leakage import candidate_pairs, correlation, sketch
from dataset_scripts.recordings import find_recordings
from dataset_scripts.synthesis import synthesize_record

SIZES = (1_000, 4_000, 16_000, 50_000)


def mean_seconds(function: Callable, items: Sequence) -> tuple[float, list]:
    start = time.perf_counter()
    results = [function(item) for item in items]
    return (time.perf_counter() - start) / len(items), results


def mixed(points: np.ndarray, count: int) -> np.ndarray:
    """(count, 8, 32) sketches with the mean and the variance of those given."""
    rng = np.random.default_rng(0)
    mean = points.mean(axis=0)
    one, two = (points[rng.integers(0, len(points), count)] - mean for _ in range(2))
    return (mean + np.sqrt(0.5) * (one + two)).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="WFDB records to take the sketches from, PTB-XL for instance")
    parser.add_argument("--records", type=int, default=1_000, help="so many of them")
    options = parser.parse_args()
    if options.folder:
        readers = [recording.read for recording in find_recordings([options.folder])][: options.records]
        read, records = mean_seconds(lambda reader: reader(), readers)
    else:
        read, records = 0.0, [synthesize_record(0, index)[0] for index in range(options.records)]
    sketching, sketches = mean_seconds(sketch, records)
    compare, _ = mean_seconds(lambda pair: correlation(*pair), list(itertools.pairwise(records[:50])))
    print(f"a record: read {1e3 * read:.2f} ms, sketch {1e3 * sketching:.2f} ms; a candidate: {1e3 * compare:.1f} ms")
    whole = np.concatenate([points for points in sketches if not np.isnan(points).any()])
    print("records   search s   candidates   all on one core, s")
    for size in SIZES:
        points = mixed(whole, size)
        start = time.perf_counter()
        pairs = candidate_pairs(points, np.arange(size))
        search = time.perf_counter() - start
        everything = search + size * (read + sketching) + len(pairs) * (compare + 2 * read)
        print(f"{size:7,}   {search:8.1f}   {len(pairs):10,}   {everything:18.0f}")


if __name__ == "__main__":
    main()

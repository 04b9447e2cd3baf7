"""How fast and how frugal the corpora are: `python tests/benchmarks/bench_data.py [--quick]`.

Records of 12 leads, 10 s, 500 Hz, written to a temporary folder (two real ones, shifted in time), become windows of the
model: 8 leads at 250 Hz. Everything in one run, cases alternating, medians. Beside each time stands that of
- naive: `wfdb.rdrecord` and `scipy.signal.resample`, record by record in one process, as the authors' loader does; for
  preparing, the windows are kept in a list and saved as one array.
Ours also verifies checksums, finds faults, computes the quality columns, and writes rows that `datasets` loads.
"""

import argparse
import collections
import itertools
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import datasets
import numpy as np
import scipy.signal
import torch
import wfdb
from measuring import Case, medians, peak_memory
from torch.utils.data import DataLoader

from dataset_scripts.corpus import EcgCorpus
from dataset_scripts.loading import corpus_builder
from modeling_ecg_jepa import EcgJepaFeatureExtractor
from modeling_ecg_jepa.leads_ecg_jepa import ECG_JEPA_LEADS, STANDARD_12_LEADS

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `train` runs from a checkout
from train import windows
from train.data import as_it_is
from train.mixture import Mixture, MixtureSampler
from train.windows import ArrowRows, ParquetRows, PreparedRows, Windows

RECORDS = Path(__file__).resolve().parents[1] / "fixtures" / "records" / "ptb-xl"
WINDOW = {"leads": list(ECG_JEPA_LEADS), "sampling_rate": 250.0, "seconds": 10.0}
ROWS = [STANDARD_12_LEADS.index(lead) for lead in ECG_JEPA_LEADS]
EXTRACTOR = EcgJepaFeatureExtractor()


def write_records(folder: Path, count: int) -> Path:
    """`count` records under a folder, a hundred a sub-folder. A shift in time leaves the header's checksums right."""
    sources = sorted(RECORDS.glob("*.hea"))
    signals = [np.fromfile(source.with_suffix(".dat"), dtype="<i2").reshape(-1, 12) for source in sources]
    for place in range(count):
        source, signal = sources[place % len(sources)], signals[place % len(sources)]
        path = folder / f"{place // 100:03d}" / f"r{place:06d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".hea").write_text(source.read_text().replace(source.stem, path.stem))
        np.roll(signal, 7 * place, axis=0).tofile(path.with_suffix(".dat"))
    return folder


def naive_window(path: Path) -> np.ndarray:
    record = wfdb.rdrecord(str(path.with_suffix("")))
    return scipy.signal.resample(record.p_signal.T[ROWS], 2500, axis=1).astype(np.float32)


def naive_preparation(paths: Iterable[Path], target: Path) -> None:
    np.save(target, np.stack([naive_window(path) for path in paths]))


def builder_of(folder: Path, cache: Path) -> EcgCorpus:
    return corpus_builder("wfdb_folder", data_dir=folder, cache_dir=str(cache), **WINDOW)


def prepared(folder: Path, cache: Path, num_proc: int | None = None, **options) -> EcgCorpus:
    builder = builder_of(folder, cache)
    builder.download_and_prepare(num_proc=num_proc, **options)
    return builder


def all_rows(builder: EcgCorpus) -> ArrowRows:
    return ArrowRows(datasets.concatenate_datasets(list(builder.as_dataset().values())))


# ----------------------------------------------------------------------------------------------------------------------
# Cases


def bench_reads(folder: Path, rows: PreparedRows, rounds: int) -> None:
    """Random records, a batch of 64 a call."""
    paths = sorted(folder.rglob("*.hea"))
    rng = np.random.default_rng(0)
    ready = Windows(rows, EXTRACTOR)

    def naive() -> torch.Tensor:
        return torch.from_numpy(np.stack([naive_window(paths[place]) for place in rng.integers(len(paths), size=64)]))

    def ours() -> dict[str, torch.Tensor]:
        return ready.__getitems__(rng.integers(len(ready), size=64))

    seconds = medians({"naive": naive, "ours": ours}, rounds)
    show("random read, ready for the model, ms", {name: 1000 * value / 64 for name, value in seconds.items()}, "30x")


def bench_preparation(folder: Path, work: Path, rounds: int) -> None:
    """Time on the clock, and of all processors together, which others on the machine disturb less."""
    paths = sorted(folder.rglob("*.hea"))
    caches = (work / f"cache{turn}" for turn in itertools.count())
    processor: dict[str, list[float]] = collections.defaultdict(list)

    def with_processor_time(name: str, case: Case) -> Case:
        def run() -> None:
            before = processor_seconds()
            case()
            processor[name].append(processor_seconds() - before)

        return run

    cases = {
        "naive": lambda: naive_preparation(paths, work / "naive.npy"),
        "1 process": lambda: prepared(folder, next(caches)),
        "ours": lambda: prepared(folder, next(caches), num_proc=2),
    }
    seconds = medians({name: with_processor_time(name, case) for name, case in cases.items()}, rounds)
    what = f"preparing {len(paths):,} records, 2 processes"
    show(f"{what}, ms", {name: 1000 * value / len(paths) for name, value in seconds.items()}, "4x")
    used = {name: 1000 * statistics.median(values[1:]) / len(paths) for name, values in processor.items()}
    show("  its processor time, ms", used, "2x, as there are two")


def processor_seconds() -> float:
    """Of this process and of those that it started and that ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def bench_feeding(sources: dict[str, PreparedRows], rounds: int) -> None:
    """Whole epochs in training's own order, in the training process itself and through a loader with two workers."""
    windows.BUFFER_ROWS = 1024  # so that it holds a part of these records only, as of a real corpus
    loaders = {
        f"{name}, {workers} workers": loader_of(rows, workers) for name, rows in sources.items() for workers in (0, 2)
    }
    cases = {
        name: lambda loader=loader: sum(len(batch["lead_mask"]) for batch in loader) for name, loader in loaders.items()
    }
    for name, seconds in medians(cases, rounds).items():
        rate = len(loaders[name].sampler) / seconds
        print(f"{f'records a second, {name}':46s} {rate:9.0f}   (to reach: 5,000)", flush=True)


def loader_of(rows: PreparedRows, workers: int) -> DataLoader:
    mixture = Mixture([Windows(rows, EXTRACTOR)], [1.0])
    sampler = MixtureSampler(mixture, step=64, seed=0, workers=workers)
    return DataLoader(
        mixture, 64, sampler=sampler, num_workers=workers, collate_fn=as_it_is, persistent_workers=workers > 0
    )


def bench_memory(folders: dict[int, Path]) -> None:
    peaks = {
        count: [memory_of_preparing(folder, processes) for processes in (1, 2)] for count, folder in folders.items()
    }
    for place, what in enumerate(("1 process", "the largest of 2")):
        values = "  ".join(f"{count:,} records {peak[place]:7.0f}" for count, peak in peaks.items())
        growth = max(peak[place] for peak in peaks.values()) / min(peak[place] for peak in peaks.values())
        print(
            f"{f'peak memory of preparing, {what}, MiB':46s} {values}   {growth:.2f}x   (to reach: no growth)",
            flush=True,
        )


def memory_of_preparing(folder: Path, processes: int) -> float:
    """Peak resident memory, MiB, of a fresh process that prepares a folder, or of the largest of its workers."""
    arguments = [sys.executable, __file__, "--memory-of", str(folder), str(processes)]
    return float(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)


def print_memory_of(folder: str, processes: int) -> None:
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        prepared(Path(folder), Path(cache), num_proc=processes if processes > 1 else None)
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(workers if processes > 1 else peak_memory())


# ----------------------------------------------------------------------------------------------------------------------
# Table


def show(what: str, values: dict[str, float], reach: str) -> None:
    """One row: milliseconds a record of each case, then ours against naive."""
    times = "  ".join(f"{name} {value:8.3f}" for name, value in values.items())
    print(f"{what:46s} {times}   ours: {values['naive'] / values['ours']:.1f}x naive   (to reach: {reach})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: about four minutes on two cores")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        print_memory_of(options.memory_of[0], int(options.memory_of[1]))
        return

    datasets.disable_progress_bars()
    print(f"datasets {datasets.__version__}, {os.cpu_count()} cores, {platform.processor() or platform.machine()}")
    print(f"load average at the start {os.getloadavg()[0]:.1f}; medians, milliseconds a record\n")
    with tempfile.TemporaryDirectory() as folder:
        bench(Path(folder), quick=options.quick)


def bench(work: Path, quick: bool) -> None:
    few, many = (write_records(work / str(count), count) for count in (300, 3000))
    bench_preparation(many, work, 1 if quick else 5)
    bench_memory({300: few, 3000: many})
    rows = all_rows(prepared(many, work / "many", num_proc=2))
    bench_reads(many, rows, 11 if quick else 41)
    prepared(many, work / "shards", num_proc=2, output_dir=str(work / "parquet"), file_format="parquet")
    parquet = ParquetRows(sorted((work / "parquet").glob("*.parquet")))
    bench_feeding({"Arrow": rows, "Parquet": parquet}, 3 if quick else 9)


if __name__ == "__main__":
    main()

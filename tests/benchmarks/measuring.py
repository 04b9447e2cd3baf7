"""How the benchmarks measure: cases in turn, medians, peak memory."""

import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

Case = Callable[[], object]


def medians(cases: dict[str, Case], rounds: int) -> dict[str, float]:
    """Seconds a call, median over rounds that go through all cases in turn, after one call each to warm up."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            synchronize()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> float:
    """Peak resident memory of this process since the last reset, MiB."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024

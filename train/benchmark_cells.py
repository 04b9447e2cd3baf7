"""The cells of a benchmark: what each is, who computes it, and what a killed or failed one leaves.

A cell is a method fitted for one table with one seed, computed by the functions of the linear probe and kept as it
keeps them; measurements are one cell. Cells that share embeddings share a process.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dataset_scripts.outputs import whole_file
from modeling_ecg_jepa import EcgJepaError
from modeling_ecg_jepa.tools.checkpoint import choose_device

from . import measure
from .benchmark_suites import DRAWS, BenchmarkOptions, Leads
from .embeddings import EmbeddingCache
from .measure_options import MeasureOptions
from .options import CorpusChoice
from .probe_cells import Cell, Setting, cell_file, read_cell, run_cell
from .probe_finetuned import FINE_TUNED, FineTuning, finetuned_method, finetuned_random_method
from .probe_methods import BASELINES, Encoder, Method, load_encoders, methods_of
from .probe_records import Part, ProbeRecords, parts_of

CELLS, EMBEDDINGS, MODELS, MEASURED = "cells", "embeddings", "finetuned", "measured"

#: What takes longest begins first.
_LONGEST_FIRST = (FINE_TUNED, "supervised", "measurements", "random", "pretrained", "statistics")


@dataclass(frozen=True, eq=False)
class Task:
    """A cell, or the cells of all folds of a method with one seed.

    Attributes:
        table: title of the table that it is for.
        method, seed: of it.
        kind: as of `probe_methods.Method`, or "measurements".
        process: tasks with the same are computed one after the other in one process.
        run: compute what is not there yet.
        cells: what is there then.
    """

    table: str
    method: str
    seed: int
    kind: str
    process: tuple
    run: Callable[[], None]
    cells: Callable[[], list[Cell]]


@dataclass(frozen=True, eq=False)
class Sheet:
    """What a table is made of.

    Attributes:
        setting, records: who is fitted and tested, and what is seen of them.
        tasks: of each method, by seed.
    """

    title: str
    setting: Setting
    records: ProbeRecords
    tasks: dict[Method, dict[int, Task]]


class Bench:
    """Everything that is to be computed, the same in every process; nothing is computed by making it.

    Args:
        records: of the corpus, all leads.
        transferred: records of `transfer_records`, where another corpus is tested.
    """

    def __init__(self, options: BenchmarkOptions, records: ProbeRecords, transferred: ProbeRecords | None = None):
        self.options, self.folder = options, Path(options.output_dir)
        self.device = choose_device(options.device)
        self.encoder: Encoder = load_encoders([options.model], self.device)[0]
        self.cache = EmbeddingCache(self.folder / EMBEDDINGS, options.batch_size, quiet=True)
        self.refused: list[dict[str, Any]] = []
        self.sheets = list(self._sheets(records, transferred))
        tasks = [task for sheet in self.sheets for by_seed in sheet.tasks.values() for task in by_seed.values()]
        self.measurements = self._measurements()
        self.tasks = [*tasks, self.measurements]

    def _sheets(self, records: ProbeRecords, transferred: ProbeRecords | None) -> Iterator[Sheet]:
        """Of all tables that can be made; the others are noted as refused, each with the reason."""
        suite, evaluation = self.options.suite, self.options.evaluation
        whole = self._methods(records, recipe=True)
        yield from self._sheet(Setting(evaluation, 1.0), records, whole + self._finetuned(records))
        for fraction in suite.fractions:
            yield from self._sheet(Setting(evaluation, fraction), records, self._also(whole))
        for leads in suite.leads:
            yield from self._seen_in(leads, records)
        if transferred is not None:
            yield from self._sheet(Setting("transfer", 1.0), transferred, self._also(self._methods(transferred)))

    def _also(self, methods: Sequence[Method]) -> list[Method]:
        """Those that are tried again with few labels, few leads, or on another corpus."""
        return [method for method in methods if self.options.suite.networks or method.kind != "supervised"]

    def _seen_in(self, leads: Leads, records: ProbeRecords) -> Iterator[Sheet]:
        setting = Setting(self.options.evaluation, 1.0, leads)
        try:
            seen = records.seen_in(leads)
        except EcgJepaError as error:
            self._refuse(setting.title, error)
            return
        yield from self._sheet(setting, seen, self._also(self._methods(seen)))

    def _sheet(self, setting: Setting, records: ProbeRecords, methods: Sequence[Method]) -> Iterator[Sheet]:
        try:
            tasks = {method: self._tasks(setting, records, method) for method in methods}
        except EcgJepaError as error:
            self._refuse(setting.title, error)
            return
        yield Sheet(setting.title, setting, records, tasks)

    def _refuse(self, table: str, error: Exception) -> None:
        self.refused.append({"table": table, "status": "failed", "message": in_words(error)})

    def _methods(self, records: ProbeRecords, recipe: bool = False) -> list[Method]:
        return methods_of(
            [self.encoder],
            records,
            pools=self.options.suite.pools,
            layers=((-1,),),
            baselines=tuple(BASELINES),
            cache=self.cache,
            device=self.device,
            recipe=recipe,
        )

    def _finetuned(self, records: ProbeRecords) -> list[Method]:
        suite = self.options.suite
        how = FineTuning(self.options.corpus, suite.finetune, self.folder / MODELS, self.options.threads)
        methods = [finetuned_method(self.encoder, records, how)]
        return methods + ([finetuned_random_method(self.encoder, records, how)] if suite.finetune_random else [])

    def _tasks(self, setting: Setting, records: ProbeRecords, method: Method) -> dict[int, Task]:
        """By seed.

        Raises:
            EcgJepaConfigError: too few records.
        """
        seeds = DRAWS if setting.fraction < 1 else self.options.suite.seeds
        return {seed: self._task(setting, records, method, seed) for seed in setting.seeds_of(method, seeds)}

    def _task(self, setting: Setting, records: ProbeRecords, method: Method, seed: int) -> Task:
        parts = parts_of(records, setting.evaluation, setting.fraction, seed)
        folder = self.folder / CELLS

        def run() -> None:
            for part in parts:
                run_cell(folder, records, method, setting, seed, part)

        def file(part: Part) -> Path:
            return cell_file(folder, records, method, setting, seed, part)

        kind = FINE_TUNED if method.features.get("variant") == FINE_TUNED else method.kind
        alone = kind in (FINE_TUNED, "supervised")
        shared = (setting.title, method.name, seed) if alone else (seed if kind == "random" else None,)
        return Task(
            table=setting.title,
            method=method.name,
            seed=seed,
            kind=kind,
            process=(kind, setting.evaluation == "transfer", setting.leads, *shared),
            run=run,
            cells=lambda: [read_cell(file(part)) for part in parts if file(part).is_file()],
        )

    # Measurements

    def _measurements(self) -> Task:
        suite, ludb = self.options.suite, self.options.ludb_dir
        corpus = CorpusChoice("ludb", ludb) if ludb else CorpusChoice("synthetic", options={"records": suite.synthetic})
        options = MeasureOptions(
            models=[self.options.model],
            corpus=corpus,
            output_dir=str(self.folder / MEASURED / "run"),
            cache_dir=str(self.folder / MEASURED / "cache"),
            pools=suite.pools,
            seeds=suite.seeds,
            resamples=self.options.resamples,
            delineation=suite.delineation,
            batch_size=self.options.batch_size,
            device=self.options.device,
            overwrite=True,
        )
        free = ("output_dir", "cache_dir", "batch_size", "device", "overwrite", "models", "cpu_threads")
        told = {name: value for name, value in dataclasses.asdict(options).items() if name not in free}
        asked = json.dumps([measure.SCHEMA_VERSION, self.encoder.sha256, told], sort_keys=True)
        key = hashlib.sha256(asked.encode()).hexdigest()[:16]
        file = self.folder / CELLS / "measurements" / f"{corpus.name}-{key}.json"
        return Task(
            table=f"measurements on {corpus.name}",
            method=f"all on {corpus.name}",
            seed=suite.seeds[0],
            kind="measurements",
            process=("measurements",),
            run=functools.partial(_measure, options, file),
            cells=lambda: [read_cell(file)] if file.is_file() else [],
        )


def _measure(options: MeasureOptions, file: Path) -> None:
    if file.is_file():
        return
    started = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        results, _ = measure.run(options)
    shutil.rmtree(options.output_dir)
    seconds = round(time.perf_counter() - started, 2)
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in results.items() if name not in ("command", "commit")}
    with whole_file(file) as unfinished:
        unfinished.write_text(json.dumps({"seconds": seconds, "scores": {}, "results": kept}) + "\n", encoding="utf-8")


# Processes ------------------------------------------------------------------------------------------------------------


def run_all(bench: Bench, records: ProbeRecords, transferred: ProbeRecords | None) -> dict[int, str]:
    """Compute every cell that is not there yet, in as many processes as the options say. Returns of each task that
    failed, by its number, why."""
    jobs: dict[tuple, list[int]] = {}
    for number, task in enumerate(bench.tasks):
        jobs.setdefault(task.process, []).append(number)
    ordered = sorted(jobs.values(), key=lambda numbers: _LONGEST_FIRST.index(bench.tasks[numbers[0]].kind))
    failed: dict[int, str] = {}
    with tqdm(total=len(bench.tasks), desc="cells", smoothing=0) as bar:
        if bench.options.processes == 1:
            for numbers in ordered:
                failed |= _run_tasks(bench, numbers)
                bar.update(len(numbers))
            return failed
        given = (
            bench.options,
            records,
            transferred,
        )  # with each job: a worker that dies of them as it starts would hang
        with ProcessPoolExecutor(bench.options.processes, get_context("spawn")) as pool:
            pending = {pool.submit(_work, *given, numbers): numbers for numbers in ordered}
            for future in as_completed(pending):
                error = future.exception()
                failed |= future.result() if error is None else dict.fromkeys(pending[future], in_words(error))
                bar.update(len(pending[future]))
    return failed


_bench: Bench | None = None


def _work(
    options: BenchmarkOptions, records: ProbeRecords, transferred: ProbeRecords | None, numbers: Sequence[int]
) -> dict[int, str]:
    """In a process of its own, whose first job makes the bench for all that follow."""
    global _bench
    if _bench is None:
        torch.set_num_threads(options.threads)
        _bench = Bench(options, records, transferred)
    return _run_tasks(_bench, numbers)


def _run_tasks(bench: Bench, numbers: Sequence[int]) -> dict[int, str]:
    """One after the other; one that fails does not keep the rest from running."""
    failed = {}
    for number in numbers:
        try:
            bench.tasks[number].run()
        except Exception as error:  # noqa: BLE001 - whatever it is, the table names it
            failed[number] = in_words(error)
    return failed


def in_words(error: BaseException) -> str:
    return str(error) if isinstance(error, EcgJepaError) else f"{type(error).__name__}: {error}"


def describe_cells(bench: Bench, failed: Mapping[int, str]) -> list[dict[str, Any]]:
    """Every cell with its status and seconds, and what could not even begin."""
    cells: list[dict[str, Any]] = []
    for number, task in enumerate(bench.tasks):
        about = {"table": task.table, "method": task.method, "seed": task.seed}
        if number in failed:
            cells.append({**about, "status": "failed", "message": failed[number]})
        else:
            cells.append({**about, "status": "done", "seconds": sum(cell["seconds"] for cell in task.cells())})
    return [*cells, *bench.refused]

"""`load_ecg_dataset`: any corpus of this package by its name."""

import dataclasses
import difflib
import importlib
import logging
import os
import re
from collections.abc import Iterable
from typing import Any

import datasets
import pyarrow.compute as pc

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaConfigError

from .corpus import EcgCorpus
from .skipped import list_skipped
from .splits import SPLITS

logger = logging.getLogger(__name__)

#: Corpus -> its builder, in the module of the same name.
CORPORA = {
    "ptb_xl": "PtbXl",
    "ludb": "Ludb",
    "ptbdb": "Ptbdb",
    "code15": "Code15",
    "cpsc2018": "Cpsc2018",
    "ecg_arrhythmia": "EcgArrhythmia",
    "challenge2021": "Challenge2021",
    "wfdb_folder": "WfdbFolder",
    "synthetic": "Synthetic",
}


def corpus_class(name: str) -> type[EcgCorpus]:
    """The class of a corpus's builder.

    Raises:
        EcgJepaConfigError: an unknown corpus.
    """
    if name not in CORPORA:
        raise EcgJepaConfigError(f"Unknown corpus {name!r}.{_nearest(name, CORPORA)} Known: {', '.join(CORPORA)}.")
    return getattr(importlib.import_module(f".{name}", __package__), CORPORA[name])


def corpus_builder(name: str, **options: Any) -> EcgCorpus:
    """The builder of a corpus; options as of `load_ecg_dataset`.

    Raises:
        EcgJepaConfigError: an unknown corpus or option, or an option's value.
    """
    builder = corpus_class(name)
    known = {field.name for field in dataclasses.fields(builder.BUILDER_CONFIG_CLASS)} | {"config_name", "cache_dir"}
    known -= {"name", "version", "description", "data_files"}  # of `datasets`' own plumbing
    unknown = sorted(options.keys() - known)
    if unknown:
        nearest = _nearest(unknown[0], known)
        raise EcgJepaConfigError(
            f"{name} has no option {', '.join(unknown)}.{nearest} It has {', '.join(sorted(known))}."
        )
    configs = [config.name for config in builder.BUILDER_CONFIGS]
    config_name = options.get("config_name")
    if config_name is None and len(configs) > 1 and builder.DEFAULT_CONFIG_NAME is None:
        raise EcgJepaConfigError(f"{name} has several configurations; pass config_name=, one of {', '.join(configs)}.")
    if config_name is not None and config_name not in configs:
        raise EcgJepaConfigError(
            f"{name} has no configuration {config_name!r}; it has {', '.join(configs) or 'none by name'}."
        )
    return builder(**options)


def load_ecg_dataset(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    split: str | None = None,
    streaming: bool = False,
    num_proc: int | None = None,
    cache_dir: str | os.PathLike | None = None,
    **options: Any,
) -> datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | datasets.IterableDatasetDict:
    """Load a corpus as a `datasets` dataset; rows as `corpus.row_features` describes them.

    Args:
        name: a key of `CORPORA`, for instance "ptb_xl".
        data_dir: folder of a copy that is already there; without one the corpus is downloaded.
        split: "train", "validation", "test", or any slice that `datasets` understands; None gives all of them.
        streaming: read records when they are asked for, instead of preparing all of them first.
        num_proc: processes that prepare.
        cache_dir: where prepared data go; the cache of `datasets` by default.
        options: those of `EcgCorpusConfig` and of the corpus: sampling_rate, leads, seconds, label_set, on_error, ...

    Raises:
        EcgJepaConfigError: an unknown corpus or option, or an option's value.
        EcgJepaRecordError: no folder, no records, a table that cannot be read, and with on_error="raise" the first
            record that cannot be used.
    """
    first = re.split(r"[\[+]", split)[0] if isinstance(split, str) else None
    if first is not None and first not in (*SPLITS, "all"):
        raise EcgJepaConfigError(f"split={split!r} must be {', '.join(SPLITS)}, all, or a part as in 'train[:10%]'.")
    if num_proc is not None and num_proc < 1:
        raise EcgJepaConfigError(f"num_proc={num_proc!r} must be at least 1.")
    cache = None if cache_dir is None else os.fspath(cache_dir)
    builder = corpus_builder(name, data_dir=data_dir, cache_dir=cache, **options)
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare(num_proc=num_proc)
    _report(builder)
    there = list(builder.info.splits)
    if first in SPLITS and first not in there:
        raise EcgJepaConfigError(
            f"{name}: no record of this copy falls into split={split!r}; all are in {', '.join(there)}."
        )
    return builder.as_dataset(split=split)


def _report(builder: EcgCorpus) -> None:
    """Say what a prepared corpus lacks: records, or all labels."""
    left_out = builder.left_out()
    if left_out:
        listed = "\n".join(list_skipped(left_out, most=3))
        logger.warning("%s: %s records were left out:\n%s", builder.name, len(left_out), listed)
    parts = builder.as_dataset().values()
    if builder.label_names() and not any(pc.sum(pc.list_value_length(part.data["labels"])).as_py() for part in parts):
        logger.warning("%s: none of its records has a label; the column findings says why.", builder.name)


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name).replace("-", "_"), known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""

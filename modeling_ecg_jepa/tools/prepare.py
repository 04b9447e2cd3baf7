"""Prepare a corpus as a folder of Parquet files with a card, and share it on the Hugging Face Hub."""

import json
import os
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import HfApi, get_token

# HTTPError is that of the library by which this version of huggingface_hub speaks to the network.
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from dataset_scripts.loading import corpus_builder, corpus_class
from dataset_scripts.outputs import whole_folder
from dataset_scripts.prepare import MAX_SHARD_SIZE, PreparedFolder, write_dataset

from ..errors_ecg_jepa import EcgJepaConfigError, EcgJepaOutputError

#: Fields of a configuration that say where things are, or are no option.
_NOT_OPTIONS = ("name", "version", "data_dir", "data_files", "description")


def prepare(
    corpus: str,
    output_dir: str | os.PathLike,
    *,
    num_proc: int | None = None,
    max_shard_size: str = MAX_SHARD_SIZE,
    overwrite: bool = False,
    **options: Any,
) -> PreparedFolder:
    """Write a corpus as a folder that plain `datasets.load_dataset` reads; it appears whole or not at all.

    Args:
        corpus: a key of `dataset_scripts.loading.CORPORA`.
        output_dir: must be empty or not exist, unless `overwrite`: then an earlier result in it is replaced.
        num_proc: processes that prepare.
        max_shard_size: of a Parquet file before compression, for instance "500MB".
        options: those of `dataset_scripts.load_ecg_dataset`.

    Raises:
        EcgJepaConfigError, EcgJepaRecordError: as `load_ecg_dataset`.
        EcgJepaOutputError: the folder holds something, or cannot be written.
    """
    builder = corpus_builder(corpus, **options)
    with whole_folder(output_dir, overwrite) as folder:
        return write_dataset(builder, folder, num_proc=num_proc, max_shard_size=max_shard_size)


def check_can_push(repo: str) -> None:
    """Refuse what cannot be pushed before the hours of preparing.

    Raises:
        EcgJepaConfigError: `repo` is no name of a repository.
        EcgJepaOutputError: nobody is logged in.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise EcgJepaConfigError(f"{repo!r} is no name on the Hub; it looks like USER/NAME. {error}") from error
    if get_token() is None:
        raise EcgJepaOutputError("Not logged in to the Hugging Face Hub. Run `hf auth login`, or set HF_TOKEN.")


def push(folder: str | os.PathLike, repo: str) -> str:
    """Upload a prepared folder as a dataset, replacing the shards and plots of an earlier upload; its address.

    Raises:
        EcgJepaOutputError: the Hub cannot be reached or refuses; the folder stays as it is.
    """
    hub = HfApi()
    try:
        address = hub.create_repo(repo, repo_type="dataset", exist_ok=True)
        hub.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=os.fspath(folder),
            commit_message="Prepared by ecg-jepa",
            delete_patterns=["data/*", "plots/*"],
        )
    except (HTTPError, OSError) as error:
        raise EcgJepaOutputError(
            f"{folder} is complete, but could not be pushed to {repo}: {error}. "
            f"Try again later with: hf upload {repo} {folder} --repo-type dataset"
        ) from error
    return str(address)


def parse_options(corpus: str, texts: Sequence[str]) -> dict[str, Any]:
    """Options of a corpus written as "name=value", each in the type of its field; lists with commas.

    Raises:
        EcgJepaConfigError: not of this form, an unknown name, or a value that is not of the type.
    """
    hints = typing.get_type_hints(corpus_class(corpus).BUILDER_CONFIG_CLASS)
    hints = {name: hint for name, hint in hints.items() if name not in _NOT_OPTIONS}
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in hints:
            raise EcgJepaConfigError(
                f"--option {text!r}: write name=value, with one of the options of {corpus}: {', '.join(hints)}."
            )
        try:
            options[name] = _parsed(value, hints[name])
        except ValueError as error:
            raise EcgJepaConfigError(f"--option {text!r}: {error}.") from error
    return options


def _parsed(text: str, hint: Any) -> Any:
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if any(typing.get_origin(kind) in (Sequence, list, tuple) for kind in kinds):
        return [part.strip() for part in text.split(",") if part.strip()]
    if any(typing.get_origin(kind) is Mapping for kind in kinds):
        return json.loads(text)
    if bool in kinds:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() == "true"
    for kind in (int, float):
        if kind in kinds and str not in kinds:
            return kind(text)
    return text

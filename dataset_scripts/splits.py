"""Who goes where: deterministic splits that keep a patient's records together, and manifests of them."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaConfigError, EcgJepaRecordError

from .outputs import whole_file

#: The names of all splits, in their order.
SPLITS = ("train", "validation", "test")

#: Changing this key changes every split by hash.
_KEY = b"ecg-jepa split 1"


def split_by_hash(patient: str, validation: float = 0.1, test: float = 0.1) -> str:
    """The split of a patient: the same on every machine, whatever other patients there are.

    Args:
        patient: an id; of the record where the patient is unknown.
        validation, test: the shares of these splits.
    """
    digest = hashlib.blake2b(patient.encode(), key=_KEY, digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    return "test" if place < test else "validation" if place < test + validation else "train"


# Manifests: which records a split holds ------------------------------------------------------------------------------

SCHEMA_VERSION = 1

#: So many ids are named in a message.
_SHOWN = 5


@dataclass(frozen=True)
class SplitManifest:
    """Which record is in which split of a corpus.

    Attributes:
        corpus, version: what the ids belong to, for instance "ptb_xl" and "1.0.3".
        splits: {split: ids}, sorted, no id twice.
    """

    corpus: str
    version: str
    splits: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, corpus: str, version: str, splits: Mapping[str, Iterable[str]]) -> "SplitManifest":
        """From ids in any order.

        Raises:
            EcgJepaConfigError: no split, a split without a name, or an id twice.
        """
        if not splits or not all(splits):
            raise EcgJepaConfigError(f"A manifest needs splits with names, not {list(splits)}.")
        ordered = {split: tuple(sorted(ids)) for split, ids in splits.items()}
        counts = Counter(record_id for ids in ordered.values() for record_id in ids)
        twice = sorted(record_id for record_id, count in counts.items() if count > 1)
        if twice:
            raise EcgJepaConfigError(
                f"{_named(twice)} of {corpus} would be in a split twice, or in two; give ids once."
            )
        return cls(corpus, version, ordered)

    @property
    def sha256(self) -> str:
        """SHA-256 over corpus, version, and the ids of each split: the same for the same content on every machine."""
        content = [self.corpus, self.version, sorted((split, list(ids)) for split, ids in self.splits.items())]
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def split_manifest_of(dataset: datasets.DatasetDict, corpus: str, version: str) -> SplitManifest:
    """The manifest of a dataset with splits, by its column `record_id`.

    Raises:
        EcgJepaConfigError: as `SplitManifest.of`.
    """
    return SplitManifest.of(corpus, version, {split: rows["record_id"] for split, rows in dataset.items()})


def write_split_manifest(path: str | os.PathLike, manifest: SplitManifest) -> None:
    """Write a manifest as JSON, whole or not at all.

    Raises:
        EcgJepaOutputError: the place cannot be written to.
    """
    content = {
        "schema_version": SCHEMA_VERSION,
        "corpus": manifest.corpus,
        "version": manifest.version,
        "sha256": manifest.sha256,
        "splits": {split: list(ids) for split, ids in manifest.splits.items()},
    }
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_split_manifest(path: str | os.PathLike) -> SplitManifest:
    """Read a manifest and check that it is what was written.

    Raises:
        EcgJepaRecordError: no such file, not a manifest, of another schema version, or altered.
    """
    content = _json_object(Path(path))
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        text = f"{path} has the schema version {version!r}; this package reads {SCHEMA_VERSION}. Write the split anew."
        raise EcgJepaRecordError("manifest of another version", text)
    if not _is_manifest(content):
        text = f"{path} is no split manifest: it needs corpus, version, sha256, and splits with lists of ids."
        raise EcgJepaRecordError("manifest not readable", text)
    splits = {split: tuple(ids) for split, ids in content["splits"].items()}
    manifest = SplitManifest(content["corpus"], content["version"], splits)
    if manifest.sha256 != content["sha256"]:
        text = f"{path} was altered: its content does not have the SHA-256 it names. Fetch or write it anew."
        raise EcgJepaRecordError("manifest altered", text)
    return SplitManifest.of(manifest.corpus, manifest.version, splits)


def apply_split_manifest(
    dataset: datasets.Dataset | datasets.DatasetDict, manifest: SplitManifest
) -> datasets.DatasetDict:
    """The rows of a dataset in the splits of a manifest, each split in the manifest's order.

    Args:
        dataset: with a column `record_id`; of a DatasetDict all splits together.

    Raises:
        EcgJepaConfigError: the dataset lacks ids of the manifest, has others, or has one twice; with the ids.
    """
    rows = datasets.concatenate_datasets(list(dataset.values())) if isinstance(dataset, dict) else dataset
    ids = list(rows["record_id"])
    places = {record_id: place for place, record_id in enumerate(ids)}
    named = {record_id for split in manifest.splits.values() for record_id in split}
    faults = {
        "The dataset lacks": sorted(named - places.keys()),
        "The manifest lacks": sorted(places.keys() - named),
        "The dataset has twice": sorted(record_id for record_id, count in Counter(ids).items() if count > 1),
    }
    if any(faults.values()):
        lines = [f"{fault} {_named(ids)}." for fault, ids in faults.items() if ids]
        raise EcgJepaConfigError(
            f"The split of {manifest.corpus} {manifest.version} does not fit the dataset. {' '.join(lines)} "
            "Use the corpus, version and options that the manifest was made with."
        )
    return datasets.DatasetDict(
        {split: rows.select([places[record_id] for record_id in ids]) for split, ids in manifest.splits.items()}
    )


def _json_object(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EcgJepaRecordError("manifest missing", f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # also text that is not UTF-8
        raise EcgJepaRecordError("manifest not readable", f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise EcgJepaRecordError("manifest not readable", f"{path} holds no JSON object.")
    return content


def _is_manifest(content: dict) -> bool:
    splits = content.get("splits")
    return (
        all(isinstance(content.get(name), str) for name in ("corpus", "version", "sha256"))
        and isinstance(splits, dict)
        and all(isinstance(ids, list) and all(isinstance(value, str) for value in ids) for ids in splits.values())
    )


def _named(ids: list[str]) -> str:
    rest = f" and {len(ids) - _SHOWN:,} more" if len(ids) > _SHOWN else ""
    return f"{len(ids):,} id{'s' if len(ids) > 1 else ''} ({', '.join(ids[:_SHOWN])}{rest})"

"""What every corpus shares: the row schema, the options, and the way from files to rows.

A corpus is a short file with a subclass of `EcgCorpus` that says where its records are and what its tables tell of
them. This file does the rest: reading, cropping, resampling, quality columns, splits, and records that are left out.

A corpus's file imports by the package's full name: `datasets` 3, which loads it as a script, copies the file elsewhere.

From a row to millivolts:

    counts = np.asarray(row["signal"], np.int16).reshape(len(row["lead_names"]), -1)
    millivolts = np.where(counts == -32768, np.nan, counts * np.float32(row["signal_scale"]))
"""

import abc
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaConfigError, EcgJepaError, EcgJepaRecordError
from modeling_ecg_jepa.leads_ecg_jepa import canonical_leads

from .download import Source, fetch
from .quality import QUALITY_FEATURES, quality_columns
from .records import EcgRecord, read_record
from .signals import first_seconds, in_canonical_order, resampled, to_counts, with_leads
from .skipped import SkippedRecord, list_skipped, skipped_by
from .splits import SPLITS, split_by_hash

logger = logging.getLogger(__name__)

#: A list of anything; `datasets` before 4 calls it Sequence.
ListOf = getattr(datasets, "List", datasets.Sequence)

#: A batch of rows held in memory ends at this many rows or values: 64 records of 10 s x 12 leads at 500 Hz are 8 MB.
BATCH_ROWS, BATCH_VALUES = 64, 2**24

#: Where a prepared corpus lists the records that it left out, beside its data.
LEFT_OUT = "left_out.jsonl"


@dataclass(frozen=True)
class About:
    """What a corpus is: for its info, its card, and whoever has to cite it."""

    title: str
    description: str
    homepage: str
    license: str
    citation: str


@dataclass(frozen=True)
class CorpusEntry:
    """One line of a corpus's index: where a record lies and what the tables say of it; its signal is not read yet.

    Attributes:
        record_id: the corpus's own id.
        file: path inside the corpus's folder, with "/"; what `EcgCorpus.read` opens.
        patient_id: None where the corpus does not tell.
        labels: names of the classes that hold; None where only the record tells (`EcgCorpus.annotate`).
        codes: the raw statements.
        age, sex: None leaves what the record's header says.
        extras: values of the corpus's own columns.
    """

    record_id: str
    file: str
    patient_id: str | None = None
    labels: tuple[str, ...] | None = None
    codes: tuple[str, ...] = ()
    report: str | None = None
    fold: int | None = None
    age: float | None = None
    sex: str | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class EcgCorpusConfig(datasets.BuilderConfig):
    """Options that every corpus has.

    Args:
        sampling_rate: in Hz; the signals are resampled by the feature extractor's own function. None keeps the rate
            of the files.
        leads: names of the leads to keep, in this order; a lead that a record lacks is all missing. None keeps all
            leads of a record, in the canonical order.
        seconds: the first seconds of every record, shorter ones left out. None keeps all of it.
        label_set: which labels the column `labels` holds; see the corpus. None is the corpus's own default.
        single_label: only records with exactly one label.
        on_error: "skip" leaves out records that cannot be used, counted and listed; "raise" stops at the first.
    """

    sampling_rate: float | None = None
    leads: Sequence[str] | None = None
    seconds: float | None = None
    label_set: str | None = None
    single_label: bool = False
    on_error: str = "skip"

    def __post_init__(self):
        super().__post_init__()
        self.check()

    def check(self) -> None:
        """Refuse values that describe no dataset, before anything is read.

        Raises:
            EcgJepaConfigError: naming the option, its value and what it may be.
        """
        if self.on_error not in ("skip", "raise"):
            raise EcgJepaConfigError(f"on_error={self.on_error!r} must be 'skip' or 'raise'.")
        for name, most in (("sampling_rate", 10_000), ("seconds", 86_400)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 < value <= most):
                raise EcgJepaConfigError(f"{name}={value!r} must be a number above 0 and at most {most:,}.")
        if isinstance(self.leads, str):
            raise EcgJepaConfigError(f"leads={self.leads!r} must be a list of names: {self.leads.split(',')!r}.")
        if self.leads is not None:
            self.leads = tuple(canonical_leads(self.leads))


class EcgCorpus(datasets.ArrowBasedBuilder):
    """The base of all corpora: a `datasets` builder whose rows have one schema.

    A corpus sets `ABOUT` and overrides `index`, and of the other methods of its first part what differs.
    """

    BUILDER_CONFIG_CLASS = EcgCorpusConfig
    DEFAULT_WRITER_BATCH_SIZE = BATCH_ROWS

    ABOUT: ClassVar[About]
    #: Features of the corpus's own columns.
    EXTRAS: ClassVar[Mapping[str, Any]] = {}
    #: Label set -> names of its classes, in their order; the first is the default.
    LABEL_SETS: ClassVar[Mapping[str, Sequence[str]]] = {"none": ()}
    #: Whether a record without any class of the label set drops out, or is a record in which none of them holds.
    NEEDS_LABEL: ClassVar[bool] = False

    # What a corpus says of itself ------------------------------------------------------------------------------------

    @abc.abstractmethod
    def index(self, root: Path) -> Iterator[CorpusEntry]:
        """All records of the corpus under its folder, in a fixed order; no signal is read.

        Raises:
            EcgJepaRecordError: a table is missing or lacks a column.
        """

    def split_of(self, entry: CorpusEntry) -> str:
        """ "train", "validation" or "test": by default by a keyed hash of the patient, or else of the record."""
        return split_by_hash(entry.patient_id or entry.record_id)

    def read(self, root: Path, entry: CorpusEntry) -> EcgRecord:
        """The recording of an entry."""
        return read_record(inside(root, entry.file))

    def annotate(self, entry: CorpusEntry, record: EcgRecord) -> CorpusEntry:
        """The entry with what only the record tells: labels in its header, for instance."""
        return entry

    def source(self) -> Source | None:
        """Where the corpus is published, or the part of it that the options need; None where it cannot be fetched."""
        return None

    def download(self, dl_manager: datasets.DownloadManager) -> Path:
        """Fetch the corpus, or what is not there yet of it; the folder where it then lies."""
        source = self.source()
        if source is None:
            raise EcgJepaConfigError(
                f"{self.name} cannot be downloaded by this package. Get it from {self.ABOUT.homepage} and pass "
                "data_dir=FOLDER."
            )
        cache = dl_manager.download_config.cache_dir or datasets.config.DOWNLOADED_DATASETS_PATH
        return fetch(source, Path(cache) / "ecg-jepa" / source.name)

    def label_names(self) -> Sequence[str]:
        """The classes of the configured label set, in the order of the feature."""
        name = self.config.label_set or next(iter(self.LABEL_SETS))
        if name not in self.LABEL_SETS:
            raise EcgJepaConfigError(
                f"{self.name} has no label set {name!r}; it has {', '.join(map(repr, self.LABEL_SETS))}."
            )
        return self.LABEL_SETS[name]

    # From files to rows, the same for all ----------------------------------------------------------------------------

    def __init__(self, *args, hash: str | None = None, data_dir: str | os.PathLike | None = None, **kwargs):
        # The cache is the same only for the same code and the same files; `datasets` itself would notice neither.
        folder = None if data_dir is None else str(existing_folder(data_dir))
        fingerprint = hashlib.sha256("\n".join([hash or "", code_hash(), files_hash(folder)]).encode())
        self._streaming = False
        super().__init__(*args, hash=fingerprint.hexdigest()[:32], data_dir=folder, **kwargs)

    def _info(self) -> datasets.DatasetInfo:
        self.config.check()  # options that override those of a named config come without construction
        about = self.ABOUT
        return datasets.DatasetInfo(
            description=about.description,
            features=row_features(self.label_names(), self.EXTRAS, self._fixed_length()),
            homepage=about.homepage,
            license=about.license,
            citation=about.citation,
        )

    def _fixed_length(self) -> int:
        """Values of a signal where all rows have the same number, else -1."""
        config = self.config
        if config.leads is None or config.seconds is None or config.sampling_rate is None:
            return -1
        return len(config.leads) * round(config.seconds * config.sampling_rate)

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        root = Path(self.config.data_dir) if self.config.data_dir else self.download(dl_manager)
        by_split: dict[str, list[CorpusEntry]] = {split: [] for split in SPLITS}
        for entry in self._each_once(self.index(root)):
            by_split[self.split_of(entry)].append(entry)
        if not any(by_split.values()):
            raise EcgJepaRecordError("no records", f"{self.name}: no record to use under {root}.")
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"entries": entries, "root": root})
            for split, entries in by_split.items()
            if entries
        ]

    def _each_once(self, entries: Iterator[CorpusEntry]) -> Iterator[CorpusEntry]:
        files: dict[str, str] = {}
        for entry in entries:
            if entry.record_id in files:
                text = f"{entry.record_id} names {files[entry.record_id]} and {entry.file}; the first is used."
                self._leave_out(entry, EcgJepaRecordError("duplicate id", text))
            else:
                files[entry.record_id] = entry.file
                yield entry

    def _generate_tables(self, entries: Sequence[CorpusEntry], root: Path) -> Iterator[tuple[int, pa.Table]]:
        for place, rows in enumerate(in_batches(self._rows(entries, root))):
            yield place, as_table(rows, self.info.features)

    def _rows(self, entries: Sequence[CorpusEntry], root: Path) -> Iterator[dict[str, Any]]:
        for entry in entries:
            try:
                row = self._row(root, entry)
            except EcgJepaError as error:
                self._leave_out(entry, error)
            else:
                yield row

    def _row(self, root: Path, entry: CorpusEntry) -> dict[str, Any]:
        """Read a record and bring it into the schema.

        Raises:
            EcgJepaError: it cannot be read, or the options exclude it.
        """
        if entry.labels is not None:
            self._check_labels(entry.labels)
        record = self.read(root, entry)
        entry = self.annotate(entry, record)
        labels = entry.labels or ()
        self._check_labels(labels)
        record = in_canonical_order(record)
        quality = quality_columns(record)  # of the record as it was made; the options below choose from it
        record = self._with_options(record)
        absent = [lead for lead, row in zip(record.lead_names, record.signal, strict=True) if np.isnan(row).all()]
        quality["missing_leads"] = list(dict.fromkeys([*quality["missing_leads"], *absent]))
        counts, scale = to_counts(record.signal)
        return {
            "record_id": entry.record_id,
            "patient_id": entry.patient_id,
            "signal": counts.ravel(),
            "signal_scale": scale,
            "lead_names": list(record.lead_names),
            "sampling_rate": record.sampling_rate,
            "age": record.age if entry.age is None else entry.age,
            "sex": record.sex if entry.sex is None else entry.sex,
            "labels": list(labels),
            "codes": list(entry.codes),
            "report": entry.report,
            "fold": entry.fold,
            "findings": list(record.findings),
            **quality,
            **{name: entry.extras.get(name) for name in self.EXTRAS},
        }

    def _check_labels(self, labels: Sequence[str]) -> None:
        if self.NEEDS_LABEL and not labels and self.label_names():
            raise NotChosen("no label of the set", f"none of its codes is in {self.config.label_set or 'the set'!r}")
        if self.config.single_label and len(labels) != 1:
            raise NotChosen("not exactly one label", f"it has {len(labels)} labels: {', '.join(labels)}")

    def _with_options(self, record: EcgRecord) -> EcgRecord:
        config = self.config
        if config.seconds is not None:
            if record.signal.shape[1] < round(config.seconds * record.sampling_rate):
                length = record.signal.shape[1] / record.sampling_rate
                raise NotChosen(f"shorter than {config.seconds:g} s", f"it lasts {length:.3f} s")
            record = first_seconds(record, config.seconds)
        if config.leads is not None:
            record = with_leads(record, config.leads)
        if config.sampling_rate is not None:
            record = resampled(record, config.sampling_rate)
        if self._fixed_length() not in (-1, record.signal.size):
            samples = self._fixed_length() // len(record.lead_names)
            text = f"{config.seconds:g} s of it become {record.signal.shape[1]} samples instead of {samples}"
            raise EcgJepaRecordError("rate does not fit the length", text)
        return record

    # Records that are left out ---------------------------------------------------------------------------------------

    def left_out(self) -> list[SkippedRecord]:
        """The records that the prepared corpus lacks, with the reasons, faults first."""
        return read_left_out(self._output_dir)

    def _leave_out(self, entry: CorpusEntry, error: EcgJepaError) -> None:
        """Note a record for the list of those left out, or stop if the options say so."""
        record = skipped_by(error, f"{entry.record_id} ({entry.file})")
        fatal = self.config.on_error == "raise" and not isinstance(error, NotChosen)
        if self._streaming:
            logger.warning("%s: left out %s: %s", self.name, record.place, record.message)
        else:
            # Every process has a file of its own; they become one when all are done.
            part = Path(self._output_dir) / f"{'fatal' if fatal else LEFT_OUT}.{os.getpid()}"
            with part.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(dataclasses.asdict(record)) + "\n")
        if fatal:
            raise EcgJepaRecordError(record.reason, f"{record.place}: {record.message}") from error

    def _download_and_prepare(self, dl_manager, verification_mode, **kwargs) -> None:
        folder = Path(self._output_dir)
        for part in [*folder.glob("fatal.*"), *folder.glob(f"{LEFT_OUT}.*")]:
            part.unlink()  # a killed run left it
        try:
            super()._download_and_prepare(dl_manager, verification_mode, **kwargs)
        except datasets.exceptions.DatasetGenerationError as error:
            # The error of a worker process arrives as text only.
            for record in _read_parts(folder, "fatal"):
                raise EcgJepaRecordError(record.reason, f"{record.place}: {record.message}") from error
            raise
        left_out = _read_parts(folder, LEFT_OUT)
        self._drop_empty_splits(left_out)
        lines = [json.dumps(dataclasses.asdict(record)) + "\n" for record in left_out]
        (folder / LEFT_OUT).write_text("".join(lines), encoding="utf-8")
        if left_out:
            reasons = "\n".join(list_skipped(left_out, most=0))
            self.info.description += f"\n\n{len(left_out):,} records were left out:\n{reasons}"

    def _drop_empty_splits(self, left_out: Sequence[SkippedRecord]) -> None:
        """Splits of which every record was left out: `datasets` cannot read one without rows."""
        splits = self.info.splits
        for split in [name for name, info in splits.items() if not info.num_examples]:
            del splits[split]
        if not splits:
            reasons = "\n".join(list_skipped(left_out, most=10))
            raise EcgJepaRecordError("no records", f"{self.name}: every record was left out:\n{reasons}")

    def as_streaming_dataset(self, *args, **kwargs):
        self._streaming = True
        return super().as_streaming_dataset(*args, **kwargs)


class NotChosen(EcgJepaError):
    """A sound record that the options exclude: counted and listed like one that cannot be read, but never an error."""

    by_choice = True

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def read_left_out(folder: str | os.PathLike) -> list[SkippedRecord]:
    """The records that a prepared corpus left out, from the file beside its data; none where there is no such file."""
    path = Path(folder) / LEFT_OUT
    return _read_lines(path) if path.is_file() else []


def _read_parts(folder: Path, name: str) -> list[SkippedRecord]:
    parts = sorted(folder.glob(f"{name}.*"))
    records = [record for part in parts for record in _read_lines(part)]
    for part in parts:
        part.unlink()
    return sorted(records, key=lambda record: (record.by_choice, record.reason, record.place))


def _read_lines(path: Path) -> list[SkippedRecord]:
    return [SkippedRecord(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def row_features(label_names: Sequence[str], extras: Mapping[str, Any], signal_length: int = -1) -> datasets.Features:
    """The one schema: every corpus has these columns and then its own.

    Args:
        signal_length: leads x samples where it is the same in every row, else -1.
    """
    label = datasets.ClassLabel(names=list(label_names)) if label_names else datasets.Value("string")
    return datasets.Features(
        {
            "record_id": datasets.Value("string"),
            "patient_id": datasets.Value("string"),
            # counts (leads x samples, lead by lead); -32768 is a missing value
            "signal": ListOf(datasets.Value("int16"), length=signal_length),
            "signal_scale": datasets.Value("float32"),  # mV a count
            # not "leads": the Trainer hands columns named like parameters of forward to the model
            "lead_names": ListOf(datasets.Value("string")),
            "sampling_rate": datasets.Value("float32"),
            "age": datasets.Value("float32"),
            "sex": datasets.Value("string"),
            "labels": ListOf(label),
            "codes": ListOf(datasets.Value("string")),
            "report": datasets.Value("string"),
            "fold": datasets.Value("int32"),
            "findings": ListOf(datasets.Value("string")),
            **QUALITY_FEATURES,
            **extras,
        }
    )


def in_batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows in lists of a size that memory can hold, however long the records are."""
    batch: list[dict[str, Any]] = []
    values = 0
    for row in rows:
        batch.append(row)
        values += row["signal"].size
        if len(batch) == BATCH_ROWS or values >= BATCH_VALUES:
            yield batch
            batch, values = [], 0
    if batch:
        yield batch


def as_table(rows: Sequence[Mapping[str, Any]], features: datasets.Features) -> pa.Table:
    """Rows as an Arrow table. `datasets` itself would turn every sample of a signal into a Python object on the way,
    which takes longer than all the rest of preparing."""
    others = datasets.Features({name: feature for name, feature in features.items() if name != "signal"})
    encoded = [{**row, **others.encode_example({name: row[name] for name in others})} for row in rows]
    schema = features.arrow_schema
    columns = [pa.array([row[field.name] for row in encoded], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


# Folders and files ----------------------------------------------------------------------------------------------------


def existing_folder(folder: str | os.PathLike) -> Path:
    """The folder, resolved.

    Raises:
        EcgJepaRecordError: there is none, or it cannot be listed.
    """
    path = Path(os.path.realpath(Path(folder).expanduser()))  # unlike resolve() it does not stumble over loops of links
    try:
        next(path.iterdir(), None)
    except OSError as error:
        raise EcgJepaRecordError("folder not readable", f"data_dir={str(folder)!r}: {error.strerror}.") from error
    return path


def inside(root: Path, file: str) -> Path:
    """The path of a file that a table of the corpus names; of a record also without suffix.

    Raises:
        EcgJepaRecordError: it lies outside the corpus's folder, by its name or by a symbolic link, or is no file name.
    """
    folder = os.path.realpath(root)
    for suffix in ("", ".hea", ".dat", ".mat"):
        try:
            path = os.path.realpath(os.path.join(folder, file + suffix))
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError) as error:  # a loop of links, too long, a zero byte, a folder without permission
            raise EcgJepaRecordError("not readable", f"{file!r} under {root}: {error}.") from error
        if path == folder:
            raise EcgJepaRecordError("not readable", f"{file!r} is the folder {root}, no file in it.")
        if not path.startswith(os.path.join(folder, "")):
            text = f"{file!r} leads out of {root}; such files are never read. Give the folder that holds them all."
            raise EcgJepaRecordError("path outside the folder", text)
    return Path(folder, file)


def files_hash(folder: str | None) -> str:
    """A hash over names, sizes and times of all files under a folder.

    Raises:
        EcgJepaRecordError: a folder below cannot be listed; its records would be missing without a word.
    """
    digest = hashlib.sha256()
    for directory, names, files in os.walk(folder, onerror=_refuse_folder) if folder else ():
        names.sort()
        for file in sorted(files):
            path = os.path.join(directory, file)
            name = os.fsencode(os.path.relpath(path, folder))
            digest.update(name + f"\0{size_and_time(path)}\n".encode())
    return digest.hexdigest()


def _refuse_folder(error: OSError) -> None:
    raise EcgJepaRecordError("folder not readable", f"Cannot list {error.filename}: {error.strerror}.") from error


def size_and_time(path: str | os.PathLike) -> str:
    """What changes when a file does."""
    try:
        status = os.stat(path)  # of what a link leads to
    except OSError:
        return "a link to nothing"
    return f"{status.st_size}\0{status.st_mtime_ns}"


def code_hash() -> str:
    """A hash over the code that turns files into rows."""
    here = Path(__file__).parent
    sources = sorted([*here.glob("*.py"), *(here.parent / "modeling_ecg_jepa").glob("*.py")])
    return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()

"""Your own records: a folder of WFDB records, and a CSV table with what is known of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets

from dataset_scripts.corpus import About, CorpusEntry, EcgCorpus, EcgCorpusConfig, row_features, size_and_time
from dataset_scripts.records import find_records
from dataset_scripts.splits import SPLITS, split_by_hash
from dataset_scripts.tables import number, read_table
from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaConfigError, EcgJepaRecordError


@dataclass
class WfdbFolderConfig(EcgCorpusConfig):
    """Where the table is and what its columns are called.

    Args:
        table: a CSV file, absolute or relative to `data_dir`. None: every record under the folder, without labels.
        record_column: path of a record relative to `data_dir`, with or without suffix.
        label_columns: one column a class, named as the class; 1, true or yes where it holds.
        label_column: one column with the names of all classes that hold, separated by `label_separator`.
        patient_column: keeps the records of a patient in one split.
        split_column: "train", "validation" or "test"; else split by a keyed hash of the patient, or of the record.
        age_column, sex_column, report_column: as their names say.
        value_columns: measurements, each a column of numbers, which rows have under the same name; empty is unknown.
    """

    table: str | None = None
    record_column: str = "record"
    label_columns: Sequence[str] | None = None
    label_column: str | None = None
    label_separator: str = ";"
    patient_column: str | None = None
    split_column: str | None = None
    age_column: str | None = None
    sex_column: str | None = None
    report_column: str | None = None
    value_columns: Sequence[str] | None = None

    def check(self) -> None:
        super().check()
        if self.label_set is not None:
            raise EcgJepaConfigError(
                f"label_set={self.label_set!r}: a folder of one's own has no label sets; name label_columns or "
                "label_column of its table."
            )
        if self.label_columns and self.label_column:
            raise EcgJepaConfigError("Give label_columns (one a class) or label_column (all in one), not both.")
        taken = sorted({"split", *row_features((), {})} & set(self.value_columns or ()))
        if taken:
            raise EcgJepaConfigError(
                f"value_columns={list(self.value_columns or ())!r}: rows have a column {', '.join(taken)} of their "
                "own; rename those of the table."
            )
        if self.table is None and self.columns():
            raise EcgJepaConfigError(f"table=None, but columns are named: {', '.join(self.columns())}. Pass the table.")

    def columns(self) -> list[str]:
        """The columns that the options name, without the record's."""
        single = (self.label_column, self.patient_column, self.split_column)
        return [
            *(self.label_columns or ()),
            *(self.value_columns or ()),
            *filter(None, (*single, self.age_column, self.sex_column, self.report_column)),
        ]


_YES, _NO = {"1", "1.0", "true", "yes"}, {"", "0", "0.0", "false", "no"}
_SEXES = {"f": "female", "female": "female", "m": "male", "male": "male"}


class WfdbFolder(EcgCorpus):
    """WFDB records of any origin. Options in `WfdbFolderConfig`."""

    BUILDER_CONFIG_CLASS = WfdbFolderConfig
    VERSION = datasets.Version("1.0.0")
    ABOUT = About(
        title="WFDB records of a folder",
        description="ECG records of a user's own folder, in WFDB format.",
        homepage="https://physionet.org/physiotools/wag/wag.htm",
        license="",
        citation="",
    )

    def __init__(self, *args, hash: str | None = None, **kwargs):
        table = Path(kwargs.get("data_dir") or "", kwargs.get("table") or "")  # need not lie under the folder
        super().__init__(*args, hash=f"{hash or ''}{size_and_time(table)}", **kwargs)

    @property
    def EXTRAS(self) -> dict[str, datasets.Value]:
        """The columns of measurements."""
        return {name: datasets.Value("float64") for name in self.config.value_columns or ()}

    def label_names(self) -> Sequence[str]:
        config = self.config
        if config.label_columns:
            return tuple(config.label_columns)
        if config.label_column and config.data_dir:
            rows = self._table()[config.label_column]
            return sorted({name for row in rows for name in self._names(row)})
        return ()

    def index(self, root: Path) -> Iterator[CorpusEntry]:
        if self.config.table is None:
            for path in find_records(root):
                place = path.relative_to(root).with_suffix("").as_posix()
                yield CorpusEntry(record_id=place, file=place, labels=())
            return
        for line, row in enumerate(self._table().to_dict("records"), start=2):
            yield self._entry(row, f"{self.config.table}, line {line}")

    def split_of(self, entry: CorpusEntry) -> str:
        return entry.extras.get("split") or split_by_hash(entry.patient_id or entry.record_id)

    def _table(self):
        config = self.config
        return read_table(Path(config.data_dir) / config.table, [config.record_column, *config.columns()])

    def _names(self, text: str) -> list[str]:
        return [name.strip() for name in text.split(self.config.label_separator) if name.strip()]

    def _entry(self, row: dict[str, str], where: str) -> CorpusEntry:
        config = self.config
        file = row[config.record_column].strip().removesuffix(".hea").removesuffix(".dat").removesuffix(".mat")

        def value(column: str | None) -> str:
            return row[column].strip() if column else ""

        if not file:
            raise EcgJepaRecordError("no record named", f"{where}: the column {config.record_column!r} is empty.")
        split = value(config.split_column)
        if split and split not in SPLITS:
            raise EcgJepaRecordError("unknown split", f"{where}: {split!r} is none of {', '.join(SPLITS)}.")
        return CorpusEntry(
            record_id=file,
            file=file,
            patient_id=value(config.patient_column) or None,
            labels=tuple(self._labels(row, where)),
            report=value(config.report_column) or None,
            age=number(value(config.age_column), f"{where}, {config.age_column}"),
            sex=_SEXES.get(value(config.sex_column).lower()),
            extras={
                "split": split,
                **{name: number(row[name], f"{where}, {name}") for name in config.value_columns or ()},
            },
        )

    def _labels(self, row: dict[str, str], where: str) -> list[str]:
        if self.config.label_column:
            return self._names(row[self.config.label_column])
        return [column for column in self.config.label_columns or () if _holds(row[column], f"{where}, {column}")]


def _holds(text: str, where: str) -> bool:
    value = text.strip().lower()
    if value not in _YES | _NO:
        raise EcgJepaRecordError("unclear label", f"{where}: {text!r} is neither yes (1, true) nor no (0, false, ).")
    return value in _YES

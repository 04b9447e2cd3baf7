"""The card of a prepared corpus: every figure in it is counted from what was written beside it."""

import collections
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from huggingface_hub import DatasetCardData

from .corpus import LEFT_OUT, About, EcgCorpus, EcgCorpusConfig
from .dataset_statistics import SplitStatistics
from .quality import QUALITY_COLUMNS
from .skipped import SkippedRecord
from .splits import SplitManifest

#: Column of every corpus -> what it holds.
COLUMNS = {
    "record_id": "the corpus's own id",
    "patient_id": "the corpus's own id of the patient; null where it tells none",
    "signal": "counts, leads x samples, lead by lead; -32768 is a missing value",
    "signal_scale": "millivolts a count",
    "lead_names": "names of the leads, in their order in `signal`",
    "sampling_rate": "in Hz",
    "age": "in years",
    "sex": "female or male",
    "labels": "the classes that hold",
    "codes": "the corpus's own statements, as they stand",
    "report": "the report in words",
    "fold": "the corpus's own fold",
    "findings": "what was odd in the file but readable",
    **QUALITY_COLUMNS,
}

#: The file that tells which record is in which split.
SPLIT_MANIFEST = "split.json"

#: Licences as the corpora write them -> as the Hub knows them.
_HUB_LICENSES = {"CC BY 4.0": "cc-by-4.0", "CC0": "cc0-1.0", "ODC-By 1.0": "odc-by", "ODbL 1.0": "odbl"}

#: Records left out that the card itself lists a reason; `left_out.jsonl` lists all.
_LISTED = 20

_SIZES = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]

_DISCLAIMER = (
    "**Research use only.** This is data for research. It is no medical device, and nothing derived from it may decide "
    "about a patient."
)

_TO_MILLIVOLTS = """\
```python
import numpy as np
from datasets import load_dataset

row = load_dataset("FOLDER_OR_NAME_ON_THE_HUB", split="{split}")[0]
counts = np.asarray(row["signal"], np.int16).reshape(len(row["lead_names"]), -1)
millivolts = np.where(counts == -32768, np.nan, counts * np.float32(row["signal_scale"]))
```"""


def write_card(
    folder: Path,
    builder: EcgCorpus,
    splits: Mapping[str, SplitStatistics],
    left_out: Sequence[SkippedRecord],
    plots: Mapping[str, str],
    manifest: SplitManifest,
) -> None:
    """Write `README.md`: a YAML header for the Hub and `datasets`, and the text for people.

    Args:
        folder: holds `data/`.
        splits: figures of each split.
        plots: file under `plots/` -> what it shows.
        manifest: as written beside the card.
    """
    about = builder.ABOUT
    header = _header(folder, builder, splits).to_yaml()
    sections = [
        f"# {about.title}",
        about.description,
        _DISCLAIMER,
        _section("From a row to millivolts", [_TO_MILLIVOLTS.format(split=next(iter(splits)))]),
        _section("Splits", [markdown_table(_split_rows(splits)), _patients(splits), _manifest(manifest)]),
        _section("Labels", _labels(splits)),
        _section("Plots", [f"![{caption}](plots/{name})\n\n{caption}." for name, caption in plots.items()]),
        _section("Records left out", _left_out(left_out)),
        _section("Columns", [markdown_table(_column_rows(builder.info.features))]),
        _section("How it was made", _making(builder)),
        _section("Licence", [about.license or "Whoever shares this has to say under which licence the records stand."]),
        _section("Citation", [about.citation or "None is known.", f"Homepage: <{about.homepage}>"]),
    ]
    (folder / "README.md").write_text(f"---\n{header}\n---\n\n" + "\n\n".join(sections) + "\n", encoding="utf-8")


def _header(folder: Path, builder: EcgCorpus, splits: Mapping[str, SplitStatistics]) -> DatasetCardData:
    about, records = builder.ABOUT, sum(statistics.records for statistics in splits.values())
    files = sorted((folder / "data").iterdir())
    info = datasets.DatasetInfo(
        features=builder.info.features,
        splits=builder.info.splits,
        download_size=sum(file.stat().st_size for file in files),
        dataset_size=sum(split.num_bytes for split in builder.info.splits.values()),
    )
    card = DatasetCardData(
        pretty_name=about.title,
        task_categories=["other"],
        tags=["ecg", "electrocardiogram", "time-series", "medical"],
        size_categories=[next((name for most, name in _SIZES if records < most), "1M<n<10M")],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*"} for split in splits],
            }
        ],
        **_license(about),
    )
    datasets.info.DatasetInfosDict({"default": info}).to_dataset_card_data(card)
    return card


def _license(about: About) -> dict[str, Any]:
    for name, identifier in _HUB_LICENSES.items():
        if about.license.startswith(name):
            return {"license": identifier}
    if not about.license:
        return {"license": "unknown"}
    return {"license": "other", "license_name": about.license, "license_link": about.homepage}


def _section(title: str, paragraphs: Iterable[str]) -> str:
    return "\n\n".join([f"## {title}", *paragraphs])


def markdown_table(rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = [[_cell(value) for value in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _split_rows(splits: Mapping[str, SplitStatistics]) -> list[list[Any]]:
    rows: list[list[Any]] = [["split", "records", "patients", "patient unknown", "hours", "age, median", "female"]]
    for split, statistics in splits.items():
        ages = [age for age in statistics.ages if age is not None]
        sexes = [sex for sex in statistics.sexes if sex is not None]
        rows.append(
            [
                split,
                statistics.records,
                len(statistics.patients),
                statistics.without_patient,
                f"{sum(statistics.seconds) / 3600:.2f}",
                f"{np.median(ages):g} ({len(ages):,} known)" if ages else "unknown",
                f"{sexes.count('female') / len(sexes):.1%} ({len(sexes):,} known)" if sexes else "unknown",
            ]
        )
    return rows


def _patients(splits: Mapping[str, SplitStatistics]) -> str:
    known = [statistics.patients for statistics in splits.values()]
    shared = sum(map(len, known)) - len(set().union(*known))
    if shared:
        return f"{shared:,} patients have records in more than one split."
    if any(known):
        unknown = sum(statistics.without_patient for statistics in splits.values())
        return "No known patient has records in more than one split." + (
            f" {unknown:,} records are of patients whom the corpus does not name." if unknown else ""
        )
    return "The corpus does not tell which records are of one patient, so a patient may be in more than one split."


def _manifest(manifest: SplitManifest) -> str:
    return (
        f"Which record is in which split: [`{SPLIT_MANIFEST}`]({SPLIT_MANIFEST}), of {manifest.corpus} "
        f"{manifest.version}, SHA-256 of its content `{manifest.sha256}`."
    )


def _labels(splits: Mapping[str, SplitStatistics]) -> list[str]:
    names = dict.fromkeys(name for statistics in splits.values() for name, _ in statistics.labels.most_common())
    if not names:
        return ["The rows have no labels."]
    counts = {name: [statistics.labels[name] for statistics in splits.values()] for name in names}
    counts["no label"] = [statistics.without_label for statistics in splits.values()]
    records = [statistics.records for statistics in splits.values()]
    rows = [[name, *map(_share, holding, records)] for name, holding in counts.items()]
    return [
        "Records in which a label holds, and their share of the split.",
        markdown_table([["label", *splits], *rows]),
    ]


def _share(count: int, records: int) -> str:
    return f"{count:,} ({count / records:.1%})"


def _left_out(left_out: Sequence[SkippedRecord]) -> list[str]:
    if not left_out:
        return ["None: every record of the source is here."]
    places = collections.defaultdict(list)
    for record in left_out:
        places[record.reason, record.by_choice].append(record.place)
    rows: list[list[Any]] = [["reason", "records", "which"]]
    for (reason, by_choice), of_reason in places.items():
        more = len(of_reason) - _LISTED
        which = ", ".join(of_reason[:_LISTED]) + (f", and {more:,} more" if more > 0 else "")
        rows.append([f"by the options: {reason}" if by_choice else reason, len(of_reason), which])
    whole = f"{len(left_out):,} of the source. Each with its whole message: [`{LEFT_OUT}`]({LEFT_OUT})."
    return [whole, markdown_table(rows)]


def _column_rows(features: datasets.Features) -> list[list[str]]:
    rows = [["column", "type", "holds"]]
    for name, feature in features.items():
        rows.append([f"`{name}`", _type_name(feature), COLUMNS.get(name, "a column of the corpus itself")])
    return rows


def _type_name(feature: Any) -> str:
    if isinstance(feature, dict):
        return ", ".join(f"{name}: {_type_name(inner)}" for name, inner in feature.items())
    if isinstance(feature, datasets.ClassLabel):
        return f"one of {feature.num_classes} classes"
    inner = getattr(feature, "feature", None)
    if inner is not None:
        return f"list of {_type_name(inner)}"
    return str(getattr(feature, "dtype", feature))


def _making(builder: EcgCorpus) -> list[str]:
    config = builder.config
    source = f"Source: {builder.ABOUT.title}, version {builder.info.version}"
    options = _options(config)
    text = (
        "; options: " + ", ".join(f"`{name}={value}`" for name, value in options.items()) if options else "; no options"
    )
    return [
        f"{source}; corpus `{builder.name}`, configuration `{config.name}`{text}.",
        "Written by `ecg-jepa prepare`, this page and its figures included. Signals are cropped first and then "
        "resampled by the Fourier method, as ECG-JEPA's feature extractor does it; quality columns tell of the record "
        "before that.",
    ]


def _options(config: EcgCorpusConfig) -> dict[str, Any]:
    """The options that differ from the defaults, without where the files lay."""
    options = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        own = field.name not in ("name", "version", "data_dir", "data_files", "description")
        if own and field.default is not dataclasses.MISSING and value != field.default:
            options[field.name] = os.path.basename(value) if isinstance(value, str) and os.path.isabs(value) else value
    return options

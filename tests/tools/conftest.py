"""Checkpoints that the tools are tried on: the authors' weights converted, and random ones of ours."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from written_records import write_record

from modeling_ecg_jepa import EcgJepaConfig, EcgJepaModel
from modeling_ecg_jepa.tools.convert import convert_from_authors
from modeling_ecg_jepa.tools.prepare import prepare
from modeling_ecg_jepa.tools.verify import write_verification

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.fixture(scope="session")
def authors_tiny() -> Path:
    """What the authors' code computed: weights in their format, and outputs."""
    return FIXTURES / "authors_tiny"


@pytest.fixture(scope="session")
def records() -> Path:
    """A folder with two real records, ptb-xl/00001_hr and ptb-xl/00002_hr."""
    return FIXTURES / "records"


@pytest.fixture(scope="session")
def converted(authors_tiny, tmp_path_factory) -> Path:
    """The authors' weights as `ecg-jepa convert` leaves them. Not to be written to: see `own_copy`."""
    folder = tmp_path_factory.mktemp("checkpoints") / "converted"
    heads = json.loads((authors_tiny / "reference.json").read_text())["num_attention_heads"]
    convert_from_authors(authors_tiny / "encoder.pth", folder, heads)
    return folder


@pytest.fixture(scope="session")
def random_model(tmp_path_factory) -> Path:
    """A small model with random weights. Not to be written to."""
    folder = tmp_path_factory.mktemp("checkpoints") / "random"
    torch.manual_seed(0)
    EcgJepaModel(EcgJepaConfig.from_preset("tiny", num_hidden_layers=2)).save_pretrained(folder)
    write_verification(folder)
    return folder


@pytest.fixture(scope="session")
def labelled_records(tmp_path_factory) -> Path:
    """Fifteen records of noise of five patients, with table.csv: AF in every other, MI in every third."""
    folder = tmp_path_factory.mktemp("labelled")
    rows = []
    for seed in range(15):
        write_record(folder, f"r{seed:02}", seed=seed)
        rows.append({"record": f"r{seed:02}", "who": f"p{seed % 5}", "AF": (seed + 1) % 2, "MI": int(seed % 3 == 0)})
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def prepared_corpus(labelled_records, tmp_path_factory) -> Path:
    """`labelled_records` as `ecg-jepa prepare` leaves them. Not to be written to."""
    folder = tmp_path_factory.mktemp("corpora") / "prepared"
    columns = {"table": "table.csv", "label_columns": ["AF", "MI"], "patient_column": "who"}
    prepare("wfdb_folder", folder, data_dir=labelled_records, cache_dir=str(folder.parent / "cache"), **columns)
    return folder


@pytest.fixture
def own_copy(converted, tmp_path) -> Path:
    """A copy of `converted` that a test may damage."""
    return Path(shutil.copytree(converted, tmp_path / "copy"))

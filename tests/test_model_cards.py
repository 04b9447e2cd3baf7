"""The checkpoints of model_cards/: small, verified, loaded in one line, with the code and the card of their own."""

from pathlib import Path

import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel

from modeling_ecg_jepa.hub_ecg_jepa import save_code
from modeling_ecg_jepa.leads_ecg_jepa import STANDARD_12_LEADS
from modeling_ecg_jepa.tools.card import write_model_card
from modeling_ecg_jepa.tools.card_training import without_paths
from modeling_ecg_jepa.tools.verify import verify

ROOT = Path(__file__).resolve().parents[1]
CARDS = sorted(path.parent for path in (ROOT / "model_cards").glob("*/config.json"))

MOST_BYTES = 8_000_000

pytestmark = pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.name)


def test_the_weights_are_small_and_compute_what_they_did_at_the_export(folder):
    assert (folder / "model.safetensors").stat().st_size < MOST_BYTES
    assert [check.text for check in verify(folder) if not check.passed] == []


def test_a_checkpoint_is_loaded_in_one_line_and_embeds_a_record(folder):
    model, extractor = AutoModel.from_pretrained(folder), AutoFeatureExtractor.from_pretrained(folder)
    signal = torch.randn(12, 5000, generator=torch.Generator().manual_seed(0)) * 0.1
    inputs = extractor(signal, sampling_rate=500, leads=STANDARD_12_LEADS, return_tensors="pt")
    with torch.no_grad():
        assert model(**inputs).pooler_output.isfinite().all()


def test_the_code_beside_the_weights_is_that_of_the_package(folder, tmp_path):
    save_code(tmp_path)
    travels = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {path.name: path.read_text() for path in folder.glob("*.py")} == travels


def test_nothing_tells_of_the_machine_it_was_made_on(folder):
    told = [path for path in folder.rglob("*") if path.suffix in {".json", ".jsonl", ".md"}]
    assert [path.name for path in told if without_paths(path.read_text()) != path.read_text()] == []


def test_the_card_is_what_the_command_makes_of_the_results(folder, tmp_path):
    output = tmp_path / folder.name / "README.md"
    output.parent.mkdir()
    results, compared = ([folder / name / "probe.json"] for name in ("evidence", "choices"))
    write_model_card(folder, results, compared=compared, notes=folder / "notes.md", output=output)
    assert output.read_text() == (folder / "README.md").read_text()

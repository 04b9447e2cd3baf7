"""Model cards: valid for the Hub, no number that stands in no JSON, no results of other weights, no path of here."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from probe_corpus import make_rows, write_rows
from typer.testing import CliRunner

from modeling_ecg_jepa import EcgJepaCheckpointError, EcgJepaInputError, EcgJepaOutputError
from modeling_ecg_jepa.tools.card import write_model_card
from modeling_ecg_jepa.tools.card_evidence import decisions
from modeling_ecg_jepa.tools.card_training import (
    BOOKKEEPING,
    changed,
    data_table,
    pretraining_command,
    records_in_words,
    shown_command,
    without_paths,
)
from modeling_ecg_jepa.tools.cli import app
from train.linear_probe import probe
from train.options import read_options
from train.pretrain import pretrain
from train.probe_options import ProbeOptions
from train.probing import SETTINGS

#: A run of two steps of a model that is small enough for tests.
SHORT = (
    "--preset tiny --hidden_size 16 --num_attention_heads 2 --predictor_hidden_size 8 --max_steps 2 --logging_steps 1 "
    "--batch_size 4 --num_records 8 --probe_records 0 --cpu_threads 1"
).split()


PTB_XL = {"name": "ptb_xl", "data_dir": "/data/ptb-xl", "weight": 1.0, "held_out": False, "options": {"files": 100}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Two pretrained models, the second with more masks. Not to be written to."""
    folder = tmp_path_factory.mktemp("runs")
    others = {"first": [], "masks": ["--num_masks", "2"]}
    for name, options in others.items():
        pretrain(read_options([*SHORT, *options, "--output_dir", str(folder / name)]))
    return {name: folder / name for name in others}


@pytest.fixture(scope="module")
def probes(runs, tmp_path_factory) -> dict[str, Path]:
    """Results of the first model alone, and of both together."""
    folder = tmp_path_factory.mktemp("probes")
    corpus = write_rows(folder / "corpus", make_rows(per_fold=8))
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(SETTINGS, "C", (1e-3, 1e-1))
        patched.setitem(SETTINGS, "inner_splits", 2)
        for name, models in (("alone", ["first"]), ("both", ["first", "masks"])):
            probe(
                ProbeOptions(
                    models=[str(runs[model]) for model in models],
                    corpus=corpus,
                    output_dir=str(folder / name),
                    cache_dir=str(folder / "cache"),
                    baselines=("random", "statistics"),
                    train_fractions=(1.0, 0.5),
                    seeds=(0,),
                    resamples=100,
                    cpu_threads=1,
                )
            )
    return {name: folder / name / "probe.json" for name in ("alone", "both")}


@pytest.fixture(scope="module")
def card(runs, probes, tmp_path_factory) -> Path:
    """The card of the first model, with all there is."""
    folder = tmp_path_factory.mktemp("card")
    (folder / "notes.md").write_text("1. Tried on 64 records, see https://example.org/2024/7.\n")
    return write_model_card(
        runs["first"],
        [probes["alone"]],
        compared=[probes["both"]],
        notes=folder / "notes.md",
        output=folder / "README.md",
    )


def numbers_of(content: Any) -> Iterator[float]:
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        for item in content:
            yield from numbers_of(item)
    elif isinstance(content, (int, float)) and not isinstance(content, bool):
        yield content


def section(text: str, title: str) -> str:
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


# What stands in it ----------------------------------------------------------------------------------------------------


def test_the_hub_reads_the_metadata_and_finds_the_numbers_of_the_json(card, probes):
    metadata = metadata_load(card)
    assert (metadata["license"], metadata["library_name"]) == ("apache-2.0", "transformers")
    assert metadata["pipeline_tag"] == "feature-extraction"
    assert {"ecg", "ecg-jepa", "jepa", "self-supervised"} <= set(metadata["tags"])
    name, results = model_index_to_eval_results(metadata["model-index"])
    assert name == "first" and len(results) == 8  # two tables, two ways of pooling, two measures
    assert ModelCard.load(card).data.eval_results == results
    tables = json.loads(probes["alone"].read_text())["tables"]
    values = {
        method["measures"][measure]["value"]
        for table in tables
        for method in table["methods"]
        if method["kind"] == "pretrained"
        for measure in ("macro_auroc", "macro_average_precision")
    }
    assert {result.metric_value for result in results} == values
    assert set(metadata["metrics"]) == {result.metric_type for result in results} == {"roc_auc", "average_precision"}


def test_every_number_of_its_tables_of_results_stands_in_a_json(card, runs, probes):
    files = [*probes.values(), runs["first"] / "training_state.json"]
    numbers = [number for file in files for number in numbers_of(json.loads(file.read_text()))]
    known = {format(number, style) for number in numbers for style in (".3f", "+.3f")}
    text = card.read_text()
    for title in ("In short", "Results", "Decisions on the way"):
        lines = [line for line in section(text, title).splitlines() if line.startswith(("|", "- **"))]
        found = [number for line in lines for number in re.findall(r"[+-]?\d+\.\d{3}", line)]
        assert len(found) > 10
        assert set(found) <= known, title
    assert "64 records" in section(text, "Notes")


def test_a_method_stands_with_all_its_intervals_and_its_differences(card, probes):
    (table, _) = json.loads(probes["alone"].read_text())["tables"]
    results = section(card.read_text(), "Results")
    for method in table["methods"]:
        name = method["name"].replace("first,", "this model,")
        cells = [
            f"{number['value']:.3f} ({number['low']:.3f} to {number['high']:.3f})"
            for number in (method["measures"]["macro_auroc"], method["measures"]["macro_average_precision"])
        ]
        assert f"| {name} | 1 | {' | '.join(cells)} |" in results
        assert f"{method['measures']['auroc of LARGE']['value']:.3f}" in results
    for each in table["differences"]:
        number = each["measures"]["macro_auroc"]
        verdict = "better" if number["low"] > 0 else "worse" if number["high"] < 0 else "no clear difference"
        start = f"| {each['method'].removeprefix('first, ')} | {each['minus']} | {number['value']:+.3f} ("
        (line,) = [line for line in results.splitlines() if line.startswith(start)][:1]
        assert verdict in line
    assert json.loads(probes["alone"].read_text())["leakage"] in results


def test_variants_stand_with_what_they_changed(card):
    text = section(card.read_text(), "Decisions on the way")
    assert "| masks | `num_masks` 2 (first: 1) |" in text
    assert "The model of this card is `first`." in text
    assert "of 2 without any effect about 0.1 would stand clear of zero by chance" in text


@pytest.mark.parametrize(
    ("mean", "lead", "expected"),
    [
        ((-0.2, -0.1), (0.1, 0.2), ["helped clearly | masks, lead pool", "hurt clearly | masks, mean pool"]),
        ((-0.2, 0.1), (-0.2, -0.1), ["no clear difference | masks, mean pool", "hurt clearly | masks, lead pool"]),
        ((0.1, 0.3), (0.2, 0.4), ["helped clearly | masks, lead pool", "helped clearly | masks, mean pool"]),
    ],
)
def test_variants_stand_by_what_their_intervals_say_the_best_first(mean, lead, expected, probes):
    results = json.loads(probes["both"].read_text())
    intervals = {"masks, mean pool": mean, "masks, lead pool": lead}
    for each in results["tables"][0]["differences"]:
        if each["kind"] == "pretrained":
            low, high = intervals[each["method"]]
            each["measures"]["macro_auroc"] = {"value": (low + high) / 2, "low": low, "high": high}
    table = next(part for part in decisions(results, "") if part.startswith("| outcome"))
    assert [" | ".join(line.strip("| ").split(" | ")[:2]) for line in table.splitlines()[2:]] == expected


def test_the_card_says_at_its_top_that_it_is_no_medical_device(card):
    text = card.read_text().partition("\n# first\n")[2]
    assert 0 < text.index("research use. It is not a medical device") < 900
    assert "vectors of 16 numbers" in text and "generated, not recorded from anyone" in text


def test_no_path_of_the_machine_gets_into_the_card(card, runs, probes):
    text = card.read_text()
    assert str(runs["first"].parent) not in text and str(probes["alone"].parent) not in text
    assert "/tmp" not in text and str(Path.home()) not in text
    assert "--output_dir" not in text.partition("accelerate launch")[2].partition("# commit")[0]


def test_the_snippets_run(card, runs, monkeypatch):
    first, second, *_ = re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    names = {
        "signal": torch.randn(8, 2500).numpy() * 0.1,
        "sampling_rate": 250,
        "lead_names": ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"],
    }
    exec((first + second).replace("path/to/first", str(runs["first"])), names)
    assert names["embedding"].shape == (1, 16) and names["by_lead"].shape == (1, 8 * 16)


def test_the_command_of_pretraining_gives_the_same_options_again(runs):
    options = json.loads((runs["masks"] / "training_state.json").read_text())["options"]
    corpora = [PTB_XL | {"weight": 2.0}]
    for told in (options, options | {"corpus": corpora, "mask_ratio": [0.5, 0.6], "target_centering": True}):
        command = pretraining_command(told).replace("\\\n", "")
        words = shlex.split(command)[4:]
        again = json.loads(json.dumps(vars(read_options(words)), default=vars))
        for name, value in told.items():
            if name not in BOOKKEEPING and name != "num_records":
                assert again[name] == json.loads(json.dumps(value).replace("/data/", "")), name


def test_a_model_without_results_says_so_and_what_to_run(runs, tmp_path):
    text = write_model_card(runs["first"], output=tmp_path / "README.md").read_text()
    assert "**Not evaluated.**" in section(text, "Results")
    assert "python -m train.linear_probe path/to/first" in text
    assert "model-index" not in metadata_load(tmp_path / "README.md")


def test_converted_weights_claim_no_licence_that_nobody_gave(own_copy):
    text = write_model_card(own_copy).read_text()
    assert metadata_load(own_copy / "README.md")["license"] == "other"
    assert "the weights carry no licence text of their own" in text and "encoder.pth" in text


# What is refused ------------------------------------------------------------------------------------------------------


def test_results_of_other_weights_are_refused(runs, probes, tmp_path):
    with pytest.raises(EcgJepaCheckpointError, match=r"probe.json is about other weights \(first .*\) than those in"):
        write_model_card(runs["masks"], [probes["alone"]], output=tmp_path / "README.md")
    assert not list(tmp_path.iterdir())


def test_the_results_of_a_model_are_its_own_also_where_a_file_holds_others(runs, probes, tmp_path):
    text = write_model_card(runs["masks"], [probes["both"]], output=tmp_path / "README.md").read_text()
    (table, _) = json.loads(probes["both"].read_text())["tables"]
    number = next(each for each in table["methods"] if each["name"] == "masks, mean pool")["measures"]["macro_auroc"]
    assert f"| this model, mean pool | 1 | {number['value']:.3f} (" in text
    assert "| first, mean pool" not in text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:500], "is no whole probe.json"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 9'), "has schema_version 9; this version"),
        (lambda text: text.replace('"tested_records"', '"tested"'), "lacks 'tested_records'"),
        (lambda text: "[]", "is no whole probe.json"),
    ],
)
def test_damaged_or_newer_results_are_refused(damage, message, runs, probes, tmp_path):
    (tmp_path / "probe.json").write_text(damage(probes["alone"].read_text()))
    with pytest.raises(EcgJepaCheckpointError, match=message):
        write_model_card(runs["first"], [tmp_path / "probe.json"], output=tmp_path / "README.md")


def test_a_comparison_of_one_is_refused(runs, probes, tmp_path):
    with pytest.raises(EcgJepaCheckpointError, match="holds one model, first, so nothing is compared"):
        write_model_card(runs["first"], compared=[probes["alone"]], output=tmp_path / "README.md")


@pytest.mark.parametrize("invented", ["0.98765", ".98765", "98.77%", "1,234", "1e-9", "777x", "-0.777"])
def test_a_number_in_the_notes_that_stands_in_no_json_is_refused(invented, runs, probes, tmp_path):
    (tmp_path / "notes.md").write_text(f"Fine so far.\nIt reaches {invented}, they say.\n")
    with pytest.raises(
        EcgJepaInputError, match=rf"notes.md, line 2: the number {invented.removesuffix('x')} stands in none of"
    ):
        write_model_card(runs["first"], [probes["alone"]], notes=tmp_path / "notes.md", output=tmp_path / "README.md")


def test_numbers_of_the_jsons_may_stand_in_the_notes_rounded_or_in_percent(runs, probes, tmp_path):
    value = json.loads(probes["alone"].read_text())["tables"][0]["methods"][0]["measures"]["macro_auroc"]["value"]
    notes = f"AUROC {value}, that is {value:.2f} or {value:.1%}; V1 and PTB-XL are no numbers.\n"
    (tmp_path / "notes.md").write_text(notes)
    text = write_model_card(
        runs["first"], [probes["alone"]], notes=tmp_path / "notes.md", output=tmp_path / "README.md"
    ).read_text()
    assert f"that is {value:.2f} or {value:.1%}" in section(text, "Notes")


def test_a_path_in_the_notes_is_refused(runs, tmp_path):
    (tmp_path / "notes.md").write_text("The records lie in /home/somebody/records.\n")
    with pytest.raises(EcgJepaInputError, match="line 1, names a path of this machine"):
        write_model_card(runs["first"], notes=tmp_path / "notes.md", output=tmp_path / "README.md")


def test_only_a_card_of_its_own_is_replaced_unasked(runs, tmp_path):
    (tmp_path / "README.md").write_text("# By hand\n")
    with pytest.raises(EcgJepaOutputError, match="README.md exists already"):
        write_model_card(runs["first"], output=tmp_path / "README.md")
    write_model_card(runs["first"], output=tmp_path / "README.md", overwrite=True)
    write_model_card(runs["first"], output=tmp_path / "README.md")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_damaged_training_state_is_named(runs, tmp_path):
    folder = Path(shutil.copytree(runs["first"], tmp_path / "copy"))
    (folder / "training_state.json").write_text('{"steps": 2}')
    with pytest.raises(EcgJepaCheckpointError, match=r"training_state.json lacks records, seconds, options"):
        write_model_card(folder)


def test_the_command_writes_the_card_beside_the_weights_and_says_what_is_wrong(runs, probes, tmp_path):
    folder = Path(shutil.copytree(runs["first"], tmp_path / "copy"))
    done = CliRunner().invoke(app, ["card", str(folder), "--results", str(probes["alone"])])
    assert done.exit_code == 0, done.output
    assert "written" in done.output and "curves.png" in (folder / "README.md").read_text()
    done = CliRunner().invoke(app, ["card", "user/no-folder"])
    assert done.exit_code == 1 and "Error: user/no-folder is no folder" in done.output


# Words ----------------------------------------------------------------------------------------------------------------


def test_paths_are_cut_to_their_last_part_and_addresses_stay():
    assert without_paths("ptb_xl:/data/big/ptb-xl:2 --out=/tmp/x/ ~/mine/run") == "ptb_xl:ptb-xl:2 --out=x run"
    for stays in ("https://physionet.org/content", "and/or", "runs/tiny"):
        assert without_paths(stays) == stays
    assert shown_command("python -m x '/a b/c d' --corpus '{name: ptb_xl, data_dir: /d/ptb-xl}'") == (
        "python -m x 'c d' --corpus '{name: ptb_xl, data_dir: ptb-xl}'"
    )


def test_what_was_trained_on_stands_with_licence_and_what_was_held_out():
    table = data_table({"options": {"corpus": [PTB_XL, {"name": "synthetic", "options": {"records": 500}}]}})
    assert "training part (folds 9 and 10 unseen); files 100 | CC BY 4.0 |" in table
    assert "generated, not recorded from anyone; records 500" in table
    state = {"records": 7, "options": {"corpus": [PTB_XL | {"held_out": True}]}}
    assert "all parts, the held-out ones too" in data_table(state)
    assert "results on those prove nothing" in records_in_words(state)
    assert "WFDB records of the folder mine | every record" in data_table({"options": {"data_dir": ["/data/mine"]}})


def test_what_differs_between_two_runs_is_named_and_folders_are_not():
    first = {"num_masks": 1, "output_dir": "a", "corpus": [{"name": "ptb_xl", "data_dir": "/a/ptb-xl", "options": {}}]}
    other = {"num_masks": 1, "output_dir": "b", "corpus": [{"name": "ptb_xl", "data_dir": "/b/ptb-xl", "options": {}}]}
    assert changed(first, other) == "nothing"
    mixed = other | {"corpus": [*other["corpus"], {"name": "synthetic", "weight": 0.5, "options": {"records": 900}}]}
    assert changed(first, mixed) == "`corpus` ptb_xl + synthetic weight 0.5 records 900 (first: ptb_xl)"
    assert changed({}, other) == "not told"

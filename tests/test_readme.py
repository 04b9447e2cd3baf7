"""What README.md promises: two commands of one line each, snippets that run as they stand, links that lead on."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from check_readme import ROOT, Snippet, broken_links, command, markdown_pages, snippets
from transformers import AutoModelForSequenceClassification
from written_records import write_counts

from dataset_scripts.signals import resampled, with_leads
from dataset_scripts.synthesis import synthesize_record
from modeling_ecg_jepa import (
    EcgJepaConfig,
    EcgJepaFeatureExtractor,
    EcgJepaForMultiLabelClassification,
    EcgJepaModel,
)
from modeling_ecg_jepa.leads_ecg_jepa import STANDARD_12_LEADS
from train.benchmark_suites import SUITES, read_benchmark_options

README = (ROOT / "README.md").read_text()
SET_UP = 'python3 -m venv .venv && . .venv/bin/activate && pip install -c constraints.txt -e ".[{extras}]" && {command}'
SHORT = "--max_steps 2 --warmup_steps 0 --batch_size 2 --probe_records 0"
FIXTURES = Path(__file__).parent / "fixtures"


def unmarked(language: str) -> list[Snippet]:
    return [snippet for snippet in snippets(README) if snippet.language == language and snippet.marker is None]


def line_of(snippet: Snippet) -> str:
    return f"line{snippet.line}"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder in which the README's `path/to/...` exist: checkpoints, records, PTB-XL, the authors' weights."""
    folder = tmp_path_factory.mktemp("workspace")
    config = EcgJepaConfig.from_preset("tiny")
    EcgJepaModel(config).save_pretrained(folder / "path/to/checkpoint")
    EcgJepaFeatureExtractor.from_config(config).save_pretrained(folder / "path/to/checkpoint")
    classifier = EcgJepaForMultiLabelClassification(EcgJepaConfig.from_preset("tiny", id2label={0: "AF", 1: "MI"}))
    classifier.save_pretrained(folder / "path/to/classifier")
    shutil.copytree(FIXTURES / "records/ptb-xl", folder / "path/to/records")
    (folder / "path/to/records/labels.csv").write_text("record,patient,AF,MI\n00001_hr,a,1,0\n00002_hr,b,0,1\n")
    shutil.copy(FIXTURES / "authors_tiny/encoder.pth", folder / "path/to")
    copy_of_ptb_xl(folder / "path/to/ptb-xl")
    for name in ("train", "tests"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def copy_of_ptb_xl(folder: Path) -> None:
    """PTB-XL's layout with the two records of the fixtures; their lines are those of the published table."""
    shutil.copytree(FIXTURES / "records/ptb-xl", folder / "records500/00000")
    (folder / "ptbxl_database.csv").write_text(
        "ecg_id,patient_id,age,sex,report,scp_codes,strat_fold,filename_lr,filename_hr\n"
        "1,15709.0,56.0,1,sinusrhythmus,\"{'NORM': 100.0, 'LVOLT': 0.0, 'SR': 0.0}\",3,,records500/00000/00001_hr\n"
        "2,13243.0,19.0,0,sinusbradykardie,\"{'NORM': 80.0, 'SBRAD': 0.0}\",2,,records500/00000/00002_hr\n"
    )


def test_the_main_command_is_one_line_for_an_empty_environment():
    quickstart = "accelerate launch -m train.pretrain --config train/recipes/quickstart.yaml"
    assert command(README, "quickstart") == SET_UP.format(extras="train", command=quickstart)
    assert (ROOT / "train/recipes/quickstart.yaml").exists()


def test_the_test_command_is_one_line_for_an_empty_environment():
    assert command(README, "tests") == SET_UP.format(extras="train,test,dev", command="python -m pytest -q")


def test_every_snippet_is_run_by_a_test():
    assert {snippet.language for snippet in snippets(README)} <= {"", "python", "bash"}
    assert {snippet.marker for snippet in snippets(README)} == {
        None,
        "quickstart",
        "tests",
        "pretrain",
        "pretrain-prepared",
        "pretrain-eeg",
        "finetune",
        "benchmark",
        "benchmark-paper",
    }


def test_the_python_snippets_run_one_after_another(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    names: dict[str, object] = {}
    for snippet in unmarked("python"):
        exec(compile("\n" * snippet.line + snippet.text, "README.md", "exec"), names)
    assert names["embedding"].shape == (96,)


@pytest.mark.parametrize("snippet", unmarked("bash"), ids=line_of)
def test_the_commands_run_as_they_stand(workspace, snippet):
    run(snippet.text, workspace)


def test_pretraining_on_own_records_runs_as_it_stands_but_for_its_length(workspace):
    run(f"{command(README, 'pretrain')} {SHORT}", workspace)
    assert (workspace / "runs/mine/model.safetensors").exists()


def test_pretraining_on_prepared_windows_runs_as_it_stands_but_for_its_length(workspace):
    if not (workspace / "prepared/ptb-xl").exists():
        run(next(snippet.text for snippet in unmarked("bash") if "ecg-jepa prepare" in snippet.text), workspace)
    run(f"{command(README, 'pretrain-prepared')} {SHORT}", workspace)
    assert (workspace / "runs/ptb-xl/model.safetensors").exists()


def test_pretraining_on_another_signal_runs_as_it_stands_but_for_its_length(workspace):
    if not (workspace / "prepared/eeg").exists():
        make = next(snippet.text for snippet in unmarked("python") if "recipes/eeg.yaml" in snippet.text)
        run(f"python - <<'END'\nimport numpy as np\n{make}\nEND", workspace)
    run(f"{command(README, 'pretrain-eeg')} {SHORT}", workspace)
    assert (workspace / "runs/eeg/model.safetensors").exists()


def test_finetuning_runs_as_it_stands_but_for_its_length_and_a_smaller_corpus(workspace):
    five_superclasses(workspace / "ptb-xl-short")
    short = command(README, "finetune").replace("path/to/ptb-xl", "ptb-xl-short")
    run(f"{short} --num_train_epochs 1 --warmup_epochs 0 --resamples 100 --cpu_threads 1", workspace)
    model = AutoModelForSequenceClassification.from_pretrained(workspace / "runs/superclasses")
    assert set(model.config.id2label.values()) == {"NORM", "MI", "STTC", "CD", "HYP"}
    results = json.loads((workspace / "runs/superclasses/results.json").read_text())
    assert results["records"] == {"train": 40, "validation": 5, "test": 5}
    assert results["test"]["measures"]["macro_auroc"]["value"] <= 1


def test_the_benchmarks_commands_are_understood_and_only_the_papers_look_at_the_test_fold():
    """tests/train/test_benchmark.py runs whole ones."""
    for marker, suite, final in (("benchmark", "quick", False), ("benchmark-paper", "paper", True)):
        (snippet,) = [snippet for snippet in snippets(README) if snippet.marker == marker]
        for line in snippet.text.splitlines():
            words = shlex.split(line)
            assert words[:3] == ["python", "-m", "train.benchmark"]
            options = read_benchmark_options(words[3:])
            assert (options.suite, options.final) == (SUITES[suite], final)


def five_superclasses(folder: Path) -> None:
    """PTB-XL's layout with a record of each superclass in every fold."""
    (folder / "records100/00000").mkdir(parents=True)
    lines = ["ecg_id,patient_id,age,sex,report,scp_codes,strat_fold,filename_lr,filename_hr"]
    for place in range(50):
        record = resampled(with_leads(synthesize_record(seed=0, index=place)[0], STANDARD_12_LEADS), 100)
        counts = np.rint(1000 * record.signal).astype(int)
        write_counts(folder / "records100/00000", f"{place:05d}_lr", counts, leads=STANDARD_12_LEADS)
        code = ("NORM", "IMI", "NDT", "LAFB", "LVH")[place % 5]
        lines.append(f"{place},{place},56,1,,{{'{code}': 100.0}},{place // 5 + 1},records100/00000/{place:05d}_lr,")
    (folder / "ptbxl_database.csv").write_text("\n".join(lines) + "\n")


def run(script: str, folder: Path) -> None:
    """A shell as after the set-up commands: the environment's own programs first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shell = ["bash", "-euo", "pipefail", "-c", script]
    environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", markdown_pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    assert list(broken_links(page)) == []


def test_a_broken_link_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("check_readme.ROOT", tmp_path)
    (tmp_path / "there.md").write_text("# A `heading`, twice\n\n# A heading twice\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[good](there.md) [good](there.md#a-heading-twice-1) [good](https://arxiv.org/abs/2410.08559) [good](#up)\n"
        "[absent](gone.md) [no heading](there.md#b) [outside](../secret) [no address](https://nowhere)\n\n## Up\n"
    )
    faults = list(broken_links(page))
    assert [fault.split(":")[0] for fault in faults] == ["gone.md", "there.md#b", "../secret", "https"]


def test_a_command_over_two_lines_is_refused():
    with pytest.raises(ValueError, match="has 2 lines"):
        command("<!-- tests -->\n```bash\npip install .\npytest\n```\n", "tests")
    with pytest.raises(ValueError, match="0 blocks marked"):
        command("```bash\npytest\n```\n", "tests")

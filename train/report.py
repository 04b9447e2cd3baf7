"""What a run says at its end, in words, from the summary that `training_state.json` keeps."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoFeatureExtractor, AutoModel

from dataset_scripts.records import read_record
from dataset_scripts.skipped import SkippedRecord, list_skipped

from .checkpoints import LOG, PRETRAINING, STATE
from .failures import LEAST_CONTENT_SHARE

#: A real recording that comes with the repository, embedded at the end of every run.
EXAMPLE_RECORD = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "records" / "ptb-xl" / "00001_hr"

COLLAPSE_WARNING = """\
WARNING: the targets say where a patch is rather than what it holds (collapse onto positions). The loss looks good
and means nothing. On small data use the levers: --patch_initializer_range 0.4 --position_scale 0.2
--target_centering true."""


def report(folder: Path, state: dict[str, Any]) -> None:
    """Print content share, probe, records left out, the embedding of a real record, and where everything is."""
    parts = [describe_content(state["content_share"])]
    if state["heart_rate_probe"]:
        parts.append(describe_probe(state["heart_rate_probe"], state["options"]["probe_records"] // 2, state["steps"]))
    if state["online_probe"]:
        parts.append(describe_online_probe(*state["online_probe"]))
    if state["records_left_out"]:
        skipped = [SkippedRecord(**record) for record in state["records_left_out"]]
        parts.append("\n".join([f"{len(skipped):,} records were left out:", *list_skipped(skipped, most=10)]))
    if state["options"]["modality"] != "other":
        parts.append(describe_embedding(folder))
    parts.append(describe_folder(folder))
    print("", *parts, sep="\n\n")


def describe_content(share: dict[str, Any]) -> str:
    text = (
        f"Content share (the part of the targets that differs between records): {share['at_start']:.3f} at the start, "
        f"{share['at_end']:.3f} at the end, never below {share['lowest']:.3f}; "
        f"floor {share['floor']:g} {'held' if share['held'] else 'NOT HELD'}."
    )
    return text if share["held"] and share["at_end"] >= LEAST_CONTENT_SHARE else f"{text}\n{COLLAPSE_WARNING}"


def describe_online_probe(first: dict[str, Any], last: dict[str, Any]) -> str:
    """What the last online probe read off the student, beside what it read before the first step."""
    names = {"probe_auroc": "macro AUROC of labels", "probe_bpm": "error of heart rate in bpm"}
    lines = [f"Online probe of the student at step {last['step']:,} (at step {first['step']:,}):"]
    for key, name in names.items():
        for pooling, words in _POOLINGS.items():
            before, after = (line.get(f"{key}_{pooling}") for line in (first, last))
            if before is not None and after is not None:
                lines.append(f"  {name}, {words}: {after:.3f} ({before:.3f})")
    return "\n".join(lines)


#: How the embeddings of `diagnostics.embed` are called in words.
_POOLINGS = {"mean": "mean over all patches", "lead": "mean a lead, side by side"}


def describe_probe(probes: dict[str, dict[str, Any]], tested: int, steps: int) -> str:
    head = (
        f"Heart rate of {tested} held-out synthetic records, ridge regression on frozen embeddings after {steps} "
        "steps: mean error in bpm (95% intervals)"
    )
    return "\n".join([head, *(_describe_pooling(_POOLINGS[name], probe) for name, probe in probes.items())])


def _describe_pooling(pooling: str, probe: dict[str, Any]) -> str:
    def interval(name: str) -> str:
        return "{value:.2f} ({low:.2f} to {high:.2f})".format(**probe[name])

    verdict = "beats" if probe["beats_random"] else "DOES NOT clearly beat"
    return (
        f"  {pooling}\n"
        f"    pretrained {interval('pretrained_mae')}, R2 {interval('pretrained_r2')}\n"
        f"    random weights {interval('random_mae')}, R2 {interval('random_r2')}\n"
        f"    gain on the same records {interval('gain')}: pretraining {verdict} random weights"
    )


def describe_embedding(folder: Path) -> str:
    """Embed the example record with what was saved, as a user would."""
    record = read_record(EXAMPLE_RECORD)
    extractor, model = AutoFeatureExtractor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    inputs = extractor(
        record.signal, sampling_rate=record.sampling_rate, leads=list(record.lead_names), return_tensors="pt"
    )
    with torch.inference_mode():
        embedding = model(**inputs).pooler_output[0]
    seconds = record.signal.shape[1] / record.sampling_rate
    first = ", ".join(f"{number:.3f}" for number in embedding[:4].tolist())
    return (
        f"A real ECG, PTB-XL {record.record_id} ({len(record.lead_names)} leads, {seconds:g} s at "
        f"{record.sampling_rate:g} Hz), embedded with AutoModel from the saved folder: {len(embedding)} numbers, "
        f"{first}, ..."
    )


def describe_folder(folder: Path) -> str:
    return (
        f"Everything is in {folder}:\n"
        f'  the encoder, for AutoModel.from_pretrained("{folder}") and AutoFeatureExtractor likewise\n'
        f"  {PRETRAINING}/  student, teacher and predictor, for AutoModelForPreTraining\n"
        f"  {LOG}  the measures along the way\n"
        f"  {STATE}  this summary"
    )

"""Fine-tune a pretrained encoder: python -m train.finetune --model CHECKPOINT --corpus ptb_xl --data_dir PTB-XL

Read `run` first: records, model, training, choices on validation, the saved model, numbers. What surrounds it:
finetune_data.py (who is trained and tested on), augmentations.py, finetune_training.py (what is trained, and how),
metrics.py (numbers with intervals).
"""

import dataclasses
import functools
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from dataset_scripts.outputs import whole_file
from modeling_ecg_jepa import EcgJepaCheckpointError, EcgJepaOutputError
from modeling_ecg_jepa.resampling_ecg_jepa import AUTHORS_BANDPASS
from modeling_ecg_jepa.tools.verify import write_verification

from .checkpoints import only_run, replaced_files
from .command_line import IN_PART, report_left_out, run_command
from .finetune_data import TEST, TRAIN, VALIDATION, FinetuneDataset, FinetuneRecords, lead_places, load_records
from .finetune_options import FREE_OPTIONS, FinetuneOptions
from .finetune_training import (
    EcgTrainer,
    apply_temperature,
    as_labels,
    build_model,
    fit_temperature,
    make_trainer,
    probabilities,
    training_arguments,
)
from .linear_probe import describe_encoder
from .metrics import best_thresholds, measures, measures_of_values, outcomes, resample_patients, with_intervals
from .options import read_options
from .probe_methods import Encoder, load_encoders
from .provenance import provenance

#: Raised whenever a field of `results.json` changes its meaning.
SCHEMA_VERSION = 1

RESULTS, OPTIONS = "results.json", "finetune_options.json"

#: The last file that the Trainer writes of a checkpoint: without it, it was killed in the save.
_LAST_OF_A_CHECKPOINT = "trainer_state.json"

#: By these a folder is known to hold a run or a model, and these are what `--overwrite` removes.
_LEFT_BY_A_RUN = (OPTIONS, RESULTS, "model.safetensors", "config.json", "preprocessor_config.json", "verification.json")

#: Of the resamples: the same for all runs, so that their values may be subtracted.
_RESAMPLES_SEED = 0


def finetune(options: FinetuneOptions) -> dict[str, Any]:
    """A whole run, alone in its output folder. Returns what `results.json` holds; in all but the main process {}.

    Raises:
        EcgJepaError: options, a checkpoint, records or an output folder that no run can be made of, or what ended it.
    """
    arguments = training_arguments(options)
    if not torch.accelerator.is_available():
        torch.set_num_threads(options.cpu_threads or max(1, (os.cpu_count() or 1) // arguments.world_size))
    folder = Path(options.output_dir)
    if not arguments.should_save:
        return run(options, arguments, folder)
    with only_run(folder):
        prepare_output_dir(options, folder)
        return run(options, arguments, folder)


def run(options: FinetuneOptions, arguments: transformers.TrainingArguments, folder: Path) -> dict[str, Any]:
    """Records, model, training, choices on validation, the saved model, numbers."""
    started = time.perf_counter()
    resumed = find_checkpoint(options.resume_from_checkpoint, folder)
    encoder = load_encoders([options.model or ""], torch.device("cpu"))[0]
    with arguments.main_process_first(desc="reading records"):
        records = load_records(options, encoder.extractor, quiet=not arguments.should_save)
    parts = make_datasets(options, encoder, records)
    model = build_model(options, encoder, records)
    trainer = make_trainer(options, arguments, model, records, parts[TRAIN], parts[VALIDATION])
    if trainer.is_world_process_zero():
        print(describe_start(options, records, trainer), flush=True)
    trained = trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))

    outputs = {part: trainer.predict(parts[part]).predictions for part in parts if part != TRAIN}
    if not trainer.is_world_process_zero():
        return {}
    choices = choose(options, records, outputs[VALIDATION])
    results = describe_run(options, encoder, records, trainer)
    save_model(trainer.accelerator.unwrap_model(trainer.model), choices, encoder, options, folder)
    results["training"] |= {"loss": trained.training_loss, "seconds": round(time.perf_counter() - started, 1)}
    results |= dataclasses.asdict(choices)
    results |= {part: evaluate_part(options, records, part, each, choices) for part, each in outputs.items()}
    with whole_file(folder / RESULTS) as unfinished:
        unfinished.write_text(json.dumps(without_nan(results), indent=1) + "\n", encoding="utf-8")
    print(in_words(results))
    report_left_out(records.left_out)
    return results


def make_datasets(options: FinetuneOptions, encoder: Encoder, records: FinetuneRecords) -> dict[str, FinetuneDataset]:
    """Of each part that is read; only training is augmented."""
    leads = options.lead_names()
    places = None if leads is None else lead_places(encoder.extractor, leads)
    band = band_of(options, encoder)
    return {
        part: FinetuneDataset(
            records,
            records.of_part(part),
            band,
            places,
            options.augment() if part == TRAIN else None,
            options.seed,
        )
        for part in ((TRAIN, VALIDATION, TEST) if options.test else (TRAIN, VALIDATION))
    }


def band_of(options: FinetuneOptions, encoder: Encoder) -> tuple[float, float] | None:
    """The checkpoint's own band-pass, or else the authors' where it is wanted."""
    return encoder.extractor.bandpass or (AUTHORS_BANDPASS if options.bandpass else None)


# Choices on validation, and what is saved -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Choices:
    """What the validation part decides: the temperature of the probabilities, already in the saved weights, and from
    which probability on a class is said to hold. None where the problem has no such thing."""

    temperature: float | None
    thresholds: dict[str, float] | None


def choose(options: FinetuneOptions, records: FinetuneRecords, logits: np.ndarray) -> Choices:
    """A class of which the validation part has not both outcomes is said to hold from 0.5 on."""
    if options.problem == "regression":
        return Choices(None, None)
    labels = as_labels(records.values_of(VALIDATION), logits.shape[1])
    temperature = fit_temperature(logits, labels, options.problem)
    if options.problem == "single_label":
        return Choices(temperature, None)
    thresholds = best_thresholds(labels, probabilities(logits / temperature, options.problem))
    named = zip(records.targets.names, thresholds.tolist(), strict=True)
    return Choices(temperature, {name: 0.5 if np.isnan(value) else round(value, 6) for name, value in named})


def save_model(model: nn.Module, choices: Choices, encoder: Encoder, options: FinetuneOptions, folder: Path) -> None:
    """What AutoModelForSequenceClassification loads, at the top of `folder`: calibrated, adapters merged, with the
    extractor that filters as in training, and what verifies it.

    Raises:
        EcgJepaOutputError: something cannot be written.
    """
    model = model.merge_and_unload() if options.lora else model
    if choices.temperature is not None:
        apply_temperature(model, choices.temperature)
    model.config.thresholds = None if choices.thresholds is None else list(choices.thresholds.values())
    extractor = type(encoder.extractor).from_dict(encoder.extractor.to_dict() | {"bandpass": band_of(options, encoder)})
    with replaced_files(folder) as unfinished:
        extractor.save_pretrained(unfinished)
        model.save_pretrained(unfinished)
        write_verification(unfinished)


def evaluate_part(
    options: FinetuneOptions, records: FinetuneRecords, part: str, outputs: np.ndarray, choices: Choices
) -> dict[str, Any]:
    """Numbers of a part with 95% intervals over its patients."""
    values, names = records.values_of(part), records.targets.names
    resamples = resample_patients(records.patients_of(part), _RESAMPLES_SEED, options.resamples)
    described: dict[str, Any] = {"records": len(values), "resampled": resamples.unit}
    if options.problem == "regression":
        return described | with_intervals(measures_of_values(values, outputs, resamples.weights), names)
    labels = as_labels(values, len(names))
    found = measures(
        labels,
        probabilities(outputs / choices.temperature, options.problem),
        resamples.weights,
        None if choices.thresholds is None else list(choices.thresholds.values()),
        one_label=options.problem == "single_label",
    )
    undefined = [dataclasses.asdict(each) for each in outcomes(labels, names) if not each.defined]
    chosen_here = {"thresholds_and_temperature_chosen_here": part == VALIDATION}
    return described | chosen_here | {"undefined_classes": undefined} | with_intervals(found, names)


# The output folder ----------------------------------------------------------------------------------------------------


def prepare_output_dir(options: FinetuneOptions, folder: Path) -> None:
    """Make the folder, without an earlier run in it unless that goes on, and note the options in it. Only what runs
    leave is ever removed.

    Raises:
        EcgJepaOutputError: it holds a run, and nothing says what becomes of it.
        EcgJepaCheckpointError: the run to go on with had other options.
    """
    left = [folder / name for name in _LEFT_BY_A_RUN if (folder / name).exists()]
    left += folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    told = {name: value for name, value in _as_json(options).items() if name not in FREE_OPTIONS}
    if find_checkpoint(options.resume_from_checkpoint, folder) is not None:
        _refuse_other_options(folder, told)
        return
    barely_begun = options.resume_from_checkpoint == "latest" and not (folder / RESULTS).exists()
    if left and not options.overwrite and not barely_begun:
        raise EcgJepaOutputError(
            f"The output folder {folder} holds another run ({', '.join(path.name for path in left[:5])}). Choose "
            "another --output_dir, pass --overwrite to replace it, or --resume_from_checkpoint latest to go on with it."
        )
    for path in left:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with whole_file(folder / OPTIONS) as unfinished:
        unfinished.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _refuse_other_options(folder: Path, told: dict[str, Any]) -> None:
    try:
        saved = json.loads((folder / OPTIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EcgJepaCheckpointError(f"Cannot read {folder / OPTIONS} ({error}), so no run can go on there.") from error
    changed = [
        f"{name} was {saved.get(name)!r} and is {value!r}" for name, value in told.items() if saved.get(name) != value
    ]
    if changed:
        raise EcgJepaCheckpointError(
            f"The run in {folder} had other options: {'; '.join(changed)}. Give the same to go on with it, or another "
            "--output_dir to start a new one."
        )


def find_checkpoint(wanted: str | None, folder: Path) -> Path | None:
    """The checkpoint that `--resume_from_checkpoint` means; None where nothing is wanted, or "latest" and there is
    none.

    Raises:
        EcgJepaCheckpointError: the folder is no whole checkpoint of the Trainer.
    """
    if wanted is None:
        return None
    if wanted == "latest":
        whole = [file.parent for file in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{_LAST_OF_A_CHECKPOINT}")]
        return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    if not (Path(wanted) / _LAST_OF_A_CHECKPOINT).is_file():
        raise EcgJepaCheckpointError(
            f"--resume_from_checkpoint {wanted}: no {_LAST_OF_A_CHECKPOINT} in there, so it is no checkpoint of "
            'fine-tuning; "latest" takes the newest of the output folder.'
        )
    return Path(wanted)


def _as_json(options: FinetuneOptions) -> dict[str, Any]:
    """The options as they come back from JSON."""
    return json.loads(json.dumps(dataclasses.asdict(options)))


# What is said of it ---------------------------------------------------------------------------------------------------


def describe_run(
    options: FinetuneOptions, encoder: Encoder, records: FinetuneRecords, trainer: EcgTrainer
) -> dict[str, Any]:
    """Where the numbers come from."""
    choice, state = options.corpus_choice(), trainer.state
    return {
        "schema_version": SCHEMA_VERSION,
        **provenance("finetune"),
        "device": str(trainer.args.device),
        "processes": trainer.args.world_size,
        "seeds": [options.seed],
        "options": _as_json(options),
        "model": describe_encoder(encoder),
        "corpus": {"name": choice.name, "data_dir": choice.data_dir, **choice.options},
        **records.describe(),
        "leads": options.lead_names() or list(encoder.extractor.leads),
        "training": {
            "steps": state.global_step,
            "epochs": state.epoch,
            "learning_rate": trainer.args.learning_rate,
            "trained_parameters": sum(each.numel() for each in trainer.model.parameters() if each.requires_grad),
            "best_step": state.best_global_step if options.early_stopping_patience else state.global_step,
            "history": state.log_history,
        },
    }


def describe_start(options: FinetuneOptions, records: FinetuneRecords, trainer: EcgTrainer) -> str:
    """Records, classes and steps in a few lines, and what to know of them."""
    counts = ", ".join(f"{part} {count:,}" for part, count in records.describe()["records"].items())
    step = trainer.args.train_batch_size * trainer.args.world_size * trainer.args.gradient_accumulation_steps
    lines = [
        f"{records.windows.corpus}: {counts} records; {len(records.targets.names)} targets ({options.problem}), {step} "
        f"records a step, highest learning rate {trainer.args.learning_rate:.3g}",
        *records.notes,
    ]
    if records.left_out or records.duplicates:
        lines.append(f"{len(records.left_out):,} records and {len(records.duplicates):,} duplicates are left out.")
    return "\n".join(lines)


def in_words(results: dict[str, Any]) -> str:
    """The numbers of each part that was read, a line a measure, and where they are."""
    lines = []
    for part in (VALIDATION, TEST):
        if part in results:
            lines.append(f"{part}: {results[part]['records']:,} records; intervals over {results[part]['resampled']}")
            lines += [
                f"  {name:<45}{number['value']:8.3f} ({number['low']:.3f} to {number['high']:.3f})"
                for name, number in results[part]["measures"].items()
                if number is not None
            ]
    if TEST not in results:
        lines.append("The test part was not read; for the report: --test --resume_from_checkpoint latest")
    folder = results["options"]["output_dir"]
    return "\n".join([*lines, f"The model is in {folder}, all numbers are in {Path(folder) / RESULTS}."])


def without_nan(value: Any) -> Any:
    """The same with null in place of numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 good, 1 error, 2 usage, 3 done without some records that cannot be used."""
    return run_command(functools.partial(read_options, kind=FinetuneOptions), _finetune_in_words, arguments)


def _finetune_in_words(options: FinetuneOptions) -> int:
    return IN_PART if finetune(options).get("unusable_records") else 0


if __name__ == "__main__":
    sys.exit(main())

"""Fine-tuning as a method beside linear probes: fitted by train.finetune, compared on the same records."""

import contextlib
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from modeling_ecg_jepa import EcgJepaConfigError, EcgJepaFeatureExtractor
from modeling_ecg_jepa.resampling_ecg_jepa import bandpass

from .finetune import finetune
from .finetune_options import FinetuneOptions
from .options import CorpusChoice
from .probe_methods import Encoder, Method, random_encoder
from .probe_records import Part, ProbeRecords
from .probing import Fitted

FINE_TUNED = "fine-tuned"

#: Records scored at once.
_BATCH = 64


@dataclass(frozen=True)
class FineTuning:
    """How an encoder is fine-tuned.

    Attributes:
        corpus: of the records; its training part is folds 1 to 8, its validation part fold 9.
        options: of `FinetuneOptions`, where they are not the authors' recipe.
        folder: for the models.
    """

    corpus: CorpusChoice
    options: Mapping[str, Any]
    folder: Path
    cpu_threads: int | None = None

    def fit(self, encoder: Encoder, model: str, records: ProbeRecords, part: Part, seed: int) -> Fitted:
        """Fine-tune, or go on where a killed run stopped, and score the records that a part tests.

        Args:
            model: the checkpoint's folder.

        Raises:
            EcgJepaError: as `finetune`; or its training part is not what the part fits.
        """
        asked = [encoder.sha256, Path(model).name, self.corpus.name, self.corpus.options, dict(self.options), seed]
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
        folder = self.folder / f"{Path(model).name}-seed{seed}-{key}"
        options = FinetuneOptions(
            model=model,
            corpus=self.corpus,
            output_dir=str(folder),
            seed=seed,
            resume_from_checkpoint="latest",
            cpu_threads=self.cpu_threads,
            **self.options,
        )
        with contextlib.redirect_stdout(sys.stderr):
            results = finetune(options)
        trained = results["records"]["train"]
        if trained != len(part.fitted):
            raise EcgJepaConfigError(
                f"Fine-tuning trained on {trained:,} records and the probes on {len(part.fitted):,}, so they cannot be "
                "compared. A corpus needs folds, or the parts train, validation and test."
            )
        for checkpoint in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            shutil.rmtree(checkpoint)
        chosen = {"epochs": results["training"]["epochs"], "validation": results["validation"]["measures"]}
        return Fitted(score(folder, records, part.tested), chosen)


def finetuned_method(encoder: Encoder, records: ProbeRecords, how: FineTuning) -> Method:
    """The encoder, fine-tuned."""
    return Method(
        name=f"{encoder.name}, {FINE_TUNED}",
        kind=FINE_TUNED,
        identity={"finetuned": encoder.sha256, "options": dict(how.options), "torch": torch.__version__},
        fit=lambda part, seed: how.fit(encoder, str(encoder.folder), records, part, seed),
        varies=True,
        features={"shape": encoder.shape, "variant": FINE_TUNED},
    )


def finetuned_random_method(like: Encoder, records: ProbeRecords, how: FineTuning) -> Method:
    """The same training from random weights."""

    def fit(part: Part, seed: int) -> Fitted:
        folder = how.folder / f"random-seed{seed}"
        random_encoder(like, seed).save_pretrained(folder)
        like.extractor.save_pretrained(folder)
        return how.fit(like, str(folder), records, part, seed)

    return Method(
        name=f"random weights, {FINE_TUNED}",
        kind="random",
        identity={"finetuned_random": like.shape, "options": dict(how.options), "torch": torch.__version__},
        fit=fit,
        varies=True,
        features={"shape": like.shape, "variant": FINE_TUNED},
    )


@torch.inference_mode()
def score(folder: Path, records: ProbeRecords, places: np.ndarray) -> np.ndarray:
    """(records, classes) log odds of a fine-tuned model, classes in the order of `records.names`."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    band = EcgJepaFeatureExtractor.from_pretrained(folder).bandpass
    columns = [model.config.label2id[name] for name in records.names]
    parts = []
    for some in np.array_split(places, 1 + (len(places) - 1) // _BATCH):
        batch = records.windows.__getitems__(some)
        if band is not None:
            rate = records.windows.extractor.sampling_rate
            filtered = bandpass(batch["input_values"].numpy(), band, rate)
            batch["input_values"] = torch.from_numpy(filtered.astype(np.float32))
        parts.append(model(**batch).logits[:, columns].double().numpy())
    return np.concatenate(parts)

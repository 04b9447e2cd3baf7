"""What makes a saved folder self-contained: the code beside the weights, and what is found in it by which name."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors_ecg_jepa import EcgJepaOutputError

# transformers finds the files of remote code by reading import lines. These bring every file along, whichever class was
# asked for first, so that what was loaded from a Hub can be saved and shared again whole; `as` marks them as wanted.
if TYPE_CHECKING:
    from .collator_ecg_jepa import EcgJepaDataCollator as EcgJepaDataCollator
    from .feature_extraction_ecg_jepa import EcgJepaFeatureExtractor as EcgJepaFeatureExtractor
    from .modeling_ecg_jepa import EcgJepaModel as EcgJepaModel
    from .pipelines_ecg_jepa import EcgPipeline as EcgPipeline

EXTRACTOR_AUTO_MAP = {"AutoFeatureExtractor": "feature_extraction_ecg_jepa.EcgJepaFeatureExtractor"}

_AUTO_MAP = {
    "AutoConfig": "configuration_ecg_jepa.EcgJepaConfig",
    "AutoModel": "modeling_ecg_jepa.EcgJepaModel",
    "AutoModelForPreTraining": "modeling_ecg_jepa.EcgJepaForPreTraining",
    "AutoModelForSequenceClassification": "modeling_ecg_jepa.EcgJepaForMultiLabelClassification",
    **EXTRACTOR_AUTO_MAP,
}

# Task -> its pipeline in the code, and the Auto class that loads its model.
_PIPELINES = {
    "ecg-classification": ("EcgClassificationPipeline", "AutoModelForSequenceClassification"),
    "ecg-embedding": ("EcgEmbeddingPipeline", "AutoModel"),
    "ecg-measurement": ("EcgMeasurementPipeline", "AutoModelForSequenceClassification"),
}


def auto_map(architectures: list[str] | None) -> dict[str, str]:
    """Auto class -> "file.Class" for a checkpoint of these architectures; a regression head is its own classifier."""
    if architectures and "EcgJepaForRegression" in architectures:
        return _AUTO_MAP | {"AutoModelForSequenceClassification": "modeling_ecg_jepa.EcgJepaForRegression"}
    return dict(_AUTO_MAP)


def custom_pipelines() -> dict[str, dict[str, Any]]:
    """What `transformers.pipeline` needs to find our tasks in the code of a folder."""
    return {task: {"impl": f"pipelines_ecg_jepa.{name}", "pt": [auto]} for task, (name, auto) in _PIPELINES.items()}


def save_code(folder: str | os.PathLike) -> None:
    """Copy the modules that travel with the weights into `folder`, made if it is not there.

    Raises:
        EcgJepaOutputError: the folder cannot be made or written to.
    """
    here = Path(__file__).parent
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for source in sorted([*here.glob("*_ecg_jepa.py"), here / "cropa.py"]):
            if not (Path(folder) / source.name).exists() or not source.samefile(Path(folder) / source.name):
                shutil.copyfile(source, Path(folder) / source.name)
    except OSError as error:
        raise EcgJepaOutputError(
            f"Cannot write to the folder {os.fspath(folder)!r} ({error}). Choose a folder that you may write to."
        ) from error

"""ECG-JEPA (arXiv 2410.08559) for Hugging Face. Importing this package registers it with the Auto classes."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .collator_ecg_jepa import EcgJepaDataCollator
from .configuration_ecg_jepa import EcgJepaConfig
from .errors_ecg_jepa import (
    EcgJepaCheckpointError,
    EcgJepaConfigError,
    EcgJepaError,
    EcgJepaInputError,
    EcgJepaOutputError,
    EcgJepaRecordError,
)
from .feature_extraction_ecg_jepa import EcgJepaFeatureExtractor
from .masking_ecg_jepa import sample_time_mask
from .modeling_ecg_jepa import (
    EcgJepaForMultiLabelClassification,
    EcgJepaForPreTraining,
    EcgJepaForRegression,
    EcgJepaModel,
)
from .pipelines_ecg_jepa import PIPELINES, EcgClassificationPipeline, EcgEmbeddingPipeline, EcgMeasurementPipeline

__version__ = "0.1.0"

AutoConfig.register("ecg_jepa", EcgJepaConfig, exist_ok=True)
AutoFeatureExtractor.register(EcgJepaConfig, EcgJepaFeatureExtractor, exist_ok=True)
AutoModel.register(EcgJepaConfig, EcgJepaModel, exist_ok=True)
AutoModelForPreTraining.register(EcgJepaConfig, EcgJepaForPreTraining, exist_ok=True)
# Of the two heads a checkpoint gets the one that its config.json names, the first where it names neither.
AutoModelForSequenceClassification.register(
    EcgJepaConfig, (EcgJepaForMultiLabelClassification, EcgJepaForRegression), exist_ok=True
)
for _task, (_pipeline, _auto_class) in PIPELINES.items():
    PIPELINE_REGISTRY.register_pipeline(_task, pipeline_class=_pipeline, pt_model=_auto_class)

__all__ = [
    "EcgClassificationPipeline",
    "EcgEmbeddingPipeline",
    "EcgJepaCheckpointError",
    "EcgJepaConfig",
    "EcgJepaConfigError",
    "EcgJepaDataCollator",
    "EcgJepaError",
    "EcgJepaFeatureExtractor",
    "EcgJepaForMultiLabelClassification",
    "EcgJepaForPreTraining",
    "EcgJepaForRegression",
    "EcgJepaInputError",
    "EcgJepaModel",
    "EcgJepaOutputError",
    "EcgJepaRecordError",
    "EcgMeasurementPipeline",
    "sample_time_mask",
]

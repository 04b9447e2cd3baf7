"""transformers' common tests of models on ours; run by `tests/upstream/run.py`, which lays this file beside them."""

import unittest

import torch
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_PRETRAINING_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)
from transformers.testing_utils import torch_device

from modeling_ecg_jepa import (
    EcgJepaConfig,
    EcgJepaForMultiLabelClassification,
    EcgJepaForPreTraining,
    EcgJepaForRegression,
    EcgJepaModel,
)

from ...test_modeling_common import ModelTesterMixin, floats_tensor

# The common tests look classes up by name in the tables of models inside transformers.
MODEL_MAPPING_NAMES["ecg_jepa"] = "EcgJepaModel"
MODEL_FOR_PRETRAINING_MAPPING_NAMES["ecg_jepa"] = "EcgJepaForPreTraining"
MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES["ecg_jepa"] = "EcgJepaForMultiLabelClassification"

REGRESSION_TARGETS = [{"name": "heart_rate", "unit": "bpm", "mean": 70.0, "scale": 15.0}]


class EcgJepaModelTester:
    """A small model and a batch for it, under the names that the common tests ask for."""

    def __init__(self, parent):
        self.parent = parent
        self.is_training = True
        self.batch_size = 3
        self.leads = ["I", "II", "V1"]
        self.num_patches = 8
        self.patch_size = 10
        self.seq_length = len(self.leads) * self.num_patches
        self.hidden_size = 32
        self.num_hidden_layers = 2
        self.num_attention_heads = 4

    def get_config(self):
        return EcgJepaConfig(
            leads=self.leads,
            num_patches=self.num_patches,
            patch_size=self.patch_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            predictor_hidden_size=16,
            predictor_num_hidden_layers=2,
            predictor_num_attention_heads=2,
            problem_type="single_label_classification",
            num_labels=2,
        )

    def prepare_config_and_inputs_for_common(self):
        signal = floats_tensor([self.batch_size, len(self.leads), self.num_patches * self.patch_size])
        return self.get_config(), {"input_values": signal}

    def get_time_mask(self):
        """Of every record the last three of its patches are hidden (batch, patches)."""
        hidden = torch.arange(self.num_patches, device=torch_device) >= self.num_patches - 3
        return hidden.expand(self.batch_size, -1)


class EcgJepaModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (EcgJepaModel, EcgJepaForPreTraining, EcgJepaForMultiLabelClassification, EcgJepaForRegression)
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = EcgJepaModelTester(self)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if model_class is EcgJepaForPreTraining:
            inputs["time_mask"] = self.model_tester.get_time_mask()
        if model_class is EcgJepaForRegression and return_labels:
            inputs["labels"] = torch.zeros(self.model_tester.batch_size, len(REGRESSION_TARGETS), device=torch_device)
        return inputs

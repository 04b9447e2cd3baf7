"""transformers' common tests of models on ours; run by `tests/upstream/run.py`, which lays this file beside them."""

import tempfile
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
    EcgJepaConfigError,
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

REGRESSION_TARGETS = [
    {"name": "heart_rate", "unit": "bpm", "mean": 70.0, "scale": 15.0},
    {"name": "qrs_duration", "unit": "ms", "mean": 95.0, "scale": 12.0},
]


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
        self.num_visible = 5  # patches a lead that the pretraining student sees
        self.attn_implementation = None  # whatever the model chooses

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
            regression_targets=REGRESSION_TARGETS,
        )

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        config._attn_implementation = self.attn_implementation
        inputs = {
            "input_values": floats_tensor([self.batch_size, len(self.leads), self.num_patches * self.patch_size]),
            "attention_mask": torch.ones(self.batch_size, self.num_patches, dtype=torch.bool, device=torch_device),
        }
        return config, inputs


class EcgJepaModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (EcgJepaModel, EcgJepaForPreTraining, EcgJepaForMultiLabelClassification, EcgJepaForRegression)
    test_resize_embeddings = False  # there is no vocabulary
    test_can_init_all_missing_weights_before_2023 = True  # the common test reads a model's year off HF's copyright line

    def setUp(self):
        self.model_tester = EcgJepaModelTester(self)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        batch = len(inputs["input_values"])
        if model_class is EcgJepaForPreTraining:
            hidden = torch.arange(self.model_tester.num_patches, device=torch_device) >= self.model_tester.num_visible
            inputs["time_mask"] = hidden.expand(batch, -1)
        if model_class is EcgJepaForRegression and return_labels:
            inputs["labels"] = torch.zeros(batch, len(REGRESSION_TARGETS), device=torch_device)
        return inputs

    # ------------------------------------------------------------------------------------------------------------------
    # Overrides, each with its reason. Those that call super() only tell the common test what it cannot know.

    def in_pretraining_only_visible_patches_are_encoded(self, common_test):
        """The common tests have one sequence length for all classes; the student in pretraining sees visible times."""
        everything = self.all_model_classes
        self.all_model_classes = tuple(cls for cls in everything if cls is not EcgJepaForPreTraining)
        common_test()
        self.all_model_classes = (EcgJepaForPreTraining,)
        self.model_tester.seq_length = len(self.model_tester.leads) * self.model_tester.num_visible
        common_test()

    def test_attention_outputs(self):
        self.in_pretraining_only_visible_patches_are_encoded(super().test_attention_outputs)

    def test_hidden_states_output(self):
        self.in_pretraining_only_visible_patches_are_encoded(super().test_hidden_states_output)

    def test_capture_outputs_decorator(self):
        self.model_tester.attn_implementation = "eager"  # the others refuse output_attentions instead of leaving it out
        super().test_capture_outputs_decorator()

    def test_model_outputs_equivalence(self):
        """The common test subtracts outputs, which torch refuses for boolean ones such as pretraining's time mask."""
        self.model_tester.attn_implementation = "eager"  # the others refuse output_attentions instead of leaving it out
        everything = self.all_model_classes
        self.all_model_classes = tuple(cls for cls in everything if cls is not EcgJepaForPreTraining)
        super().test_model_outputs_equivalence()
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = EcgJepaForPreTraining(config).eval()
        inputs = self._prepare_for_class(inputs, EcgJepaForPreTraining)
        inputs |= {"output_hidden_states": True, "output_attentions": True}
        as_tuple, as_dict = model(**inputs, return_dict=False), model(**inputs, return_dict=True).to_tuple()
        torch.testing.assert_close(as_tuple, as_dict)

    def test_base_model_prefix_loads_base_weights(self):
        """The common test allows one base model a class; pretraining holds two, and a base checkpoint fills both."""
        everything = self.all_model_classes
        self.all_model_classes = tuple(cls for cls in everything if cls is not EcgJepaForPreTraining)
        super().test_base_model_prefix_loads_base_weights()
        base = EcgJepaModel(self.model_tester.get_config())
        with tempfile.TemporaryDirectory() as folder:
            base.save_pretrained(folder)
            loaded = EcgJepaForPreTraining.from_pretrained(folder)
        for name, weights in base.state_dict().items():
            torch.testing.assert_close(loaded.encoder.state_dict()[name], weights, rtol=0, atol=0)
            torch.testing.assert_close(loaded.teacher.state_dict()[name], weights, rtol=0, atol=0)

    def test_model_get_set_embeddings(self):
        """The common test wants an nn.Embedding of words; patches of a signal are embedded by a linear layer."""
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            self.assertIsInstance(model.get_input_embeddings(), torch.nn.Linear)
            replacement = torch.nn.Linear(self.model_tester.patch_size, self.model_tester.hidden_size)
            model.set_input_embeddings(replacement)
            self.assertIs(model.get_input_embeddings(), replacement)

    def test_problem_types(self):
        """The common test also trains the classifier as a regressor; ours is EcgJepaForRegression, and it says so."""
        for problem_type, labels in (
            ("multi_label_classification", torch.tensor([[1.0, 0.0]] * self.model_tester.batch_size)),
            ("single_label_classification", torch.zeros(self.model_tester.batch_size, dtype=torch.long)),
        ):
            config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            config.problem_type = problem_type
            loss = EcgJepaForMultiLabelClassification(config)(**inputs, labels=labels).loss
            loss.backward()
        config.problem_type = "regression"
        with self.assertRaisesRegex(EcgJepaConfigError, "EcgJepaForRegression"):
            EcgJepaForMultiLabelClassification(config)

    def test_sdpa_can_dispatch_non_composite_models(self):
        """The common test wants sdpa when nothing is asked for; ours is the factorised form."""
        for model_class in self.all_model_classes:
            with tempfile.TemporaryDirectory() as folder:
                model_class(self.model_tester.get_config()).save_pretrained(folder)
                for asked, expected in ((None, "cropa"), ("cropa", "cropa"), ("sdpa", "sdpa"), ("eager", "eager")):
                    model = model_class.from_pretrained(folder, attn_implementation=asked)
                    self.assertEqual(model.config._attn_implementation, expected)

    @unittest.skip("Feeds word indices to the base model; head sizes are in test_can_load_ignoring_mismatched_shapes.")
    def test_load_with_mismatched_shapes(self):
        pass

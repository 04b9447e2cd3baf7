"""transformers' common tests of feature extractors on ours; run by `tests/upstream/run.py`."""

import unittest

from modeling_ecg_jepa import EcgJepaFeatureExtractor

from ...test_feature_extraction_common import FeatureExtractionSavingTestMixin


class EcgJepaFeatureExtractionTest(FeatureExtractionSavingTestMixin, unittest.TestCase):
    feature_extraction_class = EcgJepaFeatureExtractor

    @property
    def feat_extract_dict(self):
        return {"leads": ["II", "V1"], "sampling_rate": 125, "patch_size": 25}

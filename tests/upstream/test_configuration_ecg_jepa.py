"""transformers' common tests of configurations on ours; run by `tests/upstream/run.py`."""

import unittest

from modeling_ecg_jepa import EcgJepaConfig

from ...test_configuration_common import ConfigTester


class EcgJepaConfigTest(unittest.TestCase):
    def test_config(self):
        tester = ConfigTester(self, config_class=EcgJepaConfig, has_text_modality=False, hidden_size=64)
        tester.run_common_tests()

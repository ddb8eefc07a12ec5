"""
The suite as a pytest plug-in: each check is a test of its own.

In `conftest.py` (or by `-p hf_custom_decoder.testing.pytest_plugin`):

    pytest_plugins = ["hf_custom_decoder.testing.pytest_plugin"]

and in a test file:

    @pytest.fixture
    def decoder_config():
        return MyDecoderConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2)

    def test_my_decoder(decoder_check):
        decoder_check()
"""

from collections.abc import Callable
from functools import partial

import pytest
from transformers import PreTrainedConfig

from .check_decoder import decoder_case
from .decoder_checks import DECODER_CHECKS
from .fresh_process import loads_in_a_fresh_process

CHECKS = {**DECODER_CHECKS, "fresh process": loads_in_a_fresh_process}


@pytest.fixture
def decoder_config() -> PreTrainedConfig:
    """The config to check; a test file defines its own."""
    pytest.fail(
        "`decoder_check` needs a fixture `decoder_config` that returns the config of your decoder. Define one."
    )


@pytest.fixture(params=list(CHECKS))
def decoder_check(request: pytest.FixtureRequest, decoder_config: PreTrainedConfig) -> Callable[[], None]:
    """One check of the suite, ready to be called; a test that takes it runs once for each."""
    return partial(CHECKS[request.param], decoder_case(decoder_config))

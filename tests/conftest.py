"""Settings of every test: no network, one seed, no thread fights between workers."""

import os
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from transformers.utils import logging

import hf_custom_decoder  # noqa: F401 - registers the classes

pytest_plugins = ["tests.skip_guard"]

logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _verbosity() -> Iterator[None]:
    """Commands quieten transformers; the next test hears it again."""
    before = logging.get_verbosity()
    yield
    logging.set_verbosity(before)

"""Decoding what the Trainer returns."""

import numpy as np
import pytest
import torch

from hf_custom_decoder.evaluation.predictions import decode_predictions
from tests.tiny_pronunciation import tiny_tokenizer


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_ignored_positions_count_as_padding(kind: type) -> None:
    tokenizer = tiny_tokenizer()
    cat = tokenizer("K AE T")["input_ids"]
    back = tokenizer("B AE")["input_ids"]
    rows = [[1, *cat, -100], [-100, *back, -100, -100]]
    assert decode_predictions(tokenizer, kind(rows)) == ["K AE T", "B AE"]


def test_caller_keeps_his_array() -> None:
    predictions = np.array([[4, -100]])
    decode_predictions(tiny_tokenizer(), predictions)
    assert predictions.tolist() == [[4, -100]]


def test_tokenizer_without_padding_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="must have a padding token"):
        decode_predictions(tokenizer, [[1]])


@pytest.mark.parametrize("predictions", [np.zeros((2, 3, 5), dtype=int), np.zeros((2, 3)), np.zeros(3, dtype=int)])
def test_logits_are_refused(predictions: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be whole numbers of shape"):
        decode_predictions(tiny_tokenizer(), predictions)

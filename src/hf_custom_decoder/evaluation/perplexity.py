"""Perplexity of a model on pairs of ids."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from transformers import PreTrainedModel

from .predictions import IGNORED_LABEL_ID


def mean_token_loss(model: PreTrainedModel, batches: Iterable[dict[str, torch.Tensor]]) -> tuple[float, int]:
    """Averages the cross-entropy over all target tokens, each with the same weight whatever its batch.

    Args:
        model ([`~transformers.PreTrainedModel`]): An encoder-decoder model.
        batches (`Iterable[dict[str, torch.Tensor]]`): With `input_ids`, `attention_mask` and `labels`.

    Returns:
        `tuple[float, int]`: Nats a token without label smoothing, and the number of tokens, end tokens included.

    Raises:
        ValueError: If there is no target token.
    """
    losses = row_losses(model, batches)
    num_tokens = sum(count for _, count in losses)
    if num_tokens == 0:
        raise ValueError("There must be target tokens to measure a loss on, got none.")
    return sum(total for total, _ in losses) / num_tokens, num_tokens


def row_losses(model: PreTrainedModel, batches: Iterable[dict[str, torch.Tensor]]) -> list[tuple[float, int]]:
    """Sums the cross-entropy of every row, in order.

    Args:
        model ([`~transformers.PreTrainedModel`]): An encoder-decoder model.
        batches (`Iterable[dict[str, torch.Tensor]]`): With `input_ids`, `attention_mask` and `labels`.

    Returns:
        `list[tuple[float, int]]`: Nats without label smoothing, and target tokens, end token included.
    """
    found: list[tuple[float, int]] = []
    was_training = model.training
    model.eval()
    call: Any = model
    try:
        for batch in batches:
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            with torch.inference_mode():
                logits = call(**batch, use_cache=False).logits
            labels = batch["labels"]
            losses = torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL_ID, reduction="none"
            )
            totals = losses.view_as(labels).double().sum(dim=1).tolist()
            found += zip(totals, (labels != IGNORED_LABEL_ID).sum(dim=1).tolist(), strict=True)
    finally:
        model.train(was_training)
    return found


def perplexity(loss: float) -> float:
    """Returns `exp(loss)`, or infinity where that is too large for a float; not a number stays that."""
    return math.inf if loss >= 700.0 else math.exp(loss)

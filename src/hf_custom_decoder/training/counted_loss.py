"""Losses of models that do not count the labels of an accumulated step."""

from typing import Any

import torch
from torch import nn

from ..evaluation.predictions import IGNORED_LABEL_ID
from ..models.modeling_custom_seq2seq import CustomSeq2SeqForConditionalGeneration


class CountedLoss:
    """Calls a model whose loss is the mean over the labels of its batch, and makes it their share of the whole step.

    The Trainer hands over `num_items_in_batch`, the labels of all batches and processes of an optimizer step, and
    takes for granted that a loss was divided by them. BART, Marian, T5 and others take the argument and ignore it, so
    that their gradient would grow with the number of batches.

    Args:
        model (`nn.Module`): Perhaps in a wrapper for several processes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.module: Any = getattr(model, "module", model)

    def __call__(self, **batch: Any) -> Any:
        items = batch.pop("num_items_in_batch", None)
        outputs = self._model(**batch)
        if items is not None:
            outputs["loss"] = outputs["loss"] * ((batch["labels"] != IGNORED_LABEL_ID).sum() / items)
        return outputs


def divides_by_items(model: Any, batch: dict[str, Any]) -> bool:
    """Tells whether a model divides its loss by `num_items_in_batch`; models of others are called to find out.

    Args:
        model (`nn.Module`): Without a wrapper for several processes.
        batch (`dict[str, torch.Tensor]`): With `labels`, on the model's device.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if isinstance(inner, CustomSeq2SeqForConditionalGeneration):
        return True
    count = (batch["labels"] != IGNORED_LABEL_ID).sum()
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            once, twice = (model(**batch, num_items_in_batch=times * count)["loss"] for times in (1, 2))
    except TypeError:  # the argument is unknown
        return False
    finally:
        model.train(was_training)
    return bool(torch.isclose(2.0 * twice, once, rtol=1e-2))

"""What training may add to a model's loss: agreement of two dropout passes, and agreement with a teacher.

Legend: B rows, T target length, V vocabulary, N label positions of the batch.
"""

from typing import Any

import torch
from torch import nn

from ..evaluation.predictions import IGNORED_LABEL_ID
from .divergences import symmetric_divergence, teacher_divergence


class AddedLoss:
    """Calls a model and adds to the loss that it returns.

    - `r_drop`: the batch goes through the model twice in one call, each time under other dropout. The loss is equation
      4 of Liang et al. 2021 divided by 2: the mean of both passes' losses plus half of `r_drop` times
      [`~hf_custom_decoder.training.divergences.symmetric_divergence`], so that it stays a loss in nats a token.
    - `teacher`: `(1 - weight)` of the model's loss plus `weight` of
      [`~hf_custom_decoder.training.divergences.teacher_divergence`].

    Everything is summed over label positions and divided by what the model divides by, so accumulated batches give
    the gradient of one large batch. Logits exist at label positions only where the model computes no others.

    Args:
        r_drop (`float`): Weight alpha of the agreement of two passes; 0 means one pass.
        teacher (`nn.Module`, *optional*): A model with the same vocabulary, on the device of the batches.
        weight (`float`): Share of the teacher, from 0 to 1.
        temperature (`float`): Of the teacher's and the student's distributions.
    """

    def __init__(
        self, *, r_drop: float = 0.0, teacher: nn.Module | None = None, weight: float = 0.5, temperature: float = 1.0
    ) -> None:
        self._r_drop = r_drop
        self._teacher = None if teacher is None else teacher.eval().requires_grad_(False)
        self._weight = weight
        self._temperature = temperature

    def __call__(self, model: Any, inputs: dict[str, Any]) -> Any:
        """Returns the model's outputs for a batch, with the whole loss.

        Args:
            model (`nn.Module` or [`CountedLoss`]): In training mode, perhaps in a wrapper for several processes.
            inputs (`dict[str, Any]`): A padded batch with `labels` of shape `(B, T)`; `num_items_in_batch` (label
                positions of the whole optimizer step) where the model takes it.
        """
        labels = inputs["labels"]
        num_passes = 2 if self._r_drop else 1
        items = inputs.get("num_items_in_batch")
        count = (labels != IGNORED_LABEL_ID).sum().clamp(min=1) if items is None else items
        given = inputs
        if num_passes == 2:
            given = {name: torch.cat((value, value)) if _is_batch(value) else value for name, value in inputs.items()}
            if items is not None:
                given["num_items_in_batch"] = 2 * items
        with _ProjectedLogits(model) as projected:
            outputs = model(**given)
        logits = projected.at_labels(outputs, given["labels"])  # (passes * N, V), one pass after the other
        loss = outputs["loss"]
        if self._teacher is not None:
            theirs = self._teacher_logits(inputs)[:, : logits.shape[-1]]  # a padded vocabulary has no tokens behind
            told = teacher_divergence(logits, theirs, self._temperature) / (num_passes * count)
            loss = (1.0 - self._weight) * loss + self._weight * told
        if num_passes == 2:
            loss = loss + 0.5 * self._r_drop * symmetric_divergence(logits) / count
        outputs["loss"] = loss
        return outputs

    @torch.no_grad()
    def _teacher_logits(self, inputs: dict[str, Any]) -> torch.Tensor:
        """The teacher's logits at label positions, `(N, V)`."""
        teacher: Any = self._teacher
        labels = inputs["labels"]
        of_student = ("labels", "num_items_in_batch", "decoder_input_ids")
        sources = {name: value for name, value in inputs.items() if name not in of_student}
        decoder_input_ids = teacher.prepare_decoder_input_ids_from_labels(labels)
        outputs = teacher(**sources, decoder_input_ids=decoder_input_ids, use_cache=False)
        return _at_labels(outputs.logits, labels)


class _ProjectedLogits:
    """Hears what the vocabulary projection of a model writes: in this package's models label positions only."""

    def __init__(self, model: Any) -> None:
        inner: Any = getattr(model, "module", model)
        self._projection: nn.Module = inner.get_output_embeddings()
        self._heard: torch.Tensor | None = None

    def __enter__(self) -> "_ProjectedLogits":
        self._hook = self._projection.register_forward_hook(self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()

    def _hear(self, module: nn.Module, arguments: Any, output: torch.Tensor) -> None:
        self._heard = output

    def at_labels(self, outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        """Returns logits of shape `(N, V)`, row after row of the batch."""
        if outputs.get("logits") is not None:  # what the projection wrote may have been changed since
            return _at_labels(outputs["logits"], labels)
        if self._heard is None:
            raise TypeError(
                "R-Drop and a teacher need a model that returns `logits` or whose output embeddings write them, found "
                "neither. Leave `training.r_drop` and `training.teacher` out."
            )
        return self._heard if self._heard.dim() == 2 else _at_labels(self._heard, labels)


def _at_labels(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    positions = (labels.flatten() != IGNORED_LABEL_ID).nonzero().squeeze(-1)
    return logits.flatten(0, 1).index_select(0, positions)


def _is_batch(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0

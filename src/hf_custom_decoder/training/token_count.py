"""How many tokens a training run has read and written, padding not counted."""

from typing import Any

import torch
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..evaluation.predictions import IGNORED_LABEL_ID


class TokenCount(TrainerCallback):
    """Counts source and target tokens as the model sees them in training.

    Attributes:
        num_tokens (`int`): Source tokens with a 1 in `attention_mask` and labels that are not -100, over all resumed
            runs.
    """

    def __init__(self) -> None:
        self.num_tokens = 0
        self._hook: RemovableHandle | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        if model is None:
            raise ValueError("`model` must be the one that is trained, got None. Pass the callback to a Trainer.")
        self._hook = model.register_forward_pre_hook(self._count, with_kwargs=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _count(self, module: torch.nn.Module, arguments: tuple[Any, ...], batch: dict[str, torch.Tensor]) -> None:
        if module.training:
            self.num_tokens += int(batch["attention_mask"].sum()) + int((batch["labels"] != IGNORED_LABEL_ID).sum())

"""Means of weights: over the last checkpoints, and moving over the steps."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .recipe_adapter import ADAPTER_WEIGHTS, is_adapted, load_adapter_weights

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_MOVING = "moving_average.safetensors"


def average_checkpoints(folders: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Averages the weights of checkpoints (Vaswani et al. 2017, section 6.1).

    Args:
        folders (`Sequence[Path]`): Folders with `model.safetensors`, or its parts, of one model, or with the weights
            of one adapter; at least one.

    Returns:
        `dict[str, torch.Tensor]`: The mean of every floating-point tensor, summed in float64 and returned in its own
        dtype; of other tensors the last.

    Raises:
        ValueError: If the folders hold tensors of other names or shapes.
    """
    sums: dict[str, torch.Tensor] = {}
    names: set[str] | None = None
    last: dict[str, torch.Tensor] = {}
    for folder in folders:
        last = _read_weights(folder)
        if names is None:
            names = set(last)
        if set(last) != names or any(name in sums and sums[name].shape != last[name].shape for name in last):
            raise ValueError(
                f"Checkpoints must hold the same weights to be averaged, {folder} differs from {folders[0]}."
            )
        for name, tensor in last.items():
            if tensor.is_floating_point():
                sums[name] = tensor.double() + sums.get(name, 0.0)
    if names is None:
        raise ValueError("There must be checkpoints to average, got none.")
    means = {name: (total / len(folders)).to(last[name].dtype) for name, total in sums.items()}
    return {**last, **means}


def load_weights(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> None:
    """Puts saved weights into a model; of tied ones a file holds one.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]): The model, or one with an adapter.
        weights (`dict[str, torch.Tensor]`): From [`average_checkpoints`].

    Raises:
        ValueError: If weights are missing that are not tied to others, or unknown ones are given.
    """
    if is_adapted(model):
        load_adapter_weights(model, weights)
        return
    result = model.load_state_dict(weights, strict=False)
    tied = set(getattr(model, "all_tied_weights_keys", {}) or {})
    missing = [name for name in result.missing_keys if name not in tied]
    if missing or result.unexpected_keys:
        raise ValueError(
            f"The weights must be those of the model, missing {missing[:3]}, unknown {result.unexpected_keys[:3]}."
        )
    model.tie_weights()


class MovingAverage(TrainerCallback):
    """An exponential moving average of all trained weights, in float32.

    After step t it moves to `d * average + (1 - d) * weights`, where d is the smaller of `decay` and
    (1 + t) / (10 + t), so that the first steps, far from where training ends, are soon forgotten.

    Args:
        decay (`float`): Share that stays at each step.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._averages: dict[str, torch.Tensor] = {}

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        if not self._averages and model is not None:
            self._averages = {name: weight.detach().float().clone() for name, weight in _trained(model)}
        elif model is not None:
            self._averages = {name: self._averages[name].to(weight.device) for name, weight in _trained(model)}

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        if model is None:
            return
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        with torch.no_grad():
            for name, weight in _trained(model):
                self._averages[name].lerp_(weight.detach().float(), 1.0 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model has the averages inside the block, and its own weights again after it."""
        own = {name: weight.detach().clone() for name, weight in _trained(model)}
        self.apply(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in _trained(model):
                    weight.copy_(own[name])

    def apply(self, model: nn.Module) -> None:
        """Puts the averages into the model."""
        with torch.no_grad():
            for name, weight in _trained(model):
                weight.copy_(self._averages[name].to(weight.device))

    def save(self, checkpoint: Path) -> None:
        """Writes the averages into a checkpoint."""
        save_file({name: tensor.cpu() for name, tensor in self._averages.items()}, checkpoint / _MOVING)

    def load(self, checkpoint: Path) -> None:
        """Reads the averages of a checkpoint."""
        self._averages = load_file(checkpoint / _MOVING)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every trained weight once, also where it is tied; names do not depend on a wrapper around the model."""
    inner = getattr(model, "module", model)
    return ((name, weight) for name, weight in inner.named_parameters() if weight.requires_grad)


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    parts = [folder / name for name in (_WEIGHTS, ADAPTER_WEIGHTS) if (folder / name).is_file()]
    parts = parts[:1] or sorted(folder.glob("model-*.safetensors"))
    if not parts:
        raise ValueError(f"A checkpoint to average must hold {_WEIGHTS} or {_INDEX}, found neither in {folder}.")
    weights: dict[str, torch.Tensor] = {}
    for part in parts:
        with safe_open(part, framework="pt") as opened:
            weights |= {name: opened.get_tensor(name) for name in opened.keys()}
    return weights

"""Parameters, gradients and optimizer state of AdamW on one of several GPUs, in bytes.

Of N GPUs every figure is that of the fullest. Written Ψ for the number of parameters, as in Rajbhandari et al. 2020
("ZeRO: Memory Optimizations Toward Training Trillion Parameter Models"), whose section 3.1 counts what is held.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

SHARDINGS = ("none", "zero2", "zero3", "fsdp")

REDUCE_BUCKET = 500_000_000
LIVE_PARAMETERS = 1_000_000_000
"""Defaults of DeepSpeed, in numbers: `reduce_bucket_size`, and `stage3_max_live_parameters`, up to which ZeRO-3 leaves
gathered parameters where they are."""

_STEP_BYTES = 4
"""AdamW counts the steps of every tensor in a float32."""


@dataclass(frozen=True)
class ModelStates:
    """What a GPU holds whatever the batch is, in bytes.

    Attributes:
        parameters (`int`): Trained and frozen ones, and the model's buffers.
        gradients (`int`): Of trained parameters, when the backward pass is over.
        optimizer (`int`): AdamW's two moments and step counts, and the float32 parameters where others are trained.
        communication (`int`): Most bytes of what several GPUs exchange: buckets, gathered layers, whole gradients.
    """

    parameters: int
    gradients: int
    optimizer: int
    communication: int


def model_states(
    model: nn.Module, *, num_gpus: int, sharding: str, weights: torch.dtype, arithmetic: torch.dtype
) -> ModelStates:
    """Counts the states of a model that AdamW trains.

    - `none`: everything on every GPU, 4Ψ bytes of float32 parameters, as many of gradients, 8Ψ of moments (section 3.1
      without 16-bit copies, which autocast makes in the forward pass). Several GPUs add the buckets of
      `DistributedDataParallel`, a second copy of the gradients (its `gradient_as_bucket_view` is False by default).
    - `zero2` and `zero3`: ZeRO stages 2 and 3 as DeepSpeed computes them. Section 5.2: gradients and optimizer state
      (K = 12 bytes a parameter: float32 parameter and two moments) are divided by N; section 5.3: parameters too. The
      paper has 2 bytes a parameter and a gradient; with float32 arithmetic they are 4, and DeepSpeed copies the
      parameters into its optimizer all the same. `zero2` adds a bucket of gradients, `zero3` gathered parameters too.
    - `fsdp`: `fully_shard` (FSDP2) on every layer and on the rest, over all GPUs: parameters, gradients and moments of
      `weights`, each tensor cut along its first dimension into N equal parts, the last ones padded. Two layers and
      the rest are gathered at a time in `arithmetic`, and two units have whole gradients.

    Args:
        model (`nn.Module`): On any device; only shapes are read.
        num_gpus (`int`): N, at least 1.
        sharding (`str`): One of [`SHARDINGS`].
        weights (`torch.dtype`): In which parameters, gradients and moments are kept by `none` and `fsdp`.
        arithmetic (`torch.dtype`): Of matrix products; in it DeepSpeed keeps its parameters and gradients.

    Raises:
        ValueError: If `num_gpus` is below 1 or `sharding` is unknown.
    """
    if num_gpus < 1:
        raise ValueError(f"`--gpus` must be at least 1, got {num_gpus}. Give the number of GPUs of the run.")
    if sharding not in SHARDINGS:
        raise ValueError(f"`--sharding` must be one of {', '.join(SHARDINGS)}, got {sharding!r}. Choose one of them.")
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    every = list(model.parameters())
    trained = [weight for weight in every if weight.requires_grad]
    whole, learnt = _count(every), _count(trained)
    if sharding == "none":
        size = weights.itemsize
        return ModelStates(
            parameters=whole * size + buffers,
            gradients=learnt * size,
            optimizer=2 * learnt * size + _STEP_BYTES * len(trained),
            communication=learnt * size if num_gpus > 1 else 0,
        )
    size = arithmetic.itemsize
    if sharding == "fsdp":
        layers = [_count(unit) for unit in _units(model)]
        gathered = whole - sum(layers) + sum(sorted(layers)[-2:])
        learnt_units = [_count(weight for weight in unit if weight.requires_grad) for unit in _units(model)]
        reduced = sum(sorted([*learnt_units, learnt - sum(learnt_units)])[-2:])
        shard, learnt_shard = _shard(every, num_gpus), _shard(trained, num_gpus)
        return ModelStates(
            parameters=shard * weights.itemsize + buffers,
            gradients=learnt_shard * weights.itemsize,
            optimizer=2 * learnt_shard * weights.itemsize + _STEP_BYTES * len(trained),
            communication=(gathered + reduced) * size,
        )
    part = math.ceil(learnt / num_gpus)
    bucket = min(learnt, REDUCE_BUCKET) * size
    if sharding == "zero2":
        return ModelStates(whole * size + buffers, part * size, 12 * part, bucket)
    live = min(whole, LIVE_PARAMETERS) * size
    return ModelStates(math.ceil(whole / num_gpus) * size + buffers, part * size, 12 * part, live + bucket)


def _count(weights: "Iterator[nn.Parameter] | list[nn.Parameter]") -> int:
    return sum(weight.numel() for weight in weights)


def _shard(weights: list[nn.Parameter], num_gpus: int) -> int:
    """Numbers of the first shard; the others are padded to it."""
    return sum(math.ceil(weight.shape[0] / num_gpus) * (weight.numel() // weight.shape[0]) for weight in weights)


def _units(model: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of every layer: of every item of an outermost list of modules."""
    units: list[list[nn.Parameter]] = []

    def visit(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                units.extend(list(layer.parameters()) for layer in child)
            else:
                visit(child)

    visit(model)
    return units

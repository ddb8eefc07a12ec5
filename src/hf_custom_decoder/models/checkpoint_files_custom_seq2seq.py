"""What the weight files of a checkpoint must be before memory is taken for them."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import load_state_dict

MAX_GROWTH = 4
"""A model has at most this many times the numbers of its files: a new head, and what is tied, are in no file."""

SPARE_NUMBERS = 2**22
"""Numbers (16 MiB in float32) that a model may always have beyond its files."""


class MismatchedSizesError(ValueError, RuntimeError):
    """Weights of other shapes than the model's; transformers raises a `RuntimeError` there."""


def check_file_names(owner: str, folder: str | os.PathLike[str], names: Sequence[str]) -> None:
    """
    Refuse an index that names files outside of its folder.

    Args:
        owner (`str`): Class that is loaded.
        folder (`str`): The checkpoint, a folder of this machine.
        names (`Sequence[str]`): Weight files as transformers opens them: the folder and what the index says.

    Raises:
        ValueError: A name is absolute or holds `..`.
    """
    inside = os.path.join(os.fspath(folder), "")
    for name in names:
        relative = name.removeprefix(inside).replace("\\", "/")
        if not name.startswith(inside) or ".." in relative.split("/"):
            raise ValueError(
                f"{owner}: an index must name files of its own folder, the one in {os.fspath(folder)!r} names "
                f"{name!r}. Do not use this checkpoint, or save it again with `save_pretrained`."
            )


def check_weight_files(owner: str, model: nn.Module, files: Sequence[str], *, is_quantized: bool) -> None:
    """
    Compare what the files hold with what the model is made of; nothing but their headers is read.

    Args:
        owner (`str`): Class that is loaded.
        model (`nn.Module`): As its config says, its weights on the meta device.
        files (`Sequence[str]`): In safetensors or in torch's format.
        is_quantized (`bool`): Whether types and shapes in the files are those of a quantiser.

    Raises:
        ValueError: A weight has another kind of numbers than the model's, or the model is far larger than its files.
        MismatchedSizesError: A weight has another shape.
    """
    found: dict[str, Any] = {}
    for file in files:
        found.update(load_state_dict(file, map_location="meta"))
    tensors = {name: one for name, one in found.items() if isinstance(one, torch.Tensor)}
    in_files = sum(one.numel() * (8 * one.element_size() if is_quantized else 1) for one in tensors.values())
    in_model = sum(_whole_shape(one).numel() for one in model.parameters())
    if in_model > MAX_GROWTH * in_files + SPARE_NUMBERS:
        raise ValueError(
            f"{owner}: the config describes a model of {in_model:,} numbers, the files hold {in_files:,}. They do not "
            "belong together: the checkpoint is truncated, or its config was changed."
        )
    if not is_quantized:
        _check_tensors(owner, dict(model.state_dict(keep_vars=True)), tensors)


def _check_tensors(owner: str, wanted: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        weight = wanted.get(name)
        if weight is None:
            continue
        if weight.is_floating_point() != tensor.is_floating_point():
            raise ValueError(
                f"{owner}: `{name}` must hold floating-point numbers, the file has {tensor.dtype}. It is no "
                "checkpoint of this model; save it again with `save_pretrained`."
            )
        shape = _whole_shape(weight)
        if shape != tensor.shape:
            raise MismatchedSizesError(
                f"{owner}: `{name}` must have the shape {tuple(shape)} by the config, the file has "
                f"{tuple(tensor.shape)}. Config and weights do not belong together; pass "
                "`ignore_mismatched_sizes=True` to start such weights anew."
            )


def _whole_shape(weight: torch.Tensor) -> torch.Size:
    """The shape of a weight, also where DeepSpeed (ZeRO stage 3) has left a shard or nothing of it in this process."""
    shape: torch.Size = getattr(weight, "ds_shape", weight.shape)
    return shape

"""The adapter of a run: made over the model, checked, saved and read back. peft is imported where it is needed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_peft_available

from .adapter_options import AdapterOptions

ADAPTER_WEIGHTS = "adapter_model.safetensors"
"""The file that peft writes."""


def check_peft(option: str) -> None:
    """Raises an `ImportError` with the remedy if peft is missing."""
    if not is_peft_available():
        raise ImportError(f'{option} needs peft. Install it with pip install "hf_custom_decoder[peft]"')


def add_adapter(model: PreTrainedModel, options: AdapterOptions) -> Any:
    """
    Put the adapter of a recipe on a model; torch's global generator draws its first weights.

    Args:
        model ([`~transformers.PreTrainedModel`]): Its weights are no longer trained.
        options ([`AdapterOptions`]): Without a method the model is returned as it is.

    Returns:
        [`~peft.PeftModel`], in training mode, with weights of the adapter in float32.

    Raises:
        ImportError: peft is not installed.
        ValueError: A target is none of the model, or its weight is tied.
    """
    if options.method is None:
        return model
    check_peft("`adapter.method`")
    from peft import get_peft_model

    from ..peft import get_lora_config

    config = get_lora_config(
        model,
        r=options.r,
        target_modules=options.target_modules or None,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        use_dora=options.dora,
        use_rslora=options.rslora,
    )
    return get_peft_model(model, config).train()


def is_adapted(model: Any) -> bool:
    """Whether a model is one of peft's, around a model of transformers."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def save_trained(model: Any, folder: Path) -> None:
    """Writes a model, or an adapter with the search settings of the model that it stands on."""
    model.save_pretrained(folder)
    if is_adapted(model):
        model.get_base_model().generation_config.save_pretrained(folder)


def check_adapter_file(model: Any, file: Path) -> None:
    """
    Compare what a file holds with the adapter of a model, before it is read.

    Args:
        model ([`~peft.PeftModel`]): With one adapter.
        file (`Path`): In safetensors.

    Raises:
        ValueError: Names or shapes are others.
        safetensors.SafetensorError: It is no such file.
    """
    with safe_open(file, framework="pt") as opened:
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
    _check_shapes(model, shapes, str(file))


def load_adapter_weights(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """
    Put saved weights of an adapter into a model.

    Args:
        model ([`~peft.PeftModel`]): With one adapter.
        weights (`Mapping[str, torch.Tensor]`): By the names of peft's files.

    Raises:
        ValueError: Names or shapes are others than the adapter's.
    """
    from peft import set_peft_model_state_dict

    _check_shapes(model, {name: tuple(one.shape) for name, one in weights.items()}, "The weights")
    set_peft_model_state_dict(model, dict(weights))


def _check_shapes(model: Any, shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    from peft import get_peft_model_state_dict

    own = {name: tuple(one.shape) for name, one in get_peft_model_state_dict(model).items()}
    missing, unknown = sorted(own.keys() - shapes.keys()), sorted(shapes.keys() - own.keys())
    if missing or unknown:
        raise ValueError(f"{source} must be those of the adapter, missing {missing[:3]}, unknown {unknown[:3]}.")
    for name, shape in shapes.items():
        if shape != own[name]:
            raise ValueError(f"{source} must be those of the adapter, {name} has the shape {shape}, not {own[name]}.")

"""
Tables of weight names, old to new.

A key names a module (its weight and bias follow) or a single tensor; `{}` stands for the number of a layer. The value
is the new name, a tuple of new names where one tensor is cut into equal parts along its first dimension, or None where
a tensor is dropped.
"""

import re
from collections.abc import Mapping

import torch

Target = str | tuple[str, ...] | None

_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
_LAYER = {
    **{f"self_attn.{name}": f"self_attn.{name}" for name in _ATTENTION},
    "self_attn_layer_norm": "self_attn_layer_norm",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "final_layer_norm": "final_layer_norm",
}
_CROSS_ATTENTION = {
    **{f"encoder_attn.{name}": f"encoder_attn.{name}" for name in _ATTENTION},
    "encoder_attn_layer_norm": "encoder_attn_layer_norm",
}

_BART_FAMILY: dict[str, Target] = {
    "model.shared": None,  # one matrix with `embed_tokens` of both sides, which are in the checkpoint too
    "model.encoder.embed_tokens": "model.encoder.embed_tokens",
    "model.decoder.embed_tokens": "model.decoder.embed_tokens",
    **{f"model.encoder.layers.{{}}.{old}": f"model.encoder.layers.{{}}.{new}" for old, new in _LAYER.items()},
    **{
        f"model.decoder.layers.{{}}.{old}": f"model.decoder.layers.{{}}.{new}"
        for old, new in {**_LAYER, **_CROSS_ATTENTION}.items()
    },
    "lm_head": "lm_head",
    "final_logits_bias": "lm_head.bias",  # of shape (1, vocab_size), a buffer without a gradient
}

BART_NAMES: dict[str, Target] = {
    **_BART_FAMILY,
    "model.encoder.embed_positions": "model.encoder.embed_positions",  # less its first two rows
    "model.decoder.embed_positions": "model.decoder.embed_positions",
    "model.encoder.layernorm_embedding": "model.encoder.layernorm_embedding",
    "model.decoder.layernorm_embedding": "model.decoder.layernorm_embedding",
}

MARIAN_NAMES: dict[str, Target] = {
    **_BART_FAMILY,
    "model.encoder.embed_positions": None,  # sines and cosines, computed
    "model.decoder.embed_positions": None,
}


def _torch_attention(old: str, new: str) -> dict[str, Target]:
    """Names of an `nn.MultiheadAttention`, whose three input projections are one tensor: q, k, v."""
    return {
        f"layers.{{}}.{old}.in_proj_weight": tuple(f"layers.{{}}.{new}.{name}.weight" for name in _ATTENTION[:3]),
        f"layers.{{}}.{old}.in_proj_bias": tuple(f"layers.{{}}.{new}.{name}.bias" for name in _ATTENTION[:3]),
        f"layers.{{}}.{old}.out_proj": f"layers.{{}}.{new}.out_proj",
    }


_TORCH_LAYER: dict[str, Target] = {
    **_torch_attention("self_attn", "self_attn"),
    "layers.{}.linear1": "layers.{}.mlp.fc1",
    "layers.{}.linear2": "layers.{}.mlp.fc2",
    "layers.{}.norm1": "layers.{}.self_attn_layer_norm",
    "norm": "layer_norm",
}

TORCH_ENCODER_NAMES: dict[str, Target] = {**_TORCH_LAYER, "layers.{}.norm2": "layers.{}.final_layer_norm"}
"""Of `torch.nn.TransformerEncoder`."""

TORCH_DECODER_NAMES: dict[str, Target] = {
    **_TORCH_LAYER,
    **_torch_attention("multihead_attn", "encoder_attn"),
    "layers.{}.norm2": "layers.{}.encoder_attn_layer_norm",
    "layers.{}.norm3": "layers.{}.final_layer_norm",
}
"""Of `torch.nn.TransformerDecoder`."""


def new_names(name: str, table: Mapping[str, Target], owner: str) -> tuple[str, ...]:
    """
    The new names of one tensor; none where it is dropped.

    Args:
        name (`str`): The old name.
        table (`Mapping[str, Target]`): One of this file.
        owner (`str`): What the names belong to, for the error.

    Raises:
        ValueError: The table does not know the name.
    """
    numbers = re.findall(r"(?<=\.)\d+(?=\.)", name)
    template = re.sub(r"(?<=\.)\d+(?=\.)", "{}", name)
    module, _, parameter = template.rpartition(".")
    if template in table:
        targets = table[template]
    elif module in table:
        base = table[module]
        targets = f"{base}.{parameter}" if isinstance(base, str) else base
    else:
        raise ValueError(
            f"{owner}: every weight must have a place in our model, got one named {name!r} that has none. The source "
            "is another architecture or has parts added; convert a plain one, without adapters and heads."
        )
    if targets is None:
        return ()
    targets = (targets,) if isinstance(targets, str) else targets
    return tuple(target.format(*numbers) for target in targets)


def translate(
    tensors: Mapping[str, torch.Tensor], table: Mapping[str, Target], *, owner: str
) -> dict[str, torch.Tensor]:
    """
    Tensors under their new names: weights, or gradients of them.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): By old name.
        table (`Mapping[str, Target]`): One of this file.
        owner (`str`): What the names belong to, for errors.

    Returns:
        `dict[str, torch.Tensor]`: By new name; the tensors share their memory with the old ones.

    Raises:
        ValueError: The table does not know a name.
    """
    translated: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        targets = new_names(name, table, owner)
        if targets:
            translated.update(zip(targets, tensor.chunk(len(targets)), strict=True))
    return translated

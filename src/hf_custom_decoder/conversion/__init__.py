"""Weights of other models as ours."""

from .bart import bart_config, bart_weights, convert_bart
from .marian import convert_marian, marian_config, marian_weights
from .torch_transformer import (
    load_torch_decoder,
    load_torch_encoder,
    torch_decoder_weights,
    torch_encoder_weights,
    torch_stack_fields,
)

__all__ = [
    "bart_config",
    "bart_weights",
    "convert_bart",
    "convert_marian",
    "load_torch_decoder",
    "load_torch_encoder",
    "marian_config",
    "marian_weights",
    "torch_decoder_weights",
    "torch_encoder_weights",
    "torch_stack_fields",
]

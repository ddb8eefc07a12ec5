"""Weights of other models as ours."""

from .bart import bart_config, bart_weights, convert_bart
from .g2p_en import convert_g2p_en, g2p_en_tokenizer
from .g2p_fa import convert_g2p_fa, g2p_fa_tokenizer
from .marian import convert_marian, marian_config, marian_weights
from .netra_transliterate import convert_netra, netra_tokenizer
from .torch_recurrent import (
    load_torch_recurrent_decoder,
    load_torch_recurrent_encoder,
    to_torch_recurrent,
    torch_recurrent_fields,
    torch_recurrent_weights,
)
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
    "convert_g2p_en",
    "convert_g2p_fa",
    "convert_marian",
    "convert_netra",
    "g2p_en_tokenizer",
    "g2p_fa_tokenizer",
    "load_torch_decoder",
    "load_torch_encoder",
    "load_torch_recurrent_decoder",
    "load_torch_recurrent_encoder",
    "marian_config",
    "marian_weights",
    "netra_tokenizer",
    "to_torch_recurrent",
    "torch_decoder_weights",
    "torch_encoder_weights",
    "torch_recurrent_fields",
    "torch_recurrent_weights",
    "torch_stack_fields",
]

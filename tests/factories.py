"""Tiny models and batches that the tests share."""

from typing import Any

import torch

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    TransformerDecoderConfig,
    TransformerDecoderForCausalLM,
    TransformerEncoderConfig,
)
from hf_custom_decoder.testing.decoder_case import spread_weights

VOCAB_SIZE = 50

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "dropout": 0.0,
}

# One line for each choice of the configs, and a few that combine many; every suite runs over all of them.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "post_norm": {"norm_position": "post", "hidden_act": "relu", "scale_embeddings": True},
    "post_norm_final": {"norm_position": "post", "final_norm": True, "embedding_norm": True},
    "rmsnorm_gated": {"norm_type": "rmsnorm", "gated_mlp": True, "hidden_act": "silu", "mlp_bias": False},
    "learned": {"position_type": "learned"},
    "rotary": {"position_type": "rotary"},
    "rotary_gqa_qk_norm": {
        "position_type": "rotary",
        "num_key_value_heads": 2,
        "qk_norm": True,
        "norm_type": "rmsnorm",
        "attention_bias": False,
    },
    "alibi": {"position_type": "alibi"},
    "alibi_gqa": {"position_type": "alibi", "num_key_value_heads": 1},
    "no_positions": {"position_type": "none", "final_norm": False},
    "head_dim": {"head_dim": 6, "num_key_value_heads": 2},
}

# What only a decoder can be told.
DECODER_VARIANTS: dict[str, dict[str, Any]] = {
    "sliding": {"mixer_types": ["sliding_attention", "sliding_attention"], "sliding_window": 3},
    "sliding_first": {"mixer_types": ["sliding_attention", "full_attention"], "sliding_window": 3},
    "sliding_last_alibi": {
        "mixer_types": ["full_attention", "sliding_attention"],
        "sliding_window": 4,
        "position_type": "alibi",
    },
    "lm_head_bias": {"lm_head_bias": True},
}

ALL_VARIANTS = [*VARIANTS, *DECODER_VARIANTS]


def decoder_fields(variant: str) -> dict[str, Any]:
    """Fields of a decoder config for a variant."""
    return {**SIZES, **(VARIANTS[variant] if variant in VARIANTS else DECODER_VARIANTS[variant])}


def encoder_fields(variant: str) -> dict[str, Any]:
    """Fields of an encoder config for a variant."""
    return {**SIZES, **VARIANTS.get(variant, {})}


def tiny_config(variant: str = "default", **kwargs: Any) -> CustomSeq2SeqConfig:
    """A seq2seq config; `encoder` and `decoder` in `kwargs` are fields over those of the variant."""
    encoder = {**encoder_fields(variant), **kwargs.pop("encoder", {})}
    decoder = {**decoder_fields(variant), **kwargs.pop("decoder", {})}
    return CustomSeq2SeqConfig(
        encoder=TransformerEncoderConfig(**encoder), decoder=TransformerDecoderConfig(**decoder), **kwargs
    )


def tiny_seq2seq(variant: str = "default", **kwargs: Any) -> CustomSeq2SeqForConditionalGeneration:
    """A seq2seq model in evaluation mode whose outputs differ clearly between inputs."""
    torch.manual_seed(0)
    model = CustomSeq2SeqForConditionalGeneration(tiny_config(variant, **kwargs)).eval()
    spread_weights(model)
    return model


def tiny_causal(variant: str = "default", **kwargs: Any) -> TransformerDecoderForCausalLM:
    """A causal model in evaluation mode; `kwargs` are fields over those of the variant."""
    torch.manual_seed(0)
    model = TransformerDecoderForCausalLM(TransformerDecoderConfig(**{**decoder_fields(variant), **kwargs})).eval()
    spread_weights(model)
    return model


def tiny_batch(batch_size: int = 3, source_length: int = 7, target_length: int = 6) -> dict[str, torch.Tensor]:
    """Source with padding on the right, labels with ignored ends; ids above the special ones."""
    generator = torch.Generator().manual_seed(2)
    input_ids = torch.randint(3, VOCAB_SIZE, (batch_size, source_length), generator=generator)
    labels = torch.randint(3, VOCAB_SIZE, (batch_size, target_length), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    for row in range(1, batch_size):
        padded = min(2 * row, source_length - 1)
        attention_mask[row, source_length - padded :] = 0
        input_ids[row, source_length - padded :] = 0
        labels[row, target_length - min(row, target_length - 1) :] = -100
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}

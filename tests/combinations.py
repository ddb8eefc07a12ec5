"""Every encoder with every decoder, and a small set of pairs that covers all of both sides."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedConfig

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    RecurrentDecoderConfig,
    RecurrentEncoderConfig,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)

from .factories import SIZES, VARIANTS, VOCAB_SIZE, spread_weights

RECURRENT_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "dropout": 0.0,
}

ENCODERS: dict[str, Callable[[], PreTrainedConfig]] = {"transformer": lambda: TransformerEncoderConfig(**SIZES)}
for _cell in ("rnn", "gru", "lstm"):
    for _directions in (1, 2):
        ENCODERS[f"{_cell}_{_directions}"] = lambda cell=_cell, directions=_directions: RecurrentEncoderConfig(
            **RECURRENT_SIZES, cell_type=cell, bidirectional=directions == 2
        )


def _transformer(**fields: Any) -> Callable[[], PreTrainedConfig]:
    return lambda: TransformerDecoderConfig(**{**SIZES, **fields})


def _recurrent(**fields: Any) -> Callable[[], PreTrainedConfig]:
    return lambda: RecurrentDecoderConfig(**{**RECURRENT_SIZES, **fields})


DECODERS: dict[str, Callable[[], PreTrainedConfig]] = {
    f"transformer_{name}": _transformer(**VARIANTS[name]) for name in VARIANTS
}
DECODERS |= {
    "ssru": _transformer(mixer_types=["ssru", "ssru"]),
    "ssru_post_norm": _transformer(mixer_types=["ssru", "ssru"], norm_position="post", position_type="none"),
    "mingru": _transformer(mixer_types=["mingru", "mingru"]),
    "hybrid_ssru_first": _transformer(mixer_types=["ssru", "full_attention"]),
    "hybrid_mingru_last": _transformer(
        mixer_types=["sliding_attention", "mingru"], sliding_window=3, position_type="alibi"
    ),
    "hybrid_rotary": _transformer(mixer_types=["full_attention", "mingru"], position_type="rotary"),
}
for _cell in ("rnn", "gru", "lstm"):
    for _attention in ("none", "dot", "general", "additive", "multihead"):
        DECODERS[f"{_cell}_{_attention}"] = _recurrent(cell_type=_cell, attention_type=_attention)
DECODERS |= {
    "lstm_input_feeding": _recurrent(attention_type="general", input_feeding=True),
    "gru_everything": _recurrent(
        cell_type="gru",
        attention_type="additive",
        input_feeding=True,
        attentional_layer=False,
        residual=True,
        readout_sizes=[24, 32],
        readout_act="tanh",
        lm_head_bias=True,
    ),
    "gru_textbook": _recurrent(cell_type="gru", attention_type="none", readout_sizes=[32]),
    "lstm_copy": _recurrent(attention_type="dot", bridge_type="copy", residual=True),
    "gru_zeros": _recurrent(cell_type="gru", attention_type="additive", bridge_type="zeros"),
}


def is_allowed(encoder: str, decoder: str) -> bool:
    """Whether a pair can be built: without attention, or with a copied state, the encoder must return final states."""
    needs_states = decoder.endswith(("_none", "_textbook", "_copy"))
    return not (encoder == "transformer" and needs_states)


ALL_PAIRS = [(encoder, decoder) for encoder in ENCODERS for decoder in DECODERS if is_allowed(encoder, decoder)]


def covering_pairs() -> list[tuple[str, str]]:
    """Each decoder once, with the encoders in turn, so that each encoder meets decoders of every kind."""
    names, pairs = list(ENCODERS), []
    for number, decoder in enumerate(DECODERS):
        turn = [names[(number + step) % len(names)] for step in range(len(names))]
        pairs.append(next((encoder, decoder) for encoder in turn if is_allowed(encoder, decoder)))
    return pairs


COVERING_PAIRS = covering_pairs()


def build_pair(encoder: str, decoder: str, **kwargs: Any) -> CustomSeq2SeqForConditionalGeneration:
    """The model of a pair in evaluation mode and float64, with weights far from zero."""
    torch.manual_seed(0)
    config = CustomSeq2SeqConfig(encoder=ENCODERS[encoder](), decoder=DECODERS[decoder](), **kwargs)
    model = CustomSeq2SeqForConditionalGeneration(config).double().eval()
    spread_weights(model)
    return model

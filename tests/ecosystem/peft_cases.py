"""Models that adapters stand on in the tests, one of each kind."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import BertConfig, PreTrainedModel

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    RecurrentDecoderConfig,
    RecurrentDecoderForCausalLM,
    TransformerDecoderConfig,
)
from tests.combinations import RECURRENT_SIZES, build_pair
from tests.factories import SIZES, VOCAB_SIZE, spread_weights, tiny_batch, tiny_causal


def over_bert() -> CustomSeq2SeqForConditionalGeneration:
    """A Transformer decoder over a tiny random BERT of another width."""
    torch.manual_seed(0)
    bert = BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config = CustomSeq2SeqConfig(encoder=bert, decoder=TransformerDecoderConfig(**SIZES))
    model = CustomSeq2SeqForConditionalGeneration(config).double().eval()
    spread_weights(model)
    return model


def recurrent_causal() -> RecurrentDecoderForCausalLM:
    """An LSTM language model."""
    torch.manual_seed(0)
    model = RecurrentDecoderForCausalLM(RecurrentDecoderConfig(**RECURRENT_SIZES)).double().eval()
    spread_weights(model)
    return model


CASES: dict[str, Callable[[], Any]] = {
    "transformer": lambda: build_pair("transformer", "transformer_rotary_gqa_qk_norm"),
    "recurrent": lambda: build_pair("lstm_2", "lstm_dot"),
    "hybrid": lambda: build_pair("transformer", "hybrid_mingru_last"),
    "bert": over_bert,
    "causal transformer": lambda: tiny_causal("rotary_gqa_qk_norm").double(),
    "causal recurrent": recurrent_causal,
}
"""In float64 and evaluation mode."""


def inputs_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A padded batch with labels."""
    batch = tiny_batch()
    if model.config.is_encoder_decoder:
        return batch
    ids = batch["labels"].clamp(min=3)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def source_of(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What `generate` takes of a batch."""
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}

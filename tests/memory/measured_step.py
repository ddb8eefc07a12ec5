"""What a real training step on the CPU holds, measured by torch: by its hooks on saved tensors and by its allocator."""

from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    RecurrentDecoderConfig,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)

PAIRS, SOURCE, TARGET = 4, 17, 13
SIZES: dict[str, Any] = {"vocab_size": 201, "hidden_size": 32, "num_hidden_layers": 2, "dropout": 0.1}
ATTENTION: dict[str, Any] = {**SIZES, "num_attention_heads": 4, "intermediate_size": 48}

KINDS = ("transformer", "lstm", "hybrid")


def config_of(kind: str) -> CustomSeq2SeqConfig:
    """A Transformer encoder of two layers with a decoder of two: attention, LSTM, or an SSRU below attention."""
    decoder: Any
    if kind == "lstm":
        decoder = RecurrentDecoderConfig(**SIZES, cell_type="lstm", attention_type="general")
    else:
        mixers = ["ssru" if kind == "hybrid" else "full_attention", "full_attention"]
        decoder = TransformerDecoderConfig(**ATTENTION, mixer_types=mixers)
    return CustomSeq2SeqConfig(
        encoder=TransformerEncoderConfig(**ATTENTION), decoder=decoder, tie_word_embeddings=kind != "lstm"
    )


def model_of(kind: str) -> CustomSeq2SeqForConditionalGeneration:
    """In training mode."""
    torch.manual_seed(0)
    model = CustomSeq2SeqForConditionalGeneration(config_of(kind))
    model.train()
    return model


def full_batch() -> dict[str, torch.Tensor]:
    """Without padding."""
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(4, 200, (PAIRS, SOURCE), generator=generator)
    labels = torch.randint(4, 200, (PAIRS, TARGET), generator=generator)
    return {"input_ids": source, "attention_mask": torch.ones_like(source), "labels": labels}


def allocated_peak(model: nn.Module, batch: dict[str, torch.Tensor], autocast: torch.dtype | None = None) -> int:
    """Most bytes that torch's CPU allocator has given out at a time in a forward and a backward pass."""
    model.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
            loss = model(**batch).loss
        loss.backward()
    held = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most

"""A pronunciation model small enough for a test, and words to feed it."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from hf_custom_decoder.data.pronunciation_dictionary import WordEntry, load_cmudict
from hf_custom_decoder.data.pronunciation_tokenizer import build_pronunciation_tokenizer
from hf_custom_decoder.training.pronunciation_decoders import DECODER_RECIPES

ENTRIES = [
    WordEntry("cat", (("K", "AE", "T"),)),
    WordEntry("bat", (("B", "AE", "T"),)),
    WordEntry("tack", (("T", "AE", "K"),)),
    WordEntry("tab", (("T", "AE", "B"),)),
    WordEntry("aback", (("AH", "B", "AE", "K"), ("AE", "B", "AE", "K"))),
]


@cache
def cached_cmudict() -> list[WordEntry]:
    """The dictionary, which takes seconds to read, for tests that run the quickstart several times."""
    return load_cmudict()


def shrink_recipes(monkeypatch: pytest.MonkeyPatch, hidden_size: int) -> None:
    """Makes the models of the quickstart this wide while a test runs."""
    for name, recipe in DECODER_RECIPES.items():
        monkeypatch.setitem(DECODER_RECIPES, name, replace(recipe, hidden_size=hidden_size))


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return build_pronunciation_tokenizer(["K", "AE", "T", "B", "AH"])


def tiny_model(tokenizer: PreTrainedTokenizerFast) -> CustomSeq2SeqForConditionalGeneration:
    sides: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "dropout": 0.1,  # so that a wrong state of the random generator shows
        "max_position_embeddings": 64,
    }
    config = CustomSeq2SeqConfig(
        encoder=TransformerEncoderConfig(**sides),
        decoder=TransformerDecoderConfig(**sides),
        decoder_start_token_id=1,
        tie_word_embeddings=False,  # tied and untrained, a decoder repeats what it reads
    )
    model = CustomSeq2SeqForConditionalGeneration(config)
    model.generation_config.max_length = 8
    return model


def save_tiny_model(folder: Path) -> Path:
    """Saves an untrained model that answers different words differently."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=1.0 if "embed_tokens" in name else 0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

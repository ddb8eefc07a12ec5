"""BART (Lewis et al. 2020) as one of our models."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers import BartConfig, BartForConditionalGeneration

from ..models.configuration_custom_seq2seq import CustomSeq2SeqConfig
from ..models.configuration_transformer_decoder import TransformerDecoderConfig
from ..models.configuration_transformer_encoder import TransformerEncoderConfig
from ..models.modeling_custom_seq2seq import CustomSeq2SeqForConditionalGeneration
from .names import BART_NAMES, translate
from .seq2seq_sources import (
    carry_generation_config,
    open_source,
    part_fields,
    warn_of_layerdrop,
)
from .weights import load_weights

UNUSED_POSITIONS = 2
"""Rows at the head of BART's position tables that no token reads."""


def bart_config(config: BartConfig) -> CustomSeq2SeqConfig:
    """
    The config of the same model: post-norm, learned positions, a norm on the embeddings, all embeddings tied.

    `encoder_layerdrop` and `decoder_layerdrop` (whole layers left out at random in training) have no counterpart and
    are dropped.

    Args:
        config (`BartConfig`).

    Returns:
        [`CustomSeq2SeqConfig`].

    Raises:
        ValueError: A value that our configs refuse, such as an activation that transformers does not know.
    """
    shared: dict[str, Any] = {"position_type": "learned", "embedding_norm": True}
    return CustomSeq2SeqConfig(
        encoder=TransformerEncoderConfig(vocab_size=config.vocab_size, **shared, **part_fields(config, "encoder")),
        decoder=TransformerDecoderConfig(vocab_size=config.vocab_size, **shared, **part_fields(config, "decoder")),
        decoder_start_token_id=config.decoder_start_token_id,
        tie_word_embeddings=config.tie_word_embeddings,
        tie_encoder_decoder_embeddings=config.tie_word_embeddings,
    )


def bart_weights(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    BART's weights, or gradients of them, under our names.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): By the names of `BartForConditionalGeneration`.

    Returns:
        `dict[str, torch.Tensor]`: Position tables without their first two rows; `lm_head.bias` of shape
        `(vocab_size,)`.

    Raises:
        ValueError: A name that BART does not have.
    """
    weights = translate(tensors, BART_NAMES, owner="BART")
    for name in weights:
        if name.endswith("embed_positions.weight"):
            weights[name] = weights[name][UNUSED_POSITIONS:]
        elif name == "lm_head.bias":
            weights[name] = weights[name].flatten()
    return weights


def convert_bart(
    model_or_folder: BartForConditionalGeneration | str | os.PathLike[str], **kwargs: Any
) -> CustomSeq2SeqForConditionalGeneration:
    r"""
    A BART model as one of ours, with the same outputs, losses and generated text.

    Dropped are what BART's outputs do not depend on in evaluation: `encoder_layerdrop` and `decoder_layerdrop` (a
    warning says so where they were in use), the two unused rows of the position tables, and a `final_logits_bias` of
    zeros, as all published checkpoints have it; any other becomes `lm_head.bias`, which is trained. Where a source is
    padded on the left our positions count its real tokens, BART's count the padding too.

    Args:
        model_or_folder (`BartForConditionalGeneration`, `str` or `os.PathLike`): A model, or what its
            `from_pretrained` takes.
        kwargs: For `from_pretrained` (`revision`, `dtype`, `local_files_only`, ...).

    Returns:
        [`CustomSeq2SeqForConditionalGeneration`] in evaluation mode, in the dtype and on the device of the source,
        with a copy of its weights and of its generation config; without a length rule there, `max_length` is what its
        positions allow.

    Raises:
        TypeError: Neither a `BartForConditionalGeneration` nor a folder.
        ValueError: A checkpoint of another model type, or weights that do not fit the config.

    Example:

    ```python
    >>> from hf_custom_decoder.conversion import convert_bart

    >>> model = convert_bart("facebook/bart-base")  # doctest: +SKIP
    ```
    """
    source = open_source(model_or_folder, BartForConditionalGeneration, "bart", "convert_bart", **kwargs)
    warn_of_layerdrop(source.config)
    weights = bart_weights(source.state_dict())
    config = bart_config(source.config)
    config.decoder.lm_head_bias = bool(weights["lm_head.bias"].any())
    if not config.decoder.lm_head_bias:
        del weights["lm_head.bias"]

    model = CustomSeq2SeqForConditionalGeneration(config)
    load_weights(model, weights, owner="convert_bart")
    carry_generation_config(source, model)
    return model

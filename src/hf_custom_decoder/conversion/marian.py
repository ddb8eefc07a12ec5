"""Marian (Junczys-Dowmunt et al. 2018), as in the opus-mt checkpoints, as one of our models."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers import MarianConfig, MarianMTModel

from ..models.configuration_custom_seq2seq import CustomSeq2SeqConfig
from ..models.configuration_transformer_decoder import TransformerDecoderConfig
from ..models.configuration_transformer_encoder import TransformerEncoderConfig
from ..models.modeling_custom_seq2seq import CustomSeq2SeqForConditionalGeneration
from .names import MARIAN_NAMES, translate
from .seq2seq_sources import (
    carry_generation_config,
    open_source,
    part_fields,
    warn_of_layerdrop,
)
from .weights import load_weights


def marian_config(config: MarianConfig) -> CustomSeq2SeqConfig:
    """
    The config of the same model: post-norm, sinusoidal positions, a bias on the vocabulary projection.

    `encoder_layerdrop` and `decoder_layerdrop` (whole layers left out at random in training) have no counterpart and
    are dropped.

    Args:
        config (`MarianConfig`).

    Returns:
        [`CustomSeq2SeqConfig`].

    Raises:
        ValueError: A value that our configs refuse, such as an activation that transformers does not know.
    """
    is_shared, is_tied = config.share_encoder_decoder_embeddings, config.tie_word_embeddings
    target_size = config.vocab_size if is_shared or config.decoder_vocab_size is None else config.decoder_vocab_size
    return CustomSeq2SeqConfig(
        encoder=TransformerEncoderConfig(
            vocab_size=config.vocab_size, position_type="sinusoidal", **part_fields(config, "encoder")
        ),
        decoder=TransformerDecoderConfig(
            vocab_size=target_size, position_type="sinusoidal", lm_head_bias=True, **part_fields(config, "decoder")
        ),
        decoder_start_token_id=config.decoder_start_token_id,
        tie_word_embeddings=is_tied,
        tie_encoder_decoder_embeddings=is_shared and is_tied,
    )


def marian_weights(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Marian's weights, or gradients of them, under our names.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): By the names of `MarianMTModel`.

    Returns:
        `dict[str, torch.Tensor]`: Without position tables, which are computed; `lm_head.bias` of shape
        `(vocab_size,)`.

    Raises:
        ValueError: A name that Marian does not have.
    """
    weights = translate(tensors, MARIAN_NAMES, owner="Marian")
    if "lm_head.bias" in weights:
        weights["lm_head.bias"] = weights["lm_head.bias"].flatten()
    return weights


def convert_marian(
    model_or_folder: MarianMTModel | str | os.PathLike[str], **kwargs: Any
) -> CustomSeq2SeqForConditionalGeneration:
    r"""
    A Marian model as one of ours, with the same outputs, losses and generated text.

    `final_logits_bias`, a buffer in transformers, becomes `lm_head.bias`, which is trained. Dropped are
    `encoder_layerdrop` and `decoder_layerdrop` (a warning says so where they were in use) and the position tables,
    which are computed. Where a source is padded on the left our positions count its real tokens, Marian's count the
    padding too.

    Args:
        model_or_folder (`MarianMTModel`, `str` or `os.PathLike`): A model, or what its `from_pretrained` takes.
        kwargs: For `from_pretrained` (`revision`, `dtype`, `local_files_only`, ...).

    Returns:
        [`CustomSeq2SeqForConditionalGeneration`] in evaluation mode, in the dtype and on the device of the source,
        with a copy of its weights and of its generation config (`bad_words_ids`, `num_beams`, ...); without a length
        rule there, `max_length` is `max_position_embeddings`.

    Raises:
        TypeError: Neither a `MarianMTModel` nor a folder.
        ValueError: A checkpoint of another model type, or weights that do not fit the config.

    Example:

    ```python
    >>> from hf_custom_decoder.conversion import convert_marian

    >>> model = convert_marian("Helsinki-NLP/opus-mt-en-de")  # doctest: +SKIP
    ```
    """
    source = open_source(model_or_folder, MarianMTModel, "marian", "convert_marian", **kwargs)
    warn_of_layerdrop(source.config)
    model = CustomSeq2SeqForConditionalGeneration(marian_config(source.config))
    load_weights(model, marian_weights(source.state_dict()), owner="convert_marian")
    carry_generation_config(source, model)
    return model

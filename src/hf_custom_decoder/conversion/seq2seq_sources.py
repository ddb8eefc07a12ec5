"""What the encoder-decoder models of BART's family have in common as sources of a conversion."""

import copy
import os
from typing import Any, TypeVar

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..models.modeling_custom_seq2seq import CustomSeq2SeqForConditionalGeneration

logger = logging.get_logger(__name__)

SourceModel = TypeVar("SourceModel", bound=PreTrainedModel)


def open_source(
    model_or_folder: Any, model_class: type[SourceModel], model_type: str, owner: str, **kwargs: Any
) -> SourceModel:
    """
    The source model itself, or loaded from a name or folder.

    Raises:
        TypeError: Neither a `model_class` nor a path, or keywords beside a model.
        ValueError: The checkpoint is of another model type.
    """
    if isinstance(model_or_folder, model_class):
        if kwargs:
            raise TypeError(
                f"{owner}: keywords are for `from_pretrained`, got {sorted(kwargs)} beside a model. Leave them out."
            )
        return model_or_folder
    if not isinstance(model_or_folder, (str, os.PathLike)):
        raise TypeError(
            f"{owner}: `model_or_folder` must be a {model_class.__name__}, a name or a folder, got "
            f"{type(model_or_folder).__name__}. Load the checkpoint with {model_class.__name__}.from_pretrained."
        )
    found = AutoConfig.from_pretrained(model_or_folder, **kwargs).model_type
    if found != model_type:
        raise ValueError(
            f"{owner}: the checkpoint's `model_type` must be {model_type!r}, got {found!r} in "
            f"{str(model_or_folder)!r}. Use the function for that model, or "
            "`CustomSeq2SeqForConditionalGeneration.from_encoder_pretrained` to keep its encoder."
        )
    model: SourceModel = model_class.from_pretrained(model_or_folder, **kwargs)
    return model


def part_fields(config: PreTrainedConfig, side: str) -> dict[str, Any]:
    """
    Fields of our encoder or decoder config that a config of BART's family says under its own names.

    Args:
        config (`PreTrainedConfig`): Of BART or Marian.
        side (`str`): `"encoder"` or `"decoder"`.
    """
    return {
        "hidden_size": config.d_model,
        "num_hidden_layers": getattr(config, f"{side}_layers"),
        "num_attention_heads": getattr(config, f"{side}_attention_heads"),
        "intermediate_size": getattr(config, f"{side}_ffn_dim"),
        "hidden_act": config.activation_function,
        "norm_position": "post",
        "norm_eps": 1e-5,  # torch's default, which these models leave alone
        "scale_embeddings": config.scale_embedding,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.init_std,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
    }


def warn_of_layerdrop(config: PreTrainedConfig) -> None:
    """Say that layerdrop, where it was in use, is lost: further training is not regularised by it."""
    names = ("encoder_layerdrop", "decoder_layerdrop")
    used = {name: getattr(config, name) for name in names if getattr(config, name)}
    if used:
        logger.warning("Layerdrop has no counterpart and is dropped: %s. It acts in training only.", used)


def carry_generation_config(source: PreTrainedModel, model: CustomSeq2SeqForConditionalGeneration) -> None:
    """
    Give `model` a copy of the source's generation config: beams, length rules, forced and forbidden ids.

    Where the source has no length rule, `max_length` is the decoder's `max_position_embeddings`.
    """
    generation_config = copy.deepcopy(source.generation_config)
    if generation_config.max_length is None and generation_config.max_new_tokens is None:
        generation_config.max_length = model.config.max_position_embeddings
    if generation_config.decoder_start_token_id is None:
        generation_config.decoder_start_token_id = model.config.start_token_id
    model.generation_config = generation_config

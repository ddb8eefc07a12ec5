"""Any encoder that AutoModel knows, without the parts that a decoder never reads."""

import copy
import inspect
from typing import Any, is_typeddict

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel

from .configuration_recurrent_encoder import RecurrentEncoderConfig
from .configuration_transformer_encoder import TransformerEncoderConfig
from .modeling_recurrent_encoder import RecurrentEncoderModel
from .modeling_transformer_encoder import TransformerEncoderModel

OWN_ENCODERS: dict[str, type[PreTrainedModel]] = {
    TransformerEncoderConfig.model_type: TransformerEncoderModel,
    RecurrentEncoderConfig.model_type: RecurrentEncoderModel,
}
"""By model type, not by class: of code that travels transformers may import one copy for configs, one for models."""


def without_pooler(config: PreTrainedConfig) -> dict[str, Any]:
    """Constructor arguments that leave out a pooler, whose weights would never get a gradient (and stop DDP)."""
    try:
        model_class = MODEL_MAPPING[type(config)]
    except KeyError:
        return {}
    classes: Any = model_class if isinstance(model_class, (list, tuple)) else [model_class]
    if all("add_pooling_layer" in inspect.signature(one).parameters for one in classes):
        return {"add_pooling_layer": False}
    return {}


def encoder_half(model: PreTrainedModel) -> PreTrainedModel:
    """The encoder of an encoder-decoder model; any other model as it is."""
    if not getattr(model.config, "is_encoder_decoder", False):
        return model
    encoder = model.get_encoder()
    if encoder is model or not isinstance(encoder, PreTrainedModel):
        raise ValueError(
            f"`encoder` of model type {model.config.model_type!r} has no encoder that stands by itself. Use another."
        )
    return encoder


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """
    An encoder with fresh weights.

    Of an encoder-decoder config only the encoder is built: the whole model is laid out on the meta device, without
    memory, to learn which class and config its encoder has.

    Raises:
        ValueError: AutoModel does not know the config, or its model has no encoder half.
    """
    if config.model_type in OWN_ENCODERS:
        return OWN_ENCODERS[config.model_type](config)
    if not getattr(config, "is_encoder_decoder", False):
        encoder = AutoModel.from_config(config, **without_pooler(config))
    else:
        with torch.device("meta"):
            skeleton = encoder_half(AutoModel.from_config(copy.deepcopy(config)))
        encoder = type(skeleton)(skeleton.config)
    check_encoder(encoder)
    return encoder


def check_encoder(encoder: PreTrainedModel) -> None:
    """Refuse a model that is a decoder or has no forward to encode with."""
    if getattr(encoder.config, "is_decoder", False):
        raise ValueError(
            f"`encoder` must not be a decoder, got {type(encoder).__name__} with `is_decoder=True`. Set "
            "`is_decoder=False` in its config."
        )


def forward_arguments(module: nn.Module) -> tuple[set[str], bool]:
    """Names that a module's forward takes, and whether it takes any: `**kwargs` that no type says the names of."""
    names: set[str] = set()
    takes_any = False
    for name, one in inspect.signature(module.forward).parameters.items():
        if one.kind is not inspect.Parameter.VAR_KEYWORD:
            names.add(name)
            continue
        typed = [kind.__annotations__ for kind in getattr(one.annotation, "__args__", ()) if is_typeddict(kind)]
        names.update(*typed)
        takes_any = not typed
    return names, takes_any

"""
Decoders that users write: found, checked at the door, saved with their code, and loaded with it.

The contract is in `docs/own_decoder.md`; `hf_custom_decoder.testing.check_decoder` tests it.
"""

import copy
import inspect
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.dynamic_module_utils import custom_object_save, get_class_from_dynamic_module
from transformers.utils import logging

from .cache_custom_seq2seq import CustomSeq2SeqCache

logger = logging.get_logger(__name__)

REQUIRED_FIELDS = ("vocab_size", "hidden_size", "num_hidden_layers", "pad_token_id", "eos_token_id")
"""What the config of a decoder must have."""

REQUIRED_ARGUMENTS = (
    "input_ids",
    "attention_mask",
    "encoder_hidden_states",
    "encoder_attention_mask",
    "past_key_values",
    "use_cache",
)
"""What its `forward` must take; it gets the further arguments of our own decoders if it takes them."""

CACHE_WORDS = ("mamba", "xlstm", "rwkv", "reformer", "minimax", "xlnet")
"""transformers chooses caches of its own for classes whose names hold one of these."""

DEFAULT_MAX_LENGTH = 512
"""Tokens: the length rule where a config names no `max_position_embeddings`."""

OUR_FILE_NAME = re.compile(r"\w+_(custom_seq2seq|(transformer|recurrent)_(stack|encoder|decoder|layer))\.py")
"""Names of the files that travel with every checkpoint."""

OUR_MODEL_TYPES = ("custom_transformer_decoder", "custom_recurrent_decoder")

_loaded_class: ContextVar[type[PreTrainedModel] | None] = ContextVar("loaded_decoder_class", default=None)
"""Decoder class of the checkpoint that is being loaded under the caller's `trust_remote_code`."""


class UnresolvedDecoderConfig(PreTrainedConfig):
    """
    The fields of a decoder config whose code is in a checkpoint and has not been run: readable, but no model can be
    built from it. `from_pretrained(..., trust_remote_code=True)` of a model resolves it.
    """

    is_unresolved = True

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> "UnresolvedDecoderConfig":
        """The config of a saved decoder part, `model_type` and `auto_map` among its fields."""
        fields = copy.deepcopy(fields)
        model_type = fields.pop("model_type")
        config = cls(**fields)
        config.model_type = model_type  # type: ignore[misc]  # the class stands for many
        return config

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, under the model type that was saved."""
        output: dict[str, Any] = super().to_dict()
        output["model_type"] = self.model_type
        return output


def is_user_decoder(config: PreTrainedConfig) -> bool:
    """Whether a decoder config is neither ours nor transformers'."""
    return config.model_type not in OUR_MODEL_TYPES and not type(config).__module__.startswith("transformers.")


def is_unresolved(config: PreTrainedConfig) -> bool:
    """Whether the code of a decoder config is still to be loaded."""
    return bool(getattr(config, "is_unresolved", False))


def build_user_config(fields: dict[str, Any]) -> PreTrainedConfig | None:
    """
    Config of a decoder part from its saved fields: of a class that is registered or just loaded, unresolved where the
    code is in the checkpoint, None where nobody knows the model type.
    """
    model_type = fields["model_type"]
    config_class: Any = getattr(_loaded_class.get(), "config_class", None)
    if getattr(config_class, "model_type", None) != model_type:
        config_class = CONFIG_MAPPING[model_type] if model_type in CONFIG_MAPPING else None
    if config_class is not None:
        return config_class(**{name: value for name, value in fields.items() if name != "model_type"})
    if isinstance(fields.get("auto_map"), dict) and "AutoModel" in fields["auto_map"]:
        return UnresolvedDecoderConfig.from_fields(fields)
    return None


def check_user_config(owner: str, config: PreTrainedConfig) -> None:
    """
    Raise unless a config can be that of a decoder.

    Raises:
        TypeError: It is one of transformers' own, whose models are no decoders on this contract.
        ValueError: A field of `REQUIRED_FIELDS` is missing.
    """
    if type(config).__module__.startswith("transformers.") and not is_unresolved(config):
        raise TypeError(
            f"{owner}: `decoder` must be one of our decoder configs (TransformerDecoderConfig, "
            f"RecurrentDecoderConfig) or that of a decoder of your own, got {type(config).__name__} of transformers. "
            "Build the decoder from one of these; docs/own_decoder.md says how to write one."
        )
    missing = [name for name in REQUIRED_FIELDS if not hasattr(config, name)]
    if missing:
        raise ValueError(
            f"{owner}: the config of a decoder must have the fields {list(REQUIRED_FIELDS)}, {type(config).__name__} "
            f"lacks {missing}. Add them."
        )


def user_decoder_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """
    The model class of a user's decoder config, checked.

    Raises:
        ValueError: The code of the decoder is not loaded, no class is registered, or `forward` lacks an argument.
    """
    if is_unresolved(config):
        raise ValueError(
            f"`decoder` of model type {config.model_type!r} is defined by code in the checkpoint, which was not run. "
            "Load the model with `from_pretrained(..., trust_remote_code=True)` if you trust that code, or import the "
            "module that registers the decoder."
        )
    try:
        found: Any = MODEL_MAPPING[type(config)]
    except KeyError:
        raise ValueError(
            f"`decoder`: no model class is registered for {type(config).__name__}. Call "
            f"`hf_custom_decoder.register_decoder({type(config).__name__}, <its model class>)` first."
        ) from None
    check_decoder_class(found)
    model_class: type[PreTrainedModel] = found
    return model_class


def check_decoder_class(model_class: Any) -> None:
    """
    Raise unless a class can be that of a decoder.

    Raises:
        TypeError: No `PreTrainedModel`.
        ValueError: `forward` lacks an argument, or the name of the class or of its file is taken by others.
    """
    if not (isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)):
        raise TypeError(f"A decoder must be a subclass of `transformers.PreTrainedModel`, got {model_class!r}.")
    parameters = inspect.signature(model_class.forward).parameters
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    missing = [name for name in REQUIRED_ARGUMENTS if name not in parameters]
    if missing and not takes_any:
        raise ValueError(
            f"`{model_class.__name__}.forward` must take {', '.join(f'`{name}`' for name in REQUIRED_ARGUMENTS)}, it "
            f"lacks {', '.join(f'`{name}`' for name in missing)}. Add them; docs/own_decoder.md says what they hold."
        )
    word = next((word for word in CACHE_WORDS if word in model_class.__name__.lower()), None)
    if word is not None:
        raise ValueError(
            f"`{model_class.__name__}`: transformers builds another kind of cache for classes with {word!r} in their "
            "names. Give the class another name."
        )
    file = _source_file(model_class)
    if file is not None and OUR_FILE_NAME.fullmatch(file.name):
        raise ValueError(
            f"`{model_class.__name__}` stands in a file named {file.name!r}; names of that form are those of the "
            "files that travel with every checkpoint. Rename the file."
        )


def build_user_cache(decoder: PreTrainedModel) -> CustomSeq2SeqCache:
    """An empty cache for a user's decoder: its own layers, or those that transformers builds for its config."""
    own = DynamicCache(config=decoder.config)
    return CustomSeq2SeqCache(with_user_layers(own, decoder), DynamicCache())


def with_user_layers(cache: Any, decoder: PreTrainedModel) -> Any:
    """The cache that transformers built, with the layers of `decoder.build_cache_layers()` where there are any."""
    build = getattr(decoder, "build_cache_layers", None)
    if build is not None:
        cache.layers, cache.layer_class_to_replicate = list(build()), None
    return cache


def _source_file(cls: type) -> Path | None:
    """The file that defines a class; None in a notebook or script, whose code cannot travel."""
    if cls.__module__ == "__main__":
        return None
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return None if file is None or not os.path.isfile(file) else Path(file)


def save_user_code(config: PreTrainedConfig, folder: str | os.PathLike[str]) -> None:
    """Copy the files of a user's decoder into a folder and name its classes in the config's `auto_map`."""
    if is_unresolved(config):
        logger.warning(
            f"The code of the decoder ({config.model_type}) was not loaded and is not copied to {folder}. Load and "
            "save the model with `trust_remote_code=True` to copy it."
        )
        return
    try:
        model_class: Any = MODEL_MAPPING[type(config)]
    except KeyError:
        return  # a config without a model: there is no code to copy yet
    classes = {"AutoConfig": type(config), "AutoModel": model_class}
    for one in classes.values():
        if _source_file(one) is None:
            logger.warning(
                f"{one.__name__} is defined in a script or notebook, so its code is not copied to {folder}: loading "
                "the checkpoint needs `register_decoder` again. Move it to a file of its own to share it."
            )
            return
    os.makedirs(folder, exist_ok=True)
    for one in classes.values():
        custom_object_save(one, folder)
    config.auto_map = {name: f"{one.__module__.split('.')[-1]}.{one.__name__}" for name, one in classes.items()}


def load_user_class(fields: dict[str, Any], name_or_path: str, hub: dict[str, Any]) -> type[PreTrainedModel]:
    """
    Run the code that a checkpoint carries for its decoder, under the caller's `trust_remote_code`.

    Args:
        fields (`dict`): The decoder part of the config.
        name_or_path (`str`): Of the checkpoint.
        hub (`dict`): `revision`, `token`, ... of the caller.

    Raises:
        ValueError: The code is not in the checkpoint itself, defines another model type than the config names, or no
            decoder.
    """
    names = {**hub}
    names.pop("trust_remote_code", None)
    reference = fields["auto_map"]["AutoModel"]
    if not (isinstance(reference, str) and re.fullmatch(r"\w+\.\w+", reference)):
        raise ValueError(
            f"{name_or_path}: the decoder's `auto_map` must name a class of a file in the checkpoint (`file.Class`), "
            f"got {reference!r}, which was not run: to trust this checkpoint is not to trust others."
        )
    model_class: Any = get_class_from_dynamic_module(reference, name_or_path, **names)
    check_decoder_class(model_class)
    config_class: Any = model_class.config_class
    if getattr(config_class, "model_type", None) != fields["model_type"]:
        raise ValueError(
            f"{name_or_path}: the decoder's config says model type {fields['model_type']!r}, its code defines "
            f"{getattr(config_class, 'model_type', None)!r}. The checkpoint's files do not belong together."
        )
    AutoModel.register(config_class, model_class, exist_ok=True)
    found: type[PreTrainedModel] = model_class
    return found


def with_resolved_decoder(config: Any, model_class: type[PreTrainedModel]) -> Any:
    """
    A copy of a seq2seq config, its decoder part built from the class that was loaded. (The config's own class may be
    another copy of the travelling code than this one, so it is not asked to do it.)
    """
    config_class: Any = model_class.config_class
    fields = config.decoder.to_dict()
    fields.pop("model_type")
    config = copy.deepcopy(config)
    decoder = config_class(**fields)
    decoder._attn_implementation = config.decoder._attn_implementation
    decoder.add_cross_attention = True
    config.decoder = decoder
    return config


@contextmanager
def user_class(model_class: type[PreTrainedModel] | None) -> Iterator[None]:
    """Configs that are built inside take their decoder part from this class, where there is one."""
    token = _loaded_class.set(model_class)
    try:
        yield
    finally:
        _loaded_class.reset(token)

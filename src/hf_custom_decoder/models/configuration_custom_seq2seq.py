"""Config of our encoder-decoder models."""

import copy
import inspect
import os
from typing import Any, ClassVar

from transformers import CONFIG_MAPPING, AutoConfig, GenerationConfig, PreTrainedConfig

from .configuration_recurrent_decoder import RecurrentDecoderConfig
from .configuration_recurrent_encoder import RecurrentEncoderConfig
from .configuration_transformer_decoder import TransformerDecoderConfig
from .configuration_transformer_encoder import TransformerEncoderConfig
from .configuration_transformer_stack import (
    CONFIG_FORMAT,
    HUB_NAMES,
    TransformerStackConfig,
    check_flag,
    check_format,
    check_model_type,
    check_names,
    check_positive_int,
    check_probability,
    check_token_id,
)
from .presets_custom_seq2seq import PRESET_NAMES, PRESETS, RECURRENT_PRESETS
from .user_decoder_custom_seq2seq import (
    DEFAULT_MAX_LENGTH,
    build_user_config,
    check_user_config,
    is_unresolved,
    save_user_code,
)

OWN_ENCODER_CONFIGS: dict[str, type[PreTrainedConfig]] = {
    TransformerEncoderConfig.model_type: TransformerEncoderConfig,
    RecurrentEncoderConfig.model_type: RecurrentEncoderConfig,
}
OWN_DECODER_CONFIGS: dict[str, type[PreTrainedConfig]] = {
    TransformerDecoderConfig.model_type: TransformerDecoderConfig,
    RecurrentDecoderConfig.model_type: RecurrentDecoderConfig,
}

GENERIC_NAMES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "use_cache",
)
"""Names that scripts and libraries read from any config. They live in the decoder config alone."""

SIDE_NAMES = ("encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "decoder_ffn_dim")
"""BART's names of sizes that one side has alone; they live in the config of that side."""


def _generic(name: str, side: str = "decoder", *default: Any) -> property:
    """A property that reads and writes a field of the config of one side; `default` stands for one it lacks."""

    def read(self: "CustomSeq2SeqConfig") -> Any:
        return getattr(getattr(self, side), name, *default)

    def write(self: "CustomSeq2SeqConfig", value: Any) -> None:
        setattr(getattr(self, side), name, value)

    return property(read, write, doc=f"`{side}.{name}`: one value, read and written there.")


class CustomSeq2SeqConfig(PreTrainedConfig):
    r"""
    Configuration of [`CustomSeq2SeqForConditionalGeneration`]: any encoder, one of our decoders, and what joins them.

    `vocab_size`, `hidden_size`, `num_hidden_layers`, `num_attention_heads`, `max_position_embeddings`, the token ids
    and `use_cache` can be read, set and passed here; they write through to the decoder config, and `to_dict()` shows
    them. So can BART's names (`d_model`, `encoder_layers`, `decoder_ffn_dim`, ...), which write through to their side.

    Args:
        encoder (`PreTrainedConfig` or `dict`, *optional*): [`TransformerEncoderConfig`] (the default),
            [`RecurrentEncoderConfig`] or any config that `AutoModel` knows; an encoder-decoder config (T5, BART,
            Marian) contributes its encoder only.
        decoder (`PreTrainedConfig` or `dict`, *optional*): [`TransformerDecoderConfig`] (the default),
            [`RecurrentDecoderConfig`], or the config of a decoder of your own (`docs/own_decoder.md`).
        decoder_start_token_id (`int`, *optional*): First id of every decoder input; `None` means `bos_token_id`, and
            `pad_token_id` where that is None too.
        tie_word_embeddings (`bool`, defaults to `True`): The vocabulary projection is the decoder's embedding matrix
            (Press and Wolf 2017).
        tie_encoder_decoder_embeddings (`bool`, defaults to `False`): The encoder's embedding matrix is the decoder's.
            Both vocabularies and widths must be equal.
        label_smoothing (`float`, defaults to 0.0): Weight of the uniform distribution in the training loss.
        return_logits_in_training (`bool`, defaults to `False`): With `labels` in training mode return complete logits
            instead of None; the vocabulary projection then runs on every position.

    Raises:
        ValueError: A value breaks its rule; the message names argument, rule, value and remedy.
        TypeError: `encoder` or `decoder` is neither config nor dict, or a flag is neither True nor False.

    Example:

    ```python
    >>> from hf_custom_decoder import (
    ...     CustomSeq2SeqConfig,
    ...     CustomSeq2SeqForConditionalGeneration,
    ...     TransformerDecoderConfig,
    ...     TransformerEncoderConfig,
    ... )

    >>> config = CustomSeq2SeqConfig(
    ...     encoder=TransformerEncoderConfig(vocab_size=1000, hidden_size=64, num_attention_heads=4),
    ...     decoder=TransformerDecoderConfig(vocab_size=1000, hidden_size=64, num_attention_heads=4),
    ... )
    >>> model = CustomSeq2SeqForConditionalGeneration(config)
    ```
    """

    model_type = "custom_seq2seq"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]  # the Trainer adds a list to it
    sub_configs = {"encoder": AutoConfig, "decoder": AutoConfig}
    attribute_map = {
        "d_model": "hidden_size",
        "decoder_layers": "num_hidden_layers",
        "decoder_attention_heads": "num_attention_heads",
    }

    encoder: Any = None
    decoder: Any = None
    decoder_start_token_id: int | None = None
    tie_word_embeddings: bool = True
    tie_encoder_decoder_embeddings: bool = False
    label_smoothing: float = 0.0
    return_logits_in_training: bool = False
    is_encoder_decoder: bool = True
    config_format: int = CONFIG_FORMAT

    vocab_size = _generic("vocab_size")
    hidden_size = _generic("hidden_size")
    num_hidden_layers = _generic("num_hidden_layers")
    num_attention_heads = _generic("num_attention_heads")
    max_position_embeddings = _generic("max_position_embeddings")
    pad_token_id = _generic("pad_token_id")
    bos_token_id = _generic("bos_token_id")
    eos_token_id = _generic("eos_token_id")
    use_cache = _generic("use_cache", "decoder", True)
    decoder_ffn_dim = _generic("intermediate_size")
    encoder_layers = _generic("num_hidden_layers", "encoder")
    encoder_attention_heads = _generic("num_attention_heads", "encoder")
    encoder_ffn_dim = _generic("intermediate_size", "encoder")

    _known_extra_names: ClassVar[tuple[str, ...]] = (
        "attn_implementation",
        "output_attentions",
        "torch_dtype",
        "num_labels",
        "name_or_path",
        *GENERIC_NAMES,
        *SIDE_NAMES,
    )

    def __post_init__(self, **kwargs: Any) -> None:
        owner = type(self).__name__
        check_format(owner, self.config_format)
        known = set(type(self).__dataclass_fields__) | set(self.attribute_map) | set(self._known_extra_names)
        is_saved = kwargs.pop("_is_saved", False)
        check_names(owner, kwargs, known)
        self.encoder = self._build_part("encoder", self.encoder, TransformerEncoderConfig, OWN_ENCODER_CONFIGS)
        self.decoder = self._build_part("decoder", self.decoder, TransformerDecoderConfig, OWN_DECODER_CONFIGS)
        if self.decoder.model_type not in OWN_DECODER_CONFIGS:
            check_user_config(owner, self.decoder)
        self.decoder.add_cross_attention = True
        for name in self._names_of_sides(kwargs, known, is_saved):
            del kwargs[name]
        generic = (*GENERIC_NAMES, *self.attribute_map, *SIDE_NAMES)
        for name in [name for name in kwargs if name in generic]:
            setattr(self, name, kwargs.pop(name))
        if kwargs.get("attn_implementation") is None:
            kwargs["attn_implementation"] = {}  # None would erase the parts' own: a live encoder would lose its mask
        super().__post_init__(**kwargs)
        for part in (self.encoder, self.decoder):
            if isinstance(part, TransformerStackConfig):
                part.check()
        self.check()

    def _build_part(
        self, name: str, part: Any, default: type[PreTrainedConfig], own: dict[str, type[PreTrainedConfig]]
    ) -> PreTrainedConfig:
        """Config of one side from a config, a dict or None; ours are built here, so no registration is needed."""
        owner = type(self).__name__
        if part is None:
            return default()
        if isinstance(part, PreTrainedConfig):
            return part
        if not isinstance(part, dict):
            raise TypeError(
                f"{owner}: `{name}` must be a config, a dict of one, or None, got {type(part).__name__}. Pass one."
            )
        fields = copy.deepcopy(part)
        model_type = fields.pop("model_type", default.model_type)
        if not isinstance(model_type, str):
            raise TypeError(f"{owner}: `{name}['model_type']` must be a name, got {model_type!r}. Correct it.")
        if model_type in own:
            return own[model_type](**fields)
        if name == "decoder":
            config = build_user_config({"model_type": model_type, **fields})
            if config is not None:
                return config
        if model_type not in CONFIG_MAPPING:
            raise ValueError(
                f"{owner}: `{name}['model_type']` must be one of ours ({sorted(own)}) or one that AutoConfig knows, "
                f"got {model_type!r}. Import the package that defines it, or correct the name."
            )
        return CONFIG_MAPPING[model_type](**fields)

    def _names_of_sides(self, kwargs: dict[str, Any], known: set[str], is_saved: bool) -> list[str]:
        """
        Arguments that only a side has: refused, as here they would change nothing. Files of earlier versions may hold
        them; then they are returned, to be passed over.
        """
        unknown = [name for name in kwargs if name not in known and name not in HUB_NAMES]
        if not unknown:
            return []
        fields = {name: _field_names(getattr(self, name)) for name in ("encoder", "decoder")}
        settings = vars(GenerationConfig())  # transformers takes these out of any config
        found = []
        for name in unknown:
            sides = [f"`{side}=`" for side in fields if name in fields[side]]
            if not sides or name in settings:
                continue
            if not is_saved:
                raise ValueError(
                    f"{type(self).__name__}: `{name}` is not an argument of this config but of its parts. Set it in "
                    f"{' and '.join(sides)}. Nothing was set."
                )
            found.append(name)
        return found

    @property
    def start_token_id(self) -> int | None:
        """`decoder_start_token_id`, or what stands for it."""
        for token_id in (self.decoder_start_token_id, self.bos_token_id, self.pad_token_id):
            if token_id is not None:
                return token_id
        return None

    def check(self) -> None:
        """Check every rule of the fields; called by the constructor and again when a model is built."""
        owner = type(self).__name__
        for name in ("tie_word_embeddings", "tie_encoder_decoder_embeddings", "return_logits_in_training"):
            check_flag(owner, name, getattr(self, name))
        if self.is_encoder_decoder is not True:
            raise ValueError(
                f"{owner}: `is_encoder_decoder` must be True, got {self.is_encoder_decoder!r}. Leave it out, or use "
                "TransformerDecoderConfig for a decoder alone."
            )
        if self.encoder.model_type in OWN_DECODER_CONFIGS:
            raise ValueError(
                f"{owner}: `encoder` must not be one of our decoder configs, got {type(self.encoder).__name__} (no "
                "token would see what follows it). Use TransformerEncoderConfig, or any encoder that AutoModel knows."
            )
        for name in ("num_hidden_layers", "vocab_size"):  # of an encoder of others, before it is laid out
            if isinstance(getattr(self.encoder, name, None), int):
                check_positive_int(f"{owner}: `encoder`", name, getattr(self.encoder, name))
        check_probability(owner, "label_smoothing", self.label_smoothing)
        check_token_id(owner, "decoder_start_token_id", self.decoder_start_token_id, self.vocab_size)
        if self.start_token_id is None:
            raise ValueError(
                f"{owner}: a start token is needed, got None for `decoder_start_token_id`, `bos_token_id` and "
                "`pad_token_id`. Set `decoder_start_token_id` to the tokenizer's id."
            )
        if self.pad_token_id is None:
            raise ValueError(
                f"{owner}: `pad_token_id` must be set (labels of unequal length are padded with it), got None. Set it "
                "to the tokenizer's id."
            )
        if self.eos_token_id is None:
            raise ValueError(
                f"{owner}: `eos_token_id` must be set (generation would never stop), got None. Set it to the "
                "tokenizer's id."
            )
        if is_unresolved(self.decoder):
            return  # widths may be properties of the class that is not there yet; checked again with the model
        if self.tie_word_embeddings and embedding_width(self.decoder) != output_width(self.decoder):
            raise ValueError(
                f"{owner}: `tie_word_embeddings=True` needs a decoder whose output is as wide as its embeddings, got "
                f"{output_width(self.decoder)} and {embedding_width(self.decoder)}. Set `readout_sizes` or "
                "`embedding_size` so that they agree, or set it to False."
            )
        if self.tie_encoder_decoder_embeddings:
            sizes = [
                (getattr(part, "vocab_size", None), embedding_width(part)) for part in (self.encoder, self.decoder)
            ]
            if sizes[0] != sizes[1]:
                raise ValueError(
                    f"{owner}: `tie_encoder_decoder_embeddings=True` needs equal (vocab_size, embedding width) on "
                    f"both sides, got {sizes[0]} and {sizes[1]}. Use one vocabulary and width, or set it to False."
                )

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, with the generic names of the decoder beside the parts."""
        output: dict[str, Any] = super().to_dict()
        output.update({name: copy.deepcopy(getattr(self, name, None)) for name in GENERIC_NAMES})
        return output

    def to_diff_dict(self) -> dict[str, Any]:
        """What is saved: the generic names stand in the decoder's part alone, so no second truth is written."""
        output: dict[str, Any] = super().to_diff_dict()
        for name in GENERIC_NAMES:
            output.pop(name, None)
        if self.decoder.model_type not in OWN_DECODER_CONFIGS:  # readable without its class and defaults
            output["decoder"] = self.decoder.to_dict()
        return output

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As in transformers; the code of a decoder of your own is copied beside the config."""
        if self.decoder.model_type not in OWN_DECODER_CONFIGS:
            save_user_code(self.decoder, save_directory)
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers. Where a decoder part is given it is the truth: generic names beside it are ignored."""
        check_model_type(cls, config_dict)
        if config_dict.get("decoder") is not None:
            config_dict = {name: value for name, value in config_dict.items() if name not in GENERIC_NAMES}
        if "transformers_version" in config_dict:
            config_dict = {**config_dict, "_is_saved": True}
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_preset(
        cls, name: str, *, vocab_size: int, encoder_vocab_size: int | None = None, **kwargs: Any
    ) -> "CustomSeq2SeqConfig":
        """
        A known shape by its name.

        - `"transformer-tiny"`, `"transformer-base"`, `"transformer-big"`: post-norm, ReLU, sinusoidal positions and
          scaled embeddings as in Vaswani et al. 2017, all three embedding matrices tied where the vocabularies are
          equal.
        - `"ssru-base"`: transformer-base whose decoder has SSRU layers (Kim et al. 2019, section 3.1) in place of
          self-attention; six layers on either side and no weights shared between layers, where the students of the
          paper share parameters.
        - `"gru-attention"`: the sizes of Bahdanau et al. 2015, appendix A.2.3 (embeddings 620, 1000 units a direction
          and in the decoder, an output layer of 500), additive attention. It departs from the paper: the state is
          scored after the step, and the context goes to the output layer and not into the cell (so training needs
          no loop); the source's states are projected to 1000; the output layer is `tanh` of state and context, not
          maxout of state, context and last token; the first state reads the final states of both directions; the GRU
          is torch's.
        - `"lstm-luong"`: Luong et al. 2015, section 4.1: four layers of 1000 on either side, one direction, general
          attention, input feeding, dropout 0.2, first states from the encoder's. Whether sources are reversed is up
          to the data.
        - `"gru-textbook"`: what a first tutorial builds: embedding, two GRU layers of 256 with dropout, one linear
          layer, one to the vocabulary; no attention, the encoder's final state is the decoder's first.

        Args:
            name (`str`): One of `PRESET_NAMES`.
            vocab_size (`int`): Of the decoder.
            encoder_vocab_size (`int`, *optional*): By default the same.
            kwargs: Further arguments of this config.

        Raises:
            ValueError: No preset of this name.
        """
        if name not in PRESET_NAMES:
            raise ValueError(
                f"{cls.__name__}: `name` must be one of {PRESET_NAMES}, got {name!r}. Choose one of these."
            )
        encoder_vocab_size = vocab_size if encoder_vocab_size is None else encoder_vocab_size
        if name in RECURRENT_PRESETS:
            shared, encoder, decoder = (RECURRENT_PRESETS[name][part] for part in ("shared", "encoder", "decoder"))
            kwargs.setdefault("tie_word_embeddings", False)
            return cls(
                encoder=RecurrentEncoderConfig(vocab_size=encoder_vocab_size, **shared, **encoder),
                decoder=RecurrentDecoderConfig(vocab_size=vocab_size, **shared, **copy.deepcopy(decoder)),
                **kwargs,
            )
        sizes = PRESETS["transformer-base" if name == "ssru-base" else name]
        published = {"norm_position": "post", "hidden_act": "relu", "scale_embeddings": True, **sizes}
        mixers: dict[str, Any] = {"mixer_types": ["ssru"] * sizes["num_hidden_layers"]} if name == "ssru-base" else {}
        kwargs.setdefault("tie_encoder_decoder_embeddings", encoder_vocab_size == vocab_size)
        return cls(
            encoder=TransformerEncoderConfig(vocab_size=encoder_vocab_size, **published),
            decoder=TransformerDecoderConfig(vocab_size=vocab_size, **published, **mixers),
            **kwargs,
        )


def _field_names(config: PreTrainedConfig) -> set[str]:
    """Every name that the class of a config takes as an argument."""
    names = set(type(config).__dataclass_fields__) | set(inspect.signature(type(config).__init__).parameters)
    return {name for name in names | set(config.attribute_map) if not name.startswith("_")} - {"self", "kwargs"}


def embedding_width(config: PreTrainedConfig) -> int:
    """Width of the token embeddings."""
    width: int = getattr(config, "input_size", None) or encoder_width(config)
    return width


def output_width(config: PreTrainedConfig) -> int:
    """Width of the states that a decoder gives to the vocabulary projection."""
    width: int = getattr(config, "output_size", None) or encoder_width(config)
    return width


def length_rule(config: PreTrainedConfig) -> int:
    """Most tokens that are generated unless the caller says otherwise."""
    return getattr(config, "max_position_embeddings", None) or DEFAULT_MAX_LENGTH


def encoder_width(config: PreTrainedConfig) -> int:
    """
    Width of the states that an encoder returns.

    Raises:
        ValueError: The config names none.
    """
    text_config = config.get_text_config(encoder=True)
    for part in (config, text_config):
        for name in ("hidden_size", "d_model"):
            width = getattr(part, name, None)
            if isinstance(width, int):
                return width
    raise ValueError(
        f"CustomSeq2SeqConfig: `encoder` must say its width as `hidden_size` or `d_model`, {type(config).__name__} "
        "does not. Use another encoder."
    )


CustomSeq2SeqConfig.register_for_auto_class()

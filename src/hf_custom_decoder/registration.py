"""Makes our classes known to the Auto classes of transformers, once, when the package is imported."""

from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from .models.configuration_custom_seq2seq import CustomSeq2SeqConfig
from .models.configuration_recurrent_decoder import RecurrentDecoderConfig
from .models.configuration_recurrent_encoder import RecurrentEncoderConfig
from .models.configuration_transformer_decoder import TransformerDecoderConfig
from .models.configuration_transformer_encoder import TransformerEncoderConfig
from .models.modeling_custom_seq2seq import CustomSeq2SeqForConditionalGeneration, CustomSeq2SeqModel
from .models.modeling_recurrent_decoder import RecurrentDecoderForCausalLM, RecurrentDecoderModel
from .models.modeling_recurrent_encoder import RecurrentEncoderModel
from .models.modeling_transformer_decoder import TransformerDecoderForCausalLM, TransformerDecoderModel
from .models.modeling_transformer_encoder import TransformerEncoderModel
from .models.user_decoder_custom_seq2seq import check_decoder_class

MODELS = (
    (TransformerEncoderConfig, AutoModel, TransformerEncoderModel),
    (TransformerDecoderConfig, AutoModel, TransformerDecoderModel),
    (TransformerDecoderConfig, AutoModelForCausalLM, TransformerDecoderForCausalLM),
    (RecurrentEncoderConfig, AutoModel, RecurrentEncoderModel),
    (RecurrentDecoderConfig, AutoModel, RecurrentDecoderModel),
    (RecurrentDecoderConfig, AutoModelForCausalLM, RecurrentDecoderForCausalLM),
    (CustomSeq2SeqConfig, AutoModel, CustomSeq2SeqModel),
    (CustomSeq2SeqConfig, AutoModelForSeq2SeqLM, CustomSeq2SeqForConditionalGeneration),
)


def register() -> None:
    """Register every config and model class; calling it again changes nothing."""
    for config_class, auto_class, model_class in MODELS:
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        auto_class.register(config_class, model_class, exist_ok=True)


def register_decoder(config_class: type[PreTrainedConfig], model_class: type[PreTrainedModel]) -> None:
    """
    Make a decoder of your own known, so that [`CustomSeq2SeqConfig`] takes its config; `docs/own_decoder.md` says what
    it must do. Registering a class again replaces the one before.

    Args:
        config_class (`type[PreTrainedConfig]`): With a `model_type` that nobody else uses.
        model_class (`type[PreTrainedModel]`): Built from such a config.

    Raises:
        TypeError: These are not a config class and a model class.
        ValueError: The model type is missing or taken, `model_class.config_class` is another class, or `forward` lacks
            an argument.
    """
    if not (isinstance(config_class, type) and issubclass(config_class, PreTrainedConfig)):
        raise TypeError(
            f"`config_class` must be a subclass of `transformers.PreTrainedConfig`, got {config_class!r}. Derive it "
            "from that."
        )
    check_decoder_class(model_class)
    model_type = config_class.model_type
    taken = CONFIG_MAPPING[model_type] if model_type in CONFIG_MAPPING else None
    is_foreign = taken is not None and taken.__module__.startswith(("transformers.", __package__ + "."))
    if not model_type or is_foreign:
        raise ValueError(
            f"`{config_class.__name__}.model_type` must be a name that nobody else uses, got {model_type!r}. Choose "
            "another."
        )
    if model_class.config_class is not config_class:
        raise ValueError(
            f"`{model_class.__name__}.config_class` must be {config_class.__name__}, got {model_class.config_class}. "
            "Set it in the class."
        )
    AutoConfig.register(model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, model_class, exist_ok=True)

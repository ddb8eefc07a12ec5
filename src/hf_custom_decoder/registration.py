"""Makes our classes known to the Auto classes of transformers, once, when the package is imported."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

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

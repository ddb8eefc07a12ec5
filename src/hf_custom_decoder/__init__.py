"""Encoder-decoder models for transformers whose decoder you choose."""

from .models.cache_custom_seq2seq import CustomSeq2SeqCache
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
from .registration import register, register_decoder

__version__ = "0.1.0"

__all__ = [
    "CustomSeq2SeqCache",
    "CustomSeq2SeqConfig",
    "CustomSeq2SeqForConditionalGeneration",
    "CustomSeq2SeqModel",
    "RecurrentDecoderConfig",
    "RecurrentDecoderForCausalLM",
    "RecurrentDecoderModel",
    "RecurrentEncoderConfig",
    "RecurrentEncoderModel",
    "TransformerDecoderConfig",
    "TransformerDecoderForCausalLM",
    "TransformerDecoderModel",
    "TransformerEncoderConfig",
    "TransformerEncoderModel",
    "register_decoder",
]

register()

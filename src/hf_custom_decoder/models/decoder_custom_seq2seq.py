"""The classes of decoders: one of ours or one of a user's."""

from transformers import PreTrainedConfig, PreTrainedModel

from .configuration_recurrent_decoder import RecurrentDecoderConfig
from .configuration_transformer_decoder import TransformerDecoderConfig
from .modeling_recurrent_decoder import RecurrentDecoderModel
from .modeling_transformer_decoder import TransformerDecoderModel
from .user_decoder_custom_seq2seq import user_decoder_class

DECODER_CLASSES: dict[str, type[PreTrainedModel]] = {
    TransformerDecoderConfig.model_type: TransformerDecoderModel,
    RecurrentDecoderConfig.model_type: RecurrentDecoderModel,
}
"""By model type, as the encoders are."""


def decoder_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The model class of a decoder config: ours, or that of a user."""
    return DECODER_CLASSES.get(config.model_type) or user_decoder_class(config)

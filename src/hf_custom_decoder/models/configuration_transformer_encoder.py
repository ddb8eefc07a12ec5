"""Config of our Transformer encoder."""

from typing import ClassVar

from .configuration_transformer_stack import TransformerStackConfig


class TransformerEncoderConfig(TransformerStackConfig):
    r"""
    Configuration of [`TransformerEncoderModel`] (Vaswani et al. 2017, section 3.1). The fields are those of
    [`TransformerStackConfig`]; BART's names (`d_model`, `encoder_layers`, `encoder_attention_heads`,
    `encoder_ffn_dim`, ...) reach them too.

    Example:

    ```python
    >>> from hf_custom_decoder import TransformerEncoderConfig, TransformerEncoderModel

    >>> config = TransformerEncoderConfig(vocab_size=1000, hidden_size=64, num_attention_heads=4)
    >>> model = TransformerEncoderModel(config)
    ```
    """

    model_type = "custom_transformer_encoder"
    keys_to_ignore_at_inference: ClassVar[list[str]] = []  # the Trainer adds a list to it
    attribute_map = {
        "d_model": "hidden_size",
        "encoder_layers": "num_hidden_layers",
        "encoder_attention_heads": "num_attention_heads",
        "encoder_ffn_dim": "intermediate_size",
        "activation_function": "hidden_act",
        "init_std": "initializer_range",
        "scale_embedding": "scale_embeddings",
    }

    _refused_names = {
        "mixer_types": "Set `sliding_window`: in an encoder it holds for every layer.",
        "layer_types": "Set `sliding_window`: in an encoder it holds for every layer.",
        "add_cross_attention": "Only a decoder has cross-attention.",
    }


TransformerEncoderConfig.register_for_auto_class()

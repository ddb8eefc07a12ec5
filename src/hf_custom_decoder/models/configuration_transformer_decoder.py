"""Config of our Transformer decoder."""

from typing import Any, ClassVar

from .configuration_transformer_stack import TransformerStackConfig, check_flag

MIXER_TYPES = ("full_attention", "sliding_attention", "ssru", "mingru")
"""What may mix the tokens of a decoder layer."""


class TransformerDecoderConfig(TransformerStackConfig):
    r"""
    Configuration of [`TransformerDecoderModel`] and [`TransformerDecoderForCausalLM`] (Vaswani et al. 2017, section
    3.1). The fields are those of [`TransformerStackConfig`] and:

    Args:
        mixer_types (`list[str]`, *optional*): One name a layer, what mixes its tokens: `"full_attention"`,
            `"sliding_attention"` (which needs `sliding_window`), or a linear recurrence, `"ssru"` (Kim et al. 2019) or
            `"mingru"` (Feng et al. 2024); `None` means full attention everywhere. transformers' `layer_types` is
            derived from it.
        add_cross_attention (`bool`, defaults to `False`): Layers that attend to `encoder_hidden_states`.
            [`CustomSeq2SeqConfig`] sets it.
        tie_word_embeddings (`bool`, defaults to `True`): The vocabulary projection of
            [`TransformerDecoderForCausalLM`] is the embedding matrix. Inside a seq2seq model the seq2seq config
            decides.
        lm_head_bias (`bool`, defaults to `False`): A bias on the vocabulary projection (Marian's
            `final_logits_bias`).
        use_cache (`bool`, defaults to `True`): Return the key-value cache outside training.

    Example:

    ```python
    >>> from hf_custom_decoder import TransformerDecoderConfig, TransformerDecoderForCausalLM

    >>> config = TransformerDecoderConfig(vocab_size=1000, hidden_size=64, num_attention_heads=4)
    >>> model = TransformerDecoderForCausalLM(config)
    ```
    """

    model_type = "custom_transformer_decoder"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]  # the Trainer adds a list to it
    attribute_map = {
        "d_model": "hidden_size",
        "decoder_layers": "num_hidden_layers",
        "decoder_attention_heads": "num_attention_heads",
        "decoder_ffn_dim": "intermediate_size",
        "activation_function": "hidden_act",
        "init_std": "initializer_range",
        "scale_embedding": "scale_embeddings",
    }

    _refused_names = {"layer_types": "It is derived from `mixer_types`: set that."}

    mixer_types: list[str] | None = None
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    lm_head_bias: bool = False
    use_cache: bool = True

    @property
    def resolved_mixer_types(self) -> list[str]:
        """`mixer_types`, one name a layer."""
        return ["full_attention"] * self.num_hidden_layers if self.mixer_types is None else list(self.mixer_types)

    @property
    def layer_types(self) -> list[str]:
        """One transformers layer type a layer, from which transformers builds caches and masks."""
        known = ("full_attention", "sliding_attention")
        return [name if name in known else "full_attention" for name in self.resolved_mixer_types]

    @property
    def output_size(self) -> int:
        """Width of `last_hidden_state`, which the vocabulary projection reads."""
        return self.hidden_size

    def check(self) -> None:
        """Check every rule of the fields; called by the constructor and again when a model is built."""
        super().check()
        owner = type(self).__name__
        for name in ("add_cross_attention", "tie_word_embeddings", "lm_head_bias", "use_cache"):
            check_flag(owner, name, getattr(self, name))
        mixer_types: Any = self.mixer_types
        if mixer_types is None:
            return
        if not isinstance(mixer_types, (list, tuple)) or len(mixer_types) != self.num_hidden_layers:
            raise ValueError(
                f"{owner}: `mixer_types` must be a list with one name for each of the {self.num_hidden_layers} layers "
                f"(`num_hidden_layers`), got {mixer_types!r}. Give as many names as layers, or None."
            )
        for name in mixer_types:
            if name not in MIXER_TYPES:
                raise ValueError(
                    f"{owner}: each entry of `mixer_types` must be one of {list(MIXER_TYPES)}, got {name!r}."
                )
        if "sliding_attention" in mixer_types and self.sliding_window is None:
            raise ValueError(
                f"{owner}: `mixer_types` names 'sliding_attention', which needs `sliding_window` (tokens), got None. "
                "Set `sliding_window`."
            )


TransformerDecoderConfig.register_for_auto_class()

"""Config of our recurrent decoder."""

from typing import Any, ClassVar

from transformers.activations import ACT2FN

from .configuration_recurrent_stack import RecurrentStackConfig
from .configuration_transformer_stack import check_choice, check_flag, check_positive_int, check_probability

ATTENTION_TYPES = ("none", "dot", "general", "additive", "multihead")
"""Luong et al. 2015 (dot, general), Bahdanau et al. 2015 (additive), Vaswani et al. 2017 (multihead)."""

BRIDGE_TYPES = ("zeros", "copy", "linear")
"""Where the first states come from."""


class RecurrentDecoderConfig(RecurrentStackConfig):
    r"""
    Configuration of [`RecurrentDecoderModel`] and [`RecurrentDecoderForCausalLM`]. The fields are those of
    [`RecurrentStackConfig`] and:

    Args:
        attention_type (`str`, defaults to `"dot"`): How the source is read: `"none"` (through the first states
            alone), `"dot"`, `"general"`, `"additive"` or `"multihead"`.
        num_attention_heads (`int`, defaults to 4): Heads of `"multihead"`.
        attention_dropout (`float`, defaults to 0.0): On the weights of `"multihead"`.
        attentional_layer (`bool`, defaults to `True`): Combine state and context by `tanh(W [context; state])` (Luong
            et al. 2015, equation 5); False leaves the two side by side.
        input_feeding (`bool`, defaults to `False`): Feed the combined vector to the next step (Luong et al. 2015,
            section 3.3). Training then runs token by token.
        bridge_type (`str`, *optional*): First states from the encoder's final ones: `"zeros"`, `"copy"` or `"linear"`
            (`tanh(W h)`, Bahdanau et al. 2015, appendix A.2.2); `None` means linear where the encoder returns final
            states, else zeros.
        residual (`bool`, defaults to `False`): Add a layer's input to its output from the second layer on (Wu et al.
            2016, section 3.1).
        readout_sizes (`list[int]`, *optional*): Widths of linear layers between cell and vocabulary.
        readout_act (`str`, *optional*): Activation after each of them; `None` for none.
        add_cross_attention (`bool`, defaults to `False`): Build the attention over `encoder_hidden_states`.
            [`CustomSeq2SeqConfig`] sets it.
        tie_word_embeddings (`bool`, defaults to `False`): The vocabulary projection of
            [`RecurrentDecoderForCausalLM`] is the embedding matrix; the output width must then be `embedding_size`.
        lm_head_bias (`bool`, defaults to `False`): A bias on the vocabulary projection.
        use_cache (`bool`, defaults to `True`): Return the state outside training.

    Example:

    ```python
    >>> from hf_custom_decoder import RecurrentDecoderConfig, RecurrentDecoderForCausalLM

    >>> config = RecurrentDecoderConfig(vocab_size=1000, hidden_size=64, cell_type="gru")
    >>> model = RecurrentDecoderForCausalLM(config)
    ```
    """

    model_type = "custom_recurrent_decoder"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]  # the Trainer adds a list to it
    attribute_map = {
        "d_model": "hidden_size",
        "decoder_layers": "num_hidden_layers",
        "decoder_attention_heads": "num_attention_heads",
        "init_std": "initializer_range",
    }

    attention_type: str = "dot"
    num_attention_heads: int = 4
    attention_dropout: float = 0.0
    attentional_layer: bool = True
    input_feeding: bool = False
    bridge_type: str | None = None
    residual: bool = False
    readout_sizes: list[int] | None = None
    readout_act: str | None = None
    add_cross_attention: bool = False
    tie_word_embeddings: bool = False
    lm_head_bias: bool = False
    use_cache: bool = True

    _refused_names: ClassVar[dict[str, str]] = {
        "mixer_types": "Every layer is recurrent: set `cell_type`, or use TransformerDecoderConfig.",
        "layer_types": "Every layer is recurrent: set `cell_type`, or use TransformerDecoderConfig.",
        "bidirectional": "A decoder reads forwards only; give it to RecurrentEncoderConfig.",
    }

    @property
    def mixer_types(self) -> list[str]:
        """One name a layer, as in [`TransformerDecoderConfig`]."""
        return ["recurrent"] * self.num_hidden_layers

    @property
    def layer_types(self) -> list[str]:
        """Names that transformers knows; the cache is built from `mixer_types`."""
        return ["full_attention"] * self.num_hidden_layers

    @property
    def has_attention(self) -> bool:
        """Whether the source is read by attention."""
        return self.add_cross_attention and self.attention_type != "none"

    @property
    def combined_size(self) -> int:
        """Width of state and context together."""
        return 2 * self.hidden_size if self.has_attention and not self.attentional_layer else self.hidden_size

    @property
    def output_size(self) -> int:
        """Width of `last_hidden_state`, which the vocabulary projection reads."""
        return self.readout_sizes[-1] if self.readout_sizes else self.combined_size

    def check(self) -> None:
        """Check every rule of the fields; called by the constructor and again when a model is built."""
        super().check()
        owner = type(self).__name__
        check_choice(owner, "attention_type", self.attention_type, ATTENTION_TYPES)
        for name in (
            "attentional_layer",
            "input_feeding",
            "residual",
            "add_cross_attention",
            "tie_word_embeddings",
            "lm_head_bias",
            "use_cache",
        ):
            check_flag(owner, name, getattr(self, name))
        check_probability(owner, "attention_dropout", self.attention_dropout)
        if self.bridge_type is not None:
            check_choice(owner, "bridge_type", self.bridge_type, BRIDGE_TYPES)
        check_positive_int(owner, "num_attention_heads", self.num_attention_heads)
        if self.attention_type == "multihead" and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{owner}: `hidden_size` must be divisible by `num_attention_heads` with "
                f"`attention_type='multihead'`, got {self.hidden_size} and {self.num_attention_heads}. Change one of "
                "them."
            )
        if self.input_feeding and self.attention_type == "none":
            raise ValueError(
                f"{owner}: `input_feeding=True` feeds what attention returns, got `attention_type='none'`. Choose an "
                "`attention_type`, or set `input_feeding=False`."
            )
        if self.readout_act is not None:
            check_choice(owner, "readout_act", self.readout_act, tuple(ACT2FN))
        self._check_readout(owner)

    def _check_readout(self, owner: str) -> None:
        sizes: Any = self.readout_sizes
        if sizes is not None:
            if not isinstance(sizes, (list, tuple)):
                raise ValueError(
                    f"{owner}: `readout_sizes` must be a list of widths or None, got {sizes!r}. Put it in a list."
                )
            for index, width in enumerate(sizes):
                check_positive_int(owner, f"readout_sizes[{index}]", width)
        if self.readout_act is not None and not sizes:
            raise ValueError(
                f"{owner}: `readout_act` stands after the layers of `readout_sizes`, got {self.readout_act!r} and "
                "none of them. Set `readout_sizes`, or leave `readout_act` out."
            )
        if self.tie_word_embeddings and self.output_size != self.input_size:
            raise ValueError(
                f"{owner}: `tie_word_embeddings=True` needs an output as wide as the embeddings, got "
                f"{self.output_size} and {self.input_size}. Set `readout_sizes` or `embedding_size` so that they "
                "agree, or untie."
            )


RecurrentDecoderConfig.register_for_auto_class()

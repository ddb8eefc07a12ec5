"""What the recurrent encoder and the recurrent decoder have in common in their configs."""

from typing import Any, ClassVar

from transformers import PreTrainedConfig

from .configuration_transformer_stack import (
    CONFIG_FORMAT,
    check_choice,
    check_format,
    check_model_type,
    check_names,
    check_positive_int,
    check_positive_number,
    check_probability,
    check_token_id,
)

CELL_TYPES = ("rnn", "gru", "lstm")
"""Elman network with tanh, GRU (Cho et al. 2014), LSTM (Hochreiter and Schmidhuber 1997)."""


class RecurrentStackConfig(PreTrainedConfig):
    r"""
    Shared fields of [`RecurrentEncoderConfig`] and [`RecurrentDecoderConfig`]; not used by itself.

    Args:
        vocab_size (`int`, defaults to 32000): Number of token ids.
        hidden_size (`int`, defaults to 512): Width of the states that are returned.
        embedding_size (`int`, *optional*): Width of the token embeddings; `None` means `hidden_size`.
        num_hidden_layers (`int`, defaults to 2): Number of recurrent layers.
        cell_type (`str`, defaults to `"lstm"`): `"rnn"` (tanh), `"gru"` or `"lstm"`.
        dropout (`float`, defaults to 0.1): Probability, used in training only: on embeddings and on the output of
            every layer.
        max_position_embeddings (`int`, defaults to 512): Length rule of the generation config; the cells themselves
            have no limit.
        initializer_range (`float`, defaults to 0.02): Standard deviation of fresh embeddings and linear layers; the
            cells' weights are uniform in `1 / sqrt(width)`, as in torch.
        pad_token_id, bos_token_id, eos_token_id: Token ids (`eos_token_id` may be a list), or `None`.

    Raises:
        ValueError: A value breaks its rule; the message names argument, rule, value and remedy.
        TypeError: A flag is neither True nor False.
    """

    vocab_size: int = 32000
    hidden_size: int = 512
    embedding_size: int | None = None
    num_hidden_layers: int = 2
    cell_type: str = "lstm"
    dropout: float = 0.1
    max_position_embeddings: int = 512
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    config_format: int = CONFIG_FORMAT

    _known_extra_names: ClassVar[tuple[str, ...]] = (
        "attn_implementation",
        "output_attentions",
        "torch_dtype",
        "num_labels",
        "name_or_path",
    )

    _refused_names: ClassVar[dict[str, str]] = {}

    def __post_init__(self, **kwargs: Any) -> None:
        owner = type(self).__name__
        known = set(type(self).__dataclass_fields__) | set(self.attribute_map) | set(self._known_extra_names)
        check_format(owner, self.config_format)
        check_names(owner, kwargs, known, self._refused_names)
        for name in [name for name in kwargs if name in self.attribute_map]:
            setattr(self, name, kwargs.pop(name))
        check_positive_int(owner, "num_hidden_layers", self.num_hidden_layers)  # transformers reads `layer_types` now
        super().__post_init__(**kwargs)
        self.check()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; raises `ValueError` for the config of another model type."""
        check_model_type(cls, config_dict)
        return super().from_dict(config_dict, **kwargs)

    @property
    def input_size(self) -> int:
        """Width of the token embeddings, resolved."""
        return self.embedding_size if self.embedding_size is not None else self.hidden_size

    @property
    def num_states(self) -> int:
        """States a layer carries from token to token: h, and c in an LSTM."""
        return 2 if self.cell_type == "lstm" else 1

    def check(self) -> None:
        """Check every rule of the fields; called by the constructor and again when a model is built."""
        owner = type(self).__name__
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings"):
            check_positive_int(owner, name, getattr(self, name))
        if self.embedding_size is not None:
            check_positive_int(owner, "embedding_size", self.embedding_size)
        check_choice(owner, "cell_type", self.cell_type, CELL_TYPES)
        check_probability(owner, "dropout", self.dropout)
        check_positive_number(owner, "initializer_range", self.initializer_range)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            check_token_id(owner, name, getattr(self, name), self.vocab_size)

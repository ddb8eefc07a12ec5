"""Config of our recurrent encoder."""

from typing import ClassVar

from .configuration_recurrent_stack import RecurrentStackConfig
from .configuration_transformer_stack import check_flag


class RecurrentEncoderConfig(RecurrentStackConfig):
    r"""
    Configuration of [`RecurrentEncoderModel`]. The fields are those of [`RecurrentStackConfig`] and:

    Args:
        bidirectional (`bool`, defaults to `True`): Two directions, each of width `hidden_size / 2`, side by side
            (Schuster and Paliwal 1997).

    Example:

    ```python
    >>> from hf_custom_decoder import RecurrentEncoderConfig, RecurrentEncoderModel

    >>> config = RecurrentEncoderConfig(vocab_size=1000, hidden_size=64, cell_type="gru")
    >>> model = RecurrentEncoderModel(config)
    ```
    """

    model_type = "custom_recurrent_encoder"
    attribute_map = {
        "d_model": "hidden_size",
        "encoder_layers": "num_hidden_layers",
        "init_std": "initializer_range",
    }

    bidirectional: bool = True

    _refused_names: ClassVar[dict[str, str]] = dict.fromkeys(
        ("attention_type", "input_feeding", "bridge_type", "readout_sizes", "residual", "add_cross_attention"),
        "Give it to RecurrentDecoderConfig.",
    )

    @property
    def num_directions(self) -> int:
        """1 or 2."""
        return 2 if self.bidirectional else 1

    def check(self) -> None:
        """Check every rule of the fields; called by the constructor and again when a model is built."""
        super().check()
        owner = type(self).__name__
        check_flag(owner, "bidirectional", self.bidirectional)
        if self.bidirectional and self.hidden_size % 2:
            raise ValueError(
                f"{owner}: `hidden_size` must be even with `bidirectional=True` (each direction has half of it), got "
                f"{self.hidden_size}. Use an even width, or one direction."
            )


RecurrentEncoderConfig.register_for_auto_class()

"""The whole suite on one decoder, with a report in plain words."""

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedConfig

from ..models.bridge_custom_seq2seq import resolve_bridge_type
from ..models.configuration_recurrent_decoder import RecurrentDecoderConfig
from ..models.configuration_recurrent_encoder import RecurrentEncoderConfig
from ..models.configuration_transformer_encoder import TransformerEncoderConfig
from .decoder_case import DecoderCase
from .decoder_checks import DECODER_CHECKS
from .fresh_process import loads_in_a_fresh_process


class DecoderCheckError(AssertionError):
    """A decoder fails the suite.

    Attributes:
        failures (`dict[str, str]`): What is broken, by the name of the check.
    """

    def __init__(self, title: str, failures: dict[str, str], num_checks: int) -> None:
        self.failures = failures
        lines = [f"- {name}: {message}" for name, message in failures.items()]
        super().__init__(f"{title} fails {len(failures)} of {num_checks} checks.\n" + "\n".join(lines))


def decoder_case(config: PreTrainedConfig) -> DecoderCase:
    """A decoder with a small encoder of ours that suits it."""
    sizes: dict[str, Any] = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2}
    encoder: PreTrainedConfig = TransformerEncoderConfig(**sizes, num_attention_heads=4, intermediate_size=48)
    if config.model_type == RecurrentDecoderConfig.model_type:
        try:
            resolve_bridge_type(encoder, config)  # type: ignore[arg-type]  # by model type
        except ValueError:  # it needs final states
            sizes |= {"hidden_size": config.hidden_size, "num_hidden_layers": config.num_hidden_layers}
            encoder = RecurrentEncoderConfig(**sizes)
    return DecoderCase(encoder, config, {"tie_word_embeddings": False})


def check_decoder(
    config: PreTrainedConfig, *, fresh_process: bool = True, report: Callable[[str], None] | None = None
) -> None:
    """Runs the suite that our own decoders pass on a decoder of any kind.

    Args:
        config (`PreTrainedConfig`): Of one of our decoders, or of one known by `register_decoder`. Small sizes make
            it quick; a vocabulary of at least 8 ids is needed.
        fresh_process (`bool`, *optional*, defaults to `True`): Also save a model and load it in a new process that
            can import neither this package nor the decoder's module (some ten seconds more).
        report (`Callable[[str], None]`, *optional*): Gets a line for each check, `print` for example.

    Raises:
        DecoderCheckError: Something is broken; the message says in plain words what.
        ValueError: The config does not keep the contract of `docs/own_decoder.md`, or the vocabulary is too small.

    Example:

    ```python
    >>> from hf_custom_decoder import TransformerDecoderConfig
    >>> from hf_custom_decoder.testing import check_decoder

    >>> config = TransformerDecoderConfig(vocab_size=50, hidden_size=32, num_attention_heads=4, num_hidden_layers=2)
    >>> check_decoder(config, fresh_process=False)
    ```
    """
    if config.vocab_size < 8:
        raise ValueError(f"`config.vocab_size` must be at least 8 for the checks, got {config.vocab_size}.")
    case = decoder_case(config)
    checks = dict(DECODER_CHECKS)
    if fresh_process:
        checks["fresh process"] = loads_in_a_fresh_process
    case.build()  # a config or class that cannot be built breaks everything: its own error says most
    failures = {}
    for name, check in checks.items():
        try:
            check(case)
        except AssertionError as error:
            failures[name] = str(error)
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {error}"
        if report is not None:
            what = (check.__doc__ or "").partition("\n")[0]
            report(f"{'broken' if name in failures else 'right '}  {name}: {failures.get(name, what)}")
    if failures:
        raise DecoderCheckError(type(config).__name__, failures, len(checks))

"""What a user may choose about the quickstart."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..training.pronunciation_decoders import DECODER_RECIPES

Report = Callable[[str], None]
"""Takes one message for the user."""

DEVICES = ("cpu", "cuda", "mps")
DEFAULT_DECODER = "transformer"
ALL_DECODERS = "all"
DECODER_CHOICES = (*DECODER_RECIPES, ALL_DECODERS)
"""One of them, or all in turn."""


@dataclass(frozen=True)
class QuickstartSettings:
    """Settings of [`run_quickstart`] and [`run_comparison`]; impossible values are refused at construction.

    Attributes:
        decoder (`str`): One of [`DECODER_RECIPES`], or "all" for [`run_comparison`].
        output (`Path`, *optional*): The folder to leave: the model with all that belongs beside it on the Hub. It
            appears when everything in it is finished; until then the run's state is in a folder beside it that ends
            in ".training". With "all" there is one such folder a decoder inside it. `None` means "runs/quickstart",
            for other decoders than the Transformer with "-" and the name of the decoder behind it.
        minutes (`float`): Training time a decoder, summed over interrupted runs. Ignored with `max_steps`.
        max_steps (`int`, *optional*): Optimizer steps to train instead, which makes a run repeatable.
        seed (`int`): For fresh weights and the order of the words.
        num_beams (`int`): Beams of the search; 1 is greedy. Saved as the model's default.
        device (`str`): "cpu", for which the recipe was tuned, or "cuda" or "mps".
        limit (`int`, *optional*): Use so many words of the dictionary only, spread evenly over it; for trying things
            out.
        fresh (`bool`): Start again, whatever an earlier run has left at `output`.
    """

    decoder: str = DEFAULT_DECODER
    output: Path | None = None
    minutes: float = 4.0
    max_steps: int | None = None
    seed: int = 0
    num_beams: int = 4
    device: str = "cpu"
    limit: int | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        if self.decoder not in DECODER_CHOICES:
            raise ValueError(f"`decoder` must be one of {', '.join(DECODER_CHOICES)}, got {self.decoder!r}.")
        if not self.minutes > 0:
            raise ValueError(f"`minutes` must be a positive training time, got {self.minutes}.")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"`max_steps` must be at least 1 optimizer step, got {self.max_steps}.")
        if self.seed < 0:
            raise ValueError(f"`seed` must not be negative, got {self.seed}.")
        if self.num_beams < 1:
            raise ValueError(f"`num_beams` must be at least 1 (greedy search), got {self.num_beams}.")
        if self.limit is not None and self.limit < 100:
            raise ValueError(
                f"`limit` must be at least 100 words, so that some are left for testing, got {self.limit}."
            )
        if self.device not in DEVICES:
            raise ValueError(f"`device` must be one of {', '.join(DEVICES)}, got {self.device!r}.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError('`device` is "cuda", but torch finds no such device here. Use "cpu".')
        if self.device == "mps" and not torch.backends.mps.is_available():
            raise ValueError('`device` is "mps", but torch finds no such device here. Use "cpu".')

    @property
    def folder(self) -> Path:
        """`Path`: The folder to leave, resolved."""
        if self.output is not None:
            return self.output
        return Path("runs/quickstart" if self.decoder == DEFAULT_DECODER else f"runs/quickstart-{self.decoder}")

    def fingerprint(self) -> dict[str, Any]:
        """Returns what must not change between a run and its continuation."""
        return {"decoder": self.decoder, "seed": self.seed, "limit": self.limit, "max_steps": self.max_steps}

    def comparison_fingerprint(self) -> dict[str, Any]:
        """Returns what must be the same for all decoders that stand in one table."""
        return {
            **self.fingerprint(),
            "minutes": self.minutes if self.max_steps is None else None,
            "num_beams": self.num_beams,
            "device": self.device,
        }

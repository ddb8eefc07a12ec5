"""The model under examination, with all that the checks need to know of it."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .examples import Example, TokenIds


@dataclass(frozen=True)
class Limits:
    """Up to which size what is done.

    Attributes:
        exact_parameters (`int`): Models of at most so many parameters are computed in float64, others in float32.
        trained_parameters (`int`): Of larger models no gradient is taken and nothing is trained.
        saved_parameters (`int`): Larger models are not saved and loaded again.
        length (`int`): Longest source and target of given data in tokens.
        overfit_seconds (`float`): After which training on eight examples is given up.
    """

    exact_parameters: int = 50_000_000
    trained_parameters: int = 300_000_000
    saved_parameters: int = 1_000_000_000
    length: int = 64
    overfit_seconds: float = 60.0


@dataclass
class Patient:
    """A model and what is known of it.

    Attributes:
        original (`PreTrainedModel`): As it was loaded, in evaluation mode; checks leave it as it is.
        examples (`list[Example]`): What the checks run on, at least two.
        tokenizers (`tuple`, *optional*): Of the source and of the target; the same twice where there is one.
        folder (`Path`, *optional*): Where it was loaded from, if that is a folder.
        has_fresh_weights (`bool`): Whether the weights are random, from a config alone.
        has_data (`bool`): Whether the examples are text of the user's.
        trust_remote_code (`bool`): Whether code from the folder may run.
        limits ([`Limits`]): Up to which size what is done.
    """

    original: PreTrainedModel
    examples: list[Example]
    ids: TokenIds
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase] | None = None
    folder: Path | None = None
    has_fresh_weights: bool = False
    has_data: bool = False
    trust_remote_code: bool = False
    limits: Limits = Limits()

    @property
    def num_parameters(self) -> int:
        """`int`: Tied ones once."""
        return sum(weight.numel() for weight in self.original.parameters())

    @cached_property
    def dtype(self) -> torch.dtype:
        """`torch.dtype`: Of the checks' arithmetic."""
        return torch.float64 if self.num_parameters <= self.limits.exact_parameters else torch.float32

    @property
    def tolerance(self) -> float:
        """`float`: What counts as equal, as a share of the largest value; many models compute parts in float32."""
        return 1e-5 if self.dtype is torch.float64 else 1e-4

    @cached_property
    def model(self) -> PreTrainedModel:
        """A copy in the arithmetic of the checks and in evaluation mode, which no check may change."""
        return self.copy()

    def copy(self) -> PreTrainedModel:
        """A fresh copy in the arithmetic of the checks and in evaluation mode."""
        copied: Any = copy.deepcopy(self.original)
        made: PreTrainedModel = copied.to(self.dtype).eval()
        return made

    @torch.no_grad()
    def logits(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits `(B, T, V)` without a cache."""
        call: Any = self.model
        found: torch.Tensor = call(**inputs, use_cache=False).logits
        return found

    def differs(self, found: torch.Tensor, expected: torch.Tensor) -> str | None:
        """None where two tensors are equal within rounding, else by how much they differ."""
        if found.shape != expected.shape:
            return f"the shapes {tuple(found.shape)} and {tuple(expected.shape)}"
        distance, scale = float((found - expected).abs().max()), float(expected.abs().max())
        if distance <= self.tolerance * scale:
            return None
        return f"{distance:.2g} of at most {scale:.2g}"


def token_ids(model: PreTrainedModel) -> TokenIds:
    """Reads from a model what the checks need to make batches."""
    encoder: Any = model.get_encoder()
    config: Any = model.config
    generation: Any = model.generation_config
    sizes = [rows_of(encoder.get_input_embeddings()), rows_of(decoder_embedding(model))]
    known = {name: special_id(config, generation, name) for name in ("pad", "bos", "eos", "decoder_start")}
    start = next((known[name] for name in ("decoder_start", "bos", "pad") if known[name] is not None), 0)
    forced = [special_id(config, generation, name) for name in ("forced_bos", "forced_eos")]
    special = {one for one in (*known.values(), *forced, start) if one is not None}
    pad = known["pad"]
    return TokenIds(
        source_size=sizes[0],
        target_size=sizes[1],
        pad=0 if pad is None else pad,
        eos=known["eos"],
        start=0 if start is None else start,
        special=frozenset(special),
    )


def special_id(config: Any, generation: Any, name: str) -> int | None:
    """One token id of a model, from its generation config or its config; the first where there are several."""
    for settings in (generation, config):
        value = getattr(settings, f"{name}_token_id", None)
        if isinstance(value, Iterable):
            value = next(iter(value), None)
        if value is not None:
            return int(value)
    return None


def decoder_embedding(model: PreTrainedModel) -> Any:
    """The module that embeds the decoder's ids."""
    decoder: Any = model.get_decoder()
    return decoder.get_input_embeddings()


def rows_of(embedding: Any) -> int:
    """Number of ids that an embedding knows."""
    return int(embedding.weight.shape[0])

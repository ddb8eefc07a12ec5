"""
Decoding through `generate()`, so that random weights write equally much: the end token is one that no model has. Every
loop looks for it as it would for any other, and no rule that forbids it early costs one contestant more than another.
"""

from contextlib import nullcontext
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from .batches import Batch
from .interleaved import UnequalWorkError
from .sizes import PAD, START

NEVER_WRITTEN = 10**9
"""An end token above every vocabulary."""


class DiscardingStreamer(BaseStreamer):
    """Throws every token away."""

    def put(self, value: torch.Tensor) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


DISCARDING = DiscardingStreamer()
"""One for all, as equal searches have equal settings."""


class Decoding:
    """
    A contestant: one call of `generate()`; its tokens are those it wrote, the start token not counted.

    Args:
        model (`PreTrainedModel`): Set to evaluation mode.
        source (`Batch`): `input_ids` and `attention_mask` of shape `(batch_size, source_length)`.
        new_tokens (`int`): Tokens that every row gets: neither fewer nor more.
        beams (`int`): 1 is greedy search.
        cache_implementation (`str`, *optional*): As `generate()` knows it, e.g. `"static"`; by default dynamic.
        streamed (`bool`): With a streamer that throws every token away.
        inference_mode (`bool`): Called under `torch.inference_mode()`, as a user may.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        source: Batch,
        *,
        new_tokens: int,
        beams: int = 1,
        cache_implementation: str | None = None,
        streamed: bool = False,
        inference_mode: bool = False,
    ) -> None:
        self.model, self.source, self.inference_mode = model.eval(), source, inference_mode
        self.settings: dict[str, Any] = {
            "num_beams": beams,
            "do_sample": False,
            "max_new_tokens": new_tokens,
            "pad_token_id": PAD,
            "eos_token_id": NEVER_WRITTEN,
            "decoder_start_token_id": START,
        }
        if cache_implementation is not None:
            self.settings["cache_implementation"] = cache_implementation
        if streamed:
            self.settings["streamer"] = DISCARDING

    def write(self) -> torch.Tensor:
        """Generated ids `(batch_size, 1 + new_tokens)`, the start token first."""
        with torch.inference_mode() if self.inference_mode else nullcontext():
            ids: torch.Tensor = self.model.generate(**self.source, **self.settings)
        return ids

    def __call__(self) -> int:
        written = self.write()[:, 1:]
        if written.shape[1] != self.settings["max_new_tokens"]:
            raise UnequalWorkError(
                f"Every row must get {self.settings['max_new_tokens']} tokens, got ids of shape "
                f"{tuple(written.shape)}. Take length rules out of the model's generation config."
            )
        return written.numel()


def check_equal_search(one: Decoding, two: Decoding) -> None:
    """
    Two contestants must decode the same sources with the same settings.

    Raises:
        UnequalWorkError: Sources or search settings differ.
    """
    if one.settings != two.settings:
        raise UnequalWorkError(f"Search settings must be equal, got {one.settings} and {two.settings}.")
    if any(not torch.equal(one.source[name], two.source[name]) for name in ("input_ids", "attention_mask")):
        raise UnequalWorkError("Both contestants must decode the same sources, got different ones.")


def equal_output_share(one: Decoding, two: Decoding) -> float:
    """Part of all generated tokens that both write alike, 0 to 1."""
    return float((one.write() == two.write()).float().mean())

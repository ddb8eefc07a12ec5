"""Time of every single generated token, and bytes of the decoding state."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import EncoderDecoderCache

from .decoding_speed import Decoding
from .interleaved import cpu_seconds


class StepClock(LogitsProcessor):
    """Changes no scores; notes the time whenever they are there, once for every token."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.times: list[float] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.times.append(self.clock())
        return scores


def token_seconds(decoding: Decoding, clock: Callable[[], float] = cpu_seconds) -> list[float]:
    """Seconds from each token to the next: one fewer than new tokens, as the first also pays for the encoder."""
    steps = StepClock(clock)
    decoding.model.generate(**decoding.source, **decoding.settings, logits_processor=LogitsProcessorList([steps]))
    return [after - before for before, after in zip(steps.times, steps.times[1:], strict=False)]


def state_bytes(decoding: Decoding) -> int:
    """Bytes of what the decoder remembers of its own tokens at the end, the source left out."""
    output: Any = decoding.model.generate(**decoding.source, **decoding.settings, return_dict_in_generate=True)
    cache = output.past_key_values
    own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    storages: dict[int, int] = {}
    for layer in own.layers:
        for value in vars(layer).values():
            for tensor in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(tensor, torch.Tensor):
                    storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())

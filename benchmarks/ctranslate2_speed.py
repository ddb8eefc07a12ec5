"""Decoding beside CTranslate2 on the CPU, in float32 and with 8-bit weights."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from hf_custom_decoder.evaluation.decoding_precision import set_decoding_precision

from .batches import source_batch
from .decoding_speed import Decoding
from .interleaved import Contestant, race
from .lengths import sentence_lengths
from .measurements import NEW_TOKENS, search_name
from .peers_ctranslate2 import COMPUTE_TYPES, CTranslate2Decoding, build_ctranslate2
from .peers_transformers import build_bart, build_ours
from .results import Figure, speed_figure
from .sizes import Size

EQUAL = (
    "With CTranslate2 weights (BART's, through its own converter), sources, search, number of generated tokens "
    "(neither has an end token) and threads are equal. Not equal: with int8 it rounds the inputs and weights of every "
    "linear layer and the embeddings to 8 bits, ours the weights of the decoder's large matrices and of the "
    "vocabulary projection, their inputs to bfloat16"
)


def measure_ctranslate2(size: Size, *, beams: int, batch_size: int, seed: int, rounds: int) -> list[Figure]:
    """Generated tokens a second, ours beside CTranslate2 in the same precision, all four in one race."""
    lengths = [32] if batch_size == 1 else sentence_lengths(batch_size, seed)
    source = source_batch(lengths, size.vocab, seed)
    bart = build_bart(size, seed)
    own: dict[str, Decoding] = {}
    other: dict[str, CTranslate2Decoding] = {}
    for precision, compute_type in COMPUTE_TYPES.items():
        model = set_decoding_precision(build_ours(bart).train(False), precision)
        own[precision] = Decoding(model, source, new_tokens=NEW_TOKENS, beams=beams)
        translator = build_ctranslate2(bart, compute_type)
        other[precision] = CTranslate2Decoding(translator, source, size.vocab, new_tokens=NEW_TOKENS, beams=beams)
    contestants: dict[str, Contestant] = {f"ours, {name}": run for name, run in own.items()}
    contestants |= {f"CTranslate2, {name}": run for name, run in other.items()}
    result = race(contestants, rounds=rounds)
    sources = "32 source tokens" if batch_size == 1 else "realistic source lengths"
    figures = []
    for precision in COMPUTE_TYPES:
        alike = float((own[precision].write() == other[precision].write()).float().mean())
        figures.append(
            speed_figure(
                f"{size.name}: {search_name(beams)}, batch {batch_size}, {sources}, {precision}",
                result,
                f"ours, {precision}",
                f"CTranslate2, {precision}",
                note=f"{NEW_TOKENS} new tokens, {alike:.0%} of them alike",
            )
        )
    return figures


def ctranslate2_measurements(size: Size, **shared: Any) -> Iterator[tuple[str, Callable[[], list[Figure]]]]:
    """Names and what measures: greedy and 4 beams, batch 1 and 32."""
    for beams in (1, 4):
        for batch_size in (1, 32):
            yield (
                f"{size.name}: decoding, CTranslate2, {beams} beams, batch {batch_size}",
                partial(measure_ctranslate2, size, beams=beams, batch_size=batch_size, **shared),
            )

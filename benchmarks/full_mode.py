"""The full mode: sizes tiny and base, more lengths and beams, and other models than BART. It takes hours on a CPU."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from .batches import source_batch, training_batches
from .ctranslate2_speed import ctranslate2_measurements
from .decoding_speed import Decoding
from .interleaved import Contestant, race
from .measurements import NEW_TOKENS, measure_decoding, measure_training
from .peers_ctranslate2 import has_ctranslate2
from .peers_torch import (
    TorchGreedy,
    XGreedy,
    build_torch,
    build_x_transformers,
    has_x_transformers,
    x_transformers_loss,
)
from .peers_transformers import (
    build_bart,
    build_encoder_decoder,
    build_marian,
    build_ours,
    build_t5,
    build_t5gemma,
    count_parameters,
)
from .results import Figure, speed_figure
from .sizes import BASE, TINY, Size
from .start_up import measure_start_up
from .training_speed import TrainingPass

OTHERS: dict[str, Callable[[Size, int], Any]] = {
    "Marian": build_marian,
    "T5 v1.1": build_t5,
    "T5Gemma": build_t5gemma,
    "EncoderDecoderModel (BERT, BERT)": build_encoder_decoder,
}
"""Models of transformers besides BART."""

NOT_EQUAL = (
    "With models other than BART only data, width, depth, heads, dropout 0.1 and the number of tokens are equal; the "
    "notes give their weights. x-transformers has no dropout on embeddings; T5Gemma has eager attention, as "
    "transformers knows no other for it"
)

NOT_MEASURED = [
    "Beams of `nn.Transformer` and x-transformers: neither has beam search.",
]


def missing_peers() -> list[str]:
    """A line for everyone who could not be measured because it is not installed."""
    installed = {"x-transformers": has_x_transformers(), "CTranslate2": has_ctranslate2()}
    return [f"{name}: it was not installed." for name, is_there in installed.items() if not is_there]


def weights_note(model: torch.nn.Module, ours: torch.nn.Module) -> str:
    """The number of weights on both sides."""
    return f"{count_parameters(model) / 1e6:.1f} M weights, ours {count_parameters(ours) / 1e6:.1f} M"


def measure_others_training(size: Size, *, seed: int, rounds: int, count: int) -> list[Figure]:
    """Training on random batches, ours (BART's shape) beside everyone else, all in one race."""
    batches = training_batches(grouped=False, vocab_size=size.vocab, seed=seed, count=count)
    models: dict[str, Any] = {name: build(size, seed) for name, build in OTHERS.items()}
    models["nn.Transformer"] = build_torch(size, seed)
    losses: dict[str, Any] = {"nn.Transformer": models["nn.Transformer"].loss}
    if has_x_transformers():
        models["x-transformers"] = build_x_transformers(size, seed)
        losses["x-transformers"] = partial(x_transformers_loss, models["x-transformers"])
    ours = build_ours(build_bart(size, seed))
    runs: dict[str, Contestant] = {
        name: TrainingPass(model, batches, loss=losses.get(name)) for name, model in models.items()
    }
    result = race({**runs, "ours": TrainingPass(ours, batches)}, rounds=rounds)
    name = f"{size.name}: training, random batches of 32"
    return [
        speed_figure(name, result, "ours", other, note=weights_note(model, ours)) for other, model in models.items()
    ]


def measure_loops(size: Size, *, batch_size: int, seed: int, rounds: int) -> list[Figure]:
    """Greedy decoding beside those that have a loop of their own."""
    source = source_batch([32] * batch_size, size.vocab, seed)
    ours, torch_model = build_ours(build_bart(size, seed)), build_torch(size, seed)
    models: dict[str, Any] = {"nn.Transformer": torch_model}
    runs: dict[str, Contestant] = {"nn.Transformer": TorchGreedy(torch_model, source, new_tokens=NEW_TOKENS)}
    if has_x_transformers():
        models["x-transformers"] = build_x_transformers(size, seed)
        runs["x-transformers"] = XGreedy(models["x-transformers"], source, new_tokens=NEW_TOKENS)
    result = race({**runs, "ours": Decoding(ours, source, new_tokens=NEW_TOKENS)}, rounds=rounds)
    name = f"{size.name}: greedy, batch {batch_size}, 32 source tokens"
    return [
        speed_figure(name, result, "ours", other, note=f"{NEW_TOKENS} new tokens, {weights_note(model, ours)}")
        for other, model in models.items()
    ]


def measure_other_decoding(size: Size, other: str, *, beams: int, seed: int, rounds: int) -> list[Figure]:
    """Batch 1 through `generate()` beside a model of transformers other than BART."""
    return measure_decoding(
        size,
        beams=beams,
        batch_size=1,
        source_length=32,
        seed=seed,
        rounds=rounds,
        other=OTHERS[other](size, seed),
        other_name=other,
    )


def measure_autocast(size: Size, *, seed: int, rounds: int, count: int) -> list[Figure]:
    """What bf16 autocast adds to our training steps on random batches."""
    batches = training_batches(grouped=False, vocab_size=size.vocab, seed=seed, count=count)
    bart = build_bart(size, seed)
    contestants = {
        "ours in float32": TrainingPass(build_ours(bart), batches),
        "ours in bf16 autocast": TrainingPass(build_ours(bart), batches, autocast=torch.bfloat16),
    }
    result = race(contestants, rounds=rounds)
    name = f"{size.name}: training in bf16 autocast, random batches of 32"
    return [speed_figure(name, result, "ours in bf16 autocast", "ours in float32", target=1.2)]


def full_measurements(
    seed: int, rounds: int, tiny: Size = TINY, base: Size = BASE
) -> Iterator[tuple[str, Callable[[], list[Figure]]]]:
    """Everything that the full mode measures, by name and in order; other shapes under the two names for a trial."""
    shared: dict[str, Any] = {"seed": seed, "rounds": rounds}
    yield "start-up", partial(measure_start_up, rounds)
    for size, random_target, count in ((tiny, 2.5, 3), (base, 1.6, 1)):
        for grouped, target in ((False, random_target), (True, 1.1)):
            yield (
                f"{size.name}: training, grouped {grouped}",
                partial(measure_training, size, grouped=grouped, target=target, count=count, **shared),
            )
        yield f"{size.name}: training, others", partial(measure_others_training, size, count=count, **shared)
        yield f"{size.name}: decoding, loops", partial(measure_loops, size, batch_size=1, **shared)
        for other in OTHERS:
            for beams in (1, 4):
                yield (
                    f"{size.name}: decoding, {other}, {beams} beams",
                    partial(measure_other_decoding, size, other, beams=beams, **shared),
                )
        if has_ctranslate2():
            yield from ctranslate2_measurements(size, **shared)
        for settings in decoding_settings(is_base=size is base):
            yield (
                f"{size.name}: decoding, {', '.join(f'{name} {value}' for name, value in settings.items())}",
                partial(measure_decoding, size, **settings, **shared),
            )
    yield "base: bf16 autocast", partial(measure_autocast, base, count=1, **shared)
    yield (
        "tiny: training, a shorter tail",
        partial(measure_training, tiny, grouped=False, target=None, sigma=0.5, **shared),
    )


def decoding_settings(*, is_base: bool) -> Iterator[dict[str, Any]]:
    """Beams, batch, source length and output length of each decoding beside BART, with targets where there are any."""
    yield {"beams": 1, "batch_size": 1, "source_length": 32, "target": 1.35 if is_base else 1.7}
    yield {"beams": 4, "batch_size": 1, "source_length": 32, "target": 2.0 if is_base else 2.5}
    yield {"beams": 1, "batch_size": 32, "source_length": None, "target": None if is_base else 1.4}
    for source_length, target in ((32, None), (256, 2.0), (1024, 3.0)):
        yield {
            "beams": 4,
            "batch_size": 8,
            "source_length": source_length,
            "target": None if is_base else target,
        }
    for source_length in (32, 256, 1024):  # latency of the first token
        yield {"beams": 1, "batch_size": 1, "source_length": source_length, "new_tokens": 1}
    yield {"beams": 1, "batch_size": 1, "source_length": 32, "streamed": True}  # transformers' own loop
    if is_base:
        return
    for new_tokens in (16, 256):  # growth with the output
        yield {"beams": 1, "batch_size": 1, "source_length": 32, "new_tokens": new_tokens}
    for beams in (2, 8):  # growth with the beams
        yield {"beams": beams, "batch_size": 1, "source_length": 256}

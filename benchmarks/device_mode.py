"""
`--device`: training and decoding on a card, beside BART with SDPA and with torch.compile.

`--device cpu` runs the same code with very small models, so that it can be tried where there is no card.
"""

import copy
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from .batches import padding_share, source_batch, to_device, training_batches
from .card_peaks import COUNTED, bf16_peak, training_flops
from .decoding_speed import Decoding
from .device_results import DeviceFigure, device_figures
from .interleaved import Contestant, race
from .lengths import sentence_lengths
from .measurements import search_name
from .peers_transformers import build_bart, build_ours, build_ours_with
from .sizes import BASE, LARGE, TRIAL_TINY, Size
from .training_speed import TrainingPass, check_equal_loss

EQUAL = (
    "weights (ours are converted from BART's; losses in float32 without dropout checked to 1e-4), data, SDPA, dropout "
    "0.1, AdamW, batch size; training in float32 weights under bf16 autocast, decoding in bf16 weights with the same "
    "number of generated tokens (no end token) and the same cache; with other decoders (ssru, mingru, lstm) only "
    "width, depth, encoder, data and generated tokens"
)

LONG_TARGET_DECODERS = ("transformer", "ssru", "mingru", "lstm")

COMPILED = (
    "torch.compile: BART's whole forward and backward pass in training, ours as it is; with static caches "
    "`generate()` compiles the step of a greedy search on a card for both, in a beam search the forward of both is "
    "compiled here"
)


@dataclass(frozen=True)
class DevicePlan:
    """
    What is measured on a device.

    Args:
        device (`str`): `"cuda"` or `"cpu"`.
        training_sizes, decoding_sizes (`tuple[Size, ...]`): Models.
        sentences (`int`): Sentence pairs of a training batch.
        batch_sizes (`tuple[int, ...]`): For decoding.
        new_tokens (`int`): Generated tokens of each row.
        long_targets (`int`): The same where decoders of constant state are compared.
        long_batch_sizes (`tuple[int, ...]`): For those.
        backend (`str`): Of torch.compile.
    """

    device: str
    training_sizes: tuple[Size, ...]
    decoding_sizes: tuple[Size, ...]
    sentences: int
    batch_sizes: tuple[int, ...]
    new_tokens: int
    long_targets: int
    long_batch_sizes: tuple[int, ...]
    backend: str


PLANS = {
    "cuda": DevicePlan("cuda", (BASE, LARGE), (BASE,), 128, (1, 4, 16, 64, 256), 64, 1024, (1, 64), "inductor"),
    "cpu": DevicePlan("cpu", (TRIAL_TINY,), (TRIAL_TINY,), 4, (1, 2), 4, 8, (2,), "eager"),
}


def check_device(device: str) -> None:
    """
    Raises:
        ValueError: There is no such device here.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"`--device cuda` needs a card that torch can use, torch {torch.__version__} finds none. Run it on a "
            "machine with a card and a torch built for it, or try the code with `--device cpu`."
        )


def device_name(device: str) -> str:
    """The card's name, or "cpu"."""
    return torch.cuda.get_device_name() if device == "cuda" else device


def wall_clock(device: str) -> Callable[[], float]:
    """A clock that waits until the device has done all it was given; seconds of wall time."""

    def clock() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    return clock


def peak_mib(run: Contestant, model: torch.nn.Module, device: str) -> float | None:
    """
    The greatest memory that a first run takes on the card, in MiB: the weights and all that comes up on the way, of
    others nothing. None on a CPU.
    """
    if device != "cuda":
        run()
        return None
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    return (torch.cuda.max_memory_allocated() - before + weights) / 2**20


def measure_device_training(
    plan: DevicePlan, size: Size, *, grouped: bool, seed: int, rounds: int
) -> list[DeviceFigure]:
    """Real tokens a second of training steps under bf16 autocast, share of the peak, and memory."""
    batches = to_device(
        training_batches(grouped=grouped, vocab_size=size.vocab, seed=seed, batch_size=plan.sentences), plan.device
    )
    bart: Any = build_bart(size, seed).to(plan.device)  # type: ignore[arg-type]
    ours = build_ours(bart).to(plan.device)  # type: ignore[arg-type]
    check_equal_loss(bart, ours, batches[0])
    whole = copy.deepcopy(bart)
    compiled: Any = torch.compile(whole, dynamic=True, backend=plan.backend)
    train = partial(TrainingPass, batches=batches, autocast=torch.bfloat16)
    runs = {
        "BART, SDPA": train(bart),
        "BART, SDPA, torch.compile": train(whole, loss=lambda batch: compiled(**batch).loss),
        "ours": train(ours),
    }
    memory = {name: peak_mib(run, run.model, plan.device) for name, run in runs.items()}
    kind = "length-grouped" if grouped else "random"
    return device_figures(
        f"{size.name}: training, {kind} batches of {plan.sentences} ({padding_share(batches):.0%} padding)",
        race(runs, rounds=rounds, clock=wall_clock(plan.device)),
        {name: "ours" for name in runs if name != "ours"},
        memory=memory,
        flops=training_flops(size, batches),
        peak=bf16_peak(device_name(plan.device)),
    )


def with_static_cache(model: PreTrainedModel, plan: DevicePlan, *, beams: int) -> PreTrainedModel:
    """A copy for decoding with a static cache; `generate()` compiles greedy steps on a card itself, but no beam's."""
    model = copy.deepcopy(model)
    if beams > 1:
        model.forward = torch.compile(model.forward, backend=plan.backend)
    return model


def measure_device_decoding(
    plan: DevicePlan, size: Size, *, beams: int, batch_size: int, seed: int, rounds: int
) -> list[DeviceFigure]:
    """Generated tokens a second in bf16 with dynamic and static caches, and memory."""
    lengths = [32] if batch_size == 1 else sentence_lengths(batch_size, seed)
    source = to_device([source_batch(lengths, size.vocab, seed)], plan.device)[0]
    bart: Any = build_bart(size, seed)
    models: dict[str, Any] = {"BART, SDPA": bart, "ours": build_ours(bart)}
    decode = partial(Decoding, source=source, new_tokens=plan.new_tokens, beams=beams)
    runs: dict[str, Decoding] = {}
    for name, model in models.items():
        model = model.to(plan.device, torch.bfloat16)
        runs[f"{name}, dynamic cache"] = decode(model)
        runs[f"{name}, static cache, torch.compile"] = decode(
            with_static_cache(model, plan, beams=beams), cache_implementation="static"
        )
    memory = {name: peak_mib(run, run.model, plan.device) for name, run in runs.items()}
    return device_figures(
        f"{size.name}: {search_name(beams)}, batch {batch_size}, {plan.new_tokens} new tokens",
        race(runs, rounds=rounds, clock=wall_clock(plan.device)),
        {name: name.replace("BART, SDPA", "ours") for name in runs if not name.startswith("ours")},
        memory=memory,
    )


def afresh(measure: Callable[[], list[DeviceFigure]]) -> list[DeviceFigure]:
    """Measure, and forget what was compiled: torch stops compiling a function after a few shapes."""
    try:
        return measure()
    finally:
        torch._dynamo.reset()


def measure_long_targets(
    plan: DevicePlan, size: Size, decoder: str, *, batch_size: int, seed: int, rounds: int
) -> list[DeviceFigure]:
    """Greedy decoding of many tokens in bf16, one of our decoders beside BART, with dynamic caches."""
    source = to_device([source_batch([32] * batch_size, size.vocab, seed)], plan.device)[0]
    models: dict[str, Any] = {"BART, SDPA": build_bart(size, seed), "ours": build_ours_with(size, decoder, seed)}
    runs: dict[str, Decoding] = {
        name: Decoding(model.to(plan.device, torch.bfloat16), source, new_tokens=plan.long_targets)
        for name, model in models.items()
    }
    memory = {name: peak_mib(run, run.model, plan.device) for name, run in runs.items()}
    return device_figures(
        f"{size.name}: greedy, batch {batch_size}, {plan.long_targets:,} new tokens, decoder {decoder}",
        race(runs, rounds=rounds, clock=wall_clock(plan.device)),
        {"BART, SDPA": "ours"},
        memory=memory,
    )


def device_measurements(
    plan: DevicePlan, seed: int, rounds: int
) -> Iterator[tuple[str, Callable[[], list[DeviceFigure]]]]:
    """Everything that is measured on a device, by name and in order."""
    shared: dict[str, Any] = {"seed": seed, "rounds": rounds}
    for size in plan.training_sizes:
        for grouped in (False, True):
            measure = partial(measure_device_training, plan, size, grouped=grouped, **shared)
            yield f"{size.name}: training, grouped {grouped}", partial(afresh, measure)
    for size in plan.decoding_sizes:
        for beams in (1, 4):
            for batch_size in plan.batch_sizes:
                measure = partial(measure_device_decoding, plan, size, beams=beams, batch_size=batch_size, **shared)
                yield f"{size.name}: decoding, {beams} beams, batch {batch_size}", partial(afresh, measure)
        for decoder in LONG_TARGET_DECODERS:
            for batch_size in plan.long_batch_sizes:
                measure = partial(measure_long_targets, plan, size, decoder, batch_size=batch_size, **shared)
                yield f"{size.name}: long targets, {decoder}, batch {batch_size}", measure


def device_facts(plan: DevicePlan) -> str:
    """What stands above the table beside the circumstances."""
    name = device_name(plan.device)
    peak = bf16_peak(name)
    known = "not in the table of peaks, no shares" if peak is None else f"bf16 peak {peak / 1e12:,.0f} TFLOP/s, dense"
    sizes = dict.fromkeys((*plan.training_sizes, *plan.decoding_sizes))
    lines = [
        f"Device: {name} ({known}); wall time between synchronisations, one process",
        f"Share of the peak: {COUNTED}",
        "Peak memory: `torch.cuda.max_memory_allocated` of a first run, with weights, without those of others",
        COMPILED,
        *(f"Size {size.describe()}" for size in sizes),
    ]
    return "".join(f"- {line}\n" for line in lines)

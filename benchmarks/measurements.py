"""What every mode measures: training steps, activation memory, and decoding, ours beside another."""

from typing import Any

import torch
from transformers import PreTrainedModel

from .batches import Batch, padding_share, source_batch, training_batches
from .decoding_speed import Decoding, check_equal_search, equal_output_share
from .interleaved import race
from .lengths import SIGMA, sentence_lengths
from .memory import saved_bytes
from .peers_transformers import build_bart, build_ours
from .results import Figure, speed_figure
from .sizes import Size
from .training_speed import TrainingPass, check_equal_loss

BATCH_SIZE = 32
NEW_TOKENS = 64

IN_INFERENCE_MODE = "BART under torch.inference_mode()"

EQUAL = (
    "weights (ours are converted from BART's; losses without dropout checked to 1e-4), data, float32, SDPA attention, "
    "dropout 0.1, AdamW, batch size, number of generated tokens (the end token is one that no model has), beams"
)

MEMORY_TARGETS = {"tiny": 0.70}
"""Share of BART's activation memory that ours may take, by size."""


def measure_training(
    size: Size,
    *,
    grouped: bool,
    seed: int,
    rounds: int,
    target: float | None,
    count: int = 3,
    sigma: float = SIGMA,
) -> list[Figure]:
    """
    Real tokens a second of training steps, ours without and with logits, and activation memory.

    Args:
        count (`int`): Batches of one run.
        sigma (`float`): Deviation of the logarithm of the sentence lengths.
    """
    kind = "length-grouped" if grouped else "random"
    batches = training_batches(grouped=grouped, vocab_size=size.vocab, seed=seed, count=count, sigma=sigma)
    note = f"{padding_share(batches):.0%} of the positions are padding"
    bart = build_bart(size, seed)
    ours, with_logits = build_ours(bart), build_ours(bart)
    with_logits.config.return_logits_in_training = True
    check_equal_loss(bart, ours, batches[0])
    contestants = {"BART": bart, "ours": ours, "ours with logits": with_logits}
    result = race({name: TrainingPass(model, batches) for name, model in contestants.items()}, rounds=rounds)
    what = f"{kind} batches of {BATCH_SIZE}" + ("" if sigma == SIGMA else f", lengths of deviation {sigma}")
    name = f"{size.name}: training, {what}"
    return [
        speed_figure(name, result, "ours", "BART", target=target, note=note),
        speed_figure(f"{name}, return_logits_in_training=True", result, "ours with logits", "BART", note=note),
        memory_figure(f"{size.name}: activation memory, {what}", bart, ours, batches, MEMORY_TARGETS.get(size.name)),
    ]


def memory_figure(
    name: str, bart: torch.nn.Module, ours: torch.nn.Module, batches: list[Batch], target: float | None
) -> Figure:
    """Bytes kept for the backward pass, summed over the batches, ours divided by BART's."""

    def total(model: torch.nn.Module) -> float:
        return sum(saved_bytes(model.train(), batch) for batch in batches) / 2**20

    own, other = total(ours), total(bart)
    ratio = own / other
    return Figure(name, ratio, ratio, ratio, own, other, unit="MiB", target=target, at_most=True)


def search_name(beams: int) -> str:
    """How the tables call a search."""
    return "greedy" if beams == 1 else f"{beams} beams"


def measure_decoding(
    size: Size,
    *,
    beams: int,
    batch_size: int,
    source_length: int | None,
    seed: int,
    rounds: int,
    target: float | None = None,
    new_tokens: int = NEW_TOKENS,
    streamed: bool = False,
    other: PreTrainedModel | None = None,
    other_name: str = "BART",
) -> list[Figure]:
    """
    Generated tokens a second. For one source beside BART also those of a BART called under `torch.inference_mode()`,
    in which our decoding steps run anyway.

    Args:
        source_length (`int`, *optional*): Tokens of every source; None draws realistic lengths.
        streamed (`bool`): With a streamer.
        other (`PreTrainedModel`, *optional*): Whom ours is compared with; by default the BART it is made from.
    """
    lengths = sentence_lengths(batch_size, seed) if source_length is None else [source_length] * batch_size
    source = source_batch(lengths, size.vocab, seed)
    bart = build_bart(size, seed)
    contestants: dict[str, PreTrainedModel] = {other_name: other if other is not None else bart}
    contestants["ours"] = build_ours(bart)
    settings: dict[str, Any] = {"new_tokens": new_tokens, "beams": beams, "streamed": streamed}
    runs = {name: Decoding(model, source, **settings) for name, model in contestants.items()}
    check_equal_search(runs[other_name], runs["ours"])
    if other is None and batch_size == 1 and not streamed:
        runs[IN_INFERENCE_MODE] = Decoding(bart, source, inference_mode=True, **settings)
    note = f"{new_tokens} new tokens"
    if other is None:
        note += f", {equal_output_share(runs['BART'], runs['ours']):.0%} of them alike"
    result = race(runs, rounds=rounds)
    sources = "realistic source lengths" if source_length is None else f"{source_length:,} source tokens"
    name = f"{size.name}: {search_name(beams)}, batch {batch_size}, {sources}" + (", streamed" if streamed else "")
    figures = [speed_figure(name, result, "ours", other_name, target=target, note=note)]
    if IN_INFERENCE_MODE in runs:
        figures.append(speed_figure(name, result, "ours", IN_INFERENCE_MODE, note=note))
    return figures

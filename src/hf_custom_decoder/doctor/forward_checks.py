"""Checks of what the model computes: source, padding, cache and beams."""

from typing import Any

import torch
from transformers.cache_utils import EncoderDecoderCache

from ..training.source_gain import LEAST_GAIN
from .config_checks import Found
from .examples import Example, label_batch, source_batch, target_batch
from .findings import Verdict
from .patient import Patient

NUM_BEAMS = 4
SCORE_TOLERANCE = 1e-4
"""For scores of `generate()`, which transformers keeps in float32, in nats."""


def check_source(patient: Patient) -> Found:
    """Other sources give other logits; on text of the user's, labels are likelier with their own source."""
    examples, ids = patient.examples, patient.ids
    swapped = _swapped(examples)
    right = patient.logits(**source_batch(examples, ids), **target_batch(examples, ids))
    other = patient.logits(**source_batch(swapped, ids), **target_batch(swapped, ids))
    if not bool(torch.isfinite(right).all()):
        return Verdict.WRONG, "The logits are not finite numbers: the weights are broken, or overflow."
    rows = [
        _relative(right[row, : len(example.target)], other[row, : len(example.target)])
        for row, example in enumerate(examples)
    ]
    if min(rows) <= patient.tolerance:
        return (
            Verdict.WRONG,
            f"With another's source the logits of {sum(row <= patient.tolerance for row in rows)} of {len(rows)} "
            "examples stay as they are: the decoder does not read the encoder's states.",
        )
    text = f"With another's source logits move by {100 * sum(rows) / len(rows):.2g} % of their spread"
    if not patient.has_data or patient.has_fresh_weights:
        return Verdict.RIGHT, f"{text}."
    losses = [float(_token_losses(logits, examples).mean()) for logits in (right, other)]
    text = f"{text}; the labels cost {losses[0]:.2f} nats a token, with another's source {losses[1]:.2f}"
    if losses[1] - losses[0] >= LEAST_GAIN:
        return Verdict.RIGHT, f"{text}."
    return Verdict.NOTE, f"{text}: it has not learnt yet to use the source."


def check_right_padding(patient: Patient) -> Found:
    """Logits and loss of a batch padded on the right are those of its examples alone."""
    examples, ids = patient.examples, patient.ids
    alone = [patient.logits(**source_batch([one], ids), **target_batch([one], ids)) for one in examples]
    batched = patient.logits(**source_batch(examples, ids), **target_batch(examples, ids))
    problems = _unequal_rows(patient, batched, alone, is_left=False)
    if problems:
        return Verdict.WRONG, f"Padding at the end changes the logits {problems}: a mask is not applied."
    model: Any = patient.model
    with torch.no_grad():
        loss = model(**source_batch(examples, ids), **label_batch(examples)).loss
        losses = [model(**source_batch([one], ids), **label_batch([one])).loss for one in examples]
    lengths = [len(one.target) for one in examples]
    expected = sum(length * one for length, one in zip(lengths, losses, strict=True)) / sum(lengths)
    difference = patient.differs(loss, expected)
    if difference:
        return (
            Verdict.WRONG,
            f"The loss of a padded batch is {float(loss):.4f}, that of its tokens one by one {float(expected):.4f}: "
            "padded label positions (-100) must not count.",
        )
    return Verdict.RIGHT, f"Logits and loss of {len(examples)} examples are the same alone and padded at the end."


def check_left_padding(patient: Patient) -> Found:
    """Logits of a batch padded on the left, of sources or of target prefixes, are those of its examples alone."""
    examples, ids = patient.examples, patient.ids
    alone = [patient.logits(**source_batch([one], ids), **target_batch([one], ids)) for one in examples]
    sources = patient.logits(**source_batch(examples, ids, is_left=True), **target_batch(examples, ids))
    targets = patient.logits(**source_batch(examples, ids), **target_batch(examples, ids, is_left=True))
    wrong = {
        "sources": _unequal_rows(patient, sources, alone, is_left=False),
        "target prefixes (which `generate` pads so)": _unequal_rows(patient, targets, alone, is_left=True),
    }
    problems = [f"before {side} changes the logits {found}" for side, found in wrong.items() if found]
    if problems:
        return (
            Verdict.WRONG,
            f"Padding {' and '.join(problems)}: positions count it. Pad on the right, one prefix length a batch.",
        )
    return Verdict.RIGHT, f"Logits of {len(examples)} examples are the same alone and with padding before them."


def check_cache(patient: Patient) -> Found:
    """Token by token with a cache gives what one pass gives; so does greedy search."""
    examples, ids = patient.examples[:3], patient.ids
    source = source_batch(examples, ids)
    longest = max(examples, key=lambda one: len(one.target))
    prefix = target_batch([longest] * len(examples), ids)["decoder_input_ids"]
    model: Any = patient.model
    with torch.no_grad():
        whole = model(**source, decoder_input_ids=prefix, use_cache=False).logits
        encoded = model.get_encoder()(**source, return_dict=True)
        cache, parts = None, []
        for step in range(prefix.shape[1]):
            output = model(
                encoder_outputs=encoded,
                attention_mask=source["attention_mask"],
                decoder_input_ids=prefix[:, step : step + 1],
                past_key_values=cache,
                use_cache=True,
            )
            cache = output.past_key_values
            if cache is None:
                return Verdict.NOT_APPLICABLE, "The model returns no cache; decoding computes every prefix again."
            parts.append(output.logits)
        difference = patient.differs(torch.cat(parts, dim=1), whole)
        if difference:
            return Verdict.WRONG, f"Token by token with the cache the logits differ by {difference}: state is lost."
        options = {"max_new_tokens": 8, "max_length": None, "do_sample": False, "num_beams": 1}
        cached = model.generate(**source, **options)
        recomputed = model.generate(**source, **options, use_cache=False)
    if not torch.equal(cached, recomputed):
        return Verdict.WRONG, "Greedy search with the cache gives other tokens than without: `generate` misuses it."
    return Verdict.RIGHT, f"{prefix.shape[1]} tokens one by one give the logits of one pass; so does greedy search."


def check_beams(patient: Patient) -> Found:
    """Beams of a batch are those of each source alone, and a source is kept once, not once a beam."""
    examples = _of_equal_length(patient.examples[:3])  # padding has a check of its own
    alone = [_search(patient, [one], NUM_BEAMS)[0] for one in examples]
    together, states_rows, keys_rows = _search_watched(patient, examples)
    difference = float((together - torch.cat(alone)).abs().max())
    if not difference <= SCORE_TOLERANCE:
        return (
            Verdict.WRONG,
            f"The best beams of {len(examples)} sources score otherwise together than alone (by {difference:.2g} "
            "nats a token): sources or caches are mixed up.",
        )
    kept = {"encoder states": states_rows, "cross-attention keys": keys_rows}
    repeated = [f"{name} {rows:.0f} times" for name, rows in kept.items() if rows is not None and rows > 1]
    if repeated:
        return (
            Verdict.NOTE,
            f"Right, but repeated: with {NUM_BEAMS} beams a source's {' and '.join(repeated)}, which costs memory "
            "and time.",
        )
    return Verdict.RIGHT, f"With {NUM_BEAMS} beams a source is kept once, and its beams are those it has alone."


@torch.no_grad()
def _search(patient: Patient, examples: list[Example], num_beams: int) -> tuple[torch.Tensor, Any]:
    """Scores of the best beams, `(B,)`, and the whole output."""
    model: Any = patient.model
    output = model.generate(
        **source_batch(examples, patient.ids),
        num_beams=num_beams,
        max_new_tokens=5,
        max_length=None,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
    )
    return output.sequences_scores, output


def _search_watched(patient: Patient, examples: list[Example]) -> tuple[torch.Tensor, float | None, float | None]:
    """Scores, and the rows a source of encoder states and of cross-attention keys; None where there are none."""
    seen: list[int] = []

    def watch(module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        encoded = named.get("encoder_outputs")
        if encoded is not None:
            seen.append(encoded[0].shape[0])

    handle = patient.model.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        scores, output = _search(patient, examples, NUM_BEAMS)
    finally:
        handle.remove()
    count = len(examples)
    cache, keys = output.past_key_values, None
    if isinstance(cache, EncoderDecoderCache):
        layers: Any = cache.cross_attention_cache.layers
        rows = [layer.keys.shape[0] for layer in layers if layer.keys is not None]
        keys = max(rows) / count if rows else None
    return scores, max(seen) / count if seen else None, keys


def _of_equal_length(examples: list[Example]) -> list[Example]:
    """The same with sources cut to the shortest."""
    length = min(len(example.source) for example in examples)
    return [Example((*example.source[: length - 1], example.source[-1]), example.target) for example in examples]


def _swapped(examples: list[Example]) -> list[Example]:
    """Every target with the source of the next example that has another."""
    return [
        Example(
            next(
                (
                    other.source
                    for other in (*examples[row + 1 :], *examples[: row + 1])
                    if other.source != example.source
                ),
                example.source,
            ),
            example.target,
        )
        for row, example in enumerate(examples)
    ]


def _relative(found: torch.Tensor, other: torch.Tensor) -> float:
    """Mean distance of logits, as a share of their spread."""
    return float((found - other).abs().mean() / found.std().clamp_min(1e-30))


def _token_losses(logits: torch.Tensor, examples: list[Example]) -> torch.Tensor:
    """Nats of every label token of a batch padded on the right."""
    labels = label_batch(examples)["labels"]
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return losses[labels.flatten() >= 0]


def _unequal_rows(patient: Patient, batched: torch.Tensor, alone: list[torch.Tensor], *, is_left: bool) -> str | None:
    """How many rows of a padded batch differ from the examples alone, and by how much; None where all are equal."""
    wrong = []
    for row, one in enumerate(alone):
        length = one.shape[1]
        part = batched[row : row + 1, -length:] if is_left else batched[row : row + 1, :length]
        difference = patient.differs(part, one)
        if difference:
            wrong.append(difference)
    return f"of {len(wrong)} of {len(alone)} examples, by {wrong[0]}" if wrong else None

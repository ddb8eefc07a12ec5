"""What every decoder must do, one function each.

A check returns nothing, or raises an `AssertionError` whose message says what is broken and where to look. All run in
float64, so that "equal" means within 1e-10.
"""

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM
from transformers.cache_utils import Cache

from ..models.configuration_custom_seq2seq import output_width
from ..models.modeling_custom_seq2seq import CustomSeq2SeqForConditionalGeneration
from .decoder_case import NUM_SPECIAL_IDS, DecoderCase

TOLERANCE = 1e-10
SCORE_TOLERANCE = 1e-5
"""For scores of `generate()`, which transformers keeps in float32."""


def _require_equal(found: torch.Tensor, expected: torch.Tensor, message: str) -> None:
    if found.shape != expected.shape:
        raise AssertionError(f"{message} The shapes are {tuple(found.shape)} and {tuple(expected.shape)}.")
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE:  # also where it is not a number
        raise AssertionError(f"{message} The logits differ by up to {difference:.3g}.")


def _logits(model: CustomSeq2SeqForConditionalGeneration, **inputs: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(**inputs).logits
    return logits


@torch.no_grad()
def check_output(case: DecoderCase) -> None:
    """`forward` returns finite states of the right shape."""
    states = case.model.model(**case.source, decoder_input_ids=case.target).last_hidden_state
    expected = (*case.target.shape, output_width(case.model.config.decoder))
    if tuple(states.shape) != expected:
        raise AssertionError(f"`last_hidden_state` must have the shape {expected}, it has {tuple(states.shape)}.")
    if not bool(torch.isfinite(states).all()):
        raise AssertionError("`last_hidden_state` holds numbers that are not finite.")


def check_gradients(case: DecoderCase) -> None:
    """The loss is finite and its gradient reaches every weight."""
    model = case.build().train()
    output = model(**case.source, labels=case.labels)
    if not bool(torch.isfinite(output.loss)):
        raise AssertionError(f"The training loss is {float(output.loss)}.")
    output.loss.backward()
    named = list(model.named_parameters())
    missing = [name for name, weight in named if weight.requires_grad and weight.grad is None]
    if missing:
        raise AssertionError(f"The loss does not depend on these weights (remove or use them): {', '.join(missing)}.")
    bad = [name for name, weight in named if weight.grad is not None and not bool(torch.isfinite(weight.grad).all())]
    if bad:
        raise AssertionError(f"The gradients of these weights are not finite: {', '.join(bad)}.")


@torch.no_grad()
def check_causality(case: DecoderCase) -> None:
    """A later token never changes an earlier position, and does change its own."""
    ids, changed = case.target, case.target
    span = case.decoder.vocab_size - NUM_SPECIAL_IDS
    changed[:, 4:] = (changed[:, 4:] - NUM_SPECIAL_IDS + max(span // 2, 1)) % span + NUM_SPECIAL_IDS
    before = _logits(case.model, **case.source, decoder_input_ids=ids)
    after = _logits(case.model, **case.source, decoder_input_ids=changed)
    _require_equal(
        after[:, :4],
        before[:, :4],
        "Tokens 4 and 5 change the output at positions 0 to 3: the decoder looks ahead. A layer may only mix a "
        "position with those before it.",
    )
    if torch.allclose(after[:, 4:], before[:, 4:]):
        raise AssertionError("Other tokens at positions 4 and 5 change nothing there: the decoder ignores its input.")


@torch.no_grad()
def check_source(case: DecoderCase) -> None:
    """Another source gives another output."""
    source = case.source
    span = case.encoder.vocab_size - NUM_SPECIAL_IDS
    other = (source["input_ids"] - NUM_SPECIAL_IDS + max(span // 2, 1)) % span + NUM_SPECIAL_IDS
    before = _logits(case.model, **source, decoder_input_ids=case.target)
    after = _logits(case.model, **{**source, "input_ids": other}, decoder_input_ids=case.target)
    if torch.allclose(before, after):
        raise AssertionError(
            "Another source gives the same output: the decoder does not read `encoder_hidden_states` (nor first "
            "states made from them)."
        )


@torch.no_grad()
def check_padding(case: DecoderCase) -> None:
    """Padding in the source and other rows of the batch change nothing."""
    source, ids = case.source, case.target
    together = _logits(case.model, **source, decoder_input_ids=ids)
    for row in range(ids.shape[0]):
        real = source["input_ids"][row][source["attention_mask"][row].bool()][None]
        alone = _logits(case.model, input_ids=real, decoder_input_ids=ids[row : row + 1])
        _require_equal(
            together[row : row + 1],
            alone,
            f"Row {row} alone gives another output than in a padded batch. `encoder_attention_mask` must keep padding "
            "out, and rows must not be mixed.",
        )


@torch.no_grad()
def check_target_padding(case: DecoderCase) -> None:
    """Padding before the target changes nothing: `generate()` pads decoder prefixes on the left."""
    source, ids = case.source, case.target
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    padded = _logits(case.model, **source, decoder_input_ids=ids, decoder_attention_mask=mask)
    one = {name: value[1:2] for name, value in source.items()}
    alone = _logits(case.model, **one, decoder_input_ids=ids[1:2, 2:])
    _require_equal(
        padded[1:2, 2:],
        alone,
        "Padding before a target (0 in `attention_mask`) changes the output after it. Padded positions must leave no "
        "trace in states, windows and positions.",
    )


@torch.no_grad()
def check_cache(case: DecoderCase) -> None:
    """Decoding in pieces with a cache gives what one pass gives."""
    source, ids = case.source, case.target
    whole = _logits(case.model, **source, decoder_input_ids=ids)
    cache, parts = None, []
    for start, end in ((0, 1), (1, 4), (4, 5), (5, 6)):
        output = case.model(**source, decoder_input_ids=ids[:, start:end], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        if not isinstance(cache, Cache):
            raise AssertionError(
                f"With `use_cache=True` the output must carry the cache as `past_key_values`, got "
                f"{type(cache).__name__}. Return the one that was passed in."
            )
        if cache.get_seq_length() != end:
            raise AssertionError(
                f"After {end} tokens `past_key_values.get_seq_length()` says {cache.get_seq_length()}. Each layer "
                "must store the tokens of every call in its cache layer once."
            )
        parts.append(output.logits)
    _require_equal(
        torch.cat(parts, dim=1),
        whole,
        "Decoding in pieces (1, 3, 1 and 1 tokens) with the cache gives another output than all tokens at once.",
    )


@torch.no_grad()
def check_greedy(case: DecoderCase) -> None:
    """Greedy search with a cache finds what it finds without."""
    model: Any = case.model
    cached = model.generate(**case.source, max_length=10)
    if not torch.equal(cached, model.generate(**case.source, max_length=10, use_cache=False)):
        raise AssertionError("Greedy search with the cache gives other tokens than without.")


@torch.no_grad()
def check_beams(case: DecoderCase) -> None:
    """Beam search, which reorders the cache, finds what it finds when every prefix is computed again."""
    options: dict[str, Any] = {
        **case.source,
        "num_beams": 3,
        "num_return_sequences": 2,
        "max_length": 10,
        "return_dict_in_generate": True,
        "output_scores": True,
    }
    model: Any = case.model
    cached, recomputed = model.generate(**options), model.generate(**options, use_cache=False)
    if not torch.equal(cached.sequences, recomputed.sequences):
        raise AssertionError(
            "Beam search with the cache gives other tokens than without. All state must be in the cache, where it "
            "follows its beam (`reorder_cache`), and none on the module."
        )
    difference = float((cached.sequences_scores - recomputed.sequences_scores).abs().max())
    if not difference <= SCORE_TOLERANCE:
        raise AssertionError(f"Beam scores with the cache differ from those without by {difference:.3g}.")


@torch.no_grad()
def check_saving(case: DecoderCase) -> None:
    """A model that is saved and loaded computes the same."""
    expected = _logits(case.model, **case.source, decoder_input_ids=case.target)
    with tempfile.TemporaryDirectory() as folder:
        case.build().save_pretrained(folder)
        loaded = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float64)
    _require_equal(
        _logits(loaded, **case.source, decoder_input_ids=case.target),
        expected,
        "The model computes something else after `save_pretrained` and `from_pretrained`. Buffers that are not saved "
        "must be filled in `_init_weights`, and fields must be saved with the config.",
    )


@torch.no_grad()
def check_resizing(case: DecoderCase) -> None:
    """New rows in the decoder's vocabulary leave the old logits as they are."""
    model, size = case.build(), case.decoder.vocab_size
    before = _logits(model, **case.source, decoder_input_ids=case.target)
    side = "both" if model.config.tie_encoder_decoder_embeddings else "decoder"
    model.resize_token_embeddings(size + 5, side=side)
    after = _logits(model, **case.source, decoder_input_ids=case.target)
    if after.shape[-1] != size + 5:
        raise AssertionError(
            f"`resize_token_embeddings` to {size + 5} rows leaves {after.shape[-1]} logits. `get_input_embeddings` "
            "must return the token embedding."
        )
    _require_equal(after[..., :size], before, "Resizing the vocabulary changes the logits of old tokens.")


Check = Callable[[DecoderCase], None]

DECODER_CHECKS: dict[str, Check] = {
    "output": check_output,
    "gradients": check_gradients,
    "causality": check_causality,
    "source": check_source,
    "padding": check_padding,
    "target padding": check_target_padding,
    "cache": check_cache,
    "greedy search": check_greedy,
    "beam search": check_beams,
    "saving": check_saving,
    "resizing": check_resizing,
}
"""By name, in the order in which they run: a failure may follow from one before it."""

DEAR_CHECKS = ("beam search", "saving", "resizing")
"""Those that take longest; our own suite runs them on a covering set of pairs."""

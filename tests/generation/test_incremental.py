"""Decoding by pieces: any split of a sequence, after any change of rows, gives the states of the whole."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache

from hf_custom_decoder.models.cache_custom_seq2seq import CustomSeq2SeqCache
from tests.factories import ALL_VARIANTS, VOCAB_SIZE
from tests.generation.helpers import COVERING, batch, rows, seq2seq

LENGTH = 8


def _targets(batch_size=3, length=LENGTH):
    generator = torch.Generator().manual_seed(4)
    return torch.randint(3, VOCAB_SIZE, (batch_size, length), generator=generator)


def _by_pieces(model, inputs, ids, sizes, mask=None):
    """Logits of `ids` that are passed in pieces of the given sizes, with one cache."""
    cache, start, logits = None, 0, []
    for size in sizes:
        keywords = {} if mask is None else {"decoder_attention_mask": mask[:, : start + size]}
        output = model(
            **inputs, decoder_input_ids=ids[:, start : start + size], past_key_values=cache, use_cache=True, **keywords
        )
        cache, start = output.past_key_values, start + size
        logits.append(output.logits)
        assert cache.get_seq_length() == start
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("variant", ALL_VARIANTS)
@torch.no_grad()
def test_pieces_are_the_whole(variant):
    model, inputs, ids = seq2seq(variant), batch(), _targets()
    whole = model(**inputs, decoder_input_ids=ids, use_cache=False).logits
    for sizes in ([LENGTH], [1] * LENGTH, [3, 1, 4], [1, 6, 1], [5, 3]):
        torch.testing.assert_close(_by_pieces(model, inputs, ids, sizes), whole, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("variant", ALL_VARIANTS)
@torch.no_grad()
def test_pieces_are_the_whole_under_padding_on_the_left(variant):
    model, inputs, ids = seq2seq(variant), batch(), _targets()
    mask = torch.ones_like(ids)
    mask[1, :2], mask[2, :5] = 0, 0
    whole = model(**inputs, decoder_input_ids=ids, decoder_attention_mask=mask, use_cache=False).logits
    for sizes in ([1] * LENGTH, [3, 1, 4]):
        found = _by_pieces(model, inputs, ids, sizes, mask)
        torch.testing.assert_close(found[mask == 1], whole[mask == 1], atol=1e-10, rtol=1e-10)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    variant=st.sampled_from(COVERING),
    cuts=st.sets(st.integers(1, LENGTH - 1)),
    padding=st.lists(st.integers(0, LENGTH - 2), min_size=3, max_size=3),
)
@torch.no_grad()
def test_any_split_gives_the_same(variant, cuts, padding):
    model, inputs, ids = seq2seq(variant), batch(), _targets()
    mask = (torch.arange(LENGTH) >= torch.tensor(padding)[:, None]).long()
    whole = model(**inputs, decoder_input_ids=ids, decoder_attention_mask=mask, use_cache=False).logits
    bounds = [0, *sorted(cuts), LENGTH]
    sizes = [end - start for start, end in itertools.pairwise(bounds)]
    found = _by_pieces(model, inputs, ids, sizes, mask)
    torch.testing.assert_close(found[mask == 1], whole[mask == 1], atol=1e-10, rtol=1e-10)


def _shared_cache(model, inputs, ids, num_beams):
    """The cache of generation after the tokens `ids` (rows of all beams), over sources that are shared."""
    outputs = model.get_encoder()(**inputs)
    cache = CustomSeq2SeqCache(*_empty_parts(model))
    cache.share_source(num_beams, len(inputs["input_ids"]), torch.device("cpu"))
    source = {"encoder_outputs": outputs, "attention_mask": inputs["attention_mask"]}
    model(**source, decoder_input_ids=ids, past_key_values=cache, use_cache=True)
    return source, cache


def _empty_parts(model):
    return DynamicCache(config=model.config.decoder), DynamicCache()


def _expanded(inputs, source_rows):
    return {name: value[source_rows] for name, value in inputs.items()}


CHANGES = {
    "nothing": (None, list(range(6))),
    "beams_within_sources": ("reorder_cache", [1, 1, 3, 2, 4, 4]),
    "beams_across_sources": ("reorder_cache", [4, 0, 2, 5, 5, 1]),
    "rows_removed": ("batch_select_indices", [0, 3, 4]),
    "rows_removed_by_mask": ("batch_select_indices", [False, True, True, False, False, True]),
    "rows_repeated": ("batch_repeat_interleave", 2),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("variant", COVERING)
@torch.no_grad()
def test_rows_go_on_exactly_as_alone_after_a_change_of_rows(variant, change):
    """Six rows over three shared sources, three tokens cached; then the change, then two pieces more."""
    model, inputs = seq2seq(variant), batch()
    ids = _targets(6)
    source, cache = _shared_cache(model, inputs, ids[:, :3], num_beams=2)
    method, argument = CHANGES[change]
    kept = torch.arange(6)
    if method == "batch_repeat_interleave":
        cache.batch_repeat_interleave(argument)
        kept = kept.repeat_interleave(argument)
    elif method is not None:
        getattr(cache, method)(torch.tensor(argument))
        kept = kept[torch.tensor(argument)]
    follow = _targets(12, 4)[: len(kept)]
    whole_ids = torch.cat([ids[kept, :3], follow], dim=1)
    expected = model(**_expanded(inputs, kept // 2), decoder_input_ids=whole_ids, use_cache=False).logits[:, 3:]
    found = []
    for start, end in ((0, 1), (1, 4)):
        output = model(**source, decoder_input_ids=follow[:, start:end], past_key_values=cache, use_cache=True)
        found.append(output.logits)
    torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=1e-10, rtol=1e-10)
    assert cache.cross_attention_cache.layers[0].keys.shape[0] == 3


@pytest.mark.parametrize("variant", ALL_VARIANTS)
@torch.no_grad()
def test_cropped_tokens_leave_no_trace(variant):
    model, inputs, ids = seq2seq(variant), batch(), _targets()
    whole = model(**inputs, decoder_input_ids=ids, use_cache=False).logits
    cache = CustomSeq2SeqCache(*_empty_parts(model))
    cache.activate_past_recording()
    model(**inputs, decoder_input_ids=ids[:, :4], past_key_values=cache)
    cache.crop(0)
    model(**inputs, decoder_input_ids=ids.flip(1)[:, :3], past_key_values=cache)
    cache.crop(-3)
    assert cache.get_seq_length() == 4
    found = model(**inputs, decoder_input_ids=ids[:, 4:], past_key_values=cache).logits
    torch.testing.assert_close(found, whole[:, 4:], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("variant", COVERING)
def test_the_gradient_flows_through_cached_steps(variant):
    model, inputs, ids = seq2seq(variant), batch(), _targets(length=5)
    names = ["model.encoder.layers.0.mlp.fc1.weight", "model.decoder.layers.0.self_attn.k_proj.weight"]
    names.append("model.decoder.layers.1.encoder_attn.v_proj.weight")
    weights = [model.get_parameter(name) for name in names]
    target = torch.randn(3, 5, VOCAB_SIZE, dtype=torch.float64)
    whole = model(**inputs, decoder_input_ids=ids, use_cache=False).logits
    expected = torch.autograd.grad((whole * target).sum(), weights)
    source = {"encoder_outputs": model.get_encoder()(**inputs), "attention_mask": inputs["attention_mask"]}
    found = torch.autograd.grad((_by_pieces(model, source, ids, [2, 1, 1, 1]) * target).sum(), weights)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-8)


@torch.no_grad()
def test_one_row_of_a_shared_cache_is_that_row_alone():
    model, inputs, ids = seq2seq("rotary"), batch(), _targets(6)
    source, cache = _shared_cache(model, inputs, ids[:, :7], num_beams=2)
    shared = model(**source, decoder_input_ids=ids[:, 7:], past_key_values=cache).logits
    for row in range(6):
        alone = model(**rows(inputs, row // 2), decoder_input_ids=ids[row : row + 1]).logits[:, 7:]
        torch.testing.assert_close(shared[row : row + 1], alone, atol=1e-10, rtol=1e-10)


def test_a_shared_cache_refuses_other_row_counts():
    model, inputs, ids = seq2seq(), batch(), _targets(6)
    source, cache = _shared_cache(model, inputs, ids[:, :3], num_beams=2)
    with pytest.raises(ValueError, match=r"must hold \(rows, key heads, head width\) = \(3, 4, 8\), got \(6, 4, 8\)"):
        model(**source, decoder_input_ids=ids[:3, 3:4], past_key_values=cache)
    with pytest.raises(ValueError, match=r"\(rows, tokens\) = \(6, 7\), the cross-attention cache .* has \(3, 7\)"):
        model(
            **{name: value.repeat_interleave(2, 0) for name, value in inputs.items()},
            decoder_input_ids=ids[:, 3:4],
            past_key_values=cache,
        )

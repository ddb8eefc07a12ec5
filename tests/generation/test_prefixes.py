"""Forced decoder prefixes: each row goes on as if it were alone."""

import pytest
import torch

from tests.factories import ALL_VARIANTS
from tests.generation.helpers import (
    COVERING,
    batch,
    foreign,
    foreign_batch,
    generate_seeded,
    rows,
    seq2seq,
    stock_twin,
    until_end,
)

UNEQUAL = torch.tensor([[0, 0, 1, 7], [1, 8, 13, 10], [0, 1, 20, 21]])


def _assert_rows_as_alone(model, inputs, prefixes, **options):
    mask = (prefixes != 0).long()
    together = model.generate(
        **inputs, decoder_input_ids=prefixes, decoder_attention_mask=mask, max_new_tokens=6, **options
    )
    for index in range(len(prefixes)):
        start = int((mask[index] == 0).sum())
        alone = model.generate(
            **rows(inputs, index), decoder_input_ids=prefixes[index : index + 1, start:], max_new_tokens=6, **options
        )
        length = prefixes.shape[1] - start + (0 if (prefixes == 1).any() else 1)  # the start token may be added
        assert until_end(together[index, start:], length) == until_end(alone[0], length)


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_unequal_prefixes_with_padding_on_the_left(variant):
    model, inputs = seq2seq(variant), batch()
    _assert_rows_as_alone(model, inputs, UNEQUAL)
    _assert_rows_as_alone(model, inputs, UNEQUAL, num_beams=3)


@pytest.mark.parametrize("options", [{"use_cache": False}, {"cache_implementation": "static"}], ids=str)
@pytest.mark.parametrize("variant", COVERING)
def test_unequal_prefixes_without_and_with_static_cache(variant, options):
    _assert_rows_as_alone(seq2seq(variant), batch(), UNEQUAL, **options)
    _assert_rows_as_alone(seq2seq(variant), batch(), UNEQUAL, num_beams=2, **options)


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_a_missing_start_token_is_put_behind_the_padding(variant):
    without_start = torch.tensor([[0, 0, 7], [8, 13, 10], [0, 20, 21]])
    _assert_rows_as_alone(seq2seq(variant), batch(), without_start)
    _assert_rows_as_alone(seq2seq(variant), batch(), without_start, num_beams=2)
    found = seq2seq(variant).generate(
        **batch(), decoder_input_ids=without_start, decoder_attention_mask=without_start != 0, max_new_tokens=1
    )
    assert found[:, :4].tolist() == [[0, 0, 1, 7], [1, 8, 13, 10], [0, 1, 20, 21]]


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_unequal_prefixes_over_foreign_encoders(name):
    _assert_rows_as_alone(foreign(name), foreign_batch(name), UNEQUAL, num_beams=2)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
def test_equal_prefixes_are_those_of_stock_generation(options):
    model, inputs = seq2seq("rotary"), batch()
    for prefix in ([[1, 7, 8, 10]] * 3, [[7, 8, 10]] * 3):  # with and without the start token
        given = {"decoder_input_ids": torch.tensor(prefix), "max_new_tokens": 6, **options}
        found = generate_seeded(model, **inputs, **given)
        assert found[0, :4].tolist() == [1, 7, 8, 10]
        assert torch.equal(found, generate_seeded(stock_twin(model), **inputs, **given))


def test_a_prefix_of_the_greedy_output_leads_to_the_same_output():
    model, inputs = seq2seq(), rows(batch(), 0)
    expected = model.generate(**inputs, max_new_tokens=10)
    for length in range(1, expected.shape[1]):
        found = model.generate(**inputs, decoder_input_ids=expected[:, :length], max_length=11)
        assert torch.equal(found, expected)


def test_given_decoder_positions_are_used_and_counted_on():
    model, inputs = seq2seq("learned"), rows(batch(), 0)
    prefix = torch.tensor([[1, 7]])
    usual = model.generate(**inputs, decoder_input_ids=prefix, max_new_tokens=8)
    positions = torch.tensor([[0, 1]])
    given = {"decoder_input_ids": prefix, "max_new_tokens": 8}
    assert torch.equal(model.generate(**inputs, **given, decoder_position_ids=positions), usual)
    ids = prefix
    for _ in range(8):  # greedy by hand, 20 positions later
        at = torch.arange(ids.shape[1])[None] + 20
        logits = model(**inputs, decoder_input_ids=ids, decoder_position_ids=at, use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    greedy = model.generate(**inputs, **given, decoder_position_ids=positions + 20)
    assert until_end(greedy[0], 2) == until_end(ids[0], 2)


def test_a_wrong_prefix_mask_is_refused():
    with pytest.raises(ValueError, match=r"`attention_mask` must have the shape .* = \(3, 4\), got \(3, 3\)"):
        seq2seq().generate(
            **batch(), decoder_input_ids=UNEQUAL, decoder_attention_mask=(UNEQUAL != 0)[:, 1:].long(), max_new_tokens=2
        )


def test_a_start_token_behind_padding_is_not_added_again():
    """Even where no row begins with it: transformers alone would look at the padding."""
    prefixes = UNEQUAL[[0, 2, 0]]
    _assert_rows_as_alone(seq2seq("alibi"), batch(), prefixes, num_beams=2)
    mask = (prefixes != 0).long()
    found = seq2seq().generate(**batch(), decoder_input_ids=prefixes, decoder_attention_mask=mask, max_new_tokens=1)
    assert torch.equal(found[:, :4], prefixes)

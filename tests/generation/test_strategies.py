"""Greedy and beam search against searches written out by hand; beams against one another."""

import itertools

import pytest
import torch

from tests.factories import ALL_VARIANTS, SIZES, tiny_seq2seq
from tests.generation.helpers import (
    EOS_IDS,
    batch,
    enliven,
    foreign,
    foreign_batch,
    greedy_by_hand,
    rows,
    seq2seq,
    until_end,
)


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_greedy_with_cache_is_greedy_by_hand(variant):
    model, inputs = seq2seq(variant), batch()
    found = model.generate(**inputs, max_new_tokens=9)
    for index, expected in enumerate(greedy_by_hand(model, inputs, 9)):
        assert until_end(found[index]) == expected
        assert (found[index, len(expected) :] == 0).all()


@pytest.mark.parametrize("name", ["bert", "t5", "vit"])
def test_greedy_over_a_foreign_encoder_is_greedy_by_hand(name):
    model, inputs = foreign(name), foreign_batch(name)
    found = model.generate(**inputs, max_new_tokens=9)
    for index, expected in enumerate(greedy_by_hand(model, inputs, 9)):
        assert until_end(found[index], 1) == expected
    beams = model.generate(**inputs, max_new_tokens=6, num_beams=3)
    assert torch.equal(model.generate(**inputs, max_new_tokens=6, num_beams=3, use_cache=False), beams)
    assert torch.equal(model.generate(**inputs, max_new_tokens=6, num_beams=3, cache_implementation="static"), beams)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_cached_search_is_search_that_recomputes_the_prefix(variant, num_beams):
    model, inputs = seq2seq(variant), batch()
    options = {"max_new_tokens": 8, "num_beams": num_beams, "return_dict_in_generate": True, "output_scores": True}
    cached = model.generate(**inputs, **options)
    recomputed = model.generate(**inputs, **options, use_cache=False)
    assert torch.equal(cached.sequences, recomputed.sequences)
    torch.testing.assert_close(cached.scores, recomputed.scores, atol=1e-5, rtol=1e-5)
    assert recomputed.past_key_values is None


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_static_cache_is_dynamic_cache(variant, num_beams):
    model, inputs = seq2seq(variant), batch()
    options = {"max_new_tokens": 8, "num_beams": num_beams}
    expected = model.generate(**inputs, **options)
    assert torch.equal(model.generate(**inputs, **options, cache_implementation="static"), expected)


def test_one_beam_is_greedy():
    model, inputs = seq2seq(), batch()
    greedy = model.generate(**inputs, max_new_tokens=9, do_sample=False)
    assert torch.equal(model.generate(**inputs, max_new_tokens=9, num_beams=1), greedy)


@torch.no_grad()
def _sequences_by_hand(model, inputs, length, eos_id):
    """Every sequence of `length` new tokens (shorter where it ends) with its summed log-probability, best first."""
    vocabulary = range(model.config.vocab_size)
    found = {}
    for tokens in itertools.product(vocabulary, repeat=length):
        ended = tokens[: tokens.index(eos_id) + 1] if eos_id in tokens else tokens
        found[ended] = 0.0
    prefixes = sorted({tokens[:size] for tokens in found for size in range(len(tokens))}, key=len)
    log_probs = {}
    for size, group in itertools.groupby(prefixes, key=len):
        chosen = list(group)
        ids = torch.tensor([[1, *prefix] for prefix in chosen])
        repeated = {name: value.repeat_interleave(len(chosen), 0) for name, value in inputs.items()}
        logits = model(**repeated, decoder_input_ids=ids, use_cache=False).logits[:, size]
        log_probs.update(zip(chosen, logits.log_softmax(-1), strict=True))
    for tokens in found:
        found[tokens] = sum(float(log_probs[tokens[:size]][token]) for size, token in enumerate(tokens))
    return found


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_beams_as_wide_as_the_tree_find_the_best_of_all_sequences(length_penalty):
    model = enliven(tiny_seq2seq(tie_word_embeddings=False, encoder={"vocab_size": 50}, decoder={"vocab_size": 5}))
    inputs = rows(batch(), 1)
    every = _sequences_by_hand(model, inputs, 3, eos_id=2)
    ranked = sorted(every, key=lambda tokens: every[tokens] / len(tokens) ** length_penalty, reverse=True)
    output = model.generate(
        **inputs,
        max_new_tokens=3,
        num_beams=25,
        num_return_sequences=5,
        length_penalty=length_penalty,
        early_stopping="never",
        eos_token_id=2,
        return_dict_in_generate=True,
        output_scores=True,
    )
    for row, score, tokens in zip(output.sequences.tolist(), output.sequences_scores, ranked, strict=False):
        assert tuple(row[1 : 1 + len(tokens)]) == tokens
        assert float(score) == pytest.approx(every[tokens] / len(tokens) ** length_penalty, abs=1e-5)


def test_n_best_lists_are_sorted_and_distinct():
    output = seq2seq().generate(
        **batch(),
        max_new_tokens=8,
        num_beams=4,
        num_return_sequences=4,
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert output.sequences.shape[0] == 12
    for index in range(3):
        scores = output.sequences_scores[4 * index : 4 * index + 4]
        assert torch.equal(scores, scores.sort(descending=True).values)
        candidates = {tuple(until_end(row, 1)) for row in output.sequences[4 * index : 4 * index + 4]}
        assert len(candidates) == 4


def test_batch_mates_change_nothing():
    model, inputs = seq2seq("rotary"), batch(4)
    together = model.generate(**inputs, max_new_tokens=8, num_beams=3)
    for index in range(4):
        alone = model.generate(**rows(inputs, index), max_new_tokens=8, num_beams=3)
        assert until_end(together[index], 1) == until_end(alone[0], 1)


def test_source_padding_changes_nothing():
    model, inputs = seq2seq("alibi"), rows(batch(), 1)
    length = int(inputs["attention_mask"].sum())
    cut = {name: value[:, :length] for name, value in inputs.items()}
    for options in ({}, {"num_beams": 3}):
        found = model.generate(**inputs, max_new_tokens=8, **options)
        assert torch.equal(found, model.generate(**cut, max_new_tokens=8, **options))


def test_several_end_ids_each_end_a_sequence():
    model, inputs = seq2seq(), batch(4)
    endings = set()
    for row in model.generate(**inputs, max_new_tokens=20, no_repeat_ngram_size=2):
        ended = until_end(row, 1)
        endings.add(ended[-1])
        assert (row[len(ended) :] == 0).all()
    assert len(endings & set(EOS_IDS)) > 1


def test_generation_stops_at_the_position_table_of_learned_positions():
    model = seq2seq("learned")
    with pytest.raises(ValueError, match="learned positions reach `max_position_embeddings=64` tokens, got 65"):
        model.generate(**batch(1), max_new_tokens=70, eos_token_id=-1)
    with pytest.raises(ValueError, match="learned positions reach `max_position_embeddings=64` tokens, got 65"):
        model.generate(**batch(1), max_new_tokens=70, eos_token_id=-1, cache_implementation="static")


@pytest.mark.parametrize("variant", ["default", "rotary", "alibi", "sliding"])
def test_other_positions_go_on_beyond_the_table(variant):
    model, inputs = seq2seq(variant), batch(1)
    expected = model.generate(**inputs, max_new_tokens=68, eos_token_id=-1)
    assert expected.shape[1] == 69 > SIZES["max_position_embeddings"]
    found = model.generate(**inputs, max_new_tokens=68, eos_token_id=-1, cache_implementation="static")
    assert torch.equal(found, expected)

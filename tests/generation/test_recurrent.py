"""Generation by recurrent, linear-recurrent and hybrid decoders, with a source and alone."""

import copy
import functools

import pytest
import torch
from transformers import TextStreamer

from hf_custom_decoder import (
    RecurrentDecoderConfig,
    RecurrentDecoderForCausalLM,
    TransformerDecoderConfig,
    TransformerDecoderForCausalLM,
)
from hf_custom_decoder.models.cache_custom_seq2seq import build_cache
from tests.combinations import RECURRENT_SIZES, build_pair
from tests.factories import SIZES, spread_weights, tiny_causal, tiny_seq2seq
from tests.generation.helpers import (
    EOS_IDS,
    EVERYTHING,
    assert_same,
    batch,
    enliven,
    expanded_twin,
    generate_seeded,
    greedy_by_hand,
    rows,
    stock_twin,
    until_end,
)
from tests.integration.training_runs import word_tokenizer

PAIRS = {
    "gru_1": "gru_none",
    "lstm_2": "lstm_input_feeding",
    "gru_2": "gru_everything",
    "rnn_2": "rnn_multihead",
    "lstm_1": "hybrid_mingru_last",
    "transformer": "ssru",
}
over_pairs = pytest.mark.parametrize("encoder", PAIRS, ids=[f"{one}-{two}" for one, two in PAIRS.items()])
UNEQUAL = torch.tensor([[0, 0, 1, 7], [1, 8, 13, 10], [0, 1, 20, 21]])
UNEQUAL_MASK = (UNEQUAL != 0).long()


@functools.cache
def _model(encoder):
    return enliven(build_pair(encoder, PAIRS[encoder], tie_word_embeddings=False))


@over_pairs
def test_greedy_with_cache_is_greedy_by_hand(encoder):
    model, inputs = _model(encoder), batch()
    found = model.generate(**inputs, max_new_tokens=9)
    for index, expected in enumerate(greedy_by_hand(model, inputs, 9)):
        assert until_end(found[index]) == expected
        assert (found[index, len(expected) :] == 0).all()
    assert len({tuple(row) for row in found.tolist()}) > 1


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 2.0},
        {"do_sample": True, "num_return_sequences": 3},
        {"do_sample": True, "num_beams": 2, "top_k": 9},
        {"num_beams": 3, "decoder_input_ids": UNEQUAL, "decoder_attention_mask": UNEQUAL_MASK},
        {"num_beams": 2, "no_repeat_ngram_size": 2, "eos_token_id": -1},
    ],
    ids=["n_best", "samples", "sampled_beams", "prefixes", "no_end"],
)
@over_pairs
def test_every_returned_field_is_that_of_the_stock_expansion(encoder, options):
    """The twin repeats its sources; the second one has no hook of ours and no cache."""
    model, inputs = _model(encoder), batch()
    given = {**EVERYTHING, "max_new_tokens": 6, **options}
    found = generate_seeded(model, **inputs, **given)
    assert_same(found, generate_seeded(expanded_twin(model), **inputs, **given))
    if "decoder_input_ids" not in options:  # transformers looks for the start token before the padding
        stock = generate_seeded(stock_twin(model), **inputs, **given, use_cache=False)
        for name in {"sequences", "scores", "logits", "sequences_scores", "beam_indices"} & set(found):
            assert_same(found[name], stock[name], name)


@over_pairs
def test_row_counts_in_figures(encoder):
    """Two steps of three beams over three sources; recurrent decoders attend once, after the last layer."""
    model = _model(encoder)
    output = model.generate(
        **batch(), max_new_tokens=2, num_beams=3, num_return_sequences=2, **EVERYTHING, eos_token_id=-1
    )
    assert output.sequences.shape == (6, 3)
    assert output.sequences_scores.shape == (6,)
    decoder = model.config.decoder
    is_recurrent = isinstance(decoder, RecurrentDecoderConfig)
    num_states = decoder.num_hidden_layers + (2 if is_recurrent else 1)
    for hidden_states in output.decoder_hidden_states:
        assert [tuple(one.shape[:2]) for one in hidden_states] == [(9, 1)] * num_states
        assert hidden_states[-1].shape[2] == decoder.output_size
    if is_recurrent and decoder.attention_type == "none":
        assert output.cross_attentions == (None, None)
        return
    num_heads = 1 if is_recurrent and decoder.attention_type != "multihead" else decoder.num_attention_heads
    for weights in output.cross_attentions:
        assert [tuple(one.shape) for one in weights] == [(9, num_heads, 1, 7)] * (1 if is_recurrent else 2)
        torch.testing.assert_close(weights[0].sum(-1), torch.ones_like(weights[0][..., 0]))


@over_pairs
def test_n_best_lists_are_sorted_and_distinct(encoder):
    options = {"max_new_tokens": 8, "num_beams": 4, "num_return_sequences": 4}
    output = _model(encoder).generate(**batch(), **options, return_dict_in_generate=True, output_scores=True)
    for scores, candidates in zip(output.sequences_scores.split(4), output.sequences.split(4), strict=True):
        assert torch.equal(scores, scores.sort(descending=True).values)
        assert len({tuple(until_end(row, 1)) for row in candidates}) == 4


@over_pairs
def test_a_seed_decides_the_samples(encoder):
    model, options = _model(encoder), {"max_new_tokens": 8, "do_sample": True, "num_return_sequences": 3}
    first, again, other = (generate_seeded(model, seed, **batch(), **options) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class _Lines(TextStreamer):
    """Keeps the text instead of printing it."""

    def on_finalized_text(self, text, stream_end=False):
        self.text = getattr(self, "text", "") + text


@over_pairs
def test_a_text_streamer_follows(encoder):
    tokenizer = word_tokenizer()
    streamer = _Lines(tokenizer)
    found = _model(encoder).generate(**rows(batch(), 0), max_new_tokens=8, streamer=streamer)
    assert streamer.text == tokenizer.decode(found[0])


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 2, "use_cache": False}], ids=str)
@over_pairs
def test_unequal_prefixes_go_on_as_each_alone(encoder, options):
    model, inputs = _model(encoder), batch()
    given = {"max_new_tokens": 6, **options}
    together = model.generate(**inputs, decoder_input_ids=UNEQUAL, decoder_attention_mask=UNEQUAL_MASK, **given)
    for index in range(3):
        start = int((UNEQUAL_MASK[index] == 0).sum())
        alone = model.generate(**rows(inputs, index), decoder_input_ids=UNEQUAL[index : index + 1, start:], **given)
        assert until_end(together[index, start:], 4 - start) == until_end(alone[0], 4 - start)


@over_pairs
def test_generation_goes_on_from_a_returned_cache(encoder):
    model, inputs = _model(encoder), batch()
    options = {"eos_token_id": -1, "return_dict_in_generate": True}
    expected = model.generate(**inputs, max_new_tokens=8, **options).sequences
    first = model.generate(**inputs, max_new_tokens=3, **options)
    found = model.generate(
        **inputs,
        decoder_input_ids=first.sequences,
        decoder_attention_mask=torch.ones_like(first.sequences),  # says that the ids of the cache are among these
        past_key_values=first.past_key_values,
        max_new_tokens=5,
        **options,
    )
    assert torch.equal(found.sequences, expected)


CHANGES = {
    "beams_within_sources": ("reorder_cache", [1, 1, 3, 2, 4, 4]),
    "beams_across_sources": ("reorder_cache", [4, 0, 2, 5, 5, 1]),
    "rows_removed": ("batch_select_indices", [0, 3, 4]),
    "rows_removed_by_mask": ("batch_select_indices", [False, True, True, False, False, True]),
    "rows_repeated": ("batch_repeat_interleave", 2),
}


@pytest.mark.parametrize("change", CHANGES)
@over_pairs
@torch.no_grad()
def test_rows_go_on_exactly_as_alone_after_a_change_of_rows(encoder, change):
    """Six rows over three shared sources, three tokens cached (one row padded); the change, and two pieces more."""
    model, inputs = _model(encoder), batch()
    ids = torch.randint(3, 50, (6, 3), generator=torch.Generator().manual_seed(4))
    mask = torch.ones_like(ids)
    mask[3, 0] = 0
    outputs, cache = model.get_encoder()(**inputs), build_cache(model.config.decoder, True)
    cache.share_source(2, 3, torch.device("cpu"))
    source = {"encoder_outputs": outputs, "attention_mask": inputs["attention_mask"], "past_key_values": cache}
    model(**source, decoder_input_ids=ids, decoder_attention_mask=mask, use_cache=True)
    method, argument = CHANGES[change]
    kept = torch.arange(6)
    if method == "batch_repeat_interleave":
        cache.batch_repeat_interleave(argument)
        kept = kept.repeat_interleave(argument)
    else:
        getattr(cache, method)(torch.tensor(argument))
        kept = kept[torch.tensor(argument)]
    follow = torch.randint(3, 50, (12, 4), generator=torch.Generator().manual_seed(5))[: len(kept)]
    whole_ids, whole_mask = torch.cat([ids[kept], follow], 1), torch.cat([mask[kept], torch.ones_like(follow)], 1)
    expected = model(
        **{name: value[kept // 2] for name, value in inputs.items()},
        decoder_input_ids=whole_ids,
        decoder_attention_mask=whole_mask,
        use_cache=False,
    ).logits[:, 3:]
    found = [
        model(**source, decoder_input_ids=follow[:, start:end], decoder_attention_mask=whole_mask[:, : 3 + end]).logits
        for start, end in ((0, 1), (1, 4))
    ]
    torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=1e-10, rtol=1e-10)


@over_pairs
def test_a_cache_cannot_be_cropped_and_serves_again_after_reset(encoder):
    model, inputs = _model(encoder), batch()
    expected = model.generate(**inputs, max_new_tokens=6, num_beams=2)
    cache = build_cache(model.config.decoder, True)
    for _ in range(2):
        assert torch.equal(model.generate(**inputs, max_new_tokens=6, num_beams=2, past_key_values=cache), expected)
        with pytest.raises(ValueError, match=r"`crop\(-1\)` cannot take tokens out of a recurrent state\. Assisted"):
            cache.self_attention_cache.layers[-1].crop(-1)
        cache.reset()
        assert cache.get_seq_length() == 0


PROMPTS = torch.tensor([[0, 0, 0, 6, 7], [7, 8, 10, 13, 12], [0, 20, 21, 22, 23]])
MASK = (PROMPTS != 0).long()
ALONE = {
    **{
        cell: functools.partial(RecurrentDecoderConfig, **RECURRENT_SIZES, cell_type=cell)
        for cell in ("rnn", "gru", "lstm")
    },
    "ssru": functools.partial(TransformerDecoderConfig, **SIZES, mixer_types=["ssru", "ssru"]),
    "hybrid": functools.partial(TransformerDecoderConfig, **SIZES, mixer_types=["full_attention", "mingru"]),
}


@functools.cache
def _alone(name, has_source):
    torch.manual_seed(0)
    config = ALONE[name](add_cross_attention=has_source)
    recurrent = isinstance(config, RecurrentDecoderConfig)
    model = (RecurrentDecoderForCausalLM if recurrent else TransformerDecoderForCausalLM)(config)
    spread_weights(model)
    return enliven(model)


def _source():
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, 4:], mask[2, 5:] = 0, 0
    states = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


@torch.no_grad()
def _greedy_by_hand(model, ids, source, max_new_tokens):
    start = ids.shape[1]
    while ids.shape[1] < start + max_new_tokens and (ids.shape[1] == start or int(ids[0, -1]) not in EOS_IDS):
        ids = torch.cat([ids, model(ids, use_cache=False, **source).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0].tolist()


@pytest.mark.parametrize("has_source", [False, True])
@pytest.mark.parametrize("name", ALONE)
def test_padded_prompts_of_a_decoder_alone(name, has_source):
    model, source = _alone(name, has_source), _source() if has_source else {}
    given = {"attention_mask": MASK, "max_new_tokens": 7, **source}
    greedy = model.generate(PROMPTS, **given)
    beams = model.generate(PROMPTS, num_beams=3, num_return_sequences=2, **given)
    for index in range(3):
        start = int((MASK[index] == 0).sum())
        prompt = PROMPTS[index : index + 1, start:]
        alone = {key: value[index : index + 1] for key, value in source.items()}
        assert until_end(greedy[index, start:], 5 - start) == _greedy_by_hand(model, prompt, alone, 7)
        expected = model.generate(prompt, num_beams=3, num_return_sequences=2, max_new_tokens=7, **alone)
        for rank in range(2):
            assert until_end(beams[2 * index + rank, start:], 5 - start) == until_end(expected[rank], 5 - start)
    for options in ({"use_cache": False}, {"prefill_chunk_size": 2}):
        assert torch.equal(model.generate(PROMPTS, **given, **options), greedy)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2, "num_return_sequences": 2}, {"do_sample": True}], ids=str)
@pytest.mark.parametrize("name", ALONE)
def test_fields_of_a_decoder_alone(name, options):
    """As without a cache, where every step computes the whole prefix again."""
    model = _alone(name, False)
    given = {"input_ids": PROMPTS, "attention_mask": MASK, "max_new_tokens": 5, **EVERYTHING, **options}
    found = generate_seeded(model, **copy.deepcopy(given))
    expected = generate_seeded(model, **copy.deepcopy(given), use_cache=False)
    for key in {"sequences", "scores", "logits", "sequences_scores", "beam_indices"} & set(found):
        assert_same(found[key], expected[key], key)
    for step, states in enumerate(found.hidden_states[1:], start=1):
        for ours, theirs in zip(states, expected.hidden_states[step], strict=True):
            torch.testing.assert_close(ours[:, 0], theirs[:, -1])


HYBRIDS = [["full_attention", "mingru"], ["ssru", "full_attention"], ["sliding_attention", "mingru"]]
HYBRID_FIELDS = {**SIZES, "sliding_window": 3}


def _static_and_dynamic(model, options, **given):
    """Ids, logits and scores of `generate()` by each kind of cache."""
    settings = {"max_new_tokens": 6, "return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    for name in ("static", "dynamic"):
        output = model.generate(**given, **settings, **options, cache_implementation=name)
        yield output.sequences, output.logits, output.scores


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
@pytest.mark.parametrize("mixer_types", HYBRIDS, ids="-".join)
def test_static_cache_of_a_hybrid_is_dynamic_cache(mixer_types, options):
    """Nothing is padded, so nothing but the unfilled slots of the cache calls for a mask."""
    model = enliven(tiny_seq2seq(tie_word_embeddings=False, decoder={**HYBRID_FIELDS, "mixer_types": mixer_types}))
    assert_same(*_static_and_dynamic(model, options, **batch(1)))


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
@pytest.mark.parametrize("prompt_length", [1, 4])
@pytest.mark.parametrize("mixer_types", HYBRIDS, ids="-".join)
def test_static_cache_of_a_hybrid_alone_is_dynamic_cache(mixer_types, prompt_length, options):
    model = enliven(tiny_causal(tie_word_embeddings=False, **{**HYBRID_FIELDS, "mixer_types": mixer_types}))
    prompts = PROMPTS[1:2, :prompt_length]
    assert_same(*_static_and_dynamic(model, options, input_ids=prompts, attention_mask=torch.ones_like(prompts)))

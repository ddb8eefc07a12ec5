"""Generation by the decoder alone: padded prompts, beams and caches, with and without a source."""

import copy

import pytest
import torch
from transformers.cache_utils import DynamicCache, StaticCache

from tests.factories import ALL_VARIANTS
from tests.generation.both_loops import both
from tests.generation.helpers import (
    COVERING,
    EOS_IDS,
    EVERYTHING,
    assert_same,
    causal,
    generate_seeded,
    stock_twin,
    until_end,
)

PROMPTS = torch.tensor([[0, 0, 0, 6, 7], [7, 8, 10, 13, 12], [0, 20, 21, 22, 23]])
MASK = (PROMPTS != 0).long()

WITH_SOURCE = ["default", "alibi", "rotary_gqa_qk_norm", "sliding_first"]


def _source():
    generator = torch.Generator().manual_seed(6)
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, 4:], mask[2, 5:] = 0, 0
    states = torch.randn(3, 7, 32, generator=generator, dtype=torch.float64)
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


@torch.no_grad()
def _greedy_by_hand(model, ids, source, max_new_tokens):
    start = ids.shape[1]
    while ids.shape[1] < start + max_new_tokens and (ids.shape[1] == start or int(ids[0, -1]) not in EOS_IDS):
        logits = model(ids, use_cache=False, **source).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    return ids[0].tolist()


def _one(source, index):
    return {name: value[index : index + 1] for name, value in source.items()}


@pytest.mark.parametrize(
    ("variant", "has_source"), [*((name, False) for name in ALL_VARIANTS), *((name, True) for name in WITH_SOURCE)]
)
def test_padded_prompts_go_on_as_each_alone(variant, has_source):
    model, source = causal(variant, add_cross_attention=has_source), _source() if has_source else {}
    options = {"max_new_tokens": 7, **source}
    greedy = model.generate(PROMPTS, attention_mask=MASK, **options)
    beams = model.generate(PROMPTS, attention_mask=MASK, num_beams=3, num_return_sequences=2, **options)
    for index in range(3):
        start = int((MASK[index] == 0).sum())
        length = 5 - start
        prompt, alone = PROMPTS[index : index + 1, start:], _one(source, index)
        assert until_end(greedy[index, start:], length) == _greedy_by_hand(model, prompt, alone, 7)
        expected = model.generate(prompt, num_beams=3, num_return_sequences=2, max_new_tokens=7, **alone)
        for rank in range(2):
            found = beams[2 * index + rank, start:]
            assert until_end(found, length) == until_end(expected[rank], length)


@pytest.mark.parametrize(
    "options",
    [{"use_cache": False}, {"cache_implementation": "static"}, {"prefill_chunk_size": 2}],
    ids=str,
)
@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize(
    ("variant", "has_source"), [*((name, False) for name in ALL_VARIANTS), *((name, True) for name in WITH_SOURCE)]
)
def test_other_ways_to_keep_the_past_change_nothing(variant, has_source, num_beams, options):
    model, source = causal(variant, add_cross_attention=has_source), _source() if has_source else {}
    for prompts, mask in ((PROMPTS, MASK), (PROMPTS[1:2], MASK[1:2])):
        given = {name: value[-len(prompts) :] for name, value in source.items()}
        expected = model.generate(prompts, attention_mask=mask, max_new_tokens=7, num_beams=num_beams, **given)
        found = model.generate(prompts, attention_mask=mask, max_new_tokens=7, num_beams=num_beams, **given, **options)
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3},
        {"do_sample": True, "num_beams": 2},
        {"num_beams": 3, "use_cache": False},
        {"num_beams": 3, "cache_implementation": "static"},
    ],
    ids=str,
)
@pytest.mark.parametrize("has_source", [False, True])
def test_every_returned_field_is_that_of_stock_generation(options, has_source):
    model, source = causal("rotary", add_cross_attention=has_source), _source() if has_source else {}
    given = {**EVERYTHING, "max_new_tokens": 6, "attention_mask": MASK, **source, **options}
    assert_same(
        generate_seeded(model, input_ids=PROMPTS, **given),
        generate_seeded(stock_twin(model), input_ids=PROMPTS, **given),
    )


@pytest.mark.parametrize("variant", COVERING)
def test_prompts_as_embeddings(variant):
    model = causal(variant)
    expected = model.generate(PROMPTS, attention_mask=MASK, max_new_tokens=6)
    embeddings = model.get_input_embeddings()(PROMPTS)
    found = model.generate(inputs_embeds=embeddings, attention_mask=MASK, max_new_tokens=6)
    assert torch.equal(found, expected[:, 5:])


@pytest.mark.parametrize("has_source", [False, True])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}], ids=str)
def test_a_given_cache_is_used(has_source, kind, options):
    model, source = causal(add_cross_attention=has_source), _source() if has_source else {}
    cache = DynamicCache() if kind == "dynamic" else StaticCache(config=model.config, max_cache_len=11)
    given = {"attention_mask": MASK, "max_new_tokens": 6, **source, **options}
    expected = model.generate(PROMPTS, **given)
    assert torch.equal(model.generate(PROMPTS, past_key_values=cache, **given), expected)
    assert int(cache.get_seq_length()) > 0


def test_generation_goes_on_from_a_returned_cache():
    model = causal("alibi")
    first = model.generate(
        PROMPTS, attention_mask=MASK, max_new_tokens=3, eos_token_id=-1, return_dict_in_generate=True
    )
    ids = first.sequences
    mask = torch.cat([MASK, torch.ones(3, 3, dtype=torch.long)], dim=1)
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=4)
    found = model.generate(ids, attention_mask=mask, past_key_values=first.past_key_values, max_new_tokens=4)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("variant", ["default", "learned"])
def test_the_position_table_bounds_learned_positions_only(variant):
    model, options = causal(variant), {"max_new_tokens": 63, "eos_token_id": -1}
    if variant == "learned":
        for implementation in (None, "static"):
            with pytest.raises(ValueError, match="learned positions reach `max_position_embeddings=64` tokens"):
                model.generate(PROMPTS[1:2], cache_implementation=implementation, **options)
        return
    expected = model.generate(PROMPTS[1:2], **options)
    assert torch.equal(model.generate(PROMPTS[1:2], cache_implementation="static", **options), expected)


def test_a_missing_source_is_refused():
    with pytest.raises(ValueError, match="a decoder with `add_cross_attention=True` needs `encoder_hidden_states`"):
        causal(add_cross_attention=True).generate(PROMPTS, attention_mask=MASK, max_new_tokens=2)


def test_flex_attention_with_a_static_cache_is_refused():
    model = copy.deepcopy(causal())
    model.set_attn_implementation("flex_attention")
    words = (
        r"`cache_implementation='static'` needs `attn_implementation` 'sdpa' or 'eager' .*got 'flex_attention'\. Use"
    )
    with pytest.raises(ValueError, match=words):
        model.generate(PROMPTS, attention_mask=MASK, max_new_tokens=2, cache_implementation="static")


def test_an_offloaded_cache_on_cpu_is_refused():
    with pytest.raises(ValueError, match="needs a model on an accelerator, got one on CPU"):
        causal().generate(PROMPTS, attention_mask=MASK, max_new_tokens=2, cache_implementation="offloaded")


@pytest.mark.parametrize("options", [{"do_sample": True}, {"no_repeat_ngram_size": 2}], ids=str)
def test_beams_go_on_from_embeddings_under_processors(options):
    model = causal("rotary_gqa_qk_norm")
    embeds = model.get_input_embeddings()(PROMPTS[:, 3:]).detach()
    found, expected = both(model, inputs_embeds=embeds, num_beams=3, max_new_tokens=6, **options)
    assert torch.equal(found, expected)
    assert found.shape[0] == len(PROMPTS)

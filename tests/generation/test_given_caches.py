"""Caches that the caller passes, goes on from, or asks for by name."""

import copy

import pytest
import torch
from transformers.cache_utils import DynamicCache, EncoderDecoderCache, StaticCache

from hf_custom_decoder.models.cache_custom_seq2seq import CustomSeq2SeqCache
from tests.factories import tiny_config
from tests.generation.helpers import COVERING, EVERYTHING, assert_same, batch, generate_seeded, seq2seq, stock_twin

DECODER = tiny_config().decoder

KINDS = {
    "ours": lambda: CustomSeq2SeqCache(DynamicCache(config=DECODER), DynamicCache()),
    "stock": lambda: EncoderDecoderCache(DynamicCache(), DynamicCache()),
    "stock_by_config": lambda: EncoderDecoderCache(DynamicCache(config=DECODER), DynamicCache(config=DECODER)),
    "self_attention_alone": lambda: DynamicCache(),
    "ours_static": lambda: CustomSeq2SeqCache(
        StaticCache(config=DECODER, max_cache_len=12), StaticCache(config=DECODER, max_cache_len=7)
    ),
    "stock_static": lambda: EncoderDecoderCache(
        StaticCache(config=DECODER, max_cache_len=12), StaticCache(config=DECODER, max_cache_len=7)
    ),
    "mixed": lambda: CustomSeq2SeqCache(StaticCache(config=DECODER, max_cache_len=12), DynamicCache()),
}


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_given_empty_cache_is_used_and_changes_nothing(kind, options):
    model, inputs, cache = seq2seq(), batch(), KINDS[kind]()
    expected = generate_seeded(model, **inputs, max_new_tokens=8, **options)
    output = generate_seeded(
        model, **inputs, max_new_tokens=8, past_key_values=cache, return_dict_in_generate=True, **options
    )
    assert torch.equal(output.sequences, expected)
    assert output.past_key_values is cache
    assert int(cache.get_seq_length()) > 0


@pytest.mark.parametrize("kind", ["ours", "ours_static"])
def test_a_cache_serves_again_after_reset(kind):
    model, cache = seq2seq(), KINDS[kind]()
    num_rows = [3, 3] if kind == "ours_static" else [3, 2, 3]  # static caches keep their rows
    for index, options in enumerate(({"num_beams": 3}, {"num_beams": 3, "length_penalty": 2.0}, {})[: len(num_rows)]):
        inputs = batch(num_rows[index])
        expected = model.generate(**inputs, max_new_tokens=8, **options)
        assert torch.equal(model.generate(**inputs, max_new_tokens=8, past_key_values=cache, **options), expected)
        cache.reset()
        assert int(cache.get_seq_length()) == 0
        assert cache.source_index is None


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "num_return_sequences": 3}], ids=str)
def test_generation_goes_on_from_a_returned_cache(options):
    model, inputs = seq2seq("rotary"), batch()
    first = generate_seeded(
        model, **inputs, max_new_tokens=4, eos_token_id=-1, return_dict_in_generate=True, **options
    )
    ids = first.sequences
    repeated = {name: value.repeat_interleave(len(ids) // 3, 0) for name, value in inputs.items()}
    expected = model.generate(**repeated, decoder_input_ids=ids, max_new_tokens=5, **EVERYTHING)
    found = model.generate(
        **repeated,
        decoder_input_ids=ids,
        decoder_attention_mask=torch.ones_like(ids),  # says that the ids of the cache are among these
        past_key_values=first.past_key_values,
        max_new_tokens=5,
        **{**EVERYTHING, "output_attentions": False, "output_hidden_states": False},
    )
    for name in ("sequences", "scores", "logits"):
        assert_same(found[name], expected[name], name)


def test_keys_of_a_source_that_are_computed_before_are_shared():
    model, inputs = seq2seq(), batch()
    expected = model.generate(**inputs, max_new_tokens=8, num_beams=3)
    cache = CustomSeq2SeqCache(DynamicCache(config=DECODER), _filled(model, inputs).cross_attention_cache)
    assert torch.equal(model.generate(**inputs, max_new_tokens=8, num_beams=3, past_key_values=cache), expected)


@pytest.mark.parametrize("variant", COVERING)
def test_attentions_are_the_same_from_a_static_cache(variant):
    model, inputs = seq2seq(variant), batch()
    for prefix in ([[1, 7, 8], [1, 13, 14], [1, 15, 16]], [[1, 7, 8], [0, 1, 13], [0, 0, 1]]):
        ids = torch.tensor(prefix)
        real = ids != 0
        options = {"decoder_input_ids": ids, "max_new_tokens": 5, "eos_token_id": -1, **EVERYTHING}
        if not real.all():
            options["decoder_attention_mask"] = real.long()
        expected = model.generate(**inputs, **options)
        found = model.generate(**inputs, **options, cache_implementation="static")
        for step in range(5):
            queries = real if step == 0 else torch.ones(3, 1, dtype=torch.bool)
            for layer in range(2):
                ours, theirs = (output.cross_attentions[step][layer] for output in (found, expected))
                assert_same(ours.transpose(1, 2)[queries], theirs.transpose(1, 2)[queries])
                ours, theirs = (output.decoder_attentions[step][layer] for output in (found, expected))
                ours, theirs = ours.transpose(1, 2)[queries], theirs.transpose(1, 2)[queries]  # (queries, H, keys)
                for weights in (ours, theirs):
                    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
                # Static caches have slots for what is not yet, or no longer, there.
                assert_same(ours.sort(-1).values[..., -2:], theirs.sort(-1).values[..., -2:])


@pytest.mark.parametrize("name", ["offloaded", "offloaded_static"])
def test_an_offloaded_cache_on_cpu_is_refused(name):
    with pytest.raises(ValueError, match=f"`cache_implementation='{name}'` needs a model on an accelerator"):
        seq2seq().generate(**batch(), max_new_tokens=2, cache_implementation=name)


def test_a_quantized_cache_is_refused():
    with pytest.raises(ValueError, match="`cache_implementation='quantized'` is for decoders alone"):
        seq2seq().generate(**batch(), max_new_tokens=2, cache_implementation="quantized")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("name", ["offloaded", "offloaded_static", "static"])
def test_offloaded_and_compiled_caches_on_a_gpu(name):
    model = copy.deepcopy(seq2seq()).cuda()
    inputs = {key: value.cuda() for key, value in batch().items()}
    for options in ({}, {"num_beams": 3}):
        expected = model.generate(**inputs, max_new_tokens=8, **options)
        found = model.generate(**inputs, max_new_tokens=8, cache_implementation=name, **options)
        assert torch.equal(found, expected)


def _filled(model, inputs):
    output = model(**inputs, decoder_input_ids=torch.ones(len(inputs["input_ids"]), 1, dtype=torch.long))
    return output.past_key_values


def test_a_cache_of_a_deeper_model_is_refused():
    cache = _filled(seq2seq(), batch())
    with pytest.raises(ValueError, match="`past_key_values` must have one layer for each of the decoder's 1, got 2"):
        seq2seq(num_layers=1)(**batch(), decoder_input_ids=torch.ones(3, 1, dtype=torch.long), past_key_values=cache)


def test_a_cache_with_other_heads_is_refused():
    cache = _filled(seq2seq("rotary_gqa_qk_norm"), batch())
    with pytest.raises(ValueError, match=r"\(rows, key heads, head width\) = \(3, 4, 8\), got \(3, 2, 8\)"):
        seq2seq()(**batch(), decoder_input_ids=torch.ones(3, 1, dtype=torch.long), past_key_values=cache)


def test_a_cache_of_another_batch_is_refused():
    model, cache = seq2seq(), _filled(seq2seq(), batch(3))
    with pytest.raises(ValueError, match=r"\(rows, key heads, head width\) = \(2, 4, 8\), got \(3, 4, 8\)"):
        model(**batch(2), decoder_input_ids=torch.ones(2, 1, dtype=torch.long), past_key_values=cache)


def test_a_cache_of_another_source_is_refused():
    model, cache = seq2seq(), _filled(seq2seq(), batch(3, source_length=7))
    with pytest.raises(ValueError, match=r"the source of this call has \(rows, tokens\) = \(3, 5\), .* has \(3, 7\)"):
        model(**batch(3, 5), decoder_input_ids=torch.ones(3, 1, dtype=torch.long), past_key_values=cache)
    cache = EncoderDecoderCache(
        StaticCache(config=DECODER, max_cache_len=12), StaticCache(config=DECODER, max_cache_len=20)
    )
    with pytest.raises(ValueError, match=r"the source of this call has \(rows, tokens\) = \(3, 7\), .* has \(3, 20\)"):
        model.generate(**batch(3), max_new_tokens=3, past_key_values=cache)


def test_a_filled_cache_is_not_shared_by_new_beams():
    cache = _filled(seq2seq(), batch())
    with pytest.raises(ValueError, match=r"\(rows, key heads, head width\) = \(6, 4, 8\), got \(3, 4, 8\)"):
        seq2seq().generate(**batch(), max_new_tokens=3, past_key_values=cache, num_beams=2)


def test_a_loop_that_repeats_rows_midway_runs_as_with_the_stock_cache():
    """Contrastive search and its like expand inputs and cache after the first step, and select rows later."""

    def search(model, input_ids, generation_config=None, logits_processor=None, stopping_criteria=None, **kwargs):
        inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **kwargs)
        logits = model(**inputs).logits[:, -1]
        num_rows = input_ids.shape[0]
        _, kwargs = model._expand_inputs_for_generation(
            expand_size=2, is_encoder_decoder=True, input_ids=input_ids, **kwargs
        )
        for _ in range(4):
            candidates = logits.topk(2).indices  # (rows, 2)
            kwargs["past_key_values"].batch_repeat_interleave(2)
            inputs = model.prepare_inputs_for_generation(candidates.reshape(-1, 1), next_sequence_length=1, **kwargs)
            logits = model(**inputs).logits[:, -1]
            best = logits.max(-1).values.view(num_rows, 2).argmax(-1)
            chosen = best + 2 * torch.arange(num_rows)
            kwargs["past_key_values"].batch_select_indices(chosen)
            logits = logits[chosen]
            input_ids = torch.cat([input_ids, candidates.gather(1, best[:, None])], dim=1)
        return input_ids

    model, inputs = seq2seq(), batch()
    for options in ({}, {"do_sample": True, "num_return_sequences": 2}):
        expected = stock_twin(model).generate(**inputs, max_new_tokens=5, custom_generate=search, **options)
        assert torch.equal(model.generate(**inputs, max_new_tokens=5, custom_generate=search, **options), expected)

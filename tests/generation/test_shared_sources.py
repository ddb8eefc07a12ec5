"""The contract of shared sources: ids, scores and row counts of every field are those of the stock expansion."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers.modeling_outputs import BaseModelOutput

from hf_custom_decoder import CustomSeq2SeqConfig, TransformerDecoderConfig, TransformerEncoderConfig
from hf_custom_decoder.models.modeling_custom_seq2seq import CustomSeq2SeqForConditionalGeneration
from tests.factories import ALL_VARIANTS, SIZES
from tests.generation.helpers import (
    COVERING,
    EVERYTHING,
    assert_same,
    batch,
    enliven,
    expanded_twin,
    foreign,
    foreign_batch,
    generate_seeded,
    seq2seq,
    stock_twin,
)

PREFIX = torch.tensor([[1, 7, 8]] * 4)

OPTIONS = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "n_best": {"num_beams": 3, "num_return_sequences": 3},
    "long_preferred": {"num_beams": 3, "length_penalty": 2.0},
    "short_preferred": {"num_beams": 3, "length_penalty": -1.0},
    "early_stopping": {"num_beams": 3, "early_stopping": True},
    "never_stopping_early": {"num_beams": 3, "early_stopping": "never"},
    "one_end_id": {"num_beams": 3, "eos_token_id": 2},
    "no_end_id": {"num_beams": 2, "eos_token_id": -1},
    "samples": {"do_sample": True, "num_return_sequences": 3},
    "filtered_samples": {"do_sample": True, "num_return_sequences": 2, "top_k": 9, "top_p": 0.9, "temperature": 0.7},
    "sampled_beams": {"do_sample": True, "num_beams": 3, "num_return_sequences": 2},
    "no_cache": {"num_beams": 3, "use_cache": False},
    "samples_without_cache": {"do_sample": True, "num_return_sequences": 2, "use_cache": False},
    "static": {"num_beams": 3, "cache_implementation": "static"},
    "static_samples": {"do_sample": True, "num_return_sequences": 2, "cache_implementation": "static"},
    "prefix": {"num_beams": 2, "decoder_input_ids": PREFIX},
    "no_repeated_ngrams": {"num_beams": 2, "no_repeat_ngram_size": 2},
    "no_ngrams_of_the_source": {"num_beams": 2, "encoder_no_repeat_ngram_size": 1},
    "source_penalty": {"num_beams": 2, "encoder_repetition_penalty": 1.4},
    "repetition_penalty": {"num_beams": 2, "repetition_penalty": 1.5},
    "bad_words": {"num_beams": 2, "bad_words_ids": [[29], [14, 20]]},
    "sequence_bias": {"num_beams": 2, "sequence_bias": [[[14], 3.0], [[29, 45], -5.0]]},
    "forced_ends": {"num_beams": 2, "forced_bos_token_id": 7, "forced_eos_token_id": 2},
    "min_length": {"num_beams": 2, "min_length": 6},
    "min_new_tokens": {"num_beams": 2, "min_new_tokens": 6},
    "length_pressure": {"num_beams": 2, "exponential_decay_length_penalty": (3, 1.5)},
    "suppressed": {"num_beams": 2, "suppress_tokens": [29], "begin_suppress_tokens": [14]},
    "renormalized": {"num_beams": 2, "renormalize_logits": True, "bad_words_ids": [[29]]},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_returned_field_is_that_of_stock_generation(name):
    model, inputs = seq2seq(), batch(4)
    options = {**EVERYTHING, "max_new_tokens": 7, **OPTIONS[name]}
    found = generate_seeded(model, **inputs, **copy.deepcopy(options))
    expected = generate_seeded(stock_twin(model), **inputs, **copy.deepcopy(options))
    assert_same(found, expected)


def test_row_counts_in_figures():
    output = seq2seq().generate(**batch(4), max_new_tokens=5, num_beams=3, num_return_sequences=2, **EVERYTHING)
    num_heads, width, source_length = SIZES["num_attention_heads"], SIZES["hidden_size"], 7
    assert output.sequences.shape == (8, 6)
    assert output.sequences_scores.shape == (8,)
    assert output.beam_indices.shape == (8, 5)
    assert output.encoder_hidden_states[-1].shape == (4, source_length, width)
    assert output.encoder_attentions[0].shape == (4, num_heads, source_length, source_length)
    for step in range(5):
        assert output.scores[step].shape == output.logits[step].shape == (12, SIZES["vocab_size"])
        for layer in range(2):
            assert output.decoder_attentions[step][layer].shape == (12, num_heads, 1, step + 1)
            assert output.cross_attentions[step][layer].shape == (12, num_heads, 1, source_length)
        assert output.decoder_hidden_states[step][-1].shape == (12, 1, width)


def test_cross_attentions_are_distributions_over_the_real_source():
    inputs = batch(4)
    output = seq2seq().generate(**inputs, max_new_tokens=4, num_beams=3, **EVERYTHING)
    padding = (inputs["attention_mask"] == 0).repeat_interleave(3, 0)
    for weights in (layer for step in output.cross_attentions for layer in step):
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        assert weights.masked_select(padding[:, None, None]).max() == 0


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_every_variant_shares_as_if_it_expanded(variant):
    model, inputs = seq2seq(variant), batch()
    options = {**EVERYTHING, "max_new_tokens": 7, "num_beams": 3, "num_return_sequences": 2}
    # The stock cache of sliding layers cuts the source to their window.
    twin = expanded_twin(model) if "sliding" in variant else stock_twin(model)
    for output_attentions in (True, False):  # the eager kernel, and the one of the config
        options["output_attentions"] = output_attentions
        assert_same(model.generate(**inputs, **options), twin.generate(**inputs, **options))


@pytest.mark.parametrize("name", ["bert", "t5", "vit"])
@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}], ids=str)
def test_foreign_encoders_share_too(name, options):
    model, inputs = foreign(name), foreign_batch(name)
    options = {**EVERYTHING, "output_attentions": False, "max_new_tokens": 6, **options}
    expected = generate_seeded(stock_twin(model), **inputs, **options)
    found = generate_seeded(model, **inputs, **options)
    assert_same(found, expected)
    assert found.past_key_values.cross_attention_cache.layers[0].keys.shape[0] == 3


def test_a_bridge_between_widths_changes_nothing():
    encoder = TransformerEncoderConfig(**{**SIZES, "hidden_size": 24, "vocab_size": 50})
    config = CustomSeq2SeqConfig(encoder=encoder, decoder=TransformerDecoderConfig(**SIZES), tie_word_embeddings=False)
    model = enliven(CustomSeq2SeqForConditionalGeneration(config))
    options = {**EVERYTHING, "max_new_tokens": 6, "num_beams": 3}
    assert_same(model.generate(**batch(), **options), stock_twin(model).generate(**batch(), **options))


@pytest.mark.parametrize("use_cache", [True, False])
def test_given_encoder_outputs_are_shared_and_left_as_they_are(use_cache):
    model, inputs = seq2seq(), batch()
    expected = model.generate(**inputs, max_new_tokens=7, num_beams=3)
    outputs = model.get_encoder()(**inputs)
    for encoded in (outputs, BaseModelOutput(outputs.last_hidden_state)):
        found = model.generate(
            encoder_outputs=encoded,
            attention_mask=inputs["attention_mask"],
            max_new_tokens=7,
            num_beams=3,
            use_cache=use_cache,
        )
        assert torch.equal(found, expected)
        assert encoded.last_hidden_state.shape[0] == 3


def test_given_source_embeddings_are_shared():
    model, inputs = seq2seq(), batch()
    embeddings = model.get_encoder().get_input_embeddings()(inputs["input_ids"])
    options = {"max_new_tokens": 7, "num_beams": 3, "attention_mask": inputs["attention_mask"]}
    expected = model.generate(input_ids=inputs["input_ids"], **options)
    assert torch.equal(model.generate(inputs_embeds=embeddings, **options), expected)


def test_token_type_ids_that_tokenizers_add_unasked_change_nothing():
    model, inputs = seq2seq(), batch()
    expected = model.generate(**inputs, max_new_tokens=7, num_beams=3)
    types = torch.zeros_like(inputs["input_ids"])
    assert torch.equal(model.generate(**inputs, token_type_ids=types, max_new_tokens=7, num_beams=3), expected)


def test_only_generate_may_let_rows_share_a_source():
    model, inputs = seq2seq(), batch()
    with pytest.raises(ValueError, match=r"`decoder_input_ids` has 6 rows, the source has 3 .* expects 3"):
        model(**inputs, decoder_input_ids=torch.ones(6, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="decoder and source must have the same number of rows, got 6 and 3"):
        model(**inputs, decoder_input_ids=torch.ones(6, 1, dtype=torch.long), use_cache=False)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    variant=st.sampled_from(COVERING),
    num_beams=st.integers(1, 4),
    num_returned=st.integers(1, 3),
    do_sample=st.booleans(),
    length_penalty=st.sampled_from([-1.0, 0.0, 1.0, 2.5]),
    early_stopping=st.sampled_from([True, False, "never"]),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    prefix_length=st.integers(0, 3),
    cache=st.sampled_from([None, "static", "off"]),
    output_attentions=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_options_give_what_the_expansion_gives(
    variant,
    num_beams,
    num_returned,
    do_sample,
    length_penalty,
    early_stopping,
    lengths,
    prefix_length,
    cache,
    output_attentions,
    seed,
):
    model = seq2seq(variant)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(12, 30, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    options = {**EVERYTHING, "input_ids": ids * mask, "attention_mask": mask, "max_new_tokens": 5}
    options["output_attentions"] = output_attentions
    if num_beams > 1:
        options.update(num_beams=num_beams, length_penalty=length_penalty, early_stopping=early_stopping)
    options["num_return_sequences"] = min(num_returned, num_beams) if not do_sample or num_beams > 1 else num_returned
    options.update({"use_cache": False} if cache == "off" else {"cache_implementation": cache})
    if prefix_length:
        prefix = torch.randint(12, 30, (len(lengths), prefix_length), generator=generator)
        options["decoder_input_ids"] = torch.cat([torch.ones_like(prefix[:, :1]), prefix], dim=1)
    found = generate_seeded(model, seed, do_sample=do_sample, **options)
    assert_same(found, generate_seeded(expanded_twin(model), seed, do_sample=do_sample, **options))

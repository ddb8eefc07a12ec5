"""Whole encoder-decoder models against BART and Marian of transformers, their weights carried over."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    PreTrainedModel,
)

from hf_custom_decoder.conversion import bart_weights, convert_bart, convert_marian, marian_weights
from tests.parity.comparison import DTYPES, assert_near, assert_same_gradients, gradients, randomize

VOCAB_SIZE, SOURCE, TARGET = 40, 8, 6
PAD, BOS, EOS = 0, 1, 2

SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 32,
    "dropout": 0.0,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
}

# Each source with what distinguishes it.
SOURCES: dict[str, dict[str, Any]] = {
    "bart": {"bos_token_id": BOS, "decoder_start_token_id": EOS, "forced_eos_token_id": EOS},
    "bart_scaled_relu_untied": {
        "bos_token_id": BOS,
        "decoder_start_token_id": EOS,
        "forced_bos_token_id": BOS,
        "scale_embedding": True,
        "activation_function": "relu",
        "tie_word_embeddings": False,
    },
    "marian": {
        "decoder_start_token_id": PAD,
        "scale_embedding": True,
        "activation_function": "swish",
        "forced_eos_token_id": EOS,
    },
    "marian_two_vocabularies": {
        "decoder_start_token_id": PAD,
        "scale_embedding": True,
        "activation_function": "swish",
        "forced_eos_token_id": EOS,
        "decoder_vocab_size": 30,
        "share_encoder_decoder_embeddings": False,
    },
}


def build(source: str, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A tiny random source model and ours made from it, both in evaluation mode."""
    is_bart = source.startswith("bart")
    config_class, model_class = (
        (BartConfig, BartForConditionalGeneration) if is_bart else (MarianConfig, MarianMTModel)
    )
    theirs = model_class(config_class(**SHAPE, **SOURCES[source]))
    tables = {
        name: module.weight.clone() for name, module in theirs.named_modules() if "Sinusoidal" in type(module).__name__
    }
    randomize(theirs)
    with torch.no_grad():
        for name, table in tables.items():  # not trained: they stay sines and cosines
            theirs.get_submodule(name).weight.copy_(table)
        theirs.final_logits_bias.copy_(torch.randn_like(theirs.final_logits_bias))
    theirs = theirs.to(dtype).eval()
    return theirs, (convert_bart if is_bart else convert_marian)(theirs)


def batch(theirs: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A source padded on the right and labels with ignored ends."""
    target_size = theirs.lm_head.out_features
    input_ids, labels = torch.randint(3, VOCAB_SIZE, (3, SOURCE)), torch.randint(3, target_size, (3, TARGET))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, 5:], attention_mask[2, 1:] = 0, 0
    input_ids[attention_mask == 0] = PAD
    labels[0, 4:], labels[2, 1:] = -100, -100
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def translated_gradients(source: str, theirs: nn.Module) -> dict[str, torch.Tensor]:
    return (bart_weights if source.startswith("bart") else marian_weights)(gradients(theirs))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("source", SOURCES)
def test_logits_loss_and_gradients(source: str, dtype: torch.dtype) -> None:
    theirs, ours = build(source, dtype)
    inputs = batch(theirs)
    expected, output = theirs(**inputs), ours(**inputs)
    assert_near(output.logits, expected.logits)
    assert_near(
        output.encoder_last_hidden_state[inputs["attention_mask"].bool()],
        expected.encoder_last_hidden_state[inputs["attention_mask"].bool()],
    )
    assert_near(output.loss, expected.loss)
    logits, labels = expected.logits.detach(), inputs["labels"]  # the loss, independently of both
    assert_near(output.loss, -logits.log_softmax(-1)[labels >= 0].gather(1, labels[labels >= 0][:, None]).mean())

    expected.loss.backward()
    output.loss.backward()
    assert_same_gradients(ours, translated_gradients(source, theirs), extra="lm_head.bias")

    # In training mode, without dropout, the vocabulary projection sees label positions only: the same once more.
    ours.zero_grad()
    output = ours.train()(**inputs)
    assert output.logits is None
    assert_near(output.loss, expected.loss)
    output.loss.backward()
    assert_same_gradients(ours, translated_gradients(source, theirs), extra="lm_head.bias")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("source", SOURCES)
def test_hidden_states_and_attentions(source: str, dtype: torch.dtype) -> None:
    theirs, ours = build(source, dtype)
    theirs.set_attn_implementation("eager")
    inputs = batch(theirs)
    real = inputs["attention_mask"].bool()
    expected = theirs(**inputs, output_attentions=True, output_hidden_states=True)
    output = ours(**inputs, output_attentions=True, output_hidden_states=True)
    for name in ("decoder_hidden_states", "decoder_attentions", "cross_attentions"):
        assert len(output[name]) == len(expected[name])
        for actual, wanted in zip(output[name], expected[name], strict=True):
            assert_near(actual, wanted, name)
    for actual, wanted in zip(output.encoder_hidden_states, expected.encoder_hidden_states, strict=True):
        assert_near(actual[real], wanted[real], "encoder_hidden_states")
    for actual, wanted in zip(output.encoder_attentions, expected.encoder_attentions, strict=True):
        assert_near(actual.transpose(1, 2)[real], wanted.transpose(1, 2)[real], "encoder_attentions")


@pytest.mark.parametrize("source", SOURCES)
def test_cached_steps(source: str) -> None:
    theirs, ours = build(source, torch.float64)
    inputs = batch(theirs)
    del inputs["labels"]
    target = torch.randint(3, theirs.lm_head.out_features, (3, TARGET))
    whole = theirs(**inputs, decoder_input_ids=target).logits
    their_cache = our_cache = None
    for start, end in ((0, 1), (1, 2), (2, 5), (5, 6)):
        step = {**inputs, "decoder_input_ids": target[:, start:end], "use_cache": True}
        expected = theirs(**step, past_key_values=their_cache)
        output = ours(**step, past_key_values=our_cache)
        their_cache, our_cache = expected.past_key_values, output.past_key_values
        assert_near(output.logits, expected.logits)
        assert_near(output.logits, whole[:, start:end])
        assert our_cache.get_seq_length() == their_cache.get_seq_length() == end


# Random models repeat themselves and never end: two rules of generate() see to variety, so that beams cross and end at
# different lengths.
VARIETY = {"max_length": 12, "no_repeat_ngram_size": 2, "exponential_decay_length_penalty": (3, 1.5)}
GENERATION = {
    "greedy": {},
    "beams": {"num_beams": 4},
    "several_short_beams": {
        "num_beams": 5,
        "num_return_sequences": 3,
        "length_penalty": 0.3,
        "early_stopping": True,
    },
    "long_beams": {
        "num_beams": 3,
        "num_return_sequences": 3,
        "length_penalty": 2.0,
        "min_length": 6,
        "exponential_decay_length_penalty": None,  # with `min_length` it makes nan of -inf
    },
    "beams_after_a_prefix": {"num_beams": 4, "num_return_sequences": 2, "decoder_input_ids": [[2, 9, 8]] * 3},
    "forbidden_words": {"num_beams": 2, "bad_words_ids": [[5], [6, 7]], "repetition_penalty": 1.3},
}


@pytest.mark.parametrize("generation", GENERATION)
@pytest.mark.parametrize("source", SOURCES)
def test_generated_text_and_scores(source: str, generation: str) -> None:
    theirs, ours = build(source, torch.float64)
    inputs = batch(theirs)
    del inputs["labels"]
    settings = {**VARIETY, "return_dict_in_generate": True, "output_scores": True, **GENERATION[generation]}
    if "decoder_input_ids" in settings:
        settings["decoder_input_ids"] = torch.tensor(settings["decoder_input_ids"])
    # transformers 5.17 takes the size of the source's vocabulary for the beams, also where Marian has two of them.
    theirs.config.vocab_size = theirs.lm_head.out_features
    expected = theirs.generate(**inputs, **settings)
    output = ours.generate(**inputs, **settings)
    assert torch.equal(output.sequences, expected.sequences)
    assert expected.sequences.unique(dim=0).shape[0] > 1
    assert len(output.scores) == len(expected.scores)
    for actual, wanted in zip(output.scores, expected.scores, strict=True):
        assert_near(actual, wanted)
    if settings.get("num_beams", 1) > 1:
        assert_near(output.sequences_scores, expected.sequences_scores)
        assert torch.equal(output.beam_indices, expected.beam_indices)

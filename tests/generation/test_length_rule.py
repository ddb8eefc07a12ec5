"""The saved length rule: nothing is cut at the 20 tokens of transformers, and what the caller says wins."""

import logging

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, GenerationConfig
from transformers.utils.logging import warning_once

from hf_custom_decoder import CustomSeq2SeqForConditionalGeneration, TransformerDecoderForCausalLM
from tests.factories import tiny_causal, tiny_seq2seq
from tests.generation.helpers import batch

NEVER_ENDING = {"eos_token_id": -1}


def _seq2seq():
    return tiny_seq2seq(encoder={"num_hidden_layers": 1}, decoder={"num_hidden_layers": 1})


def test_the_rule_is_the_number_of_positions():
    assert _seq2seq().generation_config.max_length == 64
    assert tiny_causal().generation_config.max_length == 64
    assert _seq2seq().generate(**batch(1), **NEVER_ENDING).shape == (1, 64)
    assert tiny_causal().generate(torch.tensor([[7, 8]]), **NEVER_ENDING).shape == (1, 64)


def test_the_rule_is_saved_and_loaded(tmp_path):
    model = _seq2seq()
    model.generation_config.num_beams = 2
    model.save_pretrained(tmp_path)
    saved = GenerationConfig.from_pretrained(tmp_path)
    assert (saved.max_length, saved.num_beams, saved.decoder_start_token_id) == (64, 2, 1)
    for loader in (CustomSeq2SeqForConditionalGeneration, AutoModelForSeq2SeqLM):
        loaded = loader.from_pretrained(tmp_path)
        assert loaded.generation_config.to_dict() == model.generation_config.to_dict()
        assert loaded.generate(**batch(1), **NEVER_ENDING).shape[1] == 64


def test_a_checkpoint_without_a_generation_config_has_the_rule(tmp_path):
    tiny_seq2seq(decoder_start_token_id=3).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    loaded = CustomSeq2SeqForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.generate(**batch(1), **NEVER_ENDING).shape[1] == 64
    rule = loaded.generation_config
    assert (rule.decoder_start_token_id, rule.pad_token_id, rule.bos_token_id, rule.eos_token_id) == (3, 0, 1, 2)
    tiny_causal().save_pretrained(tmp_path / "decoder")
    (tmp_path / "decoder" / "generation_config.json").unlink()
    decoder = TransformerDecoderForCausalLM.from_pretrained(tmp_path / "decoder")
    assert decoder.generate(torch.tensor([[7, 8]]), **NEVER_ENDING).shape[1] == 64


def test_another_saved_rule_is_kept(tmp_path):
    model = _seq2seq()
    model.generation_config.max_length = 33
    model.save_pretrained(tmp_path)
    loaded = CustomSeq2SeqForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.generate(**batch(1), **NEVER_ENDING).shape[1] == 33


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({"max_new_tokens": 5}, 6),
        ({"max_length": 5}, 5),
        ({"max_length": 90}, 90),
        ({"max_new_tokens": 90}, 91),
        ({"generation_config": GenerationConfig(max_new_tokens=5, eos_token_id=-1)}, 6),
        ({"generation_config": GenerationConfig(max_length=5, eos_token_id=-1)}, 5),
        ({"generation_config": GenerationConfig(num_beams=2, eos_token_id=-1)}, 64),
        ({"max_new_tokens": 5, "decoder_input_ids": torch.tensor([[1, 7, 8]])}, 8),
        ({"max_length": 6, "decoder_input_ids": torch.tensor([[1, 7, 8]])}, 6),
    ],
    ids=str,
)
def test_what_the_caller_says_wins(options, length):
    options = options if "generation_config" in options else {**options, **NEVER_ENDING}
    assert _seq2seq().generate(**batch(1), **options).shape[1] == length


def test_decoders_alone_count_the_prompt_in_max_length():
    model, ids = tiny_causal(), torch.tensor([[7, 8, 9]])
    assert model.generate(ids, max_new_tokens=5, **NEVER_ENDING).shape[1] == 8
    assert model.generate(ids, max_length=5, **NEVER_ENDING).shape[1] == 5


@pytest.fixture
def warned(caplog):
    """Warnings of transformers' generation, which are not passed to the root logger by default."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_the_usual_calls_warn_of_nothing(warned, recwarn):
    model = _seq2seq()
    inputs = batch(2)
    model.generate(**inputs, max_new_tokens=3)
    model.generate(**inputs, max_new_tokens=3, num_beams=2)
    model.generate(**inputs, max_length=4)
    model.generate(**inputs)
    model.generate(**inputs, generation_config=GenerationConfig(max_new_tokens=3))
    tiny_causal().generate(torch.tensor([[7, 8]]), max_new_tokens=3)
    assert [record.getMessage() for record in warned.records] == []
    assert [str(warning.message) for warning in recwarn] == []


def test_a_real_clash_of_lengths_is_still_warned_of(warned):
    _seq2seq().generate(**batch(1), max_new_tokens=3, max_length=9)
    assert "Both `max_new_tokens` (=3) and `max_length`(=9) seem to have been set" in warned.text


def test_an_ignored_chunk_size_is_told(warned):
    warning_once.cache_clear()
    _seq2seq().generate(**batch(1), max_new_tokens=3, prefill_chunk_size=2)
    assert "`prefill_chunk_size` is for long prompts of decoders" in warned.text

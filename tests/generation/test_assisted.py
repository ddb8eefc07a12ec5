"""Assisted and prompt-lookup decoding: the same tokens as greedy search, in fewer runs of the model."""

import copy
import itertools

import pytest
import torch

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    RecurrentDecoderForCausalLM,
    TransformerDecoderForCausalLM,
)
from tests.combinations import DECODERS, build_pair
from tests.factories import ALL_VARIANTS
from tests.generation.helpers import (
    COVERING,
    EVERYTHING,
    assert_same,
    batch,
    causal,
    enliven,
    foreign,
    foreign_batch,
    rows,
    seq2seq,
    stock_twin,
)


class _Calls:
    """Lengths of the decoder inputs that a model is run on."""

    def __init__(self, model):
        self.lengths = []
        model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, model, arguments, keywords):
        self.lengths.append(keywords.get("decoder_input_ids", keywords.get("input_ids")).shape[1])


def _drafting(model, num_tokens=4):
    """A copy that drafts a fixed number of tokens."""
    assistant = copy.deepcopy(model)
    assistant.generation_config.num_assistant_tokens = num_tokens
    assistant.generation_config.num_assistant_tokens_schedule = "constant"
    assistant.generation_config.assistant_confidence_threshold = 0
    return assistant


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_a_smaller_assistant_changes_nothing(variant):
    model, assistant = seq2seq(variant), _drafting(seq2seq(num_layers=1))
    for index in range(2):
        inputs = rows(batch(), index)
        expected = model.generate(**inputs, max_new_tokens=20)
        assert torch.equal(model.generate(**inputs, max_new_tokens=20, assistant_model=assistant), expected)


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_prompt_lookup_changes_nothing(variant):
    model, inputs = seq2seq(variant), rows(batch(), 0)
    options = {"max_new_tokens": 20, "decoder_input_ids": torch.tensor([[1, 14, 20, 29, 14, 20]])}
    expected = model.generate(**inputs, **options)
    for num_tokens in (2, 5):
        assert torch.equal(model.generate(**inputs, **options, prompt_lookup_num_tokens=num_tokens), expected)


@pytest.mark.parametrize("variant", COVERING)
def test_an_assistant_that_is_always_right_saves_runs(variant):
    """Every draft of four is accepted and one token is added: 20 tokens in 4 runs, the second draft included."""
    model, inputs = copy.deepcopy(seq2seq(variant)), rows(batch(), 0)
    expected = model.generate(**inputs, max_new_tokens=20, eos_token_id=-1)
    calls = _Calls(model)
    assistant = _drafting(seq2seq(variant))
    drafts = _Calls(assistant)
    found = model.generate(**inputs, max_new_tokens=20, eos_token_id=-1, assistant_model=assistant)
    assert torch.equal(found, expected)
    assert calls.lengths == [5, 5, 5, 5]
    assert max(drafts.lengths) == 2  # the drafted token that is not cached yet, and the added one


def test_an_assistant_over_the_same_encoder():
    model, inputs = seq2seq(), rows(batch(), 0)
    config = CustomSeq2SeqConfig(
        encoder=copy.deepcopy(model.config.encoder),
        decoder={**seq2seq(num_layers=1).config.decoder.to_dict(), "hidden_size": 16, "num_attention_heads": 2},
        tie_word_embeddings=False,
    )
    assistant = CustomSeq2SeqForConditionalGeneration(config, encoder=model.model.encoder).double().eval()
    assert assistant.model.encoder is model.model.encoder
    expected = model.generate(**inputs, max_new_tokens=20)
    assert torch.equal(model.generate(**inputs, max_new_tokens=20, assistant_model=assistant), expected)


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_assistants_over_foreign_encoders(name):
    model, inputs = foreign(name), foreign_batch(name, 1)
    expected = model.generate(**inputs, max_new_tokens=12)
    assert torch.equal(model.generate(**inputs, max_new_tokens=12, assistant_model=_drafting(model)), expected)
    assert torch.equal(model.generate(**inputs, max_new_tokens=12, prompt_lookup_num_tokens=3), expected)


def test_a_padded_prefix_with_an_assistant():
    model, inputs = seq2seq("rotary"), rows(batch(), 0)
    options = {
        "decoder_input_ids": torch.tensor([[0, 0, 1, 7]]),
        "decoder_attention_mask": torch.tensor([[0, 0, 1, 1]]),
        "max_new_tokens": 15,
    }
    expected = model.generate(**inputs, **options)
    for assistant in (seq2seq("rotary"), seq2seq(num_layers=1)):
        assert torch.equal(model.generate(**inputs, **options, assistant_model=_drafting(assistant)), expected)


def test_returned_fields_have_one_entry_a_token():
    model, inputs = seq2seq(), rows(batch(), 0)
    options = {**EVERYTHING, "max_new_tokens": 12, "assistant_model": _drafting(seq2seq(num_layers=1))}
    found = model.generate(**inputs, **options)
    greedy = model.generate(**inputs, max_new_tokens=12, **EVERYTHING)
    for name in ("sequences", "scores", "logits", "encoder_attentions", "encoder_hidden_states"):
        assert_same(found[name], greedy[name], name)
    options["assistant_model"] = _drafting(seq2seq(num_layers=1))  # drafts adapt, so a fresh one
    assert_same(found, stock_twin(model).generate(**inputs, **options))


def test_sampling_with_an_assistant_keeps_to_the_likely_tokens():
    model, inputs = seq2seq(), rows(batch(), 0)
    options = {"max_new_tokens": 8, "do_sample": True, "top_k": 1}
    greedy = model.generate(**inputs, max_new_tokens=8)
    assert torch.equal(model.generate(**inputs, **options, assistant_model=_drafting(seq2seq(num_layers=1))), greedy)


def test_what_assisted_decoding_cannot_do_is_refused():
    model = seq2seq()
    with pytest.raises(ValueError, match="only supported for batch_size = 1"):
        model.generate(**batch(), max_new_tokens=4, assistant_model=seq2seq(num_layers=1))
    with pytest.raises(ValueError, match="not supported with Static cache"):
        model.generate(
            **rows(batch(), 0), max_new_tokens=4, assistant_model=seq2seq(num_layers=1), cache_implementation="static"
        )


@pytest.mark.parametrize("build", [seq2seq, causal])
def test_an_early_exit_is_refused_before_any_work(build):
    """transformers would write the number of layers into the config, and leave it there when the draft fails."""
    model, ids = copy.deepcopy(build()), batch()["input_ids"][:1]
    expected = model.generate(ids, max_new_tokens=6)
    calls = _count_forwards(model)
    with pytest.raises(
        ValueError, match=r"`assistant_early_exit` must be None, got 1: .* runs all layers .*Give a sm"
    ):
        model.generate(ids, max_new_tokens=6, assistant_early_exit=1)
    assert calls == []
    assert model.config.num_hidden_layers == 2
    assert torch.equal(model.generate(ids, max_new_tokens=6), expected)


STATEFUL = [("lstm_2", "lstm_dot"), ("gru_2", "gru_none"), ("transformer", "ssru"), ("gru_1", "hybrid_mingru_last")]


def _stateful(kind):
    """A model whose past cannot be shortened, with inputs for it."""
    if isinstance(kind, tuple):
        return build_pair(*kind), rows(batch(), 0)
    if kind == "recurrent":
        return RecurrentDecoderForCausalLM(DECODERS["gru_dot"]()).eval(), {"input_ids": batch()["input_ids"][:1]}
    model = TransformerDecoderForCausalLM(DECODERS[kind]()).eval()
    return model, {"input_ids": batch()["input_ids"][:1]}


@pytest.mark.parametrize("kind", [*STATEFUL, "recurrent", "ssru", "hybrid_ssru_first"], ids=str)
@pytest.mark.parametrize("how", ["assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit"])
def test_a_stateful_model_is_refused_before_any_work(kind, how):
    model, inputs = _stateful(kind)
    calls = _count_forwards(model)
    value = {"assistant_model": seq2seq() if isinstance(kind, tuple) else causal()}.get(how, 2)
    with pytest.raises(ValueError, match="assisted generation is not supported with stateful models, such as"):
        model.generate(**inputs, max_new_tokens=4, **{how: value})
    assert calls == []


@pytest.mark.parametrize("kind", [*STATEFUL, "recurrent", "ssru", "hybrid_ssru_first"], ids=str)
def test_a_stateful_assistant_is_refused_before_any_work(kind):
    """A rejected draft would have to leave its state, which transformers does not ask about."""
    assistant, inputs = _stateful(kind)
    model = copy.deepcopy(seq2seq() if isinstance(kind, tuple) else causal())
    calls = _count_forwards(model, assistant)
    words = (
        r"`assistant_model` must be able to take rejected tokens .*got \w+ with recurrent layers\. Use an assistant"
    )
    with pytest.raises(ValueError, match=words):
        model.generate(**inputs, max_new_tokens=4, assistant_model=assistant)
    assert calls == []


def _count_forwards(*models):
    """A list that grows with every forward of the models or of parts of them."""
    calls = []
    for module in itertools.chain.from_iterable(model.modules() for model in models):
        module.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_a_decoder_alone_is_assisted_too(variant):
    model, ids = causal(variant), torch.tensor([[7, 8, 13, 7, 8, 10]])
    other = enliven(copy.deepcopy(causal()))
    expected = model.generate(ids, max_new_tokens=16)
    for options in (
        {"prompt_lookup_num_tokens": 3},
        {"assistant_model": _drafting(model)},
        {"assistant_model": _drafting(other)},
    ):
        assert torch.equal(model.generate(ids, max_new_tokens=16, **options), expected)


@pytest.mark.parametrize("variant", ["default", "sliding_first"])
def test_a_decoder_with_a_source_is_assisted_too(variant):
    model, ids = causal(variant, add_cross_attention=True), torch.tensor([[7, 8, 13, 7, 8, 10]])
    source = {
        "encoder_hidden_states": torch.randn(1, 5, 32, dtype=torch.float64),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 1, 0]]),
    }
    expected = model.generate(ids, max_new_tokens=16, **source)
    other = enliven(copy.deepcopy(model))
    for options in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": _drafting(other)}):
        assert torch.equal(model.generate(ids, max_new_tokens=16, **source, **options), expected)

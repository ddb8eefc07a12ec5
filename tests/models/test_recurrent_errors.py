"""What recurrent configs, models and decoding states refuse: the argument, the rule, the value found, what to do."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    RecurrentDecoderConfig,
    RecurrentDecoderForCausalLM,
    RecurrentEncoderConfig,
)
from tests.combinations import ENCODERS, RECURRENT_SIZES, build_pair
from tests.factories import tiny_batch

# (arguments, error, words after the class name)
Refusal = tuple[dict[str, Any], type[Exception], str]

OF_BOTH_STACKS: list[Refusal] = [
    *[
        (
            {"cell_type": value},
            ValueError,
            rf"`cell_type` must be one of \['rnn', 'gru', 'lstm'\], got {value!r}\. Choose",
        )
        for value in ("GRU", "elman", None)
    ],
    *[
        ({name: 0}, ValueError, rf"`{name}` must be a whole number of at least 1, got 0\. Set it to one")
        for name in ("vocab_size", "hidden_size", "embedding_size", "num_hidden_layers", "max_position_embeddings")
    ],
    ({"dropout": 1.0}, ValueError, r"`dropout` must be a probability in \[0, 1\), got 1\.0\. Use 0\.0"),
    ({"initializer_range": 0}, ValueError, r"`initializer_range` must be a number above 0 and finite, got 0"),
    ({"pad_token_id": 50}, ValueError, r"`pad_token_id` must be None or lie in \[0, vocab_size=50\), got 50"),
    ({"config_format": 2}, ValueError, r"`config_format` is 2, this code reads formats up to 1"),
    ({"cel_type": "gru"}, ValueError, r"`cel_type` is not an argument .*Did you mean `cell_type`\? Nothing was set"),
]
OF_THE_ENCODER: list[Refusal] = [
    ({"bidirectional": 1}, TypeError, r"`bidirectional` must be True or False, got 1"),
    ({"hidden_size": 33}, ValueError, r"`hidden_size` must be even with `bidirectional=True` .*got 33\. Use an even"),
    *[
        ({name: value}, ValueError, rf"`{name}` is not an argument of this config\. Give it to RecurrentDecoderConfig")
        for name, value in (("attention_type", "dot"), ("bridge_type", "copy"), ("input_feeding", True))
    ],
]
OF_THE_DECODER: list[Refusal] = [
    *[
        (
            {"attention_type": value},
            ValueError,
            rf"`attention_type` must be one of \['none', .*\], got {value!r}\. Choose",
        )
        for value in ("luong", None)
    ],
    *[
        ({"bridge_type": value}, ValueError, rf"`bridge_type` must be one of \['zeros', .*\], got {value!r}\. Choose")
        for value in ("none", True)
    ],
    (
        {"readout_sizes": 16},
        ValueError,
        r"`readout_sizes` must be a list of widths or None, got 16\. Put it in a list",
    ),
    (
        {"readout_sizes": [8, 0]},
        ValueError,
        r"`readout_sizes\[1\]` must be a whole number of at least 1, got 0\. Set it",
    ),
    ({"readout_sizes": ["8"]}, ValueError, r"`readout_sizes\[0\]` must be a whole number of at least 1, got '8'"),
    (
        {"readout_act": "tanh"},
        ValueError,
        r"`readout_act` stands after .*got 'tanh' and none of them\. Set `readout_sizes`",
    ),
    (
        {"readout_act": "swoosh", "readout_sizes": [8]},
        ValueError,
        r"`readout_act` must be one of \['gelu', .*\], got 'swoosh'\. Choose",
    ),
    (
        {"attention_type": "multihead", "num_attention_heads": 5},
        ValueError,
        r"`hidden_size` must be divisible by `num_attention_heads` with `attention_type='multihead'`, got 32 and 5\. Change",
    ),
    ({"num_attention_heads": 0}, ValueError, r"`num_attention_heads` must be a whole number of at least 1, got 0"),
    ({"attention_dropout": -0.1}, ValueError, r"`attention_dropout` must be a probability in \[0, 1\), got -0\.1"),
    (
        {"input_feeding": True, "attention_type": "none"},
        ValueError,
        r"`input_feeding=True` feeds what attention returns, got `attention_type='none'`\. Choose an `attention_type`",
    ),
    (
        {"tie_word_embeddings": True, "embedding_size": 16},
        ValueError,
        r"`tie_word_embeddings=True` needs an output as wide as the embeddings, got 32 and 16\. Set `readout_sizes`",
    ),
    *[
        ({name: 1}, TypeError, rf"`{name}` must be True or False, got 1")
        for name in ("attentional_layer", "input_feeding", "residual", "lm_head_bias", "use_cache")
    ],
    ({"mixer_types": ["recurrent"]}, ValueError, r"`mixer_types` is not an argument .*Every layer is recurrent: set"),
    ({"bidirectional": True}, ValueError, r"`bidirectional` is not an argument .*give it to RecurrentEncoderConfig"),
]


def cases(table: list[Refusal]) -> pytest.MarkDecorator:
    ids = [", ".join(f"{name}={str(value)[:20]}" for name, value in one[0].items()) for one in table]
    return pytest.mark.parametrize(("arguments", "error", "words"), table, ids=ids)


def check_refused(
    config_class: type[PreTrainedConfig], arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=rf"^{config_class.__name__}: {words}"):
        config_class(**{**RECURRENT_SIZES, **arguments})


@pytest.mark.parametrize("config_class", [RecurrentEncoderConfig, RecurrentDecoderConfig])
@cases(OF_BOTH_STACKS)
def test_stacks(
    config_class: type[PreTrainedConfig], arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    check_refused(config_class, arguments, error, words)


@cases(OF_THE_ENCODER)
def test_encoder(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    check_refused(RecurrentEncoderConfig, arguments, error, words)


@cases(OF_THE_DECODER)
def test_decoder(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    check_refused(RecurrentDecoderConfig, arguments, error, words)


@pytest.mark.parametrize(
    ("encoder", "fields", "words"),
    [
        *[
            (
                "transformer",
                {"bridge_type": value},
                rf"`bridge_type='{value}'` needs an encoder that returns final states, got TransformerEncoderConfig\. Use a RecurrentEncoderConfig",
            )
            for value in ("copy", "linear")
        ],
        (
            "transformer",
            {"attention_type": "none"},
            r"would never show the source to the decoder\. Choose an `attention_type`",
        ),
        ("gru_2", {"attention_type": "none", "bridge_type": "zeros"}, r"would never show the source to the decoder"),
        (
            "gru_2",
            {"bridge_type": "copy", "hidden_size": 48},
            r"`bridge_type='copy'` needs equal \(num_hidden_layers, hidden_size\) .*got \(2, 32\) and \(2, 48\)\. Make",
        ),
        (
            "gru_2",
            {"bridge_type": "copy", "num_hidden_layers": 3},
            r"`bridge_type='copy'` needs .*got \(2, 32\) and \(3, 32\)",
        ),
    ],
)
def test_pairs_that_do_not_fit(encoder: str, fields: dict[str, Any], words: str) -> None:
    config = CustomSeq2SeqConfig(
        encoder=ENCODERS[encoder](), decoder=RecurrentDecoderConfig(**{**RECURRENT_SIZES, **fields})
    )
    with pytest.raises(ValueError, match=words):
        CustomSeq2SeqForConditionalGeneration(config)


def test_what_is_set_later_is_checked_when_the_model_is_built() -> None:
    config = CustomSeq2SeqConfig(encoder=ENCODERS["gru_2"](), decoder=RecurrentDecoderConfig(**RECURRENT_SIZES))
    config.decoder.cell_type = "elman"
    with pytest.raises(ValueError, match=r"RecurrentDecoderConfig: `cell_type` must be one of"):
        CustomSeq2SeqForConditionalGeneration(config)


def test_input_feeding_without_a_source() -> None:
    words = r"`input_feeding=True` feeds what attention over a source returns, got `add_cross_attention=False`\. Set"
    with pytest.raises(ValueError, match=rf"RecurrentDecoderConfig: {words}"):
        RecurrentDecoderForCausalLM(RecurrentDecoderConfig(**RECURRENT_SIZES, input_feeding=True))


IDS = torch.tensor([[3, 4, 5, 6]]).repeat(3, 1)
SHAPE = r"`initial_states` must have the shape \(rows, layers, states, width\) = "


@pytest.mark.parametrize(
    ("states", "error", "words"),
    [
        (torch.zeros(2, 2, 2, 32), ValueError, SHAPE + r"\(3, 2, 2, 32\) and torch\.float32, got \(2, 2, 2, 32\)"),
        (torch.zeros(3, 3, 2, 32), ValueError, SHAPE + r".*got \(3, 3, 2, 32\) and torch\.float32\. Pass one"),
        (torch.zeros(3, 2, 1, 32), ValueError, SHAPE + r".*got \(3, 2, 1, 32\)"),
        (torch.zeros(3, 2, 2, 16), ValueError, SHAPE + r".*got \(3, 2, 2, 16\)"),
        (torch.zeros(3, 2, 32), ValueError, SHAPE + r".*got \(3, 2, 32\)"),
        (torch.zeros(3, 2, 2, 32).double(), ValueError, SHAPE + r".*torch\.float32, got .* and torch\.float64"),
        (torch.zeros(3, 2, 2, 32).long(), ValueError, SHAPE + r".*got .* and torch\.int64"),
        ([torch.zeros(3, 32)] * 2, TypeError, r"`initial_states` must be a tensor, got list"),
    ],
)
def test_initial_states(states: Any, error: type[Exception], words: str) -> None:
    model = RecurrentDecoderForCausalLM(RecurrentDecoderConfig(**RECURRENT_SIZES)).eval()
    for mode in (True, False):
        with pytest.raises(error, match=rf"RecurrentDecoderModel: {words}"):
            model.model.train(mode)(IDS, initial_states=states)


@functools.cache
def model_of(encoder: str, decoder: str) -> CustomSeq2SeqForConditionalGeneration:
    return build_pair(encoder, decoder)


@functools.cache
def other_size(**fields: int) -> CustomSeq2SeqForConditionalGeneration:
    decoder = RecurrentDecoderConfig(**{**RECURRENT_SIZES, "cell_type": "gru", **fields})
    return CustomSeq2SeqForConditionalGeneration(
        CustomSeq2SeqConfig(encoder=ENCODERS["gru_2"](), decoder=decoder)
    ).double()


def source(num_rows: int = 3, length: int = 7) -> dict[str, torch.Tensor]:
    batch = tiny_batch()
    return {name: batch[name][:num_rows, :length] for name in ("input_ids", "attention_mask")}


def filled(model: CustomSeq2SeqForConditionalGeneration) -> Cache:
    cache: Cache = model(**source(), decoder_input_ids=IDS, use_cache=True).past_key_values
    return cache


BUILDERS: dict[str, Callable[[], CustomSeq2SeqForConditionalGeneration]] = {
    **{
        name: functools.partial(model_of, encoder, name)
        for encoder, name in (
            ("gru_2", "gru_dot"),
            ("gru_2", "gru_none"),
            ("gru_2", "gru_multihead"),
            ("rnn_2", "rnn_dot"),
            ("lstm_2", "lstm_dot"),
            ("lstm_2", "lstm_input_feeding"),
            ("transformer", "transformer_default"),
            ("transformer", "ssru"),
            ("transformer", "mingru"),
            ("transformer", "hybrid_ssru_first"),
            ("transformer", "hybrid_mingru_last"),
        )
    },
    "deep": functools.partial(other_size, num_hidden_layers=3),
    "wide": functools.partial(other_size, hidden_size=48),
}
STATE = r"`past_key_values` must hold at index 0 the state of "


@pytest.mark.parametrize(
    ("giver", "taker", "words"),
    [
        (
            "gru_dot",
            "lstm_dot",
            STATE + r"'lstm' of shapes \[\(3, 32\), \(3, 32\)\] .*got 'gru' and \[\(3, 32\)\]: .*Pass",
        ),
        ("lstm_dot", "gru_dot", STATE + r"'gru' .*got 'lstm'"),
        ("rnn_dot", "gru_dot", STATE + r"'gru' .*got 'rnn' and \[\(3, 32\)\]"),
        ("gru_none", "ssru", STATE + r"'ssru' .*got 'gru'"),
        ("mingru", "ssru", STATE + r"'ssru' .*got 'mingru' and \[\(3, 32\)\]"),
        ("ssru", "gru_none", STATE + r"'gru' .*got 'ssru'"),
        ("wide", "gru_dot", STATE + r"'gru' of shapes \[\(3, 32\)\] .*got 'gru' and \[\(3, 48\)\]"),
        ("gru_dot", "wide", STATE + r"'gru' of shapes \[\(3, 48\)\] .*got 'gru' and \[\(3, 32\)\]"),
        (
            "deep",
            "gru_dot",
            r"`past_key_values` must have one layer for each of the decoder's 2, got 3\. Pass the cache",
        ),
        ("gru_dot", "deep", r"`past_key_values` must have one layer for each of the decoder's 3, got 2"),
        (
            "lstm_dot",
            "lstm_input_feeding",
            r"must hold at index 1 the state of 'lstm' of shapes \[\(3, 32\), \(3, 32\), \(3, 32\)\] .*got 'lstm' and \[\(3, 32\), \(3, 32\)\]",
        ),
        (
            "lstm_input_feeding",
            "lstm_dot",
            r"must hold at index 1 the state of 'lstm' .*got .*\(3, 32\), \(3, 32\), \(3, 32\)",
        ),
        (
            "gru_dot",
            "gru_multihead",
            r"the cross-attention cache .*must hold \(heads, head width\) = \(4, 8\), got \(1, 32\)",
        ),
        (
            "transformer_default",
            "gru_dot",
            r"must hold a recurrent layer at index 0, got DynamicLayer\. Pass what an earlier",
        ),
        ("transformer_default", "ssru", r"must hold a recurrent layer at index 0, got DynamicLayer"),
        ("transformer_default", "hybrid_mingru_last", r"must hold a recurrent layer at index 1, got DynamicLayer"),
        ("gru_dot", "transformer_default", r"must hold an attention layer at index 0, got RecurrentLayer\. Pass what"),
        ("ssru", "transformer_default", r"must hold an attention layer at index 0, got RecurrentLayer"),
        ("ssru", "hybrid_ssru_first", r"must hold an attention layer at index 1, got RecurrentLayer"),
        ("hybrid_mingru_last", "gru_dot", r"must hold a recurrent layer at index 0, got DynamicSlidingWindowLayer"),
    ],
)
def test_a_cache_of_another_model(giver: str, taker: str, words: str) -> None:
    with pytest.raises(ValueError, match=rf"(Recurrent|Transformer)DecoderModel: .*{words}"):
        BUILDERS[taker]()(**source(), decoder_input_ids=IDS[:, :1], past_key_values=filled(BUILDERS[giver]()))


RECURRENT = ("gru_dot", "gru_none", "lstm_input_feeding", "ssru", "hybrid_ssru_first", "hybrid_mingru_last")


@pytest.mark.parametrize("name", RECURRENT)
def test_a_cache_of_another_batch(name: str) -> None:
    model = BUILDERS[name]()
    with pytest.raises(ValueError, match=r"DecoderModel: `past_key_values` must hold .*\(2, .*got .*\(3, "):
        model(**source(2), decoder_input_ids=IDS[:2, :1], past_key_values=filled(model))


@pytest.mark.parametrize("name", [name for name in RECURRENT if name != "gru_none"])
def test_a_cache_of_another_source(name: str) -> None:
    model = BUILDERS[name]()
    words = (
        r"the source of this call has \(rows, tokens\) = \(3, 5\), the cross-attention cache .* has \(3, 7\)\. Pass"
    )
    with pytest.raises(ValueError, match=words):
        model(**source(length=5), decoder_input_ids=IDS[:, :1], past_key_values=filled(model))


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize(
    "make_cache",
    [DynamicCache, lambda: EncoderDecoderCache(DynamicCache(), DynamicCache())],
    ids=["dynamic", "encoder_decoder"],
)
def test_an_empty_cache_of_a_plain_kind(name: str, make_cache: Callable[[], Cache]) -> None:
    words = r"`past_key_values` must hold a recurrent layer at index \d, got none\. .*leave it out and a fresh one is built"
    with pytest.raises(ValueError, match=words):
        BUILDERS[name]()(**source(), decoder_input_ids=IDS, past_key_values=make_cache())


@pytest.mark.parametrize("name", RECURRENT)
def test_what_is_no_cache(name: str) -> None:
    with pytest.raises(TypeError, match=r"`past_key_values` must be a cache of transformers, got tuple\. Pass what"):
        BUILDERS[name]()(**source(), decoder_input_ids=IDS, past_key_values=((IDS, IDS),))


@pytest.mark.parametrize("name", ["gru_none", "gru_dot"])
def test_encoder_outputs_without_final_states(name: str) -> None:
    model, inputs = BUILDERS[name](), source()
    outputs, mask = model.get_encoder()(**inputs), {"attention_mask": inputs["attention_mask"]}
    words = (
        r"`encoder_outputs` must carry `final_states` for this decoder's bridge, got none\. Pass the output of this"
    )
    for given in ((outputs[0],), outputs.to_tuple(), BaseModelOutput(last_hidden_state=outputs[0])):
        with pytest.raises(ValueError, match=words):
            model(**mask, encoder_outputs=given, decoder_input_ids=IDS)
    with pytest.raises(ValueError, match=words):
        model.generate(**mask, encoder_outputs=BaseModelOutput(last_hidden_state=outputs[0]), max_new_tokens=2)
    outputs["final_states"] = outputs.final_states[:, :, :, :16]
    with pytest.raises(
        ValueError, match=r"`encoder_outputs\.final_states` .*\(2, 1, 32\), got \(3, 2, 1, 16\)\. Pass"
    ):
        model(**mask, encoder_outputs=outputs, decoder_input_ids=IDS)

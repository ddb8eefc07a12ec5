"""Learning rates a layer: by hand for each family of names."""

from typing import Any

import pytest
from transformers import BertConfig, T5Config, T5ForConditionalGeneration

from hf_custom_decoder import CustomSeq2SeqConfig, CustomSeq2SeqForConditionalGeneration
from hf_custom_decoder.training.layer_rates import layer_rate_factors
from hf_custom_decoder.training.optimization import build_optimizer, build_schedule
from hf_custom_decoder.training.recipe_reading import recipe_from_dict
from tests.combinations import DECODERS, build_pair


def check(model: Any, expected: dict[str, float]) -> None:
    factors = layer_rate_factors(model, 0.5)
    assert set(factors) == {name for name, _ in model.named_parameters()}
    for beginning, factor in expected.items():
        found = {value for name, value in factors.items() if name.startswith(beginning)}
        assert found == {factor}, beginning
    covered = [name for name in factors if any(name.startswith(beginning) for beginning in expected)]
    assert covered == list(factors)


def test_recurrent_sides_with_a_readout() -> None:
    check(
        build_pair("lstm_2", "gru_everything"),
        {
            "model.encoder.embed_tokens.": 0.25,
            "model.encoder.layers.0.": 0.5,
            "model.encoder.layers.1.": 1.0,
            "model.decoder.embed_tokens.": 0.25,
            "model.decoder.layers.0.": 0.5,
            "model.decoder.layers.1.": 1.0,
            "model.decoder.attention.": 1.0,
            "model.decoder.readout.": 1.0,  # a list too, but none of layers
            "model.state_bridge.": 1.0,
            "lm_head.": 1.0,
        },
    )


def test_a_bert_below_a_shallower_decoder() -> None:
    bert = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
    config = CustomSeq2SeqConfig(encoder=bert, decoder=DECODERS["transformer_learned"]())
    check(
        CustomSeq2SeqForConditionalGeneration(config),
        {
            "model.encoder.embeddings.": 0.125,
            "model.encoder.encoder.layer.0.": 0.25,
            "model.encoder.encoder.layer.1.": 0.5,
            "model.encoder.encoder.layer.2.": 1.0,
            "model.decoder.embed_": 0.25,
            "model.decoder.layers.0.": 0.5,
            "model.decoder.layers.1.": 1.0,
            "model.decoder.layer_norm.": 1.0,
        },
    )


def test_t5_with_one_embedding() -> None:
    config = T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_decoder_layers=3, num_heads=2)
    check(
        T5ForConditionalGeneration(config),
        {
            "shared.": 0.125,
            "encoder.block.0.": 0.5,
            "encoder.block.1.": 1.0,
            "encoder.final": 1.0,
            "decoder.block.0.": 0.25,
            "decoder.block.1.": 0.5,
            "decoder.block.2.": 1.0,
            "decoder.final": 1.0,
        },
    )


def test_groups_of_the_optimizer_under_the_schedule() -> None:
    model = build_pair("lstm_2", "lstm_dot")
    options = recipe_from_dict(
        {"training": {"max_steps": 20, "batch_size": 1, "warmup": 4, "weight_decay": 0.1, "layer_decay": 0.5}}
    ).training
    optimizer = build_optimizer(model, options)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    schedule = build_schedule(optimizer, options, 20)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    for name, factor in layer_rate_factors(model, 0.5).items():
        assert rates[id(model.get_parameter(name))] == pytest.approx(factor * options.learning_rate)
    for group in optimizer.param_groups:
        assert {weight.ndim > 1 for weight in group["params"]} <= {group["weight_decay"] > 0}
    assert optimizer.param_groups[0]["lr"] == pytest.approx(options.learning_rate)

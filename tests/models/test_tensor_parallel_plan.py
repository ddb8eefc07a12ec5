"""Which weights a model says may be split over processes; `tests/ecosystem/test_tensor_parallel.py` splits them."""

import json
import re
from pathlib import Path

import pytest
from transformers import BertConfig, PreTrainedModel

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    RecurrentDecoderConfig,
    RecurrentEncoderConfig,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from tests.combinations import RECURRENT_SIZES
from tests.factories import SIZES, tiny_config
from tests.models.model_cases import ALL_CASES, COVERING_HEAD_CASES, make_model, over

WHOLE = re.compile(r"norm|embed_positions|bridge|recurrence")
"""Weights that every process has."""


def generic_modules(model: PreTrainedModel) -> set[str]:
    """Names of modules that have weights, layer numbers replaced as in a plan."""
    names = {name.rpartition(".")[0] for name, _ in model.named_parameters(remove_duplicate=False)}
    return {re.sub(r"\.\d+(?=\.)", ".*", name) for name in names}


@over(ALL_CASES)
def test_tp_plan_matches_params(kind: str, variant: str) -> None:
    """Every rule names weights, and every weight has a rule but those that are meant to stay whole."""
    model = make_model(kind, variant, spread=False)
    modules = generic_modules(model)
    assert len(model.tp_plan) > 0
    assert set(model.tp_plan) <= modules
    assert not [name for name in modules - set(model.tp_plan) if not WHOLE.search(name)]


@pytest.mark.parametrize("is_tied", [True, False])
@over(COVERING_HEAD_CASES)
def test_tied_head_has_a_tp_plan_entry(kind: str, variant: str, is_tied: bool) -> None:
    """Transformers splits a tied weight by the rule of one module: the others need theirs to read it so."""
    model = make_model(kind, variant, spread=False, tie_word_embeddings=is_tied)
    assert (model.lm_head.weight is model.get_decoder().embed_tokens.weight) == is_tied
    assert model.tp_plan["lm_head"] == "colwise_gather_output"
    embedding = [name for name in model.tp_plan if name.endswith("embed_tokens")]
    assert {model.tp_plan[name] for name in embedding} == {"embedding_rowwise"}


@pytest.mark.parametrize("is_tied", [True, False])
def test_what_is_tied_to_a_whole_weight_stays_whole(is_tied: bool) -> None:
    """An encoder of others has no rule for its embedding, so neither have those that it shares it with."""
    encoder = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    config = CustomSeq2SeqConfig(
        encoder=encoder, decoder=TransformerDecoderConfig(**SIZES), tie_encoder_decoder_embeddings=is_tied
    )
    plan = CustomSeq2SeqForConditionalGeneration(config).tp_plan
    assert ("lm_head" in plan) != is_tied
    assert ("model.decoder.embed_tokens" in plan) != is_tied
    assert plan["model.decoder.layers.*.encoder_attn.out_proj"] == "rowwise"


def test_recurrent_parts_stay_whole() -> None:
    decoder = RecurrentDecoderConfig(**RECURRENT_SIZES)
    config = CustomSeq2SeqConfig(encoder=TransformerEncoderConfig(**SIZES), decoder=decoder, tie_word_embeddings=False)
    plan = CustomSeq2SeqForConditionalGeneration(config).tp_plan
    assert plan
    assert all(name.startswith("model.encoder.") for name in plan)
    config = CustomSeq2SeqConfig(encoder=RecurrentEncoderConfig(**RECURRENT_SIZES), decoder=decoder)
    assert CustomSeq2SeqForConditionalGeneration(config).tp_plan == {}


def test_the_plan_follows_the_fields_and_is_not_saved(tmp_path: Path) -> None:
    config = TransformerDecoderConfig(**SIZES)
    assert "layers.*.mlp.gate_proj" not in config.base_model_tp_plan
    config.gated_mlp = True
    assert config.base_model_tp_plan["layers.*.mlp.gate_proj"] == "colwise"
    config.mixer_types = ["ssru", "mingru"]
    assert "layers.*.self_attn.q_proj" not in config.base_model_tp_plan
    tiny_config().save_pretrained(tmp_path)
    assert "tp_plan" not in (tmp_path / "config.json").read_text()
    assert "tp_plan" not in json.dumps(config.to_dict())


@pytest.mark.parametrize("is_argument", [True, False])
def test_a_plan_of_the_caller_takes_its_place(is_argument: bool) -> None:
    plan = {"layers.*.mlp.fc1": "colwise", "layers.*.mlp.fc2": "rowwise"}
    config = TransformerEncoderConfig(**SIZES, **({"base_model_tp_plan": plan} if is_argument else {}))
    if not is_argument:
        config.base_model_tp_plan = plan
    assert config.base_model_tp_plan == plan

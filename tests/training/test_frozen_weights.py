"""Frozen weights stay to the bit until their step, and move from then on."""

import re
from typing import Any

import pytest
import torch

from hf_custom_decoder.training.frozen_weights import FrozenWeights
from tests.combinations import build_pair
from tests.factories import tiny_batch, tiny_seq2seq


def train(model: Any, frozen: FrozenWeights, steps: int) -> list[set[str]]:
    """Names of the weights that each step has moved."""
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-2, weight_decay=0.1)
    moved = []
    for step in range(steps):
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        for _ in range(2):
            model(**tiny_batch()).loss.backward()
            frozen.drop_gradients(step)
        optimizer.step()
        optimizer.zero_grad()
        moved.append({name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])})
    return moved


def test_until_a_step_and_for_good() -> None:
    model = build_pair("lstm_2", "transformer_default").train()
    names = {name for name, _ in model.named_parameters()}
    encoder = {name for name in names if name.startswith("model.encoder.")}
    norms = {name for name in names if re.search(r"layer_norm\.(weight|bias)$", name)}
    below = {name for name in names if name.startswith("model.decoder.layers.0.")}
    frozen = FrozenWeights(model, {"encoder": 2, "*layer_norm.*": "always", "model.decoder.layers.0": 1})
    assert {name for name, weight in model.named_parameters() if not weight.requires_grad} == norms
    assert frozen.num_frozen == sum(model.get_parameter(name).numel() for name in norms)
    moved = train(model, frozen, 3)
    assert moved[0] == names - norms - encoder - below
    assert moved[1] == names - norms - encoder
    assert moved[2] == names - norms


def test_the_longest_time_counts_whatever_the_order() -> None:
    for order in (["encoder", "encoder.layers.1"], ["encoder.layers.1", "encoder"]):
        model = build_pair("gru_2", "gru_dot").train()
        frozen = FrozenWeights(model, {name: {"encoder": 1, "encoder.layers.1": 2}[name] for name in order})
        assert not any(name.startswith("model.encoder.layers.1.") for name in train(model, frozen, 2)[1])


def test_a_tied_matrix_is_frozen_under_any_name() -> None:
    model = tiny_seq2seq(tie_word_embeddings=True)
    FrozenWeights(model, {"lm_head": "always"})
    assert not model.get_decoder().get_input_embeddings().weight.requires_grad


def test_mistakes_are_named() -> None:
    model = build_pair("gru_2", "gru_dot")
    with pytest.raises(ValueError, match=r"'encodr.layers' matches none. Near it are encoder\.layers"):
        FrozenWeights(model, {"encodr.layers": 5})
    with pytest.raises(ValueError, match="Its names begin with decoder, encoder, lm_head"):
        FrozenWeights(model, {"qqqqqqqq": 5})
    with pytest.raises(ValueError, match="must leave something to train"):
        FrozenWeights(model, {"*": "always"})

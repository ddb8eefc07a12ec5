"""Name tables, and the loading of what they give."""

import pytest
import torch
from torch import nn

from hf_custom_decoder.conversion.names import BART_NAMES, TORCH_DECODER_NAMES, new_names, translate
from hf_custom_decoder.conversion.weights import load_weights


def test_layer_numbers_are_carried() -> None:
    name = "model.decoder.layers.11.encoder_attn.q_proj.weight"
    assert new_names(name, BART_NAMES, "BART") == ("model.decoder.layers.11.encoder_attn.q_proj.weight",)
    assert new_names("model.encoder.layers.0.fc1.bias", BART_NAMES, "BART") == ("model.encoder.layers.0.mlp.fc1.bias",)


def test_dropped_names_give_nothing() -> None:
    assert new_names("model.shared.weight", BART_NAMES, "BART") == ()
    assert translate({"model.shared.weight": torch.zeros(1)}, BART_NAMES, owner="BART") == {}


def test_one_tensor_may_become_several() -> None:
    fused = torch.arange(12.0).reshape(6, 2)
    weights = translate({"layers.3.self_attn.in_proj_weight": fused}, TORCH_DECODER_NAMES, owner="torch")
    assert list(weights) == [f"layers.3.self_attn.{part}_proj.weight" for part in "qkv"]
    assert torch.equal(torch.cat(list(weights.values())), fused)


@pytest.mark.parametrize("name", ["model.encoder.layers.0.adapter.weight", "classification_head.dense.weight"])
def test_an_unknown_module_is_refused(name: str) -> None:
    message = f"BART: every weight must have a place in our model, got one named '{name}'"
    with pytest.raises(ValueError, match=message):
        translate({name: torch.zeros(1)}, BART_NAMES, owner="BART")


class Tied(nn.Module):
    """Two names of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3, bias=False)
        self.second = nn.Linear(2, 3, bias=False)
        self.second.weight = self.first.weight


def test_weights_are_copied_in_their_dtype() -> None:
    weight = torch.randn(3, 2, dtype=torch.float64)
    model = Tied().train()
    load_weights(model, {"first.weight": weight, "second.weight": weight}, owner="test")
    assert model.first.weight.dtype == torch.float64
    assert torch.equal(model.first.weight, weight)
    assert model.first.weight.data_ptr() != weight.data_ptr()
    assert model.first.weight is model.second.weight
    assert not model.training


def test_missing_weights_are_refused_unless_they_may_stay_fresh() -> None:
    weights = {"first.weight": torch.zeros(3, 2)}
    with pytest.raises(
        ValueError, match=r"test: the weights must be those of the config, got none for \['second.weight'\]"
    ):
        load_weights(Tied(), weights, owner="test")
    load_weights(Tied(), weights, owner="test", fresh=("second.",))


def test_weights_without_a_place_are_refused() -> None:
    weights = dict.fromkeys(("first.weight", "second.weight", "first.bias"), torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"got none for \[\] and no place for \['first.bias'\]"):
        load_weights(Tied(), weights, owner="test")


def test_an_unequal_shape_is_refused() -> None:
    weights = dict.fromkeys(("first.weight", "second.weight"), torch.zeros(4, 2))
    with pytest.raises(
        ValueError, match=r"`first.weight` must have the shape \(3, 2\) that the config says, got \(4, 2\)"
    ):
        load_weights(Tied(), weights, owner="test")


def test_tied_weights_that_differ_are_refused() -> None:
    weights = {"first.weight": torch.zeros(3, 2), "second.weight": torch.ones(3, 2)}
    with pytest.raises(ValueError, match="must equal the one that the config ties it to, got other values"):
        load_weights(Tied(), weights, owner="test")

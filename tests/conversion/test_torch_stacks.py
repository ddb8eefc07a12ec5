"""`load_torch_encoder` and `load_torch_decoder`: configs and refusals. Outputs: `tests/parity`."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hf_custom_decoder import TransformerDecoderConfig, TransformerEncoderConfig
from hf_custom_decoder.conversion import load_torch_decoder, load_torch_encoder, torch_stack_fields


def build_encoder(final_norm: nn.Module | None = None, **kwargs: Any) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(12, 3, 20, **{"batch_first": True, **kwargs})
    return nn.TransformerEncoder(layer, 2, final_norm, enable_nested_tensor=False)


def build_decoder(final_norm: nn.Module | None = None, **kwargs: Any) -> nn.TransformerDecoder:
    layer = nn.TransformerDecoderLayer(12, 3, 20, **{"batch_first": True, **kwargs})
    return nn.TransformerDecoder(layer, 2, final_norm)


SIDES = {
    "encoder": (build_encoder, load_torch_encoder, TransformerEncoderConfig),
    "decoder": (build_decoder, load_torch_decoder, TransformerDecoderConfig),
}
Side = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> Side:
    """How torch's stack is built, how it is loaded, and our config."""
    return SIDES[request.param]


def test_fields(side: Side) -> None:
    build, _, _ = side
    fields = torch_stack_fields(build(nn.LayerNorm(12), norm_first=True, dropout=0.2))
    expected = {
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 20,
        "hidden_act": "relu",
        "norm_position": "pre",
        "final_norm": True,
        "norm_eps": 1e-5,
        "attention_bias": True,
        "mlp_bias": True,
        "dropout": 0.2,
        "attention_dropout": 0.2,
        "activation_dropout": 0.2,
    }
    if build is build_decoder:
        expected["add_cross_attention"] = True
    assert fields == expected


def with_activation(stack: Any, activation: Any) -> Any:
    """The stack, its activation set afterwards: torch's decoder turns a module into ReLU where it clones layers."""
    for layer in stack.layers:
        layer.activation = activation
    return stack


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (nn.functional.relu, "relu"),
        (nn.functional.gelu, "gelu"),
        (nn.functional.silu, "silu"),
        (nn.ReLU(), "relu"),
        (nn.GELU(), "gelu"),
        (nn.GELU("tanh"), "gelu_pytorch_tanh"),
        (nn.SiLU(), "silu"),
    ],
)
def test_activations(side: Side, activation: Any, name: str) -> None:
    build, load, config_class = side
    stack = with_activation(build(activation="relu"), activation).double()
    fields = torch_stack_fields(stack)
    assert fields["hidden_act"] == name
    model = load(stack, config_class(vocab_size=9, position_type="none", **fields))
    values = torch.randn(4, 20, dtype=torch.float64)
    expected = stack.layers[0].activation(values)
    torch.testing.assert_close(model.layers[0].mlp.activation_fn(values), expected, atol=1e-12, rtol=0)


def test_other_activations_are_refused(side: Side) -> None:
    build, _, _ = side
    for activation in (torch.tanh, nn.Tanh()):
        stack = with_activation(build(), activation)
        with pytest.raises(ValueError, match="the `activation` of the layers must be ReLU, GELU or SiLU"):
            torch_stack_fields(stack)


def test_embeddings_stay_fresh_and_the_weights_are_copies(side: Side) -> None:
    build, load, config_class = side
    stack = build().to(torch.bfloat16)
    config = config_class(vocab_size=9, position_type="learned", embedding_norm=True, **torch_stack_fields(stack))
    model = load(stack, config)
    assert not model.training
    assert model.embed_tokens.weight.shape == (9, 12)
    assert model.layers[1].mlp.fc1.weight.dtype == torch.bfloat16
    assert torch.equal(model.layers[1].mlp.fc1.weight, stack.layers[1].linear1.weight)
    assert model.layers[1].mlp.fc1.weight.data_ptr() != stack.layers[1].linear1.weight.data_ptr()


def test_norm_biases_that_torch_leaves_out_are_zero(side: Side) -> None:
    build, load, config_class = side
    stack = build(nn.LayerNorm(12, bias=False), bias=False)
    model = load(stack, config_class(vocab_size=9, position_type="none", **torch_stack_fields(stack)))
    assert model.layers[0].self_attn.q_proj.bias is None
    assert not model.layer_norm.bias.any()
    assert not model.layers[0].final_layer_norm.bias.any()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 24),
        ("num_hidden_layers", 3),
        ("num_attention_heads", 2),
        ("num_key_value_heads", 1),
        ("head_dim", 2),
        ("intermediate_size", 21),
        ("hidden_act", "gelu"),
        ("norm_position", "pre"),
        ("final_norm", True),
        ("norm_eps", 1e-6),
        ("norm_type", "rmsnorm"),
        ("attention_bias", False),
        ("mlp_bias", False),
        ("gated_mlp", True),
        ("qk_norm", True),
        ("sliding_window", 3),
        ("position_type", "rotary"),
        ("position_type", "alibi"),
    ],
)
def test_a_config_of_another_model_is_refused(side: Side, name: str, value: Any) -> None:
    build, load, config_class = side
    stack = build()
    fields = {"vocab_size": 9, "position_type": "none", **torch_stack_fields(stack), name: value}
    reported = {"num_key_value_heads": "key_value_heads", "head_dim": "attention_head_dim"}.get(name, name)
    with pytest.raises(ValueError, match=f"{load.__name__}: `config.{reported}` must"):
        load(stack, config_class(**fields))


def test_a_decoder_needs_cross_attention() -> None:
    stack = build_decoder()
    fields = {**torch_stack_fields(stack), "add_cross_attention": False}
    with pytest.raises(ValueError, match="`config.add_cross_attention` must be True as in the source, got False"):
        load_torch_decoder(stack, TransformerDecoderConfig(vocab_size=9, position_type="none", **fields))


def test_dropouts_are_the_callers_choice(side: Side) -> None:
    build, load, config_class = side
    stack = build(dropout=0.1)
    fields = {**torch_stack_fields(stack), "dropout": 0.5, "attention_dropout": 0.0, "activation_dropout": 0.0}
    assert load(stack, config_class(vocab_size=9, position_type="none", **fields)).config.dropout == 0.5


def test_norms_that_differ_are_refused(side: Side) -> None:
    build, _, _ = side
    with pytest.raises(ValueError, match=r"all norms must share one `eps`, got \[1e-06, 1e-05\]"):
        torch_stack_fields(build(nn.LayerNorm(12, eps=1e-6)))
    with pytest.raises(ValueError, match="the final `norm` must be None or an nn.LayerNorm.*got RMSNorm"):
        torch_stack_fields(build(nn.RMSNorm(12)))


def test_another_class_is_refused(side: Side) -> None:
    build, load, config_class = side
    other = build_decoder() if build is build_encoder else build_encoder()
    config = config_class(vocab_size=9, position_type="none", **torch_stack_fields(build()))
    with pytest.raises(
        TypeError, match=f"{load.__name__}: `source` must be an nn.Transformer.*, got {type(other).__name__}"
    ):
        load(other, config)
    stack = build()
    stack.layers[1] = nn.Linear(2, 2)
    with pytest.raises(TypeError, match="every layer must be an nn.Transformer.*Layer, got .*Linear"):
        load(stack, config)

"""Our Transformer stacks against `torch.nn.TransformerEncoder` and `torch.nn.TransformerDecoder`."""

from typing import Any

import pytest
import torch
from torch import nn

from hf_custom_decoder import TransformerDecoderConfig, TransformerEncoderConfig
from hf_custom_decoder.conversion import (
    load_torch_decoder,
    load_torch_encoder,
    torch_decoder_weights,
    torch_encoder_weights,
    torch_stack_fields,
)
from tests.parity.comparison import DTYPES, assert_near, assert_same_gradients, gradients, randomize

WIDTH, HEADS, SOURCE, TARGET = 24, 3, 7, 5

# Norm position, activation, biases, final norm.
STACKS = {
    "pre_relu": {"norm_first": True, "activation": "relu", "final_norm": True},
    "post_gelu": {"norm_first": False, "activation": "gelu"},
    "pre_gelu_no_final_norm": {"norm_first": True, "activation": "gelu"},
    "post_relu_final_norm": {"norm_first": False, "activation": "relu", "final_norm": True},
    "no_biases": {"norm_first": True, "activation": "relu", "final_norm": True, "bias": False},
}


def build_stack(stack: str, side: str, dtype: torch.dtype) -> Any:
    """torch's stack in evaluation mode, with weights that differ clearly from the fresh ones."""
    fields = dict(STACKS[stack])
    has_final_norm = fields.pop("final_norm", False)
    layer_class = nn.TransformerEncoderLayer if side == "encoder" else nn.TransformerDecoderLayer
    layer = layer_class(WIDTH, HEADS, 32, batch_first=True, layer_norm_eps=1e-6, **fields)
    norm = nn.LayerNorm(WIDTH, eps=1e-6, bias=fields.get("bias", True)) if has_final_norm else None
    if side == "encoder":
        model = nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False)
    else:
        model = nn.TransformerDecoder(layer, 2, norm)
    randomize(model)
    return model.to(dtype).eval()


def padding(length: int) -> torch.Tensor:
    """1 for real tokens: a full row, one padded on the right, one padded on the left, one of a single token."""
    mask = torch.ones(4, length, dtype=torch.long)
    mask[1, -2:] = 0
    mask[2, :2] = 0
    mask[3, 1:] = 0
    return mask


def inputs(length: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The same random vectors twice, each a leaf with its own gradient."""
    values = torch.randn(4, length, WIDTH, dtype=dtype)
    return values.clone().requires_grad_(), values.clone().requires_grad_()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stack", STACKS)
def test_encoder(stack: str, dtype: torch.dtype) -> None:
    theirs = build_stack(stack, "encoder", dtype)
    config = TransformerEncoderConfig(vocab_size=9, position_type="none", **torch_stack_fields(theirs))
    ours = load_torch_encoder(theirs, config)
    mask = padding(SOURCE)
    (their_input, our_input), weight = inputs(SOURCE, dtype), torch.randn(4, SOURCE, WIDTH, dtype=dtype)

    expected = theirs(their_input, src_key_padding_mask=mask == 0)  # True: ignore
    output = ours(inputs_embeds=our_input, attention_mask=mask).last_hidden_state
    real = mask.bool()
    assert_near(output[real], expected[real])

    (expected[real] * weight[real]).sum().backward()
    (output[real] * weight[real]).sum().backward()
    assert_near(our_input.grad[real], their_input.grad[real])
    extra = "norm.bias" if stack == "no_biases" else None  # ours has them, at zero
    assert_same_gradients(ours, torch_encoder_weights(gradients(theirs)), extra=extra)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stack", STACKS)
def test_decoder(stack: str, dtype: torch.dtype) -> None:
    theirs = build_stack(stack, "decoder", dtype)
    config = TransformerDecoderConfig(vocab_size=9, position_type="none", **torch_stack_fields(theirs))
    ours = load_torch_decoder(theirs, config)
    source_mask, target_mask = padding(SOURCE), padding(TARGET)
    (their_source, our_source), (their_target, our_target) = inputs(SOURCE, dtype), inputs(TARGET, dtype)
    weight = torch.randn(4, TARGET, WIDTH, dtype=dtype)

    later = torch.ones(TARGET, TARGET, dtype=torch.bool).triu(1)  # True: ignore
    # A query before the first real token would see nothing, and torch would answer nan: let each token see itself.
    ignored = (later | (target_mask == 0)[:, None, :]) & ~torch.eye(TARGET, dtype=torch.bool)
    expected = theirs(
        their_target,
        their_source,
        tgt_mask=ignored.repeat_interleave(HEADS, dim=0),
        memory_key_padding_mask=source_mask == 0,
    )
    output = ours(
        inputs_embeds=our_target,
        attention_mask=target_mask,
        encoder_hidden_states=our_source,
        encoder_attention_mask=source_mask,
        use_cache=False,
    ).last_hidden_state
    real = target_mask.bool()
    assert_near(output[real], expected[real])

    (expected[real] * weight[real]).sum().backward()
    (output[real] * weight[real]).sum().backward()
    assert_near(our_target.grad[real], their_target.grad[real])
    assert_near(our_source.grad, their_source.grad)
    extra = "norm.bias" if stack == "no_biases" else None  # ours has them, at zero
    assert_same_gradients(ours, torch_decoder_weights(gradients(theirs)), extra=extra)


@pytest.mark.parametrize("dtype", DTYPES)
def test_decoder_without_padding_takes_the_causal_mask(dtype: torch.dtype) -> None:
    theirs = build_stack("post_gelu", "decoder", dtype)
    config = TransformerDecoderConfig(vocab_size=9, position_type="none", **torch_stack_fields(theirs))
    ours = load_torch_decoder(theirs, config)
    source, target = torch.randn(2, SOURCE, WIDTH, dtype=dtype), torch.randn(2, TARGET, WIDTH, dtype=dtype)
    causal = nn.Transformer.generate_square_subsequent_mask(TARGET, dtype=dtype)
    expected = theirs(target, source, tgt_mask=causal, tgt_is_causal=True)
    output = ours(inputs_embeds=target, encoder_hidden_states=source).last_hidden_state
    assert_near(output, expected)

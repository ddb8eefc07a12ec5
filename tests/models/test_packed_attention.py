"""Attention over packed tokens equals SDPA over padded rows; a loop over rows stands in for the kernel, which is a GPU's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch

from hf_custom_decoder.models import packed_attention_custom_seq2seq as packed_attention
from tests.factories import ALL_VARIANTS, VARIANTS
from tests.models.model_cases import HEADS, main_output, make_inputs, make_model, over

PACKED_VARIANTS = [name for name in VARIANTS if "alibi" not in name]
CASES = [
    *[("encoder", variant) for variant in PACKED_VARIANTS],
    *[(kind, variant) for kind in ("causal", "seq2seq_lm") for variant in [*PACKED_VARIANTS, "lm_head_bias"]],
    *[(kind, variant) for kind in ("decoder_cross", "causal_cross", "seq2seq_bridge") for variant in ("default",)],
    ("decoder_cross", "rotary_gqa_qk_norm"),
]
OTHER_CASES = [
    *[("encoder", variant) for variant in ("alibi", "sliding")],
    *[("causal", variant) for variant in ALL_VARIANTS if "alibi" in variant or "sliding" in variant],
]


def kernel_of_rows(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool = False,
) -> torch.Tensor:
    """`torch.nn.attention.varlen.varlen_attn` as its documentation tells it, row after row."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert len(cu_seq_q) == len(cu_seq_k)
    assert query.dtype == key.dtype == value.dtype
    assert enable_gqa == (query.shape[1] != key.shape[1])
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    assert int(cu_seq_q[-1]) == len(query)
    assert int(cu_seq_k[-1]) == len(key) == len(value)
    groups = query.shape[1] // key.shape[1]
    rows = []
    for row in range(len(cu_seq_q) - 1):
        own, others = slice(*cu_seq_q[row : row + 2].tolist()), slice(*cu_seq_k[row : row + 2].tolist())
        keys, values = (states[others].repeat_interleave(groups, dim=1) for states in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[own], keys) * scale
        if window_size == (-1, 0):
            scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), float("-inf"))
        else:
            assert window_size == (-1, -1)
        rows.append(torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), values))
    return torch.cat(rows)


@contextmanager
def with_kernel(*, takes_groups: bool = True) -> Iterator[Any]:
    """A machine that has the kernel; yields the mock that counts its calls."""
    with (
        patch.object(packed_attention, "has_packed_kernel", lambda *_: True),
        patch.object(packed_attention, "TAKES_GROUPS", takes_groups),
        patch.object(packed_attention, "varlen_attn", side_effect=kernel_of_rows) as kernel,
    ):
        yield kernel


def num_attentions(kind: str) -> int:
    """Calls of the kernel in one forward: two layers a stack, of which those of a decoder may attend twice."""
    own = {"encoder": 2, "causal": 2, "decoder_cross": 4, "causal_cross": 4, "seq2seq_lm": 6, "seq2seq_bridge": 5}
    return own[kind]


def inputs_of(kind: str, side: str) -> dict[str, torch.Tensor]:
    """Three rows, padded on one side, on both or in the middle; those of a decoder too."""
    inputs = make_inputs(kind, with_labels=kind in HEADS)
    if kind in ("causal", "causal_cross"):
        inputs["labels"][:, 0] = -100
    mask = torch.ones_like(inputs["attention_mask"])
    places = {"right": [(1, 4), (2, 6)], "left": [(1, 0), (2, 1)], "middle": [(1, 2), (2, 3)]}[side]
    for row, place in places:
        if side == "left":
            mask[row, : place + 1] = 0
        else:
            mask[row, place : place + 2] = 0
    inputs["attention_mask"] = mask
    if "decoder_input_ids" in inputs:
        decoder_mask = torch.ones_like(inputs["decoder_input_ids"])
        decoder_mask[1, -2:] = 0
        if side == "middle":
            decoder_mask[2, 1] = 0
        inputs["decoder_attention_mask"] = decoder_mask
        inputs["labels"] = inputs["labels"].masked_fill(decoder_mask == 0, -100)
    return inputs


def result(model: Any, inputs: dict[str, torch.Tensor], **flags: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Outputs at real tokens, and the gradients of all weights."""
    output = model(**inputs, **flags)
    mask = inputs.get("decoder_attention_mask", inputs["attention_mask"]).bool()
    found = main_output(output)[mask]
    loss = output.loss if "labels" in inputs else found.square().mean()
    model.zero_grad()
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return found.detach(), gradients


@over(CASES)
@pytest.mark.parametrize("side", ["right", "left", "middle"])
def test_equals_sdpa_over_padded_rows(kind: str, variant: str, side: str) -> None:
    model, inputs = make_model(kind, variant).double(), inputs_of(kind, side)
    if kind.endswith("_cross"):
        inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"].double()
    flags = {} if kind == "encoder" else {"use_cache": False}
    expected, expected_gradients = result(model, inputs, **flags)
    for takes_groups in (True, False):  # torch 2.11 takes none
        with with_kernel(takes_groups=takes_groups) as kernel:
            found, gradients = result(model, inputs, **flags)
        assert kernel.call_count == num_attentions(kind)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
        assert gradients.keys() == expected_gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-6, atol=1e-10, msg=name)


@pytest.mark.parametrize("reentrant", [True, False])
def test_trains_with_checkpointed_layers_and_recurrent_mixers(reentrant: bool) -> None:
    model = make_model("seq2seq_lm", decoder={"mixer_types": ["ssru", "full_attention"]}).double().train()
    inputs = inputs_of("seq2seq_lm", "right")
    model(**inputs).loss.backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    with with_kernel() as kernel:
        model(**inputs).loss.backward()
    assert kernel.call_count == 2 * (num_attentions("seq2seq_lm") - 1)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], rtol=1e-6, atol=1e-10, msg=name)


def num_kernel_calls(model: Any, inputs: dict[str, torch.Tensor], **flags: Any) -> int:
    """How often the kernel is called; the output is that of a machine without it."""
    real = inputs.get("decoder_attention_mask", inputs["attention_mask"])
    real = real.bool() if real.dim() == 2 else torch.ones(real.shape[0], real.shape[-1], dtype=torch.bool)
    with torch.no_grad():
        torch.manual_seed(0)
        expected = main_output(model(**inputs, **flags))
        with with_kernel() as kernel:
            torch.manual_seed(0)
            found = main_output(model(**inputs, **flags))
    torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=1e-5)
    return int(kernel.call_count)


@over(OTHER_CASES)
def test_biases_and_windows_take_sdpa(kind: str, variant: str) -> None:
    flags = {} if kind == "encoder" else {"use_cache": False}
    assert num_kernel_calls(make_model(kind, variant), inputs_of(kind, "left"), **flags) == 0


def test_what_the_kernel_does_not_know_takes_sdpa() -> None:
    """Dropout on weights, rows without any token, masks of four dimensions, weights asked for, a cache, no padding."""
    encoder, inputs = make_model("encoder"), inputs_of("encoder", "right")
    assert num_kernel_calls(encoder, inputs) == 2
    assert num_kernel_calls(encoder, inputs, output_attentions=True) == 0
    assert num_kernel_calls(encoder, make_inputs("encoder", with_padding=False)) == 0
    empty = {**inputs, "attention_mask": inputs["attention_mask"].clone()}
    empty["attention_mask"][1] = 0
    assert num_kernel_calls(encoder, empty) == 0
    causal = inputs["attention_mask"][:, None, None, :].bool() & torch.ones(7, 7).tril().bool()
    assert num_kernel_calls(encoder, {**inputs, "attention_mask": causal}) == 0

    dropping = make_model("encoder", attention_dropout=0.5)
    assert num_kernel_calls(dropping, inputs) == 2
    assert num_kernel_calls(dropping.train(), inputs) == 0

    decoder, inputs = make_model("decoder_cross"), inputs_of("decoder_cross", "right")
    assert num_kernel_calls(decoder, inputs, use_cache=False) == 4
    assert num_kernel_calls(decoder, inputs, use_cache=True) == 0
    whole = {**inputs, "encoder_attention_mask": torch.ones_like(inputs["encoder_attention_mask"])}
    assert num_kernel_calls(decoder, whole, use_cache=False) == 4
    del whole["encoder_attention_mask"]
    assert num_kernel_calls(decoder, whole, use_cache=False) == 4
    empty = {**inputs, "encoder_attention_mask": inputs["encoder_attention_mask"].clone()}
    empty["encoder_attention_mask"][1] = 0
    assert num_kernel_calls(decoder, empty, use_cache=False) == 0
    four = inputs["encoder_attention_mask"][:, None, None, :].bool().expand(-1, 1, 7, -1)
    assert num_kernel_calls(decoder, {**inputs, "encoder_attention_mask": four}, use_cache=False) == 0


@pytest.mark.parametrize("kind", ["encoder", "decoder_cross"])
def test_values_in_another_precision(kind: str) -> None:
    """A layer that was replaced or wrapped may leave the precision that the kernel knows."""
    model, inputs = make_model(kind, "rotary_gqa_qk_norm"), inputs_of(kind, "middle")
    flags = {} if kind == "encoder" else {"use_cache": False}
    mask = inputs["attention_mask"].bool()
    expected = main_output(model(**inputs, **flags))[mask]
    for name, module in model.named_modules():
        if name.endswith("v_proj"):
            module.register_forward_hook(lambda _, given, output: output.double())
        elif name.endswith("out_proj"):
            module.register_forward_pre_hook(lambda _, given: (given[0].float(),))
    with (
        with_kernel() as kernel,
        patch.object(packed_attention, "has_packed_kernel", lambda _, dtype, width: dtype == torch.float32),
        patch.object(packed_attention, "_attend_padded", wraps=packed_attention._attend_padded) as padded,
    ):
        found = main_output(model(**inputs, **flags))[mask]
    assert kernel.call_count == 0
    assert padded.call_count == num_attentions(kind)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"device": "cpu"}, False),
        ({"dtype": torch.float32}, False),
        ({"head_dim": 36}, False),
        ({"head_dim": 264}, False),
        ({"capability": (7, 5)}, False),
        ({"cuda": None}, False),
        ({"flash": False}, False),
    ],
)
def test_machines_with_the_kernel(changes: dict[str, Any], expected: bool) -> None:
    given = {"device": "cuda", "dtype": torch.bfloat16, "head_dim": 64, "capability": (9, 0), "cuda": "13.0"}
    given.update({"flash": True, **changes})
    with (
        patch("torch.cuda.get_device_capability", lambda _: given["capability"]),
        patch("torch.version.cuda", given["cuda"]),
        patch("torch.backends.cuda.flash_sdp_enabled", lambda: given["flash"]),
    ):
        device = torch.device(given["device"])
        assert packed_attention.has_packed_kernel(device, given["dtype"], given["head_dim"]) == expected


@pytest.mark.gpu
@pytest.mark.parametrize("side", ["right", "left", "middle"])
@pytest.mark.parametrize("variant", ["default", "rotary_gqa_qk_norm"])
@pytest.mark.parametrize("kind", ["encoder", "causal", "seq2seq_lm"])
def test_the_kernel_itself(kind: str, variant: str, side: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an accelerator")
    model = make_model(kind, variant).cuda().bfloat16()
    inputs = {name: value.cuda() for name, value in inputs_of(kind, side).items()}
    flags = {} if kind == "encoder" else {"use_cache": False}
    with patch.object(packed_attention, "varlen_attn", wraps=packed_attention.varlen_attn) as kernel:
        found, gradients = result(model, inputs, **flags)
        assert kernel.call_count == num_attentions(kind)
        model.set_attn_implementation("eager")
        expected, expected_gradients = result(model, inputs, **flags)
        assert kernel.call_count == num_attentions(kind)
    torch.testing.assert_close(found, expected, rtol=4e-2, atol=4e-2)
    for name, gradient in gradients.items():
        error = (gradient - expected_gradients[name]).float().norm() / expected_gradients[name].float().norm()
        assert error < 0.1, name

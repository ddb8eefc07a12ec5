"""Batch mates, padding and later tokens change nothing; rows without any token stay finite."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.models.model_cases import (
    ALL_CASES,
    COVERING_CASES,
    HEADS,
    main_output,
    make_inputs,
    make_model,
    over,
    real_positions,
    run,
)

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
ALL_CAUSAL = [(kind, variant) for kind, variant in ALL_CASES if kind == "causal"]


def pad(inputs: dict[str, torch.Tensor], amount: int, side: str) -> dict[str, torch.Tensor]:
    """The same rows with `amount` more padding tokens in source, target and labels."""
    widths = (amount, 0) if side == "left" else (0, amount)
    fill = {"labels": -100, "encoder_hidden_states": None}
    padded = {}
    for name, value in inputs.items():
        if name == "encoder_hidden_states":
            padded[name] = nn.functional.pad(value, (0, 0, *widths), value=9.0)  # rubbish that no one may read
        else:
            padded[name] = nn.functional.pad(value, widths, value=fill.get(name, 0))
    return padded


def with_decoder_mask(kind: str, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Decoder padding must be said where more is added on its left."""
    if kind.startswith("seq2seq"):
        inputs = {**inputs, "decoder_attention_mask": torch.ones_like(inputs["decoder_input_ids"])}
    return inputs


@over(ALL_CASES)
def test_rows_alone_are_rows_in_a_batch(kind: str, variant: str) -> None:
    model, inputs = make_model(kind, variant), make_inputs(kind)
    together, real = run(model, **inputs), real_positions(kind, inputs)
    for row in range(together.shape[0]):
        alone = run(model, **{name: value[row : row + 1] for name, value in inputs.items()})
        torch.testing.assert_close(alone[0][real[row]], together[row][real[row]], **CLOSE)


@over(ALL_CASES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_more_padding_changes_nothing(kind: str, variant: str, side: str) -> None:
    model, inputs = make_model(kind, variant), with_decoder_mask(kind, make_inputs(kind, with_labels=kind in HEADS))
    if kind in ("causal", "causal_cross"):
        # As in every causal model of transformers the position before a token predicts it, be it padding: the label of
        # a row's first token must be left out where padding stands before it.
        inputs["labels"][:, 0] = -100
    padded = pad(inputs, 4, side)
    for use_cache in (True, False) if kind != "encoder" else (None,):
        flags = {} if use_cache is None else {"use_cache": use_cache}
        with torch.no_grad():
            output, other = model(**inputs, **flags), model(**padded, **flags)
        expected, found = main_output(output), main_output(other)
        found = found[:, 4:] if side == "left" else found[:, :-4]
        real = real_positions(kind, inputs)
        torch.testing.assert_close(found[real], expected[real], **CLOSE)
        if kind in HEADS:
            torch.testing.assert_close(other.loss, output.loss, **CLOSE)


@over(COVERING_CASES)
def test_what_stands_at_padding_changes_nothing(kind: str, variant: str) -> None:
    model, inputs = make_model(kind, variant), make_inputs(kind)
    expected, real = run(model, **inputs), real_positions(kind, inputs)
    other = dict(inputs)
    other["input_ids"] = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], 17)
    if "encoder_hidden_states" in inputs:
        keep = inputs["encoder_attention_mask"].bool()[..., None]
        other["encoder_hidden_states"] = torch.where(keep, inputs["encoder_hidden_states"], 5.0)
    torch.testing.assert_close(run(model, **other)[real], expected[real], **CLOSE)


@over(COVERING_CASES)
def test_a_mask_of_ones_is_no_mask(kind: str, variant: str) -> None:
    model, inputs = make_model(kind, variant), make_inputs(kind, with_padding=False)
    masked = with_decoder_mask(kind, inputs)
    if kind.endswith("_cross"):
        inputs["encoder_attention_mask"] = masked["encoder_attention_mask"] = torch.ones(3, 5, dtype=torch.long)
    bare = {name: value for name, value in inputs.items() if not name.endswith("mask")}
    expected = run(model, **masked)
    torch.testing.assert_close(run(model, **bare), expected)
    for dtype in (torch.bool, torch.float32, torch.int32):  # any form of 1 and 0
        cast = {name: value.to(dtype) if name.endswith("mask") else value for name, value in masked.items()}
        torch.testing.assert_close(run(model, **cast), expected)


@over(COVERING_CASES)
def test_masks_of_any_dtype(kind: str, variant: str) -> None:
    model, inputs = make_model(kind, variant), make_inputs(kind)
    expected, real = run(model, **inputs), real_positions(kind, inputs)
    for dtype in (torch.bool, torch.float32, torch.int32):
        cast = {name: value.to(dtype) if name.endswith("mask") else value for name, value in inputs.items()}
        torch.testing.assert_close(run(model, **cast)[real], expected[real], **CLOSE)


@over(COVERING_CASES)
def test_order_of_the_rows(kind: str, variant: str) -> None:
    model, inputs = make_model(kind, variant), make_inputs(kind)
    order = torch.tensor([2, 0, 1])
    expected, real = run(model, **inputs)[order], real_positions(kind, inputs)[order]
    found = run(model, **{name: value[order] for name, value in inputs.items()})
    torch.testing.assert_close(found[real], expected[real], **CLOSE)


@over([case for case in ALL_CASES if case[0] != "encoder"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_later_token_never_changes_earlier_outputs(kind: str, variant: str, implementation: str) -> None:
    model, inputs = make_model(kind, variant), make_inputs(kind, with_padding=False)
    model.set_attn_implementation(implementation)
    name = "decoder_input_ids" if kind.startswith("seq2seq") else "input_ids"
    expected = run(model, **inputs)
    for position in (1, inputs[name].shape[1] - 1):
        changed = {**inputs, name: inputs[name].clone()}
        changed[name][:, position] = (changed[name][:, position] + 11) % 30 + 3
        found = run(model, **changed)
        assert torch.equal(found[:, :position], expected[:, :position])
        assert not torch.allclose(found[:, position], expected[:, position], **CLOSE)


def test_a_later_token_has_no_gradient_on_earlier_outputs() -> None:
    for kind, variant in (("causal", "sliding_first"), ("seq2seq_lm", "alibi")):
        model, inputs = make_model(kind, variant), make_inputs(kind, with_padding=False)
        name = "decoder_inputs_embeds" if kind == "seq2seq_lm" else "inputs_embeds"
        ids = inputs.pop("decoder_input_ids" if kind == "seq2seq_lm" else "input_ids")
        embeds = model.get_decoder().get_input_embeddings()(ids).detach().requires_grad_()
        main_output(model(**inputs, **{name: embeds}))[:, 2].sum().backward()
        assert embeds.grad[:, :3].abs().sum(-1).gt(0).all()
        assert embeds.grad[:, 3:].abs().max() == 0


@pytest.mark.parametrize("mixers", [("sliding_attention",) * 2, ("full_attention",) * 2])
def test_sliding_window_hides_what_lies_before(mixers: tuple[str, ...]) -> None:
    """Two layers of window 3 reach back 4 tokens; a full layer reaches all."""
    model = make_model("causal", "default", mixer_types=list(mixers), sliding_window=3)
    ids = make_inputs("causal", with_padding=False)["input_ids"]
    changed = ids.clone()
    changed[:, 0] = (changed[:, 0] + 11) % 30 + 3
    expected, found = run(model, input_ids=ids), run(model, input_ids=changed)
    assert not torch.allclose(found[:, 4], expected[:, 4], **CLOSE)
    assert torch.allclose(found[:, 5:], expected[:, 5:], rtol=0, atol=0) == (mixers[0] == "sliding_attention")
    with torch.no_grad():
        weights = model(input_ids=ids, output_attentions=True).attentions
    slots = torch.arange(ids.shape[1])
    distance = slots[:, None] - slots[None, :]
    inside = (distance >= 0) & (distance < 3)
    for layer in weights:
        assert (layer[..., ~inside] == 0).all() == (mixers[0] == "sliding_attention")
        assert (layer[..., inside] > 0).all()


def test_encoder_window_reaches_to_both_sides() -> None:
    model, inputs = make_model("encoder", "sliding"), make_inputs("encoder", with_padding=False)
    with torch.no_grad():
        weights = model(**inputs, output_attentions=True).attentions
    slots = torch.arange(inputs["input_ids"].shape[1])
    inside = (slots[:, None] - slots[None, :]).abs() <= 2
    for layer in weights:
        assert (layer[..., ~inside] == 0).all()
        assert (layer[..., inside] > 0).all()


@over(ALL_CAUSAL)
def test_left_padding_is_right_padding(kind: str, variant: str) -> None:
    """What batched generation of a decoder alone rests on: logits of the last real token, with and without a cache."""
    model, inputs = make_model(kind, variant), make_inputs(kind)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    left_ids, left_mask = torch.zeros_like(ids), torch.zeros_like(mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        left_ids[row, -length:], left_mask[row, -length:] = ids[row, :length], 1
    right, left = run(model, **inputs), run(model, input_ids=left_ids, attention_mask=left_mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        torch.testing.assert_close(left[row, -length:], right[row, :length], **CLOSE)
    generated = model.generate(
        left_ids, attention_mask=left_mask, max_new_tokens=4, do_sample=False, eos_token_id=None
    )
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = model.generate(ids[row : row + 1, :length], max_new_tokens=4, do_sample=False, eos_token_id=None)
        assert torch.equal(generated[row, ids.shape[1] :], alone[0, length:])


@over(ALL_CASES)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_rows_without_any_token_stay_finite(kind: str, variant: str, implementation: str) -> None:
    """Forward and backward; the loss and the gradients of the other rows are as if the empty row were not there."""
    inputs = make_inputs(kind, with_labels=kind in HEADS)
    empty = {name: value.clone() for name, value in inputs.items()}
    for name in ("attention_mask", "encoder_attention_mask"):
        if name in empty:
            empty[name][1] = 0
    if "labels" in empty:
        empty["labels"][1] = -100
    others = {name: value[[0, 2]] for name, value in empty.items()}

    def loss_and_gradients(batch: dict[str, Any], mode: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
        model = make_model(kind, variant)
        model.set_attn_implementation(implementation)
        output = model.train(mode)(**batch)
        if kind in HEADS:
            loss = output.loss
            assert output.logits is None or output.logits.isfinite().all()
        else:
            assert output.last_hidden_state.isfinite().all()
            real = real_positions(kind, batch).clone()
            if kind.startswith("seq2seq") and real.shape[0] == 3:
                real[1] = False
            loss = output.last_hidden_state[real].square().mean()
        loss.backward()
        return loss, [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    for mode in (True, False):
        loss, gradients = loss_and_gradients(empty, mode)
        expected, expected_gradients = loss_and_gradients(others, mode)
        assert loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients)
        torch.testing.assert_close(loss, expected, **CLOSE)
        torch.testing.assert_close(gradients, expected_gradients, rtol=1e-3, atol=1e-5)


@over(COVERING_CASES)
def test_a_batch_of_nothing_but_padding(kind: str, variant: str) -> None:
    model, inputs = make_model(kind, variant), make_inputs(kind, with_labels=kind in HEADS)
    for name in ("attention_mask", "encoder_attention_mask"):
        if name in inputs:
            inputs[name] = torch.zeros_like(inputs[name])
    if "labels" in inputs:
        inputs["labels"] = torch.full_like(inputs["labels"], -100)
    for mode in (True, False):
        output = model.train(mode)(**inputs)
        total = output.loss if kind in HEADS else output.last_hidden_state.sum()
        assert total.isfinite()
        total.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        if kind in HEADS:
            assert total == 0


@over(ALL_CASES)
def test_a_length_of_one(kind: str, variant: str) -> None:
    model, inputs = make_model(kind, variant), make_inputs(kind, with_labels=kind in HEADS)
    cut = {name: value if name.startswith("encoder_") else value[:, :1] for name, value in inputs.items()}
    for mode in (True, False):
        output = model.train(mode)(**cut)
        total = output.loss if kind in HEADS else output.last_hidden_state.square().mean()
        assert total.isfinite()
        total.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    if not kind.startswith("seq2seq"):
        whole = run(model, **{**inputs, "use_cache": False} if kind != "encoder" else inputs)
        if kind != "encoder":  # a causal first position knows only itself
            torch.testing.assert_close(run(model, **cut), whole[:, :1], **CLOSE)

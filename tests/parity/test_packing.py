"""The padding-free path against the same modules run on padded batches."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from hf_custom_decoder.models import modeling_transformer_decoder, modeling_transformer_encoder
from hf_custom_decoder.models.packing_custom_seq2seq import PackedRows
from tests.factories import ALL_VARIANTS, tiny_batch, tiny_causal, tiny_seq2seq
from tests.parity.comparison import DTYPES, assert_near, assert_same_gradients, gradients


class Packing:
    """Counts the batches that are packed, or lets none be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._real = {
            module: module.packed_rows for module in (modeling_transformer_encoder, modeling_transformer_decoder)
        }
        self.count = 0

    def switch(self, is_on: bool) -> None:
        for module, real in self._real.items():
            self._monkeypatch.setattr(module, "packed_rows", self._counted(real) if is_on else lambda mask: None)

    def _counted(self, real: Any) -> Any:
        def packed_rows(mask: torch.Tensor | None) -> PackedRows | None:
            rows = real(mask)
            self.count += rows is not None
            return rows

        return packed_rows


@pytest.fixture
def packing(monkeypatch: pytest.MonkeyPatch) -> Packing:
    return Packing(monkeypatch)


def both_ways(
    packing: Packing, model: nn.Module, inputs: dict[str, Any], *, num_packed: int
) -> Iterator[tuple[Any, dict[str, torch.Tensor]]]:
    """Output and gradients of the loss: first packed, then padded."""
    for is_on in (True, False):
        packing.switch(is_on)
        packing.count = 0
        model.zero_grad()
        output = model(**inputs)
        output.loss.backward()
        assert packing.count == (num_packed if is_on else 0)
        yield output, {name: gradient.clone() for name, gradient in gradients(model).items()}


def padded_sides(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A source row padded on the left beside those padded on the right, and target masks of both kinds."""
    inputs["attention_mask"][1] = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    target_mask = torch.ones_like(inputs["labels"])
    target_mask[0, :2], target_mask[2, 3:] = 0, 0
    inputs["labels"] = inputs["labels"].masked_fill(target_mask == 0, -100)
    return {**inputs, "decoder_attention_mask": target_mask}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_seq2seq(packing: Packing, variant: str, dtype: torch.dtype) -> None:
    model, inputs = tiny_seq2seq(variant).to(dtype), padded_sides(tiny_batch())
    # The encoder's rows, the decoder's, and the source's once more for its keys.
    (packed, packed_gradients), (padded, _) = both_ways(packing, model, inputs, num_packed=3)
    source, target = inputs["attention_mask"].bool(), inputs["decoder_attention_mask"].bool()
    assert_near(packed.loss, padded.loss)
    assert_near(packed.logits[target], padded.logits[target])
    assert_near(packed.encoder_last_hidden_state[source], padded.encoder_last_hidden_state[source])
    assert not packed.encoder_last_hidden_state[~source].any()
    assert_same_gradients(model, packed_gradients)


@pytest.mark.parametrize("variant", ["default", "rotary_gqa_qk_norm", "alibi", "learned", "sliding_first"])
def test_seq2seq_in_training(packing: Packing, variant: str) -> None:
    """From labels alone, which also tell the decoder where each row ends."""
    model, inputs = tiny_seq2seq(variant).double().train(), tiny_batch()
    (packed, packed_gradients), (padded, _) = both_ways(packing, model, inputs, num_packed=3)
    assert_near(packed.loss, padded.loss)
    assert_same_gradients(model, packed_gradients)
    packing.switch(False)
    evaluated = model.eval()(**inputs)  # no mask of the decoder at all
    assert_near(packed.loss, evaluated.loss)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_causal(packing: Packing, variant: str, side: str) -> None:
    model, inputs = tiny_causal(variant).double(), tiny_batch()
    if side == "left":
        inputs = {name: tensor.flip(1) for name, tensor in inputs.items()}
    real = inputs["attention_mask"].bool()
    inputs["labels"] = inputs["input_ids"].masked_fill(~real, -100)
    inputs["labels"][:, 1:].masked_fill_(~real[:, :-1], -100)  # padding predicts nothing
    (packed, packed_gradients), (padded, _) = both_ways(packing, model, inputs, num_packed=1)
    assert_near(packed.loss, padded.loss)
    assert_near(packed.logits[real], padded.logits[real])
    assert_same_gradients(model, packed_gradients)


def test_inputs_embeds_and_bridge(packing: Packing) -> None:
    model = tiny_seq2seq("rotary", encoder={"hidden_size": 16}).double()
    inputs = padded_sides(tiny_batch())
    embeds = torch.randn(3, 7, 16, dtype=torch.float64, requires_grad=True)
    target_embeds = torch.randn(3, 6, 32, dtype=torch.float64, requires_grad=True)
    del inputs["input_ids"]
    inputs = {**inputs, "inputs_embeds": embeds, "decoder_inputs_embeds": target_embeds}
    seen = []
    for output, _ in both_ways(packing, model, inputs, num_packed=3):
        seen.append((output.loss, embeds.grad, target_embeds.grad))
        embeds.grad = target_embeds.grad = None
    for packed, padded in zip(*seen, strict=True):
        assert_near(packed, padded)


def test_foreign_encoder_states(packing: Packing) -> None:
    """States of a caller, with rubbish at the padding, which must reach nothing."""
    model, inputs = tiny_seq2seq().double(), padded_sides(tiny_batch())
    source = inputs["attention_mask"].bool()
    states = torch.randn(3, 7, 32, dtype=torch.float64)
    states[~source] = 1e6
    states.requires_grad_()
    del inputs["input_ids"]
    seen = []
    for output, _ in both_ways(packing, model, {**inputs, "encoder_outputs": (states,)}, num_packed=2):
        seen.append((output.loss, states.grad))
        states.grad = None
    for packed, padded in zip(*seen, strict=True):
        assert_near(packed, padded)
    assert not seen[0][1][~source].any()


def test_hidden_states_and_attentions(packing: Packing) -> None:
    model, inputs = tiny_seq2seq("post_norm").double(), padded_sides(tiny_batch())
    flags = {"output_hidden_states": True, "output_attentions": True}
    (packed, _), (padded, _) = both_ways(packing, model, {**inputs, **flags}, num_packed=3)
    source, target = inputs["attention_mask"].bool(), inputs["decoder_attention_mask"].bool()
    for name, real in (("encoder", source), ("decoder", target)):
        for ours, theirs in zip(packed[f"{name}_hidden_states"], padded[f"{name}_hidden_states"], strict=True):
            assert_near(ours[real], theirs[real])
        for ours, theirs in zip(packed[f"{name}_attentions"], padded[f"{name}_attentions"], strict=True):
            assert_near(ours.transpose(1, 2)[real], theirs.transpose(1, 2)[real])
    for ours, theirs in zip(packed.cross_attentions, padded.cross_attentions, strict=True):
        assert_near(ours.transpose(1, 2)[target], theirs.transpose(1, 2)[target])

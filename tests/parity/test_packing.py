"""The padding-free path against the same modules run on padded batches."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from hf_custom_decoder.models import (
    modeling_transformer_decoder,
    modeling_transformer_encoder,
    packing_custom_seq2seq,
)
from hf_custom_decoder.models.packing_custom_seq2seq import PackedRows
from tests.combinations import build_pair
from tests.factories import ALL_VARIANTS, tiny_batch, tiny_causal, tiny_seq2seq
from tests.parity.comparison import DTYPES, assert_near, assert_same_gradients, gradients


class Packing:
    """Counts the batches that are packed, and those that are cut into pieces, or lets none be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, in_pieces: bool) -> None:
        self._monkeypatch, self.in_pieces = monkeypatch, in_pieces
        # A batch as small as these is otherwise left whole; here every one of three rows becomes a piece.
        monkeypatch.setattr(packing_custom_seq2seq, "PIECE_COST", -(10**6) if in_pieces else 10**6)
        self._real = [
            (module, name, getattr(module, name))
            for module, name in (
                (modeling_transformer_encoder, "packed_rows"),
                (modeling_transformer_decoder, "packed_rows"),
                (modeling_transformer_decoder, "source_rows"),
            )
        ]
        self.count = self.count_cut = 0

    def switch(self, is_on: bool) -> None:
        for module, name, real in self._real:
            self._monkeypatch.setattr(module, name, self._counted(real) if is_on else lambda *_, **__: None)

    def _counted(self, real: Any) -> Any:
        def counted(*inputs: Any, **options: bool) -> PackedRows | None:
            rows: PackedRows | None = real(*inputs, **options)
            self.count += rows is not None
            self.count_cut += rows is not None and len(rows.pieces) > 1
            return rows

        return counted


@pytest.fixture(params=[False, True], ids=["whole", "in pieces"])
def packing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Packing:
    return Packing(monkeypatch, in_pieces=request.param)


def both_ways(
    packing: Packing, model: nn.Module, inputs: dict[str, Any], *, num_packed: int, is_cut: bool = True
) -> Iterator[tuple[Any, dict[str, torch.Tensor]]]:
    """Output and gradients of the loss: first packed, then padded."""
    for is_on in (True, False):
        packing.switch(is_on)
        packing.count = packing.count_cut = 0
        model.zero_grad()
        output = model(**inputs)
        output.loss.backward()
        assert packing.count == (num_packed if is_on else 0)
        assert packing.count_cut == (packing.count if packing.in_pieces and is_cut else 0)
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
    (packed, _), (padded, _) = both_ways(packing, model, {**inputs, **flags}, num_packed=3, is_cut=False)
    source, target = inputs["attention_mask"].bool(), inputs["decoder_attention_mask"].bool()
    for name, real in (("encoder", source), ("decoder", target)):
        for ours, theirs in zip(packed[f"{name}_hidden_states"], padded[f"{name}_hidden_states"], strict=True):
            assert_near(ours[real], theirs[real])
        for ours, theirs in zip(packed[f"{name}_attentions"], padded[f"{name}_attentions"], strict=True):
            assert_near(ours.transpose(1, 2)[real], theirs.transpose(1, 2)[real])
    for ours, theirs in zip(packed.cross_attentions, padded.cross_attentions, strict=True):
        assert_near(ours.transpose(1, 2)[target], theirs.transpose(1, 2)[target])


def ragged_batch(num_rows: int, *, left: int = 5) -> dict[str, torch.Tensor]:
    """Rows of very different lengths, with holes; one in `left` is padded on the left, the others on the right."""
    generator = torch.Generator().manual_seed(0)

    def mask(length: int) -> torch.Tensor:
        ends = torch.randint(1, length + 1, (num_rows, 1), generator=generator)
        columns = torch.arange(length)
        whole = columns < ends
        whole[::left] = whole[::left].flip(1)
        return whole & ((torch.rand(num_rows, length, generator=generator) > 0.1) | (columns == ends - 1))

    ids = torch.randint(5, 30, (num_rows, 90), generator=generator)
    return {
        "input_ids": ids[:, :50],
        "attention_mask": mask(50).long(),
        "labels": ids[:, 50:],
        "decoder_attention_mask": mask(40).long(),
    }


@pytest.mark.parametrize("name", ["default", "gru"])
def test_hooks_on_embeddings_see_rows(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Hooks that double the embeddings of unequal rows, against embeddings that are twice as large."""
    Packing(monkeypatch, in_pieces=True)
    if name == "gru":
        model = build_pair("gru_2", "gru_dot", tie_word_embeddings=False).float()
    else:
        model = tiny_seq2seq(tie_word_embeddings=False)
    inputs = padded_sides(tiny_batch())
    embeddings = [side.get_input_embeddings() for side in (model.get_encoder(), model.get_decoder())]
    shapes: list[tuple[int, ...]] = []

    def before(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        shapes.append(tuple(given[0].shape))

    def after(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(output.shape))
        return 2 * output

    hooks = [one.register_forward_pre_hook(before) for one in embeddings]
    hooks += [one.register_forward_hook(after) for one in embeddings]
    found = model(**inputs)
    found.loss.backward()
    gradient = embeddings[0].weight.grad
    assert shapes == [(3, 7), (3, 7, 32), (3, 6), (3, 6, 32)]
    for hook in hooks:
        hook.remove()
    for one in embeddings:
        one.weight.data.mul_(2)
        one.weight.grad = None
    expected = model(**inputs)
    expected.loss.backward()
    assert_near(found.logits, expected.logits)
    assert_near(gradient, 2 * embeddings[0].weight.grad)


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("variant", ["default", "rotary_gqa_qk_norm", "alibi", "sliding_last_alibi"])
def test_a_batch_that_is_worth_cutting(monkeypatch: pytest.MonkeyPatch, variant: str, hybrid: bool) -> None:
    """Two rows have no source token at all, and attend to nothing."""
    parts = {"decoder": {"mixer_types": ["mingru", "full_attention"]}} if hybrid else {}
    model, inputs = tiny_seq2seq(variant, **parts).double(), ragged_batch(24)
    inputs["attention_mask"][[3, 11]] = 0
    inputs["labels"] = inputs["labels"].masked_fill(inputs["decoder_attention_mask"] == 0, -100)
    seen = []
    for in_pieces in (False, True):
        packing = Packing(monkeypatch, in_pieces=in_pieces)
        packing.switch(True)
        model.zero_grad()
        output = model(**inputs)
        output.loss.backward()
        assert (packing.count, packing.count_cut) == (3, 3 * in_pieces)
        seen.append((output.logits, output.encoder_last_hidden_state, gradients(model)))
        monkeypatch.undo()
    (logits, states, expected), (cut_logits, cut_states, found) = seen
    assert_near(cut_logits, logits)
    assert_near(cut_states, states)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert_near(gradient, expected[name])


@pytest.mark.parametrize("num_rows", [1, 2, 5, 40])
@pytest.mark.parametrize("with_source", [False, True])
def test_pieces_hold_every_token_once(num_rows: int, with_source: bool) -> None:
    batch = ragged_batch(num_rows, left=1)
    mask, source = batch["decoder_attention_mask"], batch["attention_mask"] if with_source else None
    mask[0] = 0
    cut = packing_custom_seq2seq.cut_by_length(mask, source)
    assert (len(cut) > 1) == (num_rows >= (5 if with_source else 40))
    rows = PackedRows(mask, cut)
    assert sorted(rows.indices.tolist()) == mask.flatten().nonzero().flatten().tolist()
    states = torch.randn(*mask.shape, 3)
    packed = rows.pack(states)
    assert torch.equal(rows.unpack(packed), states * mask[..., None])
    if cut:
        assert torch.equal(rows.join(rows.split(packed)), packed)
        assert sorted(torch.cat(list(cut)).tolist()) == list(range(num_rows))
        area = sum(len(piece.rows) * (piece.stop - piece.start) for piece in rows.pieces)
        assert area < (0.7 if num_rows == 40 else 0.9) * mask.numel()


def test_gradients_of_gradients_and_tangents() -> None:
    mask = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 0]])
    rows = PackedRows(mask, [torch.tensor([2]), torch.tensor([0, 1])])
    padded = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    packed = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    for function, states in ((rows.pack, padded), (rows.unpack, packed), (lambda x: rows.join(rows.split(x)), packed)):
        assert torch.autograd.gradcheck(function, states, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(function, states)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("wants_gradient", [False, True])
def test_gradient_checkpointing_in_pieces(
    monkeypatch: pytest.MonkeyPatch, use_reentrant: bool, wants_gradient: bool
) -> None:
    """Also where the mask over the source is a bias that learns."""
    packing = Packing(monkeypatch, in_pieces=True)
    packing.switch(True)
    model, inputs = tiny_seq2seq("alibi").double().train(), ragged_batch(6)
    bias = torch.zeros(6, 1, 40, 50, dtype=torch.float64, requires_grad=wants_gradient)
    inputs["encoder_attention_mask"] = bias
    model.model.encoder.requires_grad_(False)
    states = model.get_encoder()(inputs.pop("input_ids"), inputs.pop("attention_mask")).last_hidden_state
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        model.zero_grad()
        bias.grad = None
        decoder = model.get_decoder()
        output = decoder(
            inputs["labels"],
            attention_mask=inputs["decoder_attention_mask"],
            encoder_hidden_states=states.detach().requires_grad_(),
            encoder_attention_mask=bias,
            use_cache=False,
        )
        output.last_hidden_state.square().sum().backward()
        found.append([bias.grad.clone()] if wants_gradient and not use_reentrant else [])
        found[-1] += gradients(decoder).values()
    assert packing.count_cut
    for one, other in zip(*found, strict=True):
        assert_near(one, other)


def test_layers_that_are_compiled_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    packing = Packing(monkeypatch, in_pieces=True)
    packing.switch(True)
    model, inputs = tiny_seq2seq().double().train(), padded_sides(tiny_batch())
    expected = model(**inputs).loss
    expected.backward()
    before = {name: gradient.clone() for name, gradient in gradients(model).items()}
    model.zero_grad()
    for layer in (*model.get_encoder().layers, *model.get_decoder().layers):
        layer.compile(backend="eager", fullgraph=True)
    loss = model(**inputs).loss
    loss.backward()
    assert packing.count_cut == 6
    assert_near(loss, expected)
    assert_same_gradients(model, before)


def test_masks_that_do_not_fit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Packing(monkeypatch, in_pieces=True)
    decoder, inputs = tiny_seq2seq().get_decoder(), padded_sides(tiny_batch())
    states, mask = torch.randn(2, 7, 32), torch.ones(2, 7, dtype=torch.long)
    with pytest.raises(ValueError, match="has 3 rows, the source has 2"):
        decoder(
            inputs["labels"].clamp(min=0),
            attention_mask=inputs["decoder_attention_mask"],
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
        )


def test_layers_on_another_device_than_the_mask() -> None:
    """As where a `device_map` spreads the layers of one side; the meta device stands in for a second card."""
    rows = PackedRows(torch.tensor([[1, 1, 0], [1, 0, 0]]))
    packed = torch.empty(3, 4, device="meta")
    padded = rows.unpack(packed)
    assert (padded.device.type, padded.shape) == ("meta", (2, 3, 4))
    assert rows.pack(padded).shape == packed.shape

"""R-Drop against its equation, written out plainly over all logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.distributions import Categorical, kl_divergence
from transformers import BartConfig, BartForConditionalGeneration

from hf_custom_decoder import CustomSeq2SeqConfig, CustomSeq2SeqForConditionalGeneration
from hf_custom_decoder.training import divergences
from hf_custom_decoder.training.added_loss import AddedLoss
from tests.combinations import DECODERS, ENCODERS
from tests.factories import VOCAB_SIZE, spread_weights, tiny_batch

ALPHA = 3.0
SHRUNK = 0.7
"""What the second pass makes of the encoder's output, in place of dropout: a difference that can be repeated."""


def model_with(decoder: str, **kwargs: Any) -> CustomSeq2SeqForConditionalGeneration:
    torch.manual_seed(0)
    config = CustomSeq2SeqConfig(encoder=ENCODERS["gru_2"](), decoder=DECODERS[decoder](), **kwargs)
    model = CustomSeq2SeqForConditionalGeneration(config).double()
    spread_weights(model)
    return model.train()


@contextmanager
def scaled_rows(model: Any, factors: torch.Tensor) -> Iterator[None]:
    """The encoder's output of row r, final states included, times `factors[r]`."""

    def scale(module: Any, arguments: Any, output: Any) -> Any:
        rows = factors.to(output.last_hidden_state.dtype)
        output.last_hidden_state = output.last_hidden_state * rows[:, None, None]
        if output.get("final_states") is not None:
            states = output.final_states
            output.final_states = states * rows.view(-1, *[1] * (states.dim() - 1))
        return output

    hook = model.get_encoder().register_forward_hook(scale)
    try:
        yield
    finally:
        hook.remove()


def passes(num_rows: int) -> torch.Tensor:
    return torch.tensor([1.0] * num_rows + [SHRUNK] * num_rows)


def written_out(model: Any, batch: dict[str, torch.Tensor], smoothing: float) -> torch.Tensor:
    """Equation 4 of Liang et al. 2021 over 2, position by position, the mean over label positions."""
    labels = batch["labels"]
    sources = {name: value for name, value in batch.items() if name != "labels"}
    both = []
    for factor in (1.0, SHRUNK):
        with scaled_rows(model, torch.full((len(labels),), factor)):
            both.append(model(**sources, decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels)).logits)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in range(labels.shape[0]):
        for place in range(labels.shape[1]):
            label = labels[row, place]
            if label == -100:
                continue
            one, two = (Categorical(logits=logits[row, place]) for logits in both)
            for pass_ in (one, two):
                total = total - (1 - smoothing) * pass_.logits[label] - smoothing * pass_.logits.mean()
            total = total + ALPHA * 0.5 * (kl_divergence(one, two) + kl_divergence(two, one))
            count += 1
    return total / (2 * count)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize(
    "decoder", ["transformer_default", "ssru", "hybrid_mingru_last", "lstm_dot", "gru_everything"]
)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_r_drop_is_its_equation(decoder: str, smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(divergences.CHUNK_LOGITS, "cpu", 4 * VOCAB_SIZE)  # several chunks, the last one shorter
    model, batch = model_with(decoder, label_smoothing=smoothing), tiny_batch()
    expected = written_out(model, batch, smoothing)
    expected.backward()
    wanted = gradients(model)
    model.zero_grad()
    with scaled_rows(model, passes(3)):
        loss = AddedLoss(r_drop=ALPHA)(model, batch)["loss"]
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-8, atol=1e-10)


def test_accumulated_batches_give_the_gradient_of_one() -> None:
    model, batch = model_with("transformer_default"), tiny_batch()
    added = AddedLoss(r_drop=ALPHA)
    with scaled_rows(model, passes(3)):
        added(model, batch)["loss"].backward()
    wanted = gradients(model)
    model.zero_grad()
    count = (batch["labels"] != -100).sum()
    for rows in (slice(0, 1), slice(1, 3)):
        part = {name: value[rows] for name, value in batch.items()}
        with scaled_rows(model, passes(len(part["labels"]))):
            added(model, {**part, "num_items_in_batch": count})["loss"].backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-10, atol=1e-12)


def test_padding_of_targets_changes_nothing() -> None:
    model, batch = model_with("lstm_dot"), tiny_batch()
    longer = {**batch, "labels": torch.nn.functional.pad(batch["labels"], (0, 4), value=-100)}
    with scaled_rows(model, passes(3)):
        losses = [AddedLoss(r_drop=ALPHA)(model, batch)["loss"] for given in (batch, longer)]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)


def test_no_logits_beside_label_positions() -> None:
    model, batch = model_with("transformer_default"), tiny_batch()
    shapes = []
    model.lm_head.register_forward_hook(lambda module, arguments, output: shapes.append(tuple(output.shape)))
    outputs = AddedLoss(r_drop=ALPHA)(model, batch)
    assert outputs.logits is None
    assert shapes == [(2 * int((batch["labels"] != -100).sum()), VOCAB_SIZE)]


def test_the_two_passes_have_dropout_of_their_own() -> None:
    config = CustomSeq2SeqConfig(encoder=ENCODERS["gru_2"](), decoder=DECODERS["transformer_default"]())
    config.decoder.dropout = 0.3
    model = CustomSeq2SeqForConditionalGeneration(config).train()
    spread_weights(model)
    losses = []
    for alpha in (1e-9, 10.0):
        torch.manual_seed(1)
        losses.append(AddedLoss(r_drop=alpha)(model, tiny_batch())["loss"].item())
    assert losses[1] > losses[0] + 0.1


def test_models_of_others_give_all_logits() -> None:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    config = BartConfig(
        vocab_size=VOCAB_SIZE, encoder_attention_heads=2, decoder_attention_heads=2, dropout=0.0, **sizes
    )
    model = BartForConditionalGeneration(config).double().train()
    model.final_logits_bias.normal_()  # added after the projection
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.5)
    batch = tiny_batch()
    expected = written_out(model, batch, 0.0)
    with scaled_rows(model, passes(3)):
        loss = AddedLoss(r_drop=ALPHA)(model, batch)["loss"]
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("decoder", ["transformer_default", "gru_everything"])
@pytest.mark.parametrize("r_drop", [0.0, ALPHA])
def test_a_teacher_is_its_equation(decoder: str, r_drop: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(divergences.CHUNK_LOGITS, "cpu", 4 * VOCAB_SIZE)
    weight, temperature = 0.3, 2.0
    model, batch = model_with(decoder, label_smoothing=0.1), tiny_batch()
    teacher = model_with("lstm_dot")
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.5)
    labels, chosen = batch["labels"], batch["labels"] != -100
    sources = {name: value for name, value in batch.items() if name != "labels"}
    known = teacher(**sources, decoder_input_ids=teacher.prepare_decoder_input_ids_from_labels(labels)).logits[chosen]
    parts = []
    for factor in (1.0, SHRUNK) if r_drop else (1.0,):
        with scaled_rows(model, torch.full((len(labels),), factor)):
            guessed = model(**sources, decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels)).logits[
                chosen
            ]
            told = kl_divergence(Categorical(logits=known / temperature), Categorical(logits=guessed / temperature))
            parts.append((1 - weight) * model(**batch).loss + weight * temperature**2 * told.mean())
    expected = torch.stack(parts).mean()
    if r_drop:
        with scaled_rows(model, passes(3)):
            expected = expected + (
                AddedLoss(r_drop=r_drop)(model, batch)["loss"] - AddedLoss(r_drop=1e-12)(model, batch)["loss"]
            )
    with scaled_rows(model, passes(3) if r_drop else torch.ones(3)):
        loss = AddedLoss(r_drop=r_drop, teacher=teacher, weight=weight, temperature=temperature)(model, batch)["loss"]
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not teacher.training


def test_a_model_that_is_its_own_teacher_learns_nothing_from_it() -> None:
    model, batch = model_with("ssru"), tiny_batch()
    added = AddedLoss(teacher=model_with("ssru"), weight=1.0)
    loss = added(model, batch)["loss"]
    loss.backward()
    torch.testing.assert_close(loss.item(), 0.0, rtol=0, atol=1e-12)
    assert all(gradient.abs().max() < 1e-12 for gradient in gradients(model).values())

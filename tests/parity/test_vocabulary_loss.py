"""Projection and loss in one against the two in turn, and the cases that must not take it."""

from typing import Any

import pytest
import torch
from torch import nn

from hf_custom_decoder.models import loss_custom_seq2seq, vocabulary_loss_custom_seq2seq
from hf_custom_decoder.models.loss_custom_seq2seq import IGNORE_INDEX, sequence_loss, token_loss
from hf_custom_decoder.models.vocabulary_loss_custom_seq2seq import can_fuse, vocabulary_loss
from tests.factories import tiny_batch, tiny_seq2seq
from tests.parity.comparison import DTYPES, assert_near

WIDTH, VOCAB = 12, 50


def head(dtype: torch.dtype = torch.float64, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(WIDTH, VOCAB, bias=bias, dtype=dtype)


def positions(count: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    states = 3 * torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    return states.to(dtype).requires_grad_(), torch.randint(VOCAB, (count,), generator=generator)


@pytest.fixture(params=[1, 3, 1000], ids=lambda size: f"chunks of {size}")
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(vocabulary_loss_custom_seq2seq, "CHUNK_LOGITS", 0)
    monkeypatch.setattr(vocabulary_loss_custom_seq2seq, "MIN_CHUNK", request.param)
    size: int = request.param
    return size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("count", [0, 1, 8])
def test_it_is_the_ordinary_loss(chunks: int, count: int, bias: bool, smoothing: float, dtype: torch.dtype) -> None:
    lm_head = head(dtype, bias=bias)
    found, expected = [], []
    for seen, fused in ((found, True), (expected, False)):
        states, labels = positions(count, dtype)
        lm_head.zero_grad()
        if fused:
            loss = vocabulary_loss(states, labels, lm_head, 7.0, smoothing)
        else:
            loss = token_loss(lm_head(states), labels, num_items_in_batch=7, label_smoothing=smoothing)
        (2 * loss).backward()
        seen += [loss.detach(), states.grad, *(weight.grad for weight in lm_head.parameters())]
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other)


@pytest.mark.parametrize("wanted", ["states", "weight", "bias"])
def test_only_what_is_wanted_gets_a_gradient(wanted: str) -> None:
    lm_head, (states, labels) = head(), positions(5)
    states.requires_grad_(wanted == "states")
    lm_head.weight.requires_grad_(wanted == "weight")
    lm_head.bias.requires_grad_(wanted == "bias")
    vocabulary_loss(states, labels, lm_head, 1.0).backward()
    has_gradient = {"states": states.grad, "weight": lm_head.weight.grad, "bias": lm_head.bias.grad}
    assert [name for name, gradient in has_gradient.items() if gradient is not None] == [wanted]


def test_a_graph_is_walked_twice_and_derived_twice() -> None:
    lm_head, (states, labels) = head(), positions(5)
    loss = vocabulary_loss(states, labels, lm_head, 3.0, 0.1)
    loss.backward(retain_graph=True)
    once = states.grad.clone()
    loss.backward()
    assert torch.equal(states.grad, 2 * once)

    def function(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return vocabulary_loss_custom_seq2seq._VocabularyLoss.apply(states, weight, bias, labels, 3.0, 0.1)

    inputs = (states, lm_head.weight, lm_head.bias)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_of_gradients_of_a_model(monkeypatch: pytest.MonkeyPatch, tied: bool) -> None:
    """With a tied head the states depend on its weight, whose gradient must not be counted twice."""
    model = tiny_seq2seq(tie_word_embeddings=tied).double().train()
    model.set_attn_implementation("eager")
    weights = list(model.parameters())
    found = []
    for fused in (True, False):
        monkeypatch.setattr(loss_custom_seq2seq, "can_fuse", lambda *_, fused=fused: fused)
        first = torch.autograd.grad(model(**tiny_batch()).loss, weights, create_graph=True)
        penalty = sum(one.square().sum() for one in first)
        second = torch.autograd.grad(penalty, weights)
        found.append([*(one.detach() for one in first), *second])
    for one, other in zip(*found, strict=True):
        assert_near(one, other)


def test_nothing_is_derived_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    lm_head, (states, labels) = head(), positions(20)
    monkeypatch.setattr(torch.Tensor, "addmm_", lambda *_: pytest.fail("a gradient of the weights was computed"))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            loss = vocabulary_loss(states, labels, lm_head, 20.0)
        assert not loss.requires_grad
        assert_near(loss, token_loss(lm_head(states), labels).detach())


def test_few_positions_are_not_worth_a_gradient_of_all_weights() -> None:
    lm_head = head()
    assert can_fuse(positions(WIDTH)[0], lm_head)
    assert not can_fuse(positions(WIDTH - 1)[0], lm_head)
    with torch.no_grad():
        assert can_fuse(positions(1)[0], lm_head)
    lm_head.weight.requires_grad_(False)
    assert can_fuse(positions(1)[0], lm_head)


def test_a_hook_on_all_modules_sees_the_head() -> None:
    seen: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        states, labels = positions(20)
        lm_head = head()
        sequence_loss(states[None], None, labels[None], lm_head)
    finally:
        handle.remove()
    assert seen == [lm_head]


def test_a_weight_changed_before_its_gradient_is_an_error() -> None:
    lm_head, (states, labels) = head(), positions(5)
    loss = vocabulary_loss(states, labels, lm_head, 1.0)
    with torch.no_grad():
        lm_head.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class Wrapped(nn.Linear):
    """A head with a mind of its own."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.tanh(super().forward(states))


def hooked(register: str) -> nn.Linear:
    lm_head = head(torch.float32)
    getattr(lm_head, register)(lambda *_: None)
    return lm_head


def replaced() -> nn.Linear:
    lm_head = head(torch.float32)
    lm_head.forward = lambda states: nn.Linear.forward(lm_head, states) / 2  # type: ignore[method-assign]
    return lm_head


OTHER_HEADS = {
    "subclass": lambda: Wrapped(WIDTH, VOCAB),
    "forward hook": lambda: hooked("register_forward_hook"),
    "forward pre-hook": lambda: hooked("register_forward_pre_hook"),
    "backward hook": lambda: hooked("register_full_backward_hook"),
    "backward pre-hook": lambda: hooked("register_full_backward_pre_hook"),
    "forward replaced": replaced,
    "half precision": lambda: head(torch.bfloat16),
    "parametrized": lambda: torch.nn.utils.parametrizations.weight_norm(head(torch.float32)),
    "sequence": lambda: nn.Sequential(head(torch.float32)),
}


@pytest.mark.parametrize("kind", OTHER_HEADS)
def test_a_head_that_is_no_plain_layer_is_called(kind: str) -> None:
    lm_head = OTHER_HEADS[kind]()
    dtype = next(lm_head.parameters()).dtype
    states, labels = positions(2 * WIDTH, dtype)
    assert not can_fuse(states, lm_head)
    labels[2] = IGNORE_INDEX
    found = sequence_loss(states[None], None, labels[None], lm_head)
    expected = nn.functional.cross_entropy(lm_head(states).float(), labels)
    torch.testing.assert_close(found, expected)


def test_precision_and_transforms_that_are_left_alone() -> None:
    lm_head, (states, _) = head(torch.float32), positions(2 * WIDTH, torch.float32)
    assert can_fuse(states, lm_head)
    assert not can_fuse(states.to("meta"), lm_head)
    assert not can_fuse(states.double(), lm_head)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not can_fuse(states, lm_head)
    seen: list[bool] = []

    def look(states: torch.Tensor) -> torch.Tensor:
        seen.append(can_fuse(states, lm_head))
        return lm_head(states).sum()

    torch.func.grad(look)(states)
    torch.func.jvp(look, (states,), (states,))
    assert seen == [False, False]


@pytest.mark.parametrize("wanted", ["loss", "gradient"])
def test_models_train_alike_either_way(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """Logits are kept or not; so is the way that makes none."""
    model, inputs = tiny_seq2seq(label_smoothing=0.1).double().train(), tiny_batch()
    calls: list[Any] = []
    monkeypatch.setattr(loss_custom_seq2seq, "can_fuse", lambda *_: True)
    monkeypatch.setattr(
        loss_custom_seq2seq, "vocabulary_loss", lambda *inputs: calls.append(1) or vocabulary_loss(*inputs)
    )
    found = []
    for with_logits in (False, True):
        model.config.return_logits_in_training = with_logits
        model.zero_grad()
        loss = model(**inputs, num_items_in_batch=torch.tensor(11)).loss
        loss.backward()
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        found.append([loss.detach()] if wanted == "loss" else gradients)
    assert len(calls) == 1
    for one, other in zip(*found, strict=True):
        assert_near(one, other)

"""The loss against torch's cross-entropy and the label smoothing and label shift of transformers."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.bart.modeling_bart import shift_tokens_right as bart_shift
from transformers.trainer_pt_utils import LabelSmoother

from hf_custom_decoder.models.loss_custom_seq2seq import token_loss
from hf_custom_decoder.models.modeling_custom_seq2seq import shift_tokens_right
from tests.factories import tiny_batch, tiny_causal, tiny_seq2seq
from tests.parity.comparison import DTYPES, assert_near, assert_same_gradients, gradients, single_is_double

SMOOTHING = 0.2


def full_logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits at every position, from a forward pass in evaluation mode, which keeps its graph."""
    model.eval()
    return model(**inputs).logits


def reference_loss(kind: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The smoothed mean loss by another implementation."""
    if kind == "trainer":
        with single_is_double(logits.dtype):
            return LabelSmoother(epsilon=SMOOTHING)({"logits": logits}, labels)
    if kind == "torch":
        return nn.functional.cross_entropy(logits.transpose(1, 2), labels, label_smoothing=SMOOTHING)
    # Szegedy et al. 2016, section 7: the target is 1 - epsilon at the label, and epsilon / V everywhere.
    log_probabilities = logits.log_softmax(-1)[labels >= 0]
    target = torch.full_like(log_probabilities, SMOOTHING / logits.shape[-1])
    target.scatter_add_(1, labels[labels >= 0][:, None], torch.full_like(target[:, :1], 1 - SMOOTHING))
    return -(target * log_probabilities).sum(-1).mean()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["trainer", "torch", "paper"])
def test_label_smoothing(kind: str, dtype: torch.dtype) -> None:
    model = tiny_seq2seq("lm_head_bias", label_smoothing=SMOOTHING).to(dtype)
    inputs = tiny_batch()
    expected = reference_loss(kind, full_logits(model, inputs), inputs["labels"])
    expected.backward()
    reference = {name: gradient.clone() for name, gradient in gradients(model).items()}
    model.zero_grad()
    loss = model.train()(**inputs).loss
    assert_near(loss, expected)
    loss.backward()
    assert_same_gradients(model, reference)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_smoothing_in_evaluation(dtype: torch.dtype) -> None:
    model = tiny_seq2seq(label_smoothing=SMOOTHING).to(dtype)
    inputs = tiny_batch()
    output = model(**inputs)
    assert_near(output.loss, nn.functional.cross_entropy(output.logits.transpose(1, 2), inputs["labels"]))


@pytest.mark.parametrize("num_items", [17, torch.tensor(17)], ids=["int", "tensor"])
@pytest.mark.parametrize("smoothing", [0.0, SMOOTHING])
def test_sum_over_items_of_the_optimizer_step(smoothing: float, num_items: Any) -> None:
    model = tiny_seq2seq(label_smoothing=smoothing).double()
    inputs = tiny_batch()
    logits = full_logits(model, inputs)
    total = nn.functional.cross_entropy(
        logits.transpose(1, 2), inputs["labels"], label_smoothing=smoothing, reduction="sum"
    )
    for return_logits in (False, True):  # label positions only, or a choice from complete logits
        model.config.return_logits_in_training = return_logits
        output = model.train()(**inputs, num_items_in_batch=num_items)
        assert (output.logits is not None) == return_logits
        assert_near(output.loss, total / 17)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_give_a_float32_loss(dtype: torch.dtype) -> None:
    logits, labels = torch.randn(6, 9).to(dtype), torch.randint(0, 9, (6,))
    loss = token_loss(logits, labels, label_smoothing=SMOOTHING)
    expected = nn.functional.cross_entropy(logits.float(), labels, label_smoothing=SMOOTHING)
    assert loss.dtype == torch.float32
    assert_near(loss, expected)


def test_labels_without_a_target() -> None:
    model = tiny_seq2seq().train()
    inputs = tiny_batch()
    inputs["labels"][:] = -100
    loss = model(**inputs).loss
    loss.backward()
    assert loss.item() == 0
    assert all(not gradient.isnan().any() for gradient in gradients(model).values())


@pytest.mark.parametrize("dtype", DTYPES)
def test_causal_labels_are_shifted_once(dtype: torch.dtype) -> None:
    model = tiny_causal().to(dtype)
    inputs = {"input_ids": tiny_batch()["input_ids"], "labels": tiny_batch(source_length=6)["labels"]}
    inputs["input_ids"] = inputs["input_ids"][:, :6]
    logits = full_logits(model, inputs)
    expected = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), inputs["labels"][:, 1:])
    expected.backward()
    reference = {name: gradient.clone() for name, gradient in gradients(model).items()}
    assert_near(model(**inputs).loss, expected)
    model.zero_grad()
    loss = model.train()(**inputs).loss
    assert_near(loss, expected)
    loss.backward()
    assert_same_gradients(model, reference)


@pytest.mark.parametrize("length", [1, 2, 6])
def test_label_shift(length: int) -> None:
    labels = torch.randint(3, 50, (4, length))
    labels[1, length // 2 :], labels[2] = -100, -100
    expected = bart_shift(labels, pad_token_id=0, decoder_start_token_id=1)
    assert torch.equal(shift_tokens_right(labels, 0, 1), expected)
    model = tiny_seq2seq(decoder_start_token_id=1)
    assert torch.equal(model.prepare_decoder_input_ids_from_labels(labels=labels), expected)


def test_labels_alone_are_shifted_once() -> None:
    model = tiny_seq2seq().double()
    inputs = tiny_batch()
    given = {**inputs, "decoder_input_ids": bart_shift(inputs["labels"], 0, model.config.start_token_id)}
    assert_near(model(**inputs).loss, model(**given).loss)
    assert_near(model.train()(**inputs).loss, model(**given).loss)

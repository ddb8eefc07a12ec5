"""Gradients: every weight gets one, checkpointing changes none, one batch can be learned, the loss is what it says."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_custom_decoder import CustomSeq2SeqForConditionalGeneration, TransformerDecoderForCausalLM
from hf_custom_decoder.models.cache_custom_seq2seq import build_cache
from tests.models.model_cases import (
    ALL_CASES,
    COVERING_CASES,
    COVERING_HEAD_CASES,
    HEAD_CASES,
    HEADS,
    KIND_CASES,
    KINDS,
    main_output,
    make_inputs,
    make_model,
    over,
    run,
)

CLOSE = {"rtol": 1e-4, "atol": 1e-6}
DROPOUT = {"dropout": 0.2, "attention_dropout": 0.1, "activation_dropout": 0.1}


def gradients(model: nn.Module, inputs: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    """Loss (or a sum that stands for one) and the gradient of each parameter."""
    model.zero_grad()
    torch.manual_seed(0)
    output = model(**inputs)
    loss = output.loss if "loss" in output else main_output(output).square().mean()
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


@over(ALL_CASES)
def test_every_weight_gets_a_gradient(kind: str, variant: str) -> None:
    """So DistributedDataParallel needs no `find_unused_parameters`."""
    model = make_model(kind, variant).train()
    loss, found = gradients(model, make_inputs(kind, with_labels=kind in HEADS))
    assert loss.isfinite()
    for name, gradient in found.items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        # Softmax does not see what it adds to every score alike, so a bias of the keys has no gradient but noise.
        assert gradient.abs().sum() > 0 or name.endswith("k_proj.bias"), name


@over(COVERING_CASES)
@pytest.mark.parametrize("use_reentrant", [True, False, None])
@pytest.mark.parametrize("with_padding", [True, False])
def test_gradient_checkpointing_changes_nothing(
    kind: str, variant: str, use_reentrant: bool | None, with_padding: bool
) -> None:
    inputs = make_inputs(kind, with_labels=kind in HEADS, with_padding=with_padding)
    model = make_model(kind, variant).train()
    for name, value in DROPOUT.items():  # the random numbers must be replayed too
        for module in model.modules():
            if hasattr(module, name) and isinstance(getattr(module, name), float):
                setattr(module, name, value)
    loss, expected = gradients(model, inputs)
    calls: list[str] = []
    kwargs = None if use_reentrant is None else {"use_reentrant": use_reentrant}
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        layer.self_attn.register_forward_hook(lambda *_: calls.append("run"))
    if use_reentrant:
        model.enable_input_require_grads()  # as the Trainer does
    checkpointed, found = gradients(model, inputs)
    assert len(calls) == 2 * len(layers)  # forward, and once more in the backward pass
    torch.testing.assert_close(checkpointed, loss, **CLOSE)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, **CLOSE, msg=name)


@pytest.mark.parametrize("variant", ["default", "sliding", "ssru"])
@pytest.mark.parametrize("kind", ["causal", "seq2seq_lm"])
def test_gradient_checkpointing_refuses_cached_tokens(kind: str, variant: str) -> None:
    """They would be left out; an empty cache, a call without gradients and evaluation lose nothing."""
    fields = {"mixer_types": ["ssru", "ssru"]} if variant == "ssru" else {}
    fields = {"decoder": fields} if kind == "seq2seq_lm" else fields
    model = make_model(kind, "default" if variant == "ssru" else variant, **fields)
    inputs = make_inputs(kind, with_padding=False)
    name = "decoder_input_ids" if kind == "seq2seq_lm" else "input_ids"
    ids = inputs.pop(name)
    if kind == "causal":
        del inputs["attention_mask"]
    whole = model(**inputs, **{name: ids}).logits
    model.gradient_checkpointing_enable()
    model.train()

    def filled() -> Cache:
        with torch.no_grad():
            cache: Cache = model(**inputs, **{name: ids[:, :2]}, use_cache=True).past_key_values
        return cache

    words = (
        r"`past_key_values` must be empty or None with gradient checkpointing .*got 2 tokens\. Pass all tokens in one"
    )
    with pytest.raises(ValueError, match=f"TransformerDecoderModel: {words}"):
        model(**inputs, **{name: ids[:, 2:]}, past_key_values=filled())
    with torch.no_grad():
        found = model(**inputs, **{name: ids[:, 2:]}, past_key_values=filled()).logits
    torch.testing.assert_close(found, whole[:, 2:], **CLOSE)
    found = model.eval()(**inputs, **{name: ids[:, 2:]}, past_key_values=filled()).logits
    torch.testing.assert_close(found, whole[:, 2:], **CLOSE)
    cache = build_cache(model.config.get_text_config(decoder=True), kind == "seq2seq_lm")
    found = model.train()(**inputs, **{name: ids}, past_key_values=cache).logits
    torch.testing.assert_close(found, whole, **CLOSE)


@over(KIND_CASES)
def test_gradient_checkpointing_switches(kind: str, variant: str) -> None:
    model = make_model(kind, variant)
    flags = [module for module in model.modules() if hasattr(module, "gradient_checkpointing")]
    assert flags
    assert not model.is_gradient_checkpointing
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    assert all(module.gradient_checkpointing for module in flags)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    assert not any(module.gradient_checkpointing for module in flags)


@pytest.mark.parametrize("kind", ["causal", "seq2seq_lm"])
def test_gradient_checkpointing_and_the_cache(kind: str) -> None:
    """Under checkpointing no cache is made in training; in evaluation it is there and right."""
    model, inputs = make_model(kind), make_inputs(kind)
    expected = run(model, **inputs)
    model.gradient_checkpointing_enable()
    assert model.train()(**inputs, use_cache=True).past_key_values is None
    with torch.no_grad():
        output = model.eval()(**inputs, use_cache=True)
    assert output.past_key_values.get_seq_length() == main_output(output).shape[1]
    torch.testing.assert_close(main_output(output), expected)


@pytest.mark.parametrize("kind", ["seq2seq_lm", "causal_cross"])
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_over_frozen_embeddings(kind: str, use_reentrant: bool) -> None:
    """A gradient reaches the source side although nothing before the first decoder layer asks for one."""
    model, inputs = make_model(kind).train(), make_inputs(kind, with_labels=True)
    model.get_decoder().get_input_embeddings().weight.requires_grad_(False)
    if kind == "causal_cross":
        inputs["encoder_hidden_states"].requires_grad_()
    model.lm_head.weight.requires_grad_(False)
    _, expected = gradients(model, inputs)
    source = None if kind == "seq2seq_lm" else inputs["encoder_hidden_states"].grad.clone()
    if source is not None:
        inputs["encoder_hidden_states"].grad = None
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
    _, found = gradients(model, inputs)
    for name, gradient in expected.items():
        if gradient is not None:
            torch.testing.assert_close(found[name], gradient, **CLOSE, msg=name)
    if source is not None:
        torch.testing.assert_close(inputs["encoder_hidden_states"].grad, source)


@pytest.mark.parametrize(
    ("kind", "variant"),
    [
        ("causal", "rotary"),
        ("seq2seq_lm", "post_norm"),
        ("seq2seq_lm", "rmsnorm_gated"),
        ("seq2seq_bridge", "default"),
    ],
)
def test_one_batch_is_learned(kind: str, variant: str) -> None:
    """Loss falls below a tenth, and greedy generation says the targets by heart."""
    model, inputs = make_model(kind, variant, spread=False).train(), make_inputs(kind, with_labels=True)
    if kind.startswith("seq2seq"):
        inputs.pop("decoder_input_ids")
        inputs["labels"][:, -2:] = torch.tensor([2, -100])  # an end for every row
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    if kind.startswith("seq2seq"):
        ids = model.eval().generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], max_length=8)
        for row, labels in zip(ids[:, 1:], inputs["labels"], strict=True):
            expected = labels[labels != -100]
            assert row[: len(expected)].tolist() == expected.tolist()


@over(HEAD_CASES)
def test_the_loss_is_the_cross_entropy_of_aligned_labels(kind: str, variant: str) -> None:
    """Not shifted in seq2seq, shifted once in a causal model; its gradient says at which logits."""
    model, inputs = make_model(kind, variant), make_inputs(kind, with_labels=True, with_padding=False)
    output = model(**inputs)
    logits, labels = output.logits, inputs["labels"]
    pairs = {
        "aligned": (logits, labels),
        "once": (logits[:, :-1], labels[:, 1:]),
    }
    found = torch.autograd.grad(output.loss, logits, retain_graph=True)[0]
    for name, (scores, targets) in pairs.items():
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten())
        gradient = torch.autograd.grad(loss, logits, retain_graph=True)[0]
        right = name == ("aligned" if kind.startswith("seq2seq") else "once")
        assert torch.allclose(output.loss, loss) == right
        assert torch.allclose(found, gradient, atol=1e-6) == right


@over(COVERING_HEAD_CASES)
def test_training_and_evaluation_loss_agree(kind: str, variant: str) -> None:
    """The packed path (no logits, label positions only) against the one with complete logits."""
    model, inputs = make_model(kind, variant), make_inputs(kind, with_labels=True)
    evaluation, training = model.eval()(**inputs), model.train()(**inputs)
    assert training.logits is None
    torch.testing.assert_close(training.loss, evaluation.loss, **CLOSE)
    complete = evaluation.logits.flatten(0, 1)
    labels = inputs["labels"]
    if not kind.startswith("seq2seq"):
        labels = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    torch.testing.assert_close(evaluation.loss, nn.functional.cross_entropy(complete, labels.flatten()), **CLOSE)


@pytest.mark.parametrize("kind", ["seq2seq_lm", "causal"])
def test_labels_and_what_goes_with_them(kind: str) -> None:
    model, inputs = make_model(kind), make_inputs(kind, with_labels=True)
    loss = model(**inputs).loss
    count = int((inputs["labels"] != -100).sum()) - (3 if kind == "causal" else 0)  # each row's first has no logits
    torch.testing.assert_close(model(**inputs, num_items_in_batch=count).loss, loss)
    torch.testing.assert_close(model(**inputs, num_items_in_batch=torch.tensor(2 * count)).loss, loss / 2)
    if kind == "causal":
        shifted = nn.functional.pad(inputs["labels"][:, 1:], (0, 1), value=-100)
        other = {**inputs, "labels": inputs["labels"].roll(1, 0)}
        torch.testing.assert_close(model(**other, shift_labels=shifted).loss, loss)
        without = {name: value for name, value in inputs.items() if name != "labels"}
        torch.testing.assert_close(model(**without, shift_labels=shifted).loss, loss)
        return
    made = model.prepare_decoder_input_ids_from_labels(labels=inputs["labels"])
    given = {**inputs, "decoder_input_ids": made}
    without = {name: value for name, value in inputs.items() if name != "decoder_input_ids"}
    torch.testing.assert_close(model(**without).loss, model(**given).loss)
    assert made[:, 0].tolist() == [model.config.start_token_id] * 3
    assert torch.equal(made[0, 1:], inputs["labels"][0, :-1])
    assert (made >= 0).all()


def test_logits_in_training_on_request() -> None:
    inputs = make_inputs("seq2seq_lm", with_labels=True)
    silent = make_model("seq2seq_lm").train()
    model = make_model("seq2seq_lm", return_logits_in_training=True).train()
    output = model(**inputs)
    torch.testing.assert_close(output.loss, silent(**inputs).loss, **CLOSE)
    torch.testing.assert_close(output.logits, model.eval()(**inputs).logits, **CLOSE)
    unlabelled = {name: value for name, value in inputs.items() if name != "labels"}
    assert silent(**unlabelled).logits is not None


@pytest.mark.parametrize("field", ["dropout", "attention_dropout", "activation_dropout"])
@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_dropout_only_in_training(kind: str, field: str) -> None:
    model, inputs = make_model(kind, "default", **{field: 0.5}), make_inputs(kind)
    torch.testing.assert_close(run(model, **inputs), run(make_model(kind), **inputs))
    model.train()
    assert not torch.allclose(run(model, **inputs), run(model, **inputs))


@over(KIND_CASES)
def test_fresh_weights(kind: str, variant: str) -> None:
    """Matrices are drawn with `initializer_range`, biases are zero, norms one, the padding vector zero."""
    spread = 0.04
    fields = {"initializer_range": spread}
    arguments = {"encoder": fields, "decoder": fields} if kind.startswith("seq2seq") else fields
    model = make_model(kind, "learned", spread=False, **arguments)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            assert abs(parameter.mean()) < 0.1 * spread, name
            assert 0.85 * spread < parameter.std() < 1.15 * spread, name
    embedding = model.get_input_embeddings()
    assert embedding.padding_idx == 0
    assert (embedding.weight[0] == 0).all()


@over(COVERING_CASES)
def test_the_padding_vector_is_not_trained(kind: str, variant: str) -> None:
    """Nothing trains the embedding of the padding id, tied or not, unless a label names it."""
    fields = {"tie_word_embeddings": False} if kind != "encoder" else {}
    model = make_model(kind, variant, **fields).train()
    _, found = gradients(model, make_inputs(kind, with_labels=kind in HEADS))
    for name, gradient in found.items():
        if name.endswith("embed_tokens.weight"):
            assert (gradient[0] == 0).all(), name
            assert gradient.abs().sum() > 0, name


def test_classes_that_train_say_so() -> None:
    for model_class in (CustomSeq2SeqForConditionalGeneration, TransformerDecoderForCausalLM):
        assert model_class.accepts_loss_kwargs
    assert {KINDS[kind] for kind in HEADS} == {CustomSeq2SeqForConditionalGeneration, TransformerDecoderForCausalLM}

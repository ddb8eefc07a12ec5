"""What `forward` takes and returns: forms, shapes, counts, and inputs that may stand for one another."""

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput

from tests.models.model_cases import (
    ALL_CASES,
    COVERING_CASES,
    COVERING_HEAD_CASES,
    HEADS,
    KIND_CASES,
    KINDS,
    main_output,
    make_config,
    make_inputs,
    make_model,
    over,
    real_positions,
    run,
)

ROWS, SOURCE, TARGET, CROSS = 3, 7, 6, 5
"""Sizes of the shared inputs: rows, source tokens, target tokens, encoder states of the `_cross` kinds."""


def assert_same(first: Any, second: Any) -> None:
    """Nested tuples of tensors, caches left out."""
    if isinstance(first, torch.Tensor):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
    elif isinstance(first, (tuple, list)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert isinstance(first, Cache)
        assert type(first) is type(second)


@over(ALL_CASES)
def test_tuple_output_is_dict_output(kind: str, variant: str) -> None:
    model = make_model(kind, variant)
    for with_labels in (False, True) if kind in HEADS else (False,):
        inputs = make_inputs(kind, with_labels=with_labels)
        for flags in ({}, {"output_hidden_states": True, "output_attentions": True}):
            with torch.no_grad():
                as_dict = model(**inputs, **flags)
                as_tuple = model(**inputs, **flags, return_dict=False)
            assert type(as_tuple) is tuple
            assert_same(as_tuple, as_dict.to_tuple())
            assert ("loss" in as_dict) == with_labels


def expected_sides(kind: str, model: PreTrainedModel) -> dict[str, tuple[Any, int, int]]:
    """Output prefix to config, query length and key length."""
    if kind.startswith("seq2seq"):
        return {
            "encoder_": (model.config.encoder, SOURCE, SOURCE),
            "decoder_": (model.config.decoder, TARGET, TARGET),
            "cross_": (model.config.decoder, TARGET, SOURCE),
        }
    sides = {"": (model.config, SOURCE, SOURCE)}
    if kind.endswith("_cross"):
        sides["cross_"] = (model.config, SOURCE, CROSS)
    return sides


@over(ALL_CASES)
@pytest.mark.parametrize("through", ["argument", "config"])
def test_attentions_and_hidden_states(kind: str, variant: str, through: str) -> None:
    """Counts and shapes; rows of weights sum to one; under SDPA the eager form is used."""
    model, inputs = make_model(kind, variant), make_inputs(kind)
    assert model.config._attn_implementation == "sdpa"
    plain = run(model, **inputs)
    flags = {"output_attentions": True, "output_hidden_states": True}
    if through == "config":
        model.set_attn_implementation("eager")  # transformers lets a config ask for weights under eager only
        for name in flags:
            setattr(model.config, name, True)
        flags = {}
    with torch.no_grad():
        output = model(**inputs, **flags)
    real = real_positions(kind, inputs)
    torch.testing.assert_close(main_output(output)[real], plain[real], rtol=1e-4, atol=1e-5)
    for prefix, (config, queries, keys) in expected_sides(kind, model).items():
        weights = output[f"{prefix}attentions"]
        assert len(weights) == config.num_hidden_layers
        for layer in weights:
            assert layer.shape == (ROWS, config.num_attention_heads, queries, keys)
            torch.testing.assert_close(layer.sum(-1), torch.ones(layer.shape[:-1]))
        if prefix != "cross_":
            states = output[f"{prefix}hidden_states"]
            assert len(states) == config.num_hidden_layers + 1
            assert all(layer.shape == (ROWS, queries, config.hidden_size) for layer in states)
    last = {"seq2seq": "decoder_hidden_states"}.get(kind, "hidden_states")
    if kind not in HEADS:
        assert torch.equal(output[last][-1], output.last_hidden_state)
    if kind.startswith("seq2seq"):
        assert torch.equal(output.encoder_hidden_states[-1], output.encoder_last_hidden_state)
    attends_to = inputs["encoder_attention_mask"] if kind.endswith("_cross") else inputs["attention_mask"]
    for prefix, (_, _, keys) in expected_sides(kind, model).items():
        if keys == attends_to.shape[1] and prefix in ("encoder_", "cross_"):
            for layer in output[f"{prefix}attentions"]:
                assert (layer * (1 - attends_to)[:, None, None, :]).abs().max() == 0  # nothing looks at padding


@over(ALL_CASES)
def test_without_flags_nothing_is_kept(kind: str, variant: str) -> None:
    with torch.no_grad():
        output = make_model(kind, variant)(**make_inputs(kind))
    names = {name for name in output if name.endswith(("attentions", "hidden_states"))}
    assert not names
    assert ("past_key_values" in output) == (kind != "encoder")


@over(COVERING_CASES)
def test_order_of_the_outputs(kind: str, variant: str) -> None:
    """As in BART: loss, logits, cache, then hidden states before attentions."""
    model, inputs = make_model(kind, variant), make_inputs(kind, with_labels=kind in HEADS)
    if kind != "encoder":
        inputs["use_cache"] = True
    with torch.no_grad():
        names = list(model(**inputs, output_attentions=True, output_hidden_states=True))
    decoder = ["past_key_values", "hidden_states", "attentions"]
    seq2seq = [
        "past_key_values",
        "decoder_hidden_states",
        "decoder_attentions",
        "cross_attentions",
        "encoder_last_hidden_state",
        "encoder_hidden_states",
        "encoder_attentions",
    ]
    assert (
        names
        == {
            "encoder": ["last_hidden_state", "hidden_states", "attentions"],
            "decoder": ["last_hidden_state", *decoder],
            "decoder_cross": ["last_hidden_state", *decoder, "cross_attentions"],
            "causal": ["loss", "logits", *decoder],
            "causal_cross": ["loss", "logits", *decoder, "cross_attentions"],
            "seq2seq": ["last_hidden_state", *seq2seq],
            "seq2seq_lm": ["loss", "logits", *seq2seq],
            "seq2seq_bridge": ["loss", "logits", *seq2seq],
        }[kind]
    )


@over(COVERING_CASES)
def test_hidden_states_and_attentions_keep_gradients(kind: str, variant: str) -> None:
    """Without padding; with padding the layers run on packed rows, and hidden states are copies with padding put back."""
    model, inputs = make_model(kind, variant).train(), make_inputs(kind, with_padding=False)
    output = model(**inputs, output_attentions=True, output_hidden_states=True)
    kept = {name: output[name][0] for name in output if name.endswith(("attentions", "hidden_states"))}
    assert len(kept) == {"seq2seq": 5, "encoder": 2}.get(kind.split("_")[0], 3 if kind.endswith("_cross") else 2)
    for tensor in kept.values():
        tensor.retain_grad()
    main_output(output).square().sum().backward()
    for name, tensor in kept.items():
        assert tensor.grad is not None, name
        assert tensor.grad.abs().sum() > 0, name


@over(ALL_CASES)
def test_determinism(kind: str, variant: str) -> None:
    model, inputs = make_model(kind, variant), make_inputs(kind)
    assert torch.equal(run(model, **inputs), run(model, **inputs))


@over(COVERING_CASES)
def test_arguments_are_left_alone(kind: str, variant: str) -> None:
    model, inputs = make_model(kind, variant), make_inputs(kind, with_labels=kind in HEADS)
    before = copy.deepcopy(inputs)
    config = copy.deepcopy(model.config.to_dict())
    model(**inputs, output_attentions=True)
    assert inputs.keys() == before.keys()
    assert all(torch.equal(inputs[name], before[name]) for name in before)
    assert model.config.to_dict() == config


@over(ALL_CASES)
def test_inputs_embeds_stand_for_input_ids(kind: str, variant: str) -> None:
    model, inputs = make_model(kind, variant), make_inputs(kind)
    expected = run(model, **inputs)
    given = dict(inputs)
    given["inputs_embeds"] = model.get_input_embeddings()(given.pop("input_ids"))
    torch.testing.assert_close(run(model, **given), expected)
    if kind.startswith("seq2seq"):
        ids = given.pop("decoder_input_ids")
        given["decoder_inputs_embeds"] = model.get_decoder().get_input_embeddings()(ids)
        torch.testing.assert_close(run(model, **given), expected)


@pytest.mark.parametrize("kind", ["seq2seq", "seq2seq_lm", "seq2seq_bridge"])
def test_encoder_outputs_stand_for_the_source(kind: str) -> None:
    model, inputs = make_model(kind), make_inputs(kind)
    expected = run(model, **inputs)
    ids, mask = inputs.pop("input_ids"), inputs["attention_mask"]
    with torch.no_grad():
        states = model.get_encoder()(ids, attention_mask=mask, output_hidden_states=True, output_attentions=True)
    eager = model.get_encoder()(ids, attention_mask=mask).last_hidden_state
    for encoder_outputs in (
        BaseModelOutput(last_hidden_state=eager),
        (eager,),
        [eager],
        {"last_hidden_state": eager},
    ):
        torch.testing.assert_close(run(model, encoder_outputs=encoder_outputs, **inputs), expected, rtol=0, atol=0)
    output = model(encoder_outputs=states, **inputs)
    assert output.encoder_hidden_states is states.hidden_states
    assert output.encoder_attentions is states.attentions
    assert output.encoder_last_hidden_state is states.last_hidden_state
    assert model(encoder_outputs=states.to_tuple(), **inputs).encoder_attentions is states.attentions


@over(COVERING_HEAD_CASES)
def test_logits_to_keep(kind: str, variant: str) -> None:
    model, inputs = make_model(kind, variant), make_inputs(kind)
    logits = run(model, **inputs)
    length = logits.shape[1]
    torch.testing.assert_close(run(model, **inputs, logits_to_keep=1), logits[:, -1:])
    torch.testing.assert_close(run(model, **inputs, logits_to_keep=3), logits[:, -3:])
    torch.testing.assert_close(run(model, **inputs, logits_to_keep=length + 5), logits)
    torch.testing.assert_close(run(model, **inputs, logits_to_keep=0), logits)
    kept = torch.tensor([0, 2, length - 1])
    torch.testing.assert_close(run(model, **inputs, logits_to_keep=kept), logits[:, kept])
    # The loss does not depend on how many logits are returned.
    labelled = make_inputs(kind, with_labels=True)
    for mode in (model.eval(), model.train()):
        whole, cut = mode(**labelled), mode(**labelled, logits_to_keep=2)
        torch.testing.assert_close(cut.loss, whole.loss)
        assert cut.logits is None or cut.logits.shape[1] == 2
    # Nor on their order, where as many are returned as there are labels.
    model.eval()
    order = torch.arange(labelled["labels"].shape[1]).flip(0)
    whole, turned = model(**labelled), model(**labelled, logits_to_keep=order)
    torch.testing.assert_close(turned.logits, whole.logits[:, order])
    torch.testing.assert_close(turned.loss, whole.loss)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("encoder", ["input_ids", "attention_mask", "inputs_embeds"]),
        ("decoder", ["input_ids", "attention_mask", "encoder_hidden_states", "encoder_attention_mask"]),
        ("causal", ["input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds"]),
        (
            "seq2seq",
            ["input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask", "encoder_outputs"],
        ),
        (
            "seq2seq_lm",
            ["input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask", "encoder_outputs"],
        ),
    ],
)
def test_forward_signature(kind: str, names: list[str]) -> None:
    """Positional use keeps BART's order; the Trainer finds the labels by name."""
    parameters = list(inspect.signature(KINDS[kind].forward).parameters)
    assert parameters[1 : 1 + len(names)] == names
    assert ("labels" in parameters) == (kind in HEADS)
    assert ("logits_to_keep" in parameters) == (kind in HEADS)
    model, inputs = make_model(kind), make_inputs(kind)
    assert model.main_input_name == "input_ids"
    positional = [inputs.pop(name, None) for name in names[:2]]
    given = {name: value for name, value in inputs.items() if name not in names[:2]}
    with torch.no_grad():
        torch.testing.assert_close(main_output(model(*positional, **given)), run(model, **make_inputs(kind)))


@over(KIND_CASES)
def test_class_attributes(kind: str, variant: str) -> None:
    model = make_model(kind, variant)
    generates = kind in HEADS
    assert (GenerationMixin in KINDS[kind].__bases__) == generates
    assert model.can_generate() == generates
    if generates:
        assert not model._is_stateful
        assert getattr(model, model.base_model_prefix) is model.base_model
    for word in ("mamba", "rwkv", "xlstm", "reformer", "minimax", "xlnet"):  # generate() picks caches by these
        assert word not in type(model).__name__.lower()
    assert type(model).supports_gradient_checkpointing
    assert type(model)._can_set_attn_implementation()
    assert pickle.loads(pickle.dumps(type(model))) is type(model)


@over(COVERING_CASES)
def test_head_is_a_projection_of_the_last_states(kind: str, variant: str) -> None:
    """The head class adds nothing but `lm_head` to what its base model returns."""
    if kind not in HEADS:
        return
    model, inputs = make_model(kind, variant), make_inputs(kind)
    with torch.no_grad():
        states = model.model(**inputs).last_hidden_state
    expected = nn.functional.linear(states, model.lm_head.weight, model.lm_head.bias)
    torch.testing.assert_close(run(model, **inputs), expected)


@over(COVERING_CASES)
def test_default_special_tokens(kind: str, variant: str) -> None:
    """A config whose saved form names no token ids still runs."""
    written = make_config(kind, variant).to_diff_dict()
    for part in (written, written.get("encoder", {}), written.get("decoder", {})):
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings"):
            part.pop(name, None)
    config = type(make_config(kind, variant)).from_dict(written)
    assert run(KINDS[kind](config).eval(), **make_inputs(kind)).isfinite().all()


@over(KIND_CASES)
def test_models_are_small(kind: str, variant: str) -> None:
    model = make_model(kind, variant)
    assert model.num_parameters() < 60_000
    assert model.dummy_inputs["input_ids"].shape[0] >= 1

"""torch.export, torch.compile without a graph break, and the static cache that compiled decoding needs."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend
from transformers import CompileConfig
from transformers.cache_utils import StaticCache

from hf_custom_decoder import CustomSeq2SeqCache
from hf_custom_decoder.models.cache_custom_seq2seq import build_cross_attention_cache
from tests.factories import ALL_VARIANTS, SIZES
from tests.models.model_cases import (
    ALL_CASES,
    HEAD_CASES,
    main_output,
    make_inputs,
    make_model,
    over,
    real_positions,
    run,
)

CLOSE = {"rtol": 1e-4, "atol": 1e-5}

EXPORT_CASES = [
    ("encoder", "sliding"),
    ("decoder_cross", "rotary"),
    ("causal", "sliding_last_alibi"),
    ("seq2seq_bridge", "learned"),
]
COMPILE_CASES = [("encoder", "sliding"), ("causal_cross", "rotary"), ("seq2seq_lm", "sliding_last_alibi")]
TRAINING_CASES = [("seq2seq_lm", "rotary")]
STEP_CASES = ["sliding_last_alibi"]
GENERATION_CASES = [("seq2seq_lm", "rotary_gqa_qk_norm"), ("seq2seq_lm", "sliding_last_alibi"), ("causal", "learned")]


def others(cases: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What the covering set leaves to the full run."""
    return [case for case in ALL_CASES if case not in cases]


@pytest.fixture(autouse=True)
def _forget_compiled_code() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def forward_inputs(kind: str, **kwargs: Any) -> dict[str, Any]:
    inputs = make_inputs(kind, **kwargs)
    return inputs if kind == "encoder" else {**inputs, "use_cache": False}


def assert_close_where_real(kind: str, inputs: dict[str, Any], found: Any, expected: torch.Tensor) -> None:
    real = real_positions(kind, inputs)
    torch.testing.assert_close(main_output(found)[real], expected[real], **CLOSE)


def check_export(kind: str, variant: str) -> None:
    """Batch size and both lengths are free: the program runs on sizes it has not seen."""
    model, inputs = make_model(kind, variant), forward_inputs(kind)
    limit = SIZES["max_position_embeddings"]  # tables of positions end there
    rows, states = torch.export.Dim("rows"), torch.export.Dim("states")
    source, target = torch.export.Dim("source", max=limit), torch.export.Dim("target", max=limit)
    shapes = {
        "input_ids": {0: rows, 1: source},
        "attention_mask": {0: rows, 1: source},
        "decoder_input_ids": {0: rows, 1: target},
        "encoder_hidden_states": {0: rows, 1: states},
        "encoder_attention_mask": {0: rows, 1: states},
        "use_cache": None,
    }
    shapes = {name: shapes[name] for name in inputs}
    program = torch.export.export(model, (), inputs, dynamic_shapes=shapes, strict=False).module()
    other = {
        name: value if value is False else torch.cat([value, value[:, :2]], dim=1)[:2]
        for name, value in inputs.items()
    }
    other["attention_mask"] = other["attention_mask"].sort(dim=1, descending=True).values
    for given in (inputs, other):
        assert_close_where_real(kind, given, program(**given), run(model, **given))


@over(EXPORT_CASES)
def test_export(kind: str, variant: str) -> None:
    check_export(kind, variant)


@pytest.mark.full
@over(others(EXPORT_CASES))
def test_export_of_every_case(kind: str, variant: str) -> None:
    check_export(kind, variant)


@over(COMPILE_CASES)
def test_compile(kind: str, variant: str) -> None:
    model, inputs = make_model(kind, variant), forward_inputs(kind)
    counter = CompileCounter()
    with torch.no_grad():
        output = torch.compile(model, fullgraph=True, backend=counter)(**inputs)
    assert_close_where_real(kind, inputs, output, run(model, **inputs))
    assert counter.frame_count == 1


@pytest.mark.full
@over(ALL_CASES)
def test_compile_for_any_length(kind: str, variant: str) -> None:
    """New lengths do not compile it again and again."""
    model, inputs = make_model(kind, variant), forward_inputs(kind)
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter, dynamic=True)
    for length in (7, 6, 5, 4):
        cut = {name: value[:, :length].clone() if torch.is_tensor(value) else value for name, value in inputs.items()}
        with torch.no_grad():
            assert_close_where_real(kind, cut, compiled(**cut), run(model, **cut))
    assert counter.frame_count <= 2


def check_compiled_training(kind: str, variant: str) -> None:
    """The compiled loss may not depend on how many labels there are, so it takes another path; both agree."""
    model, inputs = make_model(kind, variant).train(), make_inputs(kind, with_labels=True)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for labels in (inputs["labels"], inputs["labels"].masked_fill(inputs["labels"] % 2 == 0, -100)):
        given = {**inputs, "labels": labels}
        model.zero_grad()
        expected = model(**given).loss
        expected.backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        model.zero_grad()
        output = compiled(**given)
        output.loss.backward()
        assert output.logits is None
        torch.testing.assert_close(output.loss, expected, **CLOSE)
        torch.testing.assert_close(
            [parameter.grad for parameter in model.parameters()], gradients, rtol=1e-3, atol=1e-5
        )
    assert counter.frame_count == 1


@over(TRAINING_CASES)
def test_compiled_training(kind: str, variant: str) -> None:
    check_compiled_training(kind, variant)


@pytest.mark.full
@over([case for case in others(TRAINING_CASES) if case[0] in ("causal", "seq2seq_lm", "seq2seq_bridge")])
def test_compiled_training_of_every_case(kind: str, variant: str) -> None:
    check_compiled_training(kind, variant)


def check_static_steps(kind: str, variant: str, compiled: bool) -> None:
    """Token by token through a static cache, against one call without any."""
    model, inputs = make_model(kind, variant), make_inputs(kind, with_padding=kind == "seq2seq_lm")
    expected = run(model, **inputs, use_cache=False)
    config = model.get_decoder().config
    cache: Any = StaticCache(config=config, max_cache_len=12)
    given: dict[str, Any] = {}
    name = "input_ids"
    if kind == "seq2seq_lm":
        cache = CustomSeq2SeqCache(cache, build_cross_attention_cache(cache, config.num_hidden_layers, 7))
        mask, name = inputs["attention_mask"], "decoder_input_ids"
        with torch.no_grad():
            states = model.get_encoder()(inputs["input_ids"], attention_mask=mask)
        given = {"encoder_outputs": states, "attention_mask": mask}
    step = torch.compile(model, fullgraph=True, backend="eager") if compiled else model
    ids = inputs[name]
    for position in range(4 if compiled else ids.shape[1]):
        with torch.no_grad():
            logits = step(**given, **{name: ids[:, position : position + 1]}, past_key_values=cache).logits
        torch.testing.assert_close(logits, expected[:, position : position + 1], **CLOSE)


@pytest.mark.parametrize("kind", ["causal", "seq2seq_lm"])
@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_static_cache(kind: str, variant: str) -> None:
    check_static_steps(kind, variant, compiled=False)


@pytest.mark.parametrize("kind", ["seq2seq_lm"])
@pytest.mark.parametrize("variant", STEP_CASES)
def test_compiled_step_with_a_static_cache(kind: str, variant: str) -> None:
    check_static_steps(kind, variant, compiled=True)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["causal", "seq2seq_lm"])
@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_compiled_step_of_every_variant(kind: str, variant: str) -> None:
    check_static_steps(kind, variant, compiled=True)


def test_export_of_a_decoding_step() -> None:
    """Encoder once, then the decoder for one token at a time from full prefixes: what an exporter of engines needs."""
    model, inputs = make_model("seq2seq_lm", "rotary"), forward_inputs("seq2seq_lm", with_padding=False)
    encoder = torch.export.export(
        model.get_encoder(),
        (),
        {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]},
        strict=False,
    ).module()
    states = encoder(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    arguments = {
        "encoder_outputs": (states,),
        "attention_mask": inputs["attention_mask"],
        "decoder_input_ids": inputs["decoder_input_ids"][:, :3].clone(),
        "use_cache": False,
        "logits_to_keep": 1,
    }
    length = torch.export.Dim("length", max=SIZES["max_position_embeddings"])
    shapes = {**dict.fromkeys(arguments), "encoder_outputs": (None,), "decoder_input_ids": {1: length}}
    step = torch.export.export(model, (), arguments, dynamic_shapes=shapes, strict=False).module()
    expected = run(model, **inputs)
    for end in range(2, 7):
        arguments["decoder_input_ids"] = inputs["decoder_input_ids"][:, :end]
        torch.testing.assert_close(step(**arguments).logits, expected[:, end - 1 : end], **CLOSE)


NUM_TOKENS = 14

COMPILED_GRAPHS: list[torch.fx.GraphModule] = []
"""What `count_graphs` was given; a module's own, as transformers copies a compile config with all that is in it."""


def count_graphs(module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
    """A compiler that notes a graph and runs it as it is."""
    COMPILED_GRAPHS.append(module)
    return module.forward


def check_compiled_generation(kind: str, variant: str, backend: Any = count_graphs, **fields: Any) -> int:
    """
    `generate()` with a static cache, its steps compiled as transformers does it on accelerators: equal ids, no graph
    break, nothing compiled in a second call. The number of graphs of the first one is returned.
    """
    model, inputs = make_model(kind, variant, **fields), make_inputs(kind, with_padding=kind == "seq2seq_lm")
    given: dict[str, Any] = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    given.update(cache_implementation="static", max_new_tokens=NUM_TOKENS, min_new_tokens=NUM_TOKENS)
    expected = model.generate(**given)
    config = CompileConfig(fullgraph=True, backend=backend, mode=None)
    config._compile_all_devices = True
    COMPILED_GRAPHS.clear()
    assert torch.equal(model.generate(**given, compile_config=config), expected)
    num_graphs = len(COMPILED_GRAPHS)
    with torch.compiler.set_stance("fail_on_recompile"):
        assert torch.equal(model.generate(**given, compile_config=config), expected)
    return num_graphs


def num_graphs_of(variant: str) -> int:
    """One; of transformers' sliding layers, which count tokens in whole numbers, three: first step, filling, full."""
    return 3 if "sliding" in variant else 1


@over(GENERATION_CASES)
def test_compiled_generation_compiles_once(kind: str, variant: str) -> None:
    assert check_compiled_generation(kind, variant) == num_graphs_of(variant)


@pytest.mark.full
@over([case for case in HEAD_CASES if case not in GENERATION_CASES and case[0] in ("causal", "seq2seq_lm")])
def test_compiled_generation_of_every_variant(kind: str, variant: str) -> None:
    assert check_compiled_generation(kind, variant) == num_graphs_of(variant)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler")
def test_generation_by_compiled_kernels() -> None:
    """With torch's own compiler."""
    small = {"encoder": {"num_hidden_layers": 1}, "decoder": {"num_hidden_layers": 1}}
    check_compiled_generation("seq2seq_lm", "rotary_gqa_qk_norm", backend="inductor", **small)

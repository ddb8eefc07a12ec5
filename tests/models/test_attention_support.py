"""The table of `docs/attention_support.md`, cell by cell."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import PreTrainedModel

from tests.models.model_cases import main_output, make_inputs, make_model, real_positions, run

DOCUMENT = Path(__file__).parents[2] / "docs" / "attention_support.md"
POSITION_TYPES = ("sinusoidal", "learned", "rotary", "none", "alibi")
WINDOWED = {"mixer_types": ["sliding_attention", "full_attention"], "sliding_window": 3}
KINDS_OF_THE_TABLE = ("seq2seq_lm", "causal")


class Cell(NamedTuple):
    """One cell of the table."""

    kernel: str
    device: str
    mode: str
    window: str
    position_type: str
    says: str

    def __str__(self) -> str:
        return "-".join([self.kernel, self.mode, f"window_{self.window}", self.position_type])


def read_table() -> list[Cell]:
    """Every cell that the document has."""
    rows = [
        line.strip().strip("|") for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("|")
    ]
    cells = []
    for row in rows:
        entries = [entry.strip() for entry in row.split("|")]
        if len(entries) == 4 + len(POSITION_TYPES) and entries[1] in ("CPU", "CUDA"):
            cells += [Cell(*entries[:4], *pair) for pair in zip(POSITION_TYPES, entries[4:], strict=True)]
    return cells


CELLS = read_table()
CPU_CELLS = [cell for cell in CELLS if cell.device == "CPU"]
CUDA_CELLS = [cell for cell in CELLS if cell.device == "CUDA"]


def over_cells(cells: list[Cell]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("cell", cells, ids=str)


def build(kind: str, cell: Cell, **kwargs: Any) -> PreTrainedModel:
    fields = {"position_type": cell.position_type}
    window = WINDOWED if cell.window == "yes" else {}
    if kind == "causal":
        return make_model(kind, "default", **fields, **window, **kwargs)
    sides = {"encoder": {**fields, **({"sliding_window": 2} if window else {})}, "decoder": {**fields, **window}}
    return make_model(kind, "default", **sides, **kwargs)


def inputs_for(kind: str, *, with_labels: bool = False) -> dict[str, torch.Tensor]:
    """Source padding on the right; for the decoder alone on the left, where it hurts."""
    inputs = make_inputs(kind, with_labels=with_labels)
    return inputs if kind == "seq2seq_lm" else {name: value.flip(1) for name, value in inputs.items()}


def loss_and_gradients(model: PreTrainedModel, inputs: dict[str, Any]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.train().zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]


def assert_equals_eager(cell: Cell, device: str, dtype: torch.dtype, tolerance: dict[str, float]) -> None:
    for kind in KINDS_OF_THE_TABLE:
        model = build(kind, cell).to(device, dtype)
        training = cell.mode == "training"
        inputs = {name: value.to(device) for name, value in inputs_for(kind, with_labels=training).items()}
        model.set_attn_implementation("eager")
        expected: Any = loss_and_gradients(model, inputs) if training else run(model, **inputs)
        model.set_attn_implementation(cell.kernel)
        found: Any = loss_and_gradients(model, inputs) if training else run(model, **inputs)
        if not training:
            real = real_positions(kind, inputs)
            expected, found = expected[real], found[real]
        torch.testing.assert_close(found, expected, **tolerance)


@pytest.fixture
def flex_without_compiling() -> Iterator[None]:
    """FlexAttention in its slow form; compiling it takes many seconds a shape."""
    with torch.compiler.set_stance("force_eager"):
        yield


def test_the_table_is_whole() -> None:
    kernels = ("eager", "sdpa", "flex_attention", "flash_attention_2")
    expected = {
        (kernel, device, mode, window, position_type)
        for kernel in kernels
        for device in ("CPU", "CUDA")
        for mode in ("inference", "training")
        for window in ("no", "yes")
        for position_type in POSITION_TYPES
    }
    assert len(CELLS) == len(expected)
    assert {cell[:5] for cell in CELLS} == expected
    assert {cell.says for cell in CELLS} == {"reference", "= eager", "refused", "not installed", "not measured"}


@over_cells(CPU_CELLS)
def test_cpu(cell: Cell, flex_without_compiling: None) -> None:
    if cell.says in ("= eager", "reference"):
        assert_equals_eager(cell, "cpu", torch.float64, {"rtol": 1e-6, "atol": 1e-8})
        return
    for kind in KINDS_OF_THE_TABLE:
        if cell.says == "not installed":
            with pytest.raises(ImportError, match="FlashAttention2"):
                build(kind, cell, attn_implementation=cell.kernel)
        elif cell.position_type == "alibi":
            words = r"`attn_implementation` must be 'eager' or 'sdpa' with `position_type='alibi'`.*got 'flex_attention'\. Choose"
            with pytest.raises(ValueError, match=words):
                build(kind, cell, attn_implementation=cell.kernel)
            model = build(kind, cell)
            with pytest.raises(ValueError, match=words):
                model.set_attn_implementation(cell.kernel)
            assert model.config._attn_implementation == "sdpa"
        else:
            model = build(kind, cell)
            model.set_attn_implementation(cell.kernel)
            with pytest.raises(ValueError, match=r"`attn_implementation='flex_attention'` has no backward.*'sdpa'"):
                model.train()(**inputs_for(kind, with_labels=True))


@over_cells([cell for cell in CUDA_CELLS if cell.says == "refused"])
def test_refused_on_every_device(cell: Cell) -> None:
    """Before any kernel is looked for, so no accelerator is needed to see it."""
    for kind in KINDS_OF_THE_TABLE:
        model = build(kind, cell)
        with pytest.raises(ValueError, match=r"with `position_type='alibi'`"):
            model.set_attn_implementation(cell.kernel)


@pytest.mark.gpu
@over_cells([cell for cell in CUDA_CELLS if cell.says == "not measured"])
def test_cuda(cell: Cell) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an accelerator")
    if cell.kernel == "flash_attention_2":
        try:
            build("causal", cell, attn_implementation=cell.kernel)
        except ImportError:
            pytest.skip("needs an accelerator and the package flash_attn")
        assert_equals_eager(cell, "cuda", torch.bfloat16, {"rtol": 4e-2, "atol": 4e-2})
        return
    if cell.kernel == "flex_attention":
        assert_equals_eager(cell, "cuda", torch.float32, {"rtol": 1e-3, "atol": 1e-3})
        return
    assert_equals_eager(cell, "cuda", torch.float64, {"rtol": 1e-6, "atol": 1e-8})
    on_cpu = build("seq2seq_lm", cell)
    inputs = inputs_for("seq2seq_lm")
    expected = run(on_cpu, **inputs)
    on_cpu.set_attn_implementation(cell.kernel)
    found = run(on_cpu.cuda(), **{name: value.cuda() for name, value in inputs.items()})
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.full
@pytest.mark.slow
def test_flex_attention_compiled() -> None:
    """The form that users run (it wants a C++ compiler); the tests above take the slow one of the same function."""
    model, inputs = make_model("seq2seq_lm", "default", encoder={"num_hidden_layers": 1}), inputs_for("seq2seq_lm")
    expected = run(model, **inputs)
    model.set_attn_implementation("flex_attention")
    torch.testing.assert_close(run(model, **inputs), expected, rtol=1e-4, atol=1e-5)


def test_flex_attention_refuses_dropout_in_training() -> None:
    model = make_model("causal", "default", attention_dropout=0.1)
    model.set_attn_implementation("flex_attention")
    model.requires_grad_(False)
    with pytest.raises(
        ValueError, match=r"no dropout, got `attention_dropout=0\.1` in training mode\. Set it to 0\.0"
    ):
        model.train()(**inputs_for("causal"))


@pytest.mark.parametrize("kind", KINDS_OF_THE_TABLE)
def test_flex_attention_evaluation_with_gradients_is_refused(kind: str) -> None:
    """In evaluation mode a backward pass would fail as deep as in training."""
    model = make_model(kind)
    model.set_attn_implementation("flex_attention")
    with pytest.raises(ValueError, match=r"has no backward pass on CPU, got a model whose weights want gradients"):
        model(**inputs_for(kind))


@pytest.mark.parametrize("kernel", ["sdpa", "flex_attention"])
def test_weights_come_from_eager_whatever_the_kernel(kernel: str, flex_without_compiling: None) -> None:
    model, inputs = make_model("seq2seq_lm"), inputs_for("seq2seq_lm")
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(**inputs, output_attentions=True)
        model.set_attn_implementation(kernel)
        found = model(**inputs, output_attentions=True)
    for name in ("encoder_attentions", "decoder_attentions", "cross_attentions"):
        torch.testing.assert_close(found[name], expected[name])
    torch.testing.assert_close(main_output(found), main_output(expected))


@pytest.mark.parametrize("kind", KINDS_OF_THE_TABLE)
@pytest.mark.parametrize("kernel", ["sdpa", "flex_attention"])
@pytest.mark.parametrize("window", ["no", "yes"])
def test_generation_is_that_of_eager(kind: str, kernel: str, window: str, flex_without_compiling: None) -> None:
    cell = Cell(kernel, "CPU", "inference", window, "rotary", "= eager")
    model, inputs = build(kind, cell), inputs_for(kind)
    arguments = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "max_new_tokens": 5}
    for strategy in ({"do_sample": False}, {"num_beams": 3, "num_return_sequences": 2}):
        model.set_attn_implementation("eager")
        expected = model.generate(**arguments, **strategy)
        model.set_attn_implementation(kernel)
        assert torch.equal(model.generate(**arguments, **strategy), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", ["default", "rotary_gqa_qk_norm", "alibi", "sliding_last_alibi", "learned"])
@pytest.mark.parametrize("kind", ["encoder", "causal", "seq2seq_lm"])
def test_half_precision(kind: str, variant: str, dtype: torch.dtype) -> None:
    """Finite, of the asked dtype, near to float32, SDPA near to eager; also with rows of nothing but padding."""
    if kind == "encoder" and variant == "sliding_last_alibi":
        variant = "sliding"
    model, inputs = make_model(kind, variant), make_inputs(kind)
    real = real_positions(kind, inputs)
    exact = run(model, **inputs)
    model.to(dtype)
    outputs = {}
    for kernel in ("sdpa", "eager"):
        model.set_attn_implementation(kernel)
        outputs[kernel] = run(model, **inputs)
        assert outputs[kernel].dtype == dtype
        assert outputs[kernel].isfinite().all()
        error = (outputs[kernel].float() - exact)[real].abs().max() / exact.abs().max()
        assert error < (0.05 if dtype == torch.bfloat16 else 0.01)
        empty = {**inputs, "attention_mask": torch.zeros_like(inputs["attention_mask"])}
        assert run(model, **empty).isfinite().all()
    difference = (outputs["sdpa"] - outputs["eager"]).float()[real].abs().max() / exact.abs().max()
    assert difference < (0.05 if dtype == torch.bfloat16 else 0.01)


def test_autocast_trains() -> None:
    model, inputs = make_model("seq2seq_lm", "rotary").train(), make_inputs("seq2seq_lm", with_labels=True)
    exact = model(**inputs).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**inputs).loss
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.02)

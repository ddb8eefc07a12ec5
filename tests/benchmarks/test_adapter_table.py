"""What the tables of docs/peft.md count."""

import pytest

from benchmarks.adapter_table import ALL, MIB, MODELS, cells


def test_a_step_on_all_parameters_takes_three_copies_of_them() -> None:
    """A gradient and two moments for each number, in float32, and the step count of each tensor."""
    model = MODELS["LSTM LM"]()
    sizes = [one.numel() for one in model.parameters()]
    share, memory = cells(ALL, model)
    step, _, activations = memory.partition(" + ")
    assert share == "works, 100.00 %"
    assert float(step) == pytest.approx((12 * sum(sizes) + 4 * len(sizes)) / MIB, abs=0.06)
    assert int(activations) > 0


def test_an_adapter_takes_less_and_a_refusal_nothing() -> None:
    """Gradients and moments of the adapter alone, though its share is of the model without it."""
    model = MODELS["LSTM LM"]()
    total = sum(one.numel() for one in model.parameters())
    share, memory = cells("LoRA, r=8", model)
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert share == f"works, {100 * trained / total:.2f} %"
    assert float(memory.partition(" + ")[0]) == pytest.approx(12 * trained / MIB, abs=0.06)
    assert cells("prefix tuning, 20", MODELS["LSTM LM"]()) == ("refused", "-")

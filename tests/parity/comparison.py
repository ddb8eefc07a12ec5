"""How the parity tests compare: with which tolerances, in which precision, over which tensors."""

import contextlib
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import nn

TOLERANCES = {torch.float64: (1e-10, 0.0), torch.float32: (1e-5, 1e-5)}
"""Greatest absolute difference of outputs and gradients, and what large values may add to it."""

DTYPES = [pytest.param(torch.float64, id="float64"), pytest.param(torch.float32, id="float32")]


def assert_near(actual: torch.Tensor, expected: torch.Tensor, name: str = "") -> None:
    """Raise unless both have one shape, one dtype and values within the tolerance of that dtype."""
    atol, rtol = TOLERANCES[expected.dtype]
    torch.testing.assert_close(
        actual, expected, atol=atol, rtol=rtol, msg=lambda text: f"{name}: {text}" if name else text
    )


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    """Gradients by parameter name, tied ones under each of their names; parameters without one are left out."""
    named = module.named_parameters(remove_duplicate=False)
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}


def assert_same_gradients(
    module: nn.Module, expected: Mapping[str, torch.Tensor], *, extra: str | None = None
) -> None:
    """
    Raise unless the gradients of `module` are those of `expected`, name by name.

    Args:
        module (`nn.Module`): Ours.
        expected (`Mapping[str, torch.Tensor]`): The reference's, under our names.
        extra (`str`): End of the names of parameters that ours has beyond those of the reference.
    """
    actual = gradients(module)
    assert {name for name in actual if extra is None or not name.endswith(extra)} == set(expected)
    for name, gradient in expected.items():
        if not name.endswith("k_proj.bias"):  # which softmax takes no notice of
            assert gradient.abs().max() > 0, f"{name}: a gradient of zero compares nothing"
        assert_near(actual[name], gradient, name)


def randomize(module: nn.Module) -> None:
    """Fresh weights are close to zero or one, where many a mistake hides: draw all of them, norms and biases too."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
            is_norm_weight = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if is_norm_weight else 0.3 * noise)


@contextlib.contextmanager
def single_is_double(dtype: torch.dtype) -> Iterator[None]:
    """
    Let reference models compute in float64 throughout, if `dtype` says so.

    Those of transformers take norms, angles and softmax to float32 whatever the dtype of the model. Inside this block
    the name `torch.float32` and the method `Tensor.float` mean float64 to them.
    """
    with pytest.MonkeyPatch.context() as patch:
        if dtype == torch.float64:
            patch.setattr(torch, "float32", torch.float64)
            patch.setattr(torch, "float", torch.float64)
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield

"""One training step without memory: torch's fake tensors go forward and backward, and what they would hold is counted.

A fake tensor has the shape, dtype and device of a tensor and nothing else (its data is on the meta device), so every
operation of the model's own `forward`, of autograd and of autocast takes place and no number is computed.
"""

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_ATEN = torch.ops.aten
_NORMS = (nn.functional.layer_norm, nn.functional.rms_norm)
_FLOPS: dict[Any, Any] = dict(flop_registry)
_FLOPS[_ATEN._scaled_dot_product_flash_attention_for_cpu] = _FLOPS[_ATEN._scaled_dot_product_flash_attention]
_FLOPS[_ATEN._scaled_dot_product_flash_attention_for_cpu_backward] = _FLOPS[
    _ATEN._scaled_dot_product_flash_attention_backward
]
"""Operations by kernel, as torch counts them; the kernel of fake tensors computes what that of CUDA does."""


@dataclass(frozen=True)
class StepFigures:
    """What a step holds beside parameters, gradients and optimizer state, and what it computes.

    Attributes:
        activations (`int`): Bytes that autograd keeps between forward and backward, without `weight_copies`.
        weight_copies (`int`): Bytes of the 16-bit copies of weights that autocast keeps for the backward pass.
        working (`int`): Most bytes beyond both that exist at a time: the gradients of activations, the loss over the
            vocabulary, and with gradient checkpointing the layer that is computed again.
        peak (`int`): Most bytes at a time of all of these and of the gradients of parameters, which appear while
            activations go.
        flops (`int`): Floating-point operations of matrix products and attention, forward and backward, a
            multiplication and an addition being two; attention over the whole square, as if nothing were masked.
    """

    activations: int
    weight_copies: int
    working: int
    peak: int
    flops: int


@contextmanager
def without_memory(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Within it every tensor that is made is a fake one, and weights are of `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with FakeTensorMode():
            yield
    finally:
        torch.set_default_dtype(before)


def simulate_step(
    model: nn.Module,
    *,
    num_pairs: int,
    source_length: int,
    target_length: int,
    autocast: torch.dtype | None = None,
) -> StepFigures:
    """Counts what one forward and backward pass holds, for a batch without padding.

    Attention kernels are taken to keep queries, keys, values, output and one number a query, as FlashAttention (Dao et
    al. 2022, section 3.1) and torch's fused kernels do, and no dropout mask; masks of other dropout have the dtype of
    the states, though CUDA keeps booleans; every layer of the decoder keeps the mask of its self-attention, as for a
    padded batch, while masks over padded sources, a number a position, are left out. Under autocast norms compute in
    float32, as on CUDA, but not with gradient checkpointing, where layers that are computed again would not. Recurrent
    layers keep what torch's own loop over the steps keeps; other kernels (oneDNN, cuDNN) keep more.

    Args:
        model (`nn.Module`): An encoder-decoder model in training mode, built under [`without_memory`], within which
            this is called too; it takes
            `input_ids`, `attention_mask` and `labels` and returns a `loss`.
        num_pairs (`int`): Rows of the batch.
        source_length (`int`): Tokens of each source.
        target_length (`int`): Tokens of each target.
        autocast (`torch.dtype`, *optional*): What autocast turns matrix products into; without it none.

    Returns:
        [`StepFigures`]
    """
    tally = _Tally(model)
    source, target = (num_pairs, source_length), (num_pairs, target_length)
    shapes = {"input_ids": source, "attention_mask": source, "labels": target}
    batch = {name: torch.empty(shape, dtype=torch.int64) for name, shape in shapes.items()}
    with ExitStack() as stack:
        stack.enter_context(tally)
        stack.enter_context(_FusedKernels(float_norms=not getattr(model, "is_gradient_checkpointing", False)))
        stack.enter_context(tally.gradients_of(model))
        with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
            loss = model(**batch).loss
        kept, copies = tally.current, tally.weight_copies
        loss.backward()
    return StepFigures(kept - copies, copies, tally.most - kept, tally.most_with_gradients, tally.flops)


class _FusedKernels(TorchFunctionMode):
    """Computes as an accelerator would: attention dropout inside the kernel, norms in float32 under autocast."""

    def __init__(self, *, float_norms: bool) -> None:
        super().__init__()
        self._float_norms = float_norms

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is nn.functional.scaled_dot_product_attention:
            kwargs["dropout_p"] = 0.0
        elif self._float_norms and func in _NORMS and torch.is_autocast_enabled("cpu"):
            args = tuple(_as_float(arg) for arg in args)
            kwargs = {name: _as_float(arg) for name, arg in kwargs.items()}
        return func(*args, **kwargs)


def _as_float(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) else value


class _Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every storage that an operation makes until nothing refers to it any more.

    Questions about numbers, which nobody has computed, are answered as for a batch without padding and with ids that
    are known: everything is so (`all`), nothing is so (`any`), and any other number is 0.

    Args:
        model (`nn.Module`): Its parameters and buffers are not counted, the gradients of its parameters apart.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.current = self.most = self.gradients = self.most_with_gradients = self.weight_copies = self.flops = 0
        own = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
        self._own = {storage._cdata: storage for storage in own}  # held: no other storage may take the place of one
        self._known = set(self._own)
        self._sizes: dict[int, int] = {}
        self._copies: set[int] = set()
        self._watched: dict[int, Any] = {}
        self._untrue: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _ATEN.nonzero.default:
            return args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.int64)
        if func is _ATEN._local_scalar_dense.default:
            if args[0].dtype != torch.bool:
                return 0
            return all(args[0] is not one for one in self._untrue)
        made = func(*args, **(kwargs or {}))
        count = _FLOPS.get(func.overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=made)
        if func is _ATEN.any.default:
            self._untrue.append(made)
        is_copy = func is _ATEN._to_copy.default and args[0].untyped_storage()._cdata in self._own
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                self._watch(tensor.untyped_storage(), is_copy=is_copy)
        return made

    @contextmanager
    def gradients_of(self, model: nn.Module) -> Iterator[None]:
        """Within it, what a parameter's gradient holds is counted as gradients."""

        def move(parameter: torch.Tensor) -> None:
            if parameter.grad is not None:
                size = self._sizes.pop(parameter.grad.untyped_storage()._cdata, 0)
                self.current -= size
                self.gradients += size

        handles = [
            parameter.register_post_accumulate_grad_hook(move)  # type: ignore[no-untyped-call]
            for parameter in model.parameters()
            if parameter.requires_grad
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for parameter in model.parameters():
                parameter.grad = None

    def _watch(self, storage: torch.UntypedStorage, *, is_copy: bool) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self._sizes[key] = storage.nbytes()
        self._watched[key] = weakref.ref(storage, lambda _: self._forget(key))
        self.current += storage.nbytes()
        self.most = max(self.most, self.current)
        self.most_with_gradients = max(self.most_with_gradients, self.current + self.gradients)
        if is_copy:
            self._copies.add(key)
            self.weight_copies += storage.nbytes()

    def _forget(self, key: int) -> None:
        size = self._sizes.pop(key, 0)
        self.current -= size
        self._known.discard(key)
        self._watched.pop(key, None)
        if key in self._copies:
            self._copies.discard(key)
            self.weight_copies -= size

"""Weights that are not trained, for a number of steps or at all."""

import difflib
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

ALWAYS = "always"


class FrozenWeights:
    """Finds weights by name and keeps them as they are.

    A weight that is frozen for good needs no gradient any more. One that is frozen until a step is trained in every
    other respect, so that wrappers for several processes, which want the same gradients in every step, never notice;
    its gradient is computed and thrown away before it is clipped or used, so the optimizer (weight decay, moments,
    their bias correction) begins for it at that step. Nothing is remembered: the step alone decides.

    Args:
        model (`nn.Module`): Changed in place; not wrapped yet.
        freeze (`dict[str, Any]`): Optimizer steps, or "always", by name. A name is that of a module or a weight, with
            or without the leading "model.", or a pattern with `*`, `?` and `[]` for whole names of weights. Of several
            that match a weight the longest time counts. A tied matrix is frozen under any of its names.

    Raises:
        ValueError: If a name matches nothing, or no weight is left to train.
    """

    def __init__(self, model: nn.Module, freeze: dict[str, Any]) -> None:
        self._model = model
        weights = dict(model.named_parameters(remove_duplicate=False))
        times: dict[int, float] = {}
        for pattern, steps in freeze.items():
            chosen = [weight for name, weight in weights.items() if _matches(name, pattern)]
            if not chosen:
                raise ValueError(_unmatched(model, pattern))
            for weight in chosen:
                time = float("inf") if steps == ALWAYS else float(steps)
                times[id(weight)] = max(times.get(id(weight), 0.0), time)
        for weight in weights.values():
            if times.get(id(weight)) == float("inf"):
                weight.requires_grad_(False)
        if not any(weight.requires_grad for weight in weights.values()):
            raise ValueError(f"`training.freeze` must leave something to train, got {freeze}, which is everything.")
        self._steps = {name: times[id(weight)] for name, weight in model.named_parameters() if id(weight) in times}

    @property
    def num_frozen(self) -> int:
        """`int`: Numbers (not tensors) that are frozen for good."""
        return sum(weight.numel() for weight in self._model.parameters() if not weight.requires_grad)

    def drop_gradients(self, step: int) -> None:
        """Throws away what the backward pass has given to weights that are still frozen after `step` steps."""
        for name, weight in self._model.named_parameters():
            if step < self._steps.get(name, 0.0):
                weight.grad = None


def _matches(name: str, pattern: str) -> bool:
    for known in (name, name.removeprefix("model.")):
        if known == pattern or known.startswith(f"{pattern}.") or fnmatchcase(known, pattern):
            return True
    return False


def _unmatched(model: nn.Module, pattern: str) -> str:
    names = [name for name, _ in model.named_modules() if name]
    names += [name for name, _ in model.named_parameters(remove_duplicate=False)]
    known = sorted({name.removeprefix("model.") for name in names})
    nearest = difflib.get_close_matches(pattern, known, n=3, cutoff=0.5)
    top = sorted({name.partition(".")[0] for name in known})
    remedy = f"Near it are {', '.join(nearest)}." if nearest else f"Its names begin with {', '.join(top)}."
    return f"`training.freeze` must name modules or weights of the model, {pattern!r} matches none. {remedy}"

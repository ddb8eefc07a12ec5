"""Weights under their new names, put into one of our models and checked."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn


def load_weights(
    model: nn.Module, weights: Mapping[str, torch.Tensor], *, owner: str, fresh: Sequence[str] = ()
) -> None:
    """
    Copy weights into a model, all of them and nothing else, and set it to evaluation mode.

    Args:
        model (`nn.Module`): Goes to the dtype and device of the first weight.
        weights (`Mapping[str, torch.Tensor]`): By the names of `model`.
        owner (`str`): Where the weights come from, for errors.
        fresh (`Sequence[str]`): Beginnings of names that `weights` may lack; these keep their values.

    Raises:
        ValueError: A weight is missing or has no place, a shape differs, or two weights that are one here differ.
    """
    first = next(iter(weights.values()))
    model.to(device=first.device, dtype=first.dtype).eval()
    own = model.state_dict()
    missing = sorted(name for name in own if name not in weights and not name.startswith(tuple(fresh)))
    unexpected = sorted(set(weights) - set(own))
    if missing or unexpected:
        raise ValueError(
            f"{owner}: the weights must be those of the config, got none for {_shown(missing)} and no place for "
            f"{_shown(unexpected)}. Convert the whole, unchanged model, with its own config."
        )
    for name, weight in weights.items():
        if weight.shape != own[name].shape:
            raise ValueError(
                f"{owner}: the weight of `{name}` must have the shape {tuple(own[name].shape)} that the config says, "
                f"got {tuple(weight.shape)}. Make the source's config and weights agree, for instance by its "
                "`resize_token_embeddings`."
            )
    model.load_state_dict({**own, **weights})
    for name, weight in weights.items():  # a tied weight holds what was copied last
        if not torch.equal(own[name], weight.to(own[name])):
            raise ValueError(
                f"{owner}: the weight of `{name}` must equal the one that the config ties it to, got other values. "
                "Set `tie_word_embeddings=False` in the source's config, or tie its weights."
            )


def _shown(names: Sequence[str]) -> str:
    """The first names of a list, for a message."""
    return str(list(names[:3]))[:-1] + (", ...]" if len(names) > 3 else "]")

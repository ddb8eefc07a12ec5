"""Learning rates that fall from the top layer of each side to its bottom."""

import re

from torch import nn

_SIDE = re.compile(r"(?:model\.)?(encoder|decoder)\.")
_LAYER = re.compile(r"\.(?:layers|layer|blocks|block|h)\.(\d+)\.")
_SHARED = re.compile(r"(?:model\.)?shared\.")


def layer_rate_factors(model: nn.Module, decay: float) -> dict[str, float]:
    """Says by what the learning rate of every weight is multiplied (Howard & Ruder 2018, section 3.2).

    Encoder and decoder each count for themselves. Of n layers the top one has 1, layer i (from 0) `decay ** (n-1-i)`;
    what a side registers before its layers, such as embeddings, has `decay ** n`; what it registers after them, and
    what belongs to no side (bridge, projection to the vocabulary), has 1. A matrix that is tied counts where it stands
    first, that is as an embedding; one that both sides share counts below the deeper one.

    Args:
        model (`nn.Module`): An encoder-decoder model of any family; its layers lie in a list called layers, layer,
            blocks, block or h.
        decay (`float`): Above 0, up to 1.

    Returns:
        `dict[str, float]`: By name of the weight, as `named_parameters` gives it.
    """
    names = [name for name, _ in model.named_parameters()]
    layers = {name: _layer_of(name) for name in names}
    depths = {"encoder": 0, "decoder": 0}
    for name, layer in layers.items():
        if layer is not None:
            depths[_side_of(name)] = max(depths[_side_of(name)], layer + 1)
    factors: dict[str, float] = {}
    reached = set()  # sides whose layers have begun
    for name in names:
        side, layer = _side_of(name), layers[name]
        if layer is not None:
            reached.add(side)
            factors[name] = decay ** (depths[side] - 1 - layer)
        elif _SHARED.match(name):
            factors[name] = decay ** max(depths.values())
        elif side and side not in reached:
            factors[name] = decay ** depths[side]
        else:
            factors[name] = 1.0
    return factors


def _side_of(name: str) -> str:
    match = _SIDE.match(name)
    return "" if match is None else match[1]


def _layer_of(name: str) -> int | None:
    match = _LAYER.search(name)
    return int(match[1]) if match is not None and _side_of(name) else None

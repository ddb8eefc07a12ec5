"""Full fine-tuning of chosen modules, the rest frozen."""

from collections.abc import Sequence

from torch import nn


def train_only(model: nn.Module, names: Sequence[str]) -> list[str]:
    """
    Freeze all of a model but chosen modules. A parameter that is tied to one of a chosen module is trained with it.

    Args:
        model (`nn.Module`): Changed in place.
        names (`Sequence[str]`): Whole ends of module names: `"encoder_attn"` for that of every layer,
            `"decoder.layers.1"` for one layer.

    Returns:
        `list[str]`: Names of the parameters that are trained, each parameter once.

    Raises:
        ValueError: A name fits no module with parameters.
    """
    if isinstance(names, str):
        raise TypeError(f"`names` must be a sequence of module names, got the string {names!r}. Put it into a list.")
    chosen: set[int] = set()
    for one in names:
        found = [module for name, module in model.named_modules() if f".{name}".endswith(f".{one}")]
        parameters = [id(parameter) for module in found for parameter in module.parameters()]
        if not one or not parameters:
            raise ValueError(
                f"`names` must be ends of module names, found no module with parameters for {one!r} in "
                f"{type(model).__name__}. `model.named_modules()` lists them."
            )
        chosen.update(parameters)
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]

"""Copies that peft trains in full (`modules_to_save`), of modules whose weights are one."""

from torch import nn


def tied_groups(model: nn.Module) -> list[list[str]]:
    """Names of modules that share a `weight`, one list for each weight that several hold, in the model's order."""
    holders: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is not None:
            holders.setdefault(id(weight), []).append(name)
    return [names for names in holders.values() if len(names) > 1]


def tie_saved_modules(model: nn.Module) -> int:
    """
    Make the trained copies of tied modules one parameter again. peft ties them only to `get_input_embeddings()`,
    which is the encoder's; a projection that is tied to the decoder's embedding would be trained apart from it. Call
    it after `get_peft_model` or `PeftModel.from_pretrained(..., is_trainable=True)`, before the optimizer is made.

    Args:
        model (`PeftModel`): Changed in place.

    Returns:
        `int`: How many copies now share the parameter of another.
    """
    from peft.utils import ModulesToSaveWrapper

    first: dict[tuple[int, str], nn.Parameter] = {}
    count = 0
    for module in model.modules():
        if not isinstance(module, ModulesToSaveWrapper):
            continue
        original = module.original_module._parameters.get("weight")
        for adapter, copied in module.modules_to_save.items():
            weight = copied._parameters.get("weight")
            if original is None or weight is None:
                continue
            shared = first.setdefault((id(original), adapter), weight)
            if shared is not weight:
                copied.weight = shared
                count += 1
    return count

"""Activation memory: what a forward pass keeps for its backward pass."""

import torch
from torch import nn

from .batches import Batch


def saved_bytes(model: nn.Module, batch: Batch) -> int:
    """
    Bytes that autograd keeps between forward and backward, counted by storage: views of one storage count once,
    parameters, buffers and the batch not at all.

    Args:
        model (`nn.Module`): In the mode it is in; `model(**batch).loss` is the end of the graph.
        batch (`Batch`): Ids, mask and labels.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers(), *batch.values())}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**batch).loss
    total = sum(storage.nbytes() for storage in kept.values())
    del loss
    return total

"""One of two processes of `test_model_states.py`: an AdamW step over shards (FSDP2), and how large its own ones are."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from hf_custom_decoder.training.optimization import build_optimizer
from hf_custom_decoder.training.recipe_options import TrainingOptions
from tests.memory.measured_step import full_batch, model_of


def local_bytes(tensors: Iterable[torch.Tensor | None]) -> int:
    total = 0
    for tensor in tensors:
        if tensor is not None:
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            total += local.numel() * local.element_size()
    return total


def main(folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    model = model_of("transformer")
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for layer in (*model.get_encoder().layers, *model.get_decoder().layers):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = build_optimizer(model, TrainingOptions(max_steps=1, batch_size=1))
    model(**full_batch()).loss.backward()
    optimizer.step()
    found = {
        "parameters": local_bytes([*model.parameters(), *model.buffers()]),
        "gradients": local_bytes(weight.grad for weight in model.parameters()),
        "optimizer": local_bytes(one for state in optimizer.state.values() for one in state.values()),
    }
    (Path(folder) / f"rank{distributed.get_rank()}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

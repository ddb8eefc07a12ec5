"""Parameters, gradients and optimizer state: against a real AdamW step, the ZeRO paper, and real shards (FSDP2)."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from hf_custom_decoder.memory import model_states
from hf_custom_decoder.training.optimization import build_optimizer
from hf_custom_decoder.training.recipe_options import TrainingOptions
from tests.fresh_python import run_python

from .measured_step import KINDS, full_batch, model_of

FLOAT, BFLOAT = torch.float32, torch.bfloat16


def size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@pytest.mark.parametrize("kind", KINDS)
def test_a_real_step_of_the_recipes_optimizer(kind: str) -> None:
    model = model_of(kind)
    optimizer = build_optimizer(model, TrainingOptions(max_steps=1, batch_size=1))
    model(**full_batch()).loss.backward()
    optimizer.step()
    states = model_states(model, num_gpus=1, sharding="none", weights=FLOAT, arithmetic=FLOAT)
    assert states.parameters == sum(map(size, (*model.parameters(), *model.buffers())))
    assert states.gradients == sum(size(weight.grad) for weight in model.parameters() if weight.grad is not None)
    assert states.optimizer == sum(size(one) for state in optimizer.state.values() for one in state.values())
    assert states.communication == 0


def test_frozen_weights_have_parameters_only() -> None:
    model = model_of("transformer")
    whole = model_states(model, num_gpus=1, sharding="none", weights=FLOAT, arithmetic=FLOAT)
    model.get_encoder().requires_grad_(False)
    part = model_states(model, num_gpus=1, sharding="none", weights=FLOAT, arithmetic=FLOAT)
    frozen = sum(weight.numel() for weight in model.parameters() if not weight.requires_grad)
    assert part.parameters == whole.parameters
    assert part.gradients == whole.gradients - 4 * frozen


@pytest.mark.parametrize(("sharding", "expected"), [("zero2", 16.6), ("zero3", 1.9)])
def test_figure_1_of_the_zero_paper(sharding: str, expected: float) -> None:
    """7.5 billion parameters on 64 GPUs, in GB: 120 without sharding, 16.6 and 1.9 (Rajbhandari et al. 2020)."""
    with torch.device("meta"):
        model = nn.Linear(75_000, 100_000, bias=False)
    states = model_states(model, num_gpus=64, sharding=sharding, weights=FLOAT, arithmetic=BFLOAT)
    assert round((states.parameters + states.gradients + states.optimizer) / 1e9, 1) == expected
    alone = model_states(model, num_gpus=1, sharding=sharding, weights=FLOAT, arithmetic=BFLOAT)
    assert alone.parameters + alone.gradients + alone.optimizer == 120e9


def test_several_processes_without_sharding_have_buckets() -> None:
    model = model_of("transformer")
    states = model_states(model, num_gpus=2, sharding="none", weights=FLOAT, arithmetic=FLOAT)
    assert states.communication == states.gradients == 4 * model.num_parameters()


@pytest.mark.slow
def test_shards_of_two_processes(tmp_path: Path) -> None:
    """An odd vocabulary is cut into unequal parts; the first process has the greater."""
    worker = Path(__file__).with_name("shard_worker.py")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    run_python(*launcher, worker, tmp_path, folder=tmp_path, OMP_NUM_THREADS="1")
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    states = model_states(model_of("transformer"), num_gpus=2, sharding="fsdp", weights=FLOAT, arithmetic=FLOAT)
    assert ranks[0] == {
        "parameters": states.parameters,
        "gradients": states.gradients,
        "optimizer": states.optimizer,
    }
    assert all(ranks[1][name] < ranks[0][name] for name in ranks[0])


def test_gathered_layers() -> None:
    """Whole: the embeddings and the two greatest layers; gradients: of the embeddings and the greatest layer."""
    model = model_of("transformer")
    states = model_states(model, num_gpus=2, sharding="fsdp", weights=FLOAT, arithmetic=BFLOAT)
    layers = [*model.get_encoder().layers, *model.get_decoder().layers]
    sizes = sorted(sum(weight.numel() for weight in layer.parameters()) for layer in layers)
    rest = model.num_parameters() - sum(sizes)
    assert states.communication == 2 * (rest + sizes[-1] + sizes[-2]) + 2 * sum(sorted([*sizes, rest])[-2:])


def test_wrong_arguments() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="`--gpus` must be at least 1, got 0"):
        model_states(model, num_gpus=0, sharding="none", weights=FLOAT, arithmetic=FLOAT)
    with pytest.raises(ValueError, match="`--sharding` must be one of none, zero2, zero3, fsdp, got 'zero5'"):
        model_states(model, num_gpus=1, sharding="zero5", weights=FLOAT, arithmetic=FLOAT)

"""
One of the two processes of `test_tensor_parallel.py`; run by torchrun with a folder of checkpoints, one a case.

It loads every case split over the processes and writes what the model computes, learns, generates and saves.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.distributed import DistributedConfig
from transformers.utils import logging

from tests.factories import tiny_batch

GENERATION = {"max_new_tokens": 8}
SEARCHES = {"greedy": {"num_beams": 1}, "beams": {"num_beams": 4}, "static": {"cache_implementation": "static"}}
NUM_BATCHES = 2
"""Whose gradients are accumulated."""


def compute(model: PreTrainedModel, *, is_causal: bool) -> dict[str, Any]:
    """Logits, loss, accumulated gradients and generated ids of a model that is whole or split."""
    batch = tiny_batch()
    if is_causal:
        batch = {"input_ids": batch["input_ids"], "labels": batch["input_ids"]}
    with torch.no_grad():
        logits = model(**batch).logits
    for _ in range(NUM_BATCHES):
        output = model(**batch)
        output.loss.backward()
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return {
        "logits": logits,
        "logits with gradients": output.logits.detach(),
        "loss": output.loss.detach(),
        "gradients": {
            name: whole(weight.grad) for name, weight in model.named_parameters() if weight.grad is not None
        },
        "ids": {name: model.generate(**inputs, **GENERATION, **search) for name, search in SEARCHES.items()},
    }


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, gathered where it is split."""
    gathered: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return gathered


def load(folder: Path, *, is_causal: bool) -> PreTrainedModel:
    """By the argument of `from_pretrained`, and a decoder alone by the config that replaces it."""
    if is_causal:
        split = {"distributed_config": DistributedConfig(tp_plan="auto")}
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, **split)
    return AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float64, tp_plan="auto")


def main(place: str) -> None:
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    distributed.init_process_group("gloo")
    results: dict[str, Any] = {}
    for folder in sorted(path for path in Path(place).iterdir() if path.is_dir()):
        is_causal = folder.name.startswith("causal")
        try:
            model = load(folder, is_causal=is_causal)
            results[folder.name] = compute(model, is_causal=is_causal)
        except Exception as error:  # the other cases go on; the test of this one shows it
            results[folder.name] = {"error": f"{type(error).__name__}: {error}"}
            continue
        results[folder.name]["split"] = [name for name, one in model.named_parameters() if hasattr(one, "placements")]
        if folder.name == "tied":
            model.save_pretrained(Path(place, "saved_by_two"))
    found: list[Any] = [None, None]
    distributed.all_gather_object(found, {name: one.get("ids") for name, one in results.items()})
    if distributed.get_rank() == 0:
        torch.save({"results": results, "ids of both": found}, Path(place, "results.pt"))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])

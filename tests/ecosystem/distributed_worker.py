"""
One of the processes of `test_distributed.py`; run by torchrun with a file name for the results of the first process.

Gloo on CPU, float64, and DistributedDataParallel as it comes: a parameter that gets no gradient stops it.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer

from tests.ecosystem.test_distributed import KINDS, RANK_EXAMPLES, build
from tests.integration.training_runs import (
    label_count,
    logged_losses,
    plain_descent,
    token_examples,
    training_arguments,
    weights_of,
    word_tokenizer,
)


def plain_steps(kind: str) -> dict[str, Any]:
    """Two steps of plain descent; this process sees its share of the examples."""
    model = build(kind).train()
    wrapped = DistributedDataParallel(model, find_unused_parameters=False)
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    examples = token_examples(sum(RANK_EXAMPLES))
    start = sum(RANK_EXAMPLES[:rank])
    batch = DataCollatorForSeq2Seq(word_tokenizer(), model=model)(examples[start : start + RANK_EXAMPLES[rank]])
    optimizer, _ = plain_descent(model)
    for _ in range(2):
        optimizer.zero_grad()
        loss = wrapped(**batch, num_items_in_batch=torch.tensor(label_count(examples))).loss
        # gradients are averaged over processes, so each has to bring world_size times its share of the sum
        (loss * world_size).backward()
        optimizer.step()
    return {"weights": weights_of(model)}


def trainer_steps(kind: str, folder: Path) -> dict[str, Any]:
    """The stock trainer; it counts the labels of all processes and scales the loss by itself."""
    model = build(kind).train()
    trainer = Seq2SeqTrainer(
        model=model,
        args=training_arguments(
            folder,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            ddp_find_unused_parameters=False,
            ddp_backend="gloo",
        ),
        train_dataset=token_examples(16),
        data_collator=DataCollatorForSeq2Seq(word_tokenizer(), model=model),
        optimizers=plain_descent(model),
    )
    trainer.train()
    return {"weights": weights_of(model), "losses": logged_losses(trainer)}


def main() -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    results = {f"plain {kind}": plain_steps(kind) for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        results |= {f"trainer {kind}": trainer_steps(kind, Path(folder)) for kind in KINDS}
    if int(os.environ["RANK"]) == 0:
        torch.save(results, sys.argv[1])
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()

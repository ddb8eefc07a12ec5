"""
One of the processes of `test_layouts.py`; run by torchrun, or alone, with a folder for results and checkpoints.

It trains, evaluates and generates by the stock trainer, goes on from a checkpoint that the other layout has left, and
trains and generates with the layers sharded (FSDP2). Gloo on CPU, float64.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from transformers import DataCollatorForSeq2Seq, EvalPrediction, PreTrainedModel, Seq2SeqTrainer

from hf_custom_decoder.exact_evaluation import ExactEvaluationMixin
from tests.factories import tiny_seq2seq
from tests.integration.training_runs import (
    END,
    label_count,
    logged_losses,
    plain_descent,
    token_examples,
    training_arguments,
    weights_of,
    word_tokenizer,
)

GLOBAL_BATCH = 4
NUM_EVALUATED = 7
"""Odd, so that two processes get unequal shares."""

GENERATION = {"max_new_tokens": 11, "do_sample": False}


def model_that_ends() -> PreTrainedModel:
    """Two more tokens end a sequence, so that predictions have unequal lengths."""
    model = tiny_seq2seq("rotary_gqa_qk_norm", tie_word_embeddings=False).double()
    model.lm_head.weight.data *= 3
    model.generation_config.eos_token_id = [END, 7, 29]
    model.generation_config.max_length = 12
    return model


def count_and_mean(prediction: EvalPrediction) -> dict[str, float]:
    """How many rows were predicted, and the mean of their real ids."""
    ids = prediction.predictions
    return {"count": float(len(ids)), "mean": float(ids[ids > 0].mean())}


class ExactTrainer(ExactEvaluationMixin, Seq2SeqTrainer):
    """The stock trainer, but for examples that several processes repeat to fill the last batch."""


def trainer_for(model: PreTrainedModel, folder: Path, **kwargs: Any) -> Seq2SeqTrainer:
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    return ExactTrainer(
        model=model,
        args=training_arguments(
            folder,
            per_device_train_batch_size=GLOBAL_BATCH // world_size,
            per_device_eval_batch_size=GLOBAL_BATCH // world_size,
            predict_with_generate=True,
            ddp_backend="gloo" if world_size > 1 else None,
            **kwargs,
        ),
        train_dataset=token_examples(16),
        eval_dataset=token_examples(NUM_EVALUATED, seed=1),
        data_collator=DataCollatorForSeq2Seq(word_tokenizer(), model=model),
        processing_class=word_tokenizer(),
        compute_metrics=count_and_mean,
        optimizers=plain_descent(model, rate=0.1),
    )


def train_and_evaluate(folder: Path) -> dict[str, Any]:
    """Four steps with a checkpoint after the second, then an evaluation by generation."""
    model = model_that_ends().train()
    trainer = trainer_for(model, folder, save_strategy="steps", save_steps=2, max_steps=4)
    trainer.train()
    metrics = trainer.evaluate(**GENERATION)
    return {"losses": logged_losses(trainer), "weights": weights_of(model), "metrics": metrics}


def go_on(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """From the second step to the fourth."""
    model = model_that_ends().train()
    trainer = trainer_for(model, folder, max_steps=4)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    return {"losses": logged_losses(trainer), "weights": weights_of(model)}


def shard(model: PreTrainedModel) -> PreTrainedModel:
    """Every layer by itself, then the rest, over all processes."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for part in (model.get_encoder(), model.get_decoder()):
        for layer in part.layers:
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "generate")
    return model


def train_sharded(folder: Path) -> dict[str, Any]:
    """Two steps of plain descent over shards, saved as a plain folder, and generation of unequal lengths."""
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    examples = token_examples(GLOBAL_BATCH)
    model = shard(model_that_ends().train())
    optimizer, _ = plain_descent(model, rate=0.1)
    batch = DataCollatorForSeq2Seq(word_tokenizer(), model=model)(examples[rank::world_size])
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = model(**batch, num_items_in_batch=torch.tensor(label_count(examples))).loss
        (loss * world_size).backward()  # gradients are averaged
        optimizer.step()
        total = loss.detach().clone()
        distributed.all_reduce(total)
        losses.append(total.item())
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    if rank == 0:
        model_that_ends().save_pretrained(folder / "from_shards", state_dict=whole)
    source = {name: batch[name][:1] for name in ("input_ids", "attention_mask")}
    ids = model.eval().generate(**source, **GENERATION, synced_gpus=True)
    found: list[Any] = [None] * world_size
    distributed.all_gather_object(found, ids[0].tolist())
    return {"losses": losses, "ids": found}


def main(place: str, checkpoint: str | None = None) -> None:
    torch.set_num_threads(1)
    folder = Path(place)
    is_distributed = "WORLD_SIZE" in os.environ
    if is_distributed:
        distributed.init_process_group("gloo")
    results = {"trained": train_and_evaluate(folder / "run")}
    if checkpoint is not None:
        results["resumed"] = go_on(Path(checkpoint), folder / "again")
    if is_distributed:
        results["sharded"] = train_sharded(folder)
    if int(os.environ.get("RANK", "0")) == 0:
        torch.save(results, folder / "results.pt")
    if is_distributed:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""
One of the processes of `test_deepspeed.py`; run by accelerate with a file of examples/accelerate_configs, or alone.

It loads a folder, trains by the stock trainer with a checkpoint in between, generates rows of unequal lengths, goes on
from the checkpoint, and saves. Float32, plain descent.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from transformers import AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq, Seq2SeqTrainer

from tests.integration.training_runs import logged_losses, token_examples, training_arguments, word_tokenizer

GLOBAL_BATCH = 4
NUM_GENERATED = 8
GENERATION = {"max_new_tokens": 11, "do_sample": False}


def trainer_for(base: str, folder: Path) -> Seq2SeqTrainer:
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    args = training_arguments(
        folder,
        per_device_train_batch_size=GLOBAL_BATCH // world_size,
        per_device_eval_batch_size=GLOBAL_BATCH // world_size,
        predict_with_generate=True,
        max_steps=4,
        optim="sgd",
        learning_rate=0.1,
        save_strategy="steps",
        save_steps=2,
    )  # before the model: under ZeRO-3 `from_pretrained` loads shards from then on
    model = AutoModelForSeq2SeqLM.from_pretrained(base)
    return Seq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=token_examples(16),
        eval_dataset=token_examples(NUM_GENERATED, seed=1),
        data_collator=DataCollatorForSeq2Seq(word_tokenizer(), model=model),
        processing_class=word_tokenizer(),
    )


def main(base: str, place: str) -> None:
    torch.set_num_threads(1)
    folder = Path(place)
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    trainer = trainer_for(base, folder / "run")
    trainer.train()
    plugin: Any = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    model: Any = trainer.model.eval()
    own = []
    for example in token_examples(NUM_GENERATED, seed=1)[rank::world_size]:
        source = {name: torch.tensor([example[name]]) for name in ("input_ids", "attention_mask")}
        own.append(model.generate(**source, **GENERATION, synced_gpus=world_size > 1)[0].tolist())
    rows: list[Any] = [own]
    if world_size > 1:
        rows = [None] * world_size
        distributed.all_gather_object(rows, own)
    predicted = trainer.predict(token_examples(NUM_GENERATED, seed=1), **GENERATION).predictions
    trainer.save_model(str(folder / "saved"))
    again = trainer_for(base, folder / "again")
    again.train(resume_from_checkpoint=str(folder / "run" / "checkpoint-2"))
    if rank == 0:
        found = {
            "engine": type(trainer.model_wrapped).__name__,
            "zero stage": None if plugin is None else plugin.zero_stage,
            "losses": logged_losses(trainer),
            "resumed losses": logged_losses(again),
            "ids": rows,
            "predicted": predicted.tolist(),
        }
        (folder / "results.json").write_text(json.dumps(found))
    if world_size > 1:
        distributed.barrier()
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

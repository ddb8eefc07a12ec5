"""
One process of the stock Trainer under accelerate's FSDP2, on the CPU, launched with what examples/accelerate_configs say.

accelerate shards on accelerators only. The one thing changed here is what it takes these processes for; the layers are
sharded, trained and saved by its own code, with gloo in place of NCCL.
"""

import sys
from pathlib import Path

import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, Seq2SeqTrainer
from transformers import Seq2SeqTrainingArguments as Arguments

from tests.factories import tiny_seq2seq
from tests.fresh_python import ROOT, run_python
from tests.integration.training_runs import logged_losses, token_examples, training_arguments, word_tokenizer

GLOBAL_BATCH = 4
NUM_STEPS = 4
LAUNCH_FILE = ROOT / "examples" / "accelerate_configs" / "fsdp2.yaml"
HYBRID = {
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
    "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2",
    "PARALLELISM_CONFIG_DP_SHARD_SIZE": "2",
}
STATE_DICTS = {"fsdp": "SHARDED_STATE_DICT", "fsdp-full": "FULL_STATE_DICT"}


def build_model() -> PreTrainedModel:
    """Not tied: where embeddings of two sides are one, accelerate 1.15 puts them in two groups and torch 2.13 refuses."""
    return tiny_seq2seq("rotary_gqa_qk_norm", tie_word_embeddings=False).double().train()


def arguments_for(folder: Path, num_processes: int) -> Arguments:
    return training_arguments(
        folder,
        per_device_train_batch_size=GLOBAL_BATCH // num_processes,
        optim="adamw_torch",
        learning_rate=0.01,
        weight_decay=0.1,
        max_steps=NUM_STEPS,
        save_strategy="steps",
        save_steps=1,
        ddp_backend="gloo" if num_processes > 1 else None,
    )


def trainer_for(model: PreTrainedModel, arguments: Arguments) -> Seq2SeqTrainer:
    return Seq2SeqTrainer(
        model=model,
        args=arguments,
        train_dataset=token_examples(GLOBAL_BATCH * NUM_STEPS),
        data_collator=DataCollatorForSeq2Seq(word_tokenizer(), model=model),
        processing_class=word_tokenizer(),
    )


def launch(folder: Path, layout: str, checkpoint: Path, *, num_processes: int = 2) -> None:
    """Goes on to `NUM_STEPS` in processes of their own; checkpoints, `found.pt` and `final` are left in the folder."""
    run_python(
        *["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"],
        __file__,
        folder,
        checkpoint,
        folder=folder.parent,
        **launch_environment(),
        **(HYBRID if num_processes == 4 else {}),
        OMP_NUM_THREADS="1",
        ACCELERATE_MIXED_PRECISION="no",
        FSDP_STATE_DICT_TYPE=STATE_DICTS[layout],
    )


def launch_environment() -> dict[str, str]:
    """What `accelerate launch --config_file fsdp2.yaml` gives its processes, without the type of state dict and dtype."""
    arguments = launch_command_parser().parse_args(["--config_file", str(LAUNCH_FILE), "script.py"])
    arguments = _validate_launch_command(arguments)[0]
    own = {"OMP_NUM_THREADS", "ACCELERATE_MIXED_PRECISION", "FSDP_STATE_DICT_TYPE"}
    given: dict[str, str] = prepare_multi_gpu_env(arguments)
    return {
        name: value for name, value in given.items() if name not in own and name.startswith(("ACCELERATE_", "FSDP_"))
    }


def main(place: str, checkpoint: str) -> None:
    torch.set_num_threads(1)
    folder = Path(place)
    world_size = PartialState(cpu=True).num_processes
    arguments = arguments_for(folder, world_size)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    trainer = trainer_for(build_model(), arguments)
    assert trainer.is_fsdp_enabled
    trainer.train(resume_from_checkpoint=checkpoint)
    layers = type(trainer.model.get_decoder().layers[0]).__name__
    trainer.save_model(str(folder / "final"))
    if trainer.is_world_process_zero():
        mesh = trainer.accelerator.torch_device_mesh
        torch.save({"losses": logged_losses(trainer), "layers": layers, "mesh": str(mesh)}, folder / "found.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])

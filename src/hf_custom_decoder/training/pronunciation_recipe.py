"""The training of the quickstart: spelling to phonemes in a few minutes on two CPU cores."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
)

from ..data.pronunciation_examples import Example
from ..models.modeling_custom_seq2seq import CustomSeq2SeqForConditionalGeneration
from .training_budget import BudgetCallback, TrainingBudget, warmup_then_linear

BATCH_SIZE = 128
"""Pairs of spelling and pronunciation an optimizer step."""
WARMUP_SHARE = 0.03
"""Share of the budget until the peak learning rate is reached."""
WEIGHT_DECAY = 0.01
ADAM_BETAS = (0.9, 0.98)
STEPS_A_LOG = 25


def build_pronunciation_trainer(
    model: CustomSeq2SeqForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    budget: TrainingBudget,
    *,
    peak_learning_rate: float,
    output_dir: Path,
    seed: int,
    use_cpu: bool = True,
    callbacks: Sequence[TrainerCallback] = (),
) -> Seq2SeqTrainer:
    """Builds the stock `Seq2SeqTrainer` for the quickstart.

    The learning rate follows the share of the budget, so its schedule is complete however many steps there are.

    Args:
        model ([`CustomSeq2SeqForConditionalGeneration`]): From [`build_pronunciation_model`].
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer.
        examples (`Sequence[Example]`): From [`encode_entries`].
        budget ([`TrainingBudget`]): When to stop.
        peak_learning_rate (`float`): Of AdamW, reached at the end of the warm-up.
        output_dir (`Path`): Where checkpoints go, if a callback asks for them.
        seed (`int`): For the order of the examples and for dropout.
        use_cpu (`bool`, *optional*, defaults to `True`): Train on the CPU even where there is an accelerator.
        callbacks (`Sequence[TrainerCallback]`, *optional*): Added after the one that watches the budget.

    Returns:
        [`~transformers.Seq2SeqTrainer`]: Ready for `train()`.
    """
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=BATCH_SIZE,
        max_steps=budget.steps if budget.steps is not None else 10_000_000,  # the budget stops the run
        logging_steps=STEPS_A_LOG,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        seed=seed,
        use_cpu=use_cpu,
    )
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}],
        lr=peak_learning_rate,
        betas=ADAM_BETAS,
        fused=True,
    )
    schedule = LambdaLR(optimizer, lambda step: warmup_then_linear(budget.share(step), warmup=WARMUP_SHARE))
    trainer = Seq2SeqTrainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
        optimizers=(optimizer, schedule),
        callbacks=[BudgetCallback(budget), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer

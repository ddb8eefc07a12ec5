"""What a recipe says to the Trainer: its arguments, added losses, metric and early stopping."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Seq2SeqTrainingArguments

from ..data.pair_encoding import PairTokenizers
from ..data.pair_tables import merge_references
from ..evaluation.predictions import decode_predictions
from ..evaluation.text_metrics import MAIN_SCORES, join_bpe, score_texts
from .added_loss import AddedLoss
from .early_stopping import EarlyStopping
from .hardware import runs_on_cpu
from .recipe_options import Recipe


def training_arguments(recipe: Recipe, work: Path, *, max_steps: int, validates: bool) -> Seq2SeqTrainingArguments:
    """The Trainer's arguments.

    Args:
        recipe ([`Recipe`]): Of the run.
        work (`Path`): Where checkpoints go.
        max_steps (`int`): Optimizer steps of the whole run.
        validates (`bool`): Whether there is validation data to measure on.
    """
    training = recipe.training
    return Seq2SeqTrainingArguments(
        output_dir=str(work),
        max_steps=max_steps,
        per_device_train_batch_size=training.batch_size or 1,
        per_device_eval_batch_size=training.eval_batch_size,
        gradient_accumulation_steps=training.accumulation,
        max_grad_norm=training.clip_norm,
        bf16=training.precision == "bf16",
        logging_steps=training.log_steps,
        logging_nan_inf_filter=False,  # it logs what is not finite as 0
        save_strategy="steps",
        save_steps=training.save_steps,
        eval_strategy="steps" if validates else "no",
        eval_steps=training.steps_between_evaluations if validates else None,
        predict_with_generate=training.metric is not None,
        report_to=training.report_to,
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available() and not runs_on_cpu(training.device),
        remove_unused_columns=False,
        accelerator_config={"dispatch_batches": False},
        ddp_find_unused_parameters=False,
        seed=training.seed,
        use_cpu=runs_on_cpu(training.device),
    )


def build_early_stopping(recipe: Recipe, model: PreTrainedModel, best: Path) -> EarlyStopping | None:
    """Stops early and keeps the best weights in the folder `best`, where the recipe asks for either."""
    training = recipe.training
    if training.patience is None and training.average_best == 1:
        return None
    metric = training.metric
    return EarlyStopping(
        "eval_loss" if metric is None else f"eval_{MAIN_SCORES[metric]}",
        greater_is_better=metric is not None and metric != "error_rates",
        patience=training.patience,
        best=best,
        save=lambda path: model.save_pretrained(path),
        keep=training.average_best,
    )


def build_added_loss(recipe: Recipe, teacher: PreTrainedModel | None, device: Any) -> AddedLoss | None:
    """R-Drop and the teacher's loss, where the recipe asks for either; the teacher goes to the device."""
    training = recipe.training
    if not training.r_drop and teacher is None:
        return None
    return AddedLoss(
        r_drop=training.r_drop,
        teacher=None if teacher is None else teacher.to(device),
        weight=training.teacher_weight,
        temperature=training.teacher_temperature,
    )


def validation_scores(
    prediction: Any, *, recipe: Recipe, tokenizers: PairTokenizers, validation_pairs: Any
) -> dict[str, float]:
    """Scores what was generated for the validation data by the recipe's metric, as `evaluate` does.

    Pieces are joined by `evaluation.bpe_joiner`, and with `data.merge_references` each source is scored once.

    Args:
        prediction (`transformers.EvalPrediction`): Of the Trainer, with generated ids.
        recipe ([`Recipe`]): With `training.metric`; `data` and `evaluation` say what is scored.
        tokenizers ([`PairTokenizers`]): Of the run.
        validation_pairs (`datasets.Dataset`): With texts and references, in the order of the predictions.
    """
    references = list(validation_pairs["references"])
    texts = decode_predictions(tokenizers.target, prediction.predictions)[: len(references)]
    if recipe.data.merge_references:
        entries = merge_references(validation_pairs.select_columns(["source", "target", "references"]))
        references = [entry["references"] for entry in entries]
        by_source: dict[str, str] = {}
        for source, text in zip(validation_pairs["source"], texts, strict=True):
            by_source.setdefault(source, text)
        texts = [by_source[entry["source"]] for entry in entries]
    if (joiner := recipe.evaluation.bpe_joiner) is not None:
        texts = [join_bpe(text, joiner) for text in texts]
        references = [[join_bpe(text, joiner) for text in group] for group in references]
    metric, language = str(recipe.training.metric), recipe.evaluation.language
    scores = score_texts([metric], texts, references, language=language)
    return {name: score.value for name, score in scores.items()}

"""The training of the quickstart, from the start or from where it was interrupted."""

import json
from dataclasses import asdict

from transformers import set_seed

from ..atomic_files import write_json
from ..data.pronunciation_dictionary import WordEntry
from ..data.pronunciation_examples import encode_entries
from ..data.pronunciation_tokenizer import build_pronunciation_tokenizer
from ..training.hardware import describe_hardware
from ..training.interruption import Interruption
from ..training.progress_bar import BudgetProgressBar, format_seconds
from ..training.pronunciation_decoders import DECODER_RECIPES, build_pronunciation_model
from ..training.pronunciation_recipe import BATCH_SIZE, build_pronunciation_trainer
from ..training.resumable_checkpoints import ResumableCheckpoints
from ..training.token_count import TokenCount
from ..training.training_budget import TrainingBudget
from .quickstart_results import TrainingFigures
from .quickstart_settings import QuickstartSettings, Report
from .run_folder import RunFolder


def train_or_continue(
    settings: QuickstartSettings,
    folder: RunFolder,
    entries: list[WordEntry],
    phonemes: set[str],
    report: Report,
) -> TrainingFigures:
    """Leaves a trained model and its tokenizer in `folder.trained`.

    Args:
        settings ([`QuickstartSettings`]): What the user has chosen.
        folder ([`RunFolder`]): Where checkpoints are, or will be.
        entries (`list[WordEntry]`): The words to train on.
        phonemes (`set[str]`): All that may occur in a pronunciation.
        report (`Report`): Receives messages for the user.

    Returns:
        [`TrainingFigures`]: What it took; stored beside the trained model, and read back if that is there already.

    Raises:
        KeyboardInterrupt: After Ctrl-C, when the state is saved.
    """
    if folder.trained.exists():
        report("Training was finished before the interruption.")
        return TrainingFigures(**json.loads(folder.training_figures.read_text(encoding="utf-8")))
    tokenizer = build_pronunciation_tokenizer(phonemes)
    examples = encode_entries(tokenizer, entries)
    set_seed(settings.seed)
    model = build_pronunciation_model(tokenizer, settings.decoder)
    budget = (
        TrainingBudget(seconds=60.0 * settings.minutes)
        if settings.max_steps is None
        else TrainingBudget(steps=settings.max_steps)
    )
    with Interruption() as interruption:
        tokens = TokenCount()
        checkpoints = ResumableCheckpoints(folder.work, budget, interruption, tokens=tokens)
        checkpoint = checkpoints.newest()
        if checkpoint is not None:
            checkpoints.restore_budget(checkpoint)
            report(f"Going on after {format_seconds(budget.spent_seconds)} minutes of training ({checkpoint.name}).")
        trainer = build_pronunciation_trainer(
            model,
            tokenizer,
            examples,
            budget,
            peak_learning_rate=DECODER_RECIPES[settings.decoder].peak_learning_rate,
            output_dir=folder.work,
            seed=settings.seed,
            use_cpu=settings.device == "cpu",
            callbacks=[tokens, checkpoints, BudgetProgressBar(budget, f"training {settings.decoder}")],
        )
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        if interruption.is_requested and budget.share(trainer.state.global_step) < 1.0:
            raise KeyboardInterrupt
        figures = TrainingFigures(
            num_parameters=model.num_parameters(),
            num_words=len(entries),
            num_pairs=len(examples),
            num_steps=trainer.state.global_step,
            batch_size=BATCH_SIZE,
            num_tokens=tokens.num_tokens,
            seconds=budget.spent_seconds,
            seed=settings.seed,
            hardware=describe_hardware(settings.device),
        )
        write_json(folder.training_figures, asdict(figures))
        with folder.new_trained_folder() as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
        if interruption.is_requested:
            raise KeyboardInterrupt
    return figures

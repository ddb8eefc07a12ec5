"""A recipe from text to a finished folder: read, tokenize, train or go on, measure, publish."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerState, set_seed

from ..atomic_files import write_json
from ..data.cleaning import Cleaner
from ..data.endless_stream import EndlessStream
from ..data.pair_collator import PairCollator
from ..data.pair_encoding import PairTokenizers, find_control_tokens
from ..data.pair_tables import read_pairs
from ..data.token_batches import TokenBatchSampler
from ..data.varied_pairs import VariedPairs
from ..hub.model_card import Measurement
from .checkpoint_safety import safely_from
from .data_mark import DataMark
from .final_model import measure_model, take_final_weights, write_final_model
from .finite_training import FiniteTraining, check_finite_weights
from .frozen_weights import FrozenWeights
from .full_disk import naming_a_full_disk
from .hardware import describe_hardware, limit_threads, runs_on_cpu
from .interruption import Interruption
from .optimization import build_optimizer, build_schedule
from .progress_bar import BudgetProgressBar
from .recipe_adapter import add_adapter, is_adapted
from .recipe_data import (
    build_batches,
    clean_training_pairs,
    encode_training_pairs,
    encode_validation_pairs,
    read_split_texts,
    read_training_pairs,
    source_pad_token_id,
    without_texts,
)
from .recipe_folder import RecipeFolder
from .recipe_model import build_recipe_model, check_model
from .recipe_options import Recipe
from .recipe_results import RecipeResults
from .recipe_tokenizers import (
    describe_lost_case,
    existing_tokenizer_name,
    load_tokenizers,
    save_tokenizers,
    take_existing,
    train_tokenizers,
)
from .recipe_trainer import RecipeTrainer
from .source_gain import GAIN_NAME, SourceWatch, describe_unused, is_unused
from .stop_on_request import StopOnRequest
from .teacher import load_teacher
from .trainer_settings import build_added_loss, build_early_stopping, training_arguments, validation_scores
from .training_budget import BudgetCallback, TrainingBudget
from .training_packages import check_launch, check_training_packages, is_left_alone
from .weight_averages import MovingAverage, average_checkpoints, load_weights
from .whole_checkpoints import WholeCheckpoints, remove_torn, step_of, whole_checkpoints
from .word_dropout import build_word_dropout

Report = Callable[[str], None]
_BUDGET_FILE = "training_budget.json"
_STATE_FILE = "trainer_state.json"


def train_recipe(recipe: Recipe, report: Report, *, fresh: bool = False) -> Path:
    """Trains what a recipe describes, or goes on from the newest whole checkpoint of an interrupted run.

    Runs in one process or in each of several that `accelerate launch` has started; the first one writes and reports.

    Args:
        recipe ([`Recipe`]): The whole run.
        report (`Callable[[str], None]`): Receives messages for the user.
        fresh (`bool`, *optional*, defaults to `False`): Forget what earlier runs have left.

    Returns:
        `Path`: The finished folder: model, tokenizer, generation config, card, recipe, results and log.

    Raises:
        ImportError: If a package is missing.
        OSError: If data or a pretrained model cannot be read.
        ValueError: If the recipe does not fit its data or its model, the output folder is another run's, or the
            launcher shares weights over processes.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, when the state is saved.
    """
    if recipe.tasks:
        raise ValueError(
            f"`tasks` belong to pre-training, got {', '.join(recipe.tasks)}. Run `hf-custom-decoder pretrain`, or "
            "leave them out."
        )
    return carry_out(recipe, report, fresh=fresh, stages=RecipeRun)


def carry_out(recipe: Recipe, report: Report, *, fresh: bool, stages: "type[RecipeRun]") -> Path:
    """Runs the stages of a run, or what is left of them; otherwise as [`train_recipe`]."""
    check_training_packages(recipe)
    check_launch()
    from accelerate import PartialState

    processes = PartialState(cpu=runs_on_cpu(recipe.training.device))
    if not processes.is_main_process:
        report = _silent
    if processes.num_processes > 1:
        report(f"{processes.num_processes} processes share the batches.")
    elif is_left_alone(processes.num_processes):
        report(
            "One process. If you asked for several: `accelerate launch --cpu` starts them by mpirun only, `torchrun "
            "--nproc_per_node N` and `accelerate launch --multi_gpu --num_processes N` without it, on CPUs too."
        )
    if runs_on_cpu(recipe.training.device):
        limit_threads()
    with processes.main_process_first():
        folder = RecipeFolder(recipe, fresh=fresh)
        if not folder.is_finished and processes.is_main_process:
            folder.start(recipe)
    if folder.is_finished:
        report(f"{recipe.output} is finished. Use --fresh to train it again.")
        return folder.output
    run = stages(recipe, folder, processes, report)
    with naming_a_full_disk(folder.work, run.keep_whole):
        run.prepare()
        run.train()
        run.finish()
    return folder.output


class RecipeRun:
    """The stages of one run and what they hand on."""

    def __init__(self, recipe: Recipe, folder: Any, processes: Any, report: Report) -> None:
        self.recipe = recipe
        self.folder = folder
        self.processes = processes
        self.report = report
        self.cleaner: Cleaner | None = None
        self.data_mark: DataMark | None = None

    def keep_whole(self) -> str:
        """Removes what is torn, and says what a failed run can go on from."""
        if self.processes.is_main_process:
            remove_torn(self.folder.work)
        whole = whole_checkpoints(self.folder.work, self.report)
        return f"Kept: the checkpoint after {step_of(whole[-1]):,} steps." if whole else "No step was kept yet."

    def prepare(self) -> None:
        """Reads and encodes the data, builds the model, and finds the checkpoint to go on from."""
        recipe, training = self.recipe, self.recipe.training
        check_model(recipe)
        name = existing_tokenizer_name(recipe)
        existing = None if name is None else take_existing(recipe, name)
        lost_case = None if existing is None else describe_lost_case(recipe, existing)
        if lost_case is not None:
            self.report(lost_case)
        with self.processes.main_process_first():
            train = self.read_train()
            self.tokenizers = self.take_tokenizers(train) if existing is None else existing
        set_seed(training.seed)
        base = build_recipe_model(recipe, self.tokenizers)  # what does not fit is refused before the long work
        self.model: Any = add_adapter(base, recipe.adapter)
        self.frozen = FrozenWeights(self.model, training.freeze) if training.freeze else None
        self.word_dropout = build_word_dropout(training, self.tokenizers)
        self.teacher = None if training.teacher is None else load_teacher(recipe, self.tokenizers, base)
        with self.processes.main_process_first():
            self.encode(train)
        self.prepare_batches()
        self.report(
            f"{type(base).__name__} with {self.model.num_parameters():,} parameters, "
            f"{len(self.tokenizers.target):,} target tokens"
        )
        if is_adapted(self.model):
            num_trained = self.model.num_parameters(only_trainable=True)
            self.report(f"{num_trained:,} of them are trained, those of the adapter.")
        if self.frozen is not None and self.frozen.num_frozen:
            self.report(f"{self.frozen.num_frozen:,} of them are frozen for good.")
        if self.processes.is_main_process:
            remove_torn(self.folder.work)
        self.processes.wait_for_everyone()
        self.checkpoints = whole_checkpoints(self.folder.work, self.report)

    def read_train(self) -> Any:
        """Reads what is trained on, cleaned by the recipe's rules, and what is measured on."""
        pairs = read_training_pairs(self.recipe)
        if self.recipe.cleaning.is_on:
            pairs, self.cleaner = clean_training_pairs(self.recipe, pairs, self.report)
        self.checked = None if self.recipe.data.validation is None else read_pairs(self.recipe.data, "validation")
        return pairs

    def texts_of(self, split: str) -> tuple[list[str], list[str]]:
        """Returns the texts of a split on either side; none where the recipe names no such data."""
        return read_split_texts(self.recipe, split)

    def take_tokenizers(self, train: Any) -> PairTokenizers:
        """Takes the tokenizer of the interrupted run, or trains one; the first process writes it."""
        if not self.folder.tokenizer.is_dir():
            self.report("Training the tokenizer.")
            with self.folder.whole(self.folder.tokenizer) as partial:
                save_tokenizers(self.new_tokenizers(train), partial)
        return load_tokenizers(self.folder.tokenizer)

    def new_tokenizers(self, pairs: Any) -> PairTokenizers:
        """Trains the tokenizers on what `read_train` gave."""
        return train_tokenizers(self.recipe, pairs)

    def encode(self, pairs: Any) -> None:
        """Encodes what `read_train` gave, and the validation data."""
        self.train_pairs = encode_training_pairs(self.recipe, self.tokenizers, pairs)
        self.num_too_long = 0
        if not self.recipe.data.streaming:
            self.num_too_long = len(pairs) - len(self.train_pairs)
            num_found, first = find_control_tokens(pairs, self.tokenizers)
            if num_found:
                self.report(
                    f"{num_found:,} training pairs have a control token of the tokenizer written in them, which is "
                    f"read as that token. Take it out of the data unless that is meant. The first: {first!r}"
                )
        self.validation_pairs = None
        if self.checked is not None:
            self.validation_pairs = encode_validation_pairs(self.recipe, self.tokenizers, self.checked)

    def prepare_batches(self) -> None:
        """Plans the batches of the run, except for a stream."""
        training, data = self.recipe.training, self.recipe.data
        self.batches: TokenBatchSampler | None = None
        if data.streaming:
            rows = self.train_pairs.shuffle(seed=training.seed, buffer_size=data.shuffle_rows)
            self.train_pairs = EndlessStream(rows)
            self.max_steps = training.max_steps or 0
            return
        if isinstance(self.train_pairs, VariedPairs):
            varied = self.train_pairs
            self.plan_batches(varied.source_lengths, varied.target_lengths, varied.slots_of_pass)
        else:
            lengths = self.train_pairs.with_format("numpy")
            self.plan_batches(lengths["source_length"][:], lengths["target_length"][:])
        self.report(
            f"{len(self.train_pairs):,} training pairs ({self.num_too_long:,} too long), padding "
            f"{100.0 * self._padding_share():.1f} %, {self.max_steps:,} steps"
        )

    def plan_batches(self, source_lengths: Any, target_lengths: Any, slots_of_pass: Any = None) -> None:
        """Plans the batches of this process; arguments as in [`TokenBatchSampler`]."""
        training, processes = self.recipe.training, self.processes
        self.data_mark = DataMark(source_lengths, target_lengths)
        self.batches = build_batches(
            training,
            source_lengths,
            target_lengths,
            slots_of_pass,
            process_idx=processes.process_index,
            num_processes=processes.num_processes,
        )
        self.max_steps = len(self.batches) // training.accumulation

    def train(self) -> None:
        """Trains to the end, or raises `KeyboardInterrupt` when the state is saved."""
        training = self.recipe.training
        self.budget = TrainingBudget(steps=self.max_steps)
        self.moving_average = None if training.ema_decay is None else MovingAverage(training.ema_decay)
        self.early_stopping = build_early_stopping(self.recipe, self.model, self.folder.best)
        newest = self.checkpoints[-1] if self.checkpoints else None
        if newest is not None:
            if self.data_mark is not None:
                self.data_mark.check(newest)
            self.budget.load_state_dict(json.loads((newest / _BUDGET_FILE).read_text(encoding="utf-8")))
            if self.moving_average is not None:
                self.moving_average.load(newest)
            self.report(f"Going on after {step_of(newest):,} of {self.max_steps:,} steps.")
        self.writer = WholeCheckpoints(
            self.folder.work,
            keep=max(training.keep_checkpoints, training.average_last),
            add=self._add_to_checkpoint,
            wait=self.processes.wait_for_everyone if self.processes.num_processes > 1 else None,
        )
        with Interruption() as interruption:
            stop = StopOnRequest(interruption)
            callbacks: list[Any] = [FiniteTraining(), BudgetCallback(self.budget), stop]
            if self.moving_average is not None:
                callbacks.append(self.moving_average)
            if self.early_stopping is not None:
                callbacks.append(self.early_stopping)
            callbacks.append(self.writer)
            if self.processes.is_main_process:
                callbacks += [SourceWatch(self.report, self.max_steps), BudgetProgressBar(self.budget)]
            self.trainer = self._trainer(callbacks)
            if newest is not None and self._is_over(_state_of(newest)):
                self._load_finished(newest)
            else:
                with safely_from(newest, self.model):
                    self.trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
            if stop.has_stopped and not self._is_over(self.trainer.state):
                raise KeyboardInterrupt
        self.processes.wait_for_everyone()

    def finish(self) -> None:
        """Chooses the final weights, measures them, and lets the folder appear."""
        training, state = self.recipe.training, self.trainer.state
        final_weights = take_final_weights(
            self.model,
            log_history=state.log_history,
            best=self.early_stopping,
            average_last=training.average_last,
            save_steps=training.save_steps,
            moving_average=self.moving_average,
            work=self.folder.work,
            report=self.report,
        )
        check_finite_weights(self.model)
        validation, measurements = measure_model(
            self.model, self.tokenizers, self.validation_pairs, training.eval_batch_size
        )
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        if not measurements:
            last = losses[-1] if losses else float(state.log_history[-1].get("train_loss", 0.0))
            measurements = [Measurement("loss", "Training loss (nats a token)", last, "with label smoothing, if any")]
        results = RecipeResults(
            num_parameters=self.model.num_parameters(),
            num_pairs=0 if self.recipe.data.streaming else len(self.train_pairs),
            num_steps=state.global_step,
            seconds=self.budget.spent_seconds,
            hardware=describe_hardware(self.trainer.args.device.type),
            final_weights=final_weights,
            padding_share=self._padding_share(),
            training_loss=losses[-1] if losses else 0.0,
            validation=validation,
        )
        if self.processes.is_main_process:
            with self.folder.whole(self.folder.finished) as partial:
                write_final_model(
                    partial,
                    self.model,
                    tokenizers=self.tokenizers,
                    recipe=self.recipe,
                    results=results,
                    measurements=measurements,
                    log_history=state.log_history,
                    cleaner=self.cleaner,
                    work=self.folder.work,
                )
            self.folder.publish(self.folder.finished)
        self.processes.wait_for_everyone()
        for name, value in validation.items():
            self.report(f"{name}: {value:.3f} on validation")
        if is_unused(validation.get(GAIN_NAME)):
            self.report(describe_unused(validation[GAIN_NAME], "At its end"))
        if self.recipe.data.streaming and self.cleaner is not None:
            self.report(f"Cleaning, of what was read in the first pass:\n{self.cleaner.report.as_table()}")
        self.report(f"The model is in {self.recipe.output}.")

    def _padding_share(self) -> float:
        return 0.0 if self.batches is None else self.batches.padding_share()

    def _trainer(self, callbacks: list[Any]) -> RecipeTrainer:
        training, validates = self.recipe.training, self.validation_pairs is not None
        arguments = training_arguments(self.recipe, self.folder.work, max_steps=self.max_steps, validates=validates)
        optimizer = build_optimizer(self.model, training)
        trainer = RecipeTrainer(
            batches=self.batches,
            moving_average=self.moving_average,
            added_loss=build_added_loss(self.recipe, self.teacher, self.processes.device),
            frozen=self.frozen,
            word_dropout=self.word_dropout,
            model=self.model,
            args=arguments,
            data_collator=PairCollator(source_pad_token_id(self.tokenizers)),
            train_dataset=self.train_pairs,
            eval_dataset=without_texts(self.validation_pairs) if validates else None,
            compute_metrics=None if training.metric is None else self._scores,
            optimizers=(optimizer, build_schedule(optimizer, training, self.max_steps)),
            callbacks=callbacks,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _scores(self, prediction: Any) -> dict[str, float]:
        if self.validation_pairs is None:
            return {}
        return validation_scores(
            prediction, recipe=self.recipe, tokenizers=self.tokenizers, validation_pairs=self.validation_pairs
        )

    def _add_to_checkpoint(self, checkpoint: Path) -> None:
        write_json(checkpoint / _BUDGET_FILE, self.budget.state_dict())
        if self.data_mark is not None:
            self.data_mark.save(checkpoint)
        if self.moving_average is not None:
            self.moving_average.save(checkpoint)
        (checkpoint / "training_args.bin").unlink(missing_ok=True)  # a pickle, read by nobody

    def _is_over(self, state: TrainerState) -> bool:
        """Whether nothing is left to train after this state."""
        stopped = self.early_stopping is not None and self.early_stopping.is_over(state.log_history)
        return state.global_step >= self.max_steps or stopped

    def _load_finished(self, checkpoint: Path) -> None:
        self.trainer.state = _state_of(checkpoint)
        load_weights(self.model, average_checkpoints([checkpoint]))


def _state_of(checkpoint: Path) -> TrainerState:
    return TrainerState.load_from_json(str(checkpoint / _STATE_FILE))


def _silent(text: str) -> None:
    """For all processes but the first."""

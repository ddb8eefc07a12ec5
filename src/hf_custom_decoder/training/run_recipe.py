"""A recipe from text to a finished folder: read, tokenize, train or go on, measure, publish."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PrinterCallback,
    Seq2SeqTrainingArguments,
    TrainerState,
    set_seed,
)
from transformers.integrations.integration_utils import get_available_reporting_integrations

from ..atomic_files import write_json, write_text
from ..data.cleaning import Cleaner, clean_pairs, clean_stream
from ..data.pair_collator import PairCollator
from ..data.pair_encoding import PairTokenizers, encode_pairs
from ..data.pair_tables import read_pairs
from ..data.token_batches import TokenBatchSampler
from ..data.varied_pairs import VariedPairs
from ..evaluation.perplexity import mean_token_loss, perplexity
from ..evaluation.predictions import decode_predictions
from ..evaluation.text_metrics import MAIN_SCORES, check_metric_packages, score_texts
from ..hub.model_card import Measurement, write_model_card
from .added_loss import AddedLoss
from .checkpoint_safety import safely_from
from .early_stopping import EarlyStopping
from .frozen_weights import FrozenWeights
from .full_disk import naming_a_full_disk
from .hardware import describe_hardware, limit_threads, runs_on_cpu
from .interruption import Interruption
from .optimization import build_optimizer, build_schedule
from .progress_bar import BudgetProgressBar
from .recipe_adapter import add_adapter, check_peft, is_adapted, save_trained
from .recipe_card import recipe_card
from .recipe_folder import RECIPE_FILE, RESULTS_FILE, RecipeFolder
from .recipe_model import build_recipe_model, check_pretrained
from .recipe_options import Recipe
from .recipe_reading import recipe_to_yaml
from .recipe_results import RecipeResults
from .recipe_tokenizers import (
    existing_tokenizer_name,
    load_tokenizers,
    save_tokenizers,
    take_existing,
    train_tokenizers,
)
from .recipe_trainer import RecipeTrainer
from .stop_on_request import StopOnRequest
from .teacher import load_teacher
from .training_budget import BudgetCallback, TrainingBudget
from .weight_averages import MovingAverage, average_checkpoints, load_weights
from .whole_checkpoints import WholeCheckpoints, remove_torn, step_of, whole_checkpoints
from .word_dropout import build_word_dropout

Report = Callable[[str], None]
LOG_FILE = "training_log.json"
REPORTS = "runs"
"""Where TensorBoard's reporter writes; the Hub shows a folder of this name."""
CLEANING_FILE = "cleaning.json"
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
        ValueError: If the recipe does not fit its data or its model, or the output folder is another run's.
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
    from accelerate import PartialState

    processes = PartialState(cpu=runs_on_cpu(recipe.training.device))
    if not processes.is_main_process:
        report = _silent
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


def check_training_packages(recipe: Recipe) -> None:
    """Raises an `ImportError` with the remedy if a package that the recipe needs is missing."""
    missing = [name for name in ("accelerate", "datasets") if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"Training needs {' and '.join(missing)}. Install what is missing with "
            'pip install "hf_custom_decoder[train]"'
        )
    if recipe.adapter.method is not None:
        check_peft("`adapter.method`")
    if recipe.training.metric is not None:
        check_metric_packages([recipe.training.metric])
    reporters = recipe.training.report_to
    available = get_available_reporting_integrations()
    for name in reporters if isinstance(reporters, list) else [reporters or "none"]:
        if name not in ("none", "all", *available):
            raise ImportError(
                f"`training.report_to` must be none or reporters whose packages are installed ("
                f"{', '.join(available) or 'none is'}), got {name!r}. Install its package, or leave it out."
            )


class RecipeRun:
    """The stages of one run and what they hand on."""

    def __init__(self, recipe: Recipe, folder: Any, processes: Any, report: Report) -> None:
        self.recipe = recipe
        self.folder = folder
        self.processes = processes
        self.report = report
        self.cleaner: Cleaner | None = None

    def keep_whole(self) -> str:
        """Removes what is torn, and says what a failed run can go on from."""
        if self.processes.is_main_process:
            remove_torn(self.folder.work)
        whole = whole_checkpoints(self.folder.work, self.report)
        return f"Kept: the checkpoint after {step_of(whole[-1]):,} steps." if whole else "No step was kept yet."

    def prepare(self) -> None:
        """Reads and encodes the data, builds the model, and finds the checkpoint to go on from."""
        recipe, training = self.recipe, self.recipe.training
        check_pretrained(recipe)
        name = existing_tokenizer_name(recipe)
        existing = None if name is None else take_existing(recipe, name)
        with self.processes.main_process_first():
            train = self.read_train()
            self.tokenizers = self.take_tokenizers(train) if existing is None else existing
        set_seed(training.seed)
        base = build_recipe_model(recipe, self.tokenizers)  # what does not fit is refused before the long work
        self.model: Any = add_adapter(base, recipe.adapter)
        self.frozen = FrozenWeights(self.model, training.freeze) if training.freeze else None
        self.word_dropout = build_word_dropout(training, self.tokenizers)
        self.teacher = None if training.teacher is None else load_teacher(recipe, self.tokenizers)
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

    def encode(self, pairs: Any) -> None:
        """Encodes what `read_train` gave, and the validation data."""
        data = self.recipe.data
        limits: dict[str, Any] = {
            "max_source_length": data.max_source_length,
            "max_target_length": data.max_target_length,
        }
        varies = VariedPairs.are_wanted(self.recipe)
        self.train_pairs = encode_pairs(
            pairs,
            self.tokenizers,
            too_long=data.too_long,
            split="train",
            streaming=data.streaming,
            keep_texts=varies,
            **limits,
        )
        self.num_too_long = 0 if data.streaming else len(pairs) - len(self.train_pairs)
        if varies:
            self.train_pairs = VariedPairs(self.train_pairs, self.tokenizers, self.recipe)
        self.validation_pairs = None
        if self.checked is not None:
            self.validation_pairs = encode_pairs(
                self.checked, self.tokenizers, too_long="truncate", split="validation", keep_texts=True, **limits
            )

    def read_train(self) -> Any:
        """Reads what is trained on, cleaned by the recipe's rules."""
        data, cleans = self.recipe.data, self.recipe.cleaning.is_on
        pairs = read_pairs(data, "train", streaming=data.streaming, expand_targets=data.all_targets, keep_blank=cleans)
        if cleans:
            pairs = self.clean(pairs)
        self.checked = None if data.validation is None else read_pairs(data, "validation")
        return pairs

    def new_tokenizers(self, pairs: Any) -> PairTokenizers:
        """Trains the tokenizers on what `read_train` gave."""
        return train_tokenizers(self.recipe, pairs)

    def texts_of(self, split: str) -> tuple[list[str], list[str]]:
        """Returns the texts of a split on either side; none where the recipe names no such data."""
        if getattr(self.recipe.data, split) is None:
            return [], []
        pairs = read_pairs(self.recipe.data, split)
        return list(pairs["source"]), list(pairs["target"])

    def clean(self, pairs: Any) -> Any:
        """Leaves pairs out by the recipe's rules, and tells how many; a stream tells at the end."""
        data, options = self.recipe.data, self.recipe.cleaning
        held_out: list[Any] = []
        if options.overlap is not None:
            named = [split for split in ("validation", "test") if getattr(data, split) is not None]
            if not named:
                raise ValueError(
                    f"`cleaning.overlap` ({options.overlap}) compares with `data.validation` and `data.test`, got "
                    "neither. Name one, or leave it out."
                )
            held_out = [pair for split in named for pair in read_pairs(data, split)]
        self.cleaner = Cleaner(options, held_out)
        if data.streaming:
            return clean_stream(pairs, self.cleaner)
        pairs = clean_pairs(pairs, self.cleaner)
        self.report(f"Cleaning:\n{self.cleaner.report.as_table()}")
        return pairs

    def prepare_batches(self) -> None:
        """Plans the batches of the run, except for a stream."""
        training, data = self.recipe.training, self.recipe.data
        self.batches: TokenBatchSampler | None = None
        if data.streaming:
            self.train_pairs = self.train_pairs.shuffle(seed=training.seed, buffer_size=data.shuffle_rows)
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

    def train(self) -> None:
        """Trains to the end, or raises `KeyboardInterrupt` when the state is saved."""
        training = self.recipe.training
        self.budget = TrainingBudget(steps=self.max_steps)
        self.moving_average = None if training.ema_decay is None else MovingAverage(training.ema_decay)
        self.early_stopping = self._early_stopping()
        newest = self.checkpoints[-1] if self.checkpoints else None
        if newest is not None:
            self.budget.load_state_dict(_read_json(newest / _BUDGET_FILE))
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
            callbacks: list[Any] = [BudgetCallback(self.budget), stop]
            if self.moving_average is not None:
                callbacks.append(self.moving_average)
            if self.early_stopping is not None:
                callbacks.append(self.early_stopping)
            callbacks.append(self.writer)
            if self.processes.is_main_process:
                callbacks.append(BudgetProgressBar(self.budget))
            self.trainer = self._trainer(callbacks)
            if newest is not None and self._is_over(newest):
                self._load_finished(newest)
            else:
                with safely_from(newest, self.model):
                    self.trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
            if stop.has_stopped and not self._is_complete():
                raise KeyboardInterrupt
        self.processes.wait_for_everyone()

    def finish(self) -> None:
        """Chooses the final weights, measures them, and lets the folder appear."""
        final_weights = self._take_final_weights()
        state = self.trainer.state
        validation, measurements = self._measure()
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
                save_trained(self.model.eval(), partial)
                save_tokenizers(self.tokenizers, partial)
                write_text(partial / RECIPE_FILE, recipe_to_yaml(self.recipe))
                write_json(partial / LOG_FILE, state.log_history)
                if (self.folder.work / REPORTS).is_dir():
                    shutil.copytree(self.folder.work / REPORTS, partial / REPORTS)
                write_json(partial / RESULTS_FILE, asdict(results))
                if self.cleaner is not None:
                    write_json(partial / CLEANING_FILE, asdict(self.cleaner.report))
                card = recipe_card(self.recipe, results, measurements, is_joint=self.tokenizers.is_joint)
                write_model_card(partial, card)
            self.folder.publish(self.folder.finished)
        self.processes.wait_for_everyone()
        for name, value in validation.items():
            self.report(f"{name}: {value:.3f} on validation")
        if self.recipe.data.streaming and self.cleaner is not None:
            self.report(f"Cleaning, of what was read in the first pass:\n{self.cleaner.report.as_table()}")
        self.report(f"The model is in {self.recipe.output}.")

    def take_tokenizers(self, train: Any) -> PairTokenizers:
        """Takes the tokenizer of the interrupted run, or trains one; the first process writes it."""
        if not self.folder.tokenizer.is_dir():
            self.report("Training the tokenizer.")
            with self.folder.whole(self.folder.tokenizer) as partial:
                save_tokenizers(self.new_tokenizers(train), partial)
        return load_tokenizers(self.folder.tokenizer)

    def plan_batches(self, source_lengths: Any, target_lengths: Any, slots_of_pass: Any = None) -> None:
        """Plans the batches of this process; arguments as in [`TokenBatchSampler`]."""
        training = self.recipe.training
        steps = training.max_steps
        self.batches = TokenBatchSampler(
            source_lengths,
            target_lengths,
            num_batches=None if steps is None else steps * training.accumulation,
            num_passes=training.epochs,
            max_tokens=training.max_tokens,
            batch_size=training.batch_size,
            window_batches=training.window_batches,
            seed=training.seed,
            group=training.accumulation,
            process_idx=self.processes.process_index,
            num_processes=self.processes.num_processes,
            slots_of_pass=slots_of_pass,
        )
        self.max_steps = len(self.batches) // training.accumulation

    def _padding_share(self) -> float:
        return 0.0 if self.batches is None else self.batches.padding_share()

    def _early_stopping(self) -> EarlyStopping | None:
        training = self.recipe.training
        if training.patience is None and training.average_best == 1:
            return None
        metric = training.metric
        return EarlyStopping(
            "eval_loss" if metric is None else f"eval_{MAIN_SCORES[metric]}",
            greater_is_better=metric is not None and metric != "error_rates",
            patience=training.patience,
            best=self.folder.best,
            save=lambda path: self.model.save_pretrained(path),
            keep=training.average_best,
        )

    def _added_loss(self) -> AddedLoss | None:
        training = self.recipe.training
        if not training.r_drop and self.teacher is None:
            return None
        return AddedLoss(
            r_drop=training.r_drop,
            teacher=None if self.teacher is None else self.teacher.to(self.processes.device),
            weight=training.teacher_weight,
            temperature=training.teacher_temperature,
        )

    def _trainer(self, callbacks: list[Any]) -> RecipeTrainer:
        training = self.recipe.training
        metric = training.metric
        validates = self.validation_pairs is not None
        arguments = Seq2SeqTrainingArguments(
            output_dir=str(self.folder.work),
            max_steps=self.max_steps,
            per_device_train_batch_size=training.batch_size or 1,
            per_device_eval_batch_size=training.eval_batch_size,
            gradient_accumulation_steps=training.accumulation,
            max_grad_norm=training.clip_norm,
            bf16=training.precision == "bf16",
            logging_steps=training.log_steps,
            save_strategy="steps",
            save_steps=training.save_steps,
            eval_strategy="steps" if validates else "no",
            eval_steps=training.steps_between_evaluations if validates else None,
            predict_with_generate=metric is not None,
            report_to=training.report_to,
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available() and not runs_on_cpu(training.device),
            remove_unused_columns=False,
            accelerator_config={"dispatch_batches": False},
            ddp_find_unused_parameters=False,
            seed=training.seed,
            use_cpu=runs_on_cpu(training.device),
        )
        optimizer = build_optimizer(self.model, training)
        trainer = RecipeTrainer(
            batches=self.batches,
            moving_average=self.moving_average,
            added_loss=self._added_loss(),
            frozen=self.frozen,
            word_dropout=self.word_dropout,
            model=self.model,
            args=arguments,
            data_collator=PairCollator(_pad_token_id(self.tokenizers)),
            train_dataset=self.train_pairs,
            eval_dataset=None if self.validation_pairs is None else _encoded_only(self.validation_pairs),
            compute_metrics=None if metric is None else self._compute_metric,
            optimizers=(optimizer, build_schedule(optimizer, training, self.max_steps)),
            callbacks=callbacks,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _compute_metric(self, prediction: Any) -> dict[str, float]:
        metric = self.recipe.training.metric
        if metric is None or self.validation_pairs is None:
            return {}
        texts = decode_predictions(self.tokenizers.target, prediction.predictions)
        references = list(self.validation_pairs["references"])
        scores = score_texts([metric], texts[: len(references)], references, language=self.recipe.evaluation.language)
        return {name: score.value for name, score in scores.items()}

    def _add_to_checkpoint(self, checkpoint: Path) -> None:
        write_json(checkpoint / _BUDGET_FILE, self.budget.state_dict())
        if self.moving_average is not None:
            self.moving_average.save(checkpoint)
        (checkpoint / "training_args.bin").unlink(missing_ok=True)  # a pickle, read by nobody

    def _is_complete(self) -> bool:
        state = self.trainer.state
        stopped = self.early_stopping is not None and self.early_stopping.is_over(state.log_history)
        return state.global_step >= self.max_steps or stopped

    def _is_over(self, checkpoint: Path) -> bool:
        """Whether nothing is left to train after this checkpoint."""
        state = TrainerState.load_from_json(str(checkpoint / _STATE_FILE))
        stopped = self.early_stopping is not None and self.early_stopping.is_over(state.log_history)
        return state.global_step >= self.max_steps or stopped

    def _load_finished(self, checkpoint: Path) -> None:
        self.trainer.state = TrainerState.load_from_json(str(checkpoint / _STATE_FILE))
        load_weights(self.model, average_checkpoints([checkpoint]))

    def _take_final_weights(self) -> str:
        training = self.recipe.training
        best = self.early_stopping
        if best is not None and (folders := best.best_folders(self.trainer.state.log_history)):
            load_weights(self.model, average_checkpoints(folders))
            steps = ", ".join(str(step_of(folder)) for folder in folders)
            return f"best {best.name}" if best.keep == 1 else f"mean of the best {best.name}, steps {steps}"
        if training.average_last > 1:
            chosen = whole_checkpoints(self.folder.work, self.report)[-training.average_last :]
            load_weights(self.model, average_checkpoints(chosen))
            return f"mean of steps {', '.join(str(step_of(path)) for path in chosen)}"
        if self.moving_average is not None:
            self.moving_average.apply(self.model)
            return f"moving average with decay {self.moving_average.decay}"
        return "last step"

    def _measure(self) -> tuple[dict[str, float], list[Measurement]]:
        """Measures the final weights on the validation data."""
        if self.validation_pairs is None:
            return {}, []
        size = self.recipe.training.eval_batch_size
        collate = PairCollator(_pad_token_id(self.tokenizers))
        rows = _encoded_only(self.validation_pairs)
        starts = range(0, len(rows), size)
        loss, num_tokens = mean_token_loss(
            self.model, (collate([rows[idx] for idx in range(s, min(s + size, len(rows)))]) for s in starts)
        )
        settings = f"{num_tokens:,} target tokens"
        figures = {"loss": loss, "perplexity": perplexity(loss)}
        measurements = [Measurement("perplexity", "Perplexity a token", figures["perplexity"], settings)]
        return figures, measurements


def _encoded_only(pairs: Any) -> Any:
    return pairs.select_columns(["input_ids", "labels"])


def _pad_token_id(tokenizers: PairTokenizers) -> int:
    pad = tokenizers.source.pad_token_id
    return int(tokenizers.target.pad_token_id if pad is None else pad)


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _silent(text: str) -> None:
    """For all processes but the first."""

"""A recipe from text to a finished folder: read, tokenize, train or go on, measure, publish."""

import json
from collections.abc import Callable
from contextlib import ExitStack
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

from ..atomic_files import write_json, write_text
from ..data.pair_collator import PairCollator
from ..data.pair_encoding import PairTokenizers, encode_pairs
from ..data.pair_tables import read_pairs
from ..data.token_batches import TokenBatchSampler
from ..evaluation.perplexity import mean_token_loss, perplexity
from ..evaluation.predictions import decode_predictions
from ..evaluation.text_metrics import MAIN_SCORES, check_metric_packages, score_texts
from ..hub.model_card import Measurement, write_model_card
from .checkpoint_safety import safely_from
from .early_stopping import EarlyStopping
from .hardware import describe_hardware, limit_threads
from .interruption import Interruption
from .optimization import build_optimizer, build_schedule
from .progress_bar import BudgetProgressBar
from .recipe_card import recipe_card
from .recipe_folder import RECIPE_FILE, RESULTS_FILE, RecipeFolder
from .recipe_model import build_recipe_model
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
from .training_budget import BudgetCallback, TrainingBudget
from .weight_averages import MovingAverage, average_checkpoints, load_weights
from .whole_checkpoints import WholeCheckpoints, remove_torn, step_of, whole_checkpoints

Report = Callable[[str], None]
LOG_FILE = "training_log.json"
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
        KeyboardInterrupt: After Ctrl-C, when the state is saved.
    """
    check_training_packages(recipe)
    from accelerate import PartialState

    processes = PartialState(cpu=recipe.training.device == "cpu")
    if not processes.is_main_process:
        report = _silent
    if recipe.training.device == "cpu":
        limit_threads()
    with processes.main_process_first():
        if fresh and processes.is_main_process:
            RecipeFolder.forget_output(recipe)
        folder = RecipeFolder(recipe)
        if not folder.is_finished and processes.is_main_process:
            folder.start(recipe)
    if folder.is_finished:
        report(f"{recipe.output} is finished. Use --fresh to train it again.")
        return folder.output
    run = _Run(recipe, folder, processes, report)
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
    if recipe.training.metric is not None:
        check_metric_packages([recipe.training.metric])


class _Run:
    """The stages of one run and what they hand on."""

    def __init__(self, recipe: Recipe, folder: RecipeFolder, processes: Any, report: Report) -> None:
        self.recipe = recipe
        self.folder = folder
        self.processes = processes
        self.report = report

    def prepare(self) -> None:
        """Reads and encodes the data, builds the model, and finds the checkpoint to go on from."""
        recipe, data, training = self.recipe, self.recipe.data, self.recipe.training
        with self.processes.main_process_first():
            pairs = read_pairs(data, "train", streaming=data.streaming, expand_targets=data.all_targets)
            checked = None if data.validation is None else read_pairs(data, "validation")
            self.tokenizers = self._tokenizers(pairs)
            limits: dict[str, Any] = {
                "max_source_length": data.max_source_length,
                "max_target_length": data.max_target_length,
            }
            self.train_pairs = encode_pairs(
                pairs, self.tokenizers, too_long=data.too_long, split="train", streaming=data.streaming, **limits
            )
            self.validation_pairs = None
            if checked is not None:
                self.validation_pairs = encode_pairs(
                    checked, self.tokenizers, too_long="truncate", split="validation", keep_texts=True, **limits
                )
        self.batches: TokenBatchSampler | None = None
        if data.streaming:
            self.train_pairs = self.train_pairs.shuffle(seed=training.seed, buffer_size=data.shuffle_rows)
            self.max_steps = training.max_steps or 0
        else:
            self.batches = self._batches()
            self.max_steps = len(self.batches) // training.accumulation
            dropped = len(pairs) - len(self.train_pairs)
            self.report(
                f"{len(self.train_pairs):,} training pairs ({dropped:,} too long), padding "
                f"{100.0 * self.batches.padding_share():.1f} %, {self.max_steps:,} steps"
            )
        set_seed(training.seed)
        self.model = build_recipe_model(recipe, self.tokenizers)
        self.report(
            f"{type(self.model).__name__} with {self.model.num_parameters():,} parameters, "
            f"{len(self.tokenizers.target):,} target tokens"
        )
        if self.processes.is_main_process:
            remove_torn(self.folder.work)
        self.processes.wait_for_everyone()
        self.checkpoints = whole_checkpoints(self.folder.work, self.report)

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
        with ExitStack() as stack:
            interruption = None
            callbacks: list[Any] = [BudgetCallback(self.budget)]
            if self.processes.num_processes == 1:  # several would stop at different steps
                interruption = stack.enter_context(Interruption())
                callbacks.append(StopOnRequest(interruption))
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
            if interruption is not None and interruption.is_requested and not self._is_complete():
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
            padding_share=0.0 if self.batches is None else self.batches.padding_share(),
            training_loss=losses[-1] if losses else 0.0,
            validation=validation,
        )
        if self.processes.is_main_process:
            with self.folder.whole(self.folder.output) as partial:
                self.model.eval().save_pretrained(partial)
                save_tokenizers(self.tokenizers, partial)
                write_text(partial / RECIPE_FILE, recipe_to_yaml(self.recipe))
                write_json(partial / LOG_FILE, state.log_history)
                write_json(partial / RESULTS_FILE, asdict(results))
                card = recipe_card(self.recipe, results, measurements, is_joint=self.tokenizers.is_joint)
                write_model_card(partial, card)
            self.folder.close()
        self.processes.wait_for_everyone()
        for name, value in validation.items():
            self.report(f"{name}: {value:.3f} on validation")
        self.report(f"The model is in {self.recipe.output}.")

    def _tokenizers(self, pairs: Any) -> PairTokenizers:
        """Takes the existing tokenizer, that of the interrupted run, or trains one; the first process writes it."""
        name = existing_tokenizer_name(self.recipe)
        if name is not None:
            return take_existing(self.recipe, name)
        if not self.folder.tokenizer.is_dir():
            self.report("Training the tokenizer.")
            with self.folder.whole(self.folder.tokenizer) as partial:
                save_tokenizers(train_tokenizers(self.recipe, pairs), partial)
        return load_tokenizers(self.folder.tokenizer)

    def _batches(self) -> TokenBatchSampler:
        training = self.recipe.training
        lengths = self.train_pairs.with_format("numpy")
        steps = training.max_steps
        return TokenBatchSampler(
            lengths["source_length"][:],
            lengths["target_length"][:],
            num_batches=None if steps is None else steps * training.accumulation,
            num_passes=training.epochs,
            max_tokens=training.max_tokens,
            batch_size=training.batch_size,
            window_batches=training.window_batches,
            seed=training.seed,
            group=training.accumulation,
            process_idx=self.processes.process_index,
            num_processes=self.processes.num_processes,
        )

    def _early_stopping(self) -> EarlyStopping | None:
        training = self.recipe.training
        if training.patience is None:
            return None
        metric = training.metric
        return EarlyStopping(
            "eval_loss" if metric is None else f"eval_{MAIN_SCORES[metric]}",
            greater_is_better=metric is not None and metric != "error_rates",
            patience=training.patience,
            best=self.folder.best,
            save=lambda path: self.model.save_pretrained(path),
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
            dataloader_pin_memory=torch.cuda.is_available() and training.device != "cpu",
            remove_unused_columns=False,
            accelerator_config={"dispatch_batches": False},
            ddp_find_unused_parameters=False,
            seed=training.seed,
            use_cpu=training.device == "cpu",
        )
        optimizer = build_optimizer(self.model, training)
        trainer = RecipeTrainer(
            batches=self.batches,
            moving_average=self.moving_average,
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
        if self.early_stopping is not None and self.folder.best.is_dir():
            load_weights(self.model, average_checkpoints([self.folder.best]))
            return f"best {self.early_stopping.name}"
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

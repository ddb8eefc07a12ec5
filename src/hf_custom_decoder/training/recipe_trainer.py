"""The stock Seq2SeqTrainer over batches by token budget, with padding logged and averaged weights measured."""

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Seq2SeqTrainer

from ..data.token_batches import TokenBatchSampler
from ..evaluation.predictions import IGNORED_LABEL_ID
from ..exact_evaluation import ExactEvaluationMixin
from .added_loss import AddedLoss
from .counted_loss import CountedLoss, divides_by_items
from .frozen_weights import FrozenWeights
from .source_gain import GAIN_NAME, SourceGain
from .weight_averages import MovingAverage
from .word_dropout import WordDropout


class RecipeTrainer(ExactEvaluationMixin, Seq2SeqTrainer):
    """`Seq2SeqTrainer` whose training batches come from a sampler that knows the whole run.

    To the Trainer the run is one epoch of `len(batches)` batches, so that a checkpoint's step alone says where it
    goes on. On several processes every example is evaluated once. The gradient of accumulated batches is that of one
    large batch, whatever model it is. Every evaluation tells what another's source costs (`eval_source_gain`, see
    [`SourceGain`]).

    Args:
        batches ([`TokenBatchSampler`], *optional*): Of this process; without it (a stream) the Trainer makes batches.
        moving_average ([`MovingAverage`], *optional*): Its weights are the ones that `evaluate` measures.
        added_loss ([`AddedLoss`], *optional*): Calls the model in training; without it the model's loss is taken.
        frozen ([`FrozenWeights`], *optional*): What is not trained from the first step on.
        word_dropout ([`WordDropout`], *optional*): What batches go through before the model sees them.
        kwargs: Of `Seq2SeqTrainer`.
    """

    def __init__(
        self,
        *,
        batches: TokenBatchSampler | None = None,
        moving_average: MovingAverage | None = None,
        added_loss: AddedLoss | None = None,
        frozen: FrozenWeights | None = None,
        word_dropout: WordDropout | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._batches = batches
        self._moving_average = moving_average
        self._added_loss = added_loss
        self._frozen = frozen
        self._word_dropout = word_dropout
        self.model_accepts_loss_kwargs = True  # else no labels are counted; see `CountedLoss`
        self._model_divides_by_items: bool | None = None
        self._place = (-1, 0)  # optimizer steps that are done, and batches of the running one
        self._source_gain: SourceGain | None = None
        self._num_tokens = 0  # since the last log entry
        self._num_cells = 0

    def get_train_dataloader(self) -> DataLoader[Any]:
        if self._batches is None:
            return super().get_train_dataloader()
        dataset: Any = self.train_dataset
        return DataLoader(
            dataset,
            batch_sampler=self._batches,
            collate_fn=self.data_collator,
            generator=torch.Generator(),  # its own: making an iterator draws from the generator
            pin_memory=self.args.dataloader_pin_memory,
        )

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        if self._word_dropout is not None:
            inputs = self._word_dropout(inputs, self._number_of_batch(), model)
        self._num_cells += inputs["input_ids"].numel() + inputs["labels"].numel()
        self._num_tokens += int(inputs["attention_mask"].sum()) + int((inputs["labels"] != IGNORED_LABEL_ID).sum())
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._frozen is not None:
            self._frozen.drop_gradients(self.state.global_step)
        return loss

    def _number_of_batch(self) -> int:
        """Counts as one process that sees all batches of the run would."""
        step, batch = self._place
        self._place = (self.state.global_step, batch + 1 if step == self.state.global_step else 0)
        first = self.state.global_step * self.args.gradient_accumulation_steps
        return (first + self._place[1]) * self.args.world_size + self.args.process_index

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if self._model_divides_by_items is None:
            self._model_divides_by_items = divides_by_items(self.model, inputs)
        forward: Any = model if self._model_divides_by_items else CountedLoss(model)
        added = self._added_loss
        if added is None or not model.training:
            return super().compute_loss(forward, inputs, *args, **kwargs)
        forward = partial(_call, added, forward)
        with self.accelerator.autocast():  # for the teacher; the model brings its own
            return super().compute_loss(forward, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._num_cells:
            logs["padding_share"] = round(1.0 - self._num_tokens / self._num_cells, 4)
            self._num_tokens = self._num_cells = 0
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        average = self._moving_average
        model: Any = self.model
        with nullcontext() if average is None else average.applied(model):
            return super().evaluate(*args, **kwargs)

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if metric_key_prefix == "eval" and self.eval_dataset is not None:
            if self._source_gain is None:
                pairs: Any = self.eval_dataset
                self._source_gain = SourceGain(pairs, self.data_collator, self.args.per_device_eval_batch_size)
            model: Any = self.model
            gain = self._source_gain(model)
            if gain is not None and output.metrics is not None:
                output.metrics[f"eval_{GAIN_NAME}"] = gain
        return output

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """A tied weight is in a checkpoint under one of its names, and none is missing."""
        tied = getattr(self.model, "all_tied_weights_keys", {})
        if load_result.unexpected_keys or any(name not in tied for name in load_result.missing_keys):
            super()._issue_warnings_after_load(load_result)


def _call(added: AddedLoss, model: Any, **batch: Any) -> Any:
    return added(model, batch)

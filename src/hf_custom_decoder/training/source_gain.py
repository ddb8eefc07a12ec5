"""Whether a model in training uses its source: what another's source costs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..evaluation.perplexity import mean_token_loss

NUM_ROWS = 32
"""Pairs that are looked at, spread over the validation data."""

LEAST_GAIN = 0.01
"""In nats a token. A model that writes the same for every source has less."""

EARLY_SHARE = 0.1
"""Share of the steps in which a model may still learn the language of the targets first."""

GAIN_NAME = "source_gain"
"""In results; in the log with "eval_" before it."""


class SourceGain:
    """
    What the labels of some validation pairs cost more with the source of another pair, in nats a token. A decoder that
    has learnt to write likely targets whatever the source, for instance since the encoder's states became the same at
    every position, has a gain of about zero, while its loss still falls.

    Args:
        pairs (`datasets.Dataset`): With `input_ids` and `labels`.
        collate (`Callable`): Makes a batch of some of them.
        batch_size (`int`): Pairs at a time.
    """

    def __init__(
        self,
        pairs: Sequence[dict[str, Any]],
        collate: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]],
        batch_size: int,
    ) -> None:
        num_rows = min(NUM_ROWS, len(pairs))
        rows = [pairs[idx * len(pairs) // num_rows] for idx in range(num_rows)]
        own = list({tuple(row["input_ids"]): row for row in rows}.values())  # one of each source
        swapped = [{**row, "input_ids": own[idx - 1]["input_ids"]} for idx, row in enumerate(own)]
        self._can_be_measured = len(own) > 1
        starts = range(0, len(own), batch_size)
        self._batches = [[collate(given[start : start + batch_size]) for start in starts] for given in (own, swapped)]

    def __call__(self, model: PreTrainedModel) -> float | None:
        """Returns the gain; None for data of a single source, an empty one for instance."""
        if not self._can_be_measured:
            return None
        own, swapped = (mean_token_loss(model, batches)[0] for batches in self._batches)
        return swapped - own


def is_unused(gain: float | None) -> bool:
    """Tells whether a measured gain is too small to come from the source."""
    return gain is not None and not gain >= LEAST_GAIN  # not a number is no gain either


def describe_unused(gain: float, moment: str) -> str:
    """Says to the user that the source is not used."""
    return (
        f"{moment} the model does not use its source: with another pair's source the labels of the validation data "
        f"cost {gain:.4f} nats a token more (less than {LEAST_GAIN}), so it writes much the same for every source. If "
        "this stays so, try a lower learning rate or a longer warm-up, and look at the pairs of the training data."
    )


class SourceWatch(TrainerCallback):
    """Says once when a model does not use its source after the first tenth of its steps.

    Args:
        report (`Callable[[str], None]`): Receives the message for the user.
        max_steps (`int`): Of the whole run.
    """

    def __init__(self, report: Callable[[str], None], max_steps: int) -> None:
        self._report = report
        self._max_steps = max_steps
        self._has_said = False

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        gain = (metrics or {}).get(f"eval_{GAIN_NAME}")
        is_early = state.global_step < EARLY_SHARE * self._max_steps
        if gain is not None and is_unused(gain) and not is_early and not self._has_said:
            self._has_said = True
            self._report(describe_unused(gain, f"After {state.global_step:,} steps"))

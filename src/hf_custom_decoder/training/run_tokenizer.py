"""The tokenizers of a recipe alone: trained, measured, saved."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from .recipe_options import Recipe
from .recipe_tokenizers import TARGET_FOLDER, existing_tokenizer_name, save_tokenizers
from .run_pretraining import PretrainingRun, check_pretraining
from .run_recipe import RecipeRun, Report

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def train_recipe_tokenizer(recipe: Recipe, report: Report, folder: str | Path | None = None) -> Path:
    """Trains the tokenizer(s) that `train` or `pretrain` would train from this recipe, and saves them.

    Args:
        recipe ([`Recipe`]): With `tasks`, the tokenizer has their special tokens.
        report (`Callable[[str], None]`): Receives a line of figures for each tokenizer.
        folder (`str` or `Path`, *optional*): Where to save, by default `output` with "-tokenizer" behind it; what an
            earlier call left there is replaced.

    Returns:
        `Path`: The folder, for `tokenizer.name`; it appears whole.

    Raises:
        ImportError: If `datasets` is not installed.
        OSError: If data cannot be read.
        ValueError: If the recipe takes an existing tokenizer, or the folder holds other files.
    """
    if find_spec("datasets") is None:
        raise ImportError(
            'Reading data needs the package datasets. Install it with pip install "hf_custom_decoder[train]"'
        )
    name = existing_tokenizer_name(recipe)
    if name is not None:
        raise ValueError(
            f"The recipe must leave its tokenizer to be trained, but it takes that of {name}. Leave out "
            "`tokenizer.name`, `model.pretrained` and `model.pretrained_encoder`."
        )
    if recipe.tasks:
        check_pretraining(recipe)
    chosen = Path(f"{recipe.output}-tokenizer" if folder is None else folder).resolve()
    _check_folder(chosen)
    stages = (PretrainingRun if recipe.tasks else RecipeRun)(recipe, None, None, report)
    tokenizers = stages.new_tokenizers(stages.read_train())
    sides = stages.texts_of("validation")
    where = "validation" if any(sides) else "training"
    if not any(sides):
        sides = stages.texts_of("train")
    if tokenizers.is_joint:
        report(_figures("tokenizer", tokenizers.source, sides[0] + sides[1], where))
    else:
        report(_figures("source tokenizer", tokenizers.source, sides[0], where))
        report(_figures("target tokenizer", tokenizers.target, sides[1], where))
    partial = chosen.with_name(f".{chosen.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_tokenizers(tokenizers, partial)
    if chosen.exists():
        shutil.rmtree(chosen)
    os.replace(partial, chosen)
    report(f"The tokenizer is in {chosen}.")
    return chosen


def _check_folder(folder: Path) -> None:
    """Raises a `ValueError` if a folder holds more than the tokenizers that an earlier call left."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"The folder must be new or hold a tokenizer, but {folder} is a file. Choose another.")
    others = sorted(path.name for path in folder.iterdir() if not _is_of_tokenizer(path))
    if others:
        raise ValueError(
            f"The folder must be new or hold nothing but a tokenizer, but {folder} holds {others[0]}"
            f"{f' and {len(others) - 1} more' if len(others) > 1 else ''}. Choose another."
        )


def _is_of_tokenizer(path: Path) -> bool:
    if path.is_dir():
        return path.name == TARGET_FOLDER and all(_is_of_tokenizer(inner) for inner in path.iterdir())
    return path.name in _TOKENIZER_FILES


def tokenizer_figures(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> dict[str, Any]:
    """Measures a tokenizer on texts.

    Returns:
        `dict[str, Any]`: `vocab_size`; `tokens_per_word`, words being what blanks separate; `unknown_share`, of the
        tokens, from 0 to 1. Special tokens around a text do not count.
    """
    num_words = sum(len(text.split()) for text in texts)
    ids = [idx for row in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] for idx in row]
    unknown = 0 if tokenizer.unk_token_id is None else ids.count(tokenizer.unk_token_id)
    return {
        "vocab_size": len(tokenizer),
        "tokens_per_word": len(ids) / max(num_words, 1),
        "unknown_share": unknown / max(len(ids), 1),
    }


def _figures(name: str, tokenizer: PreTrainedTokenizerBase, texts: list[str], where: str) -> str:
    figures = tokenizer_figures(tokenizer, texts)
    return (
        f"{name}: {figures['vocab_size']:,} tokens, {figures['tokens_per_word']:.3f} a word, "
        f"{100.0 * figures['unknown_share']:.3f} % unknown, on {where} text"
    )

"""A finished model that another one learns from."""

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.pair_encoding import PairTokenizers
from ..hub.model_folder import load_model_folder
from .recipe_model import check_positions
from .recipe_options import Recipe
from .recipe_tokenizers import load_target_tokenizer


def load_teacher(recipe: Recipe, tokenizers: PairTokenizers, student: PreTrainedModel) -> PreTrainedModel:
    """Loads the teacher of a recipe and checks that it reads and writes the same ids as the model to be trained.

    Args:
        recipe ([`Recipe`]): With `training.teacher`.
        tokenizers ([`PairTokenizers`]): Of the model to be trained.
        student ([`~transformers.PreTrainedModel`]): The model to be trained. Its teacher may write more logits, as of
            a vocabulary that was padded.

    Returns:
        [`~transformers.PreTrainedModel`]: On the CPU, in evaluation mode.

    Raises:
        OSError: If there is no such model.
        ValueError: If its vocabulary is another, or the data is longer than its positions.
    """
    name = str(recipe.training.teacher)
    try:
        model, source = load_model_folder(name)
    except OSError as error:
        raise FileNotFoundError(f"`training.teacher` could not be read: {error}") from error
    _check_equal("source", tokenizers.source, source, name)
    _check_equal("target", tokenizers.target, load_target_tokenizer(name) or source, name)
    check_positions(recipe, model, "training.teacher")
    most, needed = (_num_logits(one) for one in (model, student))
    if most < needed:
        raise ValueError(
            f"`training.teacher` must write a logit for every token of the model that it teaches, but {name} writes "
            f"{most:,} and the model {needed:,}. Take a teacher of the same vocabulary, or use sequence-level "
            "distillation (`hf-custom-decoder distill`)."
        )
    return model


def _num_logits(model: PreTrainedModel) -> int:
    projection: Any = model.get_output_embeddings()
    return int(projection.weight.shape[0])


def _check_equal(side: str, ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, name: str) -> None:
    own, other = ours.get_vocab(), theirs.get_vocab()
    if own == other:
        return
    differing = sorted(token for token in {*own, *other} if own.get(token) != other.get(token))
    raise ValueError(
        f"A teacher must have the vocabulary of the model that it teaches, but {len(differing):,} tokens of the "
        f"{side} of {name} have other ids or are missing, such as {differing[:3]}. Train with the teacher's tokenizer "
        f"(`tokenizer.name: {name}`), or use sequence-level distillation (`hf-custom-decoder distill`)."
    )

"""Training pairs that are another draw in every pass: BPE-dropout, and noise on the source."""

import random
from typing import Any

import numpy as np

from ..training.recipe_options import Recipe
from .bpe_dropout import BpeDropout
from .pair_encoding import PairTokenizers


class VariedPairs:
    """Encoded pairs of which each draw differs, by seed, pass and row alone.

    An example is asked for by its slot: pass times the number of rows, plus the row. A draw that would be longer than
    the recipe's limits is made without BPE-dropout. Tokens that frame a text are never touched, and of a source at
    least one token stays.

    Args:
        pairs (`datasets.Dataset`): From [`encode_pairs`] with texts.
        tokenizers ([`PairTokenizers`]): Of both sides.
        recipe ([`Recipe`]): Its rates, limits and seed.

    Attributes:
        source_lengths (`np.ndarray` of shape `(num_pairs,)`): Tokens of each source without any variation.
        target_lengths (`np.ndarray` of shape `(num_pairs,)`): Of each target.

    Raises:
        ValueError: If a tokenizer has no merges to drop, or no unknown token to put in.
    """

    def __init__(self, pairs: Any, tokenizers: PairTokenizers, recipe: Recipe) -> None:
        self._pairs = pairs
        self._recipe = recipe
        self._end = tokenizers.target.eos_token_id
        self._unknown = tokenizers.source.unk_token_id
        self._framing = set(tokenizers.source.all_special_ids) - {self._unknown}
        rate = recipe.tokenizer.bpe_dropout
        self._source_dropout = self._target_dropout = None
        if rate:
            self._source_dropout = BpeDropout(tokenizers.source, rate)
            self._target_dropout = BpeDropout(tokenizers.target, rate)
        if recipe.training.source_dropout and self._unknown is None:
            raise ValueError(
                "`training.source_dropout` puts the unknown token in the place of others, but the tokenizer has none. "
                "Take `training.source_deletion`."
            )
        lengths = pairs.with_format("numpy")
        self.source_lengths = np.asarray(lengths["source_length"][:], dtype=np.int64)
        self.target_lengths = np.asarray(lengths["target_length"][:], dtype=np.int64)

    @staticmethod
    def are_wanted(recipe: Recipe) -> bool:
        """Returns whether a recipe varies its training pairs."""
        training = recipe.training
        rates = (training.source_dropout, training.source_deletion, training.source_shuffle)
        return recipe.tokenizer.bpe_dropout > 0 or any(rate > 0 for rate in rates)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, slot: int) -> dict[str, list[int]]:
        pass_idx, row = divmod(int(slot), len(self))
        pair = self._pairs[row]
        source, target = pair["input_ids"], pair["labels"]
        data = self._recipe.data
        generator = random.Random(f"{self._recipe.training.seed}/{pass_idx}/{row}")
        if self._source_dropout is not None and self._target_dropout is not None:
            cut = self._source_dropout(pair["source"], generator)
            source = cut if len(cut) <= data.max_source_length else source
            cut = self._target_dropout(pair["target"], generator)
            cut = cut if cut and cut[-1] == self._end else [*cut, self._end]
            target = cut if len(cut) <= data.max_target_length else target
        return {"input_ids": self._noisy(source, generator), "labels": target}

    def slots_of_pass(self, pass_idx: int, generator: np.random.Generator) -> np.ndarray:
        """Returns all rows of a pass, shuffled by `generator`, as slots of shape `(num_pairs,)`."""
        return pass_idx * len(self) + generator.permutation(len(self))

    def _noisy(self, ids: list[int], generator: random.Random) -> list[int]:
        """Shuffles, deletes and replaces tokens between those that frame a text."""
        training = self._recipe.training
        if not (training.source_dropout or training.source_deletion or training.source_shuffle):
            return ids
        start, end = 0, len(ids)
        while start < end and ids[start] in self._framing:
            start += 1
        while end > start and ids[end - 1] in self._framing:
            end -= 1
        inner = ids[start:end]
        if training.source_shuffle:
            places = [idx + generator.uniform(0, training.source_shuffle + 1) for idx in range(len(inner))]
            inner = [inner[idx] for idx in sorted(range(len(inner)), key=places.__getitem__)]
        if training.source_deletion:
            kept = [idx for idx in inner if generator.random() >= training.source_deletion]
            inner = kept or inner[:1]
        if training.source_dropout:
            inner = [self._unknown if generator.random() < training.source_dropout else idx for idx in inner]
        return [*ids[:start], *inner, *ids[end:]]

"""Word dropout: decoder inputs of a training batch become the unknown token (Bowman et al. 2016, section 3.1)."""

from typing import Any

import numpy as np
import torch

from ..data.pair_encoding import PairTokenizers
from ..evaluation.predictions import IGNORED_LABEL_ID
from .recipe_options import TrainingOptions


class WordDropout:
    """Hides decoder inputs, each with the same probability; labels and the start token stay.

    What is hidden depends on the seed and the number of the batch alone.

    Args:
        probability (`float`): From 0 to below 1.
        hidden_id (`int`): What stands for a hidden token.
        seed (`int`): Of the draws.
    """

    def __init__(self, *, probability: float, hidden_id: int, seed: int) -> None:
        self._probability = probability
        self._hidden_id = hidden_id
        self._seed = seed

    def __call__(self, batch: dict[str, torch.Tensor], number: int, model: Any) -> dict[str, torch.Tensor]:
        """Returns the batch with `decoder_input_ids` of shape `(batch_size, target_length)`.

        Args:
            batch (`dict[str, torch.Tensor]`): From [`PairCollator`].
            number (`int`): Which batch of the run, over all processes, this is.
            model (`nn.Module`): Shifts labels.
        """
        generator = np.random.default_rng([self._seed, number, 1])
        inputs = getattr(model, "module", model).prepare_decoder_input_ids_from_labels(batch["labels"])
        hidden = torch.from_numpy(generator.random(tuple(inputs.shape)) < self._probability).to(inputs.device)
        hidden[:, 1:] &= batch["labels"][:, :-1] != IGNORED_LABEL_ID
        hidden[:, 0] = False
        return {**batch, "decoder_input_ids": inputs.masked_fill(hidden, self._hidden_id)}


def build_word_dropout(training: TrainingOptions, tokenizers: PairTokenizers) -> WordDropout | None:
    """Builds the word dropout of a recipe, or returns None if there is none.

    Raises:
        ValueError: If the target's tokenizer has no token to hide others behind.
    """
    if not training.target_dropout:
        return None
    target = tokenizers.target
    hidden = target.unk_token_id if target.unk_token_id is not None else target.mask_token_id
    if hidden is None:
        raise ValueError(
            "`training.target_dropout` needs an unknown or a mask token, but the tokenizer of the target has neither. "
            "Leave it out, or set one with `tokenizer.special_tokens`."
        )
    return WordDropout(probability=training.target_dropout, hidden_id=int(hidden), seed=training.seed)

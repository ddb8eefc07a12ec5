"""Noise on training batches: source tokens left out or moved, decoder inputs hidden.

Legend: B rows, S source length, T target length.
"""

from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from ..data.pair_encoding import PairTokenizers
from ..evaluation.predictions import IGNORED_LABEL_ID
from .recipe_options import TrainingOptions


class TokenNoise:
    """Makes a batch noisy, in a way that depends on the seed and the number of the batch alone.

    - Source tokens are left out, each with probability `source_drop`, and moved: the order is that of i + u, u uniform
      from 0 to `source_shuffle` + 1, so that no token moves by more than `source_shuffle` places (Lample et al. 2018,
      section 2.3). Special tokens, such as the end token, stay where they are, and one other token at least.
    - Decoder inputs become the unknown token, each with probability `target_hide` (Bowman et al. 2016, section 3.1).
      Labels and the start token stay.

    Args:
        source_drop (`float`): From 0 to below 1.
        source_shuffle (`int`): In tokens; 0 keeps the order.
        target_hide (`float`): From 0 to 1.
        special_ids (`set[int]`): Source ids that are left alone.
        pad_token_id (`int`): Padding of the sources.
        hidden_id (`int`): What stands for a hidden decoder input.
        seed (`int`): Of the noise.
    """

    def __init__(
        self,
        *,
        source_drop: float,
        source_shuffle: int,
        target_hide: float,
        special_ids: set[int],
        pad_token_id: int,
        hidden_id: int,
        seed: int,
    ) -> None:
        self._source_drop = source_drop
        self._source_shuffle = source_shuffle
        self._target_hide = target_hide
        self._special_ids = sorted(special_ids)
        self._pad_token_id = pad_token_id
        self._hidden_id = hidden_id
        self._seed = seed

    def __call__(self, batch: dict[str, torch.Tensor], number: int, model: Any = None) -> dict[str, torch.Tensor]:
        """Returns a noisy batch of the same labels.

        Args:
            batch (`dict[str, torch.Tensor]`): From [`PairCollator`].
            number (`int`): Which batch of the run, over all processes, this is.
            model (`nn.Module`, *optional*): Shifts labels; needed where decoder inputs are hidden.
        """
        generator = np.random.default_rng([self._seed, number, 1])
        noisy = dict(batch)
        if self._source_drop or self._source_shuffle:
            device = batch["input_ids"].device
            lengths = batch["attention_mask"].sum(1).tolist()
            rows = [
                torch.from_numpy(self._noisy_source(row[:length].cpu().numpy(), generator))
                for row, length in zip(batch["input_ids"], lengths, strict=True)
            ]
            ids = pad_sequence(rows, batch_first=True, padding_value=self._pad_token_id)
            noisy["input_ids"] = ids.to(device)
            mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
            noisy["attention_mask"] = mask.to(device)
        if self._target_hide:
            inputs = getattr(model, "module", model).prepare_decoder_input_ids_from_labels(batch["labels"])
            hidden = torch.from_numpy(generator.random(tuple(inputs.shape)) < self._target_hide).to(inputs.device)
            hidden[:, 1:] &= batch["labels"][:, :-1] != IGNORED_LABEL_ID
            hidden[:, 0] = False
            noisy["decoder_input_ids"] = inputs.masked_fill(hidden, self._hidden_id)
        return noisy

    def _noisy_source(self, ids: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        is_special = np.isin(ids, self._special_ids)
        words = ids[~is_special]
        keeps = generator.random(len(words)) >= self._source_drop
        places = np.arange(len(words)) + generator.random(len(words)) * (self._source_shuffle + 1)
        if len(words) and not keeps.any():
            keeps[generator.integers(len(words))] = True
        moved = words[np.argsort(places, kind="stable")] if self._source_shuffle else words
        stays = np.ones(len(ids), dtype=bool)
        stays[~is_special] = keeps
        mixed = ids.copy()
        mixed[~is_special] = moved
        return mixed[stays]


def build_noise(training: TrainingOptions, tokenizers: PairTokenizers) -> TokenNoise | None:
    """Builds the noise of a recipe, or returns None if there is none.

    Raises:
        ValueError: If decoder inputs are to be hidden and the target's tokenizer has no token for that.
    """
    if not (training.source_drop or training.source_shuffle or training.target_hide):
        return None
    source, target = tokenizers.source, tokenizers.target
    hidden = target.unk_token_id if target.unk_token_id is not None else target.mask_token_id
    if training.target_hide and hidden is None:
        raise ValueError(
            "`training.target_hide` needs an unknown or a mask token, but the tokenizer of the target has neither. "
            "Leave it out, or set one with `tokenizer.special_tokens`."
        )
    pad = source.pad_token_id if source.pad_token_id is not None else target.pad_token_id
    return TokenNoise(
        source_drop=training.source_drop,
        source_shuffle=training.source_shuffle,
        target_hide=training.target_hide,
        special_ids=set(source.all_special_ids) - {source.unk_token_id},
        pad_token_id=int(pad),
        hidden_id=-1 if hidden is None else int(hidden),
        seed=training.seed,
    )

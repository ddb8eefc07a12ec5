"""A small model around a decoder, and a batch for it."""

import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedConfig

from ..models.configuration_custom_seq2seq import CustomSeq2SeqConfig
from ..models.modeling_custom_seq2seq import CustomSeq2SeqForConditionalGeneration

NUM_SPECIAL_IDS = 3
"""Ids below it are padding, start and end in the tests' batches."""


def spread_weights(model: torch.nn.Module) -> None:
    """Add noise to every weight: fresh ones are close to zero, where many a mistake hides."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
        parameter.data.add_(noise * 0.2)


@dataclass
class DecoderCase:
    """An encoder config with a decoder config, and what the checks run on.

    Attributes:
        encoder (`PreTrainedConfig`): Any that reads token ids.
        decoder (`PreTrainedConfig`): The one to check. It is copied.
        seq2seq (`dict[str, Any]`): Further arguments of [`CustomSeq2SeqConfig`].
    """

    encoder: PreTrainedConfig
    decoder: PreTrainedConfig
    seq2seq: dict[str, Any] = field(default_factory=dict)

    def build(self) -> CustomSeq2SeqForConditionalGeneration:
        """The model with seeded weights, always the same, in float64 and evaluation mode."""
        torch.manual_seed(0)
        encoder, decoder = copy.deepcopy(self.encoder), copy.deepcopy(self.decoder)
        model = CustomSeq2SeqForConditionalGeneration(
            CustomSeq2SeqConfig(encoder=encoder, decoder=decoder, **self.seq2seq)
        )
        model.double().eval()  # type: ignore[no-untyped-call]
        spread_weights(model)
        return model

    @cached_property
    def model(self) -> CustomSeq2SeqForConditionalGeneration:
        """A model that the checks share; one that changes its model builds its own."""
        return self.build()

    def _ids(self, vocab_size: int, *shape: int, seed: int) -> torch.Tensor:
        return torch.randint(NUM_SPECIAL_IDS, vocab_size, shape, generator=torch.Generator().manual_seed(seed))

    @property
    def source(self) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` of shape `(3, 7)`, two rows with padding at their ends."""
        ids, mask = self._ids(self.encoder.vocab_size, 3, 7, seed=2), torch.ones(3, 7, dtype=torch.long)
        for row, length in ((1, 5), (2, 3)):
            mask[row, length:] = 0
            ids[row, length:] = self.encoder.pad_token_id or 0
        return {"input_ids": ids, "attention_mask": mask}

    @property
    def target(self) -> torch.Tensor:
        """`decoder_input_ids` of shape `(3, 6)`."""
        return self._ids(self.decoder.vocab_size, 3, 6, seed=5)

    @property
    def labels(self) -> torch.Tensor:
        """Labels of shape `(3, 6)`, -100 at the ends of two rows."""
        labels = self._ids(self.decoder.vocab_size, 3, 6, seed=7)
        labels[1, 5:], labels[2, 4:] = -100, -100
        return labels

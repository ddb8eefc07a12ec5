"""Generation through decoding steps beside generation through transformers' own loops."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from hf_custom_decoder import CustomSeq2SeqConfig, CustomSeq2SeqForConditionalGeneration
from hf_custom_decoder.models import generation_custom_seq2seq
from hf_custom_decoder.models.fast_generation_custom_seq2seq import can_step
from tests.factories import VOCAB_SIZE, spread_weights

EVERYTHING = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}


@contextmanager
def watched(*, allowed: bool = True) -> Iterator[list[bool]]:
    """Notes whether each search went through decoding steps; all go through transformers' loops if not `allowed`."""
    used: list[bool] = []

    def watch(*arguments: Any) -> bool:
        used.append(allowed and can_step(*arguments))
        return used[-1]

    with patch.object(generation_custom_seq2seq, "can_step", watch):
        yield used


def both(model: Any, seed: int = 3, **options: Any) -> tuple[Any, Any]:
    """What decoding steps and what transformers' loops return, from one state of the random generator."""
    found = []
    for allowed in (True, False):
        torch.manual_seed(seed)
        with watched(allowed=allowed) as used:
            found.append(model.generate(**options))
        assert used == [allowed]
    return found[0], found[1]


def assert_same(found: Any, expected: Any, tolerance: float = 1e-5, state_tolerance: float = 1e-9) -> None:
    """Everything that is returned; scores are kept in float32 by transformers."""
    assert set(found) == set(expected)
    assert torch.equal(found.sequences, expected.sequences)
    for name in ("scores", "logits"):
        assert len(found[name]) == len(expected[name])
        for one, two in zip(found[name], expected[name], strict=True):
            torch.testing.assert_close(one, two, rtol=0.0, atol=tolerance)
    if "sequences_scores" in expected:
        torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, rtol=0.0, atol=tolerance)
        assert torch.equal(found.beam_indices, expected.beam_indices)
    caches = [getattr(one.past_key_values, "self_attention_cache", one.past_key_values) for one in (found, expected)]
    assert caches[0].get_seq_length() == caches[1].get_seq_length()
    for one, two in zip(caches[0].layers, caches[1].layers, strict=True):
        states = [one.states if hasattr(one, "states") else (one.keys, one.values) for one in (one, two)]
        for first, second in zip(*states, strict=True):
            torch.testing.assert_close(first, second, rtol=0.0, atol=state_tolerance)


def source_of(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def large_seq2seq(model_type: str = "custom_transformer_decoder", *, intermediate_size: int = 1024) -> Any:
    """Large enough for every way in which linear layers are computed, with a vocabulary that no block divides."""
    sizes = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": intermediate_size}
    torch.manual_seed(0)
    config = CustomSeq2SeqConfig(
        encoder={
            "model_type": "custom_transformer_encoder",
            **sizes,
            "vocab_size": VOCAB_SIZE,
            "num_hidden_layers": 1,
        },
        decoder={
            "model_type": model_type,
            **(sizes if model_type == "custom_transformer_decoder" else {"hidden_size": 256}),
            "vocab_size": 3001,
            "num_hidden_layers": 2,
        },
    )
    model = CustomSeq2SeqForConditionalGeneration(config).eval()
    spread_weights(model)
    return model


def train_a_step(model: Any, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]) -> None:
    """Change the weights, and leave the model in evaluation mode."""
    model.train()
    model(**batch).loss.backward()
    optimizer.step()
    model.eval()

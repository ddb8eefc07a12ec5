"""One suite over every encoder with every decoder: cheap checks on all pairs, dear ones on a covering set."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from tests.combinations import ALL_PAIRS, COVERING_PAIRS, VOCAB_SIZE, build_pair
from tests.factories import tiny_batch

TIGHT = {"rtol": 0.0, "atol": 1e-10}


def pairs(covering: bool) -> list[object]:
    """The covering pairs, or all; those beyond the covering set are marked `full`."""
    if covering:
        return [
            pytest.param(*pair, marks=() if pair in COVERING_PAIRS else pytest.mark.full, id="-".join(pair))
            for pair in ALL_PAIRS
        ]
    return [pytest.param(*pair, id="-".join(pair)) for pair in ALL_PAIRS]


on_all = pytest.mark.parametrize(("encoder", "decoder"), pairs(covering=False))
on_covering = pytest.mark.parametrize(("encoder", "decoder"), pairs(covering=True))


def target(length: int = 6) -> torch.Tensor:
    return torch.randint(3, VOCAB_SIZE, (3, length), generator=torch.Generator().manual_seed(5))


@on_all
def test_gradients_reach_every_weight(encoder: str, decoder: str) -> None:
    model = build_pair(encoder, decoder).train()
    output = model(**tiny_batch())
    assert output.logits is None
    output.loss.backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert without == []
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters())


@on_all
@torch.no_grad()
def test_cached_equals_uncached(encoder: str, decoder: str) -> None:
    model, batch, ids = build_pair(encoder, decoder), tiny_batch(), target()
    source = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    whole = model(**source, decoder_input_ids=ids).logits
    cache, parts = None, []
    for start, end in ((0, 1), (1, 4), (4, 5), (5, 6)):
        output = model(**source, decoder_input_ids=ids[:, start:end], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        assert cache.get_seq_length() == end
        parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, **TIGHT)


@on_all
@torch.no_grad()
def test_padding_and_batch_mates_change_nothing(encoder: str, decoder: str) -> None:
    model, batch, ids = build_pair(encoder, decoder), tiny_batch(), target()
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], decoder_input_ids=ids).logits
    for row in range(3):
        real = batch["attention_mask"][row].bool()
        alone = model(input_ids=batch["input_ids"][row][real][None], decoder_input_ids=ids[row][None]).logits[0]
        torch.testing.assert_close(logits[row], alone, **TIGHT)


@on_all
@torch.no_grad()
def test_padding_before_a_target_changes_nothing(encoder: str, decoder: str) -> None:
    model, batch, ids = build_pair(encoder, decoder), tiny_batch(), target()
    source = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    padded = model(**source, decoder_input_ids=ids, decoder_attention_mask=mask).logits
    one = {name: value[1:2] for name, value in source.items()}
    alone = model(**one, decoder_input_ids=ids[1:2, 2:]).logits
    torch.testing.assert_close(padded[1:2, 2:], alone, **TIGHT)


@on_all
@torch.no_grad()
def test_a_later_token_never_changes_earlier_logits(encoder: str, decoder: str) -> None:
    model, batch, ids = build_pair(encoder, decoder), tiny_batch(), target()
    source = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    changed = ids.clone()
    changed[:, 4:] = (changed[:, 4:] + 7) % VOCAB_SIZE
    before = model(**source, decoder_input_ids=ids).logits
    after = model(**source, decoder_input_ids=changed).logits
    torch.testing.assert_close(after[:, :4], before[:, :4], **TIGHT)
    assert not torch.allclose(after[:, 4:], before[:, 4:])


@on_all
@torch.no_grad()
def test_the_source_matters(encoder: str, decoder: str) -> None:
    model, batch, ids = build_pair(encoder, decoder), tiny_batch(), target()
    other = (batch["input_ids"] + 11) % VOCAB_SIZE
    mask = batch["attention_mask"]
    before = model(input_ids=batch["input_ids"], attention_mask=mask, decoder_input_ids=ids).logits
    after = model(input_ids=other, attention_mask=mask, decoder_input_ids=ids).logits
    assert not torch.allclose(before, after)


@on_all
@torch.no_grad()
def test_greedy_with_cache_equals_greedy_without(encoder: str, decoder: str) -> None:
    model, batch = build_pair(encoder, decoder), tiny_batch()
    source = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "max_length": 10}
    assert torch.equal(model.generate(**source), model.generate(**source, use_cache=False))


@on_covering
@torch.no_grad()
def test_beams_with_cache_equal_beams_that_recompute_the_prefix(encoder: str, decoder: str) -> None:
    model, batch = build_pair(encoder, decoder), tiny_batch()
    options = {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "num_beams": 3,
        "num_return_sequences": 2,
        "max_length": 10,
        "return_dict_in_generate": True,
        "output_scores": True,
    }
    cached, recomputed = model.generate(**options), model.generate(**options, use_cache=False)
    assert torch.equal(cached.sequences, recomputed.sequences)
    torch.testing.assert_close(cached.sequences_scores, recomputed.sequences_scores, rtol=0.0, atol=1e-5)


@on_covering
@torch.no_grad()
def test_a_saved_model_is_the_same_model(encoder: str, decoder: str, tmp_path: Path) -> None:
    model, batch = build_pair(encoder, decoder), tiny_batch()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=torch.float64)
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, **TIGHT)


@on_covering
@torch.no_grad()
def test_resized_embeddings_keep_old_logits(encoder: str, decoder: str) -> None:
    model, batch, ids = build_pair(encoder, decoder), tiny_batch(), target()
    source = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    before = model(**source, decoder_input_ids=ids).logits
    model.resize_token_embeddings(VOCAB_SIZE + 5)
    after = model(**source, decoder_input_ids=ids).logits
    assert after.shape[-1] == VOCAB_SIZE + 5
    torch.testing.assert_close(after[..., :VOCAB_SIZE], before, **TIGHT)

"""The ways in which decoding steps read weights give what transformers' loops give, and no copy outlives the call."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch

from hf_custom_decoder.models import few_rows_linear_custom_seq2seq
from hf_custom_decoder.models.decoding_step_transformer_decoder import FoldedCrossAttentionStep
from hf_custom_decoder.models.few_rows_linear_custom_seq2seq import CALLS_BEFORE_PACKING, FewRowsLinear
from tests.factories import VOCAB_SIZE, tiny_batch, tiny_seq2seq
from tests.generation.both_loops import EVERYTHING, assert_same, both, large_seq2seq, source_of, train_a_step


@contextmanager
def noted_ways() -> Iterator[set[str]]:
    """Notes how linear layers were computed while generating."""
    ways: set[str] = set()
    in_place, call = FewRowsLinear._in_place, FewRowsLinear.__call__

    def watch_in_place(self: FewRowsLinear, inputs: torch.Tensor) -> torch.Tensor:
        ways.add("in place")
        return in_place(self, inputs)

    def watch(self: FewRowsLinear, inputs: torch.Tensor) -> torch.Tensor:
        outputs = call(self, inputs)
        ways.update(["packed"] if self.packed is not None else [])
        return outputs

    with patch.object(FewRowsLinear, "_in_place", watch_in_place), patch.object(FewRowsLinear, "__call__", watch):
        yield ways


def test_weights_are_read_anew_by_every_call() -> None:
    """A fused optimizer changes weights without a trace, so no copy may outlive the call."""
    model = large_seq2seq()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    batch = tiny_batch()
    written: list[torch.Tensor] = []
    of_other_tests = [one for one in gc.get_objects() if type(one) is FewRowsLinear]
    for _ in range(2):
        with noted_ways() as ways:
            found, expected = both(model, **source_of(batch), num_beams=3, max_length=30, eos_token_id=None)
        assert "packed" in ways
        now = [one for one in gc.get_objects() if type(one) is FewRowsLinear]
        assert all(any(one is other for other in of_other_tests) for one in now)
        assert torch.equal(found, expected)
        written.append(found)
        train_a_step(model, optimizer, batch)
    assert not torch.equal(*written)


@pytest.mark.parametrize(("length", "is_packed"), [(8, False), (CALLS_BEFORE_PACKING["in place"], True)])
@pytest.mark.parametrize("model_type", ["custom_transformer_decoder", "custom_recurrent_decoder"])
def test_weights_are_not_packed_for_short_sources(model_type: str, length: int, is_packed: bool) -> None:
    """Outputs are mostly about as long as their source; packing for a few tokens costs more than it saves."""
    source = torch.randint(3, VOCAB_SIZE, (1, length), generator=torch.Generator().manual_seed(0))
    with noted_ways() as ways:
        model = large_seq2seq(model_type, intermediate_size=512)
        found, expected = both(model, input_ids=source, num_beams=4, max_length=12, eos_token_id=None)
    assert ("packed" in ways) == is_packed
    assert torch.equal(found, expected)


@pytest.mark.parametrize("is_avx2", [False, True])
@pytest.mark.parametrize(
    ("rows", "beams", "ways"),
    [(1, 1, {"in place"}), (3, 1, {"in place", "packed"}), (12, 1, {"packed"}), (1, 4, {"in place", "packed"})],
)
def test_large_weights(rows: int, beams: int, ways: set[str], is_avx2: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids and scores are those of transformers' loops, whatever way large linear layers take."""
    monkeypatch.setattr(few_rows_linear_custom_seq2seq, "IS_AVX2", is_avx2)
    if is_avx2 and rows * beams == 1:
        ways = {"in place", "packed"}  # the vocabulary
    source = torch.randint(3, VOCAB_SIZE, (rows, 6), generator=torch.Generator().manual_seed(0))
    options = {"input_ids": source, "attention_mask": torch.ones_like(source), "num_beams": beams, "max_length": 30}
    with noted_ways() as found_ways:
        found, expected = both(large_seq2seq(), **options, eos_token_id=None, **EVERYTHING)
    assert found_ways == ways
    assert all(one.is_contiguous() for one in found.scores + found.logits)
    assert_same(found, expected, tolerance=1e-3, state_tolerance=1e-4)


FOLDED = FoldedCrossAttentionStep.__call__


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("length", [5, 8])
@pytest.mark.parametrize("variant", ["default", "rotary_gqa_qk_norm", "head_dim", "rmsnorm_gated", "no bias"])
def test_a_short_source_is_folded_into_the_weights(variant: str, length: int, beams: int) -> None:
    """Only where it is shorter than a head is wide (8 here, 6 in one variant), and no norm stands between."""
    fields = {"attention_bias": False} if variant == "no bias" else {}
    model = tiny_seq2seq("default" if variant == "no bias" else variant, decoder=fields).double()
    ids = torch.randint(3, VOCAB_SIZE, (1, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[:, [0, 2]] = 0
    for given in (None, mask):
        with patch.object(FoldedCrossAttentionStep, "__call__", autospec=True) as folded:
            folded.side_effect = FOLDED
            found, expected = both(model, input_ids=ids, attention_mask=given, num_beams=beams, **EVERYTHING)
        assert_same(found, expected)
        assert folded.called == (length == 5 and variant != "rotary_gqa_qk_norm")

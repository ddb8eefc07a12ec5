"""Several sequences in one row of a language model, as `DataCollatorWithFlattening` lays them."""

from typing import Any

import pytest
import torch
from transformers import DataCollatorWithFlattening, PreTrainedModel

from hf_custom_decoder import RecurrentDecoderConfig, RecurrentDecoderForCausalLM
from tests.factories import ALL_VARIANTS, spread_weights
from tests.models.model_cases import make_model, over

LENGTHS = (4, 1, 6, 3)
RECURRENT = ("gru", "lstm")


def build(kind: str) -> PreTrainedModel:
    """A language model: a variant of the Transformer, a mixture with recurrences, or a recurrent one."""
    if kind in ("ssru", "mingru"):
        return make_model("causal", "rotary", mixer_types=[kind, "full_attention"])
    if kind not in RECURRENT:
        return make_model("causal", kind)
    torch.manual_seed(0)
    config = RecurrentDecoderConfig(vocab_size=40, hidden_size=24, cell_type=kind, add_cross_attention=False)
    model = RecurrentDecoderForCausalLM(config).eval()
    spread_weights(model)
    return model


def flattened() -> tuple[list[list[int]], dict[str, torch.Tensor]]:
    """Sequences, and the same in one row."""
    generator = torch.Generator().manual_seed(1)
    sequences = [torch.randint(3, 40, (length,), generator=generator).tolist() for length in LENGTHS]
    return sequences, DataCollatorWithFlattening()([{"input_ids": sequence} for sequence in sequences])


KINDS = pytest.mark.parametrize("kind", [*ALL_VARIANTS, "ssru", "mingru", *RECURRENT])


@KINDS
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_no_sequence_sees_another(kind: str, implementation: str) -> None:
    model = build(kind).double()
    if kind not in RECURRENT:
        model.set_attn_implementation(implementation)
    sequences, batch = flattened()
    assert batch["input_ids"].shape == (1, sum(LENGTHS))
    output = model(**batch, output_hidden_states=True)
    output.loss.backward()
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()

    alone = [model(torch.tensor([one]), output_hidden_states=True) for one in sequences]
    torch.testing.assert_close(output.logits, torch.cat([one.logits for one in alone], dim=1))
    for states, *parts in zip(output.hidden_states, *[one.hidden_states for one in alone], strict=True):
        torch.testing.assert_close(states, torch.cat(parts, dim=1))
    total, count = 0.0, sum(length - 1 for length in LENGTHS)
    for one, ids in zip(alone, sequences, strict=True):
        if len(ids) > 1:
            total = total + torch.nn.functional.cross_entropy(
                one.logits[0, :-1], torch.tensor(ids[1:]), reduction="sum"
            )
    torch.testing.assert_close(output.loss, total / count)
    (total / count).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, msg=name)


@over([("causal", "default"), ("decoder", "rotary")])
def test_embeddings_and_rows_of_several(kind: str, variant: str) -> None:
    model = make_model(kind, variant)
    ids = torch.randint(3, 40, (2, 9))
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 2, 0, 1, 2, 3, 4, 0]])
    for given in ({"input_ids": ids}, {"inputs_embeds": model.get_input_embeddings()(ids)}):
        with torch.no_grad():
            rows = model(**given, position_ids=positions)[0]
            (as_tuple, *_) = model(**given, position_ids=positions, return_dict=False)
            pieces = [model(ids[:1])[0], *(model(ids[1:, start:end])[0] for start, end in ((0, 3), (3, 8), (8, 9)))]
        assert torch.equal(as_tuple, rows)
        torch.testing.assert_close(rows[:1], pieces[0])
        torch.testing.assert_close(rows[1:], torch.cat(pieces[1:], dim=1))


@pytest.mark.parametrize("variant", ["default", "rotary", "alibi", "sliding"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_in_a_compiled_graph(variant: str, implementation: str) -> None:
    model = make_model("causal", variant).train()
    model.set_attn_implementation(implementation)
    ids = torch.randint(3, 40, (1, 9))
    one, several = torch.arange(9)[None], torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 0]])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for positions in (several, one):
        expected = model(ids, position_ids=positions, use_cache=False).logits
        torch.testing.assert_close(compiled(ids, position_ids=positions, use_cache=False).logits, expected)


def test_positions_of_one_sequence_stay_as_they_were() -> None:
    """Shifted positions, positions with a mask, and a cache say nothing of sequences."""
    model = make_model("causal", "rotary")
    ids = torch.randint(3, 40, (1, 6))
    with torch.no_grad():
        expected = model(ids).logits
        torch.testing.assert_close(model(ids, position_ids=torch.arange(2, 8)[None]).logits, expected)
        one = model(ids, position_ids=torch.arange(6)[None], use_cache=True)
        again = torch.tensor([[0, 1, 2, 0, 1, 2]])
        as_one = model(ids, attention_mask=torch.ones_like(ids), position_ids=again)
    torch.testing.assert_close(one.logits, expected)
    assert one.past_key_values is not None
    assert as_one.past_key_values is not None


@pytest.mark.parametrize("kind", ["default", "gru"])
@pytest.mark.parametrize("asked", ["use_cache", "output_attentions"])
def test_what_one_row_for_several_cannot_give(kind: str, asked: str) -> None:
    model: Any = build(kind)
    ids, positions = torch.randint(3, 40, (1, 6)), torch.tensor([[0, 1, 2, 0, 1, 2]])
    with pytest.raises(
        ValueError, match=rf"`{asked}` must be False where `position_ids` begin anew .*2 sequences in 1 "
    ):
        model(ids, position_ids=positions, **{asked: True})
    assert model(ids, position_ids=positions).past_key_values is None
    with pytest.raises(ValueError, match=r"`position_ids` must have the shape .*got \(1, 5\)"):
        model(ids, position_ids=positions[:, 1:])

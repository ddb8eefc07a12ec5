"""What `forward` refuses at its door: the argument, the rule, the value found, and what to do."""

from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicCache

from tests.models.model_cases import HEADS, KINDS, make_inputs, make_model

SEQ2SEQ = ("seq2seq", "seq2seq_lm")
IDS = torch.tensor([[3, 4, 5, 6, 7, 8, 9]]).repeat(3, 1)

# (kinds, changed arguments (None takes one away), error, words)
Refusal = tuple[tuple[str, ...], dict[str, Any], type[Exception], str]
ENCODER_INPUT = ("encoder", *SEQ2SEQ)
DECODER_ALONE = ("decoder", "causal")
ALONE = ("encoder", *DECODER_ALONE)

IDS_AND_EMBEDDINGS: list[Refusal] = [
    (
        (*ENCODER_INPUT, *DECODER_ALONE),
        {"input_ids": IDS + 50},
        ValueError,
        r"`input_ids` must lie in \[0, vocab_size=50\), got 59\. Check that",
    ),
    (
        (*ENCODER_INPUT, *DECODER_ALONE),
        {"input_ids": IDS - 9},
        ValueError,
        r"`input_ids` must lie in \[0, vocab_size=50\), got -6\. .*resize_token_embeddings",
    ),
    (
        SEQ2SEQ,
        {"decoder_input_ids": IDS[:, :6] + 50},
        ValueError,
        r"TransformerDecoderModel: `input_ids` must lie in \[0, vocab_size=50\), got 58",
    ),
    (
        (*ENCODER_INPUT, *DECODER_ALONE),
        {"input_ids": IDS[0]},
        ValueError,
        r"`input_ids` must be whole numbers of shape \(batch_size, length\), got shape \(7,\)",
    ),
    (
        (*ENCODER_INPUT, *DECODER_ALONE),
        {"input_ids": IDS.float()},
        ValueError,
        r"`input_ids` must be whole numbers .*torch\.float32\. Pass the tokenizer's tensor",
    ),
    (
        (*ENCODER_INPUT, *DECODER_ALONE),
        {"input_ids": IDS.tolist()},
        TypeError,
        r"`input_ids` must be a tensor, got list\. Call the tokenizer with `return_tensors='pt'`",
    ),
    (
        (*ENCODER_INPUT, *DECODER_ALONE),
        {"input_ids": IDS[:, :0], "attention_mask": None},
        ValueError,
        r"`input_ids` must hold at least one row and one token, got the shape \(3, 0\)\. Leave",
    ),
    (
        ALONE,
        {"input_ids": IDS[:0], "attention_mask": None},
        ValueError,
        r"`input_ids` must hold at least one row and one token, got the shape \(0, 7\)",
    ),
    (
        SEQ2SEQ,
        {"decoder_input_ids": IDS[:, :0]},
        ValueError,
        r"`input_ids` must hold at least one row and one token, got the shape \(3, 0\)",
    ),
    (
        (*ENCODER_INPUT, *DECODER_ALONE),
        {"inputs_embeds": torch.zeros(3, 7, 32)},
        ValueError,
        r"give exactly one of `input_ids` and `inputs_embeds`, got both",
    ),
    (ALONE, {"input_ids": None}, ValueError, r"give exactly one of `input_ids` and `inputs_embeds`, got neither"),
    (
        SEQ2SEQ,
        {"input_ids": None},
        ValueError,
        r"the encoder needs `input_ids` \(or `encoder_outputs`\), got neither\. Pass one",
    ),
    (
        (*ENCODER_INPUT, *DECODER_ALONE),
        {"input_ids": None, "inputs_embeds": torch.zeros(3, 32)},
        ValueError,
        r"`inputs_embeds` must have the shape \(batch_size, length, hidden_size=32\), got \(3, 32\)\. Make them",
    ),
    (
        (*ENCODER_INPUT, *DECODER_ALONE),
        {"input_ids": None, "inputs_embeds": torch.zeros(3, 7, 16)},
        ValueError,
        r"`inputs_embeds` must have the shape .*hidden_size=32\), got \(3, 7, 16\)",
    ),
    (
        SEQ2SEQ,
        {"decoder_input_ids": None, "decoder_inputs_embeds": torch.zeros(3, 6, 16)},
        ValueError,
        r"TransformerDecoderModel: `inputs_embeds` must have the shape .*got \(3, 6, 16\)",
    ),
    (
        SEQ2SEQ,
        {"decoder_inputs_embeds": torch.zeros(3, 6, 32)},
        ValueError,
        r"TransformerDecoderModel: give exactly one of .*got both",
    ),
    (
        SEQ2SEQ,
        {"decoder_input_ids": None},
        ValueError,
        r"give `decoder_input_ids`, `decoder_inputs_embeds` or `labels`, got none of them\..*DataCollatorForSeq2Seq.*`label_smoothing` in the model config",
    ),
]
MASKS: list[Refusal] = [
    (
        (*ENCODER_INPUT, *DECODER_ALONE),
        {"attention_mask": torch.ones(3, 5)},
        ValueError,
        r"`attention_mask` must have the shape \(batch_size, length\) = \(3, 7\), got \(3, 5\)\. Pass 1 for tokens",
    ),
    (
        (*ENCODER_INPUT, *DECODER_ALONE),
        {"attention_mask": torch.ones(2, 7)},
        ValueError,
        r"`attention_mask` must have the shape .*= \(3, 7\), got \(2, 7\)",
    ),
    (
        (*ENCODER_INPUT, *DECODER_ALONE),
        {"attention_mask": torch.ones(7)},
        ValueError,
        r"`attention_mask` must have the shape .*got \(7,\)",
    ),
    (
        (*ENCODER_INPUT, *DECODER_ALONE),
        {"attention_mask": torch.ones(3, 7, 7)},
        ValueError,
        r"`attention_mask` must have the shape .*got \(3, 7, 7\)",
    ),
    (
        (*ENCODER_INPUT, *DECODER_ALONE),
        {"attention_mask": [[1] * 7] * 3},
        TypeError,
        r"`attention_mask` must be a tensor, got list\. Call the tokenizer",
    ),
    (
        (*ENCODER_INPUT, *DECODER_ALONE),
        {"attention_mask": torch.full((3, 7), -1e9)},
        ValueError,
        r"`attention_mask` of two dimensions must hold 1 .*got -1000000000\.0, .*Pass `\(mask >= 0\)`",
    ),
    (
        (*ENCODER_INPUT, *DECODER_ALONE),
        {"attention_mask": torch.ones(3, 1, 7, 9, dtype=torch.bool)},
        ValueError,
        r"`attention_mask` of four dimensions must fit .*= \(3, 1, 7, 7\), got \(3, 1, 7, 9\)\. Pass the kernel's own",
    ),
    (
        (*ENCODER_INPUT, *DECODER_ALONE),
        {"attention_mask": torch.ones(2, 1, 7, 7, dtype=torch.bool)},
        ValueError,
        r"`attention_mask` of four dimensions must fit .*got \(2, 1, 7, 7\)",
    ),
    (
        SEQ2SEQ,
        {"decoder_attention_mask": torch.ones(3, 5)},
        ValueError,
        r"TransformerDecoderModel: `attention_mask` must have the shape .*= \(3, 6\), got \(3, 5\)",
    ),
    (
        SEQ2SEQ,
        {"decoder_attention_mask": torch.ones(3, 1, 2, 6, dtype=torch.bool)},
        ValueError,
        r"`attention_mask` of four dimensions must fit .*= \(3, 1, 6, 6\), got \(3, 1, 2, 6\)",
    ),
]
POSITIONS: list[Refusal] = [
    (
        ALONE,
        {"position_ids": torch.arange(3)[None]},
        ValueError,
        r"`position_ids` must have the shape \(batch_size, length\) = \(3, 7\), got \(1, 3\)\. Leave them out",
    ),
    (ALONE, {"position_ids": torch.arange(7)}, ValueError, r"`position_ids` must have the shape .*got \(7,\)"),
    (
        ALONE,
        {"position_ids": torch.zeros(2, 7).long()},
        ValueError,
        r"`position_ids` must have the shape .*got \(2, 7\)",
    ),
    (
        ALONE,
        {"position_ids": torch.arange(7)[None] - 1},
        ValueError,
        r"`position_ids` must not be below 0, got -1\. Leave them out",
    ),
    (ALONE, {"position_ids": list(range(7))}, TypeError, r"`position_ids` must be a tensor, got list"),
    (
        SEQ2SEQ,
        {"decoder_position_ids": torch.arange(3)[None]},
        ValueError,
        r"`position_ids` must have the shape .*= \(3, 6\), got \(1, 3\)",
    ),
]
LABELS: list[Refusal] = [
    (
        ("causal", "seq2seq_lm"),
        {"labels": "above"},
        ValueError,
        r"`labels` must be -100 or lie in \[0, vocab_size=50\), got 50\. Check that",
    ),
    (
        ("causal", "seq2seq_lm"),
        {"labels": "below"},
        ValueError,
        r"`labels` must be -100 or lie in \[0, vocab_size=50\), got -1\. .*resize_token_embeddings",
    ),
    (
        ("causal",),
        {"labels": IDS[:, :3]},
        ValueError,
        r"`labels` must have the shape of the input, \(3, 7\), got \(3, 3\)\. Use -100",
    ),
    (("causal",), {"labels": IDS[0]}, ValueError, r"`labels` must have the shape of the input, \(3, 7\), got \(7,\)"),
    (
        ("causal",),
        {"shift_labels": IDS[:, :3]},
        ValueError,
        r"`shift_labels` must have the shape of the input, \(3, 7\), got \(3, 3\)",
    ),
    (
        ("seq2seq_lm",),
        {"labels": IDS[:, :3]},
        ValueError,
        r"`labels` and the decoder input must have the same shape, got \(3, 3\) and \(3, 6\)\. Shift",
    ),
    (
        ("seq2seq_lm",),
        {"labels": IDS[:2, :6]},
        ValueError,
        r"`labels` and the decoder input must have the same shape, got \(2, 6\) and \(3, 6\)",
    ),
    (
        ("seq2seq_lm",),
        {"labels": IDS[0], "decoder_input_ids": None},
        ValueError,
        r"`labels` must be of shape \(batch_size, length\) and torch\.int64, got \(7,\) and torch\.int64\. Pass what the collator",
    ),
    (
        ("causal", "seq2seq_lm"),
        {"labels": "float"},
        ValueError,
        r"`labels` must be of shape .* and torch\.int64, got \(3, \d\) and torch\.float32\. .*`labels\.long\(\)`",
    ),
    (
        ("causal", "seq2seq_lm"),
        {"logits_to_keep": -2},
        ValueError,
        r"`logits_to_keep` must be a number of last positions .*got -2\. Leave the sign out",
    ),
]
NAMES: list[Refusal] = [
    (
        SEQ2SEQ,
        {"atention_mask": torch.ones(3, 7)},
        TypeError,
        r"TransformerEncoderModel takes no `atention_mask`\. Leave it out, or correct the name",
    ),
    (
        SEQ2SEQ,
        {"pixel_values": torch.zeros(3, 3, 8, 8)},
        TypeError,
        r"TransformerEncoderModel takes no `pixel_values`\. Leave it out",
    ),
    (
        ("causal",),
        {"atention_mask": torch.ones(3, 7)},
        TypeError,
        r"`forward` takes no `atention_mask`\. Leave it out, or correct the name",
    ),
    (
        ("encoder", "decoder"),
        {"atention_mask": torch.ones(3, 7)},
        TypeError,
        r"unexpected keyword argument 'atention_mask'",
    ),
]
SOURCES: list[Refusal] = [
    (
        SEQ2SEQ,
        {"encoder_outputs": (torch.zeros(3, 7, 16),), "input_ids": None},
        ValueError,
        r"encoder states must have the shape \(batch_size, source_length, 32\), got \(3, 7, 16\)\. Pass the output of this",
    ),
    (
        SEQ2SEQ,
        {"encoder_outputs": torch.zeros(3, 7, 32), "input_ids": None},
        ValueError,
        r"encoder states must have the shape .*got \(7, 32\)",
    ),
    (
        SEQ2SEQ,
        {"encoder_outputs": (torch.zeros(3, 5, 32),), "input_ids": None},
        ValueError,
        r"`encoder_attention_mask` must have the shape .*= \(3, 5\), got \(3, 7\)",
    ),
    (
        SEQ2SEQ,
        {"encoder_outputs": (torch.zeros(2, 7, 32),), "input_ids": None, "attention_mask": None},
        ValueError,
        r"decoder and source must have the same number of rows, got 3 and 2\. Only `generate\(\)`|`decoder_input_ids` has 3 rows, the source has 2",
    ),
    (
        SEQ2SEQ,
        {"input_ids": IDS[:2], "attention_mask": None},
        ValueError,
        r"decoder and source must have the same number of rows, got 3 and 2|`decoder_input_ids` has 3 rows, the source has 2",
    ),
    (
        DECODER_ALONE,
        {"encoder_hidden_states": torch.zeros(3, 5, 32)},
        ValueError,
        r"`encoder_hidden_states` needs a decoder with cross-attention, got `add_cross_attention=False`\. Build it",
    ),
    (
        ("decoder_cross", "causal_cross"),
        {"encoder_hidden_states": None},
        ValueError,
        r"a decoder with `add_cross_attention=True` needs `encoder_hidden_states`, got None\. Pass them",
    ),
    (
        ("decoder_cross", "causal_cross"),
        {"encoder_hidden_states": torch.zeros(3, 5, 16)},
        ValueError,
        r"`encoder_hidden_states` must have the shape .*hidden_size=32\), got \(3, 5, 16\)\. Project them first",
    ),
    (
        ("decoder_cross", "causal_cross"),
        {"encoder_hidden_states": torch.zeros(3, 32)},
        ValueError,
        r"`encoder_hidden_states` must have the shape .*got \(3, 32\)",
    ),
    (
        ("decoder_cross", "causal_cross"),
        {"encoder_attention_mask": torch.ones(3, 9)},
        ValueError,
        r"`encoder_attention_mask` must have the shape .*= \(3, 5\), got \(3, 9\)",
    ),
    (
        ("decoder_cross", "causal_cross"),
        {"encoder_attention_mask": torch.ones(3, 1, 7, 9, dtype=torch.bool)},
        ValueError,
        r"`encoder_attention_mask` of four dimensions must fit .*got \(3, 1, 7, 9\)",
    ),
]
CACHES: list[Refusal] = [
    (
        (*SEQ2SEQ, *DECODER_ALONE),
        {"past_key_values": ((torch.zeros(3, 4, 2, 8),) * 2,) * 2},
        TypeError,
        r"`past_key_values` must be a cache of transformers, got tuple\. Pass what an earlier call returned",
    ),
]
TABLES = {
    "ids_and_embeddings": IDS_AND_EMBEDDINGS,
    "masks": MASKS,
    "positions": POSITIONS,
    "labels": LABELS,
    "names": NAMES,
    "sources": SOURCES,
    "caches": CACHES,
}
REFUSALS = [
    pytest.param(kind, changes, error, words, id=f"{table}-{row}-{kind}")
    for table, refusals in TABLES.items()
    for row, (kinds, changes, error, words) in enumerate(refusals)
    for kind in kinds
]


def wrong_labels(labels: torch.Tensor, how: str) -> torch.Tensor:
    if how == "float":
        return labels.float()
    wrong = labels.clone()
    wrong[0, 1] = 50 if how == "above" else -1
    return wrong


@pytest.mark.parametrize(("kind", "changes", "error", "words"), REFUSALS)
def test_refused(kind: str, changes: dict[str, Any], error: type[Exception], words: str) -> None:
    model, inputs = make_model(kind), make_inputs(kind, with_labels=kind in HEADS and "labels" in changes)
    if isinstance(changes.get("labels"), str):
        changes = {"labels": wrong_labels(inputs["labels"], changes["labels"])}
    inputs = {name: value for name, value in {**inputs, **changes}.items() if value is not None}
    for mode in (True, False):
        model.train(mode)
        if model.training and "logits_to_keep" in changes:
            inputs.pop("labels", None)
        with pytest.raises(error, match=words) as caught:
            model(**inputs)
        names = {module_class.__name__ for module_class in KINDS.values()} | {"TransformerEncoderModel"}
        assert any(str(caught.value).startswith(f"{name}") for name in names) or str(caught.value).startswith("`")


@pytest.mark.parametrize("kind", ["encoder", "decoder", "causal"])
def test_learned_positions_end(kind: str) -> None:
    model = make_model(kind, "learned")
    with pytest.raises(
        ValueError, match=r"learned positions reach `max_position_embeddings=64` tokens, got 65\. Truncate"
    ):
        model(input_ids=torch.full((1, 65), 3))
    words = r"`position_ids` must lie in \[0, max_position_embeddings=64\), got 64\. Leave them out"
    with pytest.raises(ValueError, match=words):
        model(input_ids=torch.full((1, 2), 3), position_ids=torch.tensor([[63, 64]]))


@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_sinusoidal_positions_do_not_end(kind: str) -> None:
    """The table grows by its formula, for long inputs and for positions that are given."""
    model = make_model(kind)
    assert model(input_ids=torch.full((1, 70), 3))[0].isfinite().all()
    far = torch.arange(100, 107)[None]
    with torch.no_grad():
        output = model(input_ids=IDS[:1], position_ids=far)[0]
        # The same positions from a model whose table holds them.
        wider = make_model(kind, "default", max_position_embeddings=128)
        torch.testing.assert_close(output, wider(input_ids=IDS[:1], position_ids=far)[0])


def test_learned_positions_end_in_a_cache_too() -> None:
    model = make_model("causal", "learned", max_position_embeddings=8)
    cache = model(input_ids=IDS).past_key_values
    cache = model(input_ids=IDS[:, :1], past_key_values=cache).past_key_values
    with pytest.raises(ValueError, match=r"learned positions reach `max_position_embeddings=8` tokens, got 9"):
        model(input_ids=IDS[:, :1], past_key_values=cache)


def test_a_mask_beside_a_cache_covers_both() -> None:
    model = make_model("causal")
    cache = model(input_ids=IDS).past_key_values
    words = r"= \(3, 8\) \(cached tokens included: 7\), got \(3, 1\)\. Pass 1 for tokens"
    with pytest.raises(ValueError, match=words):
        model(input_ids=IDS[:, :1], attention_mask=torch.ones(3, 1), past_key_values=cache)


def test_a_cache_of_another_model() -> None:
    cache = make_model("causal", "default", num_hidden_layers=3)(input_ids=IDS).past_key_values
    words = r"`past_key_values` must have one layer for each of the decoder's 2, got 3\. Pass the cache of this model"
    with pytest.raises(ValueError, match=words):
        make_model("causal")(input_ids=IDS[:, :1], past_key_values=cache)
    cache = make_model("causal")(input_ids=IDS[:2]).past_key_values
    words = r"`past_key_values` must hold \(rows, key heads, head width\) = \(3, 4, 8\), got \(2, 4, 8\)"
    with pytest.raises(ValueError, match=words):
        make_model("causal")(input_ids=IDS[:, :1], past_key_values=cache)


def test_a_cache_of_another_source() -> None:
    model, inputs = make_model("seq2seq_lm"), make_inputs("seq2seq_lm")
    cache = model(**inputs).past_key_values
    inputs = {name: value[:, :5] for name, value in inputs.items()}
    words = r"source of this call has \(rows, tokens\) = \(3, 5\), the cross-attention cache in `past_key_values` has \(3, 7\)"
    with pytest.raises(ValueError, match=words):
        model(**inputs, past_key_values=cache)


def test_an_empty_cache_of_a_plain_kind_is_taken() -> None:
    """Cross-attention is then computed anew at each call; nothing is refused that works."""
    model, inputs = make_model("seq2seq_lm"), make_inputs("seq2seq_lm")
    expected = model(**inputs).logits
    torch.testing.assert_close(model(**inputs, past_key_values=DynamicCache()).logits, expected)


def test_missing_start_token_when_labels_are_shifted() -> None:
    model, inputs = make_model("seq2seq_lm"), make_inputs("seq2seq_lm", with_labels=True)
    del inputs["decoder_input_ids"]
    model.config.bos_token_id = model.config.pad_token_id = None
    with pytest.raises(
        ValueError, match=r"`decoder_start_token_id` must be set to shift labels, got None\. Set it in"
    ):
        model(**inputs)

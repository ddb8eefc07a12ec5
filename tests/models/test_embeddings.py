"""Token embeddings: get, set, resize; with every tying and on either side."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hf_custom_decoder import CustomSeq2SeqForConditionalGeneration, CustomSeq2SeqModel
from tests.factories import VOCAB_SIZE
from tests.models.model_cases import (
    COVERING_CASES,
    HEADS,
    KIND_CASES,
    KINDS,
    SOURCE_VOCAB_SIZE,
    make_inputs,
    make_model,
    over,
    run,
)

TYINGS: dict[str, dict[str, bool]] = {
    "none": {"tie_word_embeddings": False},
    "decoder": {"tie_word_embeddings": True},
    "all": {"tie_word_embeddings": True, "tie_encoder_decoder_embeddings": True},
    "sides_only": {"tie_word_embeddings": False, "tie_encoder_decoder_embeddings": True},
}

SEQ2SEQ_TYINGS = pytest.mark.parametrize("tying", TYINGS)


def sizes(model: CustomSeq2SeqForConditionalGeneration) -> tuple[int, int, int]:
    """Rows of encoder embedding, decoder embedding and vocabulary projection; the configs must say the same."""
    encoder, decoder = model.get_encoder(), model.get_decoder()
    rows = (
        encoder.get_input_embeddings().weight.shape[0],
        decoder.get_input_embeddings().weight.shape[0],
        model.lm_head.weight.shape[0],
    )
    assert encoder.config.vocab_size == model.config.encoder.vocab_size == rows[0]
    assert encoder.get_input_embeddings().num_embeddings == rows[0]
    assert decoder.config.vocab_size == model.config.decoder.vocab_size == model.config.vocab_size == rows[1]
    assert decoder.get_input_embeddings().num_embeddings == rows[1]
    assert model.lm_head.out_features == rows[2]
    assert model.lm_head.bias is None or model.lm_head.bias.shape[0] == rows[2]
    return rows


def assert_works(model: CustomSeq2SeqForConditionalGeneration, tmp_path: Path) -> None:
    """Loss with gradients, generate with the last ids on both sides, and a reload that changes nothing."""
    source, target = model.config.encoder.vocab_size, model.config.vocab_size
    inputs = {
        "input_ids": torch.tensor([[3, source - 1, 4], [5, 3, source - 1]]),
        "labels": torch.tensor([[target - 1, 4], [5, target - 1]]),
    }
    model.train()(**inputs).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.zero_grad()
    model.eval().generate(inputs["input_ids"], max_length=4, num_beams=2)
    assert run(model, **inputs).shape == (2, 2, target)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert sizes(loaded) == sizes(model)
    assert torch.equal(run(loaded, **inputs), run(model, **inputs))


@over(COVERING_CASES)
def test_get_and_set(kind: str, variant: str) -> None:
    model = make_model(kind, variant)
    assert isinstance(model.get_input_embeddings(), nn.Embedding)
    assert isinstance(model.get_output_embeddings(), nn.Linear if kind in HEADS else type(None))
    fresh = nn.Embedding(10, 10)
    model.set_input_embeddings(fresh)
    assert model.get_input_embeddings() is fresh
    if kind in HEADS:
        head = nn.Linear(10, 10)
        model.set_output_embeddings(head)
        assert model.get_output_embeddings() is head


def test_set_with_all_tied_sets_both_sides() -> None:
    model = make_model("seq2seq_lm", **TYINGS["all"])
    fresh = nn.Embedding(VOCAB_SIZE, 32)
    model.set_input_embeddings(fresh)
    assert model.get_encoder().get_input_embeddings() is fresh
    assert model.get_decoder().get_input_embeddings() is fresh


@pytest.mark.parametrize("kind", ["encoder", "decoder", "causal", "seq2seq", "seq2seq_lm"])
@pytest.mark.parametrize("variant", ["default", "lm_head_bias"])
@pytest.mark.parametrize("tied", [True, False])
def test_resize(kind: str, variant: str, tied: bool) -> None:
    """Grow, shrink, pad to a multiple; old rows stay, new ones lie around their mean, the model still runs."""
    fields: dict[str, Any] = {"tie_word_embeddings": tied} if kind != "encoder" else {}
    model, inputs = make_model(kind, variant, **fields), make_inputs(kind, with_padding=False)
    old = model.resize_token_embeddings(VOCAB_SIZE).weight.clone()
    before = run(model, **inputs)

    grown = model.resize_token_embeddings(VOCAB_SIZE + 10)
    assert type(grown) is type(make_model(kind).get_input_embeddings())
    assert grown.weight.shape[0] == grown.num_embeddings == model.config.vocab_size == VOCAB_SIZE + 10
    assert torch.equal(grown.weight[:VOCAB_SIZE], old)
    torch.testing.assert_close(grown.weight[VOCAB_SIZE:].mean(0), old.mean(0), rtol=1e-2, atol=1e-2)
    after = run(model, **inputs)
    torch.testing.assert_close(after[..., : before.shape[-1]], before)
    ids = {name: value.clone() for name, value in inputs.items()}
    for name in ("input_ids", "decoder_input_ids"):
        if name in ids:
            ids[name][:, -2] = VOCAB_SIZE + 9
    assert run(model, **ids).isfinite().all()
    if kind in HEADS:
        head = model.get_output_embeddings()
        assert (head.weight is model.get_decoder().get_input_embeddings().weight) == tied
        assert torch.equal(head.weight[:VOCAB_SIZE], make_model(kind, variant, **fields).lm_head.weight)
        torch.testing.assert_close(
            head.weight[VOCAB_SIZE:].mean(0), head.weight[:VOCAB_SIZE].mean(0), rtol=1e-2, atol=1e-2
        )
        assert head.out_features == VOCAB_SIZE + 10
        if variant == "lm_head_bias":  # transformers starts new biases of a tied projection at zero
            expected = torch.zeros(()) if tied else head.bias[:VOCAB_SIZE].mean()
            torch.testing.assert_close(head.bias[VOCAB_SIZE:].mean(), expected, rtol=1e-4, atol=1e-4)

    shrunk = model.resize_token_embeddings(SOURCE_VOCAB_SIZE)
    assert shrunk.weight.shape[0] == model.config.vocab_size == SOURCE_VOCAB_SIZE
    assert torch.equal(shrunk.weight, old[:SOURCE_VOCAB_SIZE])
    inputs = {name: value.clamp(max=SOURCE_VOCAB_SIZE - 1) for name, value in inputs.items()}
    assert run(model, **inputs).isfinite().all()

    assert model.resize_token_embeddings(SOURCE_VOCAB_SIZE + 1, pad_to_multiple_of=16).weight.shape[0] == 48
    assert model.config.vocab_size == 48
    assert model.resize_token_embeddings(pad_to_multiple_of=20).weight.shape[0] == 60
    assert model.resize_token_embeddings(64, pad_to_multiple_of=64).weight.shape[0] == 64
    with pytest.raises(ValueError, match="multiple of `1.3`, which is not and integer"):
        model.resize_token_embeddings(64, pad_to_multiple_of=1.3)


@pytest.mark.parametrize("kind", ["causal", "seq2seq_lm"])
def test_resize_of_a_vocabulary_below_the_width(kind: str) -> None:
    """The mean and covariance of few rows must still give finite new ones."""
    fields = {"vocab_size": 4, "pad_token_id": 3, "eos_token_id": 2}
    arguments = {"encoder": fields, "decoder": fields} if kind == "seq2seq_lm" else fields
    model = make_model(kind, "default", **arguments)
    old = model.get_input_embeddings().weight.clone()
    grown = model.resize_token_embeddings(14)
    assert torch.equal(grown.weight[:4], old)
    torch.testing.assert_close(grown.weight[4:].mean(0), old.mean(0), rtol=1e-3, atol=1e-3)


@SEQ2SEQ_TYINGS
@pytest.mark.parametrize("variant", ["default", "lm_head_bias"])
@pytest.mark.parametrize("size", [VOCAB_SIZE + 14, VOCAB_SIZE - 6])
def test_resize_both_sides_with_every_tying(tying: str, variant: str, size: int, tmp_path: Path) -> None:
    model = make_model("seq2seq_lm", variant, **TYINGS[tying])
    reference = copy.deepcopy(model)
    returned = model.resize_token_embeddings(size)
    assert returned is model.get_encoder().get_input_embeddings()
    assert sizes(model) == (size, size, size)
    head, source, target = (
        model.lm_head.weight,
        model.get_encoder().get_input_embeddings().weight,
        model.get_decoder().get_input_embeddings().weight,
    )
    assert (head is target) == TYINGS[tying]["tie_word_embeddings"]
    assert (source is target) == TYINGS[tying].get("tie_encoder_decoder_embeddings", False)
    kept = min(size, VOCAB_SIZE)
    for ours, theirs in (
        (head, reference.lm_head.weight),
        (source, reference.get_encoder().get_input_embeddings().weight),
        (target, reference.get_decoder().get_input_embeddings().weight),
    ):
        assert torch.equal(ours[:kept], theirs[:kept])
    if variant == "lm_head_bias":
        assert torch.equal(model.lm_head.bias[:kept], reference.lm_head.bias[:kept])
    assert_works(model, tmp_path)


def test_resize_of_tied_sides_keeps_what_is_their_own() -> None:
    """One weight, but each side scales it (or not) and pads it as its config says."""
    model = make_model("seq2seq_lm", encoder={"scale_embeddings": True}, **TYINGS["all"])
    inputs = make_inputs("seq2seq_lm")
    before = run(model, **inputs)
    model.resize_token_embeddings(VOCAB_SIZE + 6)
    assert model.get_encoder().get_input_embeddings().scale != model.get_decoder().get_input_embeddings().scale
    torch.testing.assert_close(run(model, **inputs)[..., :VOCAB_SIZE], before)


@pytest.mark.parametrize("kind", ["seq2seq_lm", "seq2seq_bridge"])
@pytest.mark.parametrize("tied", [True, False])
def test_resize_one_side(kind: str, tied: bool, tmp_path: Path) -> None:
    model = make_model(kind, "default", tie_word_embeddings=tied)
    source = SOURCE_VOCAB_SIZE if kind == "seq2seq_bridge" else VOCAB_SIZE
    assert model.resize_token_embeddings(77, side="decoder") is model.get_decoder().get_input_embeddings()
    assert sizes(model) == (source, 77, 77)
    assert model.resize_token_embeddings(66, side="encoder") is model.get_encoder().get_input_embeddings()
    assert sizes(model) == (66, 77, 77)
    assert model.resize_token_embeddings(side="encoder").weight.shape[0] == 66
    assert model.resize_token_embeddings(side="decoder", pad_to_multiple_of=8).weight.shape[0] == 80
    assert sizes(model) == (66, 80, 80)
    assert_works(model, tmp_path)
    model.resize_token_embeddings(60, side="both")
    assert sizes(model) == (60, 60, 60)


def test_resize_of_the_base_model(tmp_path: Path) -> None:
    """The class without a head resizes both sides too, or the one that it is told."""
    model = make_model("seq2seq")
    model.resize_token_embeddings(64)
    encoder, decoder = model.get_encoder(), model.get_decoder()
    assert encoder.get_input_embeddings().weight.shape[0] == encoder.config.vocab_size == 64
    assert decoder.get_input_embeddings().weight.shape[0] == decoder.config.vocab_size == 64
    model.resize_token_embeddings(70, side="decoder")
    assert encoder.get_input_embeddings().weight.shape[0] == encoder.config.vocab_size == 64
    assert decoder.get_input_embeddings().weight.shape[0] == model.config.vocab_size == 70
    inputs = {"input_ids": torch.tensor([[63, 3]]), "decoder_input_ids": torch.tensor([[69, 3]])}
    expected = run(model, **inputs)
    model.save_pretrained(tmp_path)
    assert torch.equal(run(CustomSeq2SeqModel.from_pretrained(tmp_path), **inputs), expected)


def test_resized_head_is_not_drawn_again() -> None:
    for kind in ("causal", "seq2seq_lm"):
        fields = {"tie_word_embeddings": False}
        model = make_model(kind, "lm_head_bias", **fields)
        model.resize_token_embeddings(VOCAB_SIZE + 10)
        weight, bias = model.lm_head.weight.clone(), model.lm_head.bias.clone()
        model.post_init()
        assert torch.equal(model.lm_head.weight, weight)
        assert torch.equal(model.lm_head.bias, bias)


def test_resize_keeps_frozen_rows_frozen() -> None:
    model = make_model("seq2seq_lm", tie_word_embeddings=False)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.resize_token_embeddings(VOCAB_SIZE + 3)
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("kind", "arguments", "kwargs", "words"),
    [
        (
            "seq2seq_lm",
            {},
            {"side": "source"},
            r"`side` must be one of \['both', 'encoder', 'decoder'\], got 'source'",
        ),
        ("seq2seq_bridge", {}, {}, r"`side` is needed .*encoder 40, decoder 50.*got None\. Pass one of"),
        ("seq2seq_lm", TYINGS["all"], {"side": "decoder"}, r"`side` must be 'both' with .*, got 'decoder'"),
        ("seq2seq_lm", TYINGS["all"], {"side": "encoder"}, r"`side` must be 'both' with .*, got 'encoder'"),
    ],
)
def test_refused_sides(kind: str, arguments: dict[str, Any], kwargs: dict[str, Any], words: str) -> None:
    model = make_model(kind, "default", **arguments)
    before = sizes(model)
    with pytest.raises(ValueError, match=words):
        model.resize_token_embeddings(60, **kwargs)
    assert sizes(model) == before


@over(KIND_CASES)
def test_inputs_can_be_made_to_require_gradients(kind: str, variant: str) -> None:
    """`enable_input_require_grads`: adapters over frozen weights under gradient checkpointing need it."""
    model = make_model(kind, variant).train()
    model.requires_grad_(False)
    model.enable_input_require_grads()
    assert next(iter(model(**make_inputs(kind)).values())).requires_grad
    model.disable_input_require_grads()
    assert not next(iter(model(**make_inputs(kind)).values())).requires_grad
    assert KINDS[kind] is type(model)

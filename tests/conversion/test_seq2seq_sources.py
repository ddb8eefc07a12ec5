"""`convert_bart` and `convert_marian`: configs, generation configs, folders, refusals. Outputs: `tests/parity`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    BartModel,
    GenerationConfig,
    MarianConfig,
    MarianMTModel,
    PreTrainedModel,
)

from hf_custom_decoder.conversion import bart_config, convert_bart, convert_marian, marian_config

SHAPE: dict[str, Any] = {
    "vocab_size": 30,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 18,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
BART: dict[str, Any] = {**SHAPE, "bos_token_id": 1, "decoder_start_token_id": 2}
MARIAN: dict[str, Any] = {**SHAPE, "decoder_start_token_id": 0, "forced_eos_token_id": 2}


def tiny_bart(**kwargs: Any) -> BartForConditionalGeneration:
    return BartForConditionalGeneration(BartConfig(**{**BART, **kwargs}))


def tiny_marian(**kwargs: Any) -> MarianMTModel:
    return MarianMTModel(MarianConfig(**{**MARIAN, **kwargs}))


SOURCES = {"bart": (tiny_bart, convert_bart), "marian": (tiny_marian, convert_marian)}
Build = Callable[..., PreTrainedModel]


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> tuple[Build, Build]:
    """How a tiny source model is built and how it is converted."""
    return SOURCES[request.param]


def test_config_of_bart() -> None:
    theirs = BartConfig(**BART, dropout=0.2, attention_dropout=0.3, activation_dropout=0.4, init_std=0.05)
    config = bart_config(theirs)
    for side in ("encoder", "decoder"):
        part = getattr(config, side)
        assert part.num_hidden_layers == getattr(theirs, f"{side}_layers")
        assert part.num_attention_heads == getattr(theirs, f"{side}_attention_heads")
        assert part.intermediate_size == getattr(theirs, f"{side}_ffn_dim")
        assert (part.vocab_size, part.hidden_size, part.max_position_embeddings) == (30, 16, 18)
        assert (part.norm_position, part.has_final_norm, part.embedding_norm) == ("post", False, True)
        assert (part.position_type, part.hidden_act) == ("learned", "gelu")
        assert (part.dropout, part.attention_dropout, part.activation_dropout) == (0.2, 0.3, 0.4)
        assert part.initializer_range == 0.05
        assert (part.pad_token_id, part.bos_token_id, part.eos_token_id) == (0, 1, 2)
    assert config.decoder_start_token_id == 2
    assert config.tie_word_embeddings
    assert config.tie_encoder_decoder_embeddings


def test_config_of_marian() -> None:
    config = marian_config(MarianConfig(**MARIAN, activation_function="swish", scale_embedding=True))
    assert (config.encoder.position_type, config.decoder.position_type) == ("sinusoidal", "sinusoidal")
    assert (config.decoder.hidden_act, config.decoder.scale_embeddings) == ("swish", True)
    assert config.decoder.lm_head_bias
    assert not config.decoder.embedding_norm
    assert config.start_token_id == config.pad_token_id == 0
    assert config.tie_encoder_decoder_embeddings
    two = marian_config(MarianConfig(**MARIAN, decoder_vocab_size=25, share_encoder_decoder_embeddings=False))
    assert (two.encoder.vocab_size, two.decoder.vocab_size) == (30, 25)
    assert not two.tie_encoder_decoder_embeddings


def test_the_ties_are_those_of_the_source() -> None:
    tied = convert_bart(tiny_bart())
    shared = tied.model.decoder.embed_tokens.weight
    assert tied.model.encoder.embed_tokens.weight is shared
    assert tied.lm_head.weight is shared
    untied = convert_bart(tiny_bart(tie_word_embeddings=False))
    shared = untied.model.decoder.embed_tokens.weight
    assert untied.model.encoder.embed_tokens.weight is not shared
    assert untied.lm_head.weight is not shared


def test_a_logits_bias_of_zeros_is_left_out_of_bart() -> None:
    theirs = tiny_bart()
    assert convert_bart(theirs).lm_head.bias is None
    theirs.final_logits_bias[0, 3] = 1.0
    model = convert_bart(theirs)
    assert model.config.decoder.lm_head_bias
    assert torch.equal(model.lm_head.bias, theirs.final_logits_bias[0])


def test_the_copy_is_the_callers_own(source: tuple[Build, Build]) -> None:
    build, convert = source
    theirs = build().train()
    model = convert(theirs)
    assert not model.training
    assert theirs.training
    before = theirs.model.decoder.embed_tokens.weight.clone()
    with torch.no_grad():
        model.model.decoder.embed_tokens.weight.zero_()
    assert torch.equal(theirs.model.decoder.embed_tokens.weight, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_is_that_of_the_source(source: tuple[Build, Build], dtype: torch.dtype) -> None:
    build, convert = source
    model = convert(build().to(dtype))
    assert model.dtype == dtype
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_generation_config_is_carried(source: tuple[Build, Build]) -> None:
    build, convert = source
    theirs = build()
    theirs.generation_config = GenerationConfig(
        bad_words_ids=[[0]],
        bos_token_id=1,
        decoder_start_token_id=2,
        early_stopping=True,
        eos_token_id=2,
        forced_bos_token_id=1,
        forced_eos_token_id=2,
        length_penalty=2.0,
        max_length=14,
        min_length=3,
        no_repeat_ngram_size=3,
        num_beams=4,
        pad_token_id=0,
    )
    model = convert(theirs)
    assert model.generation_config is not theirs.generation_config
    assert model.generation_config.to_dict() == theirs.generation_config.to_dict()


def test_generation_is_not_cut_where_the_source_has_no_length_rule(source: tuple[Build, Build]) -> None:
    build, convert = source
    assert convert(build()).generation_config.max_length == 18
    theirs = build()
    theirs.generation_config.max_new_tokens = 7
    assert convert(theirs).generation_config.max_new_tokens == 7
    assert convert(theirs).generation_config.max_length is None


def test_from_a_folder_and_back(source: tuple[Build, Build], tmp_path: Path) -> None:
    build, convert = source
    theirs = build().eval()
    theirs.save_pretrained(tmp_path / "theirs")
    inputs = {"input_ids": torch.tensor([[4, 5, 6, 2]]), "decoder_input_ids": torch.tensor([[2, 7, 8]])}
    expected = theirs(**inputs).logits
    model = convert(tmp_path / "theirs", dtype=torch.float32)
    torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path / "ours")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours")
    assert type(loaded) is type(model)
    torch.testing.assert_close(loaded(**inputs).logits, expected, atol=1e-5, rtol=0)
    assert loaded.generation_config.forced_eos_token_id == 2


def test_layerdrop_is_dropped_with_a_warning(source: tuple[Build, Build], caplog: pytest.LogCaptureFixture) -> None:
    build, convert = source
    with caplog.at_level("WARNING"):
        convert(build())
        assert not caplog.records
        convert(build(encoder_layerdrop=0.3))
    assert "Layerdrop has no counterpart and is dropped: {'encoder_layerdrop': 0.3}" in caplog.text


def test_another_kind_of_source_is_refused(source: tuple[Build, Build], tmp_path: Path) -> None:
    _, convert = source
    name = convert.__name__
    with pytest.raises(TypeError, match=f"{name}: `model_or_folder` must be a .*, a name or a folder, got BartModel"):
        convert(BartModel(BartConfig(**BART)))
    with pytest.raises(TypeError, match="keywords are for `from_pretrained`, got \\['revision'\\] beside a model"):
        convert(SOURCES["bart" if convert is convert_bart else "marian"][0](), revision="main")
    other = tiny_marian() if convert is convert_bart else tiny_bart()
    other.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=f"`model_type` must be .*, got '{other.config.model_type}' in .* Use the function"
    ):
        convert(tmp_path)


def test_an_unknown_activation_is_refused() -> None:
    theirs = BartConfig(**BART)
    theirs.activation_function = "sine"
    with pytest.raises(ValueError, match="`hidden_act` must be one of .*, got 'sine'"):
        bart_config(theirs)


def test_adapters_and_heads_are_refused() -> None:
    theirs = tiny_bart()
    theirs.model.encoder.layers[0].adapter = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"got one named 'model.encoder.layers.0.adapter.weight' that has none"):
        convert_bart(theirs)


def test_weights_that_the_config_does_not_describe_are_refused() -> None:
    theirs = tiny_bart()
    theirs.config.decoder_ffn_dim = 23
    with pytest.raises(ValueError, match=r"`model.decoder.layers.0.mlp.fc1.weight` must have the shape \(23, 16\)"):
        convert_bart(theirs)
    theirs.config.decoder_ffn_dim, theirs.config.decoder_layers = 24, 3
    with pytest.raises(ValueError, match=r"got none for \['model.decoder.layers.2"):
        convert_bart(theirs)
    theirs.config.decoder_layers = 2
    theirs.lm_head.weight = torch.nn.Parameter(torch.randn(30, 16))
    with pytest.raises(ValueError, match="must equal the one that the config ties it to"):
        convert_bart(theirs)

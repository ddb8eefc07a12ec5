"""Configs: one truth for every value, under every name, through every way in and out."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, BartConfig, BertConfig, PreTrainedConfig
from transformers.utils import logging

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from hf_custom_decoder.models.configuration_custom_seq2seq import GENERIC_NAMES
from hf_custom_decoder.models.presets_custom_seq2seq import PRESETS, RECURRENT_PRESETS
from tests.factories import SIZES, tiny_config
from tests.models.model_cases import (
    ALL_CASES,
    COVERING_CASES,
    HEADS,
    KIND_CASES,
    KINDS,
    make_config,
    make_inputs,
    make_model,
    over,
    run,
)

GENERIC_VALUES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 99,
    "pad_token_id": 5,
    "bos_token_id": 6,
    "eos_token_id": [7, 8],
    "use_cache": False,
}
# BART's name -> (side, field)
BART_NAMES = {
    "d_model": ("decoder", "hidden_size"),
    "encoder_layers": ("encoder", "num_hidden_layers"),
    "decoder_layers": ("decoder", "num_hidden_layers"),
    "encoder_attention_heads": ("encoder", "num_attention_heads"),
    "decoder_attention_heads": ("decoder", "num_attention_heads"),
    "encoder_ffn_dim": ("encoder", "intermediate_size"),
    "decoder_ffn_dim": ("decoder", "intermediate_size"),
}
BART_VALUES = {name: 16 if name == "d_model" else 8 if name.endswith("heads") else 3 for name in BART_NAMES}


def plain(config: PreTrainedConfig) -> dict[str, Any]:
    """A config as a dict, without what saving and loading note: version, code, folder."""
    content = config.to_dict()
    for part in (content, content.get("encoder"), content.get("decoder")):
        if isinstance(part, dict):
            for name in ("transformers_version", "auto_map", "_name_or_path"):
                part.pop(name, None)
    return content


def test_the_table_of_generic_names_is_whole() -> None:
    assert set(GENERIC_VALUES) == set(GENERIC_NAMES)
    for name in GENERIC_NAMES:
        assert hasattr(BartConfig(), name)


@pytest.mark.parametrize("name", GENERIC_NAMES)
def test_generic_names_read_and_write_through(name: str) -> None:
    config, value = tiny_config(), GENERIC_VALUES[name]
    assert getattr(config, name) == getattr(config.decoder, name)
    setattr(config, name, value)
    assert getattr(config.decoder, name) == value
    setattr(config.decoder, name, 2)
    assert getattr(config, name) == 2
    encoder = tiny_config().encoder
    assert getattr(config.encoder, name, None) == getattr(encoder, name, None)  # the other side is left alone
    assert name not in vars(config)


@pytest.mark.parametrize("name", GENERIC_NAMES)
def test_generic_names_in_the_constructor_and_in_dicts(name: str) -> None:
    value = GENERIC_VALUES[name]
    others = {"num_attention_heads": 4} if name == "hidden_size" else {"hidden_size": 48}
    config = CustomSeq2SeqConfig(**{**others, name: value})
    assert getattr(config.decoder, name) == value
    assert config.to_dict()[name] == value
    assert name not in config.to_diff_dict()
    assert getattr(CustomSeq2SeqConfig.from_dict(config.to_dict()), name) == value
    assert getattr(CustomSeq2SeqConfig(**config.to_dict()), name) == value


def test_no_second_truth_after_a_reload(tmp_path: Path) -> None:
    config = tiny_config()
    for name, value in GENERIC_VALUES.items():
        setattr(config, name, value)
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert not set(written) & set(GENERIC_NAMES)
    loaded = AutoConfig.from_pretrained(tmp_path)
    for name, value in GENERIC_VALUES.items():
        assert getattr(loaded, name) == getattr(loaded.decoder, name) == value
        setattr(loaded, name, 1)
        assert getattr(loaded.decoder, name) == 1
    # What another tool has written beside the decoder is passed over: the decoder is the truth.
    (tmp_path / "config.json").write_text(json.dumps({**written, "vocab_size": 1234}))
    assert AutoConfig.from_pretrained(tmp_path).vocab_size == 61


def test_overriding_while_loading(tmp_path: Path) -> None:
    config = tiny_config(encoder={"vocab_size": 40})
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path, vocab_size=77, label_smoothing=0.2)
    assert (loaded.vocab_size, loaded.decoder.vocab_size, loaded.encoder.vocab_size) == (77, 77, 40)
    assert loaded.label_smoothing == 0.2
    loaded = AutoConfig.from_pretrained(tmp_path, decoder={"vocab_size": 20})
    expected = plain(config)["decoder"]
    assert {**plain(loaded)["decoder"], "vocab_size": 50} == {**expected, "vocab_size": 50}
    assert loaded.vocab_size == 20
    _, unused = AutoConfig.from_pretrained(tmp_path, return_unused_kwargs=True, something_else=1)
    assert unused == {"something_else": 1}


def test_use_cache_is_honoured(tmp_path: Path) -> None:
    """Set on a live config, passed while loading, and true where a decoder of one's own has no such field."""
    model, inputs = make_model("seq2seq_lm"), make_inputs("seq2seq_lm")
    assert model(**inputs).past_key_values is not None
    model.save_pretrained(tmp_path)
    model.config.use_cache = False
    assert model(**inputs).past_key_values is None
    loaded = CustomSeq2SeqForConditionalGeneration.from_pretrained(tmp_path, use_cache=False)
    assert loaded(**inputs).past_key_values is None
    assert not loaded.generation_config.use_cache
    config = tiny_config()
    config.decoder = PreTrainedConfig()
    assert config.use_cache


@pytest.mark.parametrize("name", BART_NAMES)
def test_bart_names_of_the_whole(name: str) -> None:
    side, field = BART_NAMES[name]
    config, value = tiny_config(), BART_VALUES[name]
    assert getattr(config, name) == getattr(getattr(config, side), field)
    setattr(config, name, value)
    assert getattr(getattr(config, side), field) == value
    assert getattr(CustomSeq2SeqConfig(**{name: value}), name) == value
    assert getattr(CustomSeq2SeqConfig.from_dict(config.to_dict()), name) == value


@pytest.mark.parametrize(
    ("config_class", "names"),
    [
        (TransformerEncoderConfig, ["d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim"]),
        (TransformerDecoderConfig, ["d_model", "decoder_layers", "decoder_attention_heads", "decoder_ffn_dim"]),
    ],
)
def test_bart_names_of_a_part(config_class: type[PreTrainedConfig], names: list[str], tmp_path: Path) -> None:
    generic = ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
    others = {"activation_function": "relu", "init_std": 0.5, "scale_embedding": True}
    config = config_class(**dict(zip(names, [24, 3, 6, 7], strict=True)), **others)
    assert [getattr(config, name) for name in generic] == [24, 3, 6, 7]
    assert (config.hidden_act, config.initializer_range, config.scale_embeddings) == ("relu", 0.5, True)
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert not set(written) & {*names, *others}
    assert [getattr(AutoConfig.from_pretrained(tmp_path), name) for name in names] == [24, 3, 6, 7]


def test_sizes_of_a_foreign_encoder() -> None:
    config = tiny_config()
    config = CustomSeq2SeqConfig(encoder=BertConfig(num_hidden_layers=4), decoder=config.decoder)
    assert (config.encoder_layers, config.encoder_attention_heads, config.encoder_ffn_dim) == (4, 12, 3072)
    bart = CustomSeq2SeqConfig(encoder=BartConfig(encoder_layers=3, decoder_layers=9), decoder=config.decoder)
    assert bart.encoder_layers == 3


@over(ALL_CASES)
def test_save_and_reload(kind: str, variant: str, tmp_path: Path) -> None:
    config = make_config(kind, variant)
    config.save_pretrained(tmp_path / "folder")
    for loaded in (
        AutoConfig.from_pretrained(tmp_path / "folder"),
        type(config).from_pretrained(tmp_path / "folder"),
        type(config).from_pretrained(tmp_path, subfolder="folder"),
        type(config).from_dict(config.to_dict()),
        type(config).from_dict(config.to_diff_dict()),
        type(config)(**config.to_dict()),
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
    ):
        assert type(loaded) is type(config)
        assert plain(loaded) == plain(config)
    config.to_json_file(tmp_path / "file.json")
    assert plain(type(config).from_json_file(tmp_path / "file.json")) == plain(config)
    assert json.loads(config.to_json_string())["model_type"] == config.model_type
    assert type(config).__name__ in repr(config)


def test_parts_can_be_loaded_from_the_whole(tmp_path: Path) -> None:
    config = tiny_config("rotary", encoder={"vocab_size": 40})
    config.save_pretrained(tmp_path)
    for part_class, part in ((TransformerEncoderConfig, config.encoder), (TransformerDecoderConfig, config.decoder)):
        loaded = part_class.from_pretrained(tmp_path)
        assert plain(loaded) == plain(part)


@pytest.mark.parametrize("config_class", [TransformerEncoderConfig, TransformerDecoderConfig, CustomSeq2SeqConfig])
def test_defaults_need_no_argument_and_no_warning(
    config_class: type[PreTrainedConfig], caplog: pytest.LogCaptureFixture
) -> None:
    logging.enable_propagation()
    try:
        config = config_class()
    finally:
        logging.disable_propagation()
    assert not caplog.records
    assert config.vocab_size == 32000
    assert len(config_class(num_labels=5).id2label) == 5
    config = config_class(output_hidden_states=True, dtype="float16", return_dict=False)
    assert config.output_hidden_states
    assert not config.return_dict


@over(COVERING_CASES)
def test_a_changed_config_builds_a_changed_model(kind: str, variant: str) -> None:
    """Nothing is remembered from the constructor: sizes set later are the sizes that are built."""
    config = make_config(kind, variant)
    config.hidden_size, config.num_attention_heads = 16, 2
    for part in [config] if not kind.startswith("seq2seq") else [config.decoder]:
        if part.head_dim is None and part.num_key_value_heads is not None:
            part.num_key_value_heads = 1
        assert part.hidden_size == 16
        assert part.attention_head_dim == (part.head_dim or 8)


def test_resolved_properties() -> None:
    config = TransformerDecoderConfig(hidden_size=32, num_attention_heads=4)
    assert (config.key_value_heads, config.attention_head_dim, config.has_final_norm) == (4, 8, True)
    assert config.layer_types == ["full_attention"] * 6
    config = TransformerDecoderConfig(
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        norm_position="post",
        num_hidden_layers=2,
        mixer_types=["full_attention", "sliding_attention"],
        sliding_window=4,
    )
    assert (config.key_value_heads, config.attention_head_dim, config.has_final_norm) == (2, 6, False)
    assert config.layer_types == ["full_attention", "sliding_attention"]


def test_parts_are_used_as_they_are() -> None:
    """A resize or a changed kernel must be seen by both, so parts are never copied."""
    encoder, decoder = TransformerEncoderConfig(**SIZES), TransformerDecoderConfig(**SIZES)
    config = CustomSeq2SeqConfig(encoder=encoder, decoder=decoder)
    assert config.encoder is encoder
    assert config.decoder is decoder
    assert decoder.add_cross_attention
    assert config.get_text_config(decoder=True) is decoder


def test_parts_as_dicts() -> None:
    config = CustomSeq2SeqConfig(encoder={**SIZES, "position_type": "rotary"}, decoder=dict(SIZES))
    assert type(config.encoder) is TransformerEncoderConfig
    assert type(config.decoder) is TransformerDecoderConfig
    assert config.encoder.position_type == "rotary"
    config = CustomSeq2SeqConfig(encoder={"model_type": "bert", "hidden_size": 24}, decoder=dict(SIZES))
    assert type(config.encoder) is BertConfig
    given = {"model_type": "custom_transformer_decoder", **SIZES}
    before = copy.deepcopy(given)
    CustomSeq2SeqConfig(decoder=given)
    assert given == before


@pytest.mark.parametrize(
    ("ids", "start"),
    [
        ({"decoder_start_token_id": 9}, 9),
        ({}, 1),
        ({"decoder": {"bos_token_id": None}}, 0),
        ({"decoder_start_token_id": 0, "decoder": {"bos_token_id": 4}}, 0),
    ],
)
def test_start_token(ids: dict[str, Any], start: int) -> None:
    config = tiny_config(**copy.deepcopy(ids))
    assert config.start_token_id == start
    model = CustomSeq2SeqForConditionalGeneration(config)
    assert model.generation_config.decoder_start_token_id == start
    generated = model.generate(make_inputs("seq2seq")["input_ids"], max_length=3)
    assert generated[:, 0].tolist() == [start] * 3


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    """Sizes of the papers; everything that can be tied is."""
    published = {
        "transformer-tiny": (4, 128, 256, 4),
        "transformer-base": (6, 512, 2048, 8),
        "transformer-big": (6, 1024, 4096, 16),
    }[name]
    config = CustomSeq2SeqConfig.from_preset(name, vocab_size=37000)
    for part in (config.encoder, config.decoder):
        sizes = (part.num_hidden_layers, part.hidden_size, part.intermediate_size, part.num_attention_heads)
        assert sizes == published
        assert (part.norm_position, part.hidden_act, part.position_type) == ("post", "relu", "sinusoidal")
        assert part.scale_embeddings
        assert not part.has_final_norm
        assert part.vocab_size == 37000
    assert config.tie_word_embeddings
    assert config.tie_encoder_decoder_embeddings
    two = CustomSeq2SeqConfig.from_preset(name, vocab_size=30, encoder_vocab_size=20, label_smoothing=0.1)
    assert (two.encoder.vocab_size, two.decoder.vocab_size, two.label_smoothing) == (20, 30, 0.1)
    assert not two.tie_encoder_decoder_embeddings


def test_recurrent_presets_say_what_they_are() -> None:
    config = CustomSeq2SeqConfig.from_preset("gru-attention", vocab_size=50)
    assert (config.encoder.bidirectional, config.decoder.attention_type) == (True, "additive")
    config = CustomSeq2SeqConfig.from_preset("lstm-luong", vocab_size=50)
    assert (config.encoder.num_hidden_layers, config.encoder.bidirectional) == (4, False)
    assert (config.decoder.attention_type, config.decoder.input_feeding) == ("general", True)
    config = CustomSeq2SeqConfig.from_preset("gru-textbook", vocab_size=50, encoder_vocab_size=40)
    assert (config.encoder.vocab_size, config.decoder.attention_type) == (40, "none")
    assert config.decoder.dropout > 0
    config = CustomSeq2SeqConfig.from_preset("ssru-base", vocab_size=50)
    assert config.decoder.mixer_types == ["ssru"] * 6
    base = CustomSeq2SeqConfig.from_preset("transformer-base", vocab_size=50)
    assert config.encoder.to_dict() == base.encoder.to_dict()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # embeddings; 2 + 1 GRUs of 620 to 1000; projection of the source; attention; first state; readout; vocabulary
        (
            "gru-attention",
            2 * 30000 * 620
            + 3 * (3000 * 620 + 3000 * 1000 + 6000)
            + 2 * (2000 * 1000 + 1000)
            + 2 * 1000 * 1000
            + 2 * 1000
            + 2000 * 500
            + 500
            + 500 * 30000,
        ),
        # embeddings and vocabulary; 8 LSTM layers, one of them fed; attention; attentional layer
        (
            "lstm-luong",
            3 * 30000 * 1000 + 8 * (2 * 4000 * 1000 + 8000) + 4000 * 1000 + 1000 * 1000 + 2000 * 1000 + 1000,
        ),
        # embeddings; 4 GRU layers; readout; vocabulary
        ("gru-textbook", 2 * 30000 * 256 + 4 * (2 * 768 * 256 + 1536) + 256 * 256 + 256 + 256 * 30000 + 30000),
        # one embedding matrix; 12 attentions of 4 projections, feed-forwards and 5 norms a pair of layers; 6 SSRUs
        (
            "ssru-base",
            30000 * 512
            + 12 * (4 * (512 * 512 + 512) + 2 * 512 * 2048 + 2048 + 512)
            + 6 * 5 * 2 * 512
            + 6 * (2 * 512 * 512 + 512),
        ),
    ],
)
def test_parameters_of_recurrent_presets(name: str, expected: int) -> None:
    config = CustomSeq2SeqConfig.from_preset(name, vocab_size=30000)
    with torch.device("meta"):
        model = CustomSeq2SeqForConditionalGeneration(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("name", [*RECURRENT_PRESETS, "ssru-base"])
def test_recurrent_presets_learn_and_generate(name: str) -> None:
    """At a twentieth of their width, or less."""
    config = CustomSeq2SeqConfig.from_preset(name, vocab_size=50, label_smoothing=0.1)
    for part in (config.encoder, config.decoder):
        part.hidden_size, part.dropout = 32, 0.0
        if hasattr(part, "intermediate_size"):
            part.intermediate_size, part.num_attention_heads = 48, 4
        else:
            part.embedding_size = 16
    torch.manual_seed(0)
    model, inputs = CustomSeq2SeqForConditionalGeneration(config), make_inputs("seq2seq_lm", with_labels=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(2):
        loss = model(**inputs).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
    assert losses[1] < losses[0]
    source = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    assert model.eval().generate(**source, num_beams=2, max_new_tokens=5).shape[0] == 3


def test_a_preset_runs() -> None:
    model = CustomSeq2SeqForConditionalGeneration(
        CustomSeq2SeqConfig.from_preset("transformer-tiny", vocab_size=50)
    ).eval()
    assert run(model, **make_inputs("seq2seq_lm")).shape == (3, 6, 50)
    # 4 layers a side: 4 and 8 attention projections, feed-forward, norms, one embedding matrix of 50 x 128.
    attention, feed_forward, norm = 4 * (128 * 128 + 128), 2 * 128 * 256 + 128 + 256, 2 * 128
    layers = 4 * (attention + feed_forward + 2 * norm) + 4 * (2 * attention + feed_forward + 3 * norm)
    assert model.num_parameters() == layers + 50 * 128


@over(KIND_CASES)
def test_length_rule_and_ids_of_the_generation_config(kind: str, variant: str) -> None:
    """What `generate()` is told by default comes from the config, not from transformers' 20 tokens."""
    config = make_config(kind, variant)
    model = KINDS[kind](config)
    if kind not in HEADS:
        assert not model.can_generate()
        return
    expected = config.max_position_embeddings
    assert model.generation_config.max_length == expected == 64
    assert model.generation_config.pad_token_id == config.pad_token_id == 0
    assert model.generation_config.eos_token_id == config.eos_token_id == 2

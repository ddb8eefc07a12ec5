"""Every rule of the configs: the message names class, argument, rule, the value found and what to do."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, BartConfig, BertConfig, PreTrainedConfig

from hf_custom_decoder import CustomSeq2SeqConfig, TransformerDecoderConfig, TransformerEncoderConfig
from tests.factories import SIZES, tiny_config
from tests.models.model_cases import KINDS, make_config, make_model

ROTARY = {"position_type": "rotary"}

# (arguments, error, words after the class name)
OF_BOTH_STACKS: list[tuple[dict[str, Any], type[Exception], str]] = [
    *[
        ({name: value}, ValueError, rf"`{name}` must be a whole number of at least 1, got {value!r}\. Set it to one\.")
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        for value in (0, 1.5, True)
    ],
    *[
        ({name: 0}, ValueError, rf"`{name}` must be a whole number of at least 1, got 0")
        for name in ("max_position_embeddings", "num_key_value_heads", "head_dim", "sliding_window")
    ],
    *[
        (
            {name: value},
            ValueError,
            rf"`{name}` must be a probability in \[0, 1\), got {value!r}\. Use 0\.0 to switch it off",
        )
        for name in ("dropout", "attention_dropout", "activation_dropout")
        for value in (1.0, -0.1, "much")
    ],
    *[
        ({name: 1}, TypeError, rf"`{name}` must be True or False, got 1")
        for name in (
            "gated_mlp",
            "attention_bias",
            "mlp_bias",
            "qk_norm",
            "scale_embeddings",
            "embedding_norm",
            "final_norm",
        )
    ],
    (
        {"norm_type": "batch"},
        ValueError,
        r"`norm_type` must be one of \['layernorm', 'rmsnorm'\], got 'batch'\. Choose",
    ),
    ({"norm_position": "mid"}, ValueError, r"`norm_position` must be one of \['pre', 'post'\], got 'mid'\. Choose"),
    (
        {"position_type": "relative"},
        ValueError,
        r"`position_type` must be one of \['sinusoidal', .*'none'\], got 'relative'",
    ),
    ({"position_type": None}, ValueError, r"`position_type` must be one of .*got None"),
    ({"hidden_act": "swoosh"}, ValueError, r"`hidden_act` must be one of \[.*'gelu'.*\], got 'swoosh'\. Choose"),
    ({"norm_eps": 0}, ValueError, r"`norm_eps` must be a number above 0 and finite, got 0"),
    ({"initializer_range": -0.02}, ValueError, r"`initializer_range` must be a number above 0 and finite, got -0\.02"),
    (
        {"hidden_size": 30},
        ValueError,
        r"`hidden_size` must be divisible by `num_attention_heads`, got 30 and 4\. Change one of them, or set `head_dim`",
    ),
    (
        {"num_key_value_heads": 3},
        ValueError,
        r"`num_key_value_heads` must divide `num_attention_heads`, got 3 and 4\. Use a divisor, or None",
    ),
    (
        {"hidden_size": 33, "num_attention_heads": 3},
        ValueError,
        r"sinusoidal positions need an even `hidden_size`, got 33\. Use an even width or another `position_type`",
    ),
    ({**ROTARY, "head_dim": 5}, ValueError, r"rotary positions need an even head width, got 5\. Change `head_dim`"),
    (
        {**ROTARY, "rope_parameters": {"rope_type": "spiral"}},
        ValueError,
        r"`rope_parameters\['rope_type'\]` must be one of \['default', .*\], got 'spiral'\. Choose",
    ),
    (
        {**ROTARY, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        ValueError,
        r"`rope_parameters\['partial_rotary_factor'\]` must be 1\.0 .*got 0\.5\. Leave it out",
    ),
    (
        {**ROTARY, "rope_parameters": {"full_attention": {"rope_type": "default"}}},
        ValueError,
        r"`rope_parameters` must be one dict for all layers, got one for each layer type: .*Pass one of the inner dicts",
    ),
    *[
        (
            {name: 50},
            ValueError,
            rf"`{name}` must be None or lie in \[0, vocab_size=50\), got 50\. Set `{name}` to the id the tokenizer uses",
        )
        for name in ("pad_token_id", "bos_token_id", "eos_token_id")
    ],
    ({"eos_token_id": [2, 77]}, ValueError, r"`eos_token_id` must be None or lie in .*got \[2, 77\]"),
    ({"pad_token_id": "<pad>"}, ValueError, r"`pad_token_id` must be None or lie in .*got '<pad>'"),
    (
        {"config_format": 2},
        ValueError,
        r"`config_format` is 2, this code reads formats up to 1\..*newer version: upgrade hf_custom_decoder",
    ),
    ({"config_format": "1"}, ValueError, r"`config_format` is '1', this code reads formats up to 1"),
    (
        {"hiden_size": 32},
        ValueError,
        r"`hiden_size` is not an argument of this config\. Did you mean `hidden_size`\? Nothing was set",
    ),
    ({"norm_pos": "post"}, ValueError, r"`norm_pos` is not an argument .*Did you mean `norm_eps`|`norm_position`"),
]
OF_THE_ENCODER: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"mixer_types": ["full_attention"] * 2}, ValueError, r"`mixer_types` is not an argument .*Set `sliding_window`"),
    ({"layer_types": ["full_attention"] * 2}, ValueError, r"`layer_types` is not an argument .*Set `sliding_window`"),
    ({"add_cross_attention": True}, ValueError, r"`add_cross_attention` is not an argument .*Only a decoder"),
]
OF_THE_DECODER: list[tuple[dict[str, Any], type[Exception], str]] = [
    *[
        ({name: None}, TypeError, rf"`{name}` must be True or False, got None")
        for name in ("add_cross_attention", "tie_word_embeddings", "lm_head_bias", "use_cache")
    ],
    (
        {"mixer_types": ["full_attention"]},
        ValueError,
        r"`mixer_types` must be a list with one name for each of the 2 layers .*got \['full_attention'\]\. Give as many",
    ),
    ({"mixer_types": "full_attention"}, ValueError, r"`mixer_types` must be a list .*got 'full_attention'"),
    (
        {"mixer_types": ["full_attention", "hyena"]},
        ValueError,
        r"each entry of `mixer_types` must be one of \['full_attention', 'sliding_attention', .*\], got 'hyena'",
    ),
    (
        {"mixer_types": ["full_attention", "sliding_attention"]},
        ValueError,
        r"`mixer_types` names 'sliding_attention', which needs `sliding_window` \(tokens\), got None\. Set `sliding_window`",
    ),
    (
        {"layer_types": ["full_attention"] * 2},
        ValueError,
        r"`layer_types` is not an argument .*derived from `mixer_types`: set that",
    ),
]
OF_THE_WHOLE: list[tuple[dict[str, Any], type[Exception], str]] = [
    *[
        ({name: "yes"}, TypeError, rf"`{name}` must be True or False, got 'yes'")
        for name in ("tie_word_embeddings", "tie_encoder_decoder_embeddings", "return_logits_in_training")
    ],
    (
        {"label_smoothing": 1.0},
        ValueError,
        r"`label_smoothing` must be a probability in \[0, 1\), got 1\.0\. Use 0\.0",
    ),
    (
        {"decoder_start_token_id": 50},
        ValueError,
        r"`decoder_start_token_id` must be None or lie in \[0, vocab_size=50\), got 50\. Set `decoder_start_token_id`",
    ),
    (
        {"pad_token_id": None, "bos_token_id": None},
        ValueError,
        r"a start token is needed, got None for `decoder_start_token_id`, .*Set `decoder_start_token_id` to the tokenizer's",
    ),
    ({"pad_token_id": None}, ValueError, r"`pad_token_id` must be set .*got None\. Set it to the tokenizer's id"),
    ({"eos_token_id": None}, ValueError, r"`eos_token_id` must be set .*got None\. Set it to the tokenizer's id"),
    ({"pad_token_id": 50}, ValueError, r"`pad_token_id` must be None or lie in \[0, vocab_size=50\), got 50"),
    (
        {"num_attention_heads": 5},
        ValueError,
        r"`hidden_size` must be divisible by `num_attention_heads`, got 32 and 5",
    ),
    (
        {"encoder_attention_heads": 5},
        ValueError,
        r"`hidden_size` must be divisible by `num_attention_heads`, got 32 and 5",
    ),
    ({"is_encoder_decoder": False}, ValueError, r"`is_encoder_decoder` must be True, got False\. Leave it out"),
    ({"config_format": 2}, ValueError, r"`config_format` is 2, this code reads formats up to 1"),
    ({"label_smothing": 0.1}, ValueError, r"`label_smothing` is not an argument .*Did you mean `label_smoothing`\?"),
    ({"encoder_layer": 3}, ValueError, r"`encoder_layer` is not an argument .*Did you mean `encoder_layers`\?"),
    (
        {"dropout": 0.2},
        ValueError,
        r"`dropout` is not an argument of this config but of its parts\. Set it in `encoder=` and `decoder=`\. Nothing",
    ),
    ({"scale_embedding": True}, ValueError, r"`scale_embedding` is not an .*Set it in `encoder=` and `decoder=`\."),
    ({"mixer_types": ["ssru"] * 2}, ValueError, r"`mixer_types` is not an .*parts\. Set it in `decoder=`\."),
    (
        {"encoder": BertConfig(), "hidden_dropout_prob": 0.2},
        ValueError,
        r"`hidden_dropout_prob` is not an argument of this config but of its parts\. Set it in `encoder=`\.",
    ),
    ({"encoder": "bert"}, TypeError, r"`encoder` must be a config, a dict of one, or None, got str\. Pass one"),
    ({"decoder": 3}, TypeError, r"`decoder` must be a config, a dict of one, or None, got int\. Pass one"),
    (
        {"encoder": {"model_type": "bret"}},
        ValueError,
        r"`encoder\['model_type'\]` must be one of ours .*or one that AutoConfig knows, got 'bret'\. Import the package",
    ),
    (
        {"decoder": BertConfig()},
        TypeError,
        r"`decoder` must be one of our decoder configs .* or that of a decoder of your own, got BertConfig of transformers",
    ),
    ({"decoder": {"model_type": "bert"}}, TypeError, r"`decoder` must be one of our decoder configs .*got BertConfig"),
    (
        {"encoder": TransformerDecoderConfig(**SIZES)},
        ValueError,
        r"`encoder` must not be one of our decoder configs, got TransformerDecoderConfig .*Use TransformerEncoderConfig",
    ),
    (
        {"encoder": {**SIZES, "vocab_size": 40}, "tie_encoder_decoder_embeddings": True},
        ValueError,
        r"`tie_encoder_decoder_embeddings=True` needs equal \(vocab_size, embedding width\) .*got \(40, 32\) and \(50, 32\)\. Use",
    ),
    (
        {"encoder": {**SIZES, "hidden_size": 24}, "tie_encoder_decoder_embeddings": True},
        ValueError,
        r"`tie_encoder_decoder_embeddings=True` needs equal .*got \(50, 24\) and \(50, 32\)",
    ),
]


def cases(table: list[tuple[dict[str, Any], type[Exception], str]]) -> pytest.MarkDecorator:
    ids = [", ".join(f"{name}={str(value)[:20]}".split("\n")[0] for name, value in one[0].items()) for one in table]
    return pytest.mark.parametrize(("arguments", "error", "words"), table, ids=ids)


@pytest.mark.parametrize("config_class", [TransformerEncoderConfig, TransformerDecoderConfig])
@cases(OF_BOTH_STACKS)
def test_stacks(
    config_class: type[PreTrainedConfig], arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=rf"^{config_class.__name__}: .*{words}"):
        config_class(**{**SIZES, **arguments})


@cases(OF_THE_ENCODER)
def test_encoder(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=rf"^TransformerEncoderConfig: {words}"):
        TransformerEncoderConfig(**{**SIZES, **arguments})


@cases(OF_THE_DECODER)
def test_decoder(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=rf"^TransformerDecoderConfig: {words}"):
        TransformerDecoderConfig(**{**SIZES, **arguments})


@cases(OF_THE_WHOLE)
def test_whole(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=rf"^\w+Config: {words}"):
        CustomSeq2SeqConfig(**{"encoder": dict(SIZES), "decoder": dict(SIZES), **arguments})


@pytest.mark.parametrize(
    ("kind", "name", "value", "words"),
    [
        ("encoder", "num_attention_heads", 5, "must be divisible by `num_attention_heads`, got 32 and 5"),
        ("causal", "position_type", "relative", "`position_type` must be one of"),
        ("causal", "mixer_types", ["full_attention"] * 3, "`mixer_types` must be a list"),
        ("seq2seq_lm", "pad_token_id", None, "`pad_token_id` must be set"),
        ("seq2seq_lm", "label_smoothing", 2.0, "`label_smoothing` must be a probability"),
        ("seq2seq", "encoder_attention_heads", 5, "must be divisible by `num_attention_heads`, got 32 and 5"),
    ],
)
def test_what_is_set_later_is_checked_when_the_model_is_built(kind: str, name: str, value: Any, words: str) -> None:
    config = make_config(kind)
    setattr(config, name, value)
    with pytest.raises(ValueError, match=words):
        KINDS[kind](config)


@pytest.mark.parametrize(
    ("rope", "words"),
    [
        ({"rope_type": "linear"}, r"`rope_type` 'linear' must say 'factor', got .*Add it"),
        ({"rope_type": "llama3", "factor": 2.0}, r"`rope_type` 'llama3' must say 'low_freq_factor'"),
    ],
)
def test_incomplete_rope_parameters(rope: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=rf"TransformerDecoderConfig: `rope_parameters` of {words}"):
        make_model("causal", "rotary", rope_parameters=rope)


def test_longrope_needs_a_head_width() -> None:
    words = r"`head_dim` must be set with `rope_type` 'longrope', got None\. Set it to 8"
    with pytest.raises(ValueError, match=rf"TransformerDecoderConfig: {words}"):
        make_model("causal", "rotary", rope_parameters={"rope_type": "longrope"})


def test_a_preset_passes_no_field_of_a_part_over() -> None:
    with pytest.raises(ValueError, match=r"`dropout` is not an argument of this config but of its parts"):
        CustomSeq2SeqConfig.from_preset("lstm-luong", vocab_size=50, dropout=0.5)


def test_fields_of_parts_in_files_of_earlier_versions_are_passed_over(tmp_path: Path) -> None:
    config = tiny_config()
    config.dropout = 0.2  # as earlier versions kept it, to no effect
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dropout"] == 0.2
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert not hasattr(loaded, "dropout")
    assert loaded.encoder.dropout == loaded.decoder.dropout == 0.0
    with pytest.raises(ValueError, match=r"`dropout` is not an argument of this config but of its parts"):
        CustomSeq2SeqConfig.from_dict({"dropout": 0.2})


def test_what_transformers_reads_in_any_config_may_be_given() -> None:
    config = tiny_config(dtype="bfloat16", attn_implementation="eager")
    assert (config.dtype, config._attn_implementation) == (torch.bfloat16, "eager")
    assert not hasattr(CustomSeq2SeqConfig(encoder=BartConfig(), forced_eos_token_id=2), "forced_eos_token_id")


def test_unknown_preset() -> None:
    with pytest.raises(
        ValueError,
        match=r"CustomSeq2SeqConfig: `name` must be one of \['gru-attention', .*'transformer-base'.*got 'tiny'\. Choose",
    ):
        CustomSeq2SeqConfig.from_preset("tiny", vocab_size=50)


def test_an_encoder_without_a_width() -> None:
    encoder = PreTrainedConfig()
    with pytest.raises(
        ValueError, match=r"`encoder` must say its width as `hidden_size` or `d_model`, PreTrainedConfig does not"
    ):
        KINDS["seq2seq"](CustomSeq2SeqConfig(encoder=encoder, decoder=dict(SIZES)), make_model("encoder"))


def test_unknown_names_that_are_like_none_pass() -> None:
    """transformers lets a config carry what others need; only likely typing errors are refused."""
    assert tiny_config(my_note="kept").my_note == "kept"
    assert TransformerEncoderConfig(_private=1)._private == 1

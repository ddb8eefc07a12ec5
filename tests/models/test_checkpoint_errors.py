"""Checkpoints that stock loading would fill up with random numbers, or fail on deep inside, are refused in words."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, BertConfig, BertModel

from hf_custom_decoder.models.checkpoint_files_custom_seq2seq import check_weight_files
from tests.models.model_cases import AUTO_CLASSES, KIND_CASES, KINDS, make_inputs, make_model, over, run

CLASSES = pytest.mark.parametrize("kind", ["encoder", "decoder", "causal", "seq2seq", "seq2seq_lm"])


def saved(kind: str, folder: Path) -> Path:
    """A saved model's weight file."""
    make_model(kind).save_pretrained(folder)
    return folder / "model.safetensors"


@CLASSES
def test_truncated_file(kind: str, tmp_path: Path) -> None:
    weights = saved(kind, tmp_path)
    content = weights.read_bytes()
    for size in (len(content) // 2, 4, 0):
        weights.write_bytes(content[:size])
        words = rf"{KINDS[kind].__name__}: .*whole safetensors files.*{re.escape(str(tmp_path))}.*truncated.*Download or save them again"
        with pytest.raises(ValueError, match=words):
            AUTO_CLASSES[kind].from_pretrained(tmp_path)


@CLASSES
def test_missing_weights(kind: str, tmp_path: Path) -> None:
    weights = saved(kind, tmp_path)
    tensors = load_file(weights)
    lost = [name for name in tensors if ".layers.1." in f".{name}"]
    save_file(
        {name: tensor for name, tensor in tensors.items() if name not in lost}, weights, metadata={"format": "pt"}
    )
    words = rf"{KINDS[kind].__name__}: .*must hold every weight.*lacks {len(lost)} of them \({re.escape(sorted(lost)[0])}.*load_state_dict"
    with pytest.raises(ValueError, match=words):
        KINDS[kind].from_pretrained(tmp_path)


@CLASSES
def test_weights_of_another_model(kind: str, tmp_path: Path) -> None:
    """Our config beside the weights of something else."""
    weights = saved(kind, tmp_path)
    save_file({"bert.encoder.weight": torch.zeros(3)}, weights, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match="must hold every weight of this model.* It is truncated or belongs to another model"
    ):
        AUTO_CLASSES[kind].from_pretrained(tmp_path)


@CLASSES
def test_folder_of_another_model(kind: str, tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=9,
    )
    BertModel(config).save_pretrained(tmp_path)
    words = r"`model_type` must be 'custom_\w+', got 'bert'\. Load it with the Auto classes.*from_encoder_pretrained"
    with pytest.raises(ValueError, match=words):
        KINDS[kind].from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=words):
        KINDS[kind].config_class.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("kind", "other"), [("encoder", "decoder"), ("causal", "seq2seq_lm"), ("seq2seq_lm", "causal")]
)
def test_folder_of_a_sibling(kind: str, other: str, tmp_path: Path) -> None:
    saved(other, tmp_path)
    if other != "seq2seq_lm":
        with pytest.raises(ValueError, match=r"`model_type` must be 'custom_\w+', got 'custom_\w+'"):
            KINDS[kind].from_pretrained(tmp_path)
        return
    # transformers finds the decoder's part of the config; its weights stand under other names.
    with pytest.raises(ValueError, match="must hold every weight of this model"):
        KINDS[kind].from_pretrained(tmp_path)


@CLASSES
def test_config_of_a_newer_version(kind: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "config_format": 7, "a_field_of_tomorrow": 1}))
    words = r"`config_format` is 7, this code reads formats up to 1\..*newer version: upgrade hf_custom_decoder.*trust_remote_code"
    for load in (KINDS[kind].from_pretrained, AUTO_CLASSES[kind].from_pretrained, AutoConfig.from_pretrained):
        with pytest.raises(ValueError, match=words):
            load(tmp_path)


def test_config_of_a_newer_part(tmp_path: Path) -> None:
    saved("seq2seq_lm", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["decoder"]["config_format"] = 7
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"TransformerDecoderConfig: `config_format` is 7"):
        AutoConfig.from_pretrained(tmp_path)


@over(KIND_CASES)
def test_what_is_refused_can_be_had_on_purpose(kind: str, variant: str, tmp_path: Path) -> None:
    """The remedy that the error names works."""
    model = make_model(kind, variant)
    partial = {name: tensor for name, tensor in model.state_dict().items() if ".layers.0." in f".{name}"}
    fresh = KINDS[kind](model.config)
    fresh.load_state_dict(partial, strict=False)
    name = next(iter(partial))
    assert torch.equal(fresh.state_dict()[name], partial[name])
    assert run(fresh.eval(), **make_inputs(kind)).isfinite().all()


def test_auto_classes_name_what_they_know(tmp_path: Path) -> None:
    """A task that a class cannot do is refused by transformers itself."""
    saved("encoder", tmp_path)
    for auto_class in (AutoModelForCausalLM, AutoModelForSeq2SeqLM):
        with pytest.raises(ValueError, match="Unrecognized configuration class"):
            auto_class.from_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is KINDS["encoder"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    saved("seq2seq_lm", tmp_path).unlink()
    with pytest.raises(OSError, match="model.safetensors"):
        KINDS["seq2seq_lm"].from_pretrained(tmp_path)


def test_shards_of_deepspeed_are_compared_by_the_shape_of_the_whole(tmp_path: Path) -> None:
    """ZeRO stage 3 leaves empty weights that know their shape (tests/ecosystem/test_deepspeed.py runs it)."""
    weights = saved("seq2seq_lm", tmp_path)
    model = make_model("seq2seq_lm")
    for parameter in model.parameters():
        parameter.ds_shape = parameter.shape
        parameter.data = torch.empty(0)
    check_weight_files("Model", model, [str(weights)], is_quantized=False)
    next(model.parameters()).ds_shape = torch.Size((3, 5))
    with pytest.raises(ValueError, match=r"must have the shape \(3, 5\) by the config"):
        check_weight_files("Model", model, [str(weights)], is_quantized=False)

"""The network of g2p-fa answers as the package does in evaluation mode."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from hf_custom_decoder.conversion import convert_g2p_fa, g2p_fa_tokenizer
from hf_custom_decoder.conversion.g2p_fa import CHECKPOINT, LENGTH, REQUIREMENT
from hf_custom_decoder.conversion.installed_packages import package_folder
from tests.conversion.reference_outputs import (
    assert_same_outputs,
    assert_same_steps,
    generated_texts,
    need_package,
    read_references,
)


@pytest.fixture(scope="module")
def model() -> Any:
    need_package("g2p_fa", REQUIREMENT)
    return convert_g2p_fa()


def test_outputs(model: Any) -> None:
    references = read_references("g2p_fa")
    assert f"{references['package']}=={references['version']}" == REQUIREMENT
    assert_same_outputs(model, g2p_fa_tokenizer(), references["outputs"])


def test_logits(model: Any) -> None:
    assert_same_steps(model, g2p_fa_tokenizer(), read_references("g2p_fa")["steps"])


def test_fills_are_read(model: Any) -> None:
    """Why the tokenizer writes them: without them other sounds come out."""
    inputs = g2p_fa_tokenizer()(["کودک"], return_tensors="pt")
    short = {name: ids[:, :6] for name, ids in inputs.items()}
    assert not torch.equal(model.generate(**inputs), model.generate(**short))


def test_needs_no_mask(model: Any) -> None:
    """`generate` would make a mask for padding tokens; fills are none."""
    inputs = g2p_fa_tokenizer()(["کودک"], return_tensors="pt")
    assert torch.equal(model.generate(inputs.input_ids), model.generate(**inputs))


def test_saved_folder(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    g2p_fa_tokenizer().save_pretrained(tmp_path)
    expected = dict(list(read_references("g2p_fa")["outputs"].items())[:20])
    loaded, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert generated_texts(loaded, tokenizer, list(expected)) == list(expected.values())


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("آب", ["<s>", "آ", "ب", "</s>", *["<fill>"] * 26]),
        ("ژ" * 28, ["<s>", *"ژ" * 28, "</s>"]),
        ("ژ" * 40, ["<s>", *"ژ" * 29]),
        ("x y", ["<s>", "x", "</s>", "</s>", "</s>", *["<fill>"] * 25]),
        ("sælɒːm", [*"sælɒːm", "</s>"]),
        ("b" * 40, [*"b" * 40, "</s>"]),
        ("", []),
    ],
)
def test_tokens(text: str, tokens: list[str]) -> None:
    tokenizer = g2p_fa_tokenizer()
    encoded = tokenizer(text)
    assert tokenizer.convert_ids_to_tokens(encoded.input_ids) == tokens
    assert encoded.attention_mask == [1] * len(tokens)


def test_target_round_trip(model: Any) -> None:
    tokenizer = g2p_fa_tokenizer()
    inputs = tokenizer(["سلام"], text_target=["sælɒːm"], return_tensors="pt")
    assert inputs.input_ids.shape == (1, LENGTH)
    assert tokenizer.decode(inputs["labels"][0], skip_special_tokens=True) == "sælɒːm"
    assert model(**inputs).loss < 0.1  # nats a letter; at random it is 3.5


def test_weights_of_another_version(model: Any, tmp_path: Path) -> None:
    source = package_folder("g2p_fa", REQUIREMENT, None, files=(CHECKPOINT,), owner="test") / CHECKPOINT
    tensors = torch.load(source, map_location="cpu", weights_only=True)
    (tmp_path / CHECKPOINT).parent.mkdir()
    torch.save({**tensors, "decoder.attention.weight": torch.zeros(2)}, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match="must hold embeddings, LSTMs and one projection, got 'decoder.attention.w"):
        convert_g2p_fa(tmp_path)
    torch.save({name: one for name, one in tensors.items() if "l1" not in name}, tmp_path / CHECKPOINT)
    with pytest.raises(ValueError, match="convert_g2p_fa: the weights must be those of the config"):
        convert_g2p_fa(tmp_path)

"""The network of g2p_en answers as the package does."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from hf_custom_decoder.conversion import convert_g2p_en, g2p_en_tokenizer
from hf_custom_decoder.conversion.g2p_en import CHECKPOINT, REQUIREMENT
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
    need_package("g2p_en", REQUIREMENT)
    return convert_g2p_en()


def test_outputs(model: Any) -> None:
    references = read_references("g2p_en")
    assert f"{references['package']}=={references['version']}" == REQUIREMENT
    assert_same_outputs(model, g2p_en_tokenizer(), references["outputs"])


def test_logits(model: Any) -> None:
    assert_same_steps(model, g2p_en_tokenizer(), read_references("g2p_en")["steps"])


def test_saved_folder(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    g2p_en_tokenizer().save_pretrained(tmp_path)
    words = ["activationist", "hippopotomonstrosesquippedaliophobia", "Cat"]
    expected = read_references("g2p_en")["outputs"]
    loaded, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert generated_texts(loaded, tokenizer, words) == [expected[word] for word in words]


def test_trains_on_text(model: Any) -> None:
    tokenizer = g2p_en_tokenizer()
    inputs = tokenizer(["activationist"], text_target=["AE2 K T IH0 V EY1 SH AH0 N IH0 S T"], return_tensors="pt")
    assert model(**inputs).loss < 1.0  # nats a phoneme; at random it is 4.3


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("cat", "c a t"),
        ("Cat", "c a t"),
        ("naïve", "n a i v e"),
        ("don't", "d o n <unk> t"),
        ("K AE1 T", "K AE1 T"),
        ("TH UW", "TH UW"),
        ("THUW", "t h u w"),
        ("AE1T", "a e <unk> t"),
        ("Ab", "a b"),
        ("ǂcat", "c a t"),
    ],
)
def test_tokens(text: str, tokens: str) -> None:
    tokenizer = g2p_en_tokenizer()
    assert tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) == [*tokens.split(), "</s>"]


def test_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must be that of the package 'g2p_en'.*checkpoint20.npz"):
        convert_g2p_en(tmp_path)


def test_package_that_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found neither\. Run `pip install --no-deps absent==1`"):
        package_folder("absent_package", "absent==1", None, files=(), owner="test")


def test_weights_of_another_version(model: Any, tmp_path: Path) -> None:
    source = package_folder("g2p_en", REQUIREMENT, None, files=(CHECKPOINT,), owner="test")
    arrays = dict(np.load(source / CHECKPOINT))
    np.savez(tmp_path / CHECKPOINT, **{**arrays, "enc_emb": arrays["enc_emb"][:-1]})
    with pytest.raises(ValueError, match="must have 29 rows, one for each source token, got 28"):
        convert_g2p_en(tmp_path)
    np.savez(tmp_path / CHECKPOINT, **{name: array for name, array in arrays.items() if name != "fc_b"})
    with pytest.raises(ValueError, match="must hold the arrays"):
        convert_g2p_en(tmp_path)
    shutil.copy(source / CHECKPOINT, tmp_path / CHECKPOINT)
    assert convert_g2p_en(str(tmp_path)).num_parameters() == model.num_parameters()

"""A saved folder works in a process that cannot import this package."""

from pathlib import Path

import pytest

from hf_custom_decoder.evaluation.batched_generation import generate_texts
from hf_custom_decoder.hub.isolated_reload import reload_in_isolation
from hf_custom_decoder.hub.model_folder import load_model_folder
from tests.tiny_pronunciation import save_tiny_model

WORDS = ["cat", "aback", "ta"]


def test_fresh_process_generates_the_same(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    model, tokenizer = load_model_folder(folder)
    expected = [text for (text,) in generate_texts(model, tokenizer, WORDS, num_beams=3)]
    answer = reload_in_isolation(folder, WORDS, num_beams=3)
    assert answer.package_is_hidden
    assert answer.model_class.startswith("transformers_modules.")
    assert answer.model_class.endswith(".CustomSeq2SeqForConditionalGeneration")
    assert answer.texts == expected
    assert len(set(answer.texts)) > 1


def test_folder_without_its_code_fails_in_words(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    (folder / "modeling_custom_seq2seq.py").unlink()
    with pytest.raises(RuntimeError, match=r"(?s)in a fresh process without this package failed:.*modeling_custom"):
        reload_in_isolation(folder, WORDS)


def test_time_limit(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="took more than 0 seconds"):
        reload_in_isolation(tmp_path, WORDS, timeout=0.01)

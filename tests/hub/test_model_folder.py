"""Loading a folder, or saying what is missing."""

from pathlib import Path

import pytest

from hf_custom_decoder import CustomSeq2SeqForConditionalGeneration
from hf_custom_decoder.hub.model_folder import load_model_folder
from tests.tiny_pronunciation import save_tiny_model


def test_own_models_need_no_remote_code(tmp_path: Path) -> None:
    model, tokenizer = load_model_folder(save_tiny_model(tmp_path))
    assert type(model) is CustomSeq2SeqForConditionalGeneration
    assert not model.training
    assert tokenizer("cat")["input_ids"][-1] == tokenizer.eos_token_id


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`model` must be a folder.*nowhere.* is no folder"):
        load_model_folder(tmp_path / "nowhere")


def test_folder_without_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no config\.json in"):
        load_model_folder(tmp_path)


def test_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match=r"found no config\.json in"):
        load_model_folder(tmp_path / "file")


def test_folder_without_tokenizer(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match="holds a model but no tokenizer"):
        load_model_folder(tmp_path)

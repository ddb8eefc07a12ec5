"""Loading a folder, or saying what is missing."""

from pathlib import Path

import pytest
import torch

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


def test_a_device_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    save_tiny_model(tmp_path)
    for device in ("cuda", "cuda:1", "mps", "tpu", "xpu", ""):
        message = rf"`device` must be one that torch finds here \(cpu.*\), got '{device}'\. Choose"
        with pytest.raises(ValueError, match=message):
            load_model_folder(tmp_path, device=device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"\(cpu, cuda.*\), got 'cuda:1'"):
        load_model_folder(tmp_path, device="cuda:1")

"""`hf-custom-decoder doctor`: folders of any kind, data, exit status, and that nothing is written."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_custom_decoder.cli import main
from tests.doctor.models import tiny_stock
from tests.factories import tiny_seq2seq
from tests.tiny_pronunciation import save_tiny_model

pytest.importorskip("datasets")

DEAR = [f"--skip={name}" for name in ("remote code", "overfitting", "accumulation")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "words.tsv"
    path.write_text("word\tsounds\ncat\tK AE T\nbat\tB AE T\naback\tAH B AE K\n")
    return path


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(p): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in files}


def findings(path: Path) -> dict[str, dict[str, str]]:
    return {found["name"]: found for found in json.loads(path.read_text())["findings"]}


def test_a_right_folder_and_its_text(
    folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fingerprint(folder)
    line = [
        "doctor",
        str(folder),
        str(data),
        "--source",
        "word",
        "--target=sounds",
        "--json",
        str(tmp_path / "r.json"),
    ]
    assert main(line) == 0
    screen = capsys.readouterr().out
    assert "3 examples of text" in screen
    assert "12 right, 0 note, 0 wrong" in screen or "11 right, 1 note, 0 wrong" in screen
    assert len(screen.splitlines()) < 40
    assert fingerprint(folder) == before
    found = findings(tmp_path / "r.json")
    assert found["remote code"]["verdict"] == "right"
    assert "with another's source" in found["source matters"]["text"]
    assert "also with the tokenizer" in found["special tokens"]["text"]


def test_the_code_in_the_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without trust the folder's code is compared, not run; with trust it is what runs."""
    other = tmp_path / "model"
    shutil.copytree(folder, other)
    code = other / "modeling_custom_seq2seq.py"
    code.write_text(code.read_text() + "\n# another version\n")
    only = [f"--skip={name}" for name in ("special tokens", "gradients", "saving", "beams", "cache")]
    assert main(["doctor", str(other), *DEAR[1:], *only]) == 0
    assert "is of another version" in capsys.readouterr().out.replace("\n" + " " * 27, " ")
    assert main(["doctor", str(other), *DEAR[1:], *only, "--trust_remote_code"]) == 0
    assert "The folder gives a stranger" in capsys.readouterr().out


def test_a_form_given_with_the_data_is_kept(
    folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs").write_bytes(data.read_bytes())
    line = ["doctor", str(folder), str(tmp_path / "pairs"), *DEAR, "--source=word", "--target=sounds"]
    assert main([*line, "--data.format=tsv"]) == 0
    assert "examples of text" in capsys.readouterr().out


def test_a_config_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_seq2seq().config.save_pretrained(tmp_path / "ours")
    for name in (tmp_path / "ours", tmp_path / "ours" / "config.json"):
        assert main(["doctor", str(name), *DEAR]) == 0
        assert "random weights, float64, 8 examples of random ids" in capsys.readouterr().out
    tiny_stock("BART").config.save_pretrained(tmp_path / "bart")
    assert main(["doctor", str(tmp_path / "bart"), *DEAR]) == 1
    assert "WRONG  padding before" in capsys.readouterr().out


def test_weights_that_contradict_the_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file holds a projection of its own although the config ties it."""
    tiny_stock("BART").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.shared.weight"] + torch.ones(())
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert main(["doctor", str(tmp_path), *DEAR, "--skip=padding before"]) == 1
    assert "WRONG  tying" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["no/such/folder"], "is no folder, and the Hub"),
        (["EMPTY"], "or its config.json, found none at"),
        (["CAUSAL"], "Unrecognized configuration class"),
        (["MODEL", "--source", "word"], "source belongs to DATA"),
        (["MODEL", "nowhere.tsv"], "found none at nowhere.tsv"),
        (["MODEL", "DATA", "--source=spelling"], "names the column 'spelling'"),
        (["MODEL", "--skip=beam"], "invalid choice: 'beam'"),
        (["CONFIG", "DATA"], "Text needs a tokenizer"),
    ],
)
def test_wrong_usage(
    folder: Path, data: Path, tmp_path: Path, line: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    tiny_seq2seq().config.save_pretrained(tmp_path / "config")
    tiny_seq2seq().config.decoder.save_pretrained(tmp_path / "causal")
    places = {"EMPTY": tmp_path / "empty", "CAUSAL": tmp_path / "causal", "CONFIG": tmp_path / "config"}
    places |= {"MODEL": folder, "DATA": data}
    assert main(["doctor", *(str(places.get(part, part)) for part in line)]) == 2
    assert message in capsys.readouterr().err


def test_an_adapter_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert main(["doctor", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "`model` must be a whole model" in error
    assert "holds an adapter" in error
    assert "merge_and_unload" in error

"""The command line: outputs, messages and exit codes."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hf_custom_decoder import cli
from hf_custom_decoder.cli import main
from hf_custom_decoder.evaluation.batched_generation import generate_texts
from hf_custom_decoder.hub.model_folder import load_model_folder
from tests.tiny_pronunciation import save_tiny_model
from tests.tiny_recipes import write_recipe

WORDS = ["cat", "aback", "ta"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[str]:
    model, tokenizer = load_model_folder(folder)
    texts = [text for (text,) in generate_texts(model, tokenizer, WORDS, num_beams=2)]
    assert len(set(texts)) > 1
    return texts


def test_generate_from_arguments(folder: Path, expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--model", str(folder), "--num_beams", "2", *WORDS]) == 0
    assert capsys.readouterr().out.splitlines() == expected


def test_generate_from_file_and_pipe(
    folder: Path,
    expected: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = f"{WORDS[0]}\n\n{WORDS[1]}\n{WORDS[2]}\n"
    lines = [expected[0], "", *expected[1:]]
    file = tmp_path / "words.txt"
    file.write_text(text)
    command = ["generate", "--model", str(folder), "--num_beams=2", "--batch_size=2"]
    assert main([*command, "--file", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_several_outputs_stand_on_one_line(
    folder: Path, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "--model", str(folder), "--num_beams=2", "--num_return_sequences=2", *WORDS]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [len(line) for line in lines] == [2, 2, 2]
    assert [line[0] for line in lines] == expected


def test_longest_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--model", str(folder), "--max_new_tokens=2", "--num_beams=1", *WORDS]) == 0
    assert {len(line.split()) for line in capsys.readouterr().out.splitlines()} <= {0, 1, 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["generate", "cat"], "required: --model"),
        (["generate", "--model", "no/such/folder/here", "cat"], "is no folder, and the Hub"),
        (["generate", "--model", "FOLDER", ""], "must hold some characters"),
        (["generate", "--model", "FOLDER", "--file", "nowhere.txt"], "found none at nowhere.txt"),
        (["generate", "--model", "FOLDER", "--file", "nowhere.txt", "cat"], "not both"),
        (["generate", "--model", "FOLDER", "--batch_size=0", "cat"], "`batch_size` must be at least 1"),
        (["generate", "--model", "FOLDER", "--num_beams=x", "cat"], "invalid int value"),
        (["generate", "--model", "FOLDER", "--num_beams=0", "cat"], "`num_beams` must be at least 1, got 0"),
        (["generate", "--model", "FOLDER", "--max_new_tokens=-1", "cat"], "`max_new_tokens` must be at least 1"),
        (["quickstart", "--minutes=0"], "`minutes` must be a positive training time"),
        (["quickstart", "--minutes=1", "--max_steps=5"], "not allowed with argument"),
        (["quickstart", "--device=tpu"], "invalid choice: 'tpu'"),
        (["quickstart", "--decoder=mamba"], "invalid choice: 'mamba'"),
    ],
)
def test_wrong_usage_is_explained(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([str(folder) if argument == "FOLDER" else argument for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.jsonl.gz", "pairs"])
def test_generated_pairs_are_named_as_what_they_are(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    recipe, output = write_recipe(tmp_path), str(tmp_path / name)
    for line in (["distill", "--teacher", str(folder)], ["back-translate", "--model", str(folder), "--tag="]):
        text = ["--text", str(tmp_path / "train.jsonl")] if line[0] == "back-translate" else []
        assert main([line[0], str(recipe), *line[1:], *text, "--output", output]) == 2
        assert "`--output` must be named .json or .jsonl" in capsys.readouterr().err
    assert not list(tmp_path.glob("pairs*"))


def test_empty_pipe(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    assert main(["generate", "--model", str(folder)]) == 2
    assert "got nothing from standard input" in capsys.readouterr().err


def test_bytes_that_are_no_text(folder: Path) -> None:
    """In real processes, which alone turn bad bytes of a command line into surrogates."""
    command = [sys.executable, "-m", "hf_custom_decoder", "generate", "--model", str(folder)]
    environment = {**os.environ, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
    for more, given, message in (
        ([], b"cat\nT\xfcr\n", "byte 5 of standard input is 0xfc, in line 2"),
        ([b"T\xfcr"], b"", "with the byte 0xfc"),
    ):
        done = subprocess.run([*command, *more], input=given, capture_output=True, env=environment, check=False)
        assert done.returncode == 2
        assert message in done.stderr.decode()
        assert "Traceback" not in done.stderr.decode()


def test_missing_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_model(tmp_path)
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    assert main(["generate", "--model", str(tmp_path), "cat"]) == 2
    assert "holds a model but no tokenizer" in capsys.readouterr().err


def test_interrupt(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_model_folder", interrupt)
    assert main(["generate", "--model", str(folder), "cat"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_faults_of_ours_are_not_hidden(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(cli, "load_model_folder", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        main(["generate", "--model", str(folder), "cat"])


@pytest.mark.parametrize("command", ["quickstart", "generate"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "--num_beams" in capsys.readouterr().out


def test_module_streams_and_stops_when_its_reader_leaves(folder: Path, expected: list[str]) -> None:
    """In a real process: each batch is printed before the next input is there, and a closed pipe is no error."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_custom_decoder", "generate", "--model", folder, "--num_beams=2", "--batch_size=1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = threading.Timer(120, process.kill)  # seconds: without streaming the next line would wait for ever
    deadline.start()
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(f"{WORDS[0]}\n")
    process.stdin.flush()
    assert process.stdout.readline().rstrip("\n") == expected[0]
    process.stdout.close()
    process.stdin.write("cat\n" * 50)
    process.stdin.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0, errors
    deadline.cancel()
    assert "Error" not in errors

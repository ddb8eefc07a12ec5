"""Every example runs, in a very short mode: its parts fit together, its output folder loads."""

import ast
import gzip
import json
import random
import runpy
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = [file for file in sorted(EXAMPLES.glob("*.py")) if "__main__" in file.read_text()]
ENGLISH = ["a man", "a woman", "two dogs", "the child", "rides", "sees", "a bike", "the sea", "outside"]
GERMAN = ["ein Mann", "eine Frau", "zwei Hunde", "das Kind", "fährt", "sieht", "ein Rad", "das Meer", "draußen"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an example or a library leaves behind lies below the test's own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Files like those of Multi30k, of 48, 8 and 8 pairs; one of them is not packed."""
    draw = random.Random(0)
    for name, count in (("train", 48), ("val", 8), ("test2016", 8)):
        lines = []
        for _ in range(count):
            chosen = draw.choices(range(len(ENGLISH)), k=draw.randint(2, 5))
            pair = {"en": " ".join(ENGLISH[i] for i in chosen), "de": " ".join(GERMAN[i] for i in chosen)}
            lines.append(json.dumps(pair) + "\n")
        if name == "val":
            (tmp_path / f"en-de.{name}.jsonl").write_text("".join(lines))
        else:
            (tmp_path / f"en-de.{name}.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode()))
    return tmp_path


def run(name: str, *arguments: Any) -> None:
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]([str(argument) for argument in arguments])


def test_translation(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(
        "translate_multi30k",
        "--data",
        data,
        "--output",
        "out",
        "--max_steps",
        3,
        "--batch_size",
        8,
        "--vocab_size",
        300,
    )
    printed = capsys.readouterr().out
    assert "48 pairs, 300 tokens" in printed
    assert printed.count("nats a token, perplexity") == 2
    assert printed.count("\nref: ") == 5
    tokenizer, model = AutoTokenizer.from_pretrained("out"), AutoModelForSeq2SeqLM.from_pretrained("out")
    assert model.generate(**tokenizer(["a man"], return_tensors="pt", return_token_type_ids=False)).shape[0] == 1
    assert tokenizer.decode(tokenizer(" fährt draußen")["input_ids"], skip_special_tokens=True) == " fährt draußen"

    run("generate_and_attention", "--model", "out", "--text", "a man", "--prefix", "ein", "--picture", "map.png")
    assert "the 4 best of 4 beams" in capsys.readouterr().out
    assert Path("map.png").read_bytes().startswith(b"\x89PNG")


def test_translation_without_its_files_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no file \*\.train\.jsonl or \*\.train\.jsonl\.gz in"):
        run("translate_multi30k", "--data", tmp_path)


@pytest.mark.parametrize("more", [[], ["--train_encoder"]], ids=["frozen", "trained"])
def test_pretrained_encoder(data: Path, capsys: pytest.CaptureFixture[str], more: list[str]) -> None:
    """The real MiniLM of the default; what it was trained to stays as it is unless it is trained too."""
    file = data / "en-de.train.jsonl.gz"
    run("pretrained_encoder", "--data", file, "--output", "out", "--max_steps", 2, "--vocab_size", 300, *more)
    printed = capsys.readouterr().out
    assert "BertModel: " in printed
    assert "held-out pairs: " in printed
    assert "written: " in printed
    assert AutoTokenizer.from_pretrained("out/target_tokenizer").pad_token_id == 0
    encoder = AutoModelForSeq2SeqLM.from_pretrained("out").get_encoder()
    original = runpy.run_path(str(EXAMPLES / "pretrained_encoder.py"))["default_encoder"]()
    pretrained = type(encoder).from_pretrained(original, add_pooling_layer=False)
    same = [
        bool((one == other).all()) for one, other in zip(encoder.parameters(), pretrained.parameters(), strict=True)
    ]
    assert not any(same) if more else all(same)


def test_generation_and_attention(capsys: pytest.CaptureFixture[str]) -> None:
    run("generate_and_attention", "--max_steps", 2, "--text", "abc", "--prefix", "h", "--picture", "a/map.png")
    printed = capsys.readouterr().out
    assert printed.index("the 4 best") < printed.index("4 samples") < printed.index("beginning with 'h'")
    assert printed.split("beginning with 'h':")[1].split()[0].startswith("h")
    assert Path("a/map.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_head_says_how_to_start_and_what_to_expect(file: Path) -> None:
    head = ast.get_docstring(ast.parse(file.read_text())) or ""
    assert f"python examples/{file.name}" in head
    assert "Expected" in head or "prints" in head
    assert {"translate_multi30k", "pretrained_encoder", "generate_and_attention"} <= {one.stem for one in FILES}


def test_own_decoder(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    run("own_decoder", "--output", "out", "--max_steps", 3, "--hidden_size", 16)
    printed = capsys.readouterr().out
    assert printed.count("right   ") == 12
    assert "of 500 new words are spelled backwards" in printed
    assert "without this package: transformers_modules." in printed
    assert len((EXAMPLES / "convolutional_decoder.py").read_text().splitlines()) < 100

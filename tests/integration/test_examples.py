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


TEXT = (
    "Anna Berg was born in Oslo in 1921. She had 3 cats (all of them black). Later the family moved to Bergen, Norway."
)


def test_cloze_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Answers stand in their sentence, sentences in their context, a question holds words of its sentence alone."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"context": TEXT}) + "\n" + json.dumps({"context": TEXT}) + "\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps({"source": "Too short."}).encode()))
    text = ("--text", "a.jsonl", "b.jsonl.gz", "--column", "context", "source")
    run("cloze_questions", *text, "--sentences", 2, "--output", "out/cloze.jsonl.gz")
    rows = [json.loads(line) for line in gzip.decompress(Path("out/cloze.jsonl.gz").read_bytes()).splitlines()]
    assert f"{len(rows)} questions in out" in capsys.readouterr().out
    assert 6 <= len(rows) <= 9  # 3 sentences, of equal texts one
    for row in rows:
        assert row["sentence"] in row["context"] in TEXT
        assert row["answers"][0] in row["sentence"]
        asked = {word.rstrip(".,?") for word in row["question"].lower().split()}
        known = {word.rstrip(".,") for word in row["sentence"].lower().split()}
        assert asked - known <= {"who", "what", "when", "how", "many"}
    assert {row["question"].split()[0] for row in rows if row["answers"] == ["1921"]} <= {
        "When",
        "Was",
        "Anna",
        "Born",
    }
    whole = run_rows("cloze_questions", *text, "--sentences", 0, "--output", "whole.jsonl")
    assert {row["context"] for row in whole} == {TEXT}
    assert run_rows("cloze_questions", *text, "--sentences", 0, "--output", "whole.jsonl") == whole
    assert run_rows("cloze_questions", *text, "--sentences", 0, "--seed", 1, "--output", "whole.jsonl") != whole


def run_rows(name: str, *arguments: Any) -> list[dict[str, Any]]:
    """What an example writes into the JSON Lines file that its last argument names."""
    run(name, *arguments)
    return [json.loads(line) for line in Path(arguments[-1]).read_text().splitlines()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--column", "text"], r"a\.jsonl has no column 'text': it has context"),
        (["--column", "context", "source"], r"as many as there are files \(1\): 2 given"),
        (["--column", "context", "--keep", "0"], r"`--keep` must be above 0 and at most 1, got 0\.0"),
        (["--column", "context", "--per_sentence", "0"], r"`--per_sentence` must be at least 1, got 0"),
        (["--column", "context", "--sentences", "-1"], r"`--sentences` must be at least 0, got -1"),
    ],
)
def test_cloze_questions_refuses(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"context": TEXT}) + "\n")
    with pytest.raises(SystemExit, match=words):
        run("cloze_questions", "--text", "a.jsonl", *arguments, "--output", "out.jsonl")
    assert not Path("out.jsonl").exists()

"""The README's Python blocks run as they stand."""

import contextlib
import gzip
import io
import json
import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def blocks() -> list[str]:
    """The Python blocks of the README, but for those marked `no-run` (they need the network)."""
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def test_the_readme_is_short_enough() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) < 200


def test_the_first_block_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = blocks()[0]
    said = re.findall(r"print\(.*\)  # (.*)$", code, flags=re.MULTILINE)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(README), "exec"), {})
    assert printed.getvalue().splitlines() == said


def test_the_training_block_trains_and_generates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file of the same form, with fewer steps; the ten lines themselves are as printed."""
    monkeypatch.chdir(tmp_path)
    with gzip.open("en-de.train.jsonl.gz", "wt", encoding="utf-8") as file:
        for number in range(40):
            file.write(json.dumps({"en": f"A man and {number} dogs.", "de": f"Ein Mann und {number} Hunde."}) + "\n")
    code = blocks()[1]
    assert len([line for line in code.splitlines() if line and not line.startswith(("from ", "import "))]) <= 10
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code.replace("max_steps=100", "max_steps=2"), str(README), "exec"), {})
    assert "<pad>" in printed.getvalue()

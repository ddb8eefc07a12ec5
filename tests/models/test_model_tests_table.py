"""`docs/model_tests.md` names tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
DOCUMENT = TESTS.parent / "docs" / "model_tests.md"


def test_every_test_that_the_table_names_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", DOCUMENT.read_text(encoding="utf-8"))
    assert len(named) > 100
    missing = []
    for path, function in sorted(set(named)):
        file = TESTS / path
        if not file.exists() or not re.search(rf"^def {function}\(", file.read_text(encoding="utf-8"), re.MULTILINE):
            missing.append(f"{path}::{function}")
    assert not missing


def test_every_row_says_something() -> None:
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    for row in rows:
        check, answer = row.strip("|").split(" | ")
        assert check.strip()
        assert "::" in answer or "does not apply" in answer or "none of our" in answer or "not measured" in answer

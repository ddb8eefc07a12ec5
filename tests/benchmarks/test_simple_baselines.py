"""What can be had without a model: guesses by hand, and scores by the recipe's own metrics."""

import json
from pathlib import Path

import pytest

from benchmarks.simple_baselines import baselines, closest, first, nearest
from tests.tiny_recipes import write_recipe

pytest.importorskip("datasets")

CONTEXT = "question: Who wrote it? context: It is long. Ann wrote it in May. Nobody read it."


def test_the_guesses() -> None:
    pairs = [
        {"source": "name[Alimentum], area[city centre]", "references": ["In the centre.", "No."]},
        {"source": "name[Zizzi], area[riverside], food[Thai]", "references": ["By the river."]},
        {"source": "name[Zizzi], area[riverside]", "references": ["Zizzi."]},
    ]
    guess = nearest(pairs)
    assert guess("area[city centre], name[Zizzi]") == "In the centre."
    assert guess("name[Zizzi], area[riverside]") == "Zizzi.", "what it has too much counts"
    assert guess("nothing alike") == guess("???") == "In the centre."
    assert first("One two. Three!") == "One two."
    assert first("no mark") == "no mark"
    assert closest(CONTEXT) == "Ann wrote it in May."


def test_scores_are_those_of_the_recipe(tmp_path: Path) -> None:
    """Test pairs that are training pairs are found whole."""
    recipe = write_recipe(tmp_path, evaluation__metrics=["exact_match", "perplexity"], data__merge_references=True)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    test = tmp_path / "known.jsonl"
    test.write_text("\n".join(json.dumps(row) for row in rows[:4]) + "\n")
    scores = baselines(recipe, {"data.test": str(test)})
    assert set(scores) == {"nearest", "first", "closest"}
    assert set(scores["nearest"]) == {"exact_match"}
    assert scores["nearest"]["exact_match"].value == 100.0
    assert scores["first"]["exact_match"].value < 100.0

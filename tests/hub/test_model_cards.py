"""The committed cards say what the committed logs say, and `huggingface_hub` reads them."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

ROOT = Path(__file__).parents[2]
CARDS = sorted(path for path in (ROOT / "model_cards").glob("*.md") if path.name != "README.md")


def test_every_measured_recipe_has_a_card() -> None:
    recipes = {path.stem for path in (ROOT / "examples" / "recipes").glob("*.yaml")}
    measured = {path.stem for path in (ROOT / "benchmarks" / "quality").glob("*.json")}
    assert {path.stem for path in CARDS} == recipes & measured


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_cards_have_the_figures_of_their_logs(path: Path) -> None:
    log = json.loads((ROOT / "benchmarks" / "quality" / f"{path.stem}.json").read_text())
    card = ModelCard.load(path)
    found = {one.metric_name: one.metric_value for one in card.data.eval_results if one.dataset_split == "test"}
    expected = {name: pytest.approx(score["value"], abs=1e-4) for name, score in log["evaluation"]["scores"].items()}
    assert found == expected
    assert f"{log['training']['num_parameters']:,} parameters, {log['training']['num_steps']:,} optimizer" in card.text

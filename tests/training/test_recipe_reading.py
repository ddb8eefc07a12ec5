"""Recipes: files, command lines, and every mistake in them."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_custom_decoder.training.recipe_options import Recipe, describe_options
from hf_custom_decoder.training.recipe_reading import read_recipe, recipe_from_dict, recipe_to_yaml, take_overrides


def test_every_option_has_a_sentence_and_stands_in_the_help() -> None:
    text = describe_options()
    for section in fields(Recipe):
        for option in fields(section.type) if is_dataclass(section.type) else [section]:
            assert option.metadata["help"].endswith("."), option.name
            assert option.metadata["help"] in text


def test_a_recipe_survives_writing_and_reading(tmp_path: Path) -> None:
    recipe = recipe_from_dict(
        {
            "data": {"train": ["a.jsonl", "b.jsonl"], "source": "question: {q}"},
            "training": {"epochs": 2.5, "max_tokens": 100, "learning_rate": "1e-3"},
            "model": {"decoder": {"mixer_types": ["ssru", "full_attention"]}},
        }
    )
    assert recipe.training.learning_rate == 0.001
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_to_yaml(recipe))
    assert read_recipe(path) == recipe


def test_the_command_line_wins(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        yaml.safe_dump({"training": {"epochs": 3, "batch_size": 8}, "model": {"decoder": {"hidden_size": 8}}})
    )
    left, overrides = take_overrides(
        ["train", str(path), "--max_steps", "7", "--model.decoder.num_hidden_layers=2", "--fresh", "--warmup=0.5"],
        ("fresh",),
    )
    assert left == ["train", str(path), "--fresh"]
    recipe = read_recipe(path, overrides)
    assert (recipe.training.max_steps, recipe.training.epochs, recipe.training.batch_size) == (7, None, 8)
    assert recipe.model.decoder == {"hidden_size": 8, "num_hidden_layers": 2}
    assert recipe.training.warmup == 0.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"training": {"max_step": 5}}, "`training.max_step` is no option.*Did you mean `training.max_steps`"),
        ({"trainin": {}}, "Did you mean `training`"),
        ({"num_beam": 3}, "Did you mean `generation.num_beams`"),
        ({"data": {"qqq": 3}}, "Known here: dataset, config"),
        (
            {"training": {"max_steps": "many", "batch_size": 1}},
            "`training.max_steps` must be int or nothing, got 'many'",
        ),
        ({"training": {"max_steps": 2.5, "batch_size": 1}}, "must be int or nothing, got 2.5"),
        ({"data": {"lowercase": "perhaps"}}, "`data.lowercase` must be bool, got 'perhaps'"),
        ({"data": []}, "`data` must hold options by name"),
        ({"data": {"too_long": "keep"}}, "`data.too_long` must be one of drop, truncate, refuse, got 'keep'"),
        ({"data": {"max_rows": 0}}, "`data.max_rows` must be at least 1"),
        ({"training": {"max_steps": 5}}, "Exactly one of `training.max_tokens` and `training.batch_size`"),
        ({"training": {"max_steps": 5, "epochs": 1, "batch_size": 1}}, "Exactly one of `training.max_steps`"),
        ({"training": {"max_steps": 0, "batch_size": 1}}, "`training.max_steps` must be above 0"),
        ({"training": {"max_steps": 5, "batch_size": 1, "schedule": "step"}}, "`training.schedule` must be one of"),
        ({"training": {"max_steps": 5, "batch_size": 1, "ema_decay": 1.0}}, "`training.ema_decay` must be above 0"),
        (
            {"training": {"max_steps": 5, "batch_size": 1, "ema_decay": 0.9, "average_last": 2}},
            "`training.average_last` = 2 and `training.ema_decay`",
        ),
        (
            {"training": {"max_steps": 5, "batch_size": 1, "average_best": 2, "average_last": 2}},
            "`training.average_last` = 2 and `training.average_best`",
        ),
        ({"training": {"max_steps": 5, "batch_size": 1, "average_best": 2}}, "need validation data"),
        ({"training": {"max_steps": 5, "batch_size": 1, "patience": 2}}, "need validation data"),
        ({"training": {"max_steps": 5, "batch_size": 1, "metric": "blue"}}, "`training.metric` must be one of bleu"),
        ({"training": {"max_steps": 5, "batch_size": 1, "label_smoothing": 1}}, "`training.label_smoothing` must be"),
        (
            {"training": {"max_steps": 5, "batch_size": 1, "layer_decay": 1.5}},
            "`training.layer_decay` must be above 0",
        ),
        ({"training": {"max_steps": 5, "batch_size": 1, "teacher_weight": 0}}, "`training.teacher_weight` must be"),
        ({"training": {"max_steps": 5, "batch_size": 1, "teacher_temperature": 0}}, "`training.teacher_temperature`"),
        (
            {"training": {"max_steps": 5, "batch_size": 1, "source_dropout": 1}},
            "`training.source_dropout` must be from 0",
        ),
        ({"tokenizer": {"tags": ["<BT>", "<BT>"]}}, "`tokenizer.tags` must be different texts"),
        (
            {"tokenizer": {"tags": ["<b>", "<BT>"]}, "data": {"lowercase": True}},
            "`tokenizer.tags` must be in lower case .*got '<BT>'. Write '<bt>'",
        ),
        ({"training": {"max_steps": 5, "batch_size": 1, "r_drop": -1}}, "`training.r_drop` must be at least 0"),
        (
            {"training": {"max_steps": 5, "batch_size": 1, "r_drop": float("nan")}},
            "`training.r_drop` must be a finite",
        ),
        (
            {"training": {"max_steps": 5, "batch_size": 1, "learning_rate": float("inf")}},
            "`training.learning_rate` must be a finite number, got inf",
        ),
        (
            {
                "training": {"max_steps": 5, "batch_size": 1},
                "tasks": {"one": {"objective": "causal_lm", "weight": float("inf")}},
            },
            "`tasks.one.weight` must be a finite",
        ),
        (
            {"training": {"max_steps": 5, "batch_size": 1, "freeze": {"encoder": "never"}}},
            "`training.freeze.encoder` must be optimizer steps, at least 1, or always, got 'never'",
        ),
        ({"data": {"streaming": True}, "training": {"max_steps": 5, "max_tokens": 9}}, "Use batch_size"),
        ({"tokenizer": {"kind": "letters"}}, "`tokenizer.kind` must be one of bpe"),
        ({"tokenizer": {"target_kind": "word"}}, "`tokenizer.joint` is true"),
        ({"tokenizer": {"name": "x", "joint": False}}, "`tokenizer.name` .* one tokenizer for both sides"),
        ({"model": {"preset": "a", "pretrained": "b"}}, "`model.pretrained` and `model.preset`"),
        ({"model": {"pretrained": "b", "decoder": {"hidden_size": 3}}}, "brings its own shape"),
        ({"generation": {"num_beams": 0}}, "`generation.num_beams` must be at least 1"),
        ({"evaluation": {"metrics": ["bleu", "meteor"]}}, "`evaluation.metrics` must be one of .* got 'meteor'"),
    ],
)
def test_mistakes_are_named(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe_from_dict(content)


def test_mistakes_of_files_and_lines(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found none at nowhere.yaml"):
        read_recipe("nowhere.yaml")
    path = tmp_path / "recipe.yaml"
    path.write_text("data: [")
    with pytest.raises(ValueError, match="no valid YAML"):
        read_recipe(path)
    path.write_text("- a")
    with pytest.raises(ValueError, match="must hold sections by name"):
        read_recipe(path)
    with pytest.raises(ValueError, match="`--max_steps` needs a value, got --seed"):
        take_overrides(["--max_steps", "--seed", "3"], ())
    with pytest.raises(ValueError, match="Write --training.batch_size or --evaluation.batch_size"):
        read_recipe(None, {"batch_size": "3"})
    with pytest.raises(ValueError, match="`max_setps` is no option.*training.max_steps"):
        read_recipe(None, {"max_setps": "3"})


@pytest.mark.parametrize(
    ("option", "text", "expected"),
    [
        ("data.source", "translate: {en}", "translate: {en}"),
        ("data.source", "{en}", "{en}"),
        ("output", "007", "007"),
        ("card.title", "1.10", "1.10"),
        ("card.language", "no", "no"),
        ("card.language", "[de, en]", ["de", "en"]),
        ("data.revision", "0123456", "0123456"),
        ("data.config", "1_2", "1_2"),
        ("data.config", "null", None),
        ("card.summary", "C# and more # or less", "C# and more # or less"),
        ("card.summary", "'quoted: here'", "quoted: here"),
        ("data.train", "a,b.jsonl", "a,b.jsonl"),
        ("data.train", "[a.jsonl, b.jsonl]", ["a.jsonl", "b.jsonl"]),
        ("evaluation.metrics", "bleu,chrf", ["bleu", "chrf"]),
        ("training.learning_rate", "1e-3", 0.001),
        ("data.lowercase", "true", True),
        ("model.decoder.hidden_size", "8", 8),
        ("model.preset", "null", None),
        ("training.freeze", "{encoder: always}", {"encoder": "always"}),
        ("training.freeze.encoder", "3", 3),
    ],
)
def test_values_on_the_command_line(option: str, text: str, expected: Any) -> None:
    """A text is taken as it is, by options whose value is one; others read YAML."""
    length = {"training.max_steps": "1", "training.batch_size": "1"}
    found: Any = read_recipe(None, {**length, option: text})
    for name in option.split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    assert found == expected
    assert type(found) is type(expected)


def test_values_of_a_task_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("tasks: {qa: {objective: supervised, train: a, source: b, target: c}}")
    task = read_recipe(path, {"tasks.qa.source": "ask: {b}", "tasks.qa.weight": "2"}).tasks["qa"]
    assert (task.source, task.weight) == ("ask: {b}", 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("training:\n  seed: 1\ndata: {}\ntraining:\n  seed: 2\n", "gives `training` twice, in lines 1 and 4"),
        ("training:\n  seed: 1\n  seed: 2\n", "gives `seed` twice, in lines 2 and 3"),
        ("tasks:\n  a: {weight: 1, weight: 2}\n", "gives `weight` twice, in lines 2 and 2"),
    ],
)
def test_a_name_that_stands_twice(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_recipe(path)


def test_anchors_and_encodings_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    fields = "encoder: &side\n    hidden_size: 8\n    dropout: 0.1\n  decoder:\n    <<: *side\n    dropout: 0.2\n"
    path.write_text(f"\ufeffmodel:\n  {fields}", encoding="utf-8")
    model = read_recipe(path).model
    assert (model.encoder["dropout"], model.decoder) == (0.1, {"hidden_size": 8, "dropout": 0.2})
    path.write_bytes("card: {title: Grüße}".encode("latin-1"))
    with pytest.raises(ValueError, match=r"recipe\.yaml must be UTF-8, but byte 16 is 0xfc"):
        read_recipe(path)

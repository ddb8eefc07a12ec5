"""`evaluate`: figures, files, and where model and data come from."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from hf_custom_decoder.cli import main
from hf_custom_decoder.evaluation.batched_generation import generate_texts
from tests.tiny_recipes import write_pairs, write_recipe

pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_recipe(folder, evaluation__metrics=["error_rates", "token_f1", "perplexity"])
    assert main(["train", str(recipe), "--max_steps=300"]) == 0
    return folder


def results(folder: Path) -> dict[str, float]:
    content = json.loads((folder / "results.json").read_text())
    return {name: score["value"] for name, score in content["scores"].items()}


def test_outputs_and_figures(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["evaluate", str(trained / "recipe.yaml"), "--predictions", str(tmp_path / "scored")]
    assert main([*line, "--max_steps=300", "--evaluation.batch_size=3"]) == 0
    assert "token_f1" in capsys.readouterr().out
    rows = [json.loads(text) for text in (tmp_path / "scored" / "predictions.jsonl").read_text().splitlines()]
    pairs = [json.loads(text) for text in (trained / "test.jsonl").read_text().splitlines()]
    assert [(row["source"], row["references"]) for row in rows] == [(pair["en"], [pair["de"]]) for pair in pairs]
    model = AutoModelForSeq2SeqLM.from_pretrained(trained / "run")
    tokenizer = AutoTokenizer.from_pretrained(trained / "run")
    expected = [text for (text,) in generate_texts(model, tokenizer, [pair["en"] for pair in pairs])]
    assert [row["prediction"] for row in rows] == expected
    assert len(set(expected)) > 1
    wrong = sum(row["prediction"] != row["references"][0] for row in rows)
    assert results(tmp_path / "scored")["wrong_outputs"] == pytest.approx(100 * wrong / len(rows))
    log = json.loads((trained / "run" / "training_results.json").read_text())
    assert results(tmp_path / "scored")["perplexity"] < 3 * log["validation"]["perplexity"]


def test_a_folder_brings_its_recipe(trained: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "other.jsonl", 5, seed=7)
    line = ["evaluate", "--model", str(trained / "run"), "--data", str(tmp_path / "other.jsonl")]
    assert main([*line, "--metrics", "token_f1,perplexity", "--num_beams=1"]) == 0
    content = json.loads((trained / "run" / "evaluation" / "results.json").read_text())
    assert content["num_entries"] == 5
    assert set(content["scores"]) == {"token_f1", "perplexity"}
    assert content["generation"]["num_beams"] == 1


def test_perplexity_on_validation_is_that_of_training(trained: Path, tmp_path: Path) -> None:
    line = ["evaluate", "--model", str(trained / "run"), "--data", str(trained / "val.jsonl")]
    assert main([*line, "--metrics=perplexity", "--predictions", str(tmp_path)]) == 0
    stored = json.loads((trained / "run" / "training_results.json").read_text())["validation"]["perplexity"]
    assert results(tmp_path)["perplexity"] == pytest.approx(stored, rel=1e-5)
    assert not (tmp_path / "predictions.jsonl").exists()


def test_equal_sources_are_scored_once(trained: Path, tmp_path: Path) -> None:
    rows = [{"en": "alte Katze", "de": "Katze alte"}, {"en": "hier", "de": "hier"}, {"en": "alte Katze", "de": "oft"}]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    line = ["evaluate", "--model", str(trained / "run"), "--data", str(tmp_path / "data.jsonl"), "--metrics=token_f1"]
    assert main([*line, "--merge_references=true", "--predictions", str(tmp_path)]) == 0
    written = [json.loads(text) for text in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [row["references"] for row in written] == [["Katze alte", "oft"], ["hier"]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([], "a recipe, or `--model FOLDER`"),
        (["--model", "no/such/folder", "--data", "x.jsonl", "--metrics=token_f1"], "is no folder, and the Hub"),
        (["--model", "RUN", "--data", "nowhere.jsonl"], "found none at nowhere.jsonl"),
        (["--model", "RUN", "--source=fr"], "names the column 'fr'"),
        (["--model", "RUN", "--metric=bleu2"], "`training.metric` must be one of"),
        (["--model", "RUN", "--metrics=blue"], "`evaluation.metrics` must be one of"),
    ],
)
def test_mistakes(trained: Path, line: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *(str(trained / "run") if part == "RUN" else part for part in line)]) == 2
    assert message in capsys.readouterr().err

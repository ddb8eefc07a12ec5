"""Cleaning as lines of a recipe: the report beside the model, streams, and refusals before training."""

import json
from pathlib import Path

import pytest

from hf_custom_decoder.cli import main
from tests.tiny_recipes import write_recipe

pytest.importorskip("datasets")


def dirty(folder: Path) -> Path:
    """60 good pairs (some of them equal), and one bad one of each kind, the last one out of the test data."""
    recipe = write_recipe(folder, training__max_steps=2)
    lines = (folder / "train.jsonl").read_text().splitlines()
    lines += [json.dumps({"en": None, "de": "oft"}), json.dumps({"en": "кошка тут", "de": "Katze hier"})]
    lines += [(folder / "test.jsonl").read_text().splitlines()[0]]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return recipe


@pytest.mark.parametrize("streaming", [False, True])
def test_the_report_beside_the_model(tmp_path: Path, streaming: bool, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", str(dirty(tmp_path)), "--overlap=pair", "--source_script=latin", "--duplicates=true"]
    if streaming:
        line += ["--streaming=true", "--training.batch_size=70", "--shuffle_rows=100"]
    assert main(line) == 0
    pairs = [tuple(json.loads(row).values()) for row in (tmp_path / "train.jsonl").read_text().splitlines()]
    held_out = [
        tuple(json.loads(row).values())
        for name in ("val", "test")
        for row in (tmp_path / f"{name}.jsonl").read_text().splitlines()
    ]
    good = pairs[:60]
    repeated = len(good) - len(set(good)) + (pairs[-1] in good)
    overlapping = len((set(good) | {pairs[-1]}) & set(held_out))
    report = json.loads((tmp_path / "run" / "cleaning.json").read_text())
    assert report["num_rows"] == 63
    assert report["counts"]["empty"] == 1
    assert report["counts"]["source_script"] == 1
    assert report["samples"]["source_script"][0]["source"] == "кошка тут"
    # A pair that is in the test data stays out of what was seen, so its second one counts there too.
    assert report["counts"]["overlap"] >= overlapping >= 1
    assert report["counts"]["overlap"] + report["counts"]["duplicate"] == overlapping + repeated
    assert report["num_kept"] == 63 - sum(report["counts"].values())
    said = capsys.readouterr().out
    assert f"left {report['num_kept']:>12}".split() in [text.split() for text in said.splitlines()]
    if not streaming:
        assert json.loads((tmp_path / "run" / "training_results.json").read_text())["num_pairs"] == report["num_kept"]


def test_no_rule_no_report(tmp_path: Path) -> None:
    assert main(["train", str(dirty(tmp_path))]) == 0
    assert not (tmp_path / "run" / "cleaning.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max_characters=1"], "must leave some training pairs"),
        (["--overlap=pair", "--data.validation=", "--data.test="], "compares with `data.validation` and `data.test`"),
        (["--cleaning.max_word=1"], "Did you mean `cleaning.max_words`"),
        (["--source_script=klingon"], "must name scripts of Unicode"),
    ],
)
def test_refused_before_training(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(dirty(tmp_path)), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

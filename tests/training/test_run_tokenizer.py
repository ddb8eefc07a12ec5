"""`tokenizer`: the folder, its figures, and training that takes it; variations of a recipe through `train`."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from hf_custom_decoder.cli import main
from hf_custom_decoder.data.tokenizer_training import train_tokenizer
from hf_custom_decoder.training.run_tokenizer import tokenizer_figures
from tests.tiny_recipes import write_recipe
from tests.training.test_run_recipe import KILL, KILLED_WITHIN_A_STEP

pytest.importorskip("datasets")

VARIED: dict[str, Any] = {
    "tokenizer__kind": "bpe",
    "tokenizer__bpe_dropout": 0.2,
    "training__source_dropout": 0.1,
    "training__source_deletion": 0.1,
    "training__source_shuffle": 2,
    "data__max_source_length": 60,
    "data__max_target_length": 60,
    "training__max_tokens": 300,
}


def test_the_folder_and_training_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path)
    assert main(["tokenizer", str(recipe)]) == 0
    said = capsys.readouterr().out
    assert "tokenizer: 16 tokens, 1.000 a word, 0.000 % unknown, on validation text" in said
    folder = tmp_path / "run-tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 16
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "run.training").exists()
    assert main(["tokenizer", str(recipe), "--kind=character", f"--folder={folder}"]) == 0  # takes the place of it
    assert len(AutoTokenizer.from_pretrained(folder)) > 16
    assert main(["train", str(recipe), "--max_steps=1", f"--tokenizer.name={folder}"]) == 0
    vocabulary = AutoTokenizer.from_pretrained(tmp_path / "run").get_vocab()
    assert vocabulary == AutoTokenizer.from_pretrained(folder).get_vocab()


def test_a_folder_with_more_than_a_tokenizer_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    assert main(["train", str(recipe), "--max_steps=1", "--joint=false"]) == 0
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert main(["tokenizer", str(recipe), f"--folder={tmp_path / 'run'}"]) == 2
    assert "nothing but a tokenizer" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before
    folder = tmp_path / "two"
    assert main(["tokenizer", str(recipe), f"--folder={folder}", "--joint=false"]) == 0
    assert main(["tokenizer", str(recipe), f"--folder={folder}"]) == 0
    (folder / "target_tokenizer").mkdir()
    (folder / "target_tokenizer" / "notes.txt").touch()
    assert main(["tokenizer", str(recipe), f"--folder={folder}"]) == 2
    assert "holds target_tokenizer" in capsys.readouterr().err
    assert main(["tokenizer", str(recipe), f"--folder={recipe}"]) == 2
    assert "is a file" in capsys.readouterr().err


def test_one_a_side_and_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path)
    assert main(["tokenizer", str(recipe), "--joint=false", "--target_kind=character", "--data.validation="]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("source tokenizer: 16 tokens, 1.000 a word")
    assert lines[1].startswith("target tokenizer: ")
    assert lines[1].endswith("on training text")
    assert (tmp_path / "run-tokenizer" / "target_tokenizer" / "tokenizer.json").is_file()
    recipe.write_text(recipe.read_text() + 'tasks: {"spans": {"text": ["en", "de"]}}\n')
    assert main(["tokenizer", str(recipe)]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run-tokenizer")
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == 4
    assert main(["pretrain", str(recipe), "--max_steps=1", f"--tokenizer.name={tmp_path / 'run-tokenizer'}"]) == 0


def test_figures_counted_by_hand() -> None:
    tokenizer = train_tokenizer(["a b", "a b", "c"], kind="word", vocab_size=9, max_length=9)
    figures = tokenizer_figures(tokenizer, ["a b c", "d"])  # c came once only
    assert figures == {"vocab_size": 6, "tokens_per_word": 1.0, "unknown_share": 0.5}
    figures = tokenizer_figures(
        train_tokenizer(["ab cd"] * 2, kind="character", vocab_size=9, max_length=9), ["ab cd"]
    )
    assert figures["tokens_per_word"] == 2.5


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--tokenizer.name=some/where"], "it takes that of some/where"),
        (["--folder=FOLDER"], "nothing but a tokenizer"),
        (["--data.train=nowhere.jsonl"], "found none at nowhere.jsonl"),
    ],
)
def test_refused_without_harm(
    tmp_path: Path, line: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    assert main(["tokenizer", str(recipe), *(part.replace("FOLDER", str(tmp_path)) for part in line)]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "train.jsonl").is_file()


def test_killed_runs_with_variations_end_with_the_same_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, **VARIED)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WITHIN_A_STEP + KILL, "train", str(recipe)],
        env=os.environ,
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert main(["train", str(recipe)]) == 0
    assert "Going on after" in capsys.readouterr().out
    assert main(["train", str(recipe), "--output", str(tmp_path / "whole")]) == 0
    resumed, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert main(["train", str(recipe), "--bpe_dropout=0", "--output", str(tmp_path / "plain")]) == 0
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    assert not all(torch.equal(plain[name], whole[name]) for name in whole)
    assert json.loads((tmp_path / "run" / "training_results.json").read_text())["num_pairs"] == 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bpe_dropout=0.1"], "`tokenizer.bpe_dropout` needs a tokenizer made of merges"),
        (["--bpe_dropout=1"], "`tokenizer.bpe_dropout` must be from 0 to below 1"),
        (["--source_deletion=1"], "`training.source_deletion` must be from 0 to below 1"),
        (["--source_shuffle=-1"], "`training.source_shuffle` must be at least 0"),
        (
            ["--source_dropout=0.1", "--streaming=true", "--training.batch_size=4"],
            "`training.source_dropout` draws by pass and row of the pairs of `train`",
        ),
        (["--bpe_dropout=0.1", "--tasks.a.text=en"], "got `tasks`"),
    ],
)
def test_variations_that_are_refused(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(write_recipe(tmp_path)), *options]) == 2
    assert message in capsys.readouterr().err


def test_lower_case_stays_with_the_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, data__lowercase=True, training__max_steps=1, tokenizer__joint=False)
    assert main(["train", str(recipe), "--tie_encoder_decoder_embeddings=false"]) == 0
    assert "lower-case" not in capsys.readouterr().out
    for folder in (tmp_path / "run", tmp_path / "run" / "target_tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer("KATZE Tür")["input_ids"] == tokenizer("katze tür")["input_ids"] != [3, 3, 2]
        assert not any(word != word.lower() for word in tokenizer.get_vocab())
    assert main(["tokenizer", str(recipe), "--joint=true", "--folder", str(tmp_path / "lower")]) == 0
    assert (
        main(["tokenizer", str(recipe), "--joint=true", "--lowercase=false", "--folder", str(tmp_path / "both")]) == 0
    )
    for name in ("lower", "both"):
        line = ["train", str(recipe), "--joint=true", "--tokenizer.name", str(tmp_path / name), "--fresh"]
        capsys.readouterr()
        assert main([*line, "--output", str(tmp_path / name) + "-run"]) == 0
        warned = "both keeps upper case: `generate` has to be given lower-case text." in capsys.readouterr().out
        assert warned == (name == "both")
    spans = '{"one": {"objective": "span_corruption", "text": "de"}}'
    content = write_recipe(tmp_path, data__lowercase=True).read_text() + f"tasks: {spans}\n"
    (tmp_path / "tasks.yaml").write_text(content)
    assert main(["tokenizer", str(tmp_path / "tasks.yaml"), "--folder", str(tmp_path / "tasks")]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tasks")
    assert tokenizer("KATZE<extra_id_0>")["input_ids"] == tokenizer("katze<extra_id_0>")["input_ids"]
    assert tokenizer.unk_token_id not in tokenizer("KATZE<extra_id_0>")["input_ids"]

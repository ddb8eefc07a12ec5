"""`pretrain`: every objective to a folder that `train` goes on from, its refusals, and a run that was killed."""

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
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from hf_custom_decoder.cli import main
from hf_custom_decoder.training.recipe_reading import read_recipe
from tests.tiny_recipes import write_recipe
from tests.training.test_run_recipe import KILL, KILLED_WITHIN_A_STEP

pytest.importorskip("datasets")

MIXED: dict[str, Any] = {
    "spans": {"objective": "span_corruption", "text": ["en", "de"], "corruption_rate": 0.3, "prefix": "heute hier "},
    "holes": {"objective": "text_infilling", "text": "de", "permute_sentences": True},
    "order": {"objective": "sentence_permutation", "text": "de"},
    "rest": {"objective": "prefix_lm", "text": "de"},
    "all": {"objective": "causal_lm", "text": "de"},
    "turn": {"objective": "supervised", "prefix": "rote alte ", "max_rows": 20},
}


def write_pretraining(folder: Path, tasks: dict[str, Any] = MIXED, **changes: Any) -> Path:
    path = write_recipe(folder, **changes)
    path.write_text(path.read_text() + "tasks: " + json.dumps(tasks) + "\n")
    return path


def test_a_mixture_leaves_a_folder_that_training_goes_on_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_pretraining(tmp_path, pretraining__mixing_temperature=2)
    assert main(["pretrain", str(recipe)]) == 0
    said = capsys.readouterr().out
    assert "Task spans (span_corruption): 1" in said
    assert "Task turn (supervised): 20 examples" in said
    folder = tmp_path / "run"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.mask_token == "<mask>"
    assert "<extra_id_0>" in tokenizer.all_special_tokens
    assert read_recipe(folder / "recipe.yaml").tasks["spans"].corruption_rate == 0.3
    assert json.loads((folder / "training_results.json").read_text())["validation"]["perplexity"] > 1
    assert main(["pretrain", str(recipe)]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main(["pretrain", str(recipe), "--tasks.spans.corruption_rate=0.2"]) == 2
    assert "`tasks.spans` must be the same" in capsys.readouterr().err

    second = tmp_path / "second"
    second.mkdir()
    line = ["train", str(write_recipe(second, model__encoder={}, model__decoder={})), "--max_steps=1"]
    assert main([*line, f"--model.pretrained={folder}", "--learning_rate=1e-9"]) == 0
    assert AutoTokenizer.from_pretrained(second / "run").get_vocab() == tokenizer.get_vocab()
    before, after = (load_file(path / "model.safetensors") for path in (folder, second / "run"))
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, rtol=0, atol=1e-8)


def test_killed_pretraining_ends_with_the_same_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_pretraining(tmp_path, training__max_steps=12)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WITHIN_A_STEP + KILL, "pretrain", str(recipe)],
        env=os.environ,
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert [path.name for path in (tmp_path / "run.training").glob("step-*")] == ["step-8"]
    assert main(["pretrain", str(recipe)]) == 0
    assert "Going on after" in capsys.readouterr().out
    assert main(["pretrain", str(recipe), "--output", str(tmp_path / "whole")]) == 0
    resumed, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.slow
def test_two_processes_see_what_one_that_accumulates_sees(tmp_path: Path) -> None:
    side = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "dropout": 0.0}
    recipe = write_pretraining(tmp_path, model__encoder=side, model__decoder=side, training__adam_epsilon=0.01)
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
        + ["-m", "hf_custom_decoder", "pretrain", str(recipe)],
        env=os.environ,
        capture_output=True,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr.decode()[-3000:]
    assert main(["pretrain", str(recipe), "--accumulation", "2", "--output", str(tmp_path / "alone")]) == 0
    both, alone = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "alone"))
    for name, weight in alone.items():
        torch.testing.assert_close(both[name], weight, rtol=1e-5, atol=1e-6)


def test_plain_text_joined_into_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "book.txt").write_text("Katze läuft.\n\nTür singt!\n" * 40)
    tasks = {"book": {"objective": "span_corruption", "train": str(tmp_path / "book.txt"), "text": ["text"]}}
    line = ["pretrain", str(write_pretraining(tmp_path, tasks)), "--data.format=text", "--max_steps=2"]
    assert main([*line, "--window=12", "--join_documents=true"]) == 0
    assert "Task book (span_corruption): 20 examples" in capsys.readouterr().out  # 240 tokens, ends included
    assert main([*line, "--window=12", f"--output={tmp_path / 'second'}"]) == 0
    assert "Task book (span_corruption): 80 examples" in capsys.readouterr().out  # each line by itself


@pytest.mark.parametrize(
    ("tasks", "options", "message"),
    [
        ({}, [], "`tasks` must name at least one task"),
        ({"a": {"objective": "span_coruption"}}, [], "`tasks.a.objective` must be one of span_corruption"),
        ({"a": {"corruption_rat": 0.1}}, [], "Did you mean `tasks.a.corruption_rate`"),
        ({"a": {"text": "fr"}}, [], "`tasks.a.text` names the column 'fr'"),
        ({"a": {}}, [], "`tasks.a.text` must name the column"),
        ({"a": {"text": "en", "corruption_rate": 1}}, [], "`tasks.a.corruption_rate` must be above 0 and below 1"),
        ({"a": {"text": "en", "source": "de"}}, [], "`tasks.a.source` belongs to the objective supervised"),
        ({"a": {"text": "en", "objective": "supervised"}}, [], "`tasks.a.text` belongs to unlabelled text"),
        (
            {"a": {"text": "en", "permute_sentences": True}},
            [],
            "`tasks.a.permute_sentences` belongs to text_infilling",
        ),
        ({"a": {"text": "en", "weight": 0}}, [], "`tasks.a.weight` must be above 0"),
        ({"a": {"text": "en"}}, ["--window=40"], "A window of 40 tokens under `tasks.a.objective` span_corruption"),
        ({"a": {"text": "en"}}, ["--metric=bleu"], "measured by its loss"),
        ({"a": {"text": "en"}}, ["--joint=false"], "got `tokenizer.joint: false`"),
        ({"a": {"text": "en"}}, ["--data.train="], "`tasks.a.train` (or `data.train`) must name data"),
        (
            {"a": {"text": "en"}},
            ["--pretraining.mixing_temperature=0"],
            "`pretraining.mixing_temperature` must be at least 1",
        ),
    ],
)
def test_refused_before_pretraining(
    tmp_path: Path, tasks: dict[str, Any], options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", str(write_pretraining(tmp_path, tasks)), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_tasks_and_tokenizers_of_the_other_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(write_pretraining(tmp_path))]) == 2
    assert "`tasks` belong to pre-training" in capsys.readouterr().err
    plain = tmp_path / "plain"
    plain.mkdir()
    assert main(["train", str(write_recipe(plain)), "--max_steps=1"]) == 0
    recipe = write_pretraining(tmp_path, {"spans": {"text": "en"}})
    capsys.readouterr()
    assert main(["pretrain", str(recipe), f"--tokenizer.name={plain / 'run'}"]) == 2
    assert "sentinels for span_corruption, found no <extra_id_0>" in capsys.readouterr().err

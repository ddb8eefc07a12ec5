"""`train` from text to a finished folder, its refusals, and runs that were killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from hf_custom_decoder.cli import main
from hf_custom_decoder.training.optimization import build_optimizer, build_schedule
from hf_custom_decoder.training.recipe_reading import read_recipe, recipe_from_dict
from hf_custom_decoder.training.run_recipe import train_recipe
from hf_custom_decoder.training.weight_averages import average_checkpoints
from tests.tiny_recipes import tiny_recipe, write_pairs, write_recipe

pytest.importorskip("datasets")

KILLED_WITHIN_A_STEP = """
from hf_custom_decoder.training.recipe_trainer import RecipeTrainer as Owner
NAME, CALLS = "training_step", 10
"""
KILLED_WITHIN_A_CHECKPOINT = """
from hf_custom_decoder.training.recipe_trainer import RecipeTrainer as Owner
NAME, CALLS = "_save_scaler", 2
"""
KILL = """
import os, signal, sys
from hf_custom_decoder.cli import main
calls, original = 0, getattr(Owner, NAME)
def counted(*args, **kwargs):
    global calls
    calls += 1
    if calls == CALLS:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)
setattr(Owner, NAME, counted)
sys.exit(main(sys.argv[1:]))
"""


def lines() -> tuple[list[str], Any]:
    heard: list[str] = []
    return heard, heard.append


def test_a_finished_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path)
    assert main(["train", str(recipe), "--max_steps", "6"]) == 0
    folder = tmp_path / "run"
    assert not (tmp_path / "run.training").exists()
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    assert (model.config.pad_token_id, model.config.eos_token_id, model.config.start_token_id) == (0, 2, 1)
    assert model.generation_config.num_beams == 2
    assert model.generation_config.max_new_tokens == 10
    results = json.loads((folder / "training_results.json").read_text())
    assert results["num_steps"] == 6
    assert results["num_pairs"] == 60
    log = json.loads((folder / "training_log.json").read_text())
    shares = [entry["padding_share"] for entry in log if "padding_share" in entry]
    assert len(shares) == 3
    assert all(0 <= share < 0.5 for share in shares)
    card = (folder / "README.md").read_text()
    assert "Perplexity a token" in card
    assert "On val.jsonl, validation split" in card
    assert "6 optimizer steps" in card
    assert read_recipe(folder / "recipe.yaml").training.max_steps == 6
    assert "perplexity" in capsys.readouterr().out
    assert main(["train", str(recipe), "--max_steps", "6"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main(["train", str(recipe), "--max_steps", "7"]) == 2
    assert "`training.max_steps` must be the same" in capsys.readouterr().err
    assert main(["generate", "--model", str(folder), "Katze läuft"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without an accelerator")
def test_bf16_without_an_accelerator(tmp_path: Path) -> None:
    """`device: auto` means the CPU there: the arithmetic is another, the weights stay float32."""
    weights = {}
    for precision in ("fp32", "bf16"):
        recipe = write_recipe(tmp_path, training__device="auto", training__precision=precision)
        assert main(["train", str(recipe), "--output", str(tmp_path / precision)]) == 0
        weights[precision] = load_file(tmp_path / precision / "model.safetensors")
        assert {weight.dtype for weight in weights[precision].values()} == {torch.float32}
    distance = {name: float((weights["bf16"][name] - one).abs().max()) for name, one in weights["fp32"].items()}
    assert 0.0 < max(distance.values()) < 0.5, distance


@pytest.mark.parametrize("moment", [KILLED_WITHIN_A_STEP, KILLED_WITHIN_A_CHECKPOINT], ids=["step", "checkpoint"])
def test_killed_runs_end_with_the_same_weights(
    tmp_path: Path, moment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"training__accumulation": 2 if moment is KILLED_WITHIN_A_CHECKPOINT else 1}
    options |= {"training__ema_decay": 0.9} if moment is KILLED_WITHIN_A_STEP else {"training__average_last": 2}
    recipe = write_recipe(tmp_path, **options)
    killed = subprocess.run(
        [sys.executable, "-c", moment + KILL, "train", str(recipe)], env=os.environ, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    work = tmp_path / "run.training"
    assert [path.name for path in work.glob("step-*")] == (
        ["step-8"] if moment is KILLED_WITHIN_A_STEP else ["step-4"]
    )
    assert (work / "checkpoint-8").exists() == (moment is KILLED_WITHIN_A_CHECKPOINT)
    assert main(["train", str(recipe)]) == 0
    assert "Going on after" in capsys.readouterr().out
    assert main(["train", str(recipe), "--output", str(tmp_path / "whole")]) == 0
    resumed, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_damaged_checkpoints_are_passed_over(tmp_path: Path) -> None:
    from hf_custom_decoder.training.whole_checkpoints import whole_checkpoints

    recipe = recipe_from_dict(tiny_recipe(tmp_path, training__keep_checkpoints=3))
    heard, report = lines()

    def stop(text: str) -> None:
        if text.startswith("perplexity"):
            raise RuntimeError("stopped after training")

    with pytest.raises(RuntimeError, match="stopped"):
        _train_without_publishing(recipe, stop)
    work = tmp_path / "run.training"
    assert [path.name for path in whole_checkpoints(work, report)] == ["step-4", "step-8", "step-10"]
    assert not heard
    weights = work / "step-10" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    (work / "step-8" / "optimizer.pt").unlink()
    assert [path.name for path in whole_checkpoints(work, report)] == ["step-4"]
    assert "optimizer.pt is missing" in heard[0]
    assert "model.safetensors is not as it was written" in heard[1]
    heard.clear()
    train_recipe(recipe, report)
    assert "Going on after 4 of 10 steps." in heard


def _train_without_publishing(recipe: Any, report: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_custom_decoder.training.final_model.write_model_card", lambda *a: report("perplexity"))
        train_recipe(recipe, lambda text: None)


def test_a_run_learns_and_stops_early(tmp_path: Path) -> None:
    recipe = recipe_from_dict(
        tiny_recipe(
            tmp_path,
            training__max_steps=400,
            training__metric="exact_match",
            training__patience=2,
            training__save_steps=20,
            training__learning_rate=1e-6,
        )
    )
    heard, report = lines()
    folder = train_recipe(recipe, report)
    results = json.loads((folder / "training_results.json").read_text())
    assert results["num_steps"] == 60  # a learning rate of nothing: the first measurement stays the best
    assert results["final_weights"] == "best eval_exact_match"


@pytest.mark.parametrize("streaming", [False, True])
def test_batch_size_epochs_and_streams(tmp_path: Path, streaming: bool) -> None:
    content = tiny_recipe(tmp_path, data__streaming=streaming, training__batch_size=16, training__max_tokens=None)
    if not streaming:
        content["training"].update(max_steps=None, epochs=1.5)
    train_recipe(recipe_from_dict(content), lambda text: None)
    results = json.loads((tmp_path / "run" / "training_results.json").read_text())
    assert results["num_steps"] == (10 if streaming else 6)


def test_one_tokenizer_a_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, tokenizer__kind="character", tokenizer__target_kind="word", tokenizer__joint=False)
    assert main(["train", str(recipe), "--max_steps=2", "--tie_encoder_decoder_embeddings=false"]) == 0
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run")
    sides = [AutoTokenizer.from_pretrained(tmp_path / "run" / name) for name in ("", "target_tokenizer")]
    assert model.config.encoder.vocab_size == len(sides[0])
    assert model.config.decoder.vocab_size == len(sides[1]) != len(sides[0])
    capsys.readouterr()
    assert main(["generate", "--model", str(tmp_path / "run"), "Katze"]) == 0
    words = set(capsys.readouterr().out.split())
    assert words <= set(sides[1].get_vocab())


def test_the_weights_of_the_mean(tmp_path: Path) -> None:
    recipe = recipe_from_dict(tiny_recipe(tmp_path, training__average_last=2))
    kept: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "hf_custom_decoder.training.recipe_folder.RecipeFolder.close", lambda folder: kept.update(work=folder.work)
        )
        train_recipe(recipe, lambda text: None)
    steps = [load_file(kept["work"] / name / "model.safetensors") for name in ("step-8", "step-10")]
    final = load_file(tmp_path / "run" / "model.safetensors")
    for name, weight in final.items():
        torch.testing.assert_close(weight, (steps[0][name] + steps[1][name]) / 2, rtol=1e-6, atol=1e-7)
        assert not torch.equal(steps[0][name], steps[1][name])
    with pytest.raises(ValueError, match="holds? model.safetensors|found neither"):
        average_checkpoints([tmp_path])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__source": "fr"}, "names the column 'fr'"),
        ({"data__max_source_length": 1}, "all 60 have more than 1 tokens"),
        ({"data__too_long": "refuse", "data__max_target_length": 4}, "A pair of train has"),
        (
            {"data__max_target_length": 600, "training__max_tokens": 2000},
            "within the positions of the model's decoder",
        ),
        ({"training__max_tokens": 8}, "must hold the longest pair"),
        ({"model__decoder": {"hidden_siz": 3}}, "hidden_siz"),
        ({"model__decoder": {"layers": 1}}, "`model.decoder.layers` is no option of a recipe. Known here: "),
        ({"model__encoder": {"zzz": 1}}, "`model.encoder.zzz` is no option of a recipe"),
        ({"model__preset": "transformer-small"}, "transformer-small"),
        ({"card__language": ""}, "`card.language` must hold some text"),
        ({"card__limits": " "}, "`card.limits` must hold some text"),
        ({"training__seed": -1}, "`training.seed` must be from 0"),
        ({"training__adam_beta1": 1.5}, "`training.adam_beta1` must be from 0 to below 1"),
        ({"tokenizer__name": "no/such/tokenizer"}, "'no/such/tokenizer' could not be read"),
        ({"data__dataset": "nobody/nothing"}, "could not be read"),
    ],
)
def test_refused_before_training(
    tmp_path: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(write_recipe(tmp_path, **changes))]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("validates", [True, False])
def test_a_run_that_diverges_is_not_published(
    tmp_path: Path, validates: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    changes: dict[str, Any] = {} if validates else {"data__validation": None}
    path = write_recipe(tmp_path, training__learning_rate=1e30, training__clip_norm=0.0, training__warmup=0, **changes)
    assert main(["train", str(path)]) == 2
    told = capsys.readouterr().err
    assert "after step" in told
    assert "lower `training.learning_rate`" in told
    assert not (tmp_path / "run").exists()


def test_weights_of_the_last_step_are_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their loss is never logged."""
    one = {"training__learning_rate": 1e39, "training__max_steps": 1, "training__warmup": 0}
    path = write_recipe(tmp_path, data__validation=None, **one)
    assert main(["train", str(path)]) == 2
    assert "The trained weights must be finite" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_label_smoothing_is_that_of_the_recipe(tmp_path: Path) -> None:
    """Also none, where the model to go on from had some."""
    content = tiny_recipe(tmp_path, training__max_steps=1, training__label_smoothing=0.1)
    first = train_recipe(recipe_from_dict(content), lambda text: None)
    assert json.loads((first / "config.json").read_text())["label_smoothing"] == 0.1
    content = tiny_recipe(tmp_path, training__max_steps=1, output=str(tmp_path / "second"), tokenizer={})
    content["model"] = {"pretrained": str(first)}
    second = train_recipe(recipe_from_dict(content), lambda text: None)
    assert json.loads((second / "config.json").read_text())["label_smoothing"] == 0.0


def test_a_card_of_several_languages(tmp_path: Path) -> None:
    content = tiny_recipe(tmp_path, training__max_steps=1, card={"language": ["de", "en"], "title": "Two"})
    text = (train_recipe(recipe_from_dict(content), lambda line: None) / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(text.split("---")[1])["language"] == ["de", "en"]


def test_existing_tokenizers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(write_recipe(tmp_path)), "--max_steps=1"]) == 0
    folder = tmp_path / "run"
    settings = folder / "tokenizer_config.json"
    stored = json.loads(settings.read_text())
    stored.pop("eos_token")
    settings.write_text(json.dumps(stored))
    line = ["train", str(tmp_path / "recipe.yaml"), "--max_steps=1", f"--output={tmp_path / 'second'}"]
    capsys.readouterr()
    assert main([*line, f"--tokenizer.name={folder}"]) == 2
    assert "must have a eos_token, found none" in capsys.readouterr().err
    assert main([*line, f"--tokenizer.name={folder}", "--special_tokens={eos_token: </s>}"]) == 0
    assert (
        main(
            [
                *line[:-1],
                f"--output={tmp_path / 'third'}",
                f"--tokenizer.name={folder}",
                "--special_tokens={eos_token: zzz}",
            ]
        )
        == 2
    )


def test_foreign_files_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    for flag in ([], ["--fresh"]):
        assert main(["train", str(write_recipe(tmp_path)), *flag]) == 2
        assert "holds other files" in capsys.readouterr().err
    assert (tmp_path / "run" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("flag", [[], ["--fresh"]], ids=["continued", "fresh"])
def test_a_folder_beside_the_output_that_is_no_run_is_left_alone(
    tmp_path: Path, flag: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "run.training" / "notes" / "thesis.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("years of work")
    assert main(["train", str(write_recipe(tmp_path)), *flag]) == 2
    assert "run.training holds other files" in capsys.readouterr().err
    assert [path for path in (tmp_path / "run.training").rglob("*") if path.is_file()] == [notes]


def test_fresh_keeps_the_old_result_until_the_new_one_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    assert main(["train", str(recipe), "--max_steps", "2"]) == 0
    weights = tmp_path / "run" / "model.safetensors"
    old = weights.read_bytes()

    def stop(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_custom_decoder.training.final_model.write_model_card", lambda *a: stop(""))
        assert main(["train", str(recipe), "--max_steps", "3", "--fresh"]) == 130
    assert weights.read_bytes() == old
    capsys.readouterr()
    assert main(["train", str(recipe), "--max_steps", "3"]) == 0  # without --fresh it goes on
    assert "Going on after 3 of 3 steps" in capsys.readouterr().out
    assert weights.read_bytes() != old
    assert json.loads((tmp_path / "run" / "training_results.json").read_text())["num_steps"] == 3
    assert not (tmp_path / "run.training").exists()


def test_options_that_are_younger_than_a_run_have_their_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    assert main(["train", str(recipe), "--max_steps", "1"]) == 0
    stored = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    del stored["training"]["r_drop"]
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(stored))
    assert main(["train", str(recipe), "--max_steps", "1"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main(["train", str(recipe), "--max_steps", "1", "--r_drop", "1"]) == 2
    assert "`training.r_drop` must be the same when a run is continued" in capsys.readouterr().err


def test_optimizer_and_schedules() -> None:
    model = torch.nn.LayerNorm(4)
    model.register_module("wide", torch.nn.Linear(4, 4))
    expected = {
        "inverse_sqrt": [0.5, 1.0, (4 / 6) ** 0.5],
        "linear": [0.5, 1.0, 14 / 16],
        "constant": [0.5, 1.0, 1.0],
        "cosine": [0.5, 1.0, 0.5 * (1 + torch.cos(torch.tensor(torch.pi * 2 / 16)).item())],
    }
    for name, factors in expected.items():
        for warmup in (4, 0.2):
            options = recipe_from_dict(
                {
                    "training": {
                        "max_steps": 20,
                        "batch_size": 1,
                        "schedule": name,
                        "warmup": warmup,
                        "weight_decay": 0.1,
                    }
                }
            ).training
            optimizer = build_optimizer(model, options)  # type: ignore[arg-type]
            assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
            assert [len(group["params"]) for group in optimizer.param_groups] == [1, 3]
            schedule = build_schedule(optimizer, options, 20)
            rates = []
            for _ in range(7):
                rates.append(optimizer.param_groups[0]["lr"] / options.learning_rate)
                optimizer.step()
                schedule.step()
            assert [rates[2], rates[4], rates[6]] == pytest.approx(factors)


def test_more_pairs_than_needed_change_nothing_in_validation(tmp_path: Path) -> None:
    """The stored perplexity is that of all target tokens, counted by hand from the saved model."""
    folder = train_recipe(recipe_from_dict(tiny_recipe(tmp_path, training__eval_batch_size=4)), lambda text: None)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    total = count = 0.0
    for line in write_pairs(tmp_path / "val.jsonl", 9, seed=1).read_text().splitlines():
        pair = json.loads(line)
        batch = tokenizer(pair["en"], return_tensors="pt")
        labels = tokenizer(pair["de"], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model(**batch, labels=labels).logits
        picked = logits[0].log_softmax(-1).gather(1, labels[0, :, None])
        total, count = total - picked.sum().item(), count + labels.shape[1]
    results = json.loads((folder / "training_results.json").read_text())
    assert results["validation"]["loss"] == pytest.approx(total / count, rel=1e-5)


def test_control_tokens_in_the_data_are_told(tmp_path: Path) -> None:
    """Else a model learns in silence to stop where a data set has `</s>`."""
    content = tiny_recipe(tmp_path, training__max_steps=1)
    told: list[str] = []
    train_recipe(recipe_from_dict(content), told.append)
    assert not any("control token" in line for line in told)
    with (tmp_path / "train.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"en": "rote Katze", "de": "Katze </s> rote"}) + "\n")
    train_recipe(recipe_from_dict(content), told.append, fresh=True)
    assert any("1 training pairs have a control token" in line and "'Katze </s> rote'" in line for line in told)


LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"],
    "accelerate": ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--main_process_port=0"],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_equal_one_that_accumulates(tmp_path: Path, launcher: str) -> None:
    """Two processes on the CPU, and twice the accumulation in one."""
    recipe = write_recipe(
        tmp_path,
        training__adam_epsilon=0.01,  # else AdamW blows the rounding of tiny gradients up to whole steps
        training__ema_decay=0.9,
        model__decoder={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "dropout": 0.0},
        model__encoder={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "dropout": 0.0},
    )
    launched = subprocess.run(
        [sys.executable, *LAUNCHERS[launcher], "-m", "hf_custom_decoder", "train", str(recipe)],
        env=os.environ,
        capture_output=True,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr.decode()[-3000:]
    said = launched.stdout.decode()
    assert said.count("The model is in") == 1
    assert "2 processes share the batches." in said
    assert main(["train", str(recipe), "--accumulation", "2", "--output", str(tmp_path / "alone")]) == 0
    both, alone = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "alone"))
    for name, weight in alone.items():
        torch.testing.assert_close(both[name], weight, rtol=1e-5, atol=1e-6)


def test_a_launch_of_several_that_starts_one_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `accelerate launch --cpu --num_processes 2` sets the variables where there is no mpirun."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    said: list[str] = []
    train_recipe(recipe_from_dict(tiny_recipe(tmp_path)), said.append)
    assert not any("torchrun" in line for line in said)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    train_recipe(recipe_from_dict(tiny_recipe(tmp_path)), said.append, fresh=True)
    assert sum("One process" in line and "--nproc_per_node" in line for line in said) == 1

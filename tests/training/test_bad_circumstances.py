"""Signals, full disks, no network, models that do not fit: a clear error, early, and nothing lost."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from hf_custom_decoder.cli import main
from hf_custom_decoder.training import full_disk
from hf_custom_decoder.training.full_disk import naming_a_full_disk
from hf_custom_decoder.training.recipe_trainer import RecipeTrainer
from hf_custom_decoder.training.whole_checkpoints import damage
from tests.tiny_recipes import WORDS, write_recipe

pytest.importorskip("datasets")

SIGNALLED_IN_THE_FIFTH_STEP = """
import os, signal, sys
from hf_custom_decoder.cli import main
from hf_custom_decoder.training.recipe_trainer import RecipeTrainer
calls, original = 0, RecipeTrainer.training_step
def counted(*args, **kwargs):
    global calls
    calls += 1
    if calls == 5:
        os.kill(os.getpid(), getattr(signal, os.environ["NUMBER"]))
    return original(*args, **kwargs)
RecipeTrainer.training_step = counted
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert main(["train", str(write_recipe(folder))]) == 0
    return load_file(folder / "run" / "model.safetensors")


def assert_equal(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_leaves_a_whole_checkpoint(
    tmp_path: Path,
    number: str,
    uninterrupted: dict[str, torch.Tensor],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warned: list[str] = []
    monkeypatch.setattr("transformers.trainer.logger.warning", warned.append)
    recipe = write_recipe(tmp_path)
    stopped = subprocess.run(
        [sys.executable, "-c", SIGNALLED_IN_THE_FIFTH_STEP, "train", str(recipe)],
        env={**os.environ, "NUMBER": number},
        capture_output=True,
        check=False,
    )
    assert stopped.returncode == 130, stopped.stderr.decode()[-2000:]
    assert "goes on where it stopped" in stopped.stdout.decode()
    (checkpoint,) = (tmp_path / "run.training").glob("step-*")
    assert checkpoint.name == "step-5"
    assert damage(checkpoint) is None
    assert not (tmp_path / "run").exists()
    assert main(["train", str(recipe)]) == 0
    assert "Going on after 5 of 10 steps" in capsys.readouterr().out
    assert not [text for text in warned if "missing keys" in text]
    assert_equal(tmp_path / "run", uninterrupted)


def test_a_stop_adds_nothing_to_the_mean_of_checkpoints(tmp_path: Path) -> None:
    """Its checkpoint lies between those that are averaged, and takes the place of none."""
    recipe = write_recipe(tmp_path, training__average_last=4, training__save_steps=2)
    assert main(["train", str(recipe), "--output", str(tmp_path / "whole")]) == 0
    arguments = [sys.executable, "-c", SIGNALLED_IN_THE_FIFTH_STEP, "train", str(recipe)]
    stopped = subprocess.run(arguments, env={**os.environ, "NUMBER": "SIGTERM"}, capture_output=True, check=False)
    assert stopped.returncode == 130, stopped.stderr.decode()[-2000:]
    assert {path.name for path in (tmp_path / "run.training").glob("step-*")} == {"step-2", "step-4", "step-5"}
    assert main(["train", str(recipe)]) == 0
    results = json.loads((tmp_path / "run" / "training_results.json").read_text())
    assert results["final_weights"] == "mean of steps 4, 6, 8, 10"
    assert_equal(tmp_path / "run", load_file(tmp_path / "whole" / "model.safetensors"))


def test_other_training_data_under_the_same_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    arguments = [sys.executable, "-c", SIGNALLED_IN_THE_FIFTH_STEP, "train", str(recipe)]
    stopped = subprocess.run(arguments, env={**os.environ, "NUMBER": "SIGTERM"}, capture_output=True, check=False)
    assert stopped.returncode == 130, stopped.stderr.decode()[-2000:]
    before = (tmp_path / "train.jsonl").read_text()
    for changed, message in [
        (before.split("\n", 7)[7], "begun with 60 pairs, got 53"),
        (before.replace("oft", "oft oft"), "begun with 60 pairs of other lengths"),
    ]:
        (tmp_path / "train.jsonl").write_text(changed)
        assert main(["train", str(recipe)]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "train.jsonl").write_text(before)
    assert main(["train", str(recipe)]) == 0


def test_one_of_two_processes_is_terminated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both stop after the same step, the first that is divisible by ten."""
    script = tmp_path / "train.py"
    script.write_text(SIGNALLED_IN_THE_FIFTH_STEP.replace("calls == 5", 'calls == 13 and os.environ["RANK"] == "1"'))
    recipe = write_recipe(tmp_path, training__max_steps=25, training__save_steps=100, data__validation=None)
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
        + [str(script), "train", str(recipe)],
        env={**os.environ, "NUMBER": "SIGTERM"},
        capture_output=True,
        check=False,
    )
    assert launched.returncode != 0
    assert "goes on where it stopped" in launched.stdout.decode(), launched.stderr.decode()[-2000:]
    (checkpoint,) = (tmp_path / "run.training").glob("step-*")
    assert checkpoint.name == "step-20"
    assert damage(checkpoint) is None
    assert main(["train", str(recipe)]) == 0
    assert "Going on after 20 of 25 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("largest", "written_before", "never_begun"),
    [
        (2_000, ".", "model.safetensors"),
        (40_000, "model.safetensors", "scheduler.pt"),
        (None, "optimizer.pt", "contents.json"),
    ],
    ids=["code", "optimizer", "state"],
)
def test_a_full_disk_loses_nothing(
    tmp_path: Path,
    largest: int | None,
    written_before: str,
    never_begun: str,
    uninterrupted: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The system refuses to write files beyond a size, in the second checkpoint."""
    recipe, saves, original = write_recipe(tmp_path), [], RecipeTrainer._save_checkpoint

    def save(trainer: Any, *args: Any) -> None:
        saves.append(0)
        if len(saves) == 1:
            return original(trainer, *args)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        written = tmp_path / "run.training" / "checkpoint-8"
        if largest is None:
            written.mkdir()
            os.symlink("/dev/full", written / "trainer_state.json")
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
        try:
            original(trainer, *args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            assert (written / written_before).exists()
            assert not (written / never_begun).exists()

    monkeypatch.setattr(RecipeTrainer, "_save_checkpoint", save)
    assert main(["train", str(recipe)]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "run.training could not be written (" in message
    assert "the disk or the quota is full. Kept: the checkpoint after 4 steps. Make room" in message
    work = tmp_path / "run.training"
    assert not list(work.glob("checkpoint-*"))  # room for others
    monkeypatch.undo()
    assert main(["train", str(recipe)]) == 0
    assert "Going on after 4 of 10 steps" in capsys.readouterr().out
    assert_equal(tmp_path / "run", uninterrupted)


def test_a_full_disk_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any) -> None:
        with open("/dev/full", "w") as stream:
            stream.write("x")

    monkeypatch.setattr("hf_custom_decoder.training.final_model.write_model_card", fail)
    recipe = write_recipe(tmp_path)
    assert main(["train", str(recipe)]) == 2
    assert "Kept: the checkpoint after 10 steps." in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    assert main(["train", str(recipe)]) == 0
    assert "Going on after 10 of 10 steps" in capsys.readouterr().out


def test_failed_writes_of_every_library(tmp_path: Path) -> None:
    weights = {"a": torch.zeros(5000)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    writers: list[Any] = [
        lambda path: save_file(weights, path),
        lambda path: torch.save(weights, path),
        lambda path: path.write_bytes(bytes(5000)),
    ]
    for number, write in enumerate(writers):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
            with pytest.raises(Exception) as caught:  # noqa: PT011
                write(tmp_path / str(number))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert full_disk.is_failed_write(caught.value), caught.value


def test_other_errors_stay_what_they_are() -> None:
    for error in (RuntimeError("shapes differ"), FileNotFoundError(2, "no such file"), KeyboardInterrupt()):
        assert not full_disk.is_failed_write(error)
        with pytest.raises(type(error)), naming_a_full_disk(Path("here"), lambda: "kept"):
            raise error


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder and its tokenizer as they lie on the Hub: no end token, few positions."""
    folder = tmp_path_factory.mktemp("bert")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: idx for idx, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(names), max_position_embeddings=20, pad_token_id=0, **sizes)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def with_encoder(tmp_path: Path, name: str | Path, **changes: Any) -> Path:
    special = {"eos_token": "[SEP]", "bos_token": "[CLS]"}
    given: dict[str, Any] = {"model__pretrained_encoder": str(name), "tokenizer__special_tokens": special, **changes}
    return write_recipe(tmp_path, model__encoder={}, **given)


def test_a_pretrained_encoder(tmp_path: Path, bert: Path) -> None:
    recipe = with_encoder(tmp_path, bert, training__freeze={"encoder": "always"})
    assert main(["train", str(recipe)]) == 0
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert (tokenizer.eos_token_id, model.config.eos_token_id, model.config.start_token_id) == (3, 3, 2)
    encoder = load_file(bert / "model.safetensors")
    found = model.get_encoder().state_dict()
    assert encoder.keys() <= found.keys()
    assert all(torch.equal(found[name], weight) for name, weight in encoder.items())
    assert main(["generate", "--model", str(tmp_path / "run"), "Katze läuft"]) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer__special_tokens": {}}, "must have a eos_token, found none"),
        ({"training__freeze": {"encodr": 5}}, "'encodr' matches none. Near it are encoder"),
        (
            {"data__max_source_length": 24},
            "`data.max_source_length` must be within the positions of the model's encoder",
        ),
        (
            {"model__decoder": {"max_position_embeddings": 12}},
            "within the positions of the model's decoder, got 16 and 12",
        ),
    ],
)
def test_an_encoder_that_does_not_fit(
    tmp_path: Path, bert: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(with_encoder(tmp_path, bert, **changes))]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "tokenizing" not in told  # the long work has not begun


STAND_IN_FOR_TENSORBOARD = """
from pathlib import Path
class SummaryWriter:
    def __init__(self, log_dir):
        self.file = Path(log_dir) / "events.txt"
        self.file.parent.mkdir(parents=True)
    def add_scalar(self, name, value, step):
        with self.file.open("a") as stream:
            stream.write(f"{name} {step}\\n")
    def add_text(self, *args): pass
    def flush(self): pass
    def close(self): pass
"""


def test_reports_stay_with_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packages = tmp_path / "packages"
    for name, content in {"tensorboard": "raise ImportError", "tensorboardX": STAND_IN_FOR_TENSORBOARD}.items():
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").write_text(content)
    recipe = write_recipe(tmp_path, training__report_to="tensorboard")
    done = subprocess.run(
        [sys.executable, "-m", "hf_custom_decoder", "train", str(recipe)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), *sys.path])},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    (events,) = (tmp_path / "run" / "runs").rglob("events.txt")
    assert {"train/loss 2", "train/padding_share 10", "eval/loss 8"} <= set(events.read_text().splitlines())


@pytest.mark.parametrize(("variable", "name"), [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "Deep")])
def test_launchers_that_share_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, name: str
) -> None:
    monkeypatch.setenv(variable, "true")
    recipe = write_recipe(tmp_path)
    assert main(["train", str(recipe)]) == 2
    assert f"got a launch with {name}" in capsys.readouterr().err
    assert not (tmp_path / "run.training").exists()


def test_reporters_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(write_recipe(tmp_path)), "--report_to", "[none, tensorbord]"]) == 2
    assert "`training.report_to` must be none or reporters whose packages are installed" in capsys.readouterr().err
    assert not (tmp_path / "run.training").exists()


@pytest.mark.parametrize("option", ["pretrained", "pretrained_encoder"])
def test_a_model_of_the_hub_without_a_network(tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {f"model__{option}": "nobody/nothing", "data__train": "missing.jsonl"}
    assert main(["train", str(write_recipe(tmp_path, model__encoder={}, model__decoder={}, **changes))]) == 2
    told = capsys.readouterr().err
    assert f"`model.{option}` must be a folder written by `save_pretrained`" in told  # and no word of the data
    assert "Without a network" in told
    assert not (tmp_path / "run").exists()

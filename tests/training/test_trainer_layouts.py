"""Checkpoints of the Trainer moved there and back in one process; tests/ecosystem/test_fsdp_trainer.py goes on from them."""

import copyreg
import io
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, save
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
)

from hf_custom_decoder import CustomSeq2SeqConfig, CustomSeq2SeqForConditionalGeneration
from hf_custom_decoder.cli import main
from hf_custom_decoder.training.sharded_files import read_sharded, write_sharded
from hf_custom_decoder.training.trainer_layouts import layout_of, move_checkpoint
from tests.combinations import DECODERS, ENCODERS
from tests.ecosystem.fsdp_worker import arguments_for, trainer_for
from tests.factories import VOCAB_SIZE, tiny_causal, tiny_seq2seq
from tests.integration.training_runs import assert_same, plain_descent, weights_of


class Touch:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def tiny_bart() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    model: PreTrainedModel = BartForConditionalGeneration(BartConfig(vocab_size=VOCAB_SIZE, **sizes, **heads))
    return model


def recurrent() -> PreTrainedModel:
    torch.manual_seed(0)
    config = CustomSeq2SeqConfig(encoder=ENCODERS["gru_2"](), decoder=DECODERS["lstm_dot"]())
    return CustomSeq2SeqForConditionalGeneration(config)


MODELS = {
    "tied": lambda: tiny_seq2seq("rotary_gqa_qk_norm", tie_word_embeddings=True),
    "recurrent": recurrent,
    "bart": tiny_bart,
}


def trained(folder: Path, model: PreTrainedModel) -> Path:
    trainer_for(model.train(), arguments_for(folder, 1)).train()
    return folder / "checkpoint-2"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("trained"), MODELS["tied"]())


@pytest.mark.parametrize("layout", ["fsdp", "fsdp-full"])
@pytest.mark.parametrize("name", MODELS)
def test_there_and_back_is_the_same(tmp_path: Path, name: str, layout: str) -> None:
    model = MODELS[name]()
    model.generation_config.num_beams = 7
    first = trained(tmp_path / "run", model)
    there, back = tmp_path / "there", tmp_path / "back"
    move_checkpoint(first, there, layout=layout)
    assert layout_of(there) == layout
    move_checkpoint(there, back, layout="ddp")
    assert {file.name for file in back.iterdir()} == {file.name for file in first.iterdir()}
    loaded = [weights_of(AutoModelForSeq2SeqLM.from_pretrained(folder)) for folder in (back, first)]
    assert_same(*loaded)
    found, expected = (torch.load(folder / "optimizer.pt") for folder in (back, first))
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys()
    for number, entry in expected["state"].items():
        assert_same(found["state"][number], entry)
    assert '"num_beams": 7' in (back / "generation_config.json").read_text()
    assert (back / "scheduler.pt").read_bytes() == (first / "scheduler.pt").read_bytes()


@pytest.mark.parametrize("layout", ["fsdp", "fsdp-full"])
def test_causal_models_are_moved(tmp_path: Path, layout: str) -> None:
    model = tiny_causal("rotary_gqa_qk_norm")
    model.save_pretrained(tmp_path / "first")
    move_checkpoint(tmp_path / "first", tmp_path / "there", layout=layout)
    move_checkpoint(tmp_path / "there", tmp_path / "back", layout="ddp")
    assert_same(weights_of(AutoModelForCausalLM.from_pretrained(tmp_path / "back")), weights_of(model))


def test_names_are_those_of_the_parameters(tmp_path: Path, checkpoint: Path) -> None:
    """Matrices in the group that decays, norms and biases in the other."""
    move_checkpoint(checkpoint, tmp_path / "there", layout="fsdp-full")
    optimizer = torch.load(tmp_path / "there" / "optimizer.bin")
    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint)
    assert optimizer["state"].keys() == {name for name, _ in model.named_parameters()}
    decayed, other = (group["params"] for group in optimizer["param_groups"])
    assert "model.decoder.layers.0.self_attn.q_proj.weight" in decayed
    assert all("norm" in name or name.endswith("bias") for name in other)


def test_the_command(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "there"
    assert main(["checkpoint", str(checkpoint), "--to", "fsdp", "--output", str(there)]) == 0
    assert str(there) in capsys.readouterr().out
    assert (there / "pytorch_model_fsdp_0" / ".metadata").exists()
    assert main(["checkpoint", str(checkpoint), "--to", "fsdp", "--output", str(there)]) == 2
    assert "must not exist" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["fsdp", "fsdp-full"])
def test_every_weight_keeps_its_dtype(tmp_path: Path, layout: str) -> None:
    model = tiny_seq2seq(tie_word_embeddings=False)
    model.get_encoder().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "mixed")
    move_checkpoint(tmp_path / "mixed", tmp_path / "there", layout=layout)
    move_checkpoint(tmp_path / "there", tmp_path / "back", layout="ddp")
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("back", "mixed"))
    assert {one.dtype for one in expected.values()} == {torch.bfloat16, torch.float32}
    assert {name: one.dtype for name, one in found.items()} == {name: one.dtype for name, one in expected.items()}
    assert_same(found, expected)


def test_weights_that_are_missing_or_too_many_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    name = next(one for one in weights if one.endswith("out_proj.weight"))
    for changed, message in (
        ({one: value for one, value in weights.items() if one != name}, f"missing {name}, unknown none"),
        ({**weights, "other": torch.ones(2)}, "missing none, unknown other"),
    ):
        folder = tmp_path / "changed"
        shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=message):
            move_checkpoint(folder, tmp_path / "there", layout="fsdp")


def test_parameters_that_no_batch_has_reached_get_a_first_state(tmp_path: Path, checkpoint: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "part")
    state = torch.load(checkpoint / "optimizer.pt")
    del state["state"][3]
    torch.save(state, tmp_path / "part" / "optimizer.pt")
    move_checkpoint(tmp_path / "part", tmp_path / "there", layout="fsdp-full")
    optimizer = torch.load(tmp_path / "there" / "optimizer.bin")
    name = optimizer["param_groups"][0]["params"][3]
    assert float(optimizer["state"][name]["step"]) == 0
    assert not optimizer["state"][name]["exp_avg"].any()


def test_the_best_checkpoint_of_the_old_layout_is_forgotten(tmp_path: Path, checkpoint: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "best")
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    (tmp_path / "best" / "trainer_state.json").write_text(
        json.dumps({**state, "best_model_checkpoint": "x", "best_metric": 1.0})
    )
    move_checkpoint(tmp_path / "best", tmp_path / "there", layout="fsdp")
    moved = json.loads((tmp_path / "there" / "trainer_state.json").read_text())
    assert moved == {**state, "best_model_checkpoint": None, "best_metric": 1.0}


def test_damaged_files_are_named(tmp_path: Path, checkpoint: Path) -> None:
    for name in ("optimizer.pt", "model.safetensors"):
        shutil.copytree(checkpoint, tmp_path / name)
        (tmp_path / name / name).write_bytes(b"garbage")
        with pytest.raises(ValueError, match=name):
            move_checkpoint(tmp_path / name, tmp_path / "there", layout="fsdp")
    write_sharded({"other": torch.ones(2)}, tmp_path / "shards" / "pytorch_model_fsdp_0")
    with pytest.raises(ValueError, match="must hold 'model', got 'other'"):
        move_checkpoint(tmp_path / "shards", tmp_path / "there", layout="ddp", model=checkpoint)
    (tmp_path / "shards" / "pytorch_model_fsdp_0" / ".metadata").write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match="must describe tensors, got a dict"):
        move_checkpoint(tmp_path / "shards", tmp_path / "there", layout="ddp", model=checkpoint)


def test_a_checkpoint_without_optimizer_moves_its_weights(tmp_path: Path, checkpoint: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "weights")
    (tmp_path / "weights" / "optimizer.pt").unlink()
    move_checkpoint(tmp_path / "weights", tmp_path / "there", layout="fsdp")
    assert not (tmp_path / "there" / "optimizer_0").exists()


def test_what_cannot_be_moved_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="one of ddp, fsdp, fsdp-full, got 'zero'"):
        move_checkpoint(checkpoint, tmp_path / "new", layout="zero")
    with pytest.raises(ValueError, match="has the layout 'ddp' already"):
        move_checkpoint(checkpoint, tmp_path / "new", layout="ddp")
    with pytest.raises(FileNotFoundError, match="must be a checkpoint of the Trainer"):
        move_checkpoint(tmp_path, tmp_path / "new", layout="fsdp")
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(ValueError, match="holds an adapter"):
        move_checkpoint(tmp_path, tmp_path / "new", layout="fsdp")
    assert not (tmp_path / "new").exists()


def test_a_sharded_checkpoint_without_config_asks_for_it(tmp_path: Path, checkpoint: Path) -> None:
    there = tmp_path / "there"
    move_checkpoint(checkpoint, there, layout="fsdp")
    (there / "config.json").unlink()  # as accelerate writes it
    with pytest.raises(FileNotFoundError, match="`model` must name a folder"):
        move_checkpoint(there, tmp_path / "back", layout="ddp")
    move_checkpoint(there, tmp_path / "back", layout="ddp", model=checkpoint)


def test_a_config_of_another_model_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    move_checkpoint(checkpoint, tmp_path / "there", layout="fsdp")
    tiny_bart().save_pretrained(tmp_path / "bart")
    with pytest.raises(ValueError, match="not those of the model whose config"):
        move_checkpoint(tmp_path / "there", tmp_path / "back", layout="ddp", model=tmp_path / "bart")
    assert not (tmp_path / "back").exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bart", "there"], "nothing half-written stays"


def test_an_optimizer_with_groups_of_its_own_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "own")
    state = torch.load(checkpoint / "optimizer.pt")
    first, second = state["param_groups"]
    moved = {**state, "param_groups": [{**first, "params": first["params"][:-1]}, {**second, "params": [0]}]}
    torch.save(moved, tmp_path / "own" / "optimizer.pt")
    with pytest.raises(ValueError, match=r"groups of \[33, 1\]. Optimizers with groups of your own"):
        move_checkpoint(tmp_path / "own", tmp_path / "there", layout="fsdp")
    first["params"][:2] = reversed(first["params"][:2])
    torch.save(state, tmp_path / "own" / "optimizer.pt")
    with pytest.raises(ValueError, match="does not fit its model"):
        move_checkpoint(tmp_path / "own", tmp_path / "there", layout="fsdp")


@pytest.mark.parametrize("layout", ["fsdp", "fsdp-full"])
def test_one_group_of_all_parameters_is_moved(tmp_path: Path, layout: str) -> None:
    """Plain descent, which has no state of its own."""
    model = MODELS["tied"]().train()
    trainer = trainer_for(model, arguments_for(tmp_path / "run", 1))
    trainer.optimizer, trainer.lr_scheduler = plain_descent(model)
    trainer.train()
    move_checkpoint(tmp_path / "run" / "checkpoint-2", tmp_path / "there", layout=layout)
    move_checkpoint(tmp_path / "there", tmp_path / "back", layout="ddp")
    found = torch.load(tmp_path / "back" / "optimizer.pt")
    assert found == torch.load(tmp_path / "run" / "checkpoint-2" / "optimizer.pt")
    if layout == "fsdp-full":
        (group,) = torch.load(tmp_path / "there" / "optimizer.bin")["param_groups"]
        assert group["params"] == [name for name, _ in model.named_parameters()]


def test_sharded_files_are_those_of_torch(tmp_path: Path) -> None:
    state = {
        "a": {"b.c": torch.arange(6.0).view(2, 3), "d": [1, {"e": torch.ones(2, dtype=torch.bfloat16)}]},
        "f": None,
    }
    save(state, storage_writer=FileSystemWriter(tmp_path / "torch"), no_dist=True)
    write_sharded(state, tmp_path / "ours")
    for folder in (tmp_path / "torch", tmp_path / "ours"):
        found = read_sharded(folder)
        torch.testing.assert_close(found["a"]["b.c"], state["a"]["b.c"], rtol=0, atol=0)
        torch.testing.assert_close(found["a"]["d"][1]["e"], torch.ones(2, dtype=torch.bfloat16), rtol=0, atol=0)
        assert found["a"]["d"][0] == 1
        assert found["f"] is None


def test_no_pickle_of_shards_is_run(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    entry = tmp_path / "entry"
    write_sharded({"a": torch.ones(2), "b": Touch(sign)}, entry)
    with pytest.raises(ValueError, match="cannot be read as a checkpoint of tensors and numbers"):
        read_sharded(entry)
    write_sharded({"a": torch.ones(2)}, tmp_path / "metadata")
    metadata = FileSystemReader(tmp_path / "metadata").read_metadata()
    metadata.planner_data = {"a": Touch(sign)}
    (tmp_path / "metadata" / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match="Do not use it"):
        read_sharded(tmp_path / "metadata")
    assert not sign.exists()


@pytest.mark.parametrize(
    ("named", "is_read"), [((_MEM_FORMAT_ENCODING, "TORCH_CONTIGUOUS_FORMAT"), True), ((Metadata, "__init__"), False)]
)
def test_enumerations_as_older_pythons_write_them(tmp_path: Path, named: tuple[type, str], is_read: bool) -> None:
    """Python 3.11.2 names a member by `getattr`, which could name anything."""
    write_sharded({"a": torch.ones(2)}, tmp_path)
    metadata, written = FileSystemReader(tmp_path).read_metadata(), io.BytesIO()
    pickler = pickle.Pickler(written)
    pickler.dispatch_table = {**copyreg.dispatch_table, _MEM_FORMAT_ENCODING: lambda _: (getattr, named)}
    pickler.dump(metadata)
    assert b"getattr" in written.getvalue()
    (tmp_path / ".metadata").write_bytes(written.getvalue())
    if is_read:
        assert torch.equal(read_sharded(tmp_path)["a"], torch.ones(2))
        return
    with pytest.raises(ValueError, match="names '__init__' of .* Do not use it"):
        read_sharded(tmp_path)


def test_shards_that_are_cut_or_announce_too_much_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    write_sharded({"a": torch.ones(1000)}, folder)
    data = next(folder.glob("*.distcp"))
    whole, metadata = data.read_bytes(), (folder / ".metadata").read_bytes()
    data.write_bytes(whole[:100])
    with pytest.raises(ValueError, match="is not complete"):
        read_sharded(folder)
    data.write_bytes(whole)
    (folder / ".metadata").write_bytes(metadata[:50])
    with pytest.raises(ValueError, match="is not what torch.distributed.checkpoint writes"):
        read_sharded(folder)

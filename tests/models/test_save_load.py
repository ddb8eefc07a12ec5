"""A model that is saved and loaded again is the same model: weights, buffers, ties, outputs, files."""

import copy
import json
from collections import defaultdict
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache

from hf_custom_decoder import TransformerDecoderConfig
from hf_custom_decoder.models.positions_custom_seq2seq import RotaryEmbedding
from tests.models.model_cases import (
    ALL_CASES,
    AUTO_CLASSES,
    COVERING_CASES,
    HEADS,
    KIND_CASES,
    KINDS,
    make_config,
    make_inputs,
    make_model,
    over,
    run,
)

TYINGS = {
    "none": {"tie_word_embeddings": False},
    "decoder": {"tie_word_embeddings": True},
    "all": {"tie_word_embeddings": True, "tie_encoder_decoder_embeddings": True},
    "sides_only": {"tie_word_embeddings": False, "tie_encoder_decoder_embeddings": True},
}


def assert_same_tensors(model: PreTrainedModel, other: PreTrainedModel) -> None:
    """Parameters and buffers, those that no file holds included."""
    for kind in ("named_parameters", "named_buffers"):
        ours, theirs = dict(getattr(model, kind)()), dict(getattr(other, kind)())
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert theirs[name].device.type != "meta", name
            torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=0, msg=name)


def storages(model: PreTrainedModel) -> set[frozenset[str]]:
    """Which names of the state dict share memory."""
    groups = defaultdict(set)
    for name, tensor in model.state_dict().items():
        groups[tensor.data_ptr()].add(name)
    return {frozenset(names) for names in groups.values() if len(names) > 1}


@over(ALL_CASES)
def test_save_load(kind: str, variant: str, tmp_path: Path) -> None:
    model, inputs = make_model(kind, variant), make_inputs(kind)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").exists()
    assert (tmp_path / "generation_config.json").exists() == model.can_generate() == (kind in HEADS)
    assert not list(tmp_path.glob("*.bin"))  # no pickle
    loaded, info = KINDS[kind].from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert_same_tensors(model, loaded)
    assert storages(model) == storages(loaded)
    assert torch.equal(run(loaded, **inputs), run(model, **inputs))


@over(COVERING_CASES)
def test_a_second_round_changes_nothing(kind: str, variant: str, tmp_path: Path) -> None:
    model = make_model(kind, variant)
    model.save_pretrained(tmp_path / "first")
    loaded = KINDS[kind].from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        first, second = tmp_path / "first" / name, tmp_path / "second" / name
        assert first.exists() == second.exists()
        if first.suffix == ".json" and first.exists():
            written, again = json.loads(first.read_text()), json.loads(second.read_text())
            # from_pretrained notes the dtype, in the parts too.
            for config in (
                written,
                again,
                *[part for c in (written, again) for part in c.values() if isinstance(part, dict)],
            ):
                config.pop("dtype", None)
            assert again == written
    assert_same_tensors(model, KINDS[kind].from_pretrained(tmp_path / "second"))


@over(COVERING_CASES)
def test_auto_classes_load_it(kind: str, variant: str, tmp_path: Path) -> None:
    model = make_model(kind, variant)
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)
    loaded = AUTO_CLASSES[kind].from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert_same_tensors(model, loaded)
    assert type(AUTO_CLASSES[kind].from_config(model.config)) is type(model)


@pytest.mark.parametrize("tying", TYINGS)
def test_ties_survive_and_no_weight_is_written_twice(tying: str, tmp_path: Path) -> None:
    model = make_model("seq2seq_lm", "lm_head_bias", **TYINGS[tying])
    parts = {
        "head": model.lm_head.weight,
        "encoder": model.model.encoder.embed_tokens.weight,
        "decoder": model.model.decoder.embed_tokens.weight,
    }
    expected = {
        "none": [],
        "decoder": [("head", "decoder")],
        "all": [("head", "decoder"), ("encoder", "decoder"), ("head", "encoder")],
        "sides_only": [("encoder", "decoder")],
    }[tying]
    for first, second in (("head", "decoder"), ("encoder", "decoder"), ("head", "encoder")):
        assert (parts[first] is parts[second]) == ((first, second) in expected)

    model.save_pretrained(tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    assert len(written) == len({id(parameter) for parameter in model.parameters()})
    assert sum(tensor.numel() for tensor in written.values()) == model.num_parameters()
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) <= set(model.state_dict())
    loaded, info = KINDS["seq2seq_lm"].from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert storages(loaded) == storages(model)
    assert_same_tensors(model, loaded)


@pytest.mark.parametrize("tying", TYINGS)
def test_tied_weights_keys(tying: str) -> None:
    """What the class says is tied is what shares memory, and nothing else does."""
    model = make_model("seq2seq_lm", **TYINGS[tying])
    keys = model.all_tied_weights_keys
    groups = storages(model)
    for target, source in keys.items():
        assert any({target, source} <= group for group in groups)
    assert sum(len(group) - 1 for group in groups) == len(keys)


def test_causal_ties_survive(tmp_path: Path) -> None:
    for tied in (True, False):
        model = make_model("causal", "lm_head_bias", tie_word_embeddings=tied)
        model.save_pretrained(tmp_path / str(tied))
        loaded = KINDS["causal"].from_pretrained(tmp_path / str(tied))
        assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
        assert ("lm_head.weight" in load_file(tmp_path / str(tied) / "model.safetensors")) == (not tied)
        assert_same_tensors(model, loaded)


@pytest.mark.parametrize(("head", "body"), [("causal", "decoder"), ("seq2seq_lm", "seq2seq")])
@pytest.mark.parametrize("tied", [True, False])
def test_base_model_into_head_class_and_back(head: str, body: str, tied: bool, tmp_path: Path) -> None:
    base = make_model(body, tie_word_embeddings=tied)
    base.save_pretrained(tmp_path / "base")
    model, info = KINDS[head].from_pretrained(tmp_path / "base", output_loading_info=True)
    assert set(info["missing_keys"]) == (set() if tied else {"lm_head.weight"})
    assert type(model.base_model) is KINDS[body]
    assert model.base_model is not model
    assert_same_tensors(base, model.base_model)
    assert model.lm_head.weight.isfinite().all()

    model.save_pretrained(tmp_path / "head")
    again, info = AutoModel.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert type(again) is KINDS[body]
    assert not info["missing_keys"]
    assert_same_tensors(base, again)


@over(KIND_CASES)
def test_from_a_state_dict_without_a_checkpoint(kind: str, variant: str) -> None:
    model = make_model(kind, variant)
    config = make_config(kind, variant)
    loaded = KINDS[kind].from_pretrained(None, config=config, state_dict=model.state_dict())
    assert_same_tensors(model, loaded)


@over(COVERING_CASES)
def test_weights_that_no_file_holds_are_those_of_a_fresh_model(
    kind: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PreTrainedModel._initialize_weights

    def seeded(self: PreTrainedModel, *args: object, **kwargs: object) -> None:
        torch.manual_seed(42)
        original(self, *args, **kwargs)

    monkeypatch.setattr(PreTrainedModel, "_initialize_weights", seeded)
    fresh = KINDS[kind](make_config(kind, variant))
    loaded = KINDS[kind].from_pretrained(None, config=make_config(kind, variant), state_dict={})
    assert_same_tensors(fresh, loaded)


@over(COVERING_CASES)
def test_meta_device(kind: str, variant: str) -> None:
    """Laid out without memory, given some, and initialised: buffers are right and the model runs."""
    with torch.device("meta"):
        model = KINDS[kind](make_config(kind, variant)).eval()
    assert all(tensor.device.type == "meta" for tensor in [*model.parameters(), *model.buffers()])
    model.to_empty(device="cpu")
    for tensor in [*model.parameters(), *model.buffers()]:
        tensor.data.fill_(7)
    model.init_weights()
    buffers = dict(KINDS[kind](make_config(kind, variant)).named_buffers())
    assert buffers.keys() == dict(model.named_buffers()).keys()
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    assert all((parameter != 7).all() for parameter in model.parameters())
    assert run(model, **make_inputs(kind)).isfinite().all()


@over(COVERING_CASES)
def test_memory_after_the_meta_device(kind: str, variant: str) -> None:
    """`to_empty` and `load_state_dict`, without `init_weights`: what is in no checkpoint is computed again."""
    trained = KINDS[kind](make_config(kind, variant)).eval()
    with torch.device("meta"):
        model = KINDS[kind](make_config(kind, variant)).eval()
    with patch.object(torch, "empty_like", lambda one, **options: torch.full_like(one, 7, **options)):
        model.to_empty(device="cpu")
    model.load_state_dict(trained.state_dict())
    model.tie_weights()
    assert_same_tensors(trained, model)


def test_memory_for_positions_with_a_further_buffer() -> None:
    class Scaled(RotaryEmbedding):
        def __init__(self, config: PreTrainedConfig) -> None:
            super().__init__(config)
            self.register_buffer("gain", torch.ones(1))

    config = make_config("causal", "rotary")
    with torch.device("meta"):
        positions = Scaled(config)
    positions.to_empty(device="cpu").load_state_dict({"gain": torch.full((1,), 3.0)})
    assert torch.equal(positions.inv_freq, RotaryEmbedding(config).inv_freq)
    assert torch.equal(positions.gain, torch.full((1,), 3.0))


def test_memory_for_a_rotation_that_has_followed_a_length() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config = TransformerDecoderConfig(
        vocab_size=50,
        hidden_size=32,
        num_attention_heads=4,
        position_type="rotary",
        max_position_embeddings=16,
        rope_parameters=rope,
    )
    positions, states = RotaryEmbedding(config), torch.zeros(1, 1, 32)
    short, long = torch.arange(10)[None], torch.arange(40)[None]
    expected = positions(states, short)
    positions(states, long)
    positions.to("meta").to_empty(device="cpu")
    for one, other in zip(positions(states, short), expected, strict=True):
        assert torch.equal(one, other)


def test_loading_under_a_meta_device_is_refused(tmp_path: Path) -> None:
    make_model("seq2seq_lm").save_pretrained(tmp_path)
    with torch.device("meta"), pytest.raises(RuntimeError, match="meta device context manager"):
        KINDS["seq2seq_lm"].from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["encoder", "causal", "seq2seq_lm"])
def test_dtype_of_loading(kind: str, tmp_path: Path) -> None:
    model = make_model(kind, "rotary").to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    for argument in ("dtype", "torch_dtype"):
        for asked, expected in (
            ("auto", torch.bfloat16),
            (torch.float16, torch.float16),
            ("float32", torch.float32),
            (torch.bfloat16, torch.bfloat16),
        ):
            loaded = KINDS[kind].from_pretrained(tmp_path, **{argument: asked})
            assert {parameter.dtype for parameter in loaded.parameters()} == {expected}
            torch.testing.assert_close(
                loaded.get_input_embeddings().weight, model.get_input_embeddings().weight.to(expected)
            )


def test_shards(tmp_path: Path) -> None:
    model = make_model("seq2seq_lm", tie_encoder_decoder_embeddings=True)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_same_tensors(model, KINDS["seq2seq_lm"].from_pretrained(tmp_path))


def test_mismatched_shapes_only_on_request(tmp_path: Path) -> None:
    model = make_model("seq2seq_lm", tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    config = make_config("seq2seq_lm", tie_word_embeddings=False, decoder={"vocab_size": 60})
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        KINDS["seq2seq_lm"].from_pretrained(tmp_path, config=config)
    loaded, info = KINDS["seq2seq_lm"].from_pretrained(
        tmp_path, config=config, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert {key[0] for key in info["mismatched_keys"]} == {"lm_head.weight", "model.decoder.embed_tokens.weight"}
    assert loaded.lm_head.weight.shape[0] == 60
    assert loaded.lm_head.weight.isfinite().all()
    assert torch.equal(loaded.model.encoder.embed_tokens.weight, model.model.encoder.embed_tokens.weight)


@over(KIND_CASES)
def test_weights_are_contiguous(kind: str, variant: str, tmp_path: Path) -> None:
    model = make_model(kind, variant)
    model.save_pretrained(tmp_path)
    for one in (model, KINDS[kind].from_pretrained(tmp_path)):
        assert all(parameter.is_contiguous() for parameter in one.parameters())


@over(KIND_CASES)
def test_state_dict_loads_strictly(kind: str, variant: str) -> None:
    """As the Trainer does when it goes on from a checkpoint."""
    model, other = make_model(kind, variant), make_model(kind, variant, spread=False)
    result = other.load_state_dict(model.state_dict(), strict=True)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert torch.equal(run(model, **make_inputs(kind)), run(other, **make_inputs(kind)))


@over(COVERING_CASES)
def test_deepcopy(kind: str, variant: str) -> None:
    model, inputs = make_model(kind, variant), make_inputs(kind)
    twin = copy.deepcopy(model)
    assert_same_tensors(model, twin)
    assert storages(model) == storages(twin)
    before = run(model, **inputs)
    assert torch.equal(run(twin, **inputs), before)
    for parameter in twin.parameters():
        parameter.data.zero_()
    assert torch.equal(run(model, **inputs), before)


@over(KIND_CASES)
def test_parts_hold_the_configs_of_the_whole(kind: str, variant: str) -> None:
    model = make_model(kind, variant)
    configs = {id(model.config), *[id(getattr(model.config, name)) for name in model.config.sub_configs]}
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            assert id(module.config) in configs


def test_saving_leaves_no_state_of_a_call(tmp_path: Path) -> None:
    """A forward with a cache and a loss leaves nothing on the modules that would be saved or copied."""
    model, inputs = make_model("seq2seq_lm"), make_inputs("seq2seq_lm", with_labels=True)
    before = {name: sorted(vars(module)) for name, module in model.named_modules()}
    output = model(**inputs, use_cache=True)
    assert isinstance(output.past_key_values.self_attention_cache, DynamicCache)
    model.generate(inputs["input_ids"], max_length=5, num_beams=2)
    assert {name: sorted(vars(module)) for name, module in model.named_modules()} == before

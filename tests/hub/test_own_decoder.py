"""A decoder written by a user: checked, refused, saved with its code, loaded without it."""

import importlib
import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, BartConfig, PreTrainedConfig

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    TransformerEncoderConfig,
    register_decoder,
)
from hf_custom_decoder.testing import DECODER_CHECKS, DecoderCheckError, check_decoder
from tests.factories import SIZES, tiny_batch

EXAMPLE = Path(__file__).parents[2] / "examples" / "convolutional_decoder.py"
FIELDS = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2}


@pytest.fixture
def load_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Imports the example's decoder, changed by replacements, under a module name and a model type of its own."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    names = []

    def load(*replacements: tuple[str, str]) -> ModuleType:
        name = f"decoder_{uuid.uuid4().hex[:8]}"
        text = EXAMPLE.read_text().replace('"convolutional_decoder"', f'"{name}"')
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        names.append(name)
        return importlib.import_module(name)

    yield load
    travelled = [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]
    for name in (*names, *travelled):
        del sys.modules[name]


def config_of(module: ModuleType, **fields: Any) -> PreTrainedConfig:
    config: PreTrainedConfig = module.ConvolutionalDecoderConfig(**{**FIELDS, "dropout": 0.0, **fields})
    return config


def registered(module: ModuleType) -> ModuleType:
    register_decoder(module.ConvolutionalDecoderConfig, module.ConvolutionalDecoderModel)
    return module


def build(module: ModuleType, **fields: Any) -> CustomSeq2SeqForConditionalGeneration:
    torch.manual_seed(0)
    config = CustomSeq2SeqConfig(encoder=TransformerEncoderConfig(**SIZES), decoder=config_of(module, **fields))
    return CustomSeq2SeqForConditionalGeneration(config).eval()


def test_it_passes_the_suite_and_loads_in_a_fresh_process(load_module: Callable[..., ModuleType]) -> None:
    lines: list[str] = []
    check_decoder(config_of(registered(load_module())), report=lines.append)
    assert len(lines) == len(DECODER_CHECKS) + 1
    assert all(line.startswith("right") for line in lines)


BREAKS = {
    "causality": (("(self.window, 0))", "(self.window - 1, 1))"), "looks ahead"),
    "source": (("return states + weights @ source, ", "return states, "), "does not read `encoder_hidden_states`"),
    "padding": (("scores.masked_fill(source_mask, torch.finfo(scores.dtype).min)", "scores"), "must keep padding out"),
    "target padding": (("self.norm(states) * mask", "self.norm(states)"), "must leave no trace"),
    "cache": (("[:, -(self.window + length) :]", "[:, -length:]"), "Decoding in pieces"),
    "gradients": (("self.post_init()", "self.unused = nn.Linear(3, 3)\n        self.post_init()"), "unused.weight"),
    "saving": (
        (
            "self.post_init()",
            'self.register_buffer("scale", torch.ones(1) * 3, persistent=False)\n        self.post_init()',
        ),
        "after `save_pretrained`",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_named(name: str, load_module: Callable[..., ModuleType]) -> None:
    replacement, message = BREAKS[name]
    more = []
    if name == "saving":
        more = [("last_hidden_state=self.norm(states)", "last_hidden_state=self.norm(states) * self.scale")]
    module = registered(load_module(replacement, *more))
    with pytest.raises(DecoderCheckError, match=r"fails \d+ of 11 checks") as caught:
        check_decoder(config_of(module), fresh_process=False)
    assert message in caught.value.failures[name]


def test_state_on_the_module_is_found_by_beam_search(load_module: Callable[..., ModuleType]) -> None:
    old = "cache.update(seen[:, None], seen[:, None], self.layer_idx)[0][:, 0]"
    new = """torch.cat([self.kept, seen], 1) if cache.get_seq_length(self.layer_idx) else seen
            cache.update(states[:, None], states[:, None], self.layer_idx)
            self.kept = seen"""
    module = registered(load_module((old, new)))
    with pytest.raises(DecoderCheckError) as caught:
        check_decoder(config_of(module), fresh_process=False)
    assert "none on the module" in caught.value.failures["beam search"]


def test_a_saved_decoder_loads_from_its_own_code(load_module: Callable[..., ModuleType], tmp_path: Path) -> None:
    """In a process that has this package but not the decoder; all is read from the folder, under the caller's trust."""
    module = registered(load_module())
    model, batch = build(module), tiny_batch()
    folder = tmp_path / "saved"
    model.save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text())["decoder"]
    assert saved["auto_map"] == {
        "AutoConfig": f"{module.__name__}.ConvolutionalDecoderConfig",
        "AutoModel": f"{module.__name__}.ConvolutionalDecoderModel",
    }
    assert saved["kernel_size"] == 4  # defaults are written, too
    expected = tmp_path / "expected.pt"
    torch.save({"batch": batch, "logits": model(**batch).logits}, expected)
    program = f"""
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM
import hf_custom_decoder
from hf_custom_decoder import CustomSeq2SeqForConditionalGeneration

folder, task = {str(folder)!r}, torch.load({str(expected)!r}, weights_only=True)
config = AutoConfig.from_pretrained(folder)
assert config.vocab_size == 50 and config.decoder.kernel_size == 4 and config.decoder.model_type == {module.__name__!r}
for load in (AutoModelForSeq2SeqLM.from_pretrained, CustomSeq2SeqForConditionalGeneration.from_pretrained):
    for trust in ({{}}, {{"trust_remote_code": False}}):
        try:
            load(folder, **trust)
        except ValueError as error:
            assert "trust_remote_code=True" in str(error), error
        else:
            raise SystemExit("code was run without trust")
    model = load(folder, trust_remote_code=True, attn_implementation="eager")
    assert torch.allclose(model(**task["batch"]).logits, task["logits"], atol=1e-6)
    assert model.get_decoder().__module__.startswith("transformers_modules.")
    assert model.get_encoder().config._attn_implementation == "eager"
    model.save_pretrained(folder + "_again")
    again = load(folder + "_again", trust_remote_code=True, config=AutoConfig.from_pretrained(folder + "_again"))
    assert torch.allclose(again(**task["batch"]).logits, task["logits"], atol=1e-6)
    smoothed = load(folder, trust_remote_code=True, label_smoothing=0.25)
    assert smoothed.config.label_smoothing == 0.25
bare = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert type(bare).__name__ == "CustomSeq2SeqModel"
print("all right")
"""
    (tmp_path / f"{module.__name__}.py").rename(tmp_path / "elsewhere.txt")
    source = str(Path(__file__).parents[2] / "src")
    environment = {
        "PYTHONPATH": source,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=folder.parent / "saved", capture_output=True, text=True
    )
    assert process.stdout.endswith("all right\n"), process.stderr[-3000:]
    assert (tmp_path / "saved_again" / f"{module.__name__}.py").exists()


def test_two_checkpoints_of_one_model_type_keep_their_own_code(
    load_module: Callable[..., ModuleType], tmp_path: Path
) -> None:
    """Their classes are never mixed up, though they have the same name."""
    module = registered(load_module())
    model, ids = build(module), torch.tensor([[5, 6, 7]])
    model.save_pretrained(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for folder in ("one", "two"):
        path = tmp_path / folder / "config.json"
        path.write_text(path.read_text().replace(f'"model_type": "{module.__name__}"', '"model_type": "nobodys"'))
        file = tmp_path / folder / f"{module.__name__}.py"
        text = file.read_text().replace(f'model_type = "{module.__name__}"', 'model_type = "nobodys"')
        if folder == "two":
            text = text.replace("last_hidden_state=self.norm(states)", "last_hidden_state=-self.norm(states)")
        file.write_text(text)
    inputs = {"input_ids": ids, "decoder_input_ids": ids}
    first = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "one", trust_remote_code=True)
    second = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "two", trust_remote_code=True)
    torch.testing.assert_close(first(**inputs).logits, model(**inputs).logits)
    torch.testing.assert_close(second(**inputs).logits, -model(**inputs).logits)


def test_generation_follows_its_contract(load_module: Callable[..., ModuleType]) -> None:
    model, batch = build(registered(load_module())), tiny_batch()
    source = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    sampled = model.generate(**source, do_sample=True, num_return_sequences=2, max_length=8, output_scores=True)
    assert sampled.shape[0] == 6
    output = model.generate(
        **source, num_beams=2, max_length=8, return_dict_in_generate=True, output_attentions=True, use_cache=True
    )
    assert output.cross_attentions[0][0].shape == (6, 1, 1, 7)
    with pytest.raises(ValueError, match="'static'` needs a decoder whose class says"):
        model.generate(**source, cache_implementation="static")
    with pytest.raises(ValueError, match="stateful"):
        model.generate(**source, prompt_lookup_num_tokens=2)


def test_a_layer_state_of_its_own(load_module: Callable[..., ModuleType]) -> None:
    """`build_cache_layers` gives the cache its layers, with and without `generate()`."""
    method = '''
    def build_cache_layers(self):
        """Layers that keep everything, where the config's type would keep a window."""
        from transformers.cache_utils import DynamicLayer

        return [DynamicLayer() for _ in self.layers]

    def forward(
        self, input_ids,'''
    module = registered(load_module(("\n    def forward(\n        self, input_ids,", method)))
    check_decoder(config_of(module), fresh_process=False)
    output = build(module)(input_ids=torch.tensor([[5]]), decoder_input_ids=torch.arange(3, 13)[None], use_cache=True)
    assert output.past_key_values.self_attention_cache.layers[0].keys.shape[2] == 10


def test_decoder_embeddings_are_refused_where_it_takes_none(load_module: Callable[..., ModuleType]) -> None:
    model = build(registered(load_module()))
    with pytest.raises(TypeError, match="takes no `inputs_embeds`, got `decoder_inputs_embeds`"):
        model(input_ids=torch.tensor([[5]]), decoder_inputs_embeds=torch.zeros(1, 1, 32))
    with pytest.raises(ValueError, match=r"must lie in \[0, vocab_size=50\), got 50"):
        model(input_ids=torch.tensor([[5]]), decoder_input_ids=torch.tensor([[50]]))


def test_a_config_without_a_class_is_refused(load_module: Callable[..., ModuleType]) -> None:
    module = load_module()
    with pytest.raises(ValueError, match="no model class is registered for ConvolutionalDecoderConfig"):
        build(module)


def test_a_config_without_its_fields_is_refused() -> None:
    class Small(PreTrainedConfig):
        model_type = "small_decoder"
        vocab_size: int = 10
        hidden_size: int = 4

    with pytest.raises(ValueError, match=r"Small lacks \['num_hidden_layers', 'pad_token_id', 'eos_token_id'\]"):
        CustomSeq2SeqConfig(decoder=Small())
    with pytest.raises(TypeError, match="got BartConfig of transformers"):
        CustomSeq2SeqConfig(decoder=BartConfig())


def test_registration_refuses_what_cannot_work(load_module: Callable[..., ModuleType]) -> None:
    module = load_module()
    config_class, model_class = module.ConvolutionalDecoderConfig, module.ConvolutionalDecoderModel
    with pytest.raises(TypeError, match="`config_class` must be a subclass"):
        register_decoder(model_class, model_class)
    with pytest.raises(TypeError, match="subclass of `transformers.PreTrainedModel`"):
        register_decoder(config_class, torch.nn.Linear)  # type: ignore[arg-type]
    other = registered(load_module()).ConvolutionalDecoderModel
    with pytest.raises(
        ValueError, match="`ConvolutionalDecoderModel.config_class` must be ConvolutionalDecoderConfig"
    ):
        register_decoder(config_class, other)
    with pytest.raises(ValueError, match="must be a name that nobody else uses, got 'bart'"):
        register_decoder(BartConfig, model_class)

    class Deaf(model_class):  # type: ignore[misc, valid-type]
        def forward(self, input_ids: torch.Tensor, past_key_values: Any) -> None: ...

    with pytest.raises(ValueError, match="it lacks `attention_mask`, `encoder_hidden_states`"):
        register_decoder(config_class, Deaf)

    class MambaDecoder(model_class):  # type: ignore[misc, valid-type]
        pass

    with pytest.raises(ValueError, match="'mamba' in their names"):
        register_decoder(config_class, MambaDecoder)


def test_a_file_named_like_ours_is_refused(load_module: Callable[..., ModuleType], tmp_path: Path) -> None:
    shutil.copyfile(EXAMPLE, tmp_path / "layers_custom_seq2seq.py")
    module = importlib.import_module("layers_custom_seq2seq")
    try:
        with pytest.raises(ValueError, match="'layers_custom_seq2seq.py'; names of that form"):
            registered(module)
    finally:
        del sys.modules["layers_custom_seq2seq"]


def test_an_unresolved_config_is_kept_as_it_is(load_module: Callable[..., ModuleType], tmp_path: Path) -> None:
    build(registered(load_module()), kernel_size=3).save_pretrained(tmp_path / "one")
    path = tmp_path / "one" / "config.json"
    content = json.loads(path.read_text())
    content["decoder"]["model_type"] = "nobodys_either"
    path.write_text(json.dumps(content))
    config = AutoConfig.from_pretrained(tmp_path / "one")
    config.save_pretrained(tmp_path / "two")
    again = AutoConfig.from_pretrained(tmp_path / "two")
    assert again.decoder.to_dict() == config.decoder.to_dict()
    assert (again.decoder.kernel_size, again.decoder.model_type) == (3, "nobodys_either")
    with pytest.raises(ValueError, match="which was not run"):
        AutoModel.from_config(config)
    with pytest.raises(ValueError, match="The checkpoint's files do not belong together"):
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "one", trust_remote_code=True)


def test_the_plugin_runs_each_check_as_a_test(load_module: Callable[..., ModuleType], tmp_path: Path) -> None:
    module = load_module(("self.norm(states) * mask", "self.norm(states)"))
    (tmp_path / "test_mine.py").write_text(f"""
import pytest
from {module.__name__} import ConvolutionalDecoderConfig, ConvolutionalDecoderModel
from hf_custom_decoder import register_decoder

register_decoder(ConvolutionalDecoderConfig, ConvolutionalDecoderModel)

@pytest.fixture
def decoder_config():
    return ConvolutionalDecoderConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, dropout=0.0)

def test_my_decoder(decoder_check):
    decoder_check()
""")
    plugin = ["-p", "hf_custom_decoder.testing.pytest_plugin", "-p", "no:cacheprovider", "-k", "not fresh"]
    source = str(Path(__file__).parents[2] / "src")
    process = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, "test_mine.py"],
        env={"PYTHONPATH": f"{source}:{tmp_path}", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "test_my_decoder[target padding]" in process.stdout
    assert "1 failed, 10 passed, 1 deselected" in process.stdout, process.stdout[-2000:]

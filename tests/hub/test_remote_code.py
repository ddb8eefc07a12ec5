"""
Saved folders work for a stranger who has transformers and not this package; and for us, with the local classes.

All folders are visited by one fresh process (`remote_process.py`) with an empty cache of downloaded code.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    PreTrainedModel,
    T5Config,
)

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    RecurrentDecoderConfig,
    RecurrentDecoderForCausalLM,
    RecurrentEncoderConfig,
    RecurrentEncoderModel,
    TransformerDecoderConfig,
    TransformerDecoderModel,
    TransformerEncoderModel,
)
from tests.combinations import RECURRENT_SIZES, build_pair
from tests.factories import SIZES, VOCAB_SIZE, encoder_fields, spread_weights, tiny_batch, tiny_causal, tiny_seq2seq
from tests.fresh_python import run_python
from tests.integration.training_runs import word_tokenizer

SOURCE = Path(__file__).parents[2] / "src"
SEQ2SEQ_MAP = {
    "AutoConfig": "configuration_custom_seq2seq.CustomSeq2SeqConfig",
    "AutoModel": "modeling_custom_seq2seq.CustomSeq2SeqModel",
    "AutoModelForSeq2SeqLM": "modeling_custom_seq2seq.CustomSeq2SeqForConditionalGeneration",
}
DECODER_MAP = {
    "AutoConfig": "configuration_transformer_decoder.TransformerDecoderConfig",
    "AutoModel": "modeling_transformer_decoder.TransformerDecoderModel",
    "AutoModelForCausalLM": "modeling_transformer_decoder.TransformerDecoderForCausalLM",
}
RECURRENT_MAP = {
    "AutoConfig": "configuration_recurrent_decoder.RecurrentDecoderConfig",
    "AutoModel": "modeling_recurrent_decoder.RecurrentDecoderModel",
    "AutoModelForCausalLM": "modeling_recurrent_decoder.RecurrentDecoderForCausalLM",
}
ENCODER_MAP = {
    "AutoConfig": "configuration_transformer_encoder.TransformerEncoderConfig",
    "AutoModel": "modeling_transformer_encoder.TransformerEncoderModel",
}
RECURRENT_ENCODER_MAP = {
    "AutoConfig": "configuration_recurrent_encoder.RecurrentEncoderConfig",
    "AutoModel": "modeling_recurrent_encoder.RecurrentEncoderModel",
}
FOLDERS = {  # by which Auto class each is loaded, and what its `auto_map` says
    "ours": ("AutoModelForSeq2SeqLM", SEQ2SEQ_MAP),
    "tied": ("AutoModelForSeq2SeqLM", SEQ2SEQ_MAP),
    "bert": ("AutoModelForSeq2SeqLM", SEQ2SEQ_MAP),
    "t5": ("AutoModelForSeq2SeqLM", SEQ2SEQ_MAP),
    "lstm": ("AutoModelForSeq2SeqLM", SEQ2SEQ_MAP),
    "gru_everything": ("AutoModelForSeq2SeqLM", SEQ2SEQ_MAP),
    "ssru": ("AutoModelForSeq2SeqLM", SEQ2SEQ_MAP),
    "hybrid": ("AutoModelForSeq2SeqLM", SEQ2SEQ_MAP),
    "bare": ("AutoModel", SEQ2SEQ_MAP),
    "causal": ("AutoModelForCausalLM", DECODER_MAP),
    "decoder": ("AutoModel", DECODER_MAP),
    "encoder": ("AutoModel", ENCODER_MAP),
    "recurrent_causal": ("AutoModelForCausalLM", RECURRENT_MAP),
    "recurrent_encoder": ("AutoModel", RECURRENT_ENCODER_MAP),
}
BEAMS = {"num_beams": 3, "max_new_tokens": 9, "num_return_sequences": 2}
TEXTS = ["w5 w6", "w7"]
SMOOTHING = 0.1


def with_encoder(config: Any) -> CustomSeq2SeqForConditionalGeneration:
    torch.manual_seed(0)
    whole = CustomSeq2SeqConfig(encoder=config, decoder=TransformerDecoderConfig(**SIZES))
    model = CustomSeq2SeqForConditionalGeneration(whole).eval()
    spread_weights(model)
    return model


def build() -> dict[str, PreTrainedModel]:
    """The model of each folder."""
    bert = BertConfig(
        vocab_size=VOCAB_SIZE, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    t5 = T5Config(vocab_size=VOCAB_SIZE, d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    ours, tied = tiny_seq2seq("rotary_gqa_qk_norm"), tiny_seq2seq("learned", tie_encoder_decoder_embeddings=True)
    encoder = TransformerEncoderModel(ours.config.encoder.__class__(**encoder_fields("alibi"))).eval()
    decoder = TransformerDecoderModel(TransformerDecoderConfig(**SIZES)).eval()
    recurrent = RecurrentDecoderForCausalLM(RecurrentDecoderConfig(**RECURRENT_SIZES)).eval()
    spread_weights(recurrent)
    return {
        "ours": ours,
        "tied": tied,
        "bert": with_encoder(bert),
        "t5": with_encoder(t5),
        "lstm": build_pair("lstm_2", "lstm_dot").float(),
        "gru_everything": build_pair("gru_2", "gru_everything").float(),
        "ssru": build_pair("transformer", "ssru").float(),
        "hybrid": build_pair("transformer", "hybrid_mingru_last").float(),
        "bare": tiny_seq2seq("sliding_first").model,
        "causal": tiny_causal("sliding_last_alibi"),
        "decoder": decoder,
        "encoder": encoder,
        "recurrent_causal": recurrent,
        "recurrent_encoder": RecurrentEncoderModel(RecurrentEncoderConfig(**RECURRENT_SIZES)).eval(),
    }


def calls(model: PreTrainedModel) -> dict[str, Any]:
    """Inputs for the model, and what it says to them."""
    batch = tiny_batch()
    source = {key: batch[key] for key in ("input_ids", "attention_mask")}
    inputs = dict(source)
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = batch["labels"].clamp(min=0)
    elif model.can_generate():  # the prompts of a decoder would need padding on the left
        source = {"input_ids": source["input_ids"][:1]}
    field = "logits" if model.can_generate() else "last_hidden_state"
    task: dict[str, Any] = {"inputs": inputs, "source": source, "field": field, "generation": None}
    with torch.no_grad():
        task["output"] = model(**inputs)[field]
    if model.can_generate():
        task["generation"] = BEAMS
        task["beams"] = model.generate(**source, **BEAMS)
    return task


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("remote")


@pytest.fixture(scope="module")
def tasks(root: Path) -> dict[str, Any]:
    """Every folder saved by the package, with inputs and outputs."""
    saved: dict[str, Any] = {}
    for name, model in build().items():
        model.save_pretrained(root / name)
        saved[name] = {"folder": str(root / name), "auto_class": FOLDERS[name][0], **calls(model)}
    word_tokenizer().save_pretrained(root / "ours")

    torch.manual_seed(0)
    base = AutoModelForSeq2SeqLM.from_pretrained(root / "ours")
    lora = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM, target_modules=["q_proj", "v_proj"], r=2, init_lora_weights=False
    )
    adapted = get_peft_model(base, lora).eval()
    adapted.save_pretrained(root / "adapter")
    adapter = {"folder": str(root / "adapter"), "base": str(root / "ours"), **calls(adapted)}
    assert not torch.allclose(adapter["output"], saved["ours"]["output"], atol=1e-3)
    return {"folders": saved, "adapter": adapter, "texts": TEXTS, "smoothing": SMOOTHING}


@pytest.fixture(scope="module")
def report(root: Path, tasks: dict[str, Any]) -> dict[str, Any]:
    """What the stranger found."""
    torch.save(tasks, root / "tasks.pt")
    script = Path(__file__).with_name("remote_process.py")
    arguments = ["-I", script, SOURCE, root / "tasks.pt", root / "report.json"]
    run_python(*arguments, folder=root, timeout=400, HF_MODULES_CACHE=str(root / "modules"), HF_HUB_OFFLINE="1")
    found: dict[str, Any] = json.loads((root / "report.json").read_text())
    return found


@pytest.mark.parametrize("name", FOLDERS)
def test_folder_names_every_class_that_can_load_it(root: Path, tasks: dict[str, Any], name: str) -> None:
    """A full `auto_map`, and beside the weights every file that it leads to."""
    config = json.loads((root / name / "config.json").read_text())
    assert config["auto_map"] == FOLDERS[name][1]
    files = {file.stem for file in (root / name).glob("*.py")}
    assert {reference.partition(".")[0] for reference in config["auto_map"].values()} <= files
    assert "__init__" not in files
    assert (root / name / "model.safetensors").exists()


def test_the_stranger_cannot_import_the_package(report: dict[str, Any]) -> None:
    """It could before the package was hidden, as after an editable installation; and never after."""
    assert report["importable before"] is True
    assert report["hidden"] is True
    assert report["hidden to the end"] is True


@pytest.mark.parametrize("name", FOLDERS)
def test_the_stranger_gets_the_same_outputs(report: dict[str, Any], name: str) -> None:
    """Logits and beams equal ours, only with trust; what is saved again is complete and the same."""
    found = report["folders"][name]
    auto_class, auto_map = FOLDERS[name]
    class_name = auto_map[auto_class].partition(".")[2]
    for key in ("class", "second class"):
        assert found[key].startswith("transformers_modules.")
        assert found[key].endswith(f".{class_name}")
    assert found["class"] != found["second class"]  # the second came from the second folder
    assert found["differences"] == found["differences again"] == []
    assert found["decoding steps"] is found["decoding steps again"] is True
    assert found["refused without trust"] is found["refused with trust False"] is found["config refused"] is True
    assert found["config differences"] == []
    assert found["same code again"] is found["is in evaluation mode"] is True


def test_the_stranger_trains_and_adapts(report: dict[str, Any], tasks: dict[str, Any]) -> None:
    """Adapters, tokenizer, our encoder under a fresh decoder; labels of a language model shifted by the Trainer."""
    assert report["adapter"] == {"by peft": [], "by transformers": []}
    assert report["token ids"] == word_tokenizer()(TEXTS)["input_ids"]
    assert report["pretrained encoder"] is True
    ids = tasks["folders"]["causal"]["inputs"]["input_ids"]
    model = tiny_causal("sliding_last_alibi")
    with torch.no_grad():
        found = model(ids).logits[:, :-1].double().log_softmax(-1)
    right = found.gather(-1, ids[:, 1:, None])[..., 0]
    truth = -float(((1 - SMOOTHING) * right + SMOOTHING * found.mean(-1)).mean())
    assert report["smoothed loss"] == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize("trust", [None, False, True])
@pytest.mark.parametrize("name", FOLDERS)
def test_with_the_package_the_local_classes_are_used(tasks: dict[str, Any], name: str, trust: bool | None) -> None:
    """Whatever `trust_remote_code` says: no code of the folder is run."""
    auto_classes: dict[str, Any] = {
        one.__name__: one for one in (AutoModel, AutoModelForSeq2SeqLM, AutoModelForCausalLM)
    }
    task = tasks["folders"][name]
    options = {} if trust is None else {"trust_remote_code": trust}
    model = auto_classes[task["auto_class"]].from_pretrained(task["folder"], **options)
    assert type(model).__module__.startswith("hf_custom_decoder.models.")
    assert type(AutoConfig.from_pretrained(task["folder"], **options)).__module__.startswith("hf_custom_decoder.")
    assert not [name for name in sys.modules if name.startswith("transformers_modules.")]
    with torch.no_grad():
        torch.testing.assert_close(model(**task["inputs"])[task["field"]], task["output"])


def test_saving_what_was_loaded_keeps_code_and_map(root: Path, tasks: dict[str, Any], tmp_path: Path) -> None:
    """Loaded by the Auto class and saved again, also as its part: the bare model's folder is complete too."""
    model = AutoModelForSeq2SeqLM.from_pretrained(root / "bert")
    model.save_pretrained(tmp_path / "again")
    model.model.save_pretrained(tmp_path / "bare")
    expected = {file.name for file in (root / "bert").glob("*.py")}
    for name in ("again", "bare"):
        assert {file.name for file in (tmp_path / name).glob("*.py")} == expected
        assert json.loads((tmp_path / name / "config.json").read_text())["auto_map"] == SEQ2SEQ_MAP

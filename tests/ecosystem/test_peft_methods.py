"""Every method of peft that docs/peft.md names, on every kind of decoder: trained, saved, loaded, merged, switched."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    get_peft_model,
)
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq, Seq2SeqTrainer

from hf_custom_decoder import CustomSeq2SeqForConditionalGeneration
from hf_custom_decoder.peft import (
    get_lora_config,
    get_prefix_tuning_config,
    get_prompt_tuning_config,
    tie_saved_modules,
    train_only,
)
from hf_custom_decoder.peft.adapter_configs import task_type
from tests.ecosystem.peft_cases import CASES, inputs_of, source_of
from tests.factories import tiny_causal, tiny_seq2seq
from tests.integration.training_runs import logged_losses, token_examples, training_arguments, word_tokenizer

TIGHT = {"rtol": 0.0, "atol": 1e-9}
WEIGHT_METHODS: dict[str, Any] = {
    "lora": lambda model: LoraConfig(task_type=task_type(model), r=3),
    "dora": lambda model: LoraConfig(task_type=task_type(model), r=3, use_dora=True),
    "rslora": lambda model: LoraConfig(task_type=task_type(model), r=3, use_rslora=True),
    "ia3": lambda model: IA3Config(task_type=task_type(model)),
}
"""Methods that change weights and can be merged; none names a module."""

PROMPT_METHODS: dict[str, Any] = {
    "prompt tuning": lambda model: get_prompt_tuning_config(model, num_virtual_tokens=3),
    "prefix tuning": lambda model: get_prefix_tuning_config(model, num_virtual_tokens=3),
}
WITHOUT_KEYS = ("recurrent", "hybrid", "causal recurrent")
BEAMS = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 6}


def fit(model: nn.Module, inputs: dict[str, torch.Tensor], steps: int = 3) -> list[float]:
    """The losses of a few steps of Adam on what is trained."""
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=0.05)
    losses = []
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    model.eval()
    return losses


@torch.no_grad()
def logits_of(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**inputs).logits


def built(case: str, configs: dict[str, Any], method: str) -> tuple[PeftModel, dict[str, torch.Tensor]]:
    base = CASES[case]()
    return get_peft_model(base, configs[method](base), autocast_adapter_dtype=False).double(), inputs_of(base)


@pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied:UserWarning")
@pytest.mark.parametrize("method", WEIGHT_METHODS)
@pytest.mark.parametrize("case", CASES)
def test_trained_saved_loaded_merged_and_unloaded(case: str, method: str, tmp_path: Path) -> None:
    """The default modules alone; equal logits at every step, and beams."""
    plain = logits_of(CASES[case](), inputs_of(CASES[case]()))
    model, inputs = built(case, WEIGHT_METHODS, method)
    torch.testing.assert_close(logits_of(model, inputs), plain, **TIGHT)  # a fresh adapter adds nothing
    parts = {"encoder": ".encoder.", "decoder": ".decoder."} if model.config.is_encoder_decoder else {"model": "."}
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    assert all(any(part in name for name in trained) for part in parts.values())
    losses = fit(model, inputs)
    assert losses[-1] < losses[0]
    expected = logits_of(model, inputs)
    assert not torch.allclose(expected, plain, atol=1e-3)
    beams = model.generate(**source_of(inputs), **BEAMS)

    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(CASES[case](), tmp_path, autocast_adapter_dtype=False).double().eval()
    torch.testing.assert_close(logits_of(loaded, inputs), expected, **TIGHT)
    assert torch.equal(loaded.generate(**source_of(inputs), **BEAMS), beams)
    with loaded.disable_adapter():
        torch.testing.assert_close(logits_of(loaded, inputs), plain, **TIGHT)
    torch.testing.assert_close(logits_of(copy.deepcopy(loaded).unload(), inputs), plain, **TIGHT)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(logits_of(merged, inputs), expected, **TIGHT)
    assert torch.equal(merged.generate(**source_of(inputs), **BEAMS), beams)


@pytest.mark.parametrize("method", PROMPT_METHODS)
@pytest.mark.parametrize("case", CASES)
def test_prompts_are_trained_saved_and_loaded(case: str, method: str, tmp_path: Path) -> None:
    if method == "prefix tuning" and case in WITHOUT_KEYS:
        with pytest.raises(ValueError, match="needs attention keys in every layer of the decoder"):
            built(case, PROMPT_METHODS, method)
        return
    model, inputs = built(case, PROMPT_METHODS, method)
    losses = fit(model, inputs)
    assert losses[-1] < losses[0]
    model.prompt_encoder.float().double()  # peft loads prompts in float32
    beams = model.generate(**source_of(inputs), **BEAMS)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(CASES[case](), tmp_path).double().eval()
    torch.testing.assert_close(logits_of(loaded, inputs), logits_of(model, inputs), **TIGHT)
    assert torch.equal(loaded.generate(**source_of(inputs), **BEAMS), beams)
    with model.disable_adapter():
        torch.testing.assert_close(logits_of(model, inputs), logits_of(CASES[case](), inputs), **TIGHT)


def test_a_prefix_generates_what_its_logits_say() -> None:
    """Greedy tokens are the best ones of a whole pass over them; several returned rows share no source."""
    model, inputs = built("transformer", PROMPT_METHODS, "prefix tuning")
    fit(model, inputs)
    ids = model.generate(**source_of(inputs), max_new_tokens=5, min_new_tokens=5, do_sample=False)
    logits = logits_of(model, {**source_of(inputs), "decoder_input_ids": ids[:, :-1]})
    last = logits.argmax(-1)[:, :-1]
    assert torch.equal(last, ids[:, 1:-1])


def test_a_prefix_where_the_config_leaves_the_key_heads_open(tmp_path: Path) -> None:
    base = tiny_causal().double()
    model = get_peft_model(base, get_prefix_tuning_config(base, num_virtual_tokens=3)).double().eval()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_causal().double(), tmp_path).double().eval()
    inputs = inputs_of(base)
    torch.testing.assert_close(logits_of(loaded, inputs), logits_of(model, inputs), **TIGHT)
    assert not torch.allclose(logits_of(model, inputs), logits_of(tiny_causal().double(), inputs), atol=1e-3)


def test_a_prefix_on_a_recurrent_decoder_without_our_config_is_refused() -> None:
    base = CASES["hybrid"]()
    config = PrefixTuningConfig(task_type=task_type(base), num_virtual_tokens=3, num_attention_heads=4)
    with pytest.raises(ValueError, match="past_key_values"):
        get_peft_model(base, config).double()(**inputs_of(base))


@pytest.mark.parametrize("case", CASES)
def test_adapters_are_switched_at_run_time(case: str) -> None:
    """Two adapters on one base give what each gives by itself, in any order."""
    alone = {}
    base = CASES[case]()
    inputs = inputs_of(base)
    for name, seed in (("first", 1), ("second", 2)):
        fresh = CASES[case]()
        torch.manual_seed(seed)
        config = LoraConfig(task_type=task_type(base), r=2, init_lora_weights=False)
        alone[name] = get_peft_model(fresh, config, adapter_name=name, autocast_adapter_dtype=False).eval()
    expected = {name: logits_of(model, inputs) for name, model in alone.items()}
    assert not torch.allclose(expected["first"], expected["second"], atol=1e-3)
    model = alone["first"]
    model.add_adapter("second", alone["second"].peft_config["second"], autocast_adapter_dtype=False)
    weights = alone["second"].state_dict()
    model.load_state_dict({name: weights[name] for name in weights if ".second." in name}, strict=False)
    for name in ("second", "first", "second"):
        model.set_adapter(name)
        torch.testing.assert_close(logits_of(model.eval(), inputs), expected[name], **TIGHT)


@pytest.mark.parametrize("config_class", [AdaLoraConfig, LoHaConfig, LoKrConfig, LNTuningConfig])
@pytest.mark.parametrize("case", CASES)
def test_other_methods_know_the_modules(case: str, config_class: Any) -> None:
    base = CASES[case]()
    inputs = inputs_of(base)
    if config_class is LNTuningConfig and not any(isinstance(one, nn.LayerNorm) for one in base.modules()):
        if "recurrent" in case:
            with pytest.raises(ValueError, match="not found in the base model"):
                get_peft_model(base, config_class(task_type=task_type(base)))
            return
    options = {"total_step": 10} if config_class is AdaLoraConfig else {}
    model = get_peft_model(base, config_class(task_type=task_type(base), **options)).double()
    losses = fit(model, inputs)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("case", CASES)
def test_full_fine_tuning_of_chosen_modules(case: str) -> None:
    """Only what was named moves; a tied weight moves with its module."""
    model = CASES[case]()
    inputs = inputs_of(model)
    chosen = ["lm_head", "layers.1" if case != "bert" else "encoder.layer.0"]
    names = train_only(model, chosen)
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    fit(model, inputs)
    moved = {name for name, one in model.named_parameters() if not torch.equal(one, before[name])}
    assert moved == set(names)
    assert any("embed_tokens" in name for name in moved) == model.config.tie_word_embeddings  # one with the head
    assert not any("layers.0." in name for name in moved)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("case", ["transformer", "hybrid", "bert"])
def test_the_trainer_trains_a_default_adapter_under_gradient_checkpointing(case: str, tmp_path: Path) -> None:
    """Checkpointing changes no loss. (Recurrent layers have none: transformers refuses it in so many words.)"""
    losses = []
    for is_checkpointing in (False, True):
        base = CASES[case]().float()
        torch.manual_seed(0)
        model = get_peft_model(base, get_lora_config(base, r=4))
        tokenizer = word_tokenizer()
        trainer = Seq2SeqTrainer(
            model=model,
            args=training_arguments(
                tmp_path, learning_rate=1e-2, num_train_epochs=3, gradient_checkpointing=is_checkpointing
            ),
            train_dataset=token_examples(8),
            data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
            processing_class=tokenizer,
        )
        trainer.train()
        losses.append(logged_losses(trainer))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied:UserWarning")
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.parametrize("is_shared", [False, True], ids=["two embeddings", "one embedding"])
def test_tied_embeddings_are_trained_as_one(is_shared: bool, tmp_path: Path) -> None:
    """Named by one of its holders, a tied weight is saved for all; trained as one, it is merged as one."""

    def base() -> CustomSeq2SeqForConditionalGeneration:
        return tiny_seq2seq(tie_encoder_decoder_embeddings=is_shared).double()

    config = get_lora_config(base(), modules_to_save=["lm_head"])
    names = {"lm_head", "model.decoder.embed_tokens"} | ({"model.encoder.embed_tokens"} if is_shared else set())
    assert set(config.modules_to_save) == names
    inputs = inputs_of(base())
    model = get_peft_model(base(), config, autocast_adapter_dtype=False).double()
    tie_saved_modules(model)
    copies = [one.modules_to_save["default"] for one in model.modules() if isinstance(one, ModulesToSaveWrapper)]
    assert len(copies) == len(names)
    assert len({id(one.weight) for one in copies}) == 1
    losses = fit(model, inputs)
    assert losses[-1] < losses[0]
    expected = logits_of(model, inputs)
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(base(), tmp_path / "adapter", autocast_adapter_dtype=False).double().eval()
    torch.testing.assert_close(logits_of(loaded, inputs), expected, **TIGHT)
    tie_saved_modules(loaded)
    merged = loaded.merge_and_unload()
    assert merged.lm_head.weight is merged.get_decoder().embed_tokens.weight
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged", dtype=torch.float64)
    torch.testing.assert_close(logits_of(again, inputs), expected, **TIGHT)
    assert again.config.tie_word_embeddings
    assert again.lm_head.weight is again.get_decoder().embed_tokens.weight


def test_prompts_of_another_vocabulary_are_refused() -> None:
    """peft would embed the source by the decoder's table."""
    with pytest.raises(ValueError, match="needs one vocabulary size on both sides, got 50 for the decoder and 40"):
        get_prompt_tuning_config(tiny_seq2seq(encoder={"vocab_size": 40}), num_virtual_tokens=3)


def test_wrong_names_are_refused() -> None:
    model = CASES["transformer"]()
    with pytest.raises(ValueError, match=r"`names` must be ends of module names.*'nothing'"):
        train_only(model, ["nothing"])
    with pytest.raises(TypeError, match="must be a sequence of module names"):
        train_only(model, "lm_head")
    with pytest.raises(ValueError, match="`target_modules` must hold ends of module names.*'nothing'"):
        get_lora_config(model, target_modules=["nothing"])
    with pytest.raises(ValueError, match="`r` must be a positive integer, got 0"):
        get_lora_config(model, r=0)
    with pytest.raises(ValueError, match="weight is tied, got 'lm_head'"):
        get_lora_config(model, target_modules=["q_proj", "lm_head"])
    with pytest.raises(ValueError, match="part of what is tied, got 'model.decoder'"):
        get_lora_config(model, modules_to_save=["model.decoder"])

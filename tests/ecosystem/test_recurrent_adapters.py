"""
Adapters, 8-bit weights, hooks and sharding on recurrent models.

Each makes the fused kernels step aside, or prepares the weights in `forward`, where a kernel that is given the weights
past their modules would not see it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.nn.utils import prune
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from hf_custom_decoder.models.cells_custom_seq2seq import RecurrentCell, is_plain_linear
from tests.combinations import build_pair
from tests.factories import tiny_batch

PAIRS = [
    ("gru_2", "gru_none"),
    ("lstm_2", "lstm_dot"),
    ("rnn_1", "rnn_additive"),
    ("lstm_1", "lstm_input_feeding"),
    ("gru_2", "gru_everything"),
    ("gru_2", "gru_multihead"),
    ("transformer", "ssru"),
    ("gru_1", "hybrid_mingru_last"),
]
over_pairs = pytest.mark.parametrize(("encoder", "decoder"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
BEAMS = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 8}
TIGHT = {"rtol": 0.0, "atol": 1e-10}


def targets(model: nn.Module) -> list[str]:
    """The last names of all linear layers of cells, mixers, attention and head that a model has."""
    wanted = ("input_proj", "recurrent_proj", "gate_proj", "lm_head", "q_proj")
    found = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return [name for name in wanted if name in found]


def adapted(base: nn.Module, **kwargs: Any) -> PeftModel:
    lora = LoraConfig(task_type=TaskType.SEQ_2_SEQ_LM, r=3, target_modules=targets(base), **kwargs)
    return get_peft_model(base, lora).eval()


def source_of(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def cells(model: nn.Module) -> list[RecurrentCell]:
    return [module for module in model.modules() if isinstance(module, RecurrentCell)]


def step_by_step(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of one decoder token a call, `(B, T, V)`."""
    cache, logits = None, []
    with torch.no_grad():
        for token in batch["labels"].clamp(min=0).split(1, dim=1):
            output = model(**source_of(batch), decoder_input_ids=token, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            logits.append(output.logits)
    return torch.cat(logits, dim=1)


@over_pairs
def test_an_adapter_that_adds_nothing_changes_nothing(encoder: str, decoder: str) -> None:
    """LoRA's B is zero at first: the modules, step by step, give what the fused kernels give; gradients too."""
    base, batch = build_pair(encoder, decoder, tie_word_embeddings=False), tiny_batch()
    assert all(cell.is_plain for cell in cells(base))
    loss = base(**batch).loss
    loss.backward()
    logits, steps = base(**batch).logits.detach(), step_by_step(base, batch)
    bias_gradients = {
        f"base_model.model.{name.removesuffix('bias')}base_layer.bias": parameter.grad.clone()
        for name, parameter in base.named_parameters()
        if name.endswith(("input_proj.bias", "recurrent_proj.bias"))
    }
    base.zero_grad()
    model = adapted(base, bias="all")
    assert not any(cell.is_plain for cell in cells(model))
    output = model(**batch)
    torch.testing.assert_close(output.logits, logits, **TIGHT)
    torch.testing.assert_close(step_by_step(model, batch), steps, **TIGHT)
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if name in bias_gradients}
    torch.testing.assert_close(gradients, bias_gradients, **TIGHT)


@pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied:UserWarning")
@over_pairs
def test_a_trained_adapter_is_saved_loaded_and_merged(encoder: str, decoder: str, tmp_path: Path) -> None:
    base, batch = build_pair(encoder, decoder, tie_word_embeddings=False), tiny_batch()
    base.save_pretrained(tmp_path / "base")
    plain = base(**batch).logits.detach()
    model = adapted(base).train()
    lora = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
    optimizer = torch.optim.Adam(lora.values(), lr=0.02)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < losses[0]
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == set(lora)
    assert all((parameter.grad != 0).any() for parameter in lora.values())  # A's from the second step on

    with torch.no_grad():
        expected = model.eval()(**batch).logits
    assert not torch.allclose(expected, plain, atol=1e-3)
    beams = model.generate(**source_of(batch), **BEAMS)
    assert torch.equal(model.generate(**source_of(batch), **BEAMS, use_cache=False), beams)
    model.save_pretrained(tmp_path / "adapter")
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base", dtype=torch.float64)
    loaded = PeftModel.from_pretrained(again, tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, expected, **TIGHT)
    assert torch.equal(loaded.generate(**source_of(batch), **BEAMS), beams)
    merged = loaded.merge_and_unload()
    assert all(cell.is_plain for cell in cells(merged))  # fused again
    with torch.no_grad():
        torch.testing.assert_close(merged(**batch).logits, expected, **TIGHT)
    assert torch.equal(merged.generate(**source_of(batch), **BEAMS), beams)


class Int8Linear(nn.Module):
    """What 8-bit quantisers put in the place of a linear layer: whole numbers and one scale a row."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("numbers", (linear.weight.detach() / scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(inputs, self.numbers * self.scale, self.bias)


def quantise(model: nn.Module, only: str = "") -> None:
    linears = [(name, one) for name, one in model.named_modules() if isinstance(one, nn.Linear) and only in name]
    for name, linear in linears:
        model.set_submodule(name, Int8Linear(linear))


@over_pairs
def test_8_bit_weights_generate(encoder: str, decoder: str) -> None:
    """As a model whose weights were rounded beforehand, which runs through the fused kernels."""
    model, batch = build_pair(encoder, decoder, tie_word_embeddings=False), tiny_batch()
    rounded = build_pair(encoder, decoder, tie_word_embeddings=False)
    for module in rounded.modules():
        if isinstance(module, nn.Linear):
            small = Int8Linear(module)
            module.weight.data.copy_(small.numbers * small.scale)
    plain = model(**batch).logits
    quantise(model)
    assert not any(cell.is_plain for cell in cells(model))
    with torch.no_grad():
        expected = rounded(**batch).logits
        torch.testing.assert_close(model(**batch).logits, expected, **TIGHT)
    assert not torch.allclose(expected, plain, atol=1e-4)
    assert torch.equal(model.generate(**source_of(batch), **BEAMS), rounded.generate(**source_of(batch), **BEAMS))


@pytest.mark.parametrize("only", ["input_proj", "recurrent_proj"])
def test_one_replaced_layer_is_enough(only: str) -> None:
    model, batch = build_pair("gru_2", "lstm_dot"), tiny_batch()
    plain = model(**batch).logits
    quantise(model, only)
    assert not torch.allclose(model(**batch).logits, plain, atol=1e-4)


class Subclass(nn.Linear):
    """Many quantised layers are subclasses of `nn.Linear` (bitsandbytes)."""


class OtherTensor(torch.Tensor):
    """torchao replaces the tensor and leaves the module."""


def test_what_is_no_plain_linear_layer() -> None:
    assert is_plain_linear(nn.Linear(2, 2))
    assert not is_plain_linear(Subclass(2, 2))
    other = nn.Linear(2, 2)
    other.weight = nn.Parameter(torch.zeros(2, 2).as_subclass(OtherTensor))
    assert not is_plain_linear(other)
    for name in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        hooked = nn.Linear(2, 2)
        getattr(hooked, name)(lambda *arguments: None)
        assert not is_plain_linear(hooked), name
    patched = nn.Linear(2, 2)
    patched.forward = nn.Linear(2, 2).forward  # type: ignore[method-assign]  # as accelerate's hooks do
    assert not is_plain_linear(patched)


def test_hooks_on_the_layers_are_seen() -> None:
    """Pruning by torch computes the weight in a hook: a kernel would read the one of the call before."""
    model, batch = build_pair("gru_2", "gru_dot"), tiny_batch()
    layer = model.model.decoder.layers[1].cell.recurrent_proj
    prune.l1_unstructured(layer, "weight", amount=0.5)
    with torch.no_grad():
        layer.weight_orig.mul_(1.5)
        expected = model(**batch).logits
        prune.remove(layer, "weight")
        layer.weight.copy_(layer.weight)
        torch.testing.assert_close(model(**batch).logits, expected, **TIGHT)


@pytest.mark.parametrize("is_adapted", [False, True])
@over_pairs
def test_bfloat16_autocast(encoder: str, decoder: str, is_adapted: bool) -> None:
    """First states, contexts and gates come in bfloat16 (8 bits); what cells carry on stays in float32."""
    model, batch = build_pair(encoder, decoder, tie_word_embeddings=False).float(), tiny_batch()
    exact = model(**batch).loss.item()
    if is_adapted:
        model = adapted(model)
    target_mask = {"decoder_attention_mask": (batch["labels"] != -100).long()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for extra in ({}, target_mask):
            output = model.train()(**batch, **extra)
            assert output.loss.item() == pytest.approx(exact, rel=0.03)
            output.loss.backward()
        model.eval()
        ids = model.generate(**source_of(batch), **BEAMS)
        output = model(**source_of(batch), decoder_input_ids=ids[::2], use_cache=True)
    if any("decoder" in name and isinstance(module, RecurrentCell) for name, module in model.named_modules()):
        layers = output.past_key_values.self_attention_cache.layers
        assert {one.dtype for layer in layers for one in layer.states[:1]} == {torch.float32}


@pytest.fixture
def one_process() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def sharded(model: PreTrainedModel) -> PreTrainedModel:
    """Every layer by itself, then the rest: outside its layer's `forward` a weight is a shard."""
    mesh = init_device_mesh("cpu", (1,))
    for part in (model.get_encoder(), model.get_decoder()):
        for layer in part.layers:
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "generate")  # it runs the encoder by itself, before the first `forward`
    return model


@pytest.mark.usefixtures("one_process")
@over_pairs
def test_sharded_layers_give_the_same_loss_and_gradients(encoder: str, decoder: str) -> None:
    model, batch = build_pair(encoder, decoder).train(), tiny_batch()
    loss = model(**batch).loss
    loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    beams = model.eval().generate(**source_of(batch), **BEAMS)

    found = sharded(build_pair(encoder, decoder).train())
    found_loss = found(**batch).loss
    torch.testing.assert_close(found_loss, loss, **TIGHT)
    found_loss.backward()
    gradients = {name: parameter.grad.full_tensor() for name, parameter in found.named_parameters()}
    torch.testing.assert_close(gradients, expected, **TIGHT)
    assert torch.equal(found.eval().generate(**source_of(batch), **BEAMS), beams)

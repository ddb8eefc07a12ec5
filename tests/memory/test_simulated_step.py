"""
A simulated step against a real one in float32 on the CPU: what autograd saves, and the most that is allocated.

What may differ is known by its size. A batch without padding needs no mask, so the real step has none; the simulated
one counts the mask that a padded batch has in the decoder's self-attention, a float32 number a pair of positions and
layer. Scalars and the shifted ids that live at the end of the forward pass are below a KiB.
"""

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import Seq2SeqLMOutput

from benchmarks.memory import saved_bytes
from hf_custom_decoder import CustomSeq2SeqForConditionalGeneration
from hf_custom_decoder.memory import StepFigures, simulate_step, without_memory
from hf_custom_decoder.models import dropout_custom_seq2seq, loss_custom_seq2seq

from .measured_step import (
    KINDS,
    PAIRS,
    SIZES,
    SOURCE,
    TARGET,
    allocated_peak,
    config_of,
    full_batch,
    model_of,
)

KIB = 1024
DECODER_MASKS = {"transformer": 2, "lstm": 0, "hybrid": 1}


def simulated(kind: str, *, checkpointing: bool = False, autocast: torch.dtype | None = None) -> StepFigures:
    with without_memory():
        model = CustomSeq2SeqForConditionalGeneration(config_of(kind))
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        return simulate_step(model, num_pairs=PAIRS, source_length=SOURCE, target_length=TARGET, autocast=autocast)


def mask_bytes(kind: str, size: int = 4) -> int:
    return PAIRS * DECODER_MASKS[kind] * TARGET**2 * size


@pytest.fixture(autouse=True)
def _as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> object:
    """Logits wait for the backward pass, dropout is torch's, and oneDNN's LSTM, which keeps a workspace, is not used."""
    monkeypatch.setattr(loss_custom_seq2seq, "can_fuse", lambda *_: False)
    monkeypatch.setattr(dropout_custom_seq2seq, "LEAST_LEVELS", dropout_custom_seq2seq.LEVELS)
    with torch.backends.mkldnn.flags(enabled=False):
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_what_autograd_keeps(kind: str) -> None:
    measured = saved_bytes(model_of(kind), full_batch())
    extra = simulated(kind).activations - measured - mask_bytes(kind)
    assert measured > 100 * KIB
    assert 0 <= extra <= KIB


@pytest.mark.parametrize("kind", ["transformer", "hybrid"])
def test_the_most_that_is_allocated(kind: str) -> None:
    measured = allocated_peak(model_of(kind), full_batch())
    assert abs(simulated(kind).peak - measured - mask_bytes(kind)) <= KIB


def test_the_most_that_is_allocated_over_an_lstm() -> None:
    """Its weights get a gradient at every step, which autograd adds up in place, but not for fake tensors: as many
    bytes more as the largest weight has, at most two at a time."""
    model = model_of("lstm")
    largest = max(weight.numel() for weight in model.parameters()) * 4
    extra = simulated("lstm").peak - allocated_peak(model, full_batch()) - mask_bytes("lstm")
    assert -KIB <= extra <= 2 * largest + KIB


def test_gradient_checkpointing() -> None:
    """The state of the CPU's generator, which a layer keeps to draw the same dropout again, is not counted."""
    model = model_of("transformer")
    model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    measured = allocated_peak(model, full_batch())
    found, plain = simulated("transformer", checkpointing=True), simulated("transformer")
    assert found.activations < 0.5 * plain.activations
    assert found.flops > plain.flops
    assert abs(found.peak - measured) <= KIB


def test_autocast_keeps_copies_of_the_matrices() -> None:
    model = model_of("transformer")
    matrices = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    found = simulated("transformer", autocast=torch.bfloat16)
    assert found.weight_copies == 2 * matrices
    with torch.autocast("cpu", dtype=torch.bfloat16):
        measured = saved_bytes(model, full_batch())
    assert 0 <= found.activations + found.weight_copies - measured <= mask_bytes("transformer") + KIB


def test_kernels_of_an_accelerator() -> None:
    """Attention dropout leaves nothing behind; norms of 16-bit states take them to float32 under autocast."""
    with without_memory(torch.bfloat16):
        figures = []
        for dropout, autocast in ((0.0, None), (0.1, None), (0.0, torch.bfloat16)):
            config = config_of("transformer")
            config.encoder.attention_dropout = config.decoder.attention_dropout = dropout
            model = CustomSeq2SeqForConditionalGeneration(config)
            model.train()
            sizes = {"num_pairs": PAIRS, "source_length": SOURCE, "target_length": TARGET}
            figures.append(simulate_step(model, **sizes, autocast=autocast))
    plain, dropped, cast = figures
    assert dropped == plain
    norms = PAIRS * (5 * SOURCE + 7 * TARGET)  # two a layer of the encoder, three of the decoder, and the last ones
    assert cast.activations >= plain.activations + 4 * norms * SIZES["hidden_size"]


def test_operations_are_those_of_the_matrix_products() -> None:
    """By hand: 2 operations a weight and token forward and 4 backward; attention 4 and 10 (scores are computed again)
    a pair of positions and unit of width, as torch counts them."""
    model = model_of("transformer")
    width = SIZES["hidden_size"]
    source, target = PAIRS * SOURCE, PAIRS * TARGET
    total = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            is_of_source = ".encoder." in name or "encoder_attn.k_proj" in name or "encoder_attn.v_proj" in name
            total += 6 * module.weight.numel() * (source if is_of_source else target)
    squares = 2 * (SOURCE * SOURCE + TARGET * TARGET + TARGET * SOURCE)
    total += (4 + 10) * PAIRS * squares * width
    assert simulated("transformer").flops == total


def test_nothing_is_allocated() -> None:
    """A matrix of 4 TB on whatever machine this is; two tokens forward, and for the gradient of the matrix."""
    with without_memory():
        model = _Product(1_000_000)
        found = simulate_step(model, num_pairs=1, source_length=2, target_length=2)
    assert model.weight.numel() == 10**12
    assert found.flops == 2 * (2 * 2 * 10**12)
    assert found.working >= 4 * 10**12


class _Product(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, width))

    def forward(self, input_ids: torch.Tensor, **_: torch.Tensor) -> Seq2SeqLMOutput:
        states = input_ids[0, :, None].float().expand(-1, self.weight.shape[0])
        return Seq2SeqLMOutput(loss=(states @ self.weight).sum())

"""The share of a card's peak that training reaches: what the card can do, and what the work takes."""

import re

from .batches import IGNORE_INDEX, Batch
from .sizes import Size

BF16_TFLOPS: tuple[tuple[str, float], ...] = (
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("H200 NVL", 835.0),
    ("H200", 989.0),
    ("B200", 2250.0),
    ("A100", 312.0),
    ("A40", 150.0),
    ("A30", 165.0),
    ("A10", 125.0),
    ("L40S", 362.0),
    ("L4", 121.0),
)
"""Dense bf16 products by what stands in the device name, the narrower name first: the maker's data sheets, halved
where they count sparsity."""

COUNTED = (
    "FLOPs of the model's matrix products over real tokens, forward once and backward twice: all linear layers, the "
    "vocabulary projection, attention between the tokens of one sentence (causal where it is). Padding, norms, "
    "softmax, embeddings and the optimizer count nothing, so a share is of useful work"
)


def bf16_peak(device_name: str) -> float | None:
    """Dense bf16 FLOPs a second of a card by its name, or None for one that the table does not have."""
    for name, tflops in BF16_TFLOPS:
        words = name.replace(" ", r"\b.*\b")
        if re.search(rf"\b{words}\b", device_name.replace("-", " "), flags=re.IGNORECASE):
            return tflops * 1e12
    return None


def forward_flops(size: Size, num_source: int, num_target: int) -> int:
    """FLOPs of one sentence pair through a Transformer, a multiplication and an addition being two."""
    width, ffn = size.width, size.ffn
    source = num_source * 2 * (4 * width**2 + 2 * width * ffn) + 4 * width * num_source**2
    keys_and_values = num_source * 2 * 2 * width**2
    target = num_target * 2 * (6 * width**2 + 2 * width * ffn)
    attention = 4 * width * (num_target * (num_target + 1) // 2 + num_target * num_source)
    return size.layers * (source + keys_and_values + target + attention) + num_target * 2 * width * size.vocab


def training_flops(size: Size, batches: list[Batch]) -> int:
    """FLOPs of forward and backward passes over batches, as `COUNTED` says."""
    total = 0
    for batch in batches:
        sources = batch["attention_mask"].sum(1).tolist()
        targets = (batch["labels"] != IGNORE_INDEX).sum(1).tolist()
        total += sum(forward_flops(size, *lengths) for lengths in zip(sources, targets, strict=True))
    return 3 * total

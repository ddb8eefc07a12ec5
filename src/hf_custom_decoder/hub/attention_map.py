"""Pictures of where a decoder looks while it writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..atomic_files import temporary_name


@dataclass(frozen=True)
class AttentionMap:
    """Cross-attention of one source and one target.

    Attributes:
        source_tokens (`list[str]`): Tokens the encoder read, end token included.
        target_tokens (`list[str]`): Tokens the decoder wrote, end token included.
        weights (`np.ndarray` of shape `(len(target_tokens), len(source_tokens))`):
            Probabilities, averaged over heads and layers: row i is where the decoder looked before it wrote target
            token i. Rows sum to 1.
        num_layers (`int`): Layers with cross-attention; a recurrent decoder has one.
        num_heads (`int`): Heads of each.
    """

    source_tokens: list[str]
    target_tokens: list[str]
    weights: npt.NDArray[np.float32]
    num_layers: int
    num_heads: int

    @property
    def description(self) -> str:
        """`str`: What the weights are, averages named."""
        averages = [
            f"{count} {name}" for count, name in ((self.num_heads, "heads"), (self.num_layers, "layers")) if count > 1
        ]
        return f"cross-attention, mean over {' and '.join(averages)}" if averages else "cross-attention"


def cross_attention_map(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str) -> AttentionMap:
    """Generates greedily for one source, then reads the cross-attention of a second pass over the result.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            An encoder-decoder model that returns attention: after `model.set_attn_implementation("eager")`, since
            fused kernels return none.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer.
        source (`str`): The input text.

    Returns:
        [`AttentionMap`]: Tokens of both sides and the weights between them.

    Raises:
        ValueError: If the model returns no cross-attention weights.
    """
    inputs = tokenizer([source], return_tensors="pt").to(model.device)
    generate: Any = model.generate
    with torch.inference_mode():
        ids = generate(**inputs, num_beams=1)  # (1, 1 + T), the start token first
        outputs = model(**inputs, decoder_input_ids=ids[:, :-1], output_attentions=True)
    layers = [weights for weights in outputs.cross_attentions or () if weights is not None]
    if not layers:
        raise ValueError(
            "`model` must return cross-attention weights, got none under attention implementation "
            f'{model.config._attn_implementation!r}. Call `model.set_attn_implementation("eager")` first.'
        )
    stacked = torch.stack(layers)[:, 0]  # (L, H, T, S)
    return AttentionMap(
        source_tokens=list(tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())),
        target_tokens=list(tokenizer.convert_ids_to_tokens(ids[0, 1:].tolist())),
        weights=stacked.mean(dim=(0, 1)).float().cpu().numpy(),  # (T, S)
        num_layers=stacked.shape[0],
        num_heads=stacked.shape[1],
    )


def save_attention_maps(
    maps: Sequence[AttentionMap], path: str | Path, *, title: str | None = None, columns: int = 2
) -> None:
    """Draws heat maps side by side into one PNG file, source from left to right and target from top to bottom.

    Args:
        maps (`Sequence[AttentionMap]`): One panel each, at least one, all of one model.
        path (`str` or `Path`): The file to write; it appears complete or not at all.
        title (`str`, *optional*): Stands above the panels.
        columns (`int`, *optional*, defaults to 2): Panels in a row.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `maps` is empty.
    """
    if not maps:
        raise ValueError("`maps` must hold at least one attention map, got none.")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Attention maps are drawn with `matplotlib`, which is not installed. Install it with "
            'pip install "hf_custom_decoder[quickstart]"'
        ) from error
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(4.5 * columns, 4.2 * rows), layout="constrained")  # inches
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, attention in zip(panels, maps, strict=False):
        image = panel.imshow(attention.weights, vmin=0.0, vmax=1.0, cmap="viridis", aspect="auto")
        panel.set_xticks(range(len(attention.source_tokens)), attention.source_tokens)
        panel.set_yticks(range(len(attention.target_tokens)), attention.target_tokens)
        panel.set_xlabel("read")
        panel.set_ylabel("written")
    for panel in list(panels):  # what the loop above left over
        panel.set_axis_off()
    figure.colorbar(image, ax=figure.axes, shrink=0.6, label=maps[0].description)
    if title is not None:
        figure.suptitle(title)
    with temporary_name(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)

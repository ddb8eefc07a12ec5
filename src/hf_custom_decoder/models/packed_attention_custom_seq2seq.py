"""
Attention over the real tokens of a padded batch, without spreading them out, by torch's kernel for rows of different
lengths (FlashAttention, Dao et al. 2022; on GPUs, in half precision).

Legend: B rows, N and M real tokens of queries and keys, T and S their longest rows, H query heads, K key-value heads,
D width of a head.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import PreTrainedConfig

from .packing_custom_seq2seq import PackedRows, RowStarts

PACKED = "packed"
"""Name of this way beside the attention implementations; a call's choice, never a config's."""

HALF_TYPES = (torch.float16, torch.bfloat16)
MIN_CAPABILITY = (8, 0)
MAX_HEAD_DIM = 256
TAKES_GROUPS = "enable_gqa" in inspect.signature(varlen_attn).parameters
"""Since torch 2.12; before, keys and values are repeated."""


def has_packed_kernel(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether the kernel computes heads of this width and dtype there, and nobody has turned FlashAttention off."""
    if device.type != "cuda" or torch.version.cuda is None or not torch.backends.cuda.flash_sdp_enabled():
        return False
    if dtype not in HALF_TYPES or head_dim > MAX_HEAD_DIM or head_dim % 8:
        return False
    return torch.cuda.get_device_capability(device) >= MIN_CAPABILITY


def can_attend_packed(
    config: PreTrainedConfig,
    rows: PackedRows | None,
    like: torch.Tensor,
    source_mask: Any = None,
    *,
    layer_types: Sequence[str] = (),
    training: bool = False,
) -> bool:
    """
    Whether all attention of a Transformer stack over a padded batch can run on packed tokens.

    Args:
        rows ([`PackedRows`], *optional*): Of the batch.
        like (`torch.Tensor`): Hidden states, for dtype (autocast's comes first) and device.
        source_mask (`torch.Tensor` of shape `(B, S)`, *optional*): Of the source of a decoder.
        layer_types (sequence of `str`): Of a decoder. Windows count padding, which packed tokens do not see.
        training (`bool`): The kernel has no dropout.
    """
    if rows is None or rows.cut or config.position_type == "alibi":
        return False
    if config.sliding_window is not None and (not layer_types or "sliding_attention" in layer_types):
        return False
    if training and config.attention_dropout > 0:
        return False
    device = like.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype
    if not has_packed_kernel(like.device, dtype, config.attention_head_dim):
        return False
    if source_mask is not None:
        if not isinstance(source_mask, torch.Tensor) or source_mask.dim() != 2:
            return False
        if not bool((source_mask != 0).any(dim=1).all()):
            return False
    return rows.starts.shortest > 0


def pack_angles(rotary: tuple[torch.Tensor, torch.Tensor] | None, rows: Any) -> Any:
    """Cosines and sines of shape `(B or 1, 1, T, D)` to `(N, 1, D)`."""
    return None if rotary is None else tuple(rows.pack(angles[:, 0])[:, None] for angles in rotary)


def attend_packed(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    query_rows: PackedRows,
    key_rows: PackedRows,
    *,
    scale: float,
    is_causal: bool,
) -> torch.Tensor:
    """
    Queries `(N, H, D)`, keys and values `(M, K, D)` to `(N, H, D)`; a token attends within its row.

    Args:
        is_causal (`bool`): To itself and the tokens before it; queries and keys are then the same tokens.
    """
    if not has_packed_kernel(values.device, values.dtype, values.shape[-1]):  # a wrapped layer left half precision
        return _attend_padded(queries, keys, values, query_rows, key_rows, scale=scale, is_causal=is_causal)
    queries, keys = queries.to(values.dtype), keys.to(values.dtype)  # norms and rotation may be in float32
    groups = queries.shape[1] // keys.shape[1]
    options: dict[str, Any] = {}
    if groups > 1 and TAKES_GROUPS:
        options["enable_gqa"] = True
    elif groups > 1:
        keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
    own, others = query_rows.starts, key_rows.starts
    window = (-1, 0) if is_causal else (-1, -1)
    output: Any = varlen_attn(
        queries,
        keys.contiguous(),
        values.contiguous(),
        own.starts,
        others.starts,
        own.longest,
        others.longest,
        scale=scale,
        window_size=window,
        **options,
    )
    attended: torch.Tensor = output
    return attended


def _attend_padded(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    query_rows: PackedRows,
    key_rows: PackedRows,
    *,
    scale: float,
    is_causal: bool,
) -> torch.Tensor:
    """[`attend_packed`] by SDPA, with every row from column 0 on."""
    dtype = torch.promote_types(torch.promote_types(queries.dtype, keys.dtype), values.dtype)

    def rows_of(packed: torch.Tensor, starts: RowStarts) -> tuple[torch.Tensor, torch.Tensor]:
        """`(B, heads, T, D)`, and of `(B, T)` where tokens are."""
        lengths = starts.starts.diff()
        is_real = torch.arange(starts.longest, device=packed.device) < lengths[:, None]
        padded = packed.new_zeros((*is_real.shape, *packed.shape[1:]), dtype=dtype)
        return padded.masked_scatter(is_real[:, :, None, None], packed.to(dtype)).transpose(1, 2), is_real

    padded_queries, is_query = rows_of(queries, query_rows.starts)
    (padded_keys, is_key), (padded_values, _) = rows_of(keys, key_rows.starts), rows_of(values, key_rows.starts)
    keep = is_key[:, None, None, :]
    if is_causal:
        keep = keep & torch.ones(keep.shape[-1], keep.shape[-1], dtype=torch.bool, device=keep.device).tril()
    output = torch.nn.functional.scaled_dot_product_attention(
        padded_queries, padded_keys, padded_values, keep, scale=scale, enable_gqa=queries.shape[1] != keys.shape[1]
    )
    return output.transpose(1, 2)[is_query]

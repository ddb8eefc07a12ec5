"""Checks at the door of every `forward`, and what is derived from masks.

Legend: B rows, T length.
"""

from typing import Any

import torch
from transformers import PreTrainedConfig

from .packing_custom_seq2seq import is_tracing


def check_tensor(owner: str, name: str, value: Any) -> None:
    """Raise a `TypeError` unless `value` is a tensor."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(
            f"{owner}: `{name}` must be a tensor, got {type(value).__name__}. Call the tokenizer with "
            "`return_tensors='pt'`, or use `torch.tensor(...)`."
        )


def check_ids_or_embeds(
    owner: str, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, hidden_size: int
) -> None:
    """Raise unless exactly one of ids `(B, T)` and embeddings `(B, T, E)` is given, each of its form and not empty."""
    if (input_ids is None) == (inputs_embeds is None):
        found = "neither" if input_ids is None else "both"
        raise ValueError(f"{owner}: give exactly one of `input_ids` and `inputs_embeds`, got {found}.")
    name = "input_ids" if inputs_embeds is None else "inputs_embeds"
    given: Any = input_ids if inputs_embeds is None else inputs_embeds
    check_tensor(owner, name, given)
    shape = tuple(given.shape)
    if inputs_embeds is None and (given.dim() != 2 or given.is_floating_point()):
        raise ValueError(
            f"{owner}: `input_ids` must be whole numbers of shape (batch_size, length), got shape {shape} and "
            f"{given.dtype}. Pass the tokenizer's tensor, or `inputs_embeds`."
        )
    if inputs_embeds is not None and (given.dim() != 3 or shape[2] != hidden_size):
        raise ValueError(
            f"{owner}: `inputs_embeds` must have the shape (batch_size, length, hidden_size={hidden_size}), got "
            f"{shape}. Make them with `get_input_embeddings()`."
        )
    if shape[0] == 0 or shape[1] == 0:
        raise ValueError(
            f"{owner}: `{name}` must hold at least one row and one token, got the shape {shape}. Leave empty examples "
            "out."
        )


def check_id_range(owner: str, name: str, ids: torch.Tensor, vocab_size: int) -> None:
    """Raise for an id outside the vocabulary; only on CPU, where the look costs no stop."""
    check_tensor(owner, name, ids)
    if ids.device.type != "cpu" or is_tracing() or ids.numel() == 0:
        return
    low, high = (int(bound) for bound in torch.aminmax(ids))
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"{owner}: `{name}` must lie in [0, vocab_size={vocab_size}), got {low if low < 0 else high}. Check that "
            "the tokenizer belongs to this model, or call `resize_token_embeddings`."
        )


def check_padding_mask(
    owner: str,
    name: str,
    mask: torch.Tensor | dict[str, torch.Tensor] | None,
    batch_size: int,
    length: int,
    *,
    cached: int = 0,
    num_queries: int | None = None,
    num_keys: int | None = None,
) -> None:
    """
    Raise unless a padding mask is `(B, cached + T)` of 1 and 0, or an attention kernel's own mask is
    `(B or 1, heads or 1, num_queries or 1, num_keys)`, where the last two are known.
    """
    if mask is None or isinstance(mask, dict):
        return
    check_tensor(owner, name, mask)
    shape = tuple(mask.shape)
    if mask.dim() == 4:
        rows_fit, queries_fit = shape[0] in (1, batch_size), num_queries is None or shape[2] in (1, num_queries)
        if not (rows_fit and queries_fit and (num_keys is None or shape[3] == num_keys)):
            raise ValueError(
                f"{owner}: `{name}` of four dimensions must fit (batch_size, heads, queries, keys) = ({batch_size}, "
                f"1, {num_queries or 'any'}, {num_keys or 'any'}), got {shape}. Pass the kernel's own mask, or a "
                "padding mask of shape (batch_size, length)."
            )
        return
    if shape != (batch_size, cached + length):
        past = f" (cached tokens included: {cached})" if cached else ""
        raise ValueError(
            f"{owner}: `{name}` must have the shape (batch_size, length) = ({batch_size}, {cached + length}){past}, "
            f"got {shape}. Pass 1 for tokens to attend to and 0 for padding, one for each token."
        )
    if mask.is_floating_point() and mask.device.type == "cpu" and not is_tracing() and bool((mask < 0).any()):
        raise ValueError(
            f"{owner}: `{name}` of two dimensions must hold 1 for tokens to attend to and 0 for padding, got "
            f"{float(mask.min())}, as in a mask that is added to scores. Pass `(mask >= 0)` instead."
        )


def check_position_ids(
    owner: str, position_ids: torch.Tensor, batch_size: int, length: int, limit: int | None
) -> int | None:
    """
    Raise unless position ids are `(B or 1, T)` and lie in [0, limit); the latter on CPU only, see `check_id_range`.

    Returns:
        One more than the greatest of them, or None where nobody looked.
    """
    check_tensor(owner, "position_ids", position_ids)
    shape = tuple(position_ids.shape)
    if len(shape) != 2 or shape[0] not in (1, batch_size) or shape[1] != length:
        raise ValueError(
            f"{owner}: `position_ids` must have the shape (batch_size, length) = ({batch_size}, {length}), got "
            f"{shape}. Leave them out, and real tokens are counted from 0."
        )
    if position_ids.device.type != "cpu" or is_tracing():
        return None
    low, high = (int(bound) for bound in torch.aminmax(position_ids))
    if low < 0 or (limit is not None and high >= limit):
        rule = "not be below 0" if limit is None else f"lie in [0, max_position_embeddings={limit})"
        raise ValueError(
            f"{owner}: `position_ids` must {rule}, got {low if low < 0 else high}. Leave them out, and real tokens "
            "are counted from 0."
        )
    return high + 1


def position_ids_from_mask(mask: torch.Tensor, length: int) -> torch.Tensor:
    """
    Positions that count real tokens only, so that padding on the left moves nothing.

    Args:
        mask (`torch.Tensor` of shape `(B, cached + T)`): 1 for real tokens.
        length (`int`): T.

    Returns:
        `torch.LongTensor` of shape `(B, T)`.
    """
    return (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]


def check_length(owner: str, length: int, config_name: str, limit: int) -> None:
    """Raise where learned positions would run out."""
    if length > limit:
        raise ValueError(
            f"{owner}: learned positions reach `{config_name}={limit}` tokens, got {length}. Truncate the input, or "
            "use a config with more positions or another `position_type`."
        )


def check_source(owner: str, encoder_hidden_states: torch.Tensor | None, config: PreTrainedConfig) -> None:
    """Raise unless a source is given exactly where the decoder reads one, in the width it reads."""
    if encoder_hidden_states is not None and not config.add_cross_attention:
        raise ValueError(
            f"{owner}: `encoder_hidden_states` needs a decoder with cross-attention, got "
            "`add_cross_attention=False`. Build it from a config with `add_cross_attention=True`."
        )
    if encoder_hidden_states is None and config.add_cross_attention:
        raise ValueError(
            f"{owner}: a decoder with `add_cross_attention=True` needs `encoder_hidden_states`, got "
            "None. Pass them, or build the decoder with `add_cross_attention=False`."
        )
    if encoder_hidden_states is None:
        return
    if encoder_hidden_states.dim() != 3 or encoder_hidden_states.shape[2] != config.hidden_size:
        raise ValueError(
            f"{owner}: `encoder_hidden_states` must have the shape (batch_size, source_length, hidden_size="
            f"{config.hidden_size}), got {tuple(encoder_hidden_states.shape)}. Project them first; the seq2seq "
            "classes do it by their bridge."
        )

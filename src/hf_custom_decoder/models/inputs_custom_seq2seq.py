"""Checks at the door of every `forward`, and what is derived from masks.

Legend: B rows, T length.
"""

import torch

from .packing_custom_seq2seq import is_tracing


def check_ids_or_embeds(
    owner: str, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, *, prefix: str = ""
) -> None:
    """Raise unless exactly one of ids `(B, T)` and embeddings `(B, T, E)` is given, each of its form."""
    ids_name, embeds_name = f"{prefix}input_ids", f"{prefix}inputs_embeds"
    if (input_ids is None) == (inputs_embeds is None):
        found = "neither" if input_ids is None else "both"
        raise ValueError(f"{owner}: give exactly one of `{ids_name}` and `{embeds_name}`, got {found}.")
    if input_ids is not None and (input_ids.dim() != 2 or input_ids.is_floating_point()):
        raise ValueError(
            f"{owner}: `{ids_name}` must be whole numbers of shape (batch_size, length), got shape "
            f"{tuple(input_ids.shape)} and {input_ids.dtype}. Pass the tokenizer's tensor, or `{embeds_name}`."
        )
    if inputs_embeds is not None and inputs_embeds.dim() != 3:
        raise ValueError(
            f"{owner}: `{embeds_name}` must have the shape (batch_size, length, hidden_size), got "
            f"{tuple(inputs_embeds.shape)}."
        )


def check_id_range(owner: str, name: str, ids: torch.Tensor, vocab_size: int) -> None:
    """Raise for an id outside the vocabulary; only on CPU, where the look costs no stop."""
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
) -> None:
    """Raise unless a padding mask is `(B, cached + T)`; four-dimensional masks pass as they are."""
    if mask is None or isinstance(mask, dict) or mask.dim() == 4:
        return
    if tuple(mask.shape) != (batch_size, cached + length):
        past = f" (cached tokens included: {cached})" if cached else ""
        raise ValueError(
            f"{owner}: `{name}` must have the shape (batch_size, length) = ({batch_size}, {cached + length}){past}, "
            f"got {tuple(mask.shape)}. Pass 1 for tokens to attend to and 0 for padding, one for each token."
        )


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

"""
Several sequences in one row of a decoder without a source, as `DataCollatorWithFlattening` lays them.

Legend: B rows, T length, S sequences in all rows, L length of the longest, E width.
"""

from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from .inputs_custom_seq2seq import check_position_ids
from .packing_custom_seq2seq import PackedRows, is_tracing


def rows_of_sequences(position_ids: torch.Tensor, batch_size: int) -> PackedRows | None:
    """
    The sequences of all rows, each as a row of its own; packed they lie as in the batch. As in transformers, one
    begins wherever a position is not that of the token before plus one.

    Args:
        position_ids (`torch.LongTensor` of shape `(batch_size or 1, length)`).

    Returns:
        [`PackedRows`] of `(S, L)`, or None where every row is one sequence, or shapes are being recorded.
    """
    if is_tracing() or position_ids.device.type == "meta":
        return None
    begins = torch.nn.functional.pad(position_ids.diff(dim=1) != 1, (1, 0), value=True)
    begins = begins.expand(batch_size, -1).flatten()
    starts = begins.nonzero().squeeze(1)
    if len(starts) == batch_size:
        return None
    lengths = torch.diff(starts, append=starts.new_tensor([len(begins)]))
    columns = torch.arange(int(lengths.max()), device=starts.device)
    return PackedRows((columns < lengths[:, None]).long())


def decode_sequences(
    decoder: Any,
    tokens: torch.Tensor,
    position_ids: torch.Tensor,
    *,
    use_cache: bool | None,
    output_attentions: bool | None,
    output_hidden_states: bool | None,
    return_dict: bool | None,
) -> BaseModelOutputWithPastAndCrossAttentions | tuple[torch.Tensor, ...] | None:
    """
    Runs a decoder with each sequence of a row in a row of its own, so that none sees another.

    Args:
        decoder ([`PreTrainedModel`]): Without a source.
        tokens (`torch.Tensor` of shape `(B, T)` or `(B, T, E)`): Ids or embeddings.
        position_ids (`torch.LongTensor` of shape `(B or 1, T)`): Of the caller.

    Returns:
        States as they lie in the batch, without a cache; None where every row is one sequence.

    Raises:
        ValueError: A cache or attention weights are asked for, which have no meaning for several sequences in a row,
            or position ids of the wrong shape.
    """
    owner, (batch_size, length) = type(decoder).__name__, tokens.shape[:2]
    check_position_ids(owner, position_ids, batch_size, length, None)
    rows = rows_of_sequences(position_ids, batch_size)
    if rows is None:
        return None
    if output_attentions is None:
        output_attentions = bool(decoder.config.output_attentions)
    for name, asked in (("use_cache", use_cache), ("output_attentions", output_attentions)):
        if asked:
            raise ValueError(
                f"{owner}: `{name}` must be False where `position_ids` begin anew inside a row ({rows.batch_size} "
                f"sequences in {batch_size} rows), got True. Leave it out, or give every sequence a row and an "
                "`attention_mask`."
            )
    name = "inputs_embeds" if tokens.is_floating_point() else "input_ids"
    output = decoder.forward(  # hooks run once, around the whole
        **{name: rows.unpack(tokens.flatten(0, 1))},
        position_ids=rows.unpack(position_ids.expand(batch_size, -1).flatten()),
        attention_mask=rows.mask,
        use_cache=False,
        output_attentions=False,
        output_hidden_states=output_hidden_states,
        return_dict=True,
    )

    def lay_back(states: torch.Tensor) -> torch.Tensor:
        return rows.pack(states).unflatten(0, (batch_size, length))

    all_states = output.hidden_states
    laid_back = BaseModelOutputWithPastAndCrossAttentions(
        last_hidden_state=lay_back(output.last_hidden_state),
        hidden_states=None if all_states is None else tuple(lay_back(states) for states in all_states),
    )
    return laid_back if return_dict is not False else laid_back.to_tuple()

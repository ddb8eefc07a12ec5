"""
Recurrent encoder: RNN, GRU or LSTM, in one or two directions.

Legend: B rows, S source length, E width of the returned states, N real tokens of the batch, L layers.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from .cells_custom_seq2seq import RecurrentCell, State, TimeMajorRows, time_major_rows
from .configuration_recurrent_encoder import RecurrentEncoderConfig
from .dropout_custom_seq2seq import dropout
from .inputs_custom_seq2seq import check_id_range, check_ids_or_embeds, check_padding_mask
from .layers_custom_seq2seq import embed_rows
from .modeling_recurrent_stack import RecurrentPreTrainedModel


@dataclass
class RecurrentEncoderOutput(BaseModelOutput):
    """
    Output of [`RecurrentEncoderModel`].

    Args:
        final_states (`torch.FloatTensor` of shape `(batch_size, num_hidden_layers, 1 or 2, hidden_size)`):
            h (and c of an LSTM) of every layer after each row's last token; of two directions side by side, the
            backward one after the row's first token.
    """

    final_states: torch.Tensor | None = None


class RecurrentEncoderLayer(nn.Module):
    """One layer: a cell for each direction."""

    def __init__(self, config: RecurrentEncoderConfig, layer_idx: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        width = config.hidden_size // config.num_directions
        input_size = config.input_size if layer_idx == 0 else config.hidden_size
        self.forward_cell = RecurrentCell(config.cell_type, input_size, width)
        self.backward_cell = RecurrentCell(config.cell_type, input_size, width) if config.bidirectional else None

    def forward(self, hidden_states: torch.Tensor, rows: TimeMajorRows | None) -> tuple[torch.Tensor, torch.Tensor]:
        """
        `(B, S, I)`, or packed `(N, I)` with `rows`, to `(B, S, E)` or `(N, E)`, and the final states
        `(B, 1 or 2, E)`.
        """
        num_rows = hidden_states.shape[0] if rows is None else rows.batch_size
        directions = [self._run(self.forward_cell, hidden_states, rows, num_rows, is_backward=False)]
        if self.backward_cell is not None:
            directions.append(self._run(self.backward_cell, hidden_states, rows, num_rows, is_backward=True))
        outputs = torch.cat([one for one, _ in directions], dim=-1)
        states = [torch.cat(parts, dim=-1) for parts in zip(*(state for _, state in directions), strict=True)]
        outputs = dropout(outputs, self.dropout, self.training)
        return outputs, torch.stack(states, dim=1)

    def _run(
        self,
        cell: RecurrentCell,
        inputs: torch.Tensor,
        rows: TimeMajorRows | None,
        num_rows: int,
        *,
        is_backward: bool,
    ) -> tuple[torch.Tensor, State]:
        zeros = cell.zero_state(inputs, num_rows)
        if rows is None:
            outputs, state = cell(inputs.flip(1) if is_backward else inputs, zeros)
            return (outputs.flip(1) if is_backward else outputs), state
        if rows.num_rows == 0:
            return inputs.new_zeros((0, cell.hidden_size)), zeros
        ordered = inputs.index_select(0, rows.mirror) if is_backward else inputs
        outputs, state = cell(ordered, rows.sort_state(zeros), rows.batch_sizes)
        outputs = outputs.index_select(0, rows.mirror) if is_backward else outputs
        return outputs, rows.unsort_state(state, zeros)


class RecurrentEncoderModel(RecurrentPreTrainedModel):
    r"""
    The bare recurrent encoder. Padding is stepped over: the backward direction starts at the true end of each row.

    Args:
        config ([`RecurrentEncoderConfig`]).
    """

    config: RecurrentEncoderConfig
    config_class = RecurrentEncoderConfig
    main_input_name = "input_ids"
    _no_split_modules = ["RecurrentEncoderLayer"]
    full_auto_map = {
        "AutoConfig": "configuration_recurrent_encoder.RecurrentEncoderConfig",
        "AutoModel": "modeling_recurrent_encoder.RecurrentEncoderModel",
    }

    def __init__(self, config: RecurrentEncoderConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.input_size, config.pad_token_id)
        self.layers = nn.ModuleList(
            RecurrentEncoderLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)
        )
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> RecurrentEncoderOutput | tuple[torch.Tensor, ...]:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, source_length)`, *optional*): Token ids.
            attention_mask (`torch.Tensor` of shape `(batch_size, source_length)`, *optional*): 1 for tokens, 0 for
                padding; by default nothing is padded.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, source_length, embedding_size)`, *optional*): In
                place of `input_ids`.
            output_attentions (`bool`, *optional*): There are none; taken so that any encoder can be called alike.
            output_hidden_states (`bool`, *optional*): Return the embeddings and each layer's output.
            return_dict (`bool`, *optional*): False for a tuple.

        Returns:
            [`RecurrentEncoderOutput`]: `last_hidden_state` of shape `(batch_size, source_length, hidden_size)`, zeros
            at padding, and `final_states`.

        Raises:
            ValueError: Ids and embeddings, ids out of range, or a mask of the wrong shape.
        """
        owner = type(self).__name__
        check_ids_or_embeds(owner, input_ids, inputs_embeds, self.config.input_size)
        given: Any = input_ids if inputs_embeds is None else inputs_embeds
        check_padding_mask(owner, "attention_mask", attention_mask, *given.shape[:2])
        if input_ids is not None:
            check_id_range(owner, "input_ids", input_ids, self.config.vocab_size)
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        rows = time_major_rows(attention_mask)
        if inputs_embeds is None:
            hidden_states = embed_rows(self.embed_tokens, given, rows)
        else:
            hidden_states = given if rows is None else rows.pack(given)
        hidden_states = dropout(hidden_states, self.config.dropout, self.training)
        all_hidden_states = [hidden_states]
        final_states = []
        for layer in self.layers:
            hidden_states, states = layer(hidden_states, rows)
            all_hidden_states.append(hidden_states)
            final_states.append(states)
        if rows is not None:
            all_hidden_states = [rows.unpack(states) for states in all_hidden_states]
        output = RecurrentEncoderOutput(
            last_hidden_state=all_hidden_states[-1],
            hidden_states=tuple(all_hidden_states) if output_hidden_states else None,
            final_states=torch.stack(final_states, dim=1),
        )
        return output if return_dict is not False else output.to_tuple()


RecurrentEncoderModel.register_for_auto_class("AutoModel")

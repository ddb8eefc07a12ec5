"""
Recurrent decoder: RNN, GRU or LSTM with or without attention over a source.

Legend: B source rows, R decoder rows, T target length of this call, P tokens before it, S source length, I width of
the embeddings, H width of the states, O width of the output, V vocabulary, N real tokens of the batch.
"""

from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .attention_custom_seq2seq import key_padding_mask
from .attention_recurrent_decoder import RecurrentAttention
from .cache_custom_seq2seq import CustomSeq2SeqCache, build_cache, check_cache, check_source_cache
from .cache_recurrent_layer import RecurrentLayer
from .causal_head_custom_seq2seq import CausalHeadMixin
from .cells_custom_seq2seq import RecurrentCell, State, TimeMajorRows, time_major_rows
from .configuration_recurrent_decoder import RecurrentDecoderConfig
from .dropout_custom_seq2seq import dropout
from .generation_custom_seq2seq import SharedSourceGenerationMixin
from .inputs_custom_seq2seq import (
    check_id_range,
    check_ids_or_embeds,
    check_padding_mask,
    check_source,
    check_tensor,
)
from .modeling_recurrent_stack import RecurrentPreTrainedModel
from .sequences_custom_seq2seq import decode_sequences


class RecurrentDecoderLayer(nn.Module):
    """One cell with dropout and, from the second layer on, an optional residual."""

    def __init__(self, config: RecurrentDecoderConfig, layer_idx: int) -> None:
        super().__init__()
        self.dropout, self.is_residual = config.dropout, config.residual and layer_idx > 0
        input_size = config.hidden_size
        if layer_idx == 0:
            input_size = config.input_size + (config.combined_size if config.input_feeding else 0)
        self.cell = RecurrentCell(config.cell_type, input_size, config.hidden_size)

    def _finish(self, outputs: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        outputs = dropout(outputs, self.dropout, self.training)
        return outputs + inputs if self.is_residual else outputs

    def forward(
        self, hidden_states: torch.Tensor, state: State, rows: TimeMajorRows | None
    ) -> tuple[torch.Tensor, State]:
        """
        `(R, T, I)`, packed `(N, I)` with `rows`, or `(R, I)` for one token, to the same of width H, and the state
        after the last token. One token too goes through `forward`: sharding and offloading prepare the weights there.
        """
        if rows is None:
            outputs, last = self.cell(hidden_states, state)
        elif rows.num_rows == 0:
            return hidden_states.new_zeros((0, self.cell.hidden_size)), state
        else:
            outputs, sorted_state = self.cell(hidden_states, rows.sort_state(state), rows.batch_sizes)
            last = rows.unsort_state(sorted_state, state)
        return self._finish(outputs, hidden_states), last


class RecurrentDecoderPreTrainedModel(RecurrentPreTrainedModel):
    """What the decoder classes say of themselves to transformers."""

    config: RecurrentDecoderConfig
    config_class = RecurrentDecoderConfig
    _is_stateful = True
    _no_split_modules = ["RecurrentDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    full_auto_map = {
        "AutoConfig": "configuration_recurrent_decoder.RecurrentDecoderConfig",
        "AutoModel": "modeling_recurrent_decoder.RecurrentDecoderModel",
        "AutoModelForCausalLM": "modeling_recurrent_decoder.RecurrentDecoderForCausalLM",
    }


class RecurrentDecoderModel(RecurrentDecoderPreTrainedModel):
    r"""
    The bare recurrent decoder.

    Whole sequences run through fused kernels, layer by layer; with `input_feeding` token by token. One token runs
    through one step of the same weights. Padding is stepped over: it changes no state.

    Args:
        config ([`RecurrentDecoderConfig`]).
    """

    def __init__(self, config: RecurrentDecoderConfig) -> None:
        if config.input_feeding and not config.has_attention:
            raise ValueError(
                f"{type(config).__name__}: `input_feeding=True` feeds what attention over a source returns, got "
                "`add_cross_attention=False`. Set `input_feeding=False`, or use the decoder in a seq2seq model."
            )
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.input_size, config.pad_token_id)
        self.layers = nn.ModuleList(
            RecurrentDecoderLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)
        )
        self.attention = RecurrentAttention(config) if config.has_attention else None
        self.attentional_layer = None
        if self.attention is not None and config.attentional_layer:
            self.attentional_layer = nn.Linear(2 * config.hidden_size, config.hidden_size)
        sizes = [config.combined_size, *(config.readout_sizes or [])]
        self.readout = nn.ModuleList(nn.Linear(one, two) for one, two in zip(sizes, sizes[1:], strict=False))
        self.readout_act = None if config.readout_act is None else ACT2FN[config.readout_act]
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        initial_states: torch.Tensor | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions | tuple[torch.Tensor, ...]:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*): Token ids that follow
                the cached ones.
            attention_mask (`torch.Tensor` of shape `(batch_size, cached + target_length)`, *optional*): 1 for tokens,
                0 for padding.
            encoder_hidden_states (`torch.FloatTensor` of shape `(source_rows, source_length, hidden_size)`,
                *optional*): The source, with `add_cross_attention`.
            encoder_attention_mask (`torch.Tensor` of shape `(source_rows, source_length)`, *optional*): 1 for source
                tokens, 0 for padding.
            past_key_values (`Cache`, *optional*): Extended in place.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, target_length, embedding_size)`, *optional*): In
                place of `input_ids`.
            position_ids (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*): Without a source, a
                mask or a cache, positions that begin anew inside a row part it into sequences that do not see each
                other (in a compiled graph they have no effect). A recurrent decoder has no other use for them.
            use_cache (`bool`, *optional*): Return a cache; by default `config.use_cache` outside training.
            output_attentions (`bool`, *optional*): Return the weights over the source.
            output_hidden_states (`bool`, *optional*): Return the embeddings, each layer's output and, last, what the
                vocabulary projection reads.
            return_dict (`bool`, *optional*): False for a tuple.
            initial_states (`torch.FloatTensor` of shape `(source_rows, num_hidden_layers, 1 or 2, hidden_size)`,
                *optional*): h (and c of an LSTM) before the first token; by default zeros. Not read where the cache
                holds tokens.

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutputWithPastAndCrossAttentions`]: `last_hidden_state` of shape
            `(batch_size, target_length, output_size)`, zeros at padding; `cross_attentions` holds one tensor of shape
            `(batch_size, heads, target_length, source_length)`.

        Raises:
            ValueError: Ids and embeddings, ids out of range, a mask or states of the wrong shape, a source where none
                can be or none where one must be, row counts that differ, or a cache of another model.
        """
        owner, config = type(self).__name__, self.config
        check_ids_or_embeds(owner, input_ids, inputs_embeds, config.input_size)
        check_source(owner, encoder_hidden_states, config)
        given: Any = input_ids if inputs_embeds is None else inputs_embeds
        num_rows, length = given.shape[:2]
        if input_ids is not None:
            check_id_range(owner, "input_ids", input_ids, config.vocab_size)
        is_alone = attention_mask is None and past_key_values is None and encoder_hidden_states is None
        if position_ids is not None and is_alone and initial_states is None:
            by_sequence = decode_sequences(
                self,
                given,
                position_ids,
                use_cache=use_cache,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                return_dict=return_dict,
            )
            if by_sequence is not None:
                return by_sequence
        if output_attentions is None:
            output_attentions = bool(config.output_attentions)
        if output_hidden_states is None:
            output_hidden_states = bool(config.output_hidden_states)
        if use_cache is None:
            use_cache = config.use_cache and not self.training
        if use_cache and past_key_values is None:
            past_key_values = build_cache(config, encoder_hidden_states is not None)
        cached = 0
        if past_key_values is not None:
            check_cache(owner, past_key_values, config, num_rows)
            cached = int(past_key_values.get_seq_length())
        check_padding_mask(owner, "attention_mask", attention_mask, num_rows, length, cached=cached)

        embeddings = self.embed_tokens(given) if inputs_embeds is None else given
        embeddings = dropout(embeddings, config.dropout, self.training)
        layers = self._cache_layers(past_key_values)
        states, fed = self._first_states(layers, initial_states, past_key_values, embeddings, num_rows)
        source = self._source(encoder_hidden_states, encoder_attention_mask, past_key_values, num_rows)
        mask = None if attention_mask is None else attention_mask[:, -length:]
        run: Any
        if config.input_feeding and source is not None:
            run = self._run_fed(embeddings, mask, states, fed, source)
        else:
            run = self._run_whole(embeddings, mask, states, source)
        outputs, all_hidden_states, weights, states, fed = run
        for layer_idx, layer in enumerate(layers or []):
            extra = (fed,) if fed is not None and layer_idx == len(states) - 1 else ()
            layer.store(config.cell_type, (*states[layer_idx], *extra), length)

        for linear in self.readout:
            outputs = linear(outputs)
            outputs = outputs if self.readout_act is None else self.readout_act(outputs)
        if mask is not None:
            outputs = outputs * mask[..., None].to(outputs)
        output = BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=outputs,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=(*all_hidden_states, outputs) if output_hidden_states else None,
            cross_attentions=(weights,) if output_attentions and weights is not None else None,
        )
        return output if return_dict is not False else output.to_tuple()

    def _cache_layers(self, cache: Cache | None) -> list[RecurrentLayer] | None:
        """Our layers of a cache that was checked."""
        own: Any = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
        return None if own is None else own.layers

    def _first_states(
        self,
        layers: list[RecurrentLayer] | None,
        initial_states: torch.Tensor | None,
        cache: Cache | None,
        like: torch.Tensor,
        num_rows: int,
    ) -> tuple[list[State], torch.Tensor | None]:
        """The state of every layer before the first token of this call, and the fed-back vector `(R, combined)`."""
        config = self.config
        if layers is not None and layers[0].states is not None:
            cached = [layer.states or () for layer in layers]
            fed = cached[-1][config.num_states] if config.input_feeding else None
            return [one[: config.num_states] for one in cached], fed
        fed = like.new_zeros((num_rows, config.combined_size)) if config.input_feeding else None
        if initial_states is None:
            cells: list[Any] = list(self.layers)
            return [layer.cell.zero_state(like, num_rows) for layer in cells], fed
        check_tensor(type(self).__name__, "initial_states", initial_states)
        source_index = cache.source_index if isinstance(cache, CustomSeq2SeqCache) else None
        num_sources = num_rows if source_index is None else initial_states.shape[0]
        expected = (num_sources, config.num_hidden_layers, config.num_states, config.hidden_size)
        is_cast = torch.is_autocast_enabled(like.device.type) and initial_states.is_floating_point()
        if tuple(initial_states.shape) != expected or (initial_states.dtype != like.dtype and not is_cast):
            raise ValueError(
                f"{type(self).__name__}: `initial_states` must have the shape (rows, layers, states, width) = "
                f"{expected} and {like.dtype}, got {tuple(initial_states.shape)} and {initial_states.dtype}. Pass one "
                "state for each row and layer."
            )
        if source_index is not None:
            initial_states = initial_states.index_select(0, source_index)
        return [tuple(one.unbind(1)) for one in initial_states.to(like.dtype).unbind(1)], fed

    def _source(
        self,
        encoder_hidden_states: torch.Tensor | None,
        encoder_attention_mask: torch.Tensor | None,
        cache: Cache | None,
        num_rows: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, CustomSeq2SeqCache | None] | None:
        """Keys, values and mask of the source, and the cache that says who shares it."""
        if encoder_hidden_states is None:
            return None
        num_sources, source_length = encoder_hidden_states.shape[:2]
        check_padding_mask(
            type(self).__name__, "encoder_attention_mask", encoder_attention_mask, num_sources, source_length
        )
        if isinstance(cache, EncoderDecoderCache) and self.attention is not None:
            num_heads = self.attention.num_heads
            heads = (num_heads, self.config.hidden_size // num_heads)
            check_source_cache(type(self).__name__, cache, num_sources, source_length, heads)
        shared = cache if isinstance(cache, CustomSeq2SeqCache) else None
        if shared is not None:
            shared.check_rows(num_rows, num_sources)
        elif num_rows != num_sources:
            raise ValueError(
                f"{type(self).__name__}: decoder and source must have the same number of rows, got {num_rows} and "
                f"{num_sources}. Only `generate()` may let several rows share a source."
            )
        if self.attention is None:
            return None
        if shared is not None and shared.is_updated.get(0):
            layer: Any = shared.cross_attention_cache.layers[0]
            keys, values = layer.keys, layer.values
        else:
            keys, values = self.attention.keys_and_values(encoder_hidden_states)
            if shared is not None:
                keys, values = shared.cross_attention_cache.update(keys, values, 0)
                shared.is_updated[0] = True
        sharing = shared if shared is not None and shared.source_index is not None else None
        mask = encoder_attention_mask
        if mask is not None and sharing is not None:
            mask = sharing.source_rows(mask)
        mask = key_padding_mask(self.config, "eager", encoder_hidden_states, encoder_hidden_states, mask)
        return keys, values, mask, sharing

    def _combine(
        self, hidden_states: torch.Tensor, source: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States `(R, T, H)` and what they read, as one vector `(R, T, combined)`; weights `(R, heads, T, S)`."""
        keys, values, mask, sharing = source
        assert self.attention is not None
        context, weights = self.attention(hidden_states, keys, values, mask, sharing)
        if self.attentional_layer is None:
            return torch.cat([hidden_states, context], dim=-1), weights
        combined = torch.tanh(self.attentional_layer(torch.cat([context, hidden_states], dim=-1)))
        return dropout(combined, self.config.dropout, self.training), weights

    def _run_whole(
        self, hidden_states: torch.Tensor, mask: torch.Tensor | None, states: list[State], source: Any
    ) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor | None, list[State], None]:
        """All tokens of this call, layer by layer; one token as one step."""
        all_hidden_states, last = [hidden_states], []
        length = hidden_states.shape[1]
        rows = time_major_rows(mask)
        is_step = length == 1 and rows is None
        hidden_states = hidden_states[:, 0] if is_step else hidden_states if rows is None else rows.pack(hidden_states)
        layer: Any
        for layer, state in zip(self.layers, states, strict=True):
            hidden_states, state = layer(hidden_states, state, rows)
            last.append(state)
            padded = (
                hidden_states[:, None] if is_step else hidden_states if rows is None else rows.unpack(hidden_states)
            )
            all_hidden_states.append(padded)
        outputs, weights = all_hidden_states[-1], None
        if source is not None:
            outputs, weights = self._combine(outputs, source)
        return outputs, all_hidden_states, weights, last, None

    def _run_fed(
        self,
        embeddings: torch.Tensor,
        mask: torch.Tensor | None,
        states: list[State],
        fed: torch.Tensor | None,
        source: Any,
    ) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor, list[State], torch.Tensor]:
        """Token by token, as every step reads what the step before has combined (Luong et al. 2015, section 3.3)."""
        assert fed is not None
        outputs, weights = [], []
        hidden: list[list[torch.Tensor]] = [[] for _ in self.layers]
        layer: Any
        for step in range(embeddings.shape[1]):
            keep = None if mask is None else mask[:, step, None].to(torch.bool)
            hidden_states = torch.cat([embeddings[:, step], fed], dim=-1)
            for layer_idx, layer in enumerate(self.layers):
                hidden_states, new = layer(hidden_states, states[layer_idx], None)
                if keep is not None:
                    new = tuple(torch.where(keep, one, old) for one, old in zip(new, states[layer_idx], strict=True))
                states[layer_idx] = new
                hidden[layer_idx].append(hidden_states)
            combined, step_weights = self._combine(hidden_states[:, None], source)
            fed = combined[:, 0] if keep is None else torch.where(keep, combined[:, 0], fed)
            outputs.append(combined)
            weights.append(step_weights)
        all_hidden_states = [embeddings, *(torch.stack(one, dim=1) for one in hidden)]
        return torch.cat(outputs, dim=1), all_hidden_states, torch.cat(weights, dim=2), states, fed


class RecurrentDecoderForCausalLM(  # type: ignore[misc]  # the hooks narrow signatures
    CausalHeadMixin, SharedSourceGenerationMixin, RecurrentDecoderPreTrainedModel, GenerationMixin
):
    r"""
    The recurrent decoder as a language model.

    With `labels` in training mode `logits` is None (the vocabulary projection sees label positions only); without
    labels, and in evaluation mode, logits are complete.

    Args:
        config ([`RecurrentDecoderConfig`]).
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: RecurrentDecoderConfig) -> None:
        super().__init__(config)
        self.build_head(RecurrentDecoderModel(config), config.output_size)


RecurrentDecoderModel.register_for_auto_class("AutoModel")
RecurrentDecoderForCausalLM.register_for_auto_class("AutoModelForCausalLM")

# As for the Transformer decoder: the Trainer's label smoothing finds causal models by their names here.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[RecurrentDecoderConfig.model_type] = RecurrentDecoderForCausalLM.__name__

"""A GRU with attention as a user would write it: state of its own, three widths, a helper file, a bias at the end."""

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from .gated_states import GatedState, first_state


class GatedDecoderConfig(PreTrainedConfig):
    model_type = "gated_decoder"

    vocab_size: int = 1000
    hidden_size: int = 32
    input_size: int = 12
    num_hidden_layers: int = 2
    lm_head_bias: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2

    @property
    def output_size(self) -> int:
        return 2 * self.hidden_size


class GatedDecoderModel(PreTrainedModel):
    config_class = GatedDecoderConfig
    _is_stateful = True
    supports_shared_sources = True

    def __init__(self, config):
        super().__init__(config)
        width = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.input_size, config.pad_token_id)
        sizes = [config.input_size] + [width] * (config.num_hidden_layers - 1)
        self.cells = nn.ModuleList(nn.GRUCell(size, width) for size in sizes)
        self.post_init()

    def build_cache_layers(self):
        return [GatedState() for _ in self.cells]

    def forward(
        self, input_ids, attention_mask, encoder_hidden_states, encoder_attention_mask, past_key_values, use_cache
    ):
        steps = self.embed_tokens(input_ids).unbind(1)
        keep = [None] * len(steps)
        if attention_mask is not None:
            keep = attention_mask[:, -len(steps) :, None].bool().unbind(1)
        layers = None if past_key_values is None else past_key_values.self_attention_cache.layers
        for layer_idx, cell in enumerate(self.cells):
            state = None if layers is None else layers[layer_idx].state
            state = first_state(steps[0], self.config.hidden_size) if state is None else state
            outputs = []
            for step, is_token in zip(steps, keep, strict=True):
                new = cell(step, state)
                state = new if is_token is None else torch.where(is_token, new, state)
                outputs.append(state)
            if layers is not None:
                layers[layer_idx].store(state, len(steps))
            steps = outputs
        states = torch.stack(list(steps), dim=1)  # (rows, T, width)
        source, mask = encoder_hidden_states, encoder_attention_mask
        index = None if past_key_values is None else past_key_values.source_index
        if index is not None:  # several rows read one source
            source, mask = source[index], None if mask is None else mask[index]
        scores = states @ source.transpose(1, 2)
        if mask is not None:
            scores = scores.masked_fill(mask[:, None] == 0, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=torch.cat([states, weights @ source], dim=-1),
            past_key_values=past_key_values if use_cache else None,
            cross_attentions=(weights[:, None],),
        )

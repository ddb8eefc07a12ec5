"""Self-attention over full or static caches, and keys of the source computed once."""

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions


class AttendingDecoderConfig(PreTrainedConfig):
    model_type = "attending_decoder"

    vocab_size: int = 1000
    hidden_size: int = 32
    num_hidden_layers: int = 2
    num_attention_heads: int = 1
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2


class AttendingDecoderModel(PreTrainedModel):
    config_class = AttendingDecoderConfig
    _can_compile_fullgraph = True
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        width = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width, config.pad_token_id)
        self.layers = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(config.num_hidden_layers))
        self.source_layers = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width)
        self.post_init()

    def forward(
        self,
        input_ids,
        attention_mask,
        encoder_hidden_states,
        encoder_attention_mask,
        past_key_values,
        use_cache,
        position_ids=None,
    ):
        states = self.embed_tokens(input_ids)
        own = None if past_key_values is None else past_key_values.self_attention_cache
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=states,
            attention_mask=attention_mask,
            past_key_values=own,
            position_ids=position_ids,
        )
        source_mask = None
        if encoder_attention_mask is not None:
            source_mask = encoder_attention_mask[:, None, None].bool()
        for layer_idx, (layer, source_layer) in enumerate(zip(self.layers, self.source_layers, strict=True)):
            queries, keys, values = layer(self.norm(states))[:, None].chunk(3, dim=-1)
            if own is not None:
                keys, values = own.update(keys, values, layer_idx)
            states = states + self.attend(queries, keys, values, mask, mask is None and queries.shape[2] > 1)
            states = states + self.attend(
                self.norm(states)[:, None],
                *self.source(source_layer, layer_idx, encoder_hidden_states, past_key_values),
                source_mask,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.norm(states), past_key_values=past_key_values if use_cache else None
        )

    @staticmethod
    def attend(queries, keys, values, mask, is_causal=False):
        return nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=is_causal)[
            :, 0
        ]

    @staticmethod
    def source(layer, layer_idx, states, cache):
        if cache is not None and cache.is_updated.get(layer_idx):
            kept = cache.cross_attention_cache.layers[layer_idx]
            return kept.keys, kept.values
        keys, values = layer(states)[:, None].chunk(2, dim=-1)
        if cache is not None:
            keys, values = cache.cross_attention_cache.update(keys, values, layer_idx)
            cache.is_updated[layer_idx] = True
        return keys, values

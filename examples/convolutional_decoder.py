"""
A decoder of one's own, in one file: causal convolutions with attention (Gehring et al. 2017, sections 3.1 to 3.3).

It imports nothing but torch and transformers, so it travels with every checkpoint that uses it. docs/own_decoder.md
explains the contract, `own_decoder.py` trains it.

Legend: R rows, T new tokens, S source tokens, E width, K kernel width.
"""

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions


class ConvolutionalDecoderConfig(PreTrainedConfig):
    """Fields that every decoder must have, and this one's own: `kernel_size` tokens are seen by a layer."""

    model_type = "convolutional_decoder"

    vocab_size: int = 1000
    hidden_size: int = 128
    num_hidden_layers: int = 4
    kernel_size: int = 4
    dropout: float = 0.1
    max_position_embeddings: int = 128
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2

    @property
    def sliding_window(self) -> int:
        """How many tokens of each layer's input the cache of transformers gives back: the new ones and K - 1 more."""
        return self.kernel_size

    @property
    def layer_types(self) -> list[str]:
        """Which cache layers transformers builds."""
        return ["sliding_attention"] * self.num_hidden_layers


class ConvolutionalLayer(nn.Module):
    """Gated causal convolution, attention over the source, each with a residual."""

    def __init__(self, config: ConvolutionalDecoderConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx, self.window = layer_idx, config.kernel_size - 1
        self.norm = nn.LayerNorm(config.hidden_size)
        self.convolution = nn.Conv1d(config.hidden_size, 2 * config.hidden_size, config.kernel_size)
        self.query = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, states, mask, source, source_mask, past_key_values):
        """`(R, T, E)` to the same and the weights over the source `(R, 1, T, S)`; the cache is written in place."""
        seen = self.norm(states) * mask  # zero at padding, as before the first token
        length = seen.shape[1]
        if past_key_values is not None:
            cache = past_key_values.self_attention_cache
            seen = cache.update(seen[:, None], seen[:, None], self.layer_idx)[0][:, 0]  # older inputs first
        seen = nn.functional.pad(seen[:, -(self.window + length) :].transpose(1, 2), (self.window, 0))
        convolved = self.convolution(seen)[:, :, -length:].transpose(1, 2)  # (R, T, 2E)
        states = states + nn.functional.glu(convolved, dim=-1)
        scores = self.query(states) @ source.transpose(1, 2) * source.shape[-1] ** -0.5  # (R, T, S)
        weights = scores.masked_fill(source_mask, torch.finfo(scores.dtype).min).softmax(dim=-1)
        return states + weights @ source, weights[:, None]


class ConvolutionalDecoderModel(PreTrainedModel):
    """The stack between token ids and the vocabulary projection."""

    config_class = ConvolutionalDecoderConfig
    _is_stateful = True  # tokens cannot be taken out of the cache again: no assisted decoding

    def __init__(self, config: ConvolutionalDecoderConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(ConvolutionalLayer(config, idx) for idx in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def forward(
        self, input_ids, attention_mask, encoder_hidden_states, encoder_attention_mask, past_key_values, use_cache
    ):
        """Ids `(R, T)` and source states `(R, S, E)` to states `(R, T, E)`; masks hold 1 for tokens, 0 for padding."""
        states = self.dropout(self.embed_tokens(input_ids) * self.config.hidden_size**0.5)
        mask, source_mask = states.new_ones((1, 1, 1)), torch.zeros((1, 1, 1), dtype=torch.bool, device=states.device)
        if attention_mask is not None:
            mask = attention_mask[:, -states.shape[1] :, None].to(states.dtype)
        if encoder_attention_mask is not None:
            source_mask = encoder_attention_mask[:, None] == 0
        all_weights = []
        for layer in self.layers:
            states, weights = layer(states, mask, encoder_hidden_states, source_mask, past_key_values)
            all_weights.append(weights)
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.norm(states),
            past_key_values=past_key_values if use_cache else None,
            cross_attentions=tuple(all_weights),
        )

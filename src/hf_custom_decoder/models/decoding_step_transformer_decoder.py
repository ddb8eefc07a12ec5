"""
One step of the Transformer decoder with as few calls as it takes: the fast twin of `TransformerDecoderModel.forward`
for one new token a row, used inside `generate()`.

Legend: B source rows, R decoder rows, P tokens before this one, S source length, E width, H heads, K key heads, G
query heads of each, D width of a head, V vocabulary.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, EncoderDecoderCache

from .cache_custom_seq2seq import CustomSeq2SeqCache, rows_of
from .cache_recurrent_layer import RECURRENT_MIXERS
from .few_rows_linear_custom_seq2seq import FewRowsLinear, for_few_rows, with_activation
from .inputs_custom_seq2seq import check_length
from .positions_custom_seq2seq import alibi_slopes, rotate

BLOCK = 64
"""Tokens by which buffers of keys and values grow, at least."""

MOVED_AT_ONCE = 2**22
"""Numbers that are moved in one copy; more are moved layer by layer, which takes less memory."""


class TokenBuffers:
    """
    Keys and values of all tokens so far of all layers with attention, time before rows, so that a step writes one
    block a layer and a reorder copies one of all layers.

    Args:
        cache_layers (`list`): Those of the layers with attention.
        num_tokens (`int`): P.
    """

    def __init__(self, cache_layers: list[Any], num_tokens: int) -> None:
        rows, heads, _, head_dim = cache_layers[0].keys.shape
        self.length = num_tokens
        shape = (len(cache_layers), num_tokens + BLOCK, 2, rows, heads * head_dim)
        self.buffer = cache_layers[0].keys.new_empty(shape)
        self.head_dim = head_dim
        # Of each layer, since the last token was appended: where its keys and values belong, and those of all tokens.
        self.rooms: tuple[torch.Tensor, ...] = ()  # (2, R, width)
        self.keys: tuple[torch.Tensor, ...] = ()  # (R * K, D, P)
        self.values: tuple[torch.Tensor, ...] = ()  # (R * K, P, D)
        for room, layer in zip(self.buffer, cache_layers, strict=True):
            # A sliding cache layer has let go of older tokens, which no later token sees: zeros stand in for them.
            missing = num_tokens - layer.keys.shape[2]
            room[:missing] = 0.0
            for part, filled in enumerate((layer.keys, layer.values)):  # (R, K, P, D)
                room[missing:num_tokens, part].unflatten(2, (heads, -1)).copy_(filled.permute(2, 0, 1, 3))

    def append(self) -> None:
        """Make room for one more token."""
        capacity = self.buffer.shape[1]
        if self.length == capacity:
            grown = self.buffer.new_empty((self.buffer.shape[0], 2 * capacity, *self.buffer.shape[2:]))
            grown[:, :capacity] = self.buffer
            self.buffer = grown
        self.length += 1
        filled = self.buffer[:, : self.length]
        self.rooms = filled[:, -1].unbind(0)
        filled = filled.view(*filled.shape[:3], -1, self.head_dim)  # (layers, P, 2, R * K, D)
        self.keys = filled[:, :, 0].permute(0, 2, 3, 1).unbind(0)
        self.values = filled[:, :, 1].transpose(1, 2).unbind(0)

    def select(self, rows: torch.Tensor, start: int = 0) -> None:
        """Row i goes on from row `rows[i]`, which held the same before token `start`; R may become smaller."""
        if rows.shape[0] < self.buffer.shape[3]:
            self.buffer = self.buffer.index_select(3, rows)
            return
        moved = self.buffer[:, start : self.length]
        for part in (moved,) if moved.numel() <= MOVED_AT_ONCE else moved:
            part.copy_(part.index_select(-2, rows))

    def filled(self, place: int) -> torch.Tensor:
        """All so far of one layer, `(P, 2, R, width)`."""
        return self.buffer[place, : self.length]


class Source:
    """
    What all layers read of the source, shared by the decoder rows that have it in common.

    Args:
        cache ([`CustomSeq2SeqCache`]): Filled.
        mask (`torch.Tensor` of shape `(B, S)`, *optional*): 1 for tokens.
        num_rows (`int`): R.
        groups (`int`): G.
        dtype: Of the scores.
    """

    def __init__(
        self, cache: CustomSeq2SeqCache, mask: torch.Tensor | None, num_rows: int, groups: int, dtype: torch.dtype
    ) -> None:
        layers: Any = cache.cross_attention_cache.layers
        num_sources, self.num_heads = layers[0].keys.shape[:2]
        self.rows_per_source = num_rows // num_sources
        # Products of several queries with keys are two to three times as fast where the positions of a feature lie
        # side by side, those of one query where the features of a position do.
        self.is_by_feature = self.rows_per_source * groups > 1
        for layer in layers:  # laid out once; the views of the first pass are let go
            keys = layer.keys.transpose(2, 3) if self.is_by_feature else layer.keys
            keys, layer.values = keys.contiguous(), layer.values.contiguous()
            layer.keys = keys.transpose(2, 3) if self.is_by_feature else keys
        self.keys = [layer.keys.transpose(2, 3).flatten(0, 1) for layer in layers]  # (B * K, D, S)
        self.values = [layer.values.flatten(0, 1) for layer in layers]  # (B * K, S, D)
        self.bias: torch.Tensor | None = None
        if mask is not None and not bool((mask != 0).all()):
            keep = mask != 0
            keep = keep | ~keep.any(dim=-1, keepdim=True)
            bias = torch.zeros(keep.shape, dtype=dtype).masked_fill_(~keep, torch.finfo(dtype).min)
            self.bias = bias.repeat_interleave(self.num_heads, dim=0)[:, None]  # (B * K, 1, S)

    def attend(self, layer_idx: int, queries: torch.Tensor, scale: float) -> torch.Tensor:
        """`(R, H * D)` to the same."""
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        shared, heads, head_dim = self.rows_per_source, self.num_heads, values.shape[2]
        if shared == 1:
            grouped = queries.view(keys.shape[0], -1, head_dim)  # (B * K, G, D)
        else:
            grouped = queries.view(-1, shared, heads, queries.shape[1] // (heads * head_dim), head_dim)
            grouped = grouped.transpose(1, 2).reshape(keys.shape[0], -1, head_dim)  # (B * K, rows * G, D)
        output = attend(grouped, keys, values, self.bias, scale)
        if shared == 1:
            return output.reshape(queries.shape)
        output = output.view(-1, heads, shared, output.shape[1] // shared, head_dim)
        return output.transpose(1, 2).reshape(queries.shape)

    def select(self, rows: torch.Tensor) -> None:
        """Keep these source rows."""
        heads = (rows[:, None] * self.num_heads + torch.arange(self.num_heads)).flatten()
        if self.is_by_feature:
            self.keys = [one.index_select(0, heads) for one in self.keys]
        else:
            self.keys = [one.transpose(1, 2).index_select(0, heads).transpose(1, 2) for one in self.keys]
        self.values = [one.index_select(0, heads) for one in self.values]
        self.bias = None if self.bias is None else self.bias.index_select(0, heads)


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Scaled dot-product attention over `(N, L, D)`, `(N, D, S)` and `(N, S, D)`, `bias` added to the scores."""
    if bias is None:
        scores = torch.baddbmm(queries.new_empty(()), queries, keys, beta=0.0, alpha=scale)
    else:
        scores = torch.baddbmm(bias, queries, keys, alpha=scale)
    return torch.bmm(torch.softmax(scores, dim=-1), values)


class CrossAttentionStep:
    """Cross-attention of one layer: see [`MultiHeadAttention`]."""

    def __init__(self, module: Any, layer_idx: int, source: Source, for_few_rows: Any) -> None:
        self.module, self.layer_idx, self.source = module, layer_idx, source
        self.project, self.out = for_few_rows(module.q_proj), for_few_rows(module.out_proj)
        self.has_norm = not isinstance(module.q_norm, nn.Identity)

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(R, E)` to `(R, E)`."""
        queries = self.project(hidden_states)
        if self.has_norm:
            queries = self.module.q_norm(queries.unflatten(1, (-1, self.module.head_dim))).flatten(1)
        return self.out(self.source.attend(self.layer_idx, queries, self.module.scaling))


class FoldedCrossAttentionStep:
    """
    The same for a single source of fewer positions than a head is wide: `(x Wq) K^T` is `x (Wq K^T)` and `(P V) Wo` is
    `P (V Wo)`, so two smaller matrices, made once, stand in for four.

    Args:
        bias (`torch.Tensor` of shape `(K, 1, S)`, *optional*): Added to the scores.
    """

    def __init__(
        self, module: Any, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None, expected_calls: int
    ) -> None:
        num_key_heads, head_dim, length = keys.shape  # (K, D, S); values (K, S, D)
        self.shape = (module.num_heads, length)
        query, out = module.q_proj, module.out_proj
        by_head = query.weight.view(num_key_heads, -1, head_dim, query.in_features)  # (K, G, D, E)
        scores = torch.matmul(keys.transpose(1, 2)[:, None], by_head) * module.scaling  # (K, G, S, E)
        score_bias: torch.Tensor | None = None
        if query.bias is not None:
            score_bias = torch.matmul(query.bias.view(num_key_heads, -1, head_dim), keys) * module.scaling  # (K, G, S)
        if bias is not None:
            bias = bias.expand(-1, self.shape[0] // num_key_heads, -1)  # (K, G, S)
            score_bias = bias if score_bias is None else bias + score_bias
        by_head = out.weight.t().reshape(num_key_heads, -1, head_dim, out.out_features)  # (K, G, D, E)
        mixed = torch.matmul(values[:, None], by_head)  # (K, G, S, E)
        flat_bias = None if score_bias is None else score_bias.flatten()
        self.score = FewRowsLinear(scores.flatten(0, 2), flat_bias, expected_calls=expected_calls)
        self.mix = FewRowsLinear(mixed.flatten(0, 2).t().contiguous(), out.bias, expected_calls=expected_calls)

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(R, E)` to `(R, E)`."""
        scores = self.score(hidden_states)
        return self.mix(torch.softmax(scores.view(-1, *self.shape), dim=-1).view(scores.shape))


def can_fold(module: Any, keys: torch.Tensor, dtype: torch.dtype) -> bool:
    """
    Whether [`FoldedCrossAttentionStep`] is right and reads less: keys `(B * K, D, S)` of one source, shorter than a
    head is wide, weights in full precision, and no norm between the products.
    """
    num_sources = keys.shape[0] * module.num_key_value_groups // module.num_heads
    is_plain = isinstance(module.q_norm, nn.Identity) and type(module.q_proj) is type(module.out_proj) is nn.Linear
    return num_sources == 1 and keys.shape[2] < keys.shape[1] and is_plain and dtype in (torch.float32, torch.float64)


def build_norm_step(norm: Any) -> Any:
    """A norm as one call of torch, without the module around it; None where there is none."""
    if isinstance(norm, nn.LayerNorm):
        shape, weight, bias, eps = norm.normalized_shape, norm.weight, norm.bias, norm.eps
        return lambda hidden_states: torch.layer_norm(hidden_states, shape, weight, bias, eps)
    return norm


def build_embedding_step(embedding: nn.Module) -> Any:
    """Token embeddings in one or two calls of torch, without the module around them; others than ours as they are."""
    scale: Any = getattr(embedding, "scale", None)
    if scale is None:
        return embedding
    weight: Any = embedding.weight
    if scale == 1.0:
        return lambda ids: weight.index_select(0, ids)
    return lambda ids: weight.index_select(0, ids).mul_(scale)


class AttentionStep:
    """
    Self-attention of one layer over its buffer; a sliding window reads the end of it.

    Args:
        place (`int`): Of the layer in the buffers.
        window (`int`, *optional*): Tokens that are seen.
        for_few_rows (`Callable`): Builds its linear layers.
    """

    def __init__(self, module: Any, place: int, window: int | None, for_few_rows: Any) -> None:
        self.module, self.place, self.window = module, place, window
        self.num_heads, self.head_dim, self.scale = module.num_heads, module.head_dim, module.scaling
        self.num_key_heads = module.num_heads // module.num_key_value_groups
        self.project = for_few_rows(module.q_proj, module.k_proj, module.v_proj)
        self.out = for_few_rows(module.out_proj)
        self.has_norm = not isinstance(module.q_norm, nn.Identity)
        self.inner = self.num_heads * self.head_dim

    def __call__(self, hidden_states: torch.Tensor, step: "TransformerDecodingStep") -> torch.Tensor:
        """`(R, E)` to `(R, E)`."""
        projected, num_rows = self.project(hidden_states), hidden_states.shape[0]
        queries, new = projected[:, : self.inner], projected[:, self.inner :].view(num_rows, 2, -1)
        assert step.tokens is not None
        room, bias = step.tokens.rooms[self.place], step.bias  # (2, R, K * D)
        if self.has_norm or step.rotary is not None:
            keys = new[:, 0].reshape(num_rows, -1, 1, self.head_dim)
            queries = queries.reshape(num_rows, -1, 1, self.head_dim)
            if self.has_norm:
                queries, keys = self.module.q_norm(queries), self.module.k_norm(keys)
            if step.rotary is not None:
                queries, keys = rotate(queries, *step.rotary), rotate(keys, *step.rotary)
            room[0], room[1] = keys.reshape(num_rows, -1), new[:, 1]
        else:
            room.copy_(new.transpose(0, 1))
        keys, values = step.tokens.keys[self.place], step.tokens.values[self.place]
        if self.window is not None:
            keys, values = keys[..., -self.window :], values[:, -self.window :]
            bias = None if bias is None else bias[..., -self.window :]
        queries = queries.reshape(num_rows * self.num_key_heads, -1, self.head_dim)
        output = attend(queries, keys, values, bias, self.scale)
        return self.out(output.view(num_rows, -1))


def store_tokens(filled: torch.Tensor, head_dim: int, cache_layer: Any, num_tokens: int) -> None:
    """Write keys and values `(P, 2, R, width)` back into a cache layer."""
    both = filled.unflatten(3, (-1, head_dim)).permute(1, 2, 3, 0, 4)  # (2, R, K, P, D)
    if getattr(cache_layer, "is_sliding", False):
        both = both[:, :, :, max(num_tokens + 1 - cache_layer.sliding_window, 0) :]
        cache_layer.cumulative_length = num_tokens
    cache_layer.keys, cache_layer.values = both[0], both[1]


class RecurrenceStep:
    """One step of a linear recurrence: see [`LinearRecurrence`]."""

    def __init__(self, module: Any, cache_layer: Any, for_few_rows: Any) -> None:
        self.is_ssru = module.mixer_type == "ssru"
        self.project = for_few_rows(module.gate_proj, module.input_proj)
        self.state: torch.Tensor = cache_layer.states[0]

    def __call__(self, hidden_states: torch.Tensor, step: "TransformerDecodingStep") -> torch.Tensor:
        """`(R, E)` to `(R, E)`."""
        gate, inputs = self.project(hidden_states).chunk(2, dim=1)
        gate = torch.sigmoid(gate)
        start, end = (inputs, self.state) if self.is_ssru else (self.state, inputs)
        self.state = torch.lerp(start, end, gate)
        return torch.relu(self.state) if self.is_ssru else self.state

    def select(self, rows: torch.Tensor) -> None:
        """Row i goes on from row `rows[i]`."""
        self.state = self.state.index_select(0, rows)

    def store(self, cache_layer: Any, num_tokens: int) -> None:
        """Write the state back into its cache layer."""
        cache_layer.store(cache_layer.kind, (self.state,), num_tokens - cache_layer.get_seq_length())


class TransformerDecodingStep:
    """
    The decoder and its vocabulary projection for one new token a row, from the state that a first pass has left in the
    cache. Weights are read where they are or copied for the time of the call; nothing outlives it.

    Args:
        decoder ([`TransformerDecoderModel`]): In evaluation mode, of plain modules.
        lm_head (`nn.Linear`): E to V.
        cache (`Cache`): Filled.
        mask (`torch.Tensor` of shape `(R, P)`, *optional*): 1 for tokens, 0 for padding in a prefix.
        source_mask (`torch.Tensor` of shape `(B, S)`, *optional*).
    """

    def __init__(
        self,
        decoder: Any,
        lm_head: nn.Linear,
        cache: Cache,
        num_rows: int,
        mask: torch.Tensor | None,
        source_mask: torch.Tensor | None,
    ) -> None:
        self.decoder, config = decoder, decoder.config
        own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
        self.cache_layers: Any = own.layers
        self.num_tokens, self.num_rows = int(cache.get_seq_length()), num_rows
        dtype = lm_head.weight.dtype
        self.groups = config.num_attention_heads // config.key_value_heads
        self.source: Source | None = None
        if isinstance(cache, CustomSeq2SeqCache):
            self.source = Source(cache, source_mask, num_rows, self.groups, dtype)
        self.expected_calls = self.num_tokens if self.source is None else self.source.keys[0].shape[2]
        self.head = for_few_rows(lm_head, expected_calls=self.expected_calls)
        self.keep: torch.Tensor | None = None  # (R, P) of booleans, where a prefix holds padding
        if mask is not None and not bool((mask != 0).all()):
            self.keep = mask != 0
        self.positions: Any = self.num_tokens if self.keep is None else self.keep.sum(1)
        self.slopes: torch.Tensor | None = None
        if config.position_type == "alibi":
            self.slopes = torch.tensor(alibi_slopes(config.num_attention_heads), dtype=torch.float32)
        self.key_heads, self.dtype = config.key_value_heads, dtype
        self.embed = build_embedding_step(decoder.embed_tokens)
        table: Any = getattr(decoder.embed_positions, "table", None)  # sinusoidal
        table = getattr(decoder.embed_positions, "weight", None) if table is None else table  # learned
        self.position_table: torch.Tensor | None = None if table is None else table.to(dtype)  # (positions, E)
        self.embedding_norm = build_norm_step(decoder.layernorm_embedding)
        self.final_norm = build_norm_step(decoder.layer_norm)
        self.rotary: tuple[torch.Tensor, torch.Tensor] | None = None
        self.bias: torch.Tensor | None = None
        self.shared: list[list[list[int]]] | None = None  # first tokens that two beams of a source copied from one row
        places = [place for place, one in enumerate(decoder.layers) if one.mixer_type not in RECURRENT_MIXERS]
        self.tokens: TokenBuffers | None = None
        if places:
            self.tokens = TokenBuffers([self.cache_layers[place] for place in places], self.num_tokens)
        self.layers = [
            self._layer(layer, layer_idx, places.index(layer_idx) if layer_idx in places else None)
            for layer_idx, layer in enumerate(decoder.layers)
        ]

    def _layer(self, layer: Any, layer_idx: int, place: int | None) -> tuple[Any, ...]:
        config = self.decoder.config
        linear = partial(for_few_rows, expected_calls=self.expected_calls)
        if place is None:
            mixer: Any = RecurrenceStep(layer.recurrence, self.cache_layers[layer_idx], linear)
        else:
            window = config.sliding_window if layer.mixer_type == "sliding_attention" else None
            mixer = AttentionStep(layer.self_attn, place, window, linear)
        cross: Any = None
        if self.source is not None:
            attention, keys, values = layer.encoder_attn, self.source.keys[layer_idx], self.source.values[layer_idx]
            if can_fold(attention, keys, self.dtype):
                cross = FoldedCrossAttentionStep(attention, keys, values, self.source.bias, self.expected_calls)
            else:
                cross = CrossAttentionStep(attention, layer_idx, self.source, linear)
        if layer.mlp.gate_proj is None:
            inner = with_activation(layer.mlp.fc1, layer.mlp.activation_fn, expected_calls=self.expected_calls)
        else:
            inner = linear(layer.mlp.gate_proj, layer.mlp.fc1)
        norms = [build_norm_step(layer.self_attn_layer_norm), build_norm_step(layer.final_layer_norm)]
        norms.append(build_norm_step(getattr(layer, "encoder_attn_layer_norm", None)))
        return layer, mixer, cross, inner, linear(layer.mlp.fc2), norms

    def _prepare(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings `(R, E)` of the new tokens; sets the rotation and the bias of this step."""
        decoder, positions = self.decoder, self.positions
        if decoder.config.position_type == "learned":
            limit = decoder.config.max_position_embeddings
            check_length(type(decoder).__name__, self.num_tokens + 1, "max_position_embeddings", limit)
        hidden_states: torch.Tensor = self.embed(ids)
        if self.position_table is not None and isinstance(positions, int) and positions < len(self.position_table):
            hidden_states = hidden_states + self.position_table[positions]
        elif decoder.embed_positions is not None or decoder.rotary_emb is not None:
            position_ids = torch.tensor([positions]) if isinstance(positions, int) else positions  # (1 or R,)
            if decoder.embed_positions is not None:
                embedded = decoder.embed_positions(position_ids, self.num_tokens + 1)
                hidden_states = hidden_states + embedded.to(hidden_states.dtype)
            if decoder.rotary_emb is not None:
                self.rotary = decoder.rotary_emb(hidden_states, position_ids[:, None])
        if self.embedding_norm is not None:
            hidden_states = self.embedding_norm(hidden_states)
        if self.keep is not None:
            self.keep = torch.cat([self.keep, self.keep.new_ones((self.num_rows, 1))], dim=1)
        self.bias = self._bias()
        self.positions = positions + 1
        return hidden_states

    def _bias(self) -> torch.Tensor | None:
        """What is added to the scores of self-attention, `(R * K or 1, G or 1, P + 1)`: padding and ALiBi."""
        bias = None
        if self.slopes is not None:
            exact = torch.float64 if self.dtype == torch.float64 else torch.float32
            distance = torch.arange(self.num_tokens, -1, -1, dtype=exact)
            bias = (-self.slopes.to(exact)[:, None] * distance).to(self.dtype)  # (H, P + 1)
            bias = bias.view(self.key_heads, self.groups, -1).repeat(self.num_rows, 1, 1)
        if self.keep is not None:
            padding = ~self.keep.repeat_interleave(self.key_heads, dim=0)[:, None]  # (R * K, 1, P + 1)
            bias = torch.zeros(padding.shape, dtype=self.dtype) if bias is None else bias
            bias = bias.masked_fill(padding, torch.finfo(self.dtype).min)
        return bias

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """New ids `(R,)` to logits `(R, V)` of the next ones."""
        hidden_states = self._prepare(ids)
        if self.tokens is not None:
            self.tokens.append()
        for layer, mixer, cross, inner, outer, norms in self.layers:
            is_post, (mixer_norm, final_norm, cross_norm) = layer.is_post_norm, norms
            mixed = mixer(hidden_states if is_post else mixer_norm(hidden_states), self)
            hidden_states = hidden_states + mixed
            if is_post:
                hidden_states = mixer_norm(hidden_states)
            if cross is not None:
                hidden_states = hidden_states + cross(hidden_states if is_post else cross_norm(hidden_states))
                if is_post:
                    hidden_states = cross_norm(hidden_states)
            between = inner(hidden_states if is_post else final_norm(hidden_states))
            if layer.mlp.gate_proj is not None:
                gate, value = between.chunk(2, dim=1)
                between = layer.mlp.activation_fn(gate) * value
            hidden_states = hidden_states + outer(between)
            if is_post:
                hidden_states = final_norm(hidden_states)
        if self.final_norm is not None:
            hidden_states = self.final_norm(hidden_states)
        self.num_tokens += 1
        return self.head(hidden_states)

    def reorder(self, rows: torch.Tensor, num_beams: int = 1) -> None:
        """
        Row i goes on from row `rows[i]`, which has the same source and, of neighbouring rows, is one of the same
        `num_beams`. What all beams of all sources have in common is not moved.
        """
        start = self._shared_length(rows, num_beams) if num_beams > 1 else 0
        if self.tokens is not None:
            self.tokens.select(rows, start)
        for _, mixer, *_ in self.layers:
            if isinstance(mixer, RecurrenceStep):
                mixer.select(rows)
        if self.keep is not None:
            self.keep, self.positions = self.keep.index_select(0, rows), self.positions.index_select(0, rows)

    def _shared_length(self, rows: torch.Tensor, num_beams: int) -> int:
        """
        How many first tokens all beams of a source had copied from one row; notes what they have in common now.
        """
        beams = [row % num_beams for row in rows.tolist()]
        num_sources = len(beams) // num_beams
        if self.shared is None or len(self.shared) != num_sources:
            self.shared = [[[0] * num_beams for _ in range(num_beams)] for _ in range(num_sources)]
        start = min(min(min(lengths) for lengths in source) for source in self.shared)
        for place, source in enumerate(self.shared):
            for beam in range(num_beams):
                source[beam][beam] = self.num_tokens
            chosen = beams[place * num_beams : (place + 1) * num_beams]
            self.shared[place] = [[source[one][other] for other in chosen] for one in chosen]
        return start

    def keep_sources(self, sources: torch.Tensor, rows_per_source: int) -> None:
        """Go on with these sources alone, each of which is read by `rows_per_source` rows, one after another."""
        self.reorder(rows_of(sources, rows_per_source))
        self.num_rows = sources.shape[0] * rows_per_source
        if self.source is not None:
            self.source.select(sources)

    def store(self) -> None:
        """Write the state back into the cache."""
        for cache_layer, (_, mixer, *_) in zip(self.cache_layers, self.layers, strict=True):
            if isinstance(mixer, RecurrenceStep):
                mixer.store(cache_layer, self.num_tokens)
            elif self.tokens is not None:
                store_tokens(self.tokens.filled(mixer.place), mixer.head_dim, cache_layer, self.num_tokens)

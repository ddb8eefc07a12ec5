"""
Greedy search, sampling and beam search with a decoding step in place of a whole `forward` a token.

The rules (processors, stopping criteria, scores, which hypothesis is kept) are those of transformers' loops, called in
the same order with the same tensors, so ids and scores are the same; what is left out is the work between two tokens
that changes nothing. Anything else goes through transformers' own loops.

Decoding steps run in torch's inference mode, where each of their many small calls takes less time, and so does the
rest of a search that shows its tensors to nobody. Tensors made there cannot take part in a backward pass, so none of
them is handed out: results, what processors and criteria of others see, and caches that a caller keeps are ordinary.

Legend: B source rows, K beams, R decoder rows, T tokens so far, V vocabulary, C candidates of a source row.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer, EncoderDecoderCache
from transformers.generation.utils import (
    GenerateBeamDecoderOnlyOutput,
    GenerateBeamEncoderDecoderOutput,
    GenerateDecoderOnlyOutput,
    GenerateEncoderDecoderOutput,
)

from .cache_custom_seq2seq import CustomSeq2SeqCache
from .cache_recurrent_layer import RecurrentLayer
from .cells_custom_seq2seq import is_plain_linear
from .decoding_step_recurrent_decoder import RecurrentDecodingStep
from .decoding_step_transformer_decoder import TransformerDecodingStep
from .first_pass_custom_seq2seq import OWN_DECODERS, is_unhooked, may_drop, wrappers_are_ours
from .search_rules_custom_seq2seq import ScoreRules, StoppingRules, best_place, best_scores

NEVER = -1.0e9
"""The score that transformers gives to what must not be chosen."""

KEEP_SHARE = 0.75
"""Finished rows, or sources of a beam search, leave the batch when the others are no more than this share of it."""

STATIC_ROPE_TYPES = ("default", "linear", "llama3", "yarn", "proportional")
"""Rotations whose angles depend on the position alone, not on the length reached."""


def can_step(model: Any, config: GenerationConfig, model_kwargs: dict[str, Any]) -> bool:
    """Whether a decoding step can stand in for `forward` here; everything else is left to transformers."""
    decoder, cache = model.get_decoder(), model_kwargs.get("past_key_values")
    kind = decoder.config.model_type
    if kind not in OWN_DECODERS or not model_kwargs.get("use_cache"):
        return False
    if model.training or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or model.device.type != "cpu":
        return False
    asks_more = config.output_attentions or config.output_hidden_states or config.is_assistant
    if asks_more or decoder.config.output_attentions or decoder.config.output_hidden_states:
        return False
    if any(model_kwargs.get(name) is not None for name in ("decoder_position_ids", "decoder_inputs_embeds")):
        return False
    if kind == "custom_transformer_decoder":
        if decoder.config._attn_implementation not in ("eager", "sdpa"):
            return False
        rope = decoder.config.rope_parameters or {}
        if rope.get("rope_type", "default") not in STATIC_ROPE_TYPES:
            return False
    mask = model_kwargs.get("decoder_attention_mask" if model.config.is_encoder_decoder else "attention_mask")
    if mask is not None and (not isinstance(mask, torch.Tensor) or mask.dim() != 2):
        return False
    position_ids = model_kwargs.get("position_ids")
    if position_ids is not None:  # transformers makes them for a decoder alone; a caller may have others
        last = position_ids.shape[1] - 1 if mask is None else mask.sum(1) - 1
        if not bool((position_ids[:, -1] == last).all()):
            return False
    if not wrappers_are_ours(model) or not _is_plain_cache(cache, decoder):
        return False
    return all(_is_plain(one) for one in (decoder, model.lm_head))


def _is_plain_cache(cache: Any, decoder: Any) -> bool:
    """Whether the state is where a decoding step looks for it."""
    own: Any = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    if decoder.config.add_cross_attention != isinstance(cache, EncoderDecoderCache):
        return False
    if isinstance(cache, EncoderDecoderCache):
        if type(cache) is not CustomSeq2SeqCache or cache.rows_per_source is None:
            return False
        if type(cache.cross_attention_cache) is not DynamicCache:
            return False
    if type(own) is not DynamicCache or getattr(own, "offloading", False):
        return False
    layers = own.layers or []
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer, RecurrentLayer) for layer in layers)


def _is_plain(part: nn.Module) -> bool:
    """
    Whether modules may be read past their `forward`: no adapter, no hook, no dropout, no other kind of weight, and
    one dtype.
    """
    for module in part.modules():
        if isinstance(module, nn.Linear) and not is_plain_linear(module):
            return False
        if may_drop(module) or not is_unhooked(module):
            return False
    return len({parameter.dtype for parameter in part.parameters()}) <= 1  # a head of 8-bit weights has none


def build_step(model: Any, outputs: Any, num_rows: int, model_kwargs: dict[str, Any]) -> Any:
    """The decoding step of a model after its first pass over the prefix."""
    decoder, cache = model.get_decoder(), outputs.past_key_values
    is_encoder_decoder = model.config.is_encoder_decoder
    source_mask = model_kwargs.get("attention_mask" if is_encoder_decoder else "encoder_attention_mask")
    states = model_kwargs.get("encoder_outputs" if is_encoder_decoder else "encoder_hidden_states")
    if is_encoder_decoder and states is not None:
        source_mask = model.model._source_mask(source_mask, states[0])
    if decoder.config.model_type == "custom_recurrent_decoder":
        return RecurrentDecodingStep(decoder, model.lm_head, cache, num_rows, source_mask)
    mask = model_kwargs.get("decoder_attention_mask" if is_encoder_decoder else "attention_mask")
    return TransformerDecodingStep(decoder, model.lm_head, cache, num_rows, mask, source_mask)


def ordinary(tensor: torch.Tensor) -> torch.Tensor:
    """The same as a tensor that may be written into and saved for a backward pass, unless the caller asks for none."""
    return tensor.clone() if tensor.is_inference() and not torch.is_inference_mode_enabled() else tensor


@contextmanager
def _outside() -> Iterator[None]:
    """Out of the inference mode of a search, for what goes into a cache: a caller may see it, after an error too."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _mode_for(config: GenerationConfig, stopping_rules: StoppingRules, score_rules: ScoreRules) -> Any:
    """Inference mode for a search of which nobody sees a tensor before its ids are returned."""
    is_seen = config.return_dict_in_generate or not stopping_rules.are_known or not score_rules.are_by_row
    return nullcontext() if is_seen else torch.inference_mode()


class _Steps:
    """The first pass as transformers makes it, then one decoding step a token."""

    def __init__(
        self, model: Any, input_ids: torch.Tensor, config: GenerationConfig, model_kwargs: dict[str, Any]
    ) -> None:
        self.model, self.model_kwargs = model, model_kwargs
        outputs = model._prefill(input_ids, config, model_kwargs, is_first_iteration=True)
        self.first: torch.Tensor | None = outputs.logits[:, -1]
        self.outputs: Any = outputs
        self.cache: Cache = outputs.past_key_values
        self.num_rows = input_ids.shape[0]
        self.step: Any = None

    def logits(self, last_ids: torch.Tensor) -> torch.Tensor:
        """Logits `(R, V)` in float32 after `last_ids` `(R,)`, the newest token of each row; a tensor of one's own."""
        if self.first is not None:
            logits, self.first = self.first, None
            return logits.to(torch.float32, copy=True)
        if self.step is None:
            with _outside():
                self.step = build_step(self.model, self.outputs, self.num_rows, self.model_kwargs)
            self.outputs = None
        with torch.inference_mode():
            logits = self.step(last_ids).to(torch.float32)
        return ordinary(logits)

    def reorder(self, rows: torch.Tensor, num_beams: int) -> None:
        """Row i goes on from row `rows[i]`, one of the `num_beams` of its source."""
        if self.step is None:
            with _outside():
                self.cache.reorder_cache(rows)  # type: ignore[arg-type]  # a LongTensor
            return
        with torch.inference_mode():
            self.step.reorder(rows, num_beams)

    def keep_sources(self, sources: torch.Tensor, rows_per_source: int) -> None:
        """Go on with these sources alone, each of which is read by `rows_per_source` rows, one after another."""
        with torch.inference_mode():
            self.step.keep_sources(sources, rows_per_source)

    def finish(self) -> Cache:
        """The cache, with the state of the last step in ordinary tensors; not for a batch that rows have left."""
        if self.step is not None:
            self.step.store()
            self.step = None
        cache: Any = self.cache
        own: Any = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
        for layer in own.layers:
            if type(layer) is RecurrentLayer:
                states: Any = layer.states
                layer.states = tuple(ordinary(one) for one in states)
            else:
                layer.keys, layer.values = ordinary(layer.keys), ordinary(layer.values)
        return self.cache


def sample(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    config: GenerationConfig,
    model_kwargs: dict[str, Any],
) -> Any:
    """Greedy search and multinomial sampling; arguments and result are those of transformers' `_sample`."""
    pads: Any = config._pad_token_tensor
    has_end = any(hasattr(one, "eos_token_id") for one in stopping_criteria)
    wants_scores = config.return_dict_in_generate and config.output_scores
    wants_logits = config.return_dict_in_generate and config.output_logits
    scores: tuple[torch.Tensor, ...] = ()
    raw_logits: tuple[torch.Tensor, ...] = ()
    num_rows = input_ids.shape[0]
    unfinished = torch.ones(num_rows, dtype=torch.long)
    stopping_rules, score_rules = StoppingRules(stopping_criteria), ScoreRules(logits_processor)
    asks_for_all = config.do_sample or config.return_dict_in_generate or not score_rules.are_by_row
    may_leave = has_end and num_rows > 1 and not asks_for_all
    active: torch.Tensor | None = None  # rows that are still in the batch, where some have left
    steps = _Steps(model, input_ids, config, model_kwargs)
    may_leave = may_leave and getattr(steps.cache, "source_index", None) is None
    may_leave = may_leave and getattr(steps.cache, "rows_may_leave", False)
    with _mode_for(config, stopping_rules, score_rules):
        while True:
            last_ids = input_ids[:, -1:].flatten()  # none before the first pass over embeddings
            logits = steps.logits(last_ids if active is None else last_ids.index_select(0, active))
            if wants_logits:
                raw_logits += (logits.clone(),)
            next_scores = score_rules(input_ids, logits)
            if wants_scores:
                scores += (next_scores,)
            if config.do_sample:
                next_ids = torch.multinomial(torch.softmax(next_scores, dim=-1), num_samples=1).squeeze(1)
            else:
                next_ids = best_place(next_scores)
            if active is not None:
                next_ids = torch.zeros(num_rows, dtype=next_ids.dtype).index_copy_(0, active, next_ids)
            if has_end:
                next_ids = next_ids * unfinished + pads * (1 - unfinished)
            input_ids = torch.cat([input_ids, next_ids[:, None]], dim=-1)
            unfinished = unfinished & ~stopping_rules(input_ids, scores if wants_scores else None)
            num_left = int(unfinished.sum())
            if num_left == 0:
                break
            in_batch = num_rows if active is None else active.shape[0]
            if may_leave and steps.step is not None and num_left <= KEEP_SHARE * in_batch:
                was = torch.arange(num_rows) if active is None else active
                places = unfinished.index_select(0, was).nonzero().squeeze(1)
                active = was.index_select(0, places)
                steps.keep_sources(places, 1)
    if not config.return_dict_in_generate:
        if active is None:
            steps.finish()
        return ordinary(input_ids)
    cache = steps.finish()
    common: dict[str, Any] = {
        "sequences": input_ids,
        "scores": scores if wants_scores else None,
        "logits": raw_logits if wants_logits else None,
        "past_key_values": cache,
    }
    if model.config.is_encoder_decoder:
        return GenerateEncoderDecoderOutput(**common)
    return GenerateDecoderOnlyOutput(**common)


class _Beams:
    """
    Hypotheses of a beam search: K running and K finished ones for each source row, in tensors of shape `(B, K, ...)`.

    Scores of running hypotheses are sums of log-probabilities; those of finished ones are divided by the length to the
    power of `length_penalty` (as Wu et al. 2016, section 7, with the simpler penalty that transformers has).
    """

    def __init__(self, input_ids: torch.Tensor, config: GenerationConfig) -> None:
        num_beams, max_length = int(config.num_beams or 1), int(config.max_length or 0)
        pads: Any = config._pad_token_tensor
        ends: Any = config._eos_token_tensor
        self.num_beams, self.max_length = num_beams, max_length
        self.length_penalty, self.early_stopping = float(config.length_penalty or 0.0), config.early_stopping
        self.prefix_length = self.length = input_ids.shape[1]
        self.num_sources = input_ids.shape[0] // num_beams
        self.num_candidates = max(2, 1 + (0 if ends is None else ends.shape[0])) * num_beams
        fill = -1 if ends is None else pads or ends[0]
        shape = (self.num_sources, num_beams)
        self.running = torch.full((*shape, max_length), int(fill), dtype=torch.int64)
        self.running[:, :, : self.length] = input_ids.view(*shape, -1)
        self.finished = self.running.clone()
        self.running_scores = torch.zeros(shape)
        self.running_scores[:, 1:] = NEVER  # the beams begin alike: only the first counts
        self.finished_scores = torch.full(shape, NEVER)
        self.is_finished = torch.zeros(shape, dtype=torch.bool)
        self.may_improve = torch.ones((self.num_sources, 1), dtype=torch.bool)
        self.finished_lengths = torch.zeros(shape, dtype=torch.long)  # new tokens of each
        self.has_finished = False  # whether any hypothesis has taken a place among the finished
        num_origins = max_length - self.length if config.return_dict_in_generate else 0  # nobody asks for them
        self.running_origins = torch.full((*shape, num_origins), -1, dtype=torch.int32)
        self.finished_origins = self.running_origins.clone()
        self.identity = torch.arange(input_ids.shape[0])
        self.first_rows = self.identity[::num_beams, None]  # (B, 1)
        self.is_top = torch.arange(self.num_candidates) < num_beams  # (C,)
        self.is_surely_open = True  # all of `may_improve`, and nobody has looked yet
        self.newest_ids = self.running[:, :, self.length - 1].flatten()  # (R,)
        self.sources = torch.arange(self.num_sources)  # (B,) those still in the batch, by their first numbers
        self.left: list[tuple[torch.Tensor, ...]] = []  # sources that have left, and what they end with

    @property
    def input_ids(self) -> torch.Tensor:
        """Running hypotheses, `(R, T)`."""
        return self.running[:, :, : self.length].flatten(0, 1)

    def advance(
        self,
        log_probs: torch.Tensor,
        stopping_criteria: Any,
        all_scores: Any,
        do_sample: bool,
        may_be_impossible: bool,
    ) -> tuple[torch.Tensor | None, bool]:
        """
        One token more.

        Args:
            log_probs (`torch.Tensor` of shape `(R, V)`): Processed; written into unless a processor of others made it.
            may_be_impossible (`bool`): Whether such a processor may have left fewer than C possible tokens. Places of
                finished hypotheses that are still empty then matter, and take part as in transformers.

        Returns:
            The row that each of the R rows goes on from, None where each goes on from itself, and whether the search
            goes on.
        """
        vocab_size, length = log_probs.shape[1], self.length
        by_source = log_probs.view(self.num_sources, self.num_beams, -1)
        scores = self.running_scores[:, :, None]
        totals = (by_source + scores if may_be_impossible else by_source.add_(scores)).flatten(1)
        if do_sample:
            chosen = torch.multinomial(torch.softmax(totals, dim=-1), num_samples=self.num_candidates)
            candidate_scores = totals.gather(1, chosen)
        else:
            candidate_scores, places, numbers = best_scores(totals, self.num_candidates)
            ends = None if may_be_impossible else stopping_criteria.end_ids(length + 1)
            if numbers is not None and ends is not None:
                if not any(place % vocab_size in ends for row in places for place in row):
                    return self._go_on(candidate_scores, numbers, places, vocab_size)
            chosen = torch.tensor(places)
        beams = torch.div(chosen, vocab_size, rounding_mode="floor")  # (B, C)
        candidates = _take(self.running, beams)
        candidates[:, :, length] = chosen - beams * vocab_size
        origins = self.running_origins
        if origins.shape[2] > 0:
            origins = _take(origins, beams)
            rows = beams + self.sources[:, None] * self.num_beams
            origins[:, :, length - self.prefix_length] = rows.to(torch.int32)
        hits = stopping_criteria(candidates[:, :, : length + 1].flatten(0, 1), all_scores).view(self.num_sources, -1)

        has_hits = bool(hits.any())
        ends_now = hits & self.is_top if has_hits else hits
        if may_be_impossible or (has_hits and bool(ends_now.any())):
            self._collect(candidates, candidate_scores, origins, ends_now)
        open_scores = candidate_scores + hits.to(torch.float32) * NEVER if has_hits else candidate_scores
        self.running_scores, going_on = torch.topk(open_scores, k=self.num_beams)  # (B, K)
        self.running = _take(candidates, going_on)
        self.running_origins = _take(origins, going_on) if origins.shape[2] > 0 else origins
        self.length += 1
        goes_on = self._is_open() and not (has_hits and bool(hits.all()))
        rows = (self.first_rows[: self.num_sources] + beams.gather(1, going_on)).flatten()
        self.newest_ids = self.running[:, :, length].flatten()
        return None if torch.equal(rows, self.identity[: rows.shape[0]]) else rows, goes_on

    def _go_on(
        self, scores: torch.Tensor, numbers: list[list[float]], places: list[list[int]], vocab_size: int
    ) -> tuple[torch.Tensor | None, bool]:
        """
        The rest of a step in which no candidate ends: the best K, which come in order, go on.

        Args:
            scores (`torch.Tensor` of shape `(B, C)`): Each row falls; `numbers` are the same.
            places (`list[list[int]]` of shape `(B, C)`): In K times the vocabulary.
        """
        count, length = self.num_beams, self.length
        origins = [place // vocab_size + index * count for index, row in enumerate(places) for place in row[:count]]
        self.newest_ids = torch.tensor([place % vocab_size for row in places for place in row[:count]])
        rows = None
        if origins != list(range(len(origins))):
            rows = torch.tensor(origins)
            self.running = self.running.flatten(0, 1).index_select(0, rows).view(self.running.shape)
        self.running[:, :, length] = self.newest_ids.view(-1, count)
        if self.running_origins.shape[2] > 0:
            if rows is not None:
                taken = self.running_origins.flatten(0, 1).index_select(0, rows)
                self.running_origins = taken.view(self.running_origins.shape)
            sources = self.sources.tolist()
            named = [sources[index // count] * count + row % count for index, row in enumerate(origins)]
            of_this = torch.tensor(named, dtype=torch.int32).view(-1, count)
            self.running_origins[:, :, length - self.prefix_length] = of_this
        self.running_scores = scores[:, :count]
        self.length += 1
        reach = (self.length - self.prefix_length) ** self.length_penalty
        if self.is_surely_open and self.early_stopping != "never" and not self.has_finished and reach > 0.0:
            if all(row[0] / reach > 0.99 * NEVER for row in numbers):  # whatever is rounded
                return rows, True
        return rows, self._is_open()

    def _is_open(self) -> bool:
        """Whether the result of any source can still change."""
        self._look_ahead()
        is_open = not (self.early_stopping is True and bool(self.is_finished.all()))
        return is_open and bool(self.may_improve.any())

    def _collect(
        self, candidates: torch.Tensor, scores: torch.Tensor, origins: torch.Tensor, ends_now: torch.Tensor
    ) -> None:
        """Let candidates that end among the K best take the place of worse finished hypotheses."""
        scores = scores / ((self.length + 1 - self.prefix_length) ** self.length_penalty)
        if self.early_stopping is True:
            scores = scores + self.is_finished.all(dim=-1, keepdim=True).to(torch.float32) * NEVER
        scores = scores + (~self.may_improve).to(torch.float32) * NEVER
        scores = scores + (~ends_now).to(torch.float32) * NEVER
        merged = torch.cat([self.finished_scores, scores], dim=1)
        best = torch.topk(merged, k=self.num_beams)[1]
        self.finished_scores = merged.gather(1, best)
        self.finished = _take(torch.cat([self.finished, candidates], dim=1), best)
        self.finished_origins = _take(torch.cat([self.finished_origins, origins], dim=1), best)
        self.is_finished = torch.cat([self.is_finished, ends_now], dim=1).gather(1, best)
        lengths = torch.full_like(best[:, :1], self.length + 1 - self.prefix_length).expand(scores.shape)
        self.finished_lengths = torch.cat([self.finished_lengths, lengths], dim=1).gather(1, best)
        self.has_finished = True

    def _look_ahead(self) -> None:
        """Note the source rows whose best running hypothesis can no longer beat their worst finished one."""
        self.is_surely_open = False
        is_long = self.early_stopping == "never" and self.length_penalty > 0.0
        reach = (self.max_length if is_long else self.length) - self.prefix_length
        best = self.running_scores[:, :1] / (reach**self.length_penalty)
        if not self.has_finished:
            self.may_improve = self.may_improve & (best > NEVER)
            return
        worst = torch.where(self.is_finished, self.finished_scores.min(dim=1, keepdim=True)[0], NEVER)
        self.may_improve = self.may_improve & (best > worst).any(dim=-1, keepdim=True)

    def let_finished_leave(self) -> torch.Tensor | None:
        """
        Take source rows whose result can no longer change out of the batch, where enough of them have gathered.

        Returns:
            Places `(B',)` of those that stay, or None where all do.
        """
        is_done = ~self.may_improve[:, 0]
        if self.early_stopping is True:
            is_done = is_done | self.is_finished.all(dim=1)
        if self.num_sources - int(is_done.sum()) > KEEP_SHARE * self.num_sources:
            return None
        self.left.append(tuple(one[is_done] for one in self._results))
        stay = (~is_done).nonzero().squeeze(1)
        for name in ("running", "finished", "running_scores", "finished_scores", "is_finished", "may_improve"):
            setattr(self, name, getattr(self, name).index_select(0, stay))
        for name in ("running_origins", "finished_origins", "finished_lengths", "sources"):
            setattr(self, name, getattr(self, name).index_select(0, stay))
        self.num_sources = stay.shape[0]
        self.newest_ids = self.running[:, :, self.length - 1].flatten()
        return stay

    @property
    def _results(self) -> tuple[torch.Tensor, ...]:
        return self.sources, self.finished, self.finished_scores, self.finished_lengths, self.finished_origins

    def results(self, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The `count` best hypotheses of every source, `(rows, T)`, their scores and origins, in the first order."""
        sources, *parts = (torch.cat(one) for one in zip(*self.left, self._results, strict=True))
        order = torch.argsort(sources)
        ids, scores, lengths, origins = (one.index_select(0, order)[:, :count].flatten(0, 1) for one in parts)
        num_new = int(lengths.max())
        return ids[:, : self.prefix_length + num_new], scores, origins[:, :num_new]


def _take(tensor: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """`(B, N, L)` at places `(B, M)`: `(B, M, L)`."""
    return tensor.gather(1, places[:, :, None].expand(-1, -1, tensor.shape[2]))


def beam_search(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    config: GenerationConfig,
    model_kwargs: dict[str, Any],
) -> Any:
    """Beam search and beam sampling; arguments and result are those of transformers' `_beam_search`."""
    wants_scores = config.return_dict_in_generate and config.output_scores
    wants_logits = config.return_dict_in_generate and config.output_logits
    scores: tuple[torch.Tensor, ...] | None = () if wants_scores else None
    raw_logits: tuple[torch.Tensor, ...] = ()
    beams = _Beams(input_ids, config)
    steps = _Steps(model, input_ids, config, model_kwargs)
    stopping_rules, score_rules = StoppingRules(stopping_criteria), ScoreRules(logits_processor)
    asks_for_all = config.do_sample or config.return_dict_in_generate
    may_leave = stopping_rules.are_known and score_rules.are_by_row and not asks_for_all
    may_leave = may_leave and getattr(steps.cache, "rows_may_leave", False)
    with _mode_for(config, stopping_rules, score_rules):
        while True:
            logits = steps.logits(beams.newest_ids)
            log_probs = nn.functional.log_softmax(logits, dim=-1)
            if score_rules.rules:
                log_probs = score_rules(beams.input_ids, log_probs)
            if wants_logits:
                raw_logits += (logits.clone(),)
            if scores is not None:
                scores += (log_probs.clone(),)
            rows, goes_on = beams.advance(
                log_probs, stopping_rules, scores, bool(config.do_sample), not score_rules.are_by_row
            )
            if rows is not None:
                steps.reorder(rows, beams.num_beams)
            if not goes_on:
                break
            if may_leave and beams.num_sources > 1 and steps.step is not None:
                stay = beams.let_finished_leave()
                if stay is not None:
                    steps.keep_sources(stay, beams.num_beams)
    sequences, sequences_scores, origins = beams.results(int(config.num_return_sequences or 1))
    if not config.return_dict_in_generate:
        if not beams.left:
            steps.finish()
        return sequences  # put together outside that mode
    cache = steps.finish()
    common: dict[str, Any] = {
        "sequences": sequences,
        "sequences_scores": sequences_scores if config.output_scores else None,
        "scores": scores,
        "logits": raw_logits if wants_logits else None,
        "beam_indices": origins,
        "past_key_values": cache,
    }
    if model.config.is_encoder_decoder:
        return GenerateBeamEncoderDecoderOutput(**common)
    return GenerateBeamDecoderOnlyOutput(**common)

"""
The first pass of `generate()` over a prefix, read once for all beams or samples of a source, which begin alike.

Legend: B source rows, K beams or samples of each, R decoder rows (B times K), P prefix length, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_modules
from torch.nn.modules.dropout import _DropoutNd
from transformers import GenerationConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer, EncoderDecoderCache

from .cache_custom_seq2seq import CustomSeq2SeqCache
from .cache_recurrent_layer import RecurrentLayer

OWN_DECODERS = ("custom_transformer_decoder", "custom_recurrent_decoder")
"""Model types of the decoders whose passes are known."""

REPLACED = ("forward", "prepare_inputs_for_generation", "_update_model_kwargs_for_generation")
"""Methods that others (prompt tuning, offloading) put on single models; they must then be called, with all rows."""

GLOBAL_HOOKS = (torch_modules._global_forward_hooks, torch_modules._global_forward_pre_hooks)
"""Hooks of all modules (`torch.nn.modules.module.register_module_forward_hook`)."""

REPEATED_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer, RecurrentLayer)
"""Cache layers whose rows may be repeated."""


def wrappers_are_ours(model: Any) -> bool:
    """
    Whether the model around a decoder is of our classes, not of a subclass, with no method put on it by others, and no
    hooks of all modules are set.
    """
    wrappers = [model] if model.model is model.get_decoder() else [model, model.model]
    if any(name in one.__dict__ for one in wrappers for name in REPLACED):
        return False
    return all(map(is_unhooked, wrappers)) and not any(GLOBAL_HOOKS)


def is_unhooked(module: nn.Module, *, adapters: bool = False) -> bool:
    """
    Whether a module is what its class says, and its class a known one: of torch, an activation of transformers, of the
    files that travel, or, if allowed, an adapter layer of PEFT. (Classes are told by the names of their files, as
    travelling code may be there in several copies; a subclass stands in another file.)
    """
    if "forward" in module.__dict__ or module._forward_hooks or module._forward_pre_hooks:
        return False
    origin = type(module).__module__
    if origin.startswith("torch.nn.modules.") or origin == "transformers.activations":
        return True
    if adapters and origin.startswith("peft.tuners."):
        return True
    return origin.endswith(("_custom_seq2seq", "_transformer_decoder", "_recurrent_decoder"))


def may_drop(module: nn.Module) -> bool:
    """
    Whether dropout may be at work. Modules that are put in later (8-bit weights, another head) are in training mode
    whatever the model is in, so only those count that have a rate of their own or in their config.
    """
    has_rate = isinstance(module, _DropoutNd) or any("dropout" in name or name == "config" for name in vars(module))
    return module.training and has_rate


def rows_alike(model: Any, input_ids: torch.Tensor, config: GenerationConfig, model_kwargs: dict[str, Any]) -> int:
    """
    K where each K neighbouring rows of `input_ids` `(R, P)` and of what else belongs to the decoder are alike, the
    cache is empty and can repeat its rows, and the pass is known and looked at by nobody; otherwise 1.
    """
    count = max(config.num_beams or 1, config.num_return_sequences or 1)
    if count == 1 or input_ids.shape[0] % count or not _is_known(model, config):
        return 1
    cache = model_kwargs.get("past_key_values")
    has_source = any(model_kwargs.get(name) is not None for name in ("encoder_outputs", "encoder_hidden_states"))
    if (has_source and not isinstance(cache, CustomSeq2SeqCache)) or not _may_repeat(cache, count):
        return 1  # such a source is repeated for all rows
    own = [
        value for name, value in model_kwargs.items() if isinstance(value, torch.Tensor) and not model._is_source(name)
    ]
    if any(value.dim() < 2 or value.shape[0] != input_ids.shape[0] for value in own):
        return 1  # whether these are rows is not known
    groups = [value.unflatten(0, (-1, count)) for value in (input_ids, *own)]  # (B, K, ...)
    return count if all(torch.equal(one, one[:, :1].expand_as(one)) for one in groups) else 1


def _is_known(model: Any, config: GenerationConfig) -> bool:
    """
    Whether a pass gives every row what is its own alone, and nothing of it but logits and cache goes on: modules that
    we know or that PEFT puts in, no dropout, no attention weights or hidden states to be returned.
    """
    decoder = model.get_decoder()
    if any(one.output_attentions or one.output_hidden_states for one in (config, decoder.config)):
        return False
    if decoder.config.model_type not in OWN_DECODERS or not wrappers_are_ours(model):
        return False
    modules = [*decoder.modules(), *model.lm_head.modules()]
    return not any(may_drop(one) or not is_unhooked(one, adapters=True) for one in modules)


def _may_repeat(cache: Any, count: int) -> bool:
    """Whether a cache holds nothing of the prefix yet, and rows that can be repeated afterwards."""
    own: Any = cache
    if isinstance(cache, EncoderDecoderCache):
        if type(cache) is not CustomSeq2SeqCache or cache.rows_per_source != count:
            return False
        own = cache.self_attention_cache
        if type(cache.cross_attention_cache) is not DynamicCache:
            return False
    if type(own) is not DynamicCache or getattr(own, "offloading", False) or own.get_seq_length() > 0:
        return False
    return all(type(layer) in REPEATED_LAYERS for layer in own.layers)


def read_once(
    prefill: Callable[..., Any], model: Any, input_ids: torch.Tensor, model_kwargs: dict[str, Any], count: int
) -> Any:
    """
    What a first pass over all R rows gives, from one over every `count`-th of them.

    Args:
        prefill (`Callable`): Takes ids and keywords, and passes them through the model.
        input_ids (`torch.LongTensor` of shape `(R, P)`).

    Returns:
        Its outputs, logits of shape `(R, P, V)`, and the cache filled for R rows.
    """
    cache: Cache = model_kwargs["past_key_values"]
    first = {
        name: value[::count] if isinstance(value, torch.Tensor) and not model._is_source(name) else value
        for name, value in model_kwargs.items()
    }
    if isinstance(cache, CustomSeq2SeqCache):
        source_index, cache.source_index, cache.rows_per_source = cache.source_index, None, 1
    outputs = prefill(input_ids[::count], first)
    own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    own.batch_repeat_interleave(count)
    if isinstance(cache, CustomSeq2SeqCache):
        cache.source_index, cache.rows_per_source = source_index, count
    outputs.logits = outputs.logits.repeat_interleave(count, dim=0)
    return outputs

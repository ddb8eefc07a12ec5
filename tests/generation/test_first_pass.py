"""Beams and samples of one source begin alike: the first pass reads one row of each, and nothing else changes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from transformers.cache_utils import DynamicCache, EncoderDecoderCache, StaticCache

from hf_custom_decoder import (
    CustomSeq2SeqForConditionalGeneration,
    RecurrentDecoderConfig,
    RecurrentDecoderForCausalLM,
    TransformerDecoderForCausalLM,
)
from hf_custom_decoder.models import generation_custom_seq2seq
from hf_custom_decoder.models.cache_custom_seq2seq import CustomSeq2SeqCache, build_cache
from hf_custom_decoder.models.first_pass_custom_seq2seq import rows_alike
from tests.combinations import RECURRENT_SIZES, build_pair
from tests.factories import spread_weights, tiny_batch, tiny_causal, tiny_config, tiny_seq2seq
from tests.generation.both_loops import EVERYTHING, assert_same, source_of, watched

SEARCHES: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 7},
    "samples": {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 7},
    "beam samples": {"do_sample": True, "num_beams": 3, "max_new_tokens": 7},
    "one token": {"num_beams": 3, "max_new_tokens": 1},
}

ALONE = {"mask": [[5, 7, 8, 9], [0, 0, 4, 5]], "no mask": [[5, 7, 8, 9], [6, 9, 4, 5]]}

PREFIX = torch.tensor([[1, 7, 8, 9], [0, 0, 1, 5], [0, 1, 6, 7]])


@contextmanager
def passes(model: Any, *, once: bool = True) -> Iterator[list[int]]:
    """Rows of every pass through the decoder; the first reads all rows if not `once`."""
    rows: list[int] = []
    kind = type(model.get_decoder())
    forward = kind.forward

    def noted(self: Any, input_ids: Any = None, *arguments: Any, **options: Any) -> Any:
        rows.append(len(options["inputs_embeds"] if input_ids is None else input_ids))
        return forward(self, input_ids, *arguments, **options)

    def all_rows(*arguments: Any) -> int:
        return 1

    with (
        patch.object(kind, "forward", noted),
        patch.object(generation_custom_seq2seq, "rows_alike", rows_alike if once else all_rows),
    ):
        yield rows


def compare(model: Any, *, is_shared: bool = True, own_loop: bool = True, **options: Any) -> Any:
    """Generation with a first pass of few rows beside one of all; returns the former."""
    found, first = [], []
    for once in (True, False):
        torch.manual_seed(3)
        with watched(allowed=own_loop), passes(getattr(model, "base_model", model), once=once) as rows:
            found.append(model.generate(**options, **EVERYTHING))
        first.append(rows[0])
    assert first[1] == (3 * first[0] if is_shared else first[0])
    assert_same(*found, tolerance=1e-6)
    return found[0]


def build(kind: str) -> Any:
    if kind in ("ssru", "lstm"):
        return build_pair("gru_2", {"ssru": "hybrid_ssru_first", "lstm": "lstm_input_feeding"}[kind])
    return tiny_seq2seq(kind).double()


@pytest.mark.parametrize("own_loop", [True, False], ids=["steps", "stock"])
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("kind", ["default", "rotary_gqa_qk_norm", "alibi", "learned", "sliding", "ssru", "lstm"])
def test_encoder_decoders(kind: str, search: str, own_loop: bool) -> None:
    model, source = build(kind), source_of(tiny_batch())
    compare(model, own_loop=own_loop, **source, **SEARCHES[search])
    prefix = {"decoder_input_ids": PREFIX, "decoder_attention_mask": (PREFIX != 0).long()}
    compare(model, own_loop=own_loop, **source, **prefix, **SEARCHES[search])


@pytest.mark.parametrize("own_loop", [True, False], ids=["steps", "stock"])
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("prompts", ALONE)
@pytest.mark.parametrize("kind", ["rotary", "sliding", "hybrid", "gru"])
def test_decoders_alone(kind: str, prompts: str, search: str, own_loop: bool) -> None:
    if kind == "gru":
        torch.manual_seed(0)
        config = RecurrentDecoderConfig(**RECURRENT_SIZES, attention_type="none")
        model: Any = RecurrentDecoderForCausalLM(config).double().eval()
        spread_weights(model)
    elif kind == "hybrid":
        model = tiny_causal("rotary", mixer_types=["ssru", "full_attention"]).double()
    else:
        model = tiny_causal(kind).double()
    ids = torch.tensor(ALONE[prompts])
    mask = {"attention_mask": (ids != 0).long()} if prompts == "mask" else {}
    compare(model, own_loop=own_loop, input_ids=ids, **mask, **SEARCHES[search])
    compare(model, own_loop=own_loop, input_ids=ids, **mask, prefill_chunk_size=2, **SEARCHES[search])
    embeds = model.get_input_embeddings()(ids).detach()
    compare(model, own_loop=own_loop, inputs_embeds=embeds, **mask, **SEARCHES[search])


@pytest.mark.parametrize("search", SEARCHES)
def test_a_decoder_that_is_given_a_source(search: str) -> None:
    torch.manual_seed(0)
    model = TransformerDecoderForCausalLM(tiny_config().decoder).double().eval()
    spread_weights(model)
    states = torch.randn(2, 5, model.config.hidden_size, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    options = {"encoder_hidden_states": states, "encoder_attention_mask": mask, **SEARCHES[search]}
    compare(model, input_ids=torch.tensor([[1, 7, 8], [1, 5, 6]]), **options)


@pytest.mark.parametrize("own_loop", [True, False], ids=["steps", "stock"])
def test_a_given_cache_holds_all_rows_and_says_what_they_read(own_loop: bool) -> None:
    model, source = build("default"), source_of(tiny_batch())
    cache = build_cache(model.get_decoder().config, with_cross_attention=True)
    with watched(allowed=own_loop), passes(model) as rows:
        model.generate(**source, **SEARCHES["samples"], past_key_values=cache)
    assert rows[0] == 3
    assert cache.source_index.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert cache.rows_per_source == 3
    assert cache.self_attention_cache.layers[0].keys.shape[0] == 9
    assert cache.cross_attention_cache.layers[0].keys.shape[0] == 3


@pytest.mark.parametrize("search", SEARCHES)
def test_all_rows_are_read_where_others_look(search: str) -> None:
    model, source = build("default"), source_of(tiny_batch())
    options = {**source, **SEARCHES[search]}
    for name in ("output_attentions", "output_hidden_states"):
        with passes(model) as rows:
            output = model.generate(**options, return_dict_in_generate=True, **{name: True})
        assert rows[0] == 9
        assert len(output.decoder_attentions or output.decoder_hidden_states) > 0
    compare(model, is_shared=False, **options, cache_implementation="static", own_loop=False)
    handle = model.get_decoder().layers[0].register_forward_hook(lambda *given: None)
    with passes(model) as rows:
        model.generate(**options)
    assert rows[0] == 9
    handle.remove()
    decoder = model.get_decoder()
    decoder.layers[0].forward = decoder.layers[0].forward
    with passes(model) as rows:
        model.generate(**options)
    assert rows[0] == 9


@pytest.mark.parametrize("part", ["model", "decoder", "layers"])
def test_dropout_differs_from_row_to_row(part: str) -> None:
    model, source = tiny_seq2seq(decoder={"dropout": 0.5}).double(), source_of(tiny_batch())
    decoder = model.get_decoder()
    {"model": model, "decoder": decoder, "layers": decoder.layers}[part].train()
    with watched() as used, passes(model) as rows:
        output = model.generate(**source, **SEARCHES["samples"], **EVERYTHING)
    assert (used, rows[0]) == ([False], 9)
    assert len(set(output.logits[0][:3, 5].tolist())) == 3


@pytest.mark.parametrize("search", SEARCHES)
def test_modules_put_in_later_are_in_training_mode_and_change_nothing(search: str) -> None:
    model, source = build("default"), source_of(tiny_batch())
    model.resize_token_embeddings(model.config.vocab_size + 3)
    model.lm_head = nn.Linear(*reversed(model.lm_head.weight.shape), bias=False, dtype=torch.float64)
    assert model.lm_head.training
    with watched() as used, passes(model) as rows:
        model.generate(**source, **SEARCHES[search])
    assert (used, rows) == ([True], [3])


@pytest.mark.parametrize("search", SEARCHES)
def test_what_a_subclass_carries_from_pass_to_pass_has_all_rows(search: str) -> None:
    class Mixing(CustomSeq2SeqForConditionalGeneration):
        """Mixes the last logits of a row into its next ones."""

        def forward(self, *arguments: Any, decoder_before: Any = None, **options: Any) -> Any:
            output = super().forward(*arguments, **options)
            if decoder_before is not None:
                output.logits = 0.5 * (output.logits + decoder_before)
            output["before"] = output.logits[:, -1:].clone()
            return output

        def _update_model_kwargs_for_generation(self, outputs: Any, model_kwargs: Any, **options: Any) -> Any:
            model_kwargs["decoder_before"] = outputs["before"]
            return super()._update_model_kwargs_for_generation(outputs, model_kwargs, **options)

        def prepare_inputs_for_generation(self, *arguments: Any, **options: Any) -> Any:
            inputs = super().prepare_inputs_for_generation(*arguments, **options)
            return {**inputs, "decoder_before": options.get("decoder_before")}

    model = Mixing(tiny_config()).double().eval()
    compare(model, is_shared=False, own_loop=False, **source_of(tiny_batch()), **SEARCHES[search])


def test_hooks_of_all_modules_see_all_rows() -> None:
    model, source, seen = build("default"), source_of(tiny_batch()), []
    handle = register_module_forward_hook(lambda module, inputs, output: seen.append(type(module).__name__))
    try:
        with watched() as used, passes(model) as rows:
            model.generate(**source, **SEARCHES["samples"])
    finally:
        handle.remove()
    assert (used, rows[0], len(rows)) == ([False], 9, 7)
    assert seen.count("TransformerDecoderModel") == 7


def test_filled_caches_are_gone_on_from_with_all_rows() -> None:
    model = tiny_causal("rotary").double()
    ids = torch.tensor([[5, 7, 8, 9], [6, 9, 4, 5]])
    for filled in (False, True):
        cache = DynamicCache(config=model.config)
        if filled:
            model(ids[:, :2].repeat_interleave(3, dim=0), past_key_values=cache)
        with passes(model) as rows:
            model.generate(ids, **SEARCHES["samples"], past_key_values=cache)
        assert rows[0] == (6 if filled else 2)


def test_rows_that_differ_are_told_apart() -> None:
    model = tiny_causal("rotary")
    config = model.generation_config
    config.num_beams = 2
    ids, cache = torch.tensor([[5, 7], [5, 7], [6, 7], [6, 7]]), DynamicCache(config=model.config)
    mask = torch.ones_like(ids)

    def count(**given: Any) -> int:
        return rows_alike(model, given.pop("ids", ids), config, {"past_key_values": cache, **given})

    assert count() == count(attention_mask=mask) == 2
    assert count(ids=torch.tensor([[5, 7], [5, 7], [6, 7], [6, 8]])) == 1
    assert count(attention_mask=torch.tensor([[1, 1], [0, 1], [1, 1], [1, 1]])) == 1
    assert count(ids=ids[:3]) == 1
    assert count(attention_mask=mask[:2]) == count(some_row_numbers=torch.zeros(4)) == 1
    assert count(past_key_values=None) == 1
    assert count(past_key_values=StaticCache(config=model.config, max_cache_len=4)) == 1
    assert count(past_key_values=EncoderDecoderCache(cache, DynamicCache())) == 1
    assert count(encoder_hidden_states=torch.zeros(4, 3, 2)) == 1  # repeated, as no cache says who reads it
    shared = CustomSeq2SeqCache(cache, DynamicCache())
    assert count(past_key_values=shared) == 1
    shared.share_source(2, 2, torch.device("cpu"))
    assert count(past_key_values=shared, encoder_hidden_states=torch.zeros(2, 3, 2)) == 2
    assert count(past_key_values=CustomSeq2SeqCache(cache, StaticCache(config=model.config, max_cache_len=3))) == 1
    model.set_attn_implementation("eager")
    for name in ("output_attentions", "output_hidden_states"):
        setattr(model.config, name, True)
        assert count() == 1
        setattr(model.config, name, False)
    assert count() == 2


@pytest.mark.parametrize("search", SEARCHES)
def test_adapters(search: str) -> None:
    source = source_of(tiny_batch())
    torch.manual_seed(0)
    lora = get_peft_model(build("default"), LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    compare(lora.eval(), **source, **SEARCHES[search])
    model = build("default")
    model.config.num_layers, model.config.token_dim = 2, model.config.decoder.hidden_size
    prompts = PromptTuningConfig(
        task_type="SEQ_2_SEQ_LM",
        num_virtual_tokens=2,
        token_dim=model.config.token_dim,
        num_transformer_submodules=1,
        num_attention_heads=4,
        num_layers=2,
    )
    tuned = get_peft_model(model, prompts).eval()
    with passes(model) as rows:
        tuned.generate(**source, **SEARCHES[search])
    assert rows[0] == 9

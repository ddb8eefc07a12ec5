"""What sharing saves: the source is kept once, never copied, and its keys are computed once."""

import pytest
import torch

from hf_custom_decoder.models import generation_custom_seq2seq
from hf_custom_decoder.models.cache_custom_seq2seq import CustomSeq2SeqCache
from hf_custom_decoder.models.decoding_step_transformer_decoder import TransformerDecodingStep
from tests.factories import ALL_VARIANTS, tiny_config
from tests.generation.helpers import batch, causal, seq2seq

NUM_BEAMS = 4


class _Watch:
    """Counts calls of modules, and notes the rows of their first argument."""

    def __init__(self, *modules):
        self.rows = []
        self.handles = [module.register_forward_pre_hook(self._note) for module in modules]

    def _note(self, module, arguments):
        self.rows.append(arguments[0].shape[0])

    def __enter__(self):
        return self.rows

    def __exit__(self, *exception):
        for handle in self.handles:
            handle.remove()


@pytest.mark.parametrize("options", [{"num_beams": NUM_BEAMS}, {"do_sample": True, "num_return_sequences": NUM_BEAMS}])
@pytest.mark.parametrize("implementation", [None, "static"])
def test_the_cross_attention_cache_holds_source_rows_only(options, implementation):
    config = tiny_config().decoder
    output = seq2seq().generate(
        **batch(),
        max_new_tokens=6,
        return_dict_in_generate=True,
        cache_implementation=implementation,
        **options,
    )
    cache = output.past_key_values
    assert isinstance(cache, CustomSeq2SeqCache)
    assert cache.source_index.tolist() == [0] * NUM_BEAMS + [1] * NUM_BEAMS + [2] * NUM_BEAMS
    for layer in cache.cross_attention_cache.layers:
        for states in (layer.keys, layer.values):
            assert states.shape == (3, config.num_attention_heads, 7, config.attention_head_dim)
    for layer in cache.self_attention_cache.layers:
        assert layer.keys.shape[0] == 3 * NUM_BEAMS


@pytest.mark.parametrize("variant", ["sliding", "sliding_first", "sliding_last_alibi"])
@pytest.mark.parametrize("implementation", [None, "static"])
def test_sliding_layers_do_not_cut_the_source(variant, implementation):
    output = seq2seq(variant).generate(
        **batch(), max_new_tokens=6, return_dict_in_generate=True, cache_implementation=implementation
    )
    assert [layer.keys.shape[2] for layer in output.past_key_values.cross_attention_cache.layers] == [7, 7]


def test_beams_never_copy_the_source(monkeypatch):
    addresses = set()
    reorder = CustomSeq2SeqCache.reorder_cache

    def watched(cache, beam_idx):
        reorder(cache, beam_idx)
        layers = cache.cross_attention_cache.layers
        addresses.add(tuple(states.data_ptr() for layer in layers for states in (layer.keys, layer.values)))
        orders.append(beam_idx.tolist())

    orders = []
    monkeypatch.setattr(CustomSeq2SeqCache, "reorder_cache", watched)
    monkeypatch.setattr(generation_custom_seq2seq, "can_step", lambda *arguments: False)
    seq2seq().generate(**batch(), max_new_tokens=8, num_beams=NUM_BEAMS, eos_token_id=-1)
    assert len(orders) == 8
    assert any(order != sorted(set(order)) for order in orders)  # beams did change places
    assert len(addresses) == 1


def test_beams_of_decoding_steps_never_copy_the_source(monkeypatch):
    addresses, reorder = [], TransformerDecodingStep.reorder

    def watched(step, rows, num_beams):
        reorder(step, rows, num_beams)
        addresses.append(tuple(states.data_ptr() for states in (*step.source.keys, *step.source.values)))
        assert all(states.shape[0] == 3 * step.source.num_heads for states in step.source.keys)

    monkeypatch.setattr(TransformerDecodingStep, "reorder", watched)
    seq2seq().generate(**batch(), max_new_tokens=8, num_beams=NUM_BEAMS, eos_token_id=-1)
    assert len(addresses) > 1  # beams did change places
    assert len(set(addresses)) == 1


@pytest.mark.parametrize("options", [{}, {"num_beams": NUM_BEAMS}, {"num_beams": NUM_BEAMS, "early_stopping": True}])
def test_keys_of_the_source_are_computed_once_for_each_source(options):
    model, inputs = seq2seq(), batch()
    projections = [
        projection
        for layer in model.model.decoder.layers
        for projection in (layer.encoder_attn.k_proj, layer.encoder_attn.v_proj)
    ]
    with _Watch(*projections) as calls:
        model.generate(**inputs, max_new_tokens=8, **options)
    num_tokens = int(inputs["attention_mask"].sum())
    assert calls == [num_tokens] * len(projections)  # real tokens alone, each once


def test_the_encoder_runs_once_on_the_sources():
    model = seq2seq()
    with _Watch(*model.model.encoder.layers) as calls:
        model.generate(**batch(), max_new_tokens=8, num_beams=NUM_BEAMS)
    assert len(calls) == 2


def test_a_decoder_alone_shares_its_source_too():
    model = causal(add_cross_attention=True)
    source = torch.randn(2, 7, 32, dtype=torch.float64)
    ids = torch.tensor([[12, 13], [14, 15]])
    with _Watch(*(layer.encoder_attn.k_proj for layer in model.model.layers)) as calls:
        output = model.generate(
            ids, encoder_hidden_states=source, max_new_tokens=6, num_beams=NUM_BEAMS, return_dict_in_generate=True
        )
    assert calls == [2, 2]
    assert output.past_key_values.cross_attention_cache.layers[0].keys.shape[0] == 2


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_lengths_are_told_for_every_kind_of_layer(variant):
    output = seq2seq(variant).generate(
        **batch(), max_new_tokens=9, num_beams=2, eos_token_id=-1, return_dict_in_generate=True
    )
    cache = output.past_key_values
    assert [cache.get_seq_length(layer) for layer in range(2)] == [9, 9]

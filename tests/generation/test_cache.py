"""The cache by itself: what each of its operations moves, and what stays where it is."""

import copy

import pytest
import torch
from transformers.cache_utils import DynamicCache, EncoderDecoderCache, StaticCache

from hf_custom_decoder.models.cache_custom_seq2seq import CustomSeq2SeqCache, build_cross_attention_cache
from tests.factories import ALL_VARIANTS, tiny_config

NUM_SOURCES, NUM_BEAMS, SOURCE_LENGTH = 2, 3, 5


def _states(num_rows, length, offset=0):
    """Keys whose every number tells its row: `(rows, 1, length, 1)`."""
    return (torch.arange(num_rows).double() + offset).view(-1, 1, 1, 1).expand(-1, 1, length, 1).clone()


def _filled_cache(*, is_shared, num_layers=2):
    """Decoder rows 0..5 (100, 101, ... in self-attention) over the sources 0 and 1, or over a source each."""
    cache = CustomSeq2SeqCache(DynamicCache(), DynamicCache())
    num_rows = NUM_SOURCES * NUM_BEAMS
    if is_shared:
        cache.share_source(NUM_BEAMS, NUM_SOURCES, torch.device("cpu"))
    for layer in range(num_layers):
        own, source = _states(num_rows, 4, 100), _states(NUM_SOURCES if is_shared else num_rows, SOURCE_LENGTH)
        cache.self_attention_cache.update(own, own + 0.5, layer)
        cache.cross_attention_cache.update(source, source + 0.5, layer)
        cache.is_updated[layer] = True
    return cache


def _rows(cache):
    """For each decoder row: which row it was in self-attention, and which source it reads."""
    own, source = cache.self_attention_cache.layers[-1], cache.cross_attention_cache.layers[-1]
    assert torch.equal(own.values, own.keys + 0.5)
    assert torch.equal(source.values, source.keys + 0.5)
    reads = source.keys if cache.source_index is None else source.keys[cache.source_index]
    return [int(row) - 100 for row in own.keys[:, 0, 0, 0]], [int(row) for row in reads[:, 0, 0, 0]]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [2, 2, 0, 5, 3, 3]])
def test_a_reorder_within_sources_leaves_the_source_alone(order):
    cache = _filled_cache(is_shared=True)
    keys = cache.cross_attention_cache.layers[0].keys
    cache.reorder_cache(torch.tensor(order))
    assert _rows(cache) == (order, [0, 0, 0, 1, 1, 1])
    assert cache.cross_attention_cache.layers[0].keys is keys
    assert cache.rows_per_source == NUM_BEAMS


@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("order", [[3, 4, 5, 0, 1, 2], [5, 0, 3, 1, 1, 4], [0, 0, 0, 0, 0, 0]])
def test_a_reorder_across_sources_keeps_each_row_with_its_source(is_shared, order):
    cache = _filled_cache(is_shared=is_shared)
    cache.reorder_cache(torch.tensor(order))
    sources = [row // NUM_BEAMS for row in order] if is_shared else order
    assert _rows(cache) == (order, sources)
    if is_shared:
        assert cache.cross_attention_cache.layers[0].keys.shape[0] == NUM_SOURCES


@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize(
    "indices", [torch.tensor([4, 1]), torch.tensor([False, True, False, False, True, True]), torch.tensor([5, 5])]
)
def test_selected_rows_keep_their_source(is_shared, indices):
    cache = _filled_cache(is_shared=is_shared)
    cache.batch_select_indices(indices)
    kept = torch.arange(6)[indices].tolist()
    assert _rows(cache) == (kept, [row // NUM_BEAMS for row in kept] if is_shared else kept)


@pytest.mark.parametrize("is_shared", [True, False])
def test_repeated_rows_keep_their_source(is_shared):
    cache = _filled_cache(is_shared=is_shared)
    cache.batch_repeat_interleave(2)
    repeated = [row for row in range(6) for _ in range(2)]
    assert _rows(cache) == (repeated, [row // NUM_BEAMS for row in repeated] if is_shared else repeated)
    if is_shared:
        assert cache.rows_per_source == 2 * NUM_BEAMS


def test_operations_in_a_row():
    cache = _filled_cache(is_shared=True)
    cache.reorder_cache(torch.tensor([3, 1, 5, 0, 4, 2]))
    cache.batch_select_indices(torch.tensor([0, 2, 3]))
    cache.batch_repeat_interleave(2)
    cache.reorder_cache(torch.tensor([5, 4, 3, 2, 1, 0]))
    assert _rows(cache) == ([0, 0, 5, 5, 3, 3], [0, 0, 1, 1, 1, 1])


def test_a_crop_shortens_self_attention_alone():
    cache = _filled_cache(is_shared=True)
    cache.crop(-3)
    assert cache.get_seq_length() == 1
    assert cache.cross_attention_cache.get_seq_length() == SOURCE_LENGTH
    cache.crop(0)
    assert cache.get_seq_length() == 1
    assert _rows(cache) == ([0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_reset_forgets_tokens_source_and_sharing(is_shared):
    cache = _filled_cache(is_shared=is_shared)
    own, source = cache.self_attention_cache, cache.cross_attention_cache
    cache.reset()
    assert cache.self_attention_cache is own
    assert cache.cross_attention_cache is source
    assert cache.get_seq_length() == source.get_seq_length() == 0
    assert not any(cache.is_updated.values())
    assert cache.source_index is None
    own.update(_states(1, 2), _states(1, 2), 0)
    assert cache.get_seq_length() == 2


def test_a_copy_is_independent():
    cache = _filled_cache(is_shared=True)
    twin = copy.deepcopy(cache)
    twin.reorder_cache(torch.tensor([5, 4, 3, 2, 1, 0]))
    twin.crop(-1)
    assert cache.get_seq_length() == 4
    assert _rows(cache) == ([0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1])
    assert _rows(twin) == ([5, 4, 3, 2, 1, 0], [1, 1, 1, 0, 0, 0])


def test_every_decoder_row_can_get_a_source_row_of_its_own():
    cache = _filled_cache(is_shared=True)
    cache.match_source(NUM_SOURCES)
    assert cache.rows_per_source == NUM_BEAMS
    cache.match_source(6)
    assert cache.source_index is None
    assert cache.cross_attention_cache.layers[0].keys.shape[0] == 6
    assert _rows(cache) == ([0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1])


def test_static_caches_refuse_what_only_dynamic_ones_can():
    config = tiny_config().decoder
    cache = CustomSeq2SeqCache(
        StaticCache(config=config, max_cache_len=4), StaticCache(config=config, max_cache_len=5)
    )
    for name, argument in (("batch_select_indices", torch.tensor([0])), ("batch_repeat_interleave", 2), ("crop", -1)):
        with pytest.raises(TypeError, match=f"`{name}` is only defined for dynamic cache"):
            getattr(cache, name)(argument)


def test_it_is_an_encoder_decoder_cache_to_transformers():
    cache = _filled_cache(is_shared=False)
    assert isinstance(cache, EncoderDecoderCache)
    assert len(cache) == 2
    assert len(list(cache)[0]) == 6
    assert not cache.is_compileable
    assert repr(cache).startswith("CustomSeq2SeqCache(self_attention_cache=DynamicCache")


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_the_cross_attention_part_is_full_attention_of_the_same_kind(variant):
    config = tiny_config(variant).decoder
    dynamic = build_cross_attention_cache(DynamicCache(config=config), 2, SOURCE_LENGTH)
    assert isinstance(dynamic, DynamicCache)
    static = build_cross_attention_cache(StaticCache(config=config, max_cache_len=9), 2, SOURCE_LENGTH)
    assert isinstance(static, StaticCache)
    for cache in (dynamic, static):
        keys = _states(2, SOURCE_LENGTH)
        for layer in range(2):
            found, _ = cache.update(keys, keys, layer)
            assert torch.equal(found, keys)
            assert not cache.layers[layer].is_sliding

"""Helpers of `gated_decoder.py`: the state of a layer inside a cache of transformers."""

import torch
from transformers.cache_utils import CacheLayerMixin


class GatedState(CacheLayerMixin):
    """The state `(rows, width)` of one layer and the number of tokens that it stands for."""

    is_compileable = is_sliding = False

    def __init__(self):
        super().__init__()
        self.state, self.num_tokens = None, 0

    def store(self, state, num_new_tokens):
        self.state, self.is_initialized = state, True
        self.num_tokens += num_new_tokens

    def lazy_initialization(self, key_states, value_states): ...

    def update(self, key_states, value_states, *args, **kwargs):
        raise TypeError("no keys and values here")

    def get_seq_length(self):
        return self.num_tokens

    def get_max_length(self):
        return -1

    def get_max_cache_shape(self):
        return -1

    def get_mask_sizes(self, query_length):
        return self.num_tokens + query_length, 0

    def reorder_cache(self, beam_idx):
        if self.state is not None:
            self.state = self.state.index_select(0, beam_idx)

    batch_select_indices = reorder_cache

    def batch_repeat_interleave(self, repeats):
        if self.state is not None:
            self.state = self.state.repeat_interleave(repeats, dim=0)


def first_state(like: torch.Tensor, width: int) -> torch.Tensor:
    return like.new_zeros((like.shape[0], width))

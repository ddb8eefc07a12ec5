"""What the recurrent encoder and the recurrent decoder have in common."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .auto_map_custom_seq2seq import FullAutoMapMixin
from .cells_custom_seq2seq import RecurrentCell


class RecurrentPreTrainedModel(FullAutoMapMixin, PreTrainedModel):
    """What our recurrent encoder and decoder have in common."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = False
    _supports_sdpa = True
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        config.check()
        super().__init__(config, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RecurrentCell):
            module.reset_parameters(init)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        base: Any = self.base_model
        embedding: nn.Module = base.embed_tokens
        return embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self.base_model.embed_tokens = value

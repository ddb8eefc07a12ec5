"""
Recurrent encoder-decoders: ours, and one as a user of plain torch writes it.

Legend: B rows, S source length, T target length, E width, V vocabulary.
"""

from typing import Any

import torch
from torch import nn

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    RecurrentDecoderConfig,
    RecurrentEncoderConfig,
)

from .batches import IGNORE_INDEX, Batch
from .interleaved import UnequalWorkError
from .peers_transformers import count_parameters, free_generation
from .sizes import END, MAX_POSITIONS, PAD, START, Size

DROPOUT = 0.1

TORCH_MODULES: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}

States = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


class PlainRecurrentSeq2Seq(nn.Module):
    """
    `nn.GRU` or `nn.LSTM` over padded batches, attention of Luong et al. 2015 (equations 5, 7 and 8), a linear layer
    to the vocabulary, and `nn.CrossEntropyLoss(ignore_index=...)` over all positions.

    Args:
        size (`Size`): Width, layers on each side, vocabulary.
        cell_type (`str`): `"gru"` or `"lstm"`.
        attention_type (`str`): `"dot"` or `"general"`.
    """

    def __init__(self, size: Size, cell_type: str, attention_type: str) -> None:
        super().__init__()
        module, width = TORCH_MODULES[cell_type], size.width
        self.cell_type, self.num_layers = cell_type, size.layers
        self.source_embedding = nn.Embedding(size.vocab, width, PAD)
        self.target_embedding = nn.Embedding(size.vocab, width, PAD)
        self.encoder = module(width, width // 2, size.layers, batch_first=True, bidirectional=True, dropout=DROPOUT)
        self.decoder = module(width, width, size.layers, batch_first=True, dropout=DROPOUT)
        num_states = 2 if cell_type == "lstm" else 1
        self.bridges = nn.ModuleList(nn.Linear(width, width) for _ in range(num_states * size.layers))
        self.query = nn.Linear(width, width, bias=False) if attention_type == "general" else nn.Identity()
        self.combine = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(DROPOUT)
        self.output = nn.Linear(width, size.vocab)
        self.criterion = nn.CrossEntropyLoss(ignore_index=IGNORE_INDEX)

    def encode(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, States]:
        """Source states `(B, S, E)` and the decoder's first states `(layers, B, E)`, two of them for an LSTM."""
        source, final = self.encoder(self.dropout(self.source_embedding(input_ids)))
        parts = final if isinstance(final, tuple) else (final,)
        first = []
        for part, state in enumerate(parts):
            sides = state.unflatten(0, (self.num_layers, 2)).transpose(1, 2).flatten(2)  # (layers, B, E)
            bridges = list(self.bridges)[part * self.num_layers : (part + 1) * self.num_layers]
            pairs = zip(bridges, sides, strict=True)
            first.append(torch.stack([torch.tanh(bridge(side)) for bridge, side in pairs]))
        return source, (first[0], first[1]) if len(first) == 2 else first[0]

    def decode(
        self, ids: torch.Tensor, states: States, source: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, States]:
        """Logits `(B, T, V)` for target ids `(B, T)`, and the states after them."""
        outputs, states = self.decoder(self.dropout(self.target_embedding(ids)), states)
        scores = self.query(outputs) @ source.transpose(1, 2)  # (B, T, S)
        weights = scores.masked_fill(mask[:, None] == 0, float("-inf")).softmax(dim=-1)
        combined = torch.tanh(self.combine(torch.cat([weights @ source, outputs], dim=-1)))
        return self.output(self.dropout(combined)), states

    def loss(self, batch: Batch) -> torch.Tensor:
        """The mean cross-entropy over labels."""
        labels = batch["labels"]
        ids = torch.full_like(labels, START)
        ids[:, 1:] = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORE_INDEX, PAD)
        source, states = self.encode(batch["input_ids"])
        logits, _ = self.decode(ids, states, source, batch["attention_mask"])
        loss: torch.Tensor = self.criterion(logits.flatten(0, 1), labels.flatten())
        return loss


class PlainGreedy:
    """
    A contestant: the barest loop that decodes, one step of the module and an argmax, no stopping rule.

    Args:
        model ([`PlainRecurrentSeq2Seq`]): Set to evaluation mode.
        source (`Batch`): `input_ids` and `attention_mask` of shape `(B, S)`.
        new_tokens (`int`): Of every row.
    """

    def __init__(self, model: PlainRecurrentSeq2Seq, source: Batch, *, new_tokens: int) -> None:
        self.model, self.source, self.new_tokens = model.eval(), source, new_tokens

    @torch.no_grad()
    def __call__(self) -> int:
        source, states = self.model.encode(self.source["input_ids"])
        ids = torch.full((source.shape[0], 1), START, device=source.device)
        written = []
        for _ in range(self.new_tokens):
            logits, states = self.model.decode(ids, states, source, self.source["attention_mask"])
            ids = logits.argmax(dim=-1)
            written.append(ids)
        return torch.cat(written, dim=1).numel()


def build_plain(size: Size, cell_type: str, attention_type: str, seed: int) -> PlainRecurrentSeq2Seq:
    """The plain model with random weights."""
    torch.manual_seed(seed)
    return PlainRecurrentSeq2Seq(size, cell_type, attention_type)


def build_recurrent(
    size: Size, cell_type: str, attention_type: str, seed: int
) -> CustomSeq2SeqForConditionalGeneration:
    """Ours of the same shape: bidirectional encoder, linear bridge, no input feeding, nothing tied."""
    torch.manual_seed(seed)
    shared: dict[str, Any] = {
        "vocab_size": size.vocab,
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "cell_type": cell_type,
        "dropout": DROPOUT,
        "max_position_embeddings": MAX_POSITIONS,
        "pad_token_id": PAD,
        "bos_token_id": START,
        "eos_token_id": END,
    }
    config = CustomSeq2SeqConfig(
        encoder=RecurrentEncoderConfig(**shared),
        decoder=RecurrentDecoderConfig(
            attention_type=attention_type, bridge_type="linear", lm_head_bias=True, **shared
        ),
        tie_word_embeddings=False,
    )
    model = CustomSeq2SeqForConditionalGeneration(config)
    free_generation(model)
    return model


def check_equal_parameters(ours: nn.Module, plain: nn.Module) -> int:
    """
    The number of weights that both have.

    Raises:
        UnequalWorkError: The numbers differ.
    """
    counts = {"ours": count_parameters(ours), "plain": count_parameters(plain)}
    if len(set(counts.values())) != 1:
        raise UnequalWorkError(f"Both models must have equally many weights, got {counts}. Give them the same shape.")
    return counts["ours"]

"""
`nn.Transformer` in a loop as its users write it, and x-transformers where it is installed.

Legend: B rows, S source length, T target length, E width, V vocabulary.
"""

import importlib.util
from typing import Any

import torch
from torch import nn

from .batches import IGNORE_INDEX, Batch
from .sizes import MAX_POSITIONS, PAD, START, Size


def decoder_input(labels: torch.Tensor) -> torch.Tensor:
    """The start token and every label but the last, padding where nothing counts; `(B, T)`."""
    ids = torch.full_like(labels, START)
    ids[:, 1:] = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORE_INDEX, PAD)
    return ids


class TorchTransformer(nn.Module):
    """
    `nn.Transformer` (post-norm, gelu) with learned positions and a linear layer to the vocabulary that is tied to the
    embeddings; the loss runs over all positions with `ignore_index`.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size.vocab, size.width, PAD)
        self.source_positions = nn.Embedding(MAX_POSITIONS, size.width)
        self.target_positions = nn.Embedding(MAX_POSITIONS, size.width)
        self.transformer = nn.Transformer(
            size.width, size.heads, size.layers, size.layers, size.ffn, 0.1, "gelu", batch_first=True
        )
        self.dropout = nn.Dropout(0.1)
        self.output = nn.Linear(size.width, size.vocab, bias=False)
        self.output.weight = self.embedding.weight
        self.criterion = nn.CrossEntropyLoss(ignore_index=IGNORE_INDEX)

    def _embed(self, ids: torch.Tensor, positions: nn.Embedding) -> torch.Tensor:
        embeddings: torch.Tensor = self.dropout(self.embedding(ids) + positions.weight[: ids.shape[1]])
        return embeddings

    def encode(self, batch: Batch) -> torch.Tensor:
        """Source states `(B, S, E)`."""
        states: torch.Tensor = self.transformer.encoder(
            self._embed(batch["input_ids"], self.source_positions), src_key_padding_mask=batch["attention_mask"] == 0
        )
        return states

    def decode(self, ids: torch.Tensor, source: torch.Tensor, batch: Batch) -> torch.Tensor:
        """States `(B, T, E)` of target ids `(B, T)`."""
        causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).triu(1)
        states: torch.Tensor = self.transformer.decoder(
            self._embed(ids, self.target_positions),
            source,
            tgt_mask=causal,
            memory_key_padding_mask=batch["attention_mask"] == 0,
        )
        return states

    def loss(self, batch: Batch) -> torch.Tensor:
        """The mean cross-entropy over labels."""
        states = self.decode(decoder_input(batch["labels"]), self.encode(batch), batch)
        loss: torch.Tensor = self.criterion(self.output(states).flatten(0, 1), batch["labels"].flatten())
        return loss


class TorchGreedy:
    """A contestant: greedy decoding with `nn.Transformer`, which has no cache: every step reads the whole prefix."""

    def __init__(self, model: TorchTransformer, source: Batch, *, new_tokens: int) -> None:
        self.model, self.source, self.new_tokens = model.eval(), source, new_tokens

    @torch.no_grad()
    def __call__(self) -> int:
        source = self.model.encode(self.source)
        ids = torch.full((source.shape[0], 1), START, device=source.device)
        for _ in range(self.new_tokens):
            last = self.model.decode(ids, source, self.source)[:, -1:]
            ids = torch.cat([ids, self.model.output(last).argmax(dim=-1)], dim=1)
        return ids[:, 1:].numel()


def build_torch(size: Size, seed: int) -> TorchTransformer:
    """The loop's model with random weights."""
    torch.manual_seed(seed)
    return TorchTransformer(size)


def has_x_transformers() -> bool:
    """Whether x-transformers is installed."""
    return importlib.util.find_spec("x_transformers") is not None


def build_x_transformers(size: Size, seed: int) -> Any:
    """`XTransformer` of x-transformers: pre-norm, learned positions, its defaults for the rest."""
    from x_transformers import XTransformer

    torch.manual_seed(seed)
    settings: dict[str, Any] = {}
    for side in ("enc", "dec"):
        settings |= {
            f"{side}_num_tokens": size.vocab,
            f"{side}_depth": size.layers,
            f"{side}_heads": size.heads,
            f"{side}_attn_dim_head": size.width // size.heads,
            f"{side}_max_seq_len": MAX_POSITIONS,
            f"{side}_attn_flash": True,
            f"{side}_layer_dropout": 0.0,
            f"{side}_ff_dropout": 0.1,
        }
    return XTransformer(dim=size.width, tie_token_emb=True, **settings)


def x_transformers_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Its loss of a batch; it takes the start token and the labels in one row."""
    labels = batch["labels"]
    start = torch.full_like(labels[:, :1], START)
    loss: torch.Tensor = model(
        batch["input_ids"], torch.cat([start, labels], dim=1), mask=batch["attention_mask"].bool()
    )
    return loss


class XGreedy:
    """A contestant: greedy decoding through the `generate` of x-transformers, with its cache."""

    def __init__(self, model: Any, source: Batch, *, new_tokens: int) -> None:
        self.model, self.source, self.new_tokens = model.eval(), source, new_tokens

    def __call__(self) -> int:
        ids = self.source["input_ids"]
        start = torch.full((ids.shape[0], 1), START, device=ids.device)
        written: torch.Tensor = self.model.generate(
            ids, start, self.new_tokens, mask=self.source["attention_mask"].bool(), temperature=0.0
        )
        return written.numel()

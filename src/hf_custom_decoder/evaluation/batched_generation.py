"""Texts in, texts out, batch by batch."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from .predictions import decode_predictions


def generate_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Iterable[str],
    *,
    batch_size: int = 32,
    num_return_sequences: int = 1,
    target_tokenizer: PreTrainedTokenizerBase | None = None,
    truncate: bool = False,
    max_source_length: int | None = None,
    **generation_options: Any,
) -> Iterator[list[str]]:
    """Generates for each source, in order, and yields the texts as soon as their batch is done.

    Sources are read only as they are needed, so they may come from an endless pipe. For a large set of unequal
    lengths, sort the sources by length first: a batch takes as long as its longest member.

    Args:
        model ([`~transformers.PreTrainedModel`]): A model with `generate`, in evaluation mode or not.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer.
        sources (`Iterable[str]`): Input texts; for blank ones the model is not asked.
        batch_size (`int`, *optional*, defaults to 32): Sources generated together.
        num_return_sequences (`int`, *optional*, defaults to 1): Texts for each source, best first under beam search.
        target_tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The tokenizer of the outputs, where it is not that of the sources.
        truncate (`bool`, *optional*, defaults to `False`):
            Cut sources that are too long instead of refusing them.
        max_source_length (`int`, *optional*):
            Longest source in tokens, end token included; by default what the tokenizer allows, which is never
            exceeded.
        generation_options:
            Passed to `generate`, for example `num_beams=4` or `max_new_tokens=100` (tokens). Whatever is not passed
            comes from the model's generation config.

    Yields:
        `list[str]`: For each source its `num_return_sequences` texts, without special tokens; empty texts for a
        blank source.

    Raises:
        ValueError: If `batch_size` or `num_return_sequences` is below 1, or a source is too long.
    """
    for name, count in (("batch_size", batch_size), ("num_return_sequences", num_return_sequences)):
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1, got {count}.")
    generate: Any = model.generate
    if generation_options.get("max_new_tokens") is not None:
        generation_options.setdefault("max_length", None)  # else generate warns that the model has that rule too
    was_training = model.training
    model.eval()
    try:
        remaining = iter(sources)
        while batch := list(itertools.islice(remaining, batch_size)):
            written: Iterator[str] = iter(())
            if filled := [source for source in batch if source.strip()]:
                inputs = _encode(tokenizer, filled, max_source_length, truncate).to(model.device)
                with torch.inference_mode():
                    ids = generate(**inputs, num_return_sequences=num_return_sequences, **generation_options)
                written = iter(decode_predictions(tokenizer if target_tokenizer is None else target_tokenizer, ids))
            for source in batch:
                yield (
                    list(itertools.islice(written, num_return_sequences))
                    if source.strip()
                    else [""] * num_return_sequences
                )
    finally:
        model.train(was_training)


def _encode(
    tokenizer: PreTrainedTokenizerBase, sources: list[str], max_length: int | None, truncate: bool
) -> BatchEncoding:
    """Tokenizes a batch, or says which source is too long."""
    allowed = tokenizer.model_max_length
    longest = allowed if max_length is None else min(max_length, allowed)
    limit = longest if truncate and max_length is not None else None
    inputs: BatchEncoding = tokenizer(
        sources, padding=True, truncation=truncate, max_length=limit, return_tensors="pt"
    )
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    for source, length in zip(sources, lengths, strict=True):
        if length > longest:
            raise ValueError(
                f"A source may have at most {longest} tokens, got {length}: {source[:60]!r}. Shorten or split it."
            )
    return inputs

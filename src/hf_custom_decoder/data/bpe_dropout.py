"""BPE-dropout with a seed: words are cut into other pieces in every pass."""

import json
import random
from typing import Any

from transformers import PreTrainedTokenizerBase

from .noise_tokens import text_frame


class BpeDropout:
    """Cuts text as a BPE tokenizer does, but leaves merges out by chance (Provilkov et al. 2020, algorithm 1).

    In every step each possible merge of a word is left out with a probability, and the best of the others is made; a
    word is done when none is left. The dropout of `tokenizers` draws from a generator that cannot be seeded, so that
    no run could be repeated or gone on with; hence this one, in Python: about 0.25 ms for a sentence of 12 words,
    twice the time of `tokenizers`. At a rate of 0 it gives the ids of the tokenizer itself.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): A fast tokenizer whose model is BPE (kinds bpe and
            byte-level).
        rate (`float`): Probability that a merge is left out, 0 to below 1.

    Raises:
        ValueError: If the tokenizer has another model, or marks on its pieces that are not known here.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rate: float) -> None:
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        model = {} if backend is None else json.loads(backend.to_str())["model"]
        if model.get("type") != "BPE":
            raise ValueError(
                f"`tokenizer.bpe_dropout` needs a tokenizer made of merges (kind bpe or byte-level), got a model of "
                f"type {model.get('type') or type(tokenizer).__name__}. Leave it out, or train one of these kinds."
            )
        marks = ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges", "fuse_unk")
        used = [name for name in marks if model.get(name)]
        if used:
            raise ValueError(
                f"`tokenizer.bpe_dropout` knows BPE without {' and '.join(marks)}, got a tokenizer with {used[0]}. "
                "Train one here (leave `tokenizer.name` out), or leave it out."
            )
        self._tokenizer = tokenizer
        self._backend = backend
        self._rate = rate
        self._ids: dict[str, int] = model["vocab"]
        self._unknown = self._ids.get(model.get("unk_token") or "")
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
        self._ranks = {(left, right): rank for rank, (left, right) in enumerate(pairs)}
        self._before, self._after = text_frame(tokenizer)
        self._special = set(tokenizer.get_added_vocab().values())
        added = backend.get_added_tokens_decoder().values()
        self._spellings = [token.content for token in added]
        self._matches_normalized = backend.normalizer is not None and any(token.normalized for token in added)

    def __call__(self, text: str, generator: random.Random) -> list[int]:
        """Returns the ids of a text, special tokens around it included. Special tokens that the text spells stay
        whole, and merges are left out in the parts between them; where the tokenizer does not cut those parts each for
        itself, nothing is left out."""
        if self._matches_normalized or any(spelling in text for spelling in self._spellings):
            ids = self._cut_between(text, generator)
        else:
            ids = self._cut_text(text, generator)
        return [*self._before, *ids, *self._after]

    def _cut_between(self, text: str, generator: random.Random) -> list[int]:
        # Offsets tell what an added token took of the text, blanks beside it that it swallows included.
        whole = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        plain: list[int] = whole["input_ids"]
        parts: list[str | int] = []
        position = 0
        for idx, (start, end) in zip(plain, whole["offset_mapping"], strict=True):
            if idx in self._special:
                parts += [text[position:start], idx]
                position = end
        parts.append(text[position:])
        alone = [[part] if isinstance(part, int) else self._ids_of(part) for part in parts]
        if plain != [idx for ids in alone for idx in ids]:
            return plain
        drawn = [[part] if isinstance(part, int) else self._cut_text(part, generator) for part in parts]
        return [idx for ids in drawn for idx in ids]

    def _ids_of(self, part: str) -> list[int]:
        ids: list[int] = self._tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"] if part else []
        return ids

    def _cut_text(self, text: str, generator: random.Random) -> list[int]:
        backend = self._backend
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)] if backend.pre_tokenizer else [text]
        return [idx for word in words for idx in self._cut(word, generator)]

    def _cut(self, word: str, generator: random.Random) -> list[int]:
        # An unknown character never merges and becomes the unknown token; without one it is left out.
        pieces = list(word)
        ranks, rate, draw = self._ranks, self._rate, generator.random
        while len(pieces) > 1:
            best, place = len(ranks), -1
            for idx, pair in enumerate(zip(pieces, pieces[1:], strict=False)):
                rank = ranks.get(pair)
                if rank is not None and rank < best and (rate == 0.0 or draw() >= rate):
                    best, place = rank, idx
            if place < 0:
                break
            pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
        known = (self._ids.get(piece, self._unknown) for piece in pieces)
        return [idx for idx in known if idx is not None]

"""Tokenizers trained on the text of a run, with the special tokens where the models expect them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .noise_tokens import MASK_TOKEN

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
"""Ids 0 to 3 of every tokenizer that is trained here."""

_PUNCTUATION = Regex(r"[\p{P}\p{S}&&[^▁]]")
_SPACE = "▁"
_NUM_BYTES = 256
_AFTER_A_LETTER = "|".join(rf"\p{{Cased}}\p{{Case_Ignorable}}{{{num_marks}}}" for num_marks in range(4))
_FINAL_SIGMA = Regex(rf"(?<={_AFTER_A_LETTER})Σ(?!\p{{Case_Ignorable}}*\p{{Cased}})")
"""At the end of a word, which `str.lower` sees and the normalizer Lowercase does not."""


def train_tokenizer(
    texts: Iterable[str],
    *,
    kind: str,
    vocab_size: int,
    max_length: int,
    min_frequency: int = 2,
    split_punctuation: bool = True,
    extra_tokens: Sequence[str] = (),
    lowercase: bool = False,
) -> PreTrainedTokenizerFast:
    """Trains a tokenizer that ends every text with `</s>` and gives the text back when it decodes.

    - "bpe" and "unigram": pieces of words; a blank is part of the piece that follows it. Runs of blanks become one.
    - "byte-level": pieces of bytes (BPE); no text is unknown, whatever its script, and blanks stay as they are.
    - "word": what blanks separate. "character": every character, blanks among them.

    A special token that a text spells is read as that token: nothing is learned of its letters, and what stands before
    and after it is learned as texts of their own.

    Args:
        texts (`Iterable[str]`): What to train on.
        kind (`str`): One of the five.
        vocab_size (`int`): Most tokens, special ones included. Every character of the texts must fit in for bpe and
            unigram, the 256 bytes for byte-level; word and character leave out what is rarest.
        max_length (`int`): `model_max_length` of the result, in tokens.
        min_frequency (`int`, *optional*, defaults to 2): How often a pair of pieces must occur to be joined (bpe,
            byte-level), a word or a character to be known; unigram does not use it.
        split_punctuation (`bool`, *optional*, defaults to `True`): For bpe and unigram: punctuation marks and symbols
            are pieces of their own.
        extra_tokens (`Sequence[str]`, *optional*): More special tokens, from id 4 on: tags, the mask, sentinels.
        lowercase (`bool`, *optional*, defaults to `False`): Whether the tokenizer turns text into lower case, as
            `str.lower` does; special tokens stay as they are.

    Returns:
        [`~transformers.PreTrainedTokenizerFast`]: `<pad>` is 0, `<s>` 1, `</s>` 2, `<unk>` 3. All lies in
        `tokenizer.json`, so it loads with `AutoTokenizer` and no code of ours.

    Raises:
        ValueError: If `kind` is unknown, the texts hold nothing to learn or too much for `vocab_size`, or a
            special token is taken.
    """
    names = (*SPECIAL_TOKENS, *extra_tokens)
    taken = next((name for name in extra_tokens if names.count(name) > 1 or name == _SPACE), None)
    if taken is not None:
        raise ValueError(
            f"Special tokens of your own (`tokenizer.tags`) must differ from each other, from {SPECIAL_TOKENS} and "
            f"from {_SPACE!r}, which stands for a blank, got {taken!r}. Leave it out, or take another."
        )
    special = [AddedToken(token, special=True, normalized=False) for token in names]
    compose: Any = normalizers.NFC()
    if lowercase:
        compose = normalizers.Sequence([normalizers.Replace(_FINAL_SIGMA, "ς"), normalizers.Lowercase(), compose])
    trainer: trainers.Trainer
    if kind in ("bpe", "unigram"):
        pieces: list[Any] = [pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always")]
        if split_punctuation:
            pieces.append(pre_tokenizers.Split(_PUNCTUATION, behavior="isolated"))
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>") if kind == "bpe" else models.Unigram())
        tokenizer.normalizer = normalizers.Sequence(
            [compose, normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pieces)
        tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
        if kind == "bpe":
            trainer = trainers.BpeTrainer(
                vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=special, show_progress=False
            )
        else:
            trainer = trainers.UnigramTrainer(
                vocab_size=vocab_size, special_tokens=special, unk_token="<unk>", show_progress=False
            )
    elif kind == "byte-level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = compose
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    elif kind == "word":
        tokenizer = Tokenizer(models.WordLevel({}, unk_token="<unk>"))
        tokenizer.normalizer = compose
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=special, show_progress=False
        )
    elif kind == "character":
        tokenizer = Tokenizer(models.WordLevel({}, unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Sequence([compose, normalizers.Replace(" ", _SPACE)])
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
        tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.Fuse()])
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=special, show_progress=False
        )
    else:
        raise ValueError(f"`kind` must be one of bpe, unigram, byte-level, word, character, got {kind!r}.")
    _train(tokenizer, trainer, texts, names)
    if tokenizer.get_vocab_size() <= len(special):
        raise ValueError(
            f"There must be text to train a tokenizer on in which something occurs {min_frequency} times, found none. "
            "Check the columns, or lower `tokenizer.min_frequency`."
        )
    return as_fast_tokenizer(tokenizer, max_length, extra_tokens)


def _train(tokenizer: Tokenizer, trainer: Any, texts: Iterable[str], special: Sequence[str]) -> None:
    """Trains on what stands between special tokens, and raises a `ValueError` if the vocabulary cannot hold it."""
    is_unigram = isinstance(tokenizer.model, models.Unigram)
    is_of_bytes = isinstance(tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel)
    needed = len(special) + (_NUM_BYTES if is_of_bytes else 1)
    if trainer.vocab_size < needed:
        raise _too_small(trainer.vocab_size, needed)
    characters: set[str] = set()
    parts = _between(special, texts, characters if is_unigram else None)
    cut = tokenizer.pre_tokenizer
    spelled = Regex("|".join(map(re.escape, special)))  # by the normalizer, of <UNK> or decomposed letters
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(spelled, "removed"), cut])
    try:
        tokenizer.train_from_iterator(parts, trainer)
    except Exception as error:  # `tokenizers` raises nothing narrower
        if "not large enough to contain all chars" not in str(error):
            raise
        characters = {found for one in characters for found in tokenizer.normalizer.normalize_str(one)} | {_SPACE}
        raise _too_small(trainer.vocab_size, len(special) + len(characters) + 1) from error
    tokenizer.pre_tokenizer = cut
    if tokenizer.get_vocab_size() > trainer.vocab_size:
        num_characters = sum(len(token) == 1 and token not in special for token in tokenizer.get_vocab())
        raise _too_small(trainer.vocab_size, len(special) + num_characters + is_unigram)


def _between(special: Sequence[str], texts: Iterable[str], characters: set[str] | None) -> Iterator[str]:
    """Yields what stands between special tokens, as the finished tokenizer cuts it; its characters go to the set."""
    longest_first = sorted(special, key=len, reverse=True)
    spelled = re.compile("|".join(map(re.escape, longest_first)))
    for text in texts:
        for part in spelled.split(text):
            if characters is not None:
                characters.update(part)
            if part:
                yield part


def _too_small(vocab_size: int, needed: int) -> ValueError:
    return ValueError(
        f"`tokenizer.vocab_size` must be at least {needed} for the special tokens and what words are made of (every "
        f"character, or the {_NUM_BYTES} bytes of kind byte-level), got {vocab_size}. Raise it, take rare characters "
        "out of the text, or take another `tokenizer.kind`: character leaves out the rarest."
    )


def as_fast_tokenizer(
    tokenizer: Tokenizer, max_length: int, extra_tokens: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Makes a tokenizer of transformers that ends every text with `</s>`.

    Args:
        tokenizer (`tokenizers.Tokenizer`): Its ids 0 to 3 are [`SPECIAL_TOKENS`].
        max_length (`int`): `model_max_length` of the result, in tokens.
        extra_tokens (`Sequence[str]`, *optional*): More special tokens that it knows.
    """
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", SPECIAL_TOKENS.index("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        **({"mask_token": MASK_TOKEN} if MASK_TOKEN in extra_tokens else {}),
        extra_special_tokens=[token for token in extra_tokens if token != MASK_TOKEN],
        model_max_length=max_length,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def check_special_tokens(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raises a `ValueError` if a tokenizer lacks a token that training needs: padding, and the end of a text.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): An existing tokenizer.
        name (`str`): What it is called in the message.
    """
    missing = [role for role in ("pad_token", "eos_token") if getattr(tokenizer, role) is None]
    if missing:
        candidates = sorted(set(map(str, tokenizer.all_special_tokens)))
        raise ValueError(
            f"The tokenizer {name} must have a {' and a '.join(missing)}, found none. Set it in the recipe, such as "
            f"`tokenizer.special_tokens: {{{missing[0]}: ...}}`; its special tokens are {candidates}."
        )

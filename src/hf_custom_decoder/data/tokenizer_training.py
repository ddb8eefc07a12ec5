"""Tokenizers trained on the text of a run, with the special tokens where the models expect them."""

from collections.abc import Iterable, Sequence
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


def train_tokenizer(
    texts: Iterable[str],
    *,
    kind: str,
    vocab_size: int,
    max_length: int,
    min_frequency: int = 2,
    split_punctuation: bool = True,
    extra_tokens: Sequence[str] = (),
) -> PreTrainedTokenizerFast:
    """Trains a tokenizer that ends every text with `</s>` and gives the text back when it decodes.

    - "bpe" and "unigram": pieces of words; a blank is part of the piece that follows it. Runs of blanks become one.
    - "byte-level": pieces of bytes (BPE); no text is unknown, whatever its script, and blanks stay as they are.
    - "word": what blanks separate. "character": every character, blanks among them.

    Args:
        texts (`Iterable[str]`): What to train on.
        kind (`str`): One of the five.
        vocab_size (`int`): Most tokens, special ones included.
        max_length (`int`): `model_max_length` of the result, in tokens.
        min_frequency (`int`, *optional*, defaults to 2): How often a pair of pieces must occur to be joined (bpe,
            byte-level), a word or a character to be known; unigram does not use it.
        split_punctuation (`bool`, *optional*, defaults to `True`): For bpe and unigram: punctuation marks and symbols
            are pieces of their own.
        extra_tokens (`Sequence[str]`, *optional*): More special tokens, from id 4 on: tags, the mask, sentinels.

    Returns:
        [`~transformers.PreTrainedTokenizerFast`]: `<pad>` is 0, `<s>` 1, `</s>` 2, `<unk>` 3. All lies in
        `tokenizer.json`, so it loads with `AutoTokenizer` and no code of ours.

    Raises:
        ValueError: If `kind` is unknown, or the texts hold nothing to learn.
    """
    special = [AddedToken(token, special=True, normalized=False) for token in (*SPECIAL_TOKENS, *extra_tokens)]
    compose = normalizers.NFC()
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
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() <= len(special):
        raise ValueError(
            f"There must be text to train a tokenizer on in which something occurs {min_frequency} times, found none. "
            "Check the columns, or lower `tokenizer.min_frequency`."
        )
    return as_fast_tokenizer(tokenizer, max_length, extra_tokens)


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

"""One tokenizer for both sides of pronunciation: lower-case letters in, upper-case phonemes out."""

import string
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .tokenizer_training import SPECIAL_TOKENS, as_fast_tokenizer

MAX_LENGTH = 64
"""Longest input and output in tokens, end token included; the longest word of the dictionary has 28 letters."""

_PHONEME_LENGTHS = (1, 2)


def _inside_word(letter: str) -> str:
    """Returns a pattern for an upper-case letter that belongs to a word and not to a phoneme.

    Phonemes are runs of one or two upper-case letters. So a letter belongs to a word if its run of letters has three
    or more, or holds a lower-case neighbour.
    """
    return (
        f"(?<=[a-z]){letter}|{letter}(?=[a-z]|[A-Za-z]{{2}})"
        f"|(?<=[A-Za-z][A-Za-z]){letter}|(?<=[A-Za-z]){letter}(?=[A-Za-z])"
    )


def build_pronunciation_tokenizer(phonemes: Iterable[str]) -> PreTrainedTokenizerFast:
    """Builds a word-level tokenizer whose tokens are the 26 letters and the phonemes.

    - "cat" becomes `c a t </s>`; "K AE T" becomes `K AE T </s>`: the end token stands on both sides.
    - "Cat", "CAT" and "cat" are the same word, and accents are dropped. Upper-case runs of one or two letters are
      phonemes, so write words that short in lower case: "tv", not "TV".
    - Any other character becomes `<unk>`. Blanks only separate.
    - Decoded tokens are joined by blanks.

    Everything lies in `tokenizer.json`: the result loads with `AutoTokenizer` and no code of ours.

    Args:
        phonemes (`Iterable[str]`): The phonemes to know, of one or two upper-case letters each.

    Returns:
        [`~transformers.PreTrainedTokenizerFast`]:
            `<pad>` is 0, `<s>` 1, `</s>` 2, `<unk>` 3; then the letters, then the phonemes in alphabetical order.

    Raises:
        ValueError: If a phoneme is not one or two upper-case letters, or there is none.
    """
    inventory = sorted(set(phonemes))
    strange = [
        phoneme
        for phoneme in inventory
        if len(phoneme) not in _PHONEME_LENGTHS or not set(phoneme) <= set(string.ascii_uppercase)
    ]
    if strange or not inventory:
        raise ValueError(
            f"`phonemes` must be one or two upper-case letters each, got {strange or 'none at all'}. Remove stress "
            "marks and write them in capitals."
        )
    vocabulary = [*SPECIAL_TOKENS, *string.ascii_lowercase, *inventory]
    tokenizer = Tokenizer(
        models.WordLevel({token: token_id for token_id, token in enumerate(vocabulary)}, unk_token="<unk>")
    )
    lower_case = [
        normalizers.Replace(Regex(_inside_word(letter)), letter.lower()) for letter in string.ascii_uppercase
    ]
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), *lower_case])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[A-Z]+|[^\sA-Z]"), behavior="removed", invert=True)
    return as_fast_tokenizer(tokenizer, MAX_LENGTH)

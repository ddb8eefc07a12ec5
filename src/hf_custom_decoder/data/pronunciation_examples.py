"""From dictionary entries to the lists of ids that a Trainer takes."""

from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

from .pronunciation_dictionary import WordEntry

Example = dict[str, list[int]]
"""`input_ids` of the spelling and `labels` of the phonemes, both with the end token, not padded."""


def encode_entries(tokenizer: PreTrainedTokenizerBase, entries: Iterable[WordEntry]) -> list[Example]:
    """Makes one training example of every pronunciation of every entry.

    Looks letters and phonemes up in the vocabulary instead of calling the tokenizer, which takes ten times as long;
    the ids are the same.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): From [`build_pronunciation_tokenizer`].
        entries (`Iterable[WordEntry]`): Words of lower-case letters with their pronunciations.

    Returns:
        `list[Example]`: In the order of the entries and their pronunciations.
    """
    vocabulary = tokenizer.get_vocab()
    end = [tokenizer.eos_token_id]
    return [
        {
            "input_ids": [vocabulary[letter] for letter in entry.word] + end,
            "labels": [vocabulary[phoneme] for phoneme in phonemes] + end,
        }
        for entry in entries
        for phonemes in entry.pronunciations
    ]

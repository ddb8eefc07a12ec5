"""Training examples have the ids that the tokenizer gives."""

from hf_custom_decoder.data.pronunciation_examples import encode_entries
from tests.tiny_pronunciation import ENTRIES, tiny_tokenizer


def test_ids_are_those_of_the_tokenizer() -> None:
    tokenizer = tiny_tokenizer()
    examples = encode_entries(tokenizer, ENTRIES)
    pairs = [(entry.word, " ".join(phonemes)) for entry in ENTRIES for phonemes in entry.pronunciations]
    assert len(examples) == len(pairs) == 6
    for example, (word, phonemes) in zip(examples, pairs, strict=True):
        assert example["input_ids"] == tokenizer(word)["input_ids"]
        assert example["labels"] == tokenizer(text_target=phonemes)["input_ids"]

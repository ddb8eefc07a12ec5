"""Control tokens that stand in the text of pairs."""

from typing import Any

import pytest

from hf_custom_decoder.data.pair_encoding import PairTokenizers, find_control_tokens
from hf_custom_decoder.data.tokenizer_training import train_tokenizer

datasets = pytest.importorskip("datasets")


def found(pairs: list[tuple[str, str]], **changes: Any) -> tuple[int, str]:
    tokenizer = train_tokenizer(["a b c"], kind="word", vocab_size=9, max_length=9, min_frequency=1)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    table = datasets.Dataset.from_list([{"source": source, "target": target} for source, target in pairs])
    return find_control_tokens(table, PairTokenizers(tokenizer, tokenizer))


def test_they_are_counted_by_the_pair() -> None:
    long = f"a <pad>{' b' * 100}"
    assert found([("a", "b"), ("a b", "b </s> c"), (long, "</s>"), ("<", "/s>")]) == (2, "b </s> c")
    assert found([("a", "b"), (long, "c")]) == (1, long[:80])


def test_nothing_is_said_of_other_text() -> None:
    assert found([("a <unk> c", "<b>"), ("<S>", "< /s>")]) == (0, "")
    assert found([("a </s>", "b")], split_special_tokens=True) == (0, "")

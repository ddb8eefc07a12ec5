"""Cleaning: what each rule takes, exact counts, samples, and streams in every pass alike."""

from typing import Any

import pytest

from hf_custom_decoder.data.cleaning import Cleaner, clean_pairs, clean_stream
from hf_custom_decoder.training.cleaning_options import CleaningOptions

datasets = pytest.importorskip("datasets")


def pairs(*rows: tuple[str, str]) -> Any:
    return datasets.Dataset.from_list(
        [{"source": source, "target": target, "references": [target]} for source, target in rows]
    )


GOOD = ("A dog runs.", "Ein Hund läuft.")
RULES: list[tuple[dict[str, Any], str, tuple[str, str], str]] = [
    ({"duplicates": True}, "empty", ("  ", "Hund"), "source without text"),
    ({"duplicates": True}, "empty", ("", ""), "source and target without text"),
    ({"duplicates": True}, "duplicate", (" A dog runs.", "Ein Hund läuft. "), "the same pair came before"),
    ({"max_characters": 15}, "too_long", ("A dog runs away.", "Er rennt"), "source has 16 characters"),
    ({"max_words": 3}, "too_long", ("It runs", "Er läuft mal weg"), "target has 4 words"),
    ({"max_length_ratio": 1.5}, "length_ratio", ("abcd", "abcdefg"), "7 characters for 4"),
    ({"source_script": ["latin"]}, "source_script", ("Собака бежит", "Hund"), "0 of 11 letters are latin"),
    ({"target_script": ["Latin"]}, "target_script", ("dog", "Hund собака"), "4 of 10 letters are Latin"),
    ({"control_characters": True}, "control_characters", ("a\x08b", "c"), "source has U+0008"),
    ({"control_characters": True}, "control_characters", ("ab", "c\ufffd"), "target has U+FFFD"),
    ({"control_characters": True}, "control_characters", ("ab\ue000", "c"), "source has U+E000"),
    ({"overlap": "pair"}, "overlap", ("A test.", "Ein Test."), "it is in validation or test data"),
    ({"overlap": "pair"}, "overlap", ("A test.", "Eine Prüfung."), "it is in validation or test data"),
    ({"overlap": "source"}, "overlap", ("A test.", "Etwas"), "it is in validation or test data"),
    ({"overlap": "target"}, "overlap", ("Something", "Eine Prüfung."), "it is in validation or test data"),
    ({"overlap": "either"}, "overlap", ("Something", "Ein Test."), "it is in validation or test data"),
]
HELD_OUT = [{"source": "A test.", "target": "Ein Test.", "references": ["Ein Test.", "Eine Prüfung."]}]


@pytest.mark.parametrize(("options", "rule", "bad", "why"), RULES)
def test_what_a_rule_takes(options: dict[str, Any], rule: str, bad: tuple[str, str], why: str) -> None:
    cleaner = Cleaner(CleaningOptions(**options), HELD_OUT)
    kept = clean_pairs(pairs(GOOD, bad), cleaner)
    assert [(pair["source"], pair["target"]) for pair in kept] == [GOOD]
    assert cleaner.report.counts == {name: int(name == rule) for name in cleaner.report.counts}
    assert cleaner.report.samples[rule] == [{"source": bad[0], "target": bad[1], "why": why}]
    assert (cleaner.report.num_rows, cleaner.report.num_kept) == (2, 1)


@pytest.mark.parametrize(
    ("options", "fine"),
    [
        ({"max_characters": 3, "max_words": 2}, ("a b", "abc")),
        ({"max_length_ratio": 2}, ("ab", "abcd")),
        ({"source_script": ["latin"]}, ("12 - 34!", "x")),
        ({"target_script": ["han", "hiragana"]}, ("x", "犬が走る")),
        ({"target_script": ["latin"]}, ("x", "Hund собк")),  # half of the letters
        ({"control_characters": True}, ("a\tb\nc", "e\u0301 👍 \u200d")),
        ({"overlap": "pair"}, ("A test.", "Etwas")),
        ({"overlap": "source"}, ("Something", "Ein Test.")),
        ({"duplicates": True}, ("A dog runs.", "Ein Hund rennt.")),
    ],
)
def test_what_a_rule_leaves(options: dict[str, Any], fine: tuple[str, str]) -> None:
    kept = clean_pairs(
        pairs(("A dog runs.", "Ein Hund läuft."), fine), cleaner := Cleaner(CleaningOptions(**options), HELD_OUT)
    )
    assert (kept[-1]["source"], kept[-1]["target"]) == fine, cleaner.report


def test_a_pair_counts_once_and_samples_are_few() -> None:
    cleaner = Cleaner(CleaningOptions(duplicates=True, max_words=1, samples=2))
    rows = [("a", "b")] * 5 + [("a b", "c d")] * 3 + [("", "c d e")]
    kept = clean_pairs(pairs(*rows), cleaner)
    assert len(kept) == 1
    assert cleaner.report.counts == {"empty": 1, "too_long": 3, "duplicate": 4}
    assert {name: len(rows) for name, rows in cleaner.report.samples.items()} == {
        "empty": 1,
        "too_long": 2,
        "duplicate": 2,
    }
    assert cleaner.report.as_table().splitlines()[-2].split() == ["duplicate", "4"]


def test_streams_are_cleaned_alike_in_every_pass() -> None:
    rows = [(f"{idx % 40}", f"{idx % 40}") for idx in range(2500)] + [("", "x")]
    cleaner = Cleaner(CleaningOptions(duplicates=True))
    stream = clean_stream(pairs(*rows).to_iterable_dataset(), cleaner)
    for seed in (None, 1, 2):
        one_pass = stream if seed is None else stream.shuffle(seed=seed, buffer_size=10)
        assert sorted(int(pair["source"]) for pair in one_pass) == list(range(40))
    assert cleaner.report.counts == {"empty": 1, "duplicate": 2460}  # of one pass
    assert cleaner.report.num_rows == 2501


def test_nothing_left() -> None:
    rows = pairs(("a b c", "d"), ("", "e"))
    with pytest.raises(
        ValueError, match=r"must leave some training pairs, but all went:\s+pairs +2\s+empty +1\s+too_long +1"
    ):
        clean_pairs(rows, Cleaner(CleaningOptions(max_words=1)))
    with pytest.raises(ValueError, match="must leave some training pairs"):
        clean_stream(rows.to_iterable_dataset(), Cleaner(CleaningOptions(max_words=1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap": "all"}, "`cleaning.overlap` must be one of pair, source, target, either"),
        ({"max_length_ratio": 0.5}, "`cleaning.max_length_ratio` must be at least 1"),
        ({"script_share": 0}, "`cleaning.script_share` must be above 0"),
        ({"source_script": ["klingon"]}, "`cleaning.source_script` must name scripts of Unicode.*got 'klingon'"),
    ],
)
def test_wrong_rules(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cleaner(CleaningOptions(**options))

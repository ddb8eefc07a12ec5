"""BPE-dropout against `tokenizers` itself at its two ends, and noise on sources: rates, limits, equal draws."""

import random
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

from hf_custom_decoder.data.bpe_dropout import BpeDropout
from hf_custom_decoder.data.pair_encoding import PairTokenizers, encode_pairs
from hf_custom_decoder.data.token_batches import TokenBatchSampler
from hf_custom_decoder.data.tokenizer_training import train_tokenizer
from hf_custom_decoder.data.varied_pairs import VariedPairs
from hf_custom_decoder.training.recipe_reading import recipe_from_dict

datasets = pytest.importorskip("datasets")

GENERATOR = random.Random(1)
WORDS = [
    "Straße",
    "laufen",
    "laufend",
    "läuft",
    "Katze",
    "Kätzchen",
    "rot",
    "rote",
    "roter",
    "Häuser",
    "Haus,",
    "o.k.",
]
TEXTS = [" ".join(GENERATOR.choices(WORDS, k=GENERATOR.randint(1, 9))) for _ in range(200)]
ODD = ["", " ", "Kätzchen  läuft", "漢字 rot", "</s> rot", "a\u0308 rot", "rot\tHaus"]


def tokenizer_of(kind: str) -> Any:
    return train_tokenizer(TEXTS, kind=kind, vocab_size=300 if kind == "byte-level" else 90, max_length=99)


@pytest.mark.parametrize("kind", ["bpe", "byte-level"])
def test_without_dropout_the_ids_are_those_of_the_tokenizer(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    cut = BpeDropout(tokenizer, 0.0)
    for text in TEXTS + ODD:
        assert cut(text, random.Random(0)) == tokenizer(text)["input_ids"], text


@pytest.mark.parametrize("kind", ["bpe", "byte-level"])
def test_with_nearly_all_merges_dropped_characters_remain(kind: str) -> None:
    """The dropout of `tokenizers` at 1 drops all: the one place where it can be compared."""
    tokenizer = tokenizer_of(kind)
    other = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    other.model.dropout = 1.0
    cut = BpeDropout(tokenizer, 1.0 - 1e-12)
    for text in TEXTS:
        assert cut(text, random.Random(0)) == other.encode(text).ids, text


def test_as_many_pieces_as_the_dropout_of_tokenizers() -> None:
    tokenizer = tokenizer_of("bpe")
    other = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    for rate in (0.1, 0.5):
        other.model.dropout = rate
        cut = BpeDropout(tokenizer, rate)
        ours = sum(len(cut(text, random.Random(f"{rate} {text} {n}"))) for n in range(10) for text in TEXTS)
        theirs = sum(len(other.encode(text).ids) for n in range(10) for text in TEXTS)
        assert ours == pytest.approx(theirs, rel=0.03)
        assert ours > 1.05 * 10 * sum(len(tokenizer(text)["input_ids"]) for text in TEXTS)


def test_every_cut_spells_the_text() -> None:
    tokenizer = tokenizer_of("bpe")
    cut = BpeDropout(tokenizer, 0.4)
    cuts = {tuple(cut("Kätzchen läuft", random.Random(seed))) for seed in range(50)}
    assert len(cuts) > 10
    assert {tokenizer.decode(ids, skip_special_tokens=True) for ids in cuts} == {"Kätzchen läuft"}


@pytest.mark.parametrize("kind", ["bpe", "byte-level"])
def test_a_special_token_is_a_border_of_dropout(kind: str) -> None:
    tokenizer = train_tokenizer(TEXTS, kind=kind, vocab_size=300, max_length=99, extra_tokens=["<BT>"])
    texts = ["<BT> Kätzchen laufend", "Kätzchen<BT>laufend </s><BT>", "<unk>", " <BT> ", "<BT><BT>laufend"]
    plain, cut = BpeDropout(tokenizer, 0.0), BpeDropout(tokenizer, 0.5)
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert plain(text, random.Random(0)) == ids, text
        drawn = [cut(text, random.Random(seed)) for seed in range(40)]
        assert {tokenizer.decode(one) for one in drawn} == {tokenizer.decode(ids)}
        assert all([idx for idx in one if idx < 5] == [idx for idx in ids if idx < 5] for one in drawn)
        assert (len({tuple(one) for one in drawn}) > 5) == ("laufend" in text), text


@pytest.mark.parametrize("flags", [{"lstrip": True}, {"rstrip": True}, {"normalized": True}, {"single_word": True}])
def test_special_tokens_with_flags_are_cut_as_the_tokenizer_cuts_them(flags: dict[str, bool]) -> None:
    tokenizer = train_tokenizer(TEXTS, kind="bpe", vocab_size=300, max_length=99, lowercase=True)
    tokenizer.add_tokens([AddedToken("<BT>", special=True, **{"normalized": False, **flags})])
    cut = BpeDropout(tokenizer, 0.0)
    for text in ("rot <BT> rot", "rot<BT>rot", "<bt> rot", "<BT>", "rot  <BT>  "):
        assert cut(text, random.Random(0)) == tokenizer(text)["input_ids"], text


def test_tokenizers_without_merges() -> None:
    with pytest.raises(ValueError, match="`tokenizer.bpe_dropout` needs a tokenizer made of merges.*type WordLevel"):
        BpeDropout(tokenizer_of("word"), 0.1)
    with pytest.raises(ValueError, match="type Unigram"):
        BpeDropout(tokenizer_of("unigram"), 0.1)


def varied(**options: Any) -> tuple[VariedPairs, Any]:
    content: dict[str, Any] = {"data": {"max_source_length": 150, "max_target_length": 150}, "tokenizer": {}}
    content["training"] = {"max_steps": 1, "batch_size": 4}
    for name, value in options.items():
        section, _, option = name.partition("__")
        content[section][option] = value
    recipe = recipe_from_dict(content)
    assert VariedPairs.are_wanted(recipe)
    tokenizer = tokenizer_of("bpe")
    pairs = datasets.Dataset.from_list(
        [{"source": text, "target": text[::-1], "references": [text[::-1]]} for text in TEXTS]
    )
    tokenizers = PairTokenizers(tokenizer, tokenizer)
    encoded = encode_pairs(
        pairs,
        tokenizers,
        max_source_length=recipe.data.max_source_length,
        max_target_length=recipe.data.max_target_length,
        too_long="drop",
        split="train",
        keep_texts=True,
    )
    return VariedPairs(encoded, tokenizers, recipe), encoded


def test_draws_depend_on_seed_pass_and_row_alone() -> None:
    pairs, encoded = varied(tokenizer__bpe_dropout=0.3, training__source_dropout=0.1)
    size = len(pairs)
    first = [pairs[slot] for slot in range(size)]
    again, _ = varied(tokenizer__bpe_dropout=0.3, training__source_dropout=0.1)
    assert [again[slot] for slot in reversed(range(size))] == first[::-1]
    assert sum(pairs[size + row] != first[row] for row in range(size)) > 0.95 * size
    other, _ = varied(tokenizer__bpe_dropout=0.3, training__source_dropout=0.1, training__seed=1)
    assert sum(other[row] != first[row] for row in range(size)) > 0.95 * size
    assert all(pair["labels"][-1] == pair["input_ids"][-1] == 2 for pair in first)
    tokenizer = tokenizer_of("bpe")
    for row, pair in enumerate(first):
        assert tokenizer.decode(pair["labels"], skip_special_tokens=True) == encoded[row]["target"]


def test_slots_of_a_pass_are_its_own() -> None:
    pairs, _ = varied(tokenizer__bpe_dropout=0.3)
    sampler = TokenBatchSampler(
        pairs.source_lengths,
        pairs.target_lengths,
        num_passes=3,
        max_tokens=400,
        seed=2,
        slots_of_pass=pairs.slots_of_pass,
    )
    assert sorted(slot for batch in sampler for slot in batch)[: 3 * len(pairs)] == list(range(3 * len(pairs)))


def test_limits_hold_under_dropout() -> None:
    limit = max(len(tokenizer_of("bpe")(text)["input_ids"]) for text in TEXTS)
    pairs, encoded = varied(
        tokenizer__bpe_dropout=0.9, data__max_source_length=limit, data__max_target_length=2 * limit
    )
    drawn = [pairs[slot] for slot in range(3 * len(pairs))]
    assert max(len(pair["input_ids"]) for pair in drawn) <= limit
    plain = [drawn[row]["input_ids"] == encoded[row]["input_ids"] for row in range(len(pairs))]
    assert any(plain)  # these would have been too long
    assert not all(plain)


def test_noise_on_sources() -> None:
    pairs, encoded = varied(training__source_dropout=0.2)
    counts = [0, 0]
    for slot in range(20 * len(pairs)):
        pair, plain = pairs[slot], encoded[slot % len(pairs)]
        assert pair["labels"] == plain["labels"]
        assert len(pair["input_ids"]) == len(plain["input_ids"])
        assert pair["input_ids"][-1] == 2
        changed = [(a, b) for a, b in zip(pair["input_ids"], plain["input_ids"], strict=True) if a != b]
        assert all(a == 3 for a, _ in changed)
        counts = [counts[0] + len(changed), counts[1] + len(plain["input_ids"]) - 1]
    assert counts[0] / counts[1] == pytest.approx(0.2, abs=5 * (0.16 / counts[1]) ** 0.5)


def test_deleted_and_shuffled_tokens() -> None:
    pairs, encoded = varied(training__source_deletion=0.5)
    kept = total = 0
    for slot in range(10 * len(pairs)):
        source, plain = pairs[slot]["input_ids"], encoded[slot % len(pairs)]["input_ids"]
        assert source[-1] == 2
        assert len(source) >= 2
        remaining = iter(plain)
        assert all(idx in remaining for idx in source)  # in their order
        if len(plain) > 8:  # in shorter ones a token is often spared
            kept, total = kept + len(source) - 1, total + len(plain) - 1
    assert kept / total == pytest.approx(0.5, abs=5 * (0.25 / total) ** 0.5)
    pairs, encoded = varied(training__source_shuffle=2)
    moved = 0
    for slot in range(len(pairs)):
        source, plain = pairs[slot]["input_ids"], encoded[slot]["input_ids"]
        assert sorted(source) == sorted(plain)
        assert source[-1] == 2
        moved += source != plain
        for place, idx in enumerate(source[:-1]):
            assert idx in plain[max(place - 2, 0) : place + 3]
    assert moved > 0.5 * len(pairs)

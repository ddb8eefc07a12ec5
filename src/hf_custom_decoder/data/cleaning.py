"""Rules that leave pairs out, each counted, with samples of what went."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import regex

from ..training.cleaning_options import CleaningOptions

_CONTROL = regex.compile(r"[\p{Cc}\p{Co}\p{Cn}\p{Cs}\uFFFD--[\t\n\r]]", regex.VERSION1)
_LETTER = regex.compile(r"\p{L}")

Pair = Mapping[str, Any]
Rule = Callable[[str, str], str | None]


@dataclass
class CleaningReport:
    """What cleaning did.

    Attributes:
        num_rows (`int`): Pairs that were looked at.
        num_kept (`int`): Pairs that stayed.
        counts (`dict[str, int]`): Pairs that each rule left out, in the order of the rules; a pair counts for the
            first rule that it breaks.
        samples (`dict[str, list[dict[str, str]]]`): The first of them: source, target and why.
    """

    num_rows: int = 0
    num_kept: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def as_table(self) -> str:
        """Returns a line for each rule, and one for what is left."""
        lines = [("pairs", self.num_rows), *self.counts.items(), ("left", self.num_kept)]
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"  {name:<{width}} {count:>12,}" for name, count in lines)


class Cleaner:
    """Decides pair by pair what stays.

    Rules in their order: empty, control_characters, too_long, length_ratio, source_script, target_script, duplicate,
    overlap. Duplicates are found by 16-byte hashes of what stayed so far: about 110 bytes of memory a pair, so
    that a hundred million pairs take 11 GB. Held-out texts are kept in the same way.

    Args:
        options ([`CleaningOptions`]): The rules.
        held_out (`Iterable[Pair]`, *optional*): Validation and test pairs, for `overlap`.

    Attributes:
        report ([`CleaningReport`]): Of the first pass over the data.

    Raises:
        ValueError: If a script has no such name in Unicode.
    """

    def __init__(self, options: CleaningOptions, held_out: Iterable[Pair] = ()) -> None:
        self._options = options
        self._rules: dict[str, Rule] = {"empty": _empty}
        if options.control_characters:
            self._rules["control_characters"] = _control
        if options.max_characters is not None or options.max_words is not None:
            self._rules["too_long"] = self._too_long
        if options.max_length_ratio is not None:
            self._rules["length_ratio"] = self._ratio
        for side in ("source", "target"):
            scripts = getattr(options, f"{side}_script")
            if scripts:
                self._rules[f"{side}_script"] = _script_rule(side, scripts, options.script_share)
        if options.duplicates:
            self._rules["duplicate"] = self._duplicate
        if options.overlap is not None:
            self._held_out = {key for pair in held_out for key in self._overlap_keys(pair)}
            self._rules["overlap"] = self._overlap
        self.forget()

    def forget(self) -> None:
        """Begins again: nothing seen, nothing counted."""
        self._seen: set[bytes] = set()
        self._counts = True
        self.report = CleaningReport(counts=dict.fromkeys(self._rules, 0), samples={name: [] for name in self._rules})

    def keeps(self, pair: Pair) -> bool:
        """Returns whether a pair stays, and counts it."""
        source, target = str(pair["source"]), str(pair["target"])
        broken = reason = None
        for name, rule in self._rules.items():
            reason = rule(source, target)
            if reason is not None:
                broken = name
                break
        if self._counts:
            self.report.num_rows += 1
            self.report.num_kept += broken is None
            if broken is not None:
                self.report.counts[broken] += 1
                if len(self.report.samples[broken]) < self._options.samples:
                    row = {"source": source[:500], "target": target[:500], "why": reason or ""}
                    self.report.samples[broken].append(row)
        if broken is None and self._options.duplicates:
            self._seen.add(_digest(source, target))
        return broken is None

    def begin_pass(self) -> None:
        """Forgets the pairs that were seen; from the second pass on nothing is counted."""
        self._counts = self.report.num_rows == 0
        self._seen.clear()

    def _too_long(self, source: str, target: str) -> str | None:
        for side, text in (("source", source), ("target", target)):
            if self._options.max_characters is not None and len(text) > self._options.max_characters:
                return f"{side} has {len(text)} characters"
            if self._options.max_words is not None and (words := len(text.split())) > self._options.max_words:
                return f"{side} has {words} words"
        return None

    def _ratio(self, source: str, target: str) -> str | None:
        shorter, longer = sorted((len(source.strip()), len(target.strip())))
        most = self._options.max_length_ratio or 0.0
        return f"{longer} characters for {shorter}" if longer > most * shorter else None

    def _duplicate(self, source: str, target: str) -> str | None:
        return "the same pair came before" if _digest(source, target) in self._seen else None

    def _overlap(self, source: str, target: str) -> str | None:
        keys = self._overlap_keys({"source": source, "target": target})
        return "it is in validation or test data" if any(key in self._held_out for key in keys) else None

    def _overlap_keys(self, pair: Pair) -> list[bytes]:
        keys = []
        for target in pair.get("references") or [pair["target"]]:
            if self._options.overlap == "pair":
                keys.append(_digest(pair["source"], target))
            if self._options.overlap in ("target", "either"):
                keys.append(_digest("target", target))
        if self._options.overlap in ("source", "either"):
            keys.append(_digest("source", pair["source"]))
        return keys


def clean_pairs(pairs: Any, cleaner: Cleaner) -> Any:
    """Leaves out what a cleaner does not keep.

    Args:
        pairs (`datasets.Dataset`): From [`read_pairs`], with blank ones.
        cleaner ([`Cleaner`]): New; its report is filled.

    Raises:
        ValueError: If nothing is left; the message says which rule took how much.
    """
    kept = [idx for idx, pair in enumerate(pairs) if cleaner.keeps(pair)]
    if not kept:
        raise ValueError(f"`cleaning` must leave some training pairs, but all went:\n{cleaner.report.as_table()}")
    return pairs.select(kept)


def clean_stream(pairs: Any, cleaner: Cleaner) -> Any:
    """As [`clean_pairs`] for a `datasets.IterableDataset`: rows are looked at when they are read, in every pass anew.

    Raises:
        ValueError: If nothing is left; then the whole stream has been read.
    """

    def clean(rows: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        if indices[0] == 0:
            cleaner.begin_pass()
        names = list(rows)
        kept = [
            values
            for values in zip(*rows.values(), strict=True)
            if cleaner.keeps(dict(zip(names, values, strict=True)))
        ]
        return {name: [values[column] for values in kept] for column, name in enumerate(names)}

    cleaned = pairs.map(clean, batched=True, with_indices=True)
    if next(iter(cleaned), None) is None:
        raise ValueError(f"`cleaning` must leave some training pairs, but all went:\n{cleaner.report.as_table()}")
    cleaner.forget()  # that look was no pass
    return cleaned


def _empty(source: str, target: str) -> str | None:
    sides = [side for side, text in (("source", source), ("target", target)) if not text.strip()]
    return f"{' and '.join(sides)} without text" if sides else None


def _control(source: str, target: str) -> str | None:
    for side, text in (("source", source), ("target", target)):
        found = _CONTROL.search(text)
        if found:
            return f"{side} has U+{ord(found.group()):04X}"
    return None


def _script_rule(side: str, scripts: list[str], least: float) -> Rule:
    parts = []
    for script in scripts:
        try:
            regex.compile(rf"\p{{Script={script}}}")
        except regex.error as error:
            raise ValueError(
                f"`cleaning.{side}_script` must name scripts of Unicode such as latin, cyrillic, greek, arabic, han, "
                f"hiragana or devanagari, got {script!r}."
            ) from error
        parts.append(rf"\p{{Script={script}}}")
    wanted = regex.compile(rf"[\p{{L}}&&[{''.join(parts)}]]", regex.VERSION1)

    def rule(source: str, target: str) -> str | None:
        text = source if side == "source" else target
        letters = len(_LETTER.findall(text))
        found = len(wanted.findall(text))
        return f"{found} of {letters} letters are {' or '.join(scripts)}" if found < least * letters else None

    return rule


def _digest(*texts: str) -> bytes:
    joined = "\x00".join(text.strip() for text in texts)
    return blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=16).digest()

"""Outputs that look broken: copied from the source, caught in a loop, or far too short."""

from collections.abc import Sequence

FLAGS = ("copied", "looping", "too_short")
LOOP_TIMES = 4
"""How often a phrase stands directly after itself in a loop."""
LOOP_WORDS = 8
"""Longest phrase of a loop, in words (of a text without blanks: in characters)."""
LOOP_CHARACTERS = 12
"""Shortest loop of a text without blanks."""
SHORT_SHARE = 1 / 3
"""Of the shortest reference's characters."""
SHORT_CHARACTERS = 10
"""References shorter than this say nothing about a short output."""


def output_flags(source: str, output: str, references: Sequence[str]) -> list[str]:
    """Says what looks broken in one output.

    - "copied": the output is the source, but no reference is; case and blanks do not count.
    - "looping": a phrase of at most eight words stands four times or more in a row, and in no reference so. In a text
      without blanks the same of characters, twelve at least.
    - "too_short": nothing was written, or less than a third of the shortest reference, counted in characters without
      blanks; a reference of fewer than ten says nothing.

    Args:
        source (`str`): What the model read.
        output (`str`): What it wrote.
        references (`Sequence[str]`): What is right.

    Returns:
        `list[str]`: Any of `FLAGS`; mostly none.
    """
    found = []
    written = _plain(output)
    if written and written == _plain(source) and written not in map(_plain, references):
        found.append("copied")
    if has_loop(output) and not any(map(has_loop, references)):
        found.append("looping")
    shortest = min((_num_characters(text) for text in references), default=0)
    is_short = shortest >= SHORT_CHARACTERS and _num_characters(output) < SHORT_SHARE * shortest
    if shortest and (not written or is_short):
        found.append("too_short")
    return found


def flagged_rows(flags: Sequence[Sequence[str]]) -> dict[str, list[int]]:
    """Line numbers, from 1, of the outputs with each flag."""
    return {name: [row for row, found in enumerate(flags, start=1) if name in found] for name in FLAGS}


def has_loop(text: str) -> bool:
    """Whether a phrase stands four times in a row."""
    words = text.split()
    units, shortest = (words, 1) if len(words) > 1 else (list(text.strip()), LOOP_CHARACTERS)
    for size in range(1, LOOP_WORDS + 1):
        needed = max(size * LOOP_TIMES, shortest) - size
        run = 0
        for place in range(size, len(units)):
            run = run + 1 if units[place] == units[place - size] else 0
            if run >= needed:
                return True
    return False


def _num_characters(text: str) -> int:
    return len("".join(text.split()))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())

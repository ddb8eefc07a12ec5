"""Shapes that are measured."""

from dataclasses import dataclass

PAD, START, END = 0, 1, 2
FIRST_WORD = 3
"""Token ids below it are special."""

MAX_POSITIONS = 2048


@dataclass(frozen=True)
class Size:
    """A Transformer of as many encoder as decoder layers; `ffn` is the inner width of the feed-forward blocks."""

    name: str
    width: int
    ffn: int
    layers: int
    heads: int
    vocab: int

    def describe(self) -> str:
        """One line for the results."""
        return (
            f"{self.name}: width {self.width}, feed-forward {self.ffn}, {self.layers}+{self.layers} layers, "
            f"{self.heads} heads, vocabulary {self.vocab:,}"
        )


TINY = Size("tiny", width=256, ffn=1024, layers=3, heads=4, vocab=8_000)
BASE = Size("base", width=512, ffn=2048, layers=6, heads=8, vocab=32_000)
LARGE = Size("large", width=1024, ffn=4096, layers=12, heads=16, vocab=32_000)

TRIAL_TINY = Size("tiny", width=32, ffn=64, layers=1, heads=2, vocab=8_192)
TRIAL_BASE = Size("base", width=32, ffn=64, layers=1, heads=2, vocab=8_192)
"""What `--trial` puts in the place of both: every measurement runs through in seconds, its figures mean nothing. The
vocabulary is the smallest whose projection can have 8-bit weights."""

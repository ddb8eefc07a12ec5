"""Figures of a device: speed in wall time, share of the card's peak, memory."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from .interleaved import Race
from .results import number


@dataclass(frozen=True)
class DeviceFigure:
    """
    One contestant of one measurement.

    Args:
        name (`str`): What was measured.
        contestant (`str`): Who.
        tokens_per_second (`float`): Real tokens a second of wall time in the median round.
        ratio, lower, upper (`float`, *optional*): How many times as fast ours is, median and quartiles over the
            rounds; None for ours itself.
        peak_share (`float`, *optional*): Part of the card's bf16 peak, 0 to 1; None where it is not known.
        peak_mib (`float`, *optional*): Greatest memory on the card with weights, gradients and optimizer, in MiB; None
            on a CPU.
    """

    name: str
    contestant: str
    tokens_per_second: float
    ratio: float | None = None
    lower: float | None = None
    upper: float | None = None
    peak_share: float | None = None
    peak_mib: float | None = None

    def cells(self) -> list[str]:
        """Text of each column; empty where there is nothing."""
        is_compared = self.ratio is not None
        return [
            self.name,
            self.contestant,
            number(self.tokens_per_second),
            f"{self.ratio:.2f} [{self.lower:.2f}, {self.upper:.2f}]" if is_compared else "",
            "" if self.peak_share is None else f"{self.peak_share:.1%}",
            "" if self.peak_mib is None else number(self.peak_mib),
        ]

    def line(self) -> str:
        """For the screen."""
        name, contestant, speed, ratio, share, memory = self.cells()
        parts = [f"{name}, {contestant}: {speed} tokens/s"]
        parts += [f"ours is {ratio} times as fast"] if ratio else []
        parts += [f"{share} of the bf16 peak"] if share else []
        parts += [f"{memory} MiB"] if memory else []
        return ", ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """For a state file; `DeviceFigure(**...)` reads it back."""
        return asdict(self)


def device_figures(
    name: str,
    result: Race,
    compared: dict[str, str],
    *,
    memory: dict[str, float | None],
    flops: int | None = None,
    peak: float | None = None,
) -> list[DeviceFigure]:
    """
    One figure a contestant of a race.

    Args:
        compared (`dict[str, str]`): By contestant, which of ours it is compared with; ours are no keys.
        memory (`dict[str, float | None]`): Peak by contestant, in MiB.
        flops (`int`, *optional*): Of one run. peak (`float`, *optional*): The card's FLOPs a second.
    """
    figures = []
    for contestant in result.seconds:
        speed = result.tokens_per_second(contestant)
        spread = result.speedup(compared[contestant], contestant) if contestant in compared else None
        figures.append(
            DeviceFigure(
                name,
                contestant,
                speed,
                ratio=None if spread is None else spread.median,
                lower=None if spread is None else spread.lower,
                upper=None if spread is None else spread.upper,
                peak_share=None if flops is None or peak is None else flops * speed / result.tokens / peak,
                peak_mib=memory[contestant],
            )
        )
    return figures


def device_table(figures: Iterable[DeviceFigure]) -> str:
    """A Markdown table of figures."""
    rows = ["| what | who | tokens/s | ours is faster [quartiles] | share of bf16 peak | peak memory, MiB |"]
    rows.append("|---" * 6 + "|")
    rows += ["| " + " | ".join(figure.cells()) + " |" for figure in figures]
    return "\n".join(rows) + "\n"

"""Pictures of the results; needs matplotlib, which the extra `benchmarks` brings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_custom_decoder.atomic_files import temporary_name

from .results import Figure

PLOTS = Path(__file__).parent / "plots"


def new_picture(width: float, height: float) -> Any:
    """
    An empty picture of matplotlib, in inches.

    Raises:
        ImportError: Without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Picture
    except ImportError as error:
        raise ImportError(
            "Plots need matplotlib, which is not installed. Install it (`pip install matplotlib`, or the extra "
            "`benchmarks`)."
        ) from error
    picture = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(picture)
    return picture


def plot_curves(
    path: Path, curves: Mapping[str, tuple[list[float], list[float]]], *, title: str, x_label: str, y_label: str
) -> None:
    """
    One line for each curve, as PNG.

    Args:
        path (`Path`): The file.
        curves: By name, x and y values.

    Raises:
        ImportError: Without matplotlib.
    """
    figure = new_picture(7, 4)
    axes = figure.subplots()
    for name, (x_values, y_values) in curves.items():
        axes.plot(x_values, y_values, label=name)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    with temporary_name(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def plot_ratios(path: Path, figures: Sequence[Figure], *, title: str) -> None:
    """
    One bar for each figure, its quartiles and its target, as PNG. The axis is logarithmic: twice as fast lies as far
    from 1 as half as fast.

    Raises:
        ImportError: Without matplotlib.
    """
    picture = new_picture(9, 1.2 + 0.28 * len(figures))
    axes = picture.subplots()
    places = range(len(figures))
    ratios = [one.ratio for one in figures]
    spread = [[one.ratio - one.lower for one in figures], [one.upper - one.ratio for one in figures]]
    colours = ["tab:orange" if one.at_most or one.unit == "MiB" else "tab:blue" for one in figures]
    axes.barh(places, [ratio - 1.0 for ratio in ratios], left=1.0, color=colours, alpha=0.7, xerr=spread)
    targets = [(place, one.target) for place, one in enumerate(figures) if one.target is not None]
    axes.plot([target for _, target in targets], [place for place, _ in targets], "|", color="black", markersize=12)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(places, [label_of(one) for one in figures], fontsize=7)
    axes.set_ylim(len(figures) - 0.4, -0.6)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("speed (orange: memory) of ours as a multiple; upright: target", fontsize=8)
    axes.grid(alpha=0.3, axis="x")
    with temporary_name(path) as temporary:
        picture.savefig(temporary, format="png", dpi=120)


def label_of(figure: Figure) -> str:
    """What was measured, beside whom, and how many tokens were generated."""
    tokens = figure.note.split(",")[0]
    tokens = f", {tokens}" if tokens.endswith("new tokens") else ""
    return f"{figure.name}{tokens} (beside {figure.reference_name})"

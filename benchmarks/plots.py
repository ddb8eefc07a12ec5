"""Pictures of the results; needs matplotlib, which the extra `benchmarks` brings."""

from collections.abc import Mapping
from pathlib import Path

from hf_custom_decoder.atomic_files import temporary_name

PLOTS = Path(__file__).parent / "plots"


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
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Plots need matplotlib, which is not installed. Install it (`pip install matplotlib`, or the extra "
            "`benchmarks`)."
        ) from error
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, (x_values, y_values) in curves.items():
        axes.plot(x_values, y_values, label=name)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    with temporary_name(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)

"""The quickstart with every decoder in turn, each in its own folder, and one table of all."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

from ..training.pronunciation_decoders import DECODER_RECIPES
from ..training.work_folder import holds_result, is_empty_folder
from .comparison_table import FIGURES_FILE, TABLE_FILE, describe_comparison, format_comparison, write_comparison
from .quickstart_results import QuickstartResults
from .quickstart_settings import QuickstartSettings, Report
from .run_folder import RESULTS_FILE, keep_settings
from .run_folder import SETTINGS_FILE as RUN_SETTINGS_FILE
from .run_quickstart import check_packages, run_quickstart

SETTINGS_FILE = "comparison_settings.json"


def run_comparison(settings: QuickstartSettings, report: Report) -> list[QuickstartResults]:
    """Runs [`run_quickstart`] with each of [`DECODER_RECIPES`] on the same words with the same budget.

    Decoders that are finished are not trained again; one that was interrupted goes on where it stopped.

    Args:
        settings ([`QuickstartSettings`]): What the user has chosen; `decoder` is "all".
        report (`Report`): Receives messages as the work goes on. Progress bars go to stderr.

    Returns:
        `list[QuickstartResults]`: One a decoder; their table is also in the folder, as "comparison.md" and
        "comparison.json".

    Raises:
        ImportError: If a package of the extra `quickstart` is missing.
        KeyboardInterrupt: After Ctrl-C; what was done is kept.
        RuntimeError: If a finished folder does not load, or answers differently, in a fresh process.
        ValueError: If the output folder is in use for something else or for a comparison with other settings.
    """
    check_packages()
    folder = settings.folder
    _open(folder, settings)
    waiting = [name for name in DECODER_RECIPES if not holds_result(folder / name, RESULTS_FILE)]
    finished = {name: _stored_results(folder / name) for name in DECODER_RECIPES if name not in waiting}
    if finished:
        report(f"Finished before: {', '.join(finished)}")
    total = len(DECODER_RECIPES)
    try:
        while waiting:
            name = waiting[0]
            left = describe_time_left(settings, list(finished.values()), len(waiting))
            report(f"\n=== {name}: {len(finished) + 1} of {total}, {left} ===")
            single = replace(settings, decoder=name, output=folder / name, fresh=False)
            finished[name] = run_quickstart(single, report)
            waiting.pop(0)
    except KeyboardInterrupt:
        report(f"\n{len(finished)} of {total} decoders are finished.")
        raise
    runs = [finished[name] for name in DECODER_RECIPES]
    write_comparison(folder, runs, settings.comparison_fingerprint())
    report(f"\n{format_comparison(runs)}\n\n{describe_comparison(runs)}\n")
    report(f"Written to {folder / TABLE_FILE} and {folder / FIGURES_FILE}")
    return runs


def describe_time_left(settings: QuickstartSettings, finished: Sequence[QuickstartResults], num_waiting: int) -> str:
    """Estimates from the budget and from finished decoders how long the waiting ones take, interruptions left out.

    Args:
        settings ([`QuickstartSettings`]): The budget of each.
        finished (`Sequence[QuickstartResults]`): Those that are done.
        num_waiting (`int`): How many are not.

    Returns:
        `str`: "about 12 minutes left"; without a budget in minutes and before the first is done, that it is unknown.
    """
    if settings.max_steps is None:
        training = 60.0 * settings.minutes
    elif finished:
        training = mean(results.training.seconds for results in finished)
    else:
        return "time left unknown until one is finished"
    around = [max(results.table_seconds - results.training.seconds, 0.0) for results in finished]
    seconds = num_waiting * (training + (mean(around) if around else 0.0))
    minutes = max(1, round(seconds / 60))
    return f"about {minutes} {'minute' if minutes == 1 else 'minutes'} left"


def _open(folder: Path, settings: QuickstartSettings) -> None:
    """Makes the folder that of this comparison, or refuses it."""
    path = folder / SETTINGS_FILE
    if folder.exists() and not path.is_file() and not is_empty_folder(folder):
        raise ValueError(
            f"`output` must be a new folder or that of an earlier run with `--decoder all`, but {folder} holds other "
            "files. Choose another folder."
        )
    if settings.fresh and path.is_file():
        _forget(folder)
    keep_settings(path, settings.comparison_fingerprint())


def _forget(folder: Path) -> None:
    """Removes what an earlier comparison has left: results, unfinished runs, the table and, last, its settings."""
    for name in DECODER_RECIPES:
        if holds_result(folder / name, RESULTS_FILE):
            shutil.rmtree(folder / name)
        if (folder / f"{name}.training" / RUN_SETTINGS_FILE).is_file():
            shutil.rmtree(folder / f"{name}.training")
    for name in (TABLE_FILE, FIGURES_FILE, SETTINGS_FILE):
        (folder / name).unlink(missing_ok=True)


def _stored_results(folder: Path) -> QuickstartResults:
    return QuickstartResults.from_dict(json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8")))

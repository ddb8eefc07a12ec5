"""Pytest plugin: a CI run with a skip that nobody has permitted fails.

A test that is skipped by mistake (an extra that is no longer installed, a renamed function in a newer library) looks
like a test that passes. With `CI=true` in the environment every skip must have a reason that matches a line of
`permitted_skips.txt`; other skips are listed at the end of the run, which then exits with status 1. Without `CI` the
plugin does nothing.

Under pytest-xdist the workers send their reports to the controlling process, so only that one counts.
"""

import os
from collections import defaultdict
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

PERMITTED_SKIPS = Path(__file__).with_name("permitted_skips.txt")


def read_patterns(path: Path) -> list[str]:
    """Returns the patterns of a list of permitted reasons: its lines without comments and blank lines."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Returns the reason that a skipped test or module gave."""
    longrepr = report.longrepr
    message = longrepr[2] if isinstance(longrepr, tuple | list) else str(longrepr)
    return message.removeprefix("Skipped: ")


class SkipGuard:
    """Collects the skips that match none of `patterns` and fails the session if there are any."""

    def __init__(self, patterns: list[str]) -> None:
        self._patterns = patterns
        self._refused: dict[str, list[str]] = defaultdict(list)  # reason -> node ids

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not hasattr(report, "wasxfail"):  # an expected failure is reported as skipped too
            self._check(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._check(report)

    def _check(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped:
            return
        reason = skip_reason(report)
        if not any(fnmatchcase(reason, pattern) for pattern in self._patterns):
            self._refused[reason].append(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._refused and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._refused:
            return
        terminalreporter.section("skips that are not permitted in CI", red=True, bold=True)
        for reason, nodeids in sorted(self._refused.items()):
            terminalreporter.line(f"{reason} ({len(nodeids)})")
            for nodeid in sorted(nodeids):
                terminalreporter.line(f"    {nodeid}")
        terminalreporter.line(f"Mend them, or add the reason to {PERMITTED_SKIPS.name} with a line saying why.")


def pytest_configure(config: pytest.Config) -> None:
    is_ci = os.environ.get("CI", "").lower() in ("1", "true")
    is_worker = hasattr(config, "workerinput")
    if is_ci and not is_worker:
        config.pluginmanager.register(SkipGuard(read_patterns(PERMITTED_SKIPS)), "skip-guard")

"""The skip guard, run on small suites of its own."""

from pathlib import Path

import pytest

from tests import skip_guard

pytest_plugins = ["pytester"]

SKIPPED_FOR = """
    import pytest

    def test_runs():
        pass

    @pytest.mark.skip(reason="{reason}")
    def test_skipped():
        pass
"""
SECTION = "*skips that are not permitted in CI*"


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An empty folder with a copy of the guard, a list that permits "needs a moon*", and CI set."""
    pytester.makepyfile(skip_guard=Path(skip_guard.__file__).read_text(encoding="utf-8"))
    pytester.maketxtfile(permitted_skips="# there is none in CI\nneeds a moon*\n")
    pytester.syspathinsert()
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)  # the suite is no worker, even where this test runs in one
    return pytester


def run(suite: pytest.Pytester, workers: int = 0) -> pytest.RunResult:
    if workers:
        return suite.runpytest_subprocess("-p", "skip_guard", "-p", "xdist.plugin", "-n", str(workers))
    return suite.runpytest_inprocess("-p", "skip_guard")


PROCESSES = pytest.mark.parametrize("workers", [0, 2])


@PROCESSES
def test_a_permitted_skip_passes(suite: pytest.Pytester, workers: int) -> None:
    suite.makepyfile(SKIPPED_FOR.format(reason="needs a moon or two"))
    result = run(suite, workers)
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.no_fnmatch_line(SECTION)


@PROCESSES
def test_any_other_skip_fails_and_is_listed(suite: pytest.Pytester, workers: int) -> None:
    suite.makepyfile(SKIPPED_FOR.format(reason="no time, needs a moon"))
    result = run(suite, workers)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines([SECTION, "no time, needs a moon (1)", "*::test_skipped", "Mend them*"])


@PROCESSES
def test_a_skipped_module_fails(suite: pytest.Pytester, workers: int) -> None:
    suite.makepyfile(
        test_absent="import pytest\npytest.importorskip('a_library_that_is_not_there')\n",
        test_present="def test_runs():\n    pass\n",
    )
    result = run(suite, workers)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([SECTION, "*a_library_that_is_not_there*(1)", "*test_absent.py"])


def test_a_skip_while_the_test_runs_fails(suite: pytest.Pytester) -> None:
    suite.makepyfile("import pytest\n\ndef test_gives_up():\n    pytest.skip('tired')\n")
    result = run(suite)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([SECTION, "tired (1)"])


@PROCESSES
def test_an_expected_failure_is_no_skip(suite: pytest.Pytester, workers: int) -> None:
    suite.makepyfile("import pytest\n\n@pytest.mark.xfail(reason='upstream')\ndef test_broken():\n    assert False\n")
    result = run(suite, workers)
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(xfailed=1)


def test_a_failure_keeps_its_exit_status(suite: pytest.Pytester) -> None:
    suite.makepyfile(SKIPPED_FOR.format(reason="tired") + "\n    def test_fails():\n        assert False\n")
    result = run(suite)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, skipped=1, failed=1)
    result.stdout.fnmatch_lines([SECTION])


@pytest.mark.parametrize("value", [None, "", "false"])
def test_nothing_happens_outside_ci(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("CI")
    else:
        monkeypatch.setenv("CI", value)
    suite.makepyfile(SKIPPED_FOR.format(reason="tired"))
    result = run(suite)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line(SECTION)


def test_the_real_list_has_a_reason_above_every_pattern() -> None:
    lines = skip_guard.PERMITTED_SKIPS.read_text(encoding="utf-8").splitlines()
    patterns = skip_guard.read_patterns(skip_guard.PERMITTED_SKIPS)
    assert patterns
    for pattern in patterns:
        assert lines[lines.index(pattern) - 1].startswith("#"), f"no comment above {pattern!r}"
        assert pattern.strip("*? "), f"{pattern!r} permits everything"

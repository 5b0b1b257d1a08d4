"""CI's second run: of failed tests alone, and of nothing that has failed otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import again
import pytest
from patience import PROGRAM

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs pytest, as CI does unless it is told not to, on a file with this text and returns how it ended."""

    def run_pytest(text: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_it.py").write_text(f"import os, pathlib, sys\n{text}")
        # What is in the file takes no plugin, and they take long to load.
        variables["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        paths = [str(Path(again.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), again.AGAIN: "1"} | variables
        command = [sys.executable, "-m", "pytest", "-p", "again", *arguments]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=PROGRAM, check=False
        )

    return run_pytest


FLAKY = """
def test_fine():
    pass
def test_flaky():
    seen = pathlib.Path("seen")
    first = not seen.exists()
    seen.touch()
    assert not first, "the first of two"
"""

BROKEN = """
def test_broken():
    assert False, "as always"
"""


def marked(run: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in run.stdout.splitlines() if line.startswith(again.MARK)]


def test_what_fails_once_is_run_again_alone_and_told_at_the_end(run: Run) -> None:
    ended = run(FLAKY)
    assert ended.returncode == 0, ended.stdout
    assert "1 failed, 1 passed" in ended.stdout
    assert "1 passed, 1 deselected" in ended.stdout
    head, *tests = marked(ended)
    assert "1 on " in head
    assert "all passed" in head
    assert tests == [f"{again.MARK}    test_it.py::test_flaky: call: AssertionError: the first of two"]


def test_what_fails_twice_has_failed(run: Run) -> None:
    ended = run(FLAKY + BROKEN)
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED
    assert "1 failed, 1 passed, 1 deselected" in ended.stdout
    assert len(marked(ended)) == 3
    assert ended.stdout.count("test session starts") == 2, "and there is no third time"


IN_A_FIXTURE = f"""
import pytest
{FLAKY.replace("def test_flaky", "@pytest.fixture" + chr(10) + "def flaky")}
def test_it(flaky):
    pass
"""


def test_a_failure_beside_the_test_itself_counts(run: Run) -> None:
    ended = run(IN_A_FIXTURE)
    assert ended.returncode == 0
    assert marked(ended)[1:] == [f"{again.MARK}    test_it.py::test_it: setup: AssertionError: the first of two"]


@pytest.mark.parametrize(
    ("text", "arguments", "code"),
    [
        pytest.param("raise RuntimeError", [], pytest.ExitCode.INTERRUPTED, id="an error before the first test"),
        pytest.param("", [], pytest.ExitCode.NO_TESTS_COLLECTED, id="no test"),
        pytest.param(FLAKY, ["--no-such-option"], pytest.ExitCode.USAGE_ERROR, id="a wrong argument"),
        pytest.param(FLAKY + "def test_end():\n    os._exit(1)", [], 1, id="the process ends"),
        pytest.param(FLAKY, ["--maxfail=1"], pytest.ExitCode.TESTS_FAILED, id="tests that were not reached"),
    ],
)
def test_nothing_else_is_run_again(run: Run, text: str, arguments: list[str], code: int) -> None:
    ended = run(text, *arguments)
    assert ended.returncode == code
    assert ended.stdout.count("test session starts") <= 1
    assert marked(ended) == []


def test_a_test_that_is_not_there_the_second_time_has_failed(run: Run) -> None:
    ended = run(FLAKY + "if pathlib.Path('seen').exists():\n    del test_flaky")
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR


def test_nothing_is_run_again_unasked(run: Run) -> None:
    ended = run(FLAKY, **{again.AGAIN: ""})
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED
    assert ended.stdout.count("test session starts") == 1
    assert marked(ended) == []

"""Every backend plays the one scenario, and the completions are those of the committed trace."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import scenario
from patience import PROGRAM

from unio.backends.common import accelerator

TRACE = Path(__file__).parent / "trace.txt"


def expected() -> dict[str, list[str]]:
    """The lines of each step."""
    lines = TRACE.read_text(encoding="utf-8").splitlines()
    return {name: list(group) for name, group in itertools.groupby(lines, key=lambda line: line.split()[0])}


@pytest.mark.parametrize("step", scenario.STEPS)
def test_each_backend_gives_the_same_trace(backend: str, step: str) -> None:
    assert scenario.play(backend, [step]) == expected()[step]


def test_the_trace_has_each_step_and_no_other() -> None:
    assert list(expected()) == list(scenario.STEPS)


def played(*, with_c: bool) -> list[str]:
    """The trace of the whole scenario on epoll, in a process of its own that may or may not use unio._core."""
    folders = [str(TRACE.parent), str(TRACE.parent.parent)]
    lines = [
        "import sys",
        f"sys.path[:0] = {folders}",
        "" if with_c else "sys.modules['unio._core'] = None  # an import of it fails",
        "import scenario, unio.backends.common.accelerator",
        f"assert (unio.backends.common.accelerator.core is not None) is {with_c}",
        "print(*scenario.play('epoll', []), sep=chr(10))",
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(accelerator.core is None, reason="unio._core was not compiled, so that there is but one form")
def test_the_c_part_and_the_python_that_it_stands_for_give_the_same_trace() -> None:
    assert played(with_c=True) == played(with_c=False) == TRACE.read_text(encoding="utf-8").splitlines()

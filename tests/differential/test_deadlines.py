"""The structure of deadlines keeps to its model, and says the same in C as in Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import deadlines
import pytest
from patience import PROGRAM

from unio.backends.common import accelerator

SEEDS = range(10)


def test_deadlines_come_in_the_order_of_their_time_however_they_were_moved() -> None:
    assert deadlines.play(SEEDS)


def played_in_python() -> list[str]:
    folder = Path(__file__).parent
    lines = [
        "import sys",
        f"sys.path[:0] = {[str(folder)]}",
        "sys.modules['unio._core'] = None  # an import of it fails",
        "import deadlines",
        f"print(*deadlines.play({SEEDS}), sep=chr(10))",
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(accelerator.core is None, reason="unio._core was not compiled, so that there is but one form")
def test_deadlines_are_the_same_in_c_and_in_python() -> None:
    assert deadlines.play(SEEDS) == played_in_python()

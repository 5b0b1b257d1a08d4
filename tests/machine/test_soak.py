"""A short run of the soak, which goes on for as long as it is told to when it is run by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from patience import PROGRAM

SOAK = Path(__file__).parents[1] / "soak.py"


@pytest.mark.clause("P2", "S1", "X1", "X3", "A3")
@pytest.mark.parametrize("threads", [1, 4])
def test_nothing_is_lost_doubled_or_left_over(backend: str, threads: int) -> None:
    arguments = ["--operations", "20000", "--threads", str(threads), "--backend", backend]
    ran = subprocess.run(
        [sys.executable, SOAK, *arguments], capture_output=True, text=True, timeout=PROGRAM, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr

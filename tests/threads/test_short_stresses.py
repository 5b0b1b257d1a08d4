"""A short run of each stress, which goes on for as long as it is told to when it is run by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from patience import PROGRAM
from scarcity import WHY_NOT

STRESS = Path(__file__).parents[1] / "stress.py"


def stress(what: str, backend: str) -> None:
    arguments = [what, "--seconds", "3", "--backend", backend]
    ran = subprocess.run(
        [sys.executable, STRESS, *arguments], capture_output=True, text=True, timeout=PROGRAM, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.clause("P2", "S1", "X1", "X3", "P11")
def test_finalizers_that_come_in_the_middle_of_many_threads_work_lose_and_double_nothing(backend: str) -> None:
    stress("finalizers", backend)


@pytest.mark.clause("S1", "S11")
def test_whatever_finds_no_memory_nothing_that_was_moved_is_lost_and_nothing_is_left_over(backend: str) -> None:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    stress("memory", backend)


@pytest.mark.clause("P8", "P11", "S1")
def test_ports_that_only_calls_and_methods_hold_do_all_that_is_asked_and_are_gone_afterwards(backend: str) -> None:
    stress("held", backend)

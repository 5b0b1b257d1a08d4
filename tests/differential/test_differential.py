"""Every backend plays the one scenario, and the completions are those of the committed trace."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import scenario

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

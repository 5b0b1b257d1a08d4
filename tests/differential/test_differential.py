"""Every backend plays the one scenario, and the completions are those of the committed trace."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import scenario
import wine

TRACE = Path(__file__).parent / "trace.txt"

ROWS: dict[str, str] = {}
"""The steps that meet a difference of Wine's from Windows, with the row of the table that says which."""


def expected() -> dict[str, list[str]]:
    lines = TRACE.read_text().splitlines()
    return {name: list(group) for name, group in itertools.groupby(lines, key=lambda line: line.split()[0])}


@pytest.mark.parametrize(
    "step", [pytest.param(name, marks=[wine.wine_row(ROWS[name])] if name in ROWS else []) for name in scenario.STEPS]
)
def test_each_backend_gives_the_same_trace(backend: str, step: str) -> None:
    assert scenario.play(backend, [step]) == expected()[step]


def test_the_trace_has_each_step_and_no_other() -> None:
    assert list(expected()) == list(scenario.STEPS)

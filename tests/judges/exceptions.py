"""Which tests of others fail on this loop, and why: each with what becomes of it on asyncio's loop and on uvloop's.

A file of TOML for each suite has them. What fails and is not there is a fault, and so is what is there and passes.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from supervise import Result

EXPECTED = Path(__file__).parent / "expected"


def read(path: Path) -> list[dict[str, Any]]:
    exceptions: list[dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))["exception"]
    return exceptions


def excepted(suite: str, backend: str, python: str) -> dict[str, str]:
    """The reason of each test of a suite that is expected to fail on a backend and a version of Python, as 3.13."""
    path = EXPECTED / f"{suite}.toml"
    if not path.exists():
        return {}
    reasons = {}
    for each in read(path):
        if backend in each.get("backends", [backend]) and python in each.get("pythons", [python]):
            reasons |= dict.fromkeys(each["tests"], each["why"])
    return reasons


def faults(results: Mapping[str, Result], reasons: Mapping[str, str]) -> Iterator[str]:
    """What is not as expected, each as a line; of tests that a version of Python doesn't have nothing is expected."""
    for test, result in results.items():
        if result.good and result.outcome == "passed" and test in reasons:
            yield f"{test} passes, and is an exception: {reasons[test]}"
        elif not result.good and test not in reasons:
            last = result.detail.strip().splitlines()[-1:]
            yield f"{test} {result.outcome}: {last[0][:200] if last else ''}"

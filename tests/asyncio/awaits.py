"""Waits of tests that run on a loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object]) -> None:
    """Return when something holds that other parts of the loop, or another process, bring about."""
    while not condition():  # noqa: ASYNC110 - nobody is told
        await asyncio.sleep(0.0005)


async def settled() -> None:
    """Return when all that is ready by now has been told of."""
    for _ in range(5):
        await asyncio.sleep(0.001)

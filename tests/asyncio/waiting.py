"""Waiting for things that happen outside of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


async def elsewhere(function: Callable[..., Any], *args: Any) -> Any:
    """What a function gives that may block, called in another thread."""
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


async def happens(condition: Callable[[], object]) -> None:
    """Return when something has happened that tells nobody; the test's own time-out bounds it."""
    while not condition():  # noqa: ASYNC110 - nobody is there to set an event
        await asyncio.sleep(0.001)

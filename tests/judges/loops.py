"""The loops that are judged, by name: this package's, and beside it what asyncio brings and uvloop."""

from __future__ import annotations

import asyncio

NAMES = ("unio", "stock", "uvloop")


def judged(name: str) -> type[asyncio.AbstractEventLoop]:
    """The class of a loop, which takes no arguments."""
    if name == "unio":
        from unio.asyncio import EventLoop

        return EventLoop
    if name == "uvloop":
        import uvloop

        class Loop(uvloop.Loop):
            """What uvloop gives, with the one private attribute that CPython's tests look at when they clean up."""

            _default_executor = None

        return Loop
    return asyncio.SelectorEventLoop

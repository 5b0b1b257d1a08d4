"""asyncio on a port: an event loop whose input and output are completions, on every system that unio runs on.

``unio.asyncio.run(main())`` is :func:`asyncio.run` on it; ``asyncio.Runner(loop_factory=unio.asyncio.new_event_loop)``
and ``--loop unio.asyncio:new_event_loop`` are for those who bring their own runner. ``import unio`` loads none of this.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from unio.asyncio.files import BinaryFile as BinaryFile
from unio.asyncio.files import TextFile as TextFile
from unio.asyncio.files import open as open  # noqa: A004 - as in unio
from unio.asyncio.loop import EventLoop as EventLoop
from unio.asyncio.streams import StreamReader as StreamReader
from unio.asyncio.streams import StreamWriter as StreamWriter
from unio.asyncio.streams import open_connection as open_connection
from unio.asyncio.streams import start_server as start_server

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = [
    "BinaryFile",
    "EventLoop",
    "StreamReader",
    "StreamWriter",
    "TextFile",
    "new_event_loop",
    "open",
    "open_connection",
    "run",
    "start_server",
]

Result = TypeVar("Result")


def new_event_loop() -> EventLoop:
    """Make a loop over a port of its own: what runners ask for as their ``loop_factory``.

    Raises what making a :class:`unio.Port` does.
    """
    return EventLoop()


def run(main: Coroutine[Any, Any, Result], *, debug: bool | None = None) -> Result:
    """Run a coroutine on a new loop, and close that at the end: :func:`asyncio.run`, with this package's loop."""
    with asyncio.Runner(debug=debug, loop_factory=new_event_loop) as runner:
        return runner.run(main)

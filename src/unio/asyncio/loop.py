"""The loop: what all its rooms make together."""

from __future__ import annotations

from unio.asyncio.serving import Serving
from unio.asyncio.sockets import Sockets


class EventLoop(Serving, Sockets):
    """An event loop of asyncio's whose input and output a :class:`unio.Port` does.

    It is all that :class:`asyncio.AbstractEventLoop` says. Its :attr:`port` is there for what asyncio has no call for:
    :meth:`complete` awaits any operation.
    """

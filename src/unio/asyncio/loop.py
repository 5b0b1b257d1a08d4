"""The loop: what all its rooms make together."""

from __future__ import annotations

from unio.asyncio.datagrams import Datagrams
from unio.asyncio.forks import Forks
from unio.asyncio.local import Local
from unio.asyncio.names import Names
from unio.asyncio.securing import Securing
from unio.asyncio.subprocesses import Subprocesses
from unio.asyncio.watching import Watching


class EventLoop(Securing, Local, Datagrams, Subprocesses, Watching, Forks, Names):
    """An event loop of asyncio's whose input and output a :class:`unio.Port` does.

    It is all that :class:`asyncio.AbstractEventLoop` says. Its :attr:`port` is there for what asyncio has no call for:
    :meth:`complete` awaits any operation.
    """

"""What the connections of all servers have in common: how they begin, hear their clients, stop and end."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypeVar

import unio
from unio.cli.output import complain

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable

    from unio.cli.server import Server

Heard = TypeVar("Heard")

LINGER_SECONDS = 2.0
"""How long a connection that ended here waits for its client to end it too."""


class Connection(ABC):
    """One client: a stream, and the coroutine that serves it."""

    def __init__(self, server: Server, client: socket.socket, idle_timeout: float | None = None) -> None:
        self.server = server
        # What a write is given has been taken by the system when it returns: nothing piles up here.
        self.stream = unio.Stream(server.port, client, write_limit=0, idle_timeout=idle_timeout)
        self.recv: unio.Recv | None = None  # by which the client is heard, if not by the stream
        self._hears = False

    @abstractmethod
    async def serve(self) -> None:
        """Serve the client until it ends, or the server is stopping."""

    async def hear(self, reading: Awaitable[Heard]) -> Heard | None:
        """What the client says; None if the server is stopping meanwhile."""
        self._hears = True
        try:
            return await reading
        except unio.Cancelled:
            if self.server.stopping:
                return None
            raise
        finally:
            self._hears = False

    def stop(self) -> None:
        """End if it is waiting for the client; any thread may ask, and one that is answering goes on.

        Where it was only about to wait there is nothing to cancel yet, so whoever asks does it again.
        """
        if self._hears:
            self.server.port.cancel(self.recv or self.stream._recv)

    def close(self) -> None:
        self.stream.abort()
        self.server.remove(self)

    async def run(self) -> None:
        try:
            if self.server.context is not None:
                await self.stream.start_tls(self.server.context, server_side=True)
            await self.serve()
            await self.stream.close(linger=LINGER_SECONDS)
        except OSError:  # the client is gone, or takes nothing, or is none for this server
            pass
        except Exception:  # noqa: BLE001 - a fault in serving one client ends that client's connection, not the server
            complain(traceback.format_exc())
        finally:
            self.close()

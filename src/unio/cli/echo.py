"""``python -m unio serve echo``: each client gets back what it sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import unio
from unio.cli.connection import Connection

if TYPE_CHECKING:
    import socket

    from unio.cli.server import Server

BUFFER_SIZE_MAX = 64 * 1024
"""Beyond this a larger buffer saves nothing, and from 128 KiB on the allocator asks the kernel for each one anew."""


class EchoConnection(Connection):
    """Receives, sends what it received, and only then receives again: a client that doesn't read is not read from.

    Nothing here has a time-out. An idle client is a legitimate one, and costs a small buffer.
    """

    def __init__(self, server: Server, client: socket.socket) -> None:
        super().__init__(server, client)
        self._received = memoryview(self.recv.buffer)

    def start(self) -> None:
        self.receive()

    def received(self, recv: unio.Recv) -> None:
        if recv.transferred:
            self.send.buffer = self._received[: recv.transferred]
            self.server.port.submit(self.send)
        elif isinstance(recv.error, unio.Cancelled):  # the server is stopping
            self.finish()
        else:
            self.close()

    def sent(self, send: unio.Send) -> None:
        if send.error is not None:
            self.close()
        elif self.server.stopping:
            self.finish()
        else:
            if send.transferred == len(self._received) < BUFFER_SIZE_MAX:
                self._grow()
            self.receive()

    def _grow(self) -> None:
        # It was full, so there may have been more.
        size = min(len(self._received) * 4, BUFFER_SIZE_MAX)
        self.recv.buffer = bytearray(size)
        self._received = memoryview(self.recv.buffer)

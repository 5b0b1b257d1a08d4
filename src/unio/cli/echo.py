"""``python -m unio serve echo``: each client gets back what it sends."""

from __future__ import annotations

import unio
from unio.cli.connection import Connection

PIECE_SIZE = 64 * 1024
"""Beyond this a larger piece saves nothing, and from 128 KiB on the allocator asks the kernel for each one anew."""


class EchoConnection(Connection):
    """Receives, sends what it received, and only then receives again: a client that doesn't read is not read from.

    Nothing here has a time-out. An idle client is a legitimate one, and costs a small buffer.
    """

    async def serve(self) -> None:
        if self.stream.tls is None:
            await self._serve_plain()
            return
        while not self.server.stopping and (piece := await self.hear(self.stream.read_some(PIECE_SIZE))):
            await self.stream.write(piece)

    async def _serve_plain(self) -> None:
        """Without a stream in between, which bytes that go back as they have come don't need: in half the time."""
        self.recv = recv = unio.Recv(self.stream.handle)
        send = unio.Send(self.stream.handle, b"")
        while not self.server.stopping and (heard := await self.hear(recv)) is not None and heard.transferred:
            send.buffer = recv.data
            await send

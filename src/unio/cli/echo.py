"""``python -m unio serve echo``: each client gets back what it sends."""

from __future__ import annotations

from unio.cli.connection import Connection

PIECE_SIZE = 64 * 1024
"""Beyond this a larger piece saves nothing, and from 128 KiB on the allocator asks the kernel for each one anew."""


class EchoConnection(Connection):
    """Receives, sends what it received, and only then receives again: a client that doesn't read is not read from.

    Nothing here has a time-out. An idle client is a legitimate one, and costs a small buffer.
    """

    async def serve(self) -> None:
        while not self.server.stopping and (piece := await self.hear(self.stream.read_some(PIECE_SIZE))):
            await self.stream.write(piece)

"""The ``sock_*`` methods: a socket of the program's own, one operation at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unio.asyncio.bridge import Bridge
from unio.operations import Accept, Connect, Recv, Send

if TYPE_CHECKING:
    import socket


class Sockets(Bridge):
    """A loop for sockets of the program's own."""

    async def sock_recv(self, sock: socket.socket, n: int) -> bytes:
        recv = await self.complete(Recv(self.join(sock), bytearray(n)))
        return bytes(recv.data)

    async def sock_sendall(self, sock: socket.socket, data: Any) -> None:
        await self.complete(Send(self.join(sock), data))

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        await self.complete(Connect(self.join(sock), address))

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        accept = await self.complete(Accept(self.join(sock)))
        return accept.take(), accept.address

"""Servers and clients over TLS, for the tests: protocols that note what they are told, and Python's own TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from certificates import client_context, server_context
from patience import PATIENCE, happened, patience_left


class Noted(asyncio.Protocol):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.data = bytearray()
        self.lost = asyncio.get_running_loop().create_future()
        self.came = asyncio.Event()
        self.error: BaseException | None = None

    def connection_made(self, transport: Any) -> None:
        self.events.append("made")
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.came.set()

    def eof_received(self) -> None:
        self.events.append("eof")

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, error: BaseException | None) -> None:
        self.events.append("lost")
        self.error = error
        self.lost.set_result(None)

    async def has(self, size: int) -> bytes:
        """What came, once it is so much."""
        while len(self.data) < size:
            self.came.clear()
            await asyncio.wait_for(self.came.wait(), PATIENCE)
        return bytes(self.data)


class Echo(Noted):
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(data)


class Buffered(asyncio.BufferedProtocol):
    """Takes what comes in a buffer of its own, a few bytes at a time."""

    def __init__(self, size: int) -> None:
        self.buffer = bytearray(size)
        self.data = bytearray()
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.data += self.buffer[:count]
        self.transport.write(self.buffer[:count])

    def connection_lost(self, error: BaseException | None) -> None:
        self.error = error
        self.lost.set_result(None)


@contextlib.asynccontextmanager
async def serving(factory: Callable[[], Any], context: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator:
    """A server, with the address of it and the protocols that it has made."""
    made: list[Any] = []

    def make() -> Any:
        made.append(factory())
        return made[-1]

    server = await asyncio.get_running_loop().create_server(
        make, "127.0.0.1", 0, ssl=context or server_context(), **options
    )
    async with server:
        yield server.sockets[0].getsockname(), made


async def connected(
    factory: Callable[[], Any], address: Any, context: ssl.SSLContext | None = None, **options: Any
) -> tuple[Any, Any]:
    options = {"server_hostname": "localhost", **options}
    return await asyncio.get_running_loop().create_connection(
        factory, *address, ssl=context or client_context(), **options
    )


async def in_ssl(address: Any, work: Callable[[ssl.SSLSocket], object], context: ssl.SSLContext | None = None) -> Any:
    """Have a thread do something with Python's own TLS, as a client."""

    def run() -> object:
        with (
            socket.create_connection(address, PATIENCE) as sock,
            (context or client_context()).wrap_socket(
                sock, server_hostname="localhost", suppress_ragged_eofs=False
            ) as wrapped,
        ):
            return work(wrapped)

    return await asyncio.get_running_loop().run_in_executor(None, run)


def received(sock: ssl.SSLSocket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (part := sock.recv(65536)):
        data += part
    return bytes(data)


async def shake_hands(
    sock: socket.socket, context: ssl.SSLContext | None = None
) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """Do a client's handshake, whose records the test then carries itself: what has come and what is to leave."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = (context or client_context()).wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            await loop.sock_sendall(sock, outgoing.read())
            incoming.write(await loop.sock_recv(sock, 65536))
        else:
            await loop.sock_sendall(sock, outgoing.read())
            return tls, incoming, outgoing


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as the condition holds."""
    since = time.monotonic()
    while not condition():
        assert patience_left(since) > 0, f"{condition} did not come true"
        await asyncio.sleep(0)
    happened()

"""An echo server on asyncio's interface: ``asyncio_echo.py BUFFER LOOP STYLE``.

LOOP is asyncio, or a module with a loop of its own; aiofastnet has none, and puts its transports into uvloop's. STYLE
is Protocol, writelines, streams, time-outs or sock_*. BUFFER is for the last only: the others have their own. With
time-outs are streams with one for each receive and each send; with writelines a Protocol answers from two buffers.
"""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys

BACKLOG = 1024
SECONDS = 30.0
HEAD = b"." * 64


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.WriteTransport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class EchoBehindHead(Echo):
    def data_received(self, data: bytes) -> None:
        self.transport.writelines((HEAD, data))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(256 * 1024):
        writer.write(data)
        await writer.drain()
    writer.close()


async def echo_in_time(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        async with asyncio.timeout(SECONDS):
            data = await reader.read(256 * 1024)
        if not data:
            break
        writer.write(data)
        async with asyncio.timeout(SECONDS):
            await writer.drain()
    writer.close()


async def echo_by_hand(sock: socket.socket, size: int) -> None:
    loop = asyncio.get_running_loop()
    buffer = memoryview(bytearray(size))
    with sock:
        while got := await loop.sock_recv_into(sock, buffer):
            await loop.sock_sendall(sock, buffer[:got])


async def accept_by_hand(listening: socket.socket, size: int) -> None:
    loop = asyncio.get_running_loop()
    listening.setblocking(False)
    tasks = set()
    while True:
        sock, _ = await loop.sock_accept(listening)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.create_task(echo_by_hand(sock, size))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def serve(style: str, size: int) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listening:
        print(listening.getsockname()[1], flush=True)
        if style in ("Protocol", "writelines"):
            protocol = Echo if style == "Protocol" else EchoBehindHead
            await asyncio.get_running_loop().create_server(protocol, sock=listening, backlog=BACKLOG)
        elif style in ("streams", "time-outs"):
            handler = echo if style == "streams" else echo_in_time
            await asyncio.start_server(handler, sock=listening, backlog=BACKLOG)
        else:
            await accept_by_hand(listening, size)
        await asyncio.Event().wait()  # and not serve_forever, after which rloop's server listens no more


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    module = asyncio if name == "asyncio" else importlib.import_module(name)
    if name == "aiofastnet":
        module.patch_loop(loop := new_loop("uvloop"))
        return loop
    made: asyncio.AbstractEventLoop = module.Loop() if name == "talyn" else module.new_event_loop()
    return made


def main() -> None:
    _, size, name, style = sys.argv
    loop = new_loop(name)
    asyncio.set_event_loop(loop)
    loop.run_until_complete(serve(style, int(size)))


if __name__ == "__main__":
    main()

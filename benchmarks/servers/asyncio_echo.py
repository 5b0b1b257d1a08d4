"""An echo server on asyncio's interface: ``asyncio_echo.py BUFFER LOOP STYLE``.

LOOP is asyncio, uvloop, rloop, blazio or zloop; STYLE is protocol or streams. BUFFER is ignored: they have their own.
"""

from __future__ import annotations

import asyncio
import importlib
import sys


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.WriteTransport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(256 * 1024):
        writer.write(data)
        await writer.drain()
    writer.close()


async def serve(style: str) -> None:
    if style == "protocol":
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, backlog=1024)
    else:
        server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()  # and not serve_forever, after which rloop's server listens no more


def main() -> None:
    _, _, name, style = sys.argv
    loop = (asyncio if name == "asyncio" else importlib.import_module(name)).new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(serve(style))


if __name__ == "__main__":
    main()

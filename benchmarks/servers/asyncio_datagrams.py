"""An echo server of datagrams on asyncio's interface: ``asyncio_datagrams.py BUFFER LOOP``.

LOOP is asyncio, or a module with a loop of its own. BUFFER is for the other servers: these have their own.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.DatagramTransport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    print(transport.get_extra_info("sockname")[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    loop = importlib.import_module(sys.argv[2]).new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(serve())

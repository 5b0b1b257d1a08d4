"""For each byte that it receives this server sends a file: ``asyncio_sendfile.py FILE``.

With asyncio's own loop: the others have no sendfile.
"""

from __future__ import annotations

import asyncio
import io
import socket
import sys
from pathlib import Path


async def respond(sock: socket.socket, source: io.FileIO, size: int) -> None:
    loop = asyncio.get_running_loop()
    with sock:
        while await loop.sock_recv(sock, 1):
            await loop.sock_sendfile(sock, source, 0, size)


async def serve(path: Path, size: int) -> None:
    loop = asyncio.get_running_loop()
    tasks = set()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        listening.setblocking(False)
        print(listening.getsockname()[1], flush=True)
        while True:
            sock, _ = await loop.sock_accept(listening)
            task = asyncio.create_task(respond(sock, io.FileIO(path), size))  # each its own: the position moves
            tasks.add(task)
            task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    content = Path(sys.argv[1])
    asyncio.run(serve(content, content.stat().st_size))

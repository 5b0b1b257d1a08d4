"""For each byte that it receives this server sends a file, with a thread for each connection."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path


def respond(sock: socket.socket, source: int, size: int) -> None:
    with sock:
        while sock.recv(1):
            offset = 0
            while offset < size:
                offset += os.sendfile(sock.fileno(), source, offset, size - offset)


def serve(listening: socket.socket, source: int, size: int) -> None:
    while True:
        sock, _ = listening.accept()
        threading.Thread(target=respond, args=(sock, source, size), daemon=True).start()


if __name__ == "__main__":
    with Path(sys.argv[1]).open("rb") as content, socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        print(listening.getsockname()[1], flush=True)
        serve(listening, content.fileno(), os.fstat(content.fileno()).st_size)

"""For each byte that it receives this server sends a file: ``unio_sendfile.py FILE``."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import unio


def serve(port: unio.Port, listening: socket.socket, path: Path) -> None:
    size = path.stat().st_size
    with unio.open(path) as source:
        port.submit(unio.Accept(port.associate(listening)))
        while True:
            for _, operation, transferred, error in port.wait():
                match operation:
                    case unio.Accept():
                        if error is None:
                            connection = port.associate(operation.socket)
                            request = unio.Recv(connection, bytearray(1))
                            response = unio.SendFile(connection, source, 0, size, state=request)
                            request.state = response
                            port.submit(request)
                        port.submit(operation)
                    case _ if error is not None or not transferred:
                        operation.handle.close()
                    case _:
                        port.submit(operation.state)


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening, unio.Port() as port:
        print(listening.getsockname()[1], flush=True)
        serve(port, listening, Path(sys.argv[1]))

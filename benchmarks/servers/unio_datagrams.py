"""The fastest echo server of datagrams that unio's API allows: ``unio_datagrams.py BUFFER``.

UNIO_BACKEND chooses the backend. BUFFER is how many bytes the largest datagram may have. One socket serves all peers.
"""

from __future__ import annotations

import socket
import sys

import unio

LIMIT = 256
"""Completions of one wait."""

RECEIVES = 64
"""Receives that are in flight at once: so many datagrams at most are received in one go."""


def serve(port: unio.Port, sock: socket.socket, size: int) -> None:
    wait, submit, recv_type = port.wait, port.submit, unio.RecvFrom
    handle = port.associate(sock)
    for _ in range(RECEIVES):
        view = memoryview(bytearray(size))
        submit(recv_type(handle, view, state=(view, unio.SendTo(handle, view, sock.getsockname()))))
    while True:
        for found in wait(None, LIMIT):
            operation = found.operation
            if type(operation) is not recv_type:
                submit(operation.state)
            elif found.error is None:
                view, send = operation.state
                send.buffer = view[: found.transferred]
                send.address = operation.address
                send.state = operation
                submit(send)
            else:  # the datagram was too large
                submit(operation)


if __name__ == "__main__":
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, unio.Port() as port:
        sock.bind(("127.0.0.1", 0))
        print(sock.getsockname()[1], flush=True)
        serve(port, sock, int(sys.argv[1]))

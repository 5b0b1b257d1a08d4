"""The fastest echo server that unio's API allows: ``unio_fastest.py BUFFER``; UNIO_BACKEND chooses the backend.

Beside the tutorial's: the handles skip a completion where the operation has succeeded at once, and nothing is called in
between.
"""

from __future__ import annotations

import socket
import sys

import unio

LIMIT = 256
"""Completions of one wait."""


class Client:
    """One connection: a buffer, and the two operations that take turns with it."""

    __slots__ = ("buffer", "handle", "recv", "send")

    def __init__(self, port: unio.Port, sock: socket.socket, size: int) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.handle = port.associate(sock, self, skip_on_success=True)
        self.buffer = memoryview(bytearray(size))
        self.recv = unio.Recv(self.handle, self.buffer)
        self.send = unio.Send(self.handle, b"")


def go_on(port: unio.Port, client: Client, *, received: bool) -> None:
    """Echo, and receive again, for as long as it succeeds at once."""
    recv, send, buffer, submit = client.recv, client.send, client.buffer, port.submit
    while True:
        if received:
            if not recv.transferred:
                client.handle.close()
                return
            send.buffer = buffer[: recv.transferred]
            if not submit(send):
                return
        if not submit(recv):
            return
        received = True


def serve(listening: socket.socket, buffer_size: int) -> None:
    with unio.Port() as port:
        port.submit(unio.Accept(port.associate(listening)))
        while True:
            for client, operation, _, error in port.wait(limit=LIMIT):
                if client is None:
                    if error is None:
                        go_on(port, Client(port, operation.socket, buffer_size), received=False)
                    port.submit(operation)
                elif error is not None:
                    client.handle.close()
                else:
                    go_on(port, client, received=operation is client.recv)


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        print(listening.getsockname()[1], flush=True)
        serve(listening, int(sys.argv[1]))

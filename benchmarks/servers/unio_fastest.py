"""The fastest echo server that unio's API allows: ``unio_fastest.py BUFFER``; UNIO_BACKEND chooses the backend.

Beside the tutorial's: larger batches, and nothing is called between a completion and the next submit.
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
        self.handle = port.associate(sock, self)
        self.buffer = memoryview(bytearray(size))
        self.recv = unio.Recv(self.handle, self.buffer)
        self.send = unio.Send(self.handle, b"")


def serve(listening: socket.socket, buffer_size: int) -> None:
    with unio.Port() as port:
        wait, submit = port.wait, port.submit
        submit(unio.Accept(port.associate(listening)))
        while True:
            for client, operation, transferred, error in wait(None, LIMIT):
                if client is None:
                    if error is None:
                        submit(Client(port, operation.socket, buffer_size).recv)
                    submit(operation)
                elif error is not None or not transferred:
                    client.handle.close()
                elif operation is client.recv:
                    send = client.send
                    send.buffer = client.buffer[:transferred]
                    submit(send)
                else:
                    submit(client.recv)


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        print(listening.getsockname()[1], flush=True)
        serve(listening, int(sys.argv[1]))

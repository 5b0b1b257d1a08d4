"""An echo server on unio, as the tutorial's readers write it; UNIO_BACKEND chooses the backend."""

from __future__ import annotations

import socket
import sys

import unio


class Client:
    """One connection: a buffer, and the two operations that take turns with it."""

    __slots__ = ("buffer", "handle", "recv", "send")

    def __init__(self, port: unio.Port, sock: socket.socket, size: int) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.handle = port.associate(sock, key=self)
        self.buffer = memoryview(bytearray(size))
        self.recv = unio.Recv(self.handle, self.buffer)
        self.send = unio.Send(self.handle, b"")
        port.submit(self.recv)


def serve(listening: socket.socket, buffer_size: int) -> None:
    with unio.Port() as port:
        port.submit(unio.Accept(port.associate(listening)))
        while True:
            for client, operation, transferred, error in port.wait():
                if client is None:
                    if error is None:
                        Client(port, operation.socket, buffer_size)
                    port.submit(operation)
                elif error is not None or not transferred:
                    client.handle.close()
                elif operation is client.recv:
                    client.send.buffer = client.buffer[:transferred]
                    port.submit(client.send)
                else:
                    port.submit(client.recv)


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        print(listening.getsockname()[1], flush=True)
        serve(listening, int(sys.argv[1]))

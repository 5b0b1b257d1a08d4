"""The fastest echo server that unio's API allows: ``unio_fastest.py BUFFER``; UNIO_BACKEND chooses the backend.

Beside the tutorial's: larger batches, and nothing is called between a completion and the next submit. BUFFER is for the
other servers: here each receive has a buffer of its own, which grows as far as it pays.
"""

from __future__ import annotations

import socket

import unio

LIMIT = 256
"""Completions of one wait."""


class Client:
    """One connection, and the two operations that take turns; the send is made when there is something to send."""

    __slots__ = ("handle", "recv", "send")

    def __init__(self, port: unio.Port, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.handle = port.associate(sock, self)
        self.recv = unio.Recv(self.handle)
        self.send: unio.Send | None = None


def serve(listening: socket.socket) -> None:
    with unio.Port() as port:
        wait, submit = port.wait, port.submit
        submit(unio.Accept(port.associate(listening)))
        while True:
            for client, operation, transferred, error in wait(None, LIMIT):
                if transferred and error is None:
                    if operation is client.recv:
                        send = client.send
                        if send is None:
                            client.send = send = unio.Send(client.handle, operation.data)
                        else:
                            send.buffer = operation.data
                        submit(send)
                    else:
                        submit(client.recv)
                elif client is None:
                    if error is None:
                        submit(Client(port, operation.socket).recv)
                    submit(operation)
                else:
                    client.handle.close()


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        print(listening.getsockname()[1], flush=True)
        serve(listening)

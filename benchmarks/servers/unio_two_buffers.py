"""A server that answers what it receives with a head and that, in two buffers: ``unio_two_buffers.py BUFFER``.

UNIO_BACKEND chooses the backend. Otherwise it is the fastest echo server; BUFFER is for the other servers.
"""

from __future__ import annotations

import socket

import unio

HEAD = b"." * 64
LIMIT = 256
ACCEPTS = 16


def serve(port: unio.Port, listening: socket.socket) -> None:
    wait, submit, associate, recv_type, accept_type = port.wait, port.submit, port.associate, unio.Recv, unio.Accept
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener = associate(listening)
    for _ in range(ACCEPTS):
        submit(accept_type(listener))
    while True:
        for found in wait(None, LIMIT):
            operation = found.operation
            kind = type(operation)
            if found.transferred and found.error is None:
                if kind is recv_type:
                    send = operation.state
                    if send is None:
                        operation.state = send = unio.Send(operation.handle, b"", state=operation)
                    send.buffer = (HEAD, operation.data)
                    submit(send)
                else:
                    submit(operation.state)
            elif kind is accept_type:
                if found.error is None:
                    submit(recv_type(associate(operation.socket)))
                submit(operation)
            else:
                operation.handle.close()
                operation.state = None


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening, unio.Port() as port:
        print(listening.getsockname()[1], flush=True)
        serve(port, listening)

"""The fastest echo server that unio's API allows: ``unio_fastest.py BUFFER [SECONDS]``.

UNIO_BACKEND chooses the backend.

Beside the tutorial's: larger batches, and nothing is called between a completion and the next submit. A connection is
its two operations, each the other's state, and has no object beside them. BUFFER is for the other servers: here each
receive has a buffer of its own, which grows as far as it pays. SECONDS is the time-out of each receive and each send.
"""

from __future__ import annotations

import socket
import sys

import unio

LIMIT = 256
"""Completions of one wait."""

ACCEPTS = 16
"""Accepts that are in flight at once: so many connections at most are accepted in one go."""


def serve(port: unio.Port, listening: socket.socket, timeout: float | None) -> None:
    wait, submit, recv_type, accept_type = port.wait, port.submit, unio.Recv, unio.Accept
    associate, no_delay = port.associate, (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setsockopt(*no_delay)  # which what is accepted has from there
    listener = associate(listening)
    for _ in range(ACCEPTS):
        submit(accept_type(listener))
    while True:
        # The interpreter finds an attribute at once where it is always that of one class. It takes longer to unpack a
        # completion, and to ask a property: hence the attributes of the completion.
        for found in wait(None, LIMIT):
            operation = found.operation
            kind = type(operation)
            if found.transferred and found.error is None:
                if kind is recv_type:
                    send = operation.state
                    if send is None:  # it is made when there is something to send
                        operation.state = send = unio.Send(operation.handle, operation.data, state=operation)
                    else:
                        send.buffer = operation.data
                    submit(send, timeout)
                else:
                    submit(operation.state, timeout)
            elif kind is accept_type:
                if found.error is None:
                    submit(recv_type(associate(operation.socket)), timeout)
                submit(operation)
            else:
                operation.handle.close()
                operation.state = None  # or else the two keep each other until the garbage collection


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening, unio.Port() as port:
        print(listening.getsockname()[1], flush=True)
        serve(port, listening, float(sys.argv[2]) if len(sys.argv) > 2 else None)  # noqa: PLR2004 - see above

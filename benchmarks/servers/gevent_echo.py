"""An echo server on gevent."""

from __future__ import annotations

import contextlib
import sys

import gevent.server
import gevent.socket


def echo(sock: gevent.socket.socket, _address: object) -> None:
    sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(int(sys.argv[1])))
    with sock, contextlib.suppress(ConnectionError):
        while got := sock.recv_into(buffer):
            sock.sendall(buffer[:got])


if __name__ == "__main__":
    server = gevent.server.StreamServer(("127.0.0.1", 0), echo, backlog=1024)
    server.start()
    print(server.server_port, flush=True)
    server.serve_forever()

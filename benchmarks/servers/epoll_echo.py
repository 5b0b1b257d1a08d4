"""An echo server on select.epoll alone: what Python can do with nothing around it."""

from __future__ import annotations

import contextlib
import select
import socket
import sys


class Client:
    __slots__ = ("rest", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.rest = memoryview(b"")  # what could not be sent yet; the connection is not read meanwhile


def serve(listening: socket.socket, buffer_size: int) -> None:
    poll = select.epoll()
    poll.register(listening, select.EPOLLIN)
    clients: dict[int, Client] = {}
    buffer = memoryview(bytearray(buffer_size))
    while True:
        for number, _ in poll.poll():
            client = clients.get(number)
            if client is None:
                accept_all(listening, poll, clients)
            elif client.rest:
                send_rest(client, number, poll)
            elif not echo(client, number, poll, buffer):
                del clients[number]
                client.sock.close()


def accept_all(listening: socket.socket, poll: select.epoll, clients: dict[int, Client]) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            sock, _ = listening.accept()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            clients[sock.fileno()] = Client(sock)
            poll.register(sock, select.EPOLLIN)


def echo(client: Client, number: int, poll: select.epoll, buffer: memoryview) -> bool:
    try:
        got = client.sock.recv_into(buffer)
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    if not got:
        return False
    try:
        sent = client.sock.send(buffer[:got])
    except BlockingIOError:
        sent = 0
    except ConnectionError:
        return False
    if sent < got:
        client.rest = memoryview(bytes(buffer[sent:got]))
        poll.modify(number, select.EPOLLOUT)
    return True


def send_rest(client: Client, number: int, poll: select.epoll) -> None:
    with contextlib.suppress(BlockingIOError, ConnectionError):
        client.rest = client.rest[client.sock.send(client.rest) :]
    if not client.rest:
        poll.modify(number, select.EPOLLIN)


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        listening.setblocking(False)
        print(listening.getsockname()[1], flush=True)
        serve(listening, int(sys.argv[1]))

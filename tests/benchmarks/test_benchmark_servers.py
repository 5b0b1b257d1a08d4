"""unio's own contestants do what the others are compared with, as the load finds too, but in every run of the tests."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import unio

SERVERS = Path(__file__).parents[2] / "benchmarks" / "servers"
BUFFER = 4096


@contextlib.contextmanager
def running(program: str, argument: int | Path, backend: str) -> Iterator[int]:
    """Run a server; yield the number of its port."""
    environment = {**os.environ, unio.backends.VARIABLE: backend}
    command = [sys.executable, str(SERVERS / program), str(argument)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def receive(sock: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size and (data := sock.recv(size - len(received))):
        received += data
    return received


@pytest.mark.parametrize("program", ["unio_tutorial.py", "unio_fastest.py"])
def test_each_client_gets_back_what_it_sends(backend, program):
    with running(program, BUFFER, backend) as number, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", number), 30)) for _ in range(3)]
        for size in (1, BUFFER, 5 * BUFFER + 1):
            messages = [os.urandom(size) for _ in clients]
            for client, message in zip(clients, messages, strict=True):
                client.sendall(message)
            assert [receive(client, size) for client in clients] == messages
        clients[0].shutdown(socket.SHUT_WR)
        assert clients[0].recv(1) == b""  # the end was seen, and the connection closed
        clients[1].sendall(b"still there?")
        assert receive(clients[1], 12) == b"still there?"


def test_each_datagram_comes_back_to_its_sender(backend):
    with running("unio_datagrams.py", BUFFER, backend) as number, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(100)]
        for peer in peers:
            peer.settimeout(30)
            peer.connect(("127.0.0.1", number))
        for _ in range(2):
            messages = [os.urandom(512) for _ in peers]
            for peer, message in zip(peers, messages, strict=True):
                peer.send(message)
            assert [peer.recv(BUFFER) for peer in peers] == messages


def test_what_was_sent_comes_back_behind_a_head(backend):
    with (
        running("unio_two_buffers.py", BUFFER, backend) as number,
        socket.create_connection(("127.0.0.1", number), 30) as client,
    ):
        for size in (1, 1024):
            message = os.urandom(size)
            client.sendall(message)
            assert receive(client, 64 + size) == b"." * 64 + message


def test_a_file_is_sent_for_each_byte(backend, tmp_path):
    content = os.urandom(300_000)
    path = tmp_path / "content"
    path.write_bytes(content)
    with (
        running("unio_sendfile.py", path, backend) as number,
        socket.create_connection(("127.0.0.1", number), 30) as client,
    ):
        for _ in range(2):
            client.sendall(b"?")
            assert receive(client, len(content)) == content

"""examples/socks.py"""

from __future__ import annotations

import contextlib
import http.server
import random
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import support
from patience import PROGRAM

Serve = Callable[..., Any]


@pytest.fixture
def target() -> Iterator[socket.socket]:
    """A listening socket: where clients want to go."""
    with support.listener() as listening:
        listening.settimeout(support.PATIENCE)
        yield listening


def wants(client: socket.socket, request: bytes) -> bytes:
    """What the proxy says to a client without login that wants this."""
    client.sendall(b"\5\1\0")
    assert support.recv_exactly(client, 2) == b"\5\0"
    client.sendall(b"\5\1\0" + request)
    return support.recv_exactly(client, 10)


def by_address(sock: socket.socket) -> bytes:
    return b"\1" + socket.inet_aton("127.0.0.1") + sock.getsockname()[1].to_bytes(2, "big")


def by_name(name: bytes, sock: socket.socket) -> bytes:
    return b"\3" + bytes([len(name)]) + name + sock.getsockname()[1].to_bytes(2, "big")


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
@pytest.mark.parametrize("option", ["--socks5", "--socks5-hostname"])
def test_curl_goes_through_it(serve: Serve, tmp_path: Path, option: str) -> None:
    proxy = serve("socks")
    content = random.Random(1).randbytes(3_000_000)
    (tmp_path / "large").write_bytes(content)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            where = f"http://localhost:{server.server_port}/large"
            command = ["curl", "-sSf", option, "{}:{}".format(*proxy.address), where]
            assert subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=PROGRAM).stdout == content
        finally:
            server.shutdown()
            thread.join()


def test_both_directions_and_each_end(serve: Serve, target: socket.socket) -> None:
    proxy = serve("socks")
    payloads = [random.Random(number).randbytes(2 << 20) for number in range(2)]
    for request in (by_address(target), by_name(b"localhost", target)):
        with proxy.connect() as client:
            assert wants(client, request)[:2] == b"\5\0"
            served, _ = target.accept()
            with served:
                served.settimeout(support.PATIENCE)
                ends = client, served
                receivers = [support.Background(support.recv_exactly, end, 2 << 20) for end in ends]
                senders = [support.Background(end.sendall, data) for end, data in zip(ends, payloads, strict=True)]
                for sender in senders:
                    sender.result()
                assert [receiver.result() for receiver in receivers] == payloads[::-1]
                client.shutdown(socket.SHUT_WR)
                assert served.recv(1) == b""
                served.sendall(b"still here")
                assert support.recv_exactly(client, 10) == b"still here"
                served.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""


def test_a_reset_of_one_side_ends_the_other(serve: Serve, target: socket.socket) -> None:
    proxy = serve("socks")
    with proxy.connect() as client:
        wants(client, by_address(target))
        served, _ = target.accept()
        with served:
            served.settimeout(support.PATIENCE)
            support.reset(client)
            with contextlib.suppress(ConnectionResetError):
                assert served.recv(1) == b""


def test_a_refused_connection_is_said(serve: Serve) -> None:
    proxy = serve("socks")
    with support.listener() as sock:
        gone = by_address(sock)
    with proxy.connect() as client:
        assert wants(client, gone)[:2] == b"\5\5"
        assert client.recv(1) == b""


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"\3\x00\0\1", 1),  # an empty name
        (b"\3\x05a..b.\0\1", 1),
        (b"\7", 8),
    ],
)
def test_what_cannot_be_had_is_said(serve: Serve, request_: bytes, code: int) -> None:
    proxy = serve("socks")
    with proxy.connect() as client:
        assert wants(client, request_)[:2] == bytes([5, code])


def test_other_commands_and_logins_are_refused(serve: Serve, target: socket.socket) -> None:
    proxy = serve("socks")
    with proxy.connect() as client:
        client.sendall(b"\5\1\0\5\2\0" + by_address(target))
        assert support.recv_exactly(client, 4) == b"\5\0\5\7"
    with proxy.connect() as client:
        client.sendall(b"\5\1\2")  # with a password only
        assert support.recv_to_end(client) == b"\5\xff"

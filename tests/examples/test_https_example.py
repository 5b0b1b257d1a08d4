"""examples/https.py"""

from __future__ import annotations

import contextlib
import random
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import support
from certificates import AUTHORITY, SERVER, client_context
from patience import PROGRAM

Serve = Callable[..., Any]

LARGE = random.Random(1).randbytes(5_000_000)


@pytest.fixture
def server(serve: Serve, tmp_path: Path) -> Any:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a file.txt").write_bytes(b"hello\n")
    (tmp_path / "root" / "large").write_bytes(LARGE)
    (tmp_path / "secret").write_bytes(b"not for everybody")
    return serve("https", *SERVER, tmp_path / "root")


@contextlib.contextmanager
def connected(server: Any) -> Iterator[ssl.SSLSocket]:
    with (
        server.connect() as plain,
        client_context().wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as client,
    ):
        yield client


def ask(server: Any, request: bytes) -> bytes:
    with connected(server) as client:
        client.sendall(request)
        return support.recv_to_end(client)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_curl_gets_the_files(server: Any) -> None:
    where = "https://{}:{}".format(*server.address)
    command = ["curl", "-sSf", "--cacert", str(AUTHORITY), f"{where}/a%20file.txt", f"{where}/large"]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=PROGRAM).stdout == b"hello\n" + LARGE


def test_several_requests_of_one_connection(server: Any) -> None:
    get = b"GET /a%20file.txt HTTP/1.1\r\nHost: here\r\n"
    answer = ask(server, 3 * (get + b"\r\n") + get + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n") == 4
    assert answer.count(b"\r\n\r\nhello\n") == 4


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /../secret HTTP/1.0", b"404"),
        (b"GET /%2e%2e/secret HTTP/1.0", b"404"),
        (b"GET //etc/passwd HTTP/1.0", b"404"),
        (b"GET / HTTP/1.0", b"404"),
        (b"POST /large HTTP/1.0", b"405"),
    ],
)
def test_what_is_not_to_be_had(server: Any, request_line: bytes, status: bytes) -> None:
    answer = ask(server, request_line + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"everybody" not in answer


def test_who_speaks_no_http_or_no_tls_is_let_go_and_harms_no_other(server: Any) -> None:
    for nonsense in (b"nonsense\r\n\r\n", b"x" * 20_000):
        with contextlib.suppress(OSError):
            assert ask(server, nonsense) == b""
    with server.connect() as client, contextlib.suppress(ConnectionResetError):
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert b"HTTP" not in support.recv_to_end(client)
    assert ask(server, b"GET /large HTTP/1.0\r\n\r\n").endswith(LARGE)


def test_what_is_no_certificate_is_an_error(run: Serve) -> None:
    status, _, errors = run("https", SERVER[1], SERVER[1], ".").end()
    assert status == 2
    assert "can't serve on 127.0.0.1:0" in errors

"""What the README shows is what works: its server is run as it is printed there, and its commands are."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import PATIENCE, Background

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def fence(pattern: str) -> str:
    """The inside of the README's fence that *pattern*, the start of it, matches."""
    found = re.search(rf"^{pattern}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found, f"the README has no {pattern!r}"
    return found[1]


Start = Callable[[list[str]], tuple[str, int]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a server that prints where it listens, and returns its address."""
    with ExitStack() as stack:

        def run(arguments: list[str]) -> tuple[str, int]:
            server = stack.enter_context(subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True))
            stack.callback(server.kill)
            assert server.stdout is not None
            said = Background(server.stdout.readline).result()
            found = re.match(r"listening on (\S+):(\d+)", said)
            assert found, said
            return found[1], int(found[2])

        yield run


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=PATIENCE)


def echoed(connection: socket.socket, size: int) -> bytes:
    with connection.makefile("rb") as stream:
        return stream.read(size)


def test_the_server_is_short() -> None:
    assert len(fence("```python").splitlines()) <= 27


def test_the_server_echoes_to_many_clients_and_survives_a_reset(start: Start) -> None:
    program = fence("```python")
    assert '("127.0.0.1", 8007)' in program
    address = start([sys.executable, "-c", program.replace("8007", "0")])
    payload = bytes(range(256)) * 4096
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(address)) for _ in range(10)]
        leaver = connect(address)
        leaver.sendall(b"and gone")
        leaver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # the close becomes a reset
        leaver.close()
        for number, client in enumerate(clients):
            client.sendall(b"%d" % number)
        for number, client in enumerate(clients):
            assert echoed(client, 1) == b"%d" % number
        for start_at in range(0, len(payload), 65536):
            part = payload[start_at : start_at + 65536]
            clients[0].sendall(part)
            assert echoed(clients[0], len(part)) == part
        for client in clients:
            client.shutdown(socket.SHUT_WR)
            assert echoed(client, 1) == b""


def test_the_command_that_serves_serves(start: Start) -> None:
    command = fence("<!-- install and serve -->\n```sh").split("&&")[-1].strip()
    python, *arguments = shlex.split(command)
    assert python == ".venv/bin/python"
    host, port = start([sys.executable, *arguments[:-1], "0"])  # any free port in place of the README's
    with urllib.request.urlopen(f"http://{host}:{port}/README.md", timeout=PATIENCE) as response:
        assert response.read().decode() == README

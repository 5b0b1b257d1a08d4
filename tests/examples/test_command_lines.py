"""What all examples do with their arguments and with Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest
import support
from certificates import SERVER

Run = Callable[..., Any]
SERVERS = {
    **dict.fromkeys(("chat", "digest", "echo", "redis", "socks"), ()),
    "forward": ("127.0.0.1", "9"),
    "https": (*SERVER, "."),
}


@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("echo", ["--port", "many"], "many"),
        ("echo", ["--port", "65536"], "65535"),
        ("echo", ["--host", "::1"], "::1"),
        ("chat", ["--port", "-1"], "65535"),
        ("chat", ["stray"], "stray"),
        ("digest", ["--port", "-1"], "65535"),
        ("forward", [], "target_host, target_port"),
        ("forward", ["127.0.0.1", "65536"], "65536"),
        ("forward", ["127..0.0.1", "80"], "label"),
        ("forward", ["127.0.0.1", "80", "--port", "-1"], "65535"),
        ("copyfile", ["only-one"], "destination"),
        ("https", ["cert.pem", "key.pem", "."], "No such file"),
    ],
)
def test_a_wrong_argument_is_named_with_the_usage(run: Run, name: str, arguments: list[str], complaint: str) -> None:
    status, output, errors = run(name, *arguments).end()
    assert (status, output) == (2, "")
    usage, *_, message = errors.splitlines()
    assert usage.startswith(f"usage: {name}.py")
    assert message.startswith(f"{name}.py: error: ")
    assert complaint in message


@pytest.mark.parametrize("name", SERVERS)
def test_a_port_in_use_is_named(run: Run, name: str) -> None:
    with support.listener() as listening:
        _, number = listening.getsockname()
        status, output, errors = run(name, *SERVERS[name], "--port", number).end()
    assert (status, output) == (2, "")
    assert str(number) in errors.splitlines()[-1]


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C goes to all processes of a console, the tests among them")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("name", SERVERS)
def test_a_signal_ends_a_server_that_has_clients(run: Run, name: str, number: signal.Signals) -> None:
    with support.listener() as target:
        arguments = target.getsockname() if name == "forward" else SERVERS[name]
        server = run(name, *arguments)
        with server.connect() as one, server.connect() as two:
            one.sendall(b"hello\n")
            server.process.send_signal(number)
            assert server.end() == (0, "", "")
            for client in one, two:
                with contextlib.suppress(ConnectionResetError):
                    support.recv_to_end(client)

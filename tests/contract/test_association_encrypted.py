"""The clause A1 of the contract: what encrypts is refused, as its descriptor would send the same in plain text."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import types
from typing import Any

import channels
import pytest
import support

import unio


def encrypted(make_pair: Any, resources: contextlib.ExitStack) -> tuple[ssl.SSLSocket, socket.socket]:
    """A socket that speaks TLS, or would once it has shaken hands, and its peer's, which has not heard of that."""
    near, far = make_pair()
    context = ssl.create_default_context()
    wrapped = context.wrap_socket(near, server_hostname="localhost", do_handshake_on_connect=False)
    return resources.enter_context(wrapped), far


@pytest.mark.clause("A1", "A2")
def test_a_socket_that_encrypts_is_refused_and_the_way_is_said(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack
) -> None:
    wrapped, far = encrypted(make_pair, resources)
    for _ in range(2):
        with pytest.raises(TypeError, match=r"<SSLSocket> encrypts .* associate the plain socket.*Stream\.start_tls"):
            port.associate(wrapped, "key")
    assert wrapped.gettimeout() == support.PATIENCE  # nothing has been done to it
    far.setblocking(False)
    with pytest.raises(BlockingIOError):
        far.recv(1)


@pytest.mark.clause("A1", "A2")
def test_so_is_a_file_that_reads_from_one(port: unio.Port, make_pair: Any, resources: contextlib.ExitStack) -> None:
    wrapped, _ = encrypted(make_pair, resources)
    for mode in ("rb", "wb", "r", "w"):
        with wrapped.makefile(mode) as file, pytest.raises(TypeError, match=r"encrypts .* Stream\.start_tls"):
            port.associate(file)
    with wrapped.makefile("rb", buffering=0) as file, pytest.raises(TypeError, match=r"encrypts .* Stream\.start_tls"):
        port.associate(file)


@pytest.mark.clause("A1")
def test_a_file_of_a_plain_socket_may_join(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    with near.makefile("rb") as file:
        handle = port.associate(file, "file")
        far.sendall(b"data")
        recv = unio.Recv(handle)
        assert support.succeed(port, recv).key == "file"
        assert bytes(recv.data) == b"data"


@pytest.mark.clause("O14", "A1")
def test_the_number_of_a_socket_that_encrypts_can_be_polled(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack
) -> None:
    wrapped, far = encrypted(make_pair, resources)
    wrapped.setblocking(False)
    poll = unio.Poll(port.associate(wrapped.fileno(), "tls"), unio.Readiness.READABLE)
    port.submit(poll)
    support.assert_idle(port)
    far.sendall(b"no TLS at all")
    assert support.completion(port).key == "tls"
    with pytest.raises(ssl.SSLError):
        wrapped.do_handshake()


ASSOCIATE = """
import socket, sys, unio

class Own(socket.socket):
    pass

with unio.Port(backend=sys.argv[1]) as port, Own() as one, socket.socket() as other:
    port.associate(one)
    port.associate(other)
    sys.modules["ssl"] = None  # as a program may say that it has none
    with Own() as third:
        port.associate(third)
    del sys.modules["ssl"]
    assert "ssl" not in sys.modules
"""


@pytest.mark.clause("A1")
def test_nothing_is_imported_to_find_that_out(backend: str) -> None:
    channels.run_script(ASSOCIATE, backend)


@pytest.mark.clause("A1")
def test_another_librarys_connection_is_refused_as_well(
    port: unio.Port, make_pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Connection:  # as pyOpenSSL has it
        def __init__(self, sock: socket.socket) -> None:
            self.fileno = sock.fileno

    library: Any = types.ModuleType("OpenSSL.SSL")
    library.Connection = Connection
    monkeypatch.setitem(sys.modules, library.__name__, library)
    near, _ = make_pair()
    with pytest.raises(TypeError, match="<Connection> encrypts"):
        port.associate(Connection(near))

"""The clauses O1 and X3, for the socket of an accepted connection: it is one as socket.accept makes it, in all it does.

A backend may have a shorter way to make and to close it.
"""

from __future__ import annotations

import copy
import os
import re
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, assert_cancelled, completion, connect, recv_exactly, recv_to_end

import unio

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="there, another way leads to such a socket")

Accepted = tuple[socket.socket, socket.socket]


@pytest.fixture
def make_accepted(port: unio.Port, make_listener: Any, resources: Any) -> Callable[[], Accepted]:
    """Makes accepted sockets, each with the socket of its peer."""
    listening = make_listener()
    accept = unio.Accept(port.associate(listening))
    assert port.wait(0) == []  # what a thread that waits submits may go a shorter way

    def make() -> Accepted:
        far = resources.enter_context(connect(listening))
        port.submit(accept)
        assert completion(port).error is None
        assert accept.address == far.getsockname()
        return resources.enter_context(accept.socket), far

    return make


@pytest.mark.clause("O1", "C3")
def test_it_looks_like_the_one_that_its_listener_gives(
    make_accepted: Callable[[], Accepted], make_listener: Any, resources: Any
) -> None:
    near, far = make_accepted()
    listening = make_listener()
    resources.enter_context(connect(listening))
    usual = resources.enter_context(listening.accept()[0])
    assert type(near) is type(usual) is socket.socket
    for name in ("family", "type", "proto"):
        assert getattr(near, name) == getattr(usual, name)
        assert type(getattr(near, name)) is type(getattr(usual, name))
    assert (near.gettimeout(), near.getblocking(), near.get_inheritable()) == (0.0, False, False)
    assert near.getpeername() == far.getsockname()
    shape = re.compile(r"\d+")
    assert shape.sub("N", repr(near)) == shape.sub("N", repr(usual))
    assert weakref.ref(near)() is near
    assert not hasattr(near, "__dict__")
    with pytest.raises(TypeError):
        copy.copy(near)


@pytest.mark.clause("O1")
def test_it_is_closed_and_detached_like_any(make_accepted: Callable[[], Accepted]) -> None:
    (closed, far), (detached, other) = make_accepted(), make_accepted()
    with closed:
        assert closed.fileno() >= 0
    assert closed.fileno() == -1
    assert "[closed]" in repr(closed)
    assert far.recv(1) == b""
    number = detached.detach()
    assert "[closed]" in repr(detached)
    with socket.socket(fileno=number) as again:
        again.sendall(b"x")
    assert recv_to_end(other) == b"x"


@pytest.mark.clause("O1")
def test_a_file_that_it_was_made_into_outlives_its_close(make_accepted: Callable[[], Accepted]) -> None:
    near, far = make_accepted()
    near.setblocking(True)
    with near.makefile("rwb", buffering=0) as file:
        near.close()
        assert near.fileno() >= 0
        file.write(b"ping")
        assert recv_exactly(far, 4) == b"ping"
    assert near.fileno() == -1


@pytest.mark.clause("X3")
def test_closing_its_handle_closes_it_as_its_own_close_does(
    port: unio.Port, make_accepted: Callable[[], Accepted]
) -> None:
    near, far = make_accepted()
    handle = port.associate(near)
    handle.close()
    assert (near.fileno(), handle.fileno(), handle.closed) == (-1, -1, True)
    assert "[closed]" in repr(near)
    assert far.recv(1) == b""
    near.close()


@posix_only
@pytest.mark.clause("X3")
def test_a_file_that_it_was_made_into_outlives_the_close_of_its_handle(
    port: unio.Port, make_accepted: Callable[[], Accepted]
) -> None:
    near, far = make_accepted()
    file = near.makefile("wb", buffering=0)
    handle = port.associate(near)
    handle.close()
    assert handle.closed
    with file:
        assert near.fileno() >= 0
        file.write(b"ping")
        assert recv_exactly(far, 4) == b"ping"
    assert near.fileno() == -1


@posix_only
@pytest.mark.process_wide
@pytest.mark.clause("X3")
def test_a_close_that_the_program_has_put_in_the_place_of_pythons_is_called(
    port: unio.Port, make_accepted: Callable[[], Accepted], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, _far = make_accepted()
    handle, called, close = port.associate(near), [], socket.socket.close
    monkeypatch.setattr(socket.socket, "close", lambda self: (called.append(self), close(self)))
    handle.close()
    assert called == [near]
    assert near.fileno() == -1


@posix_only
@pytest.mark.process_wide
@pytest.mark.clause("O1")
def test_a_class_or_an_init_that_the_program_has_put_in_the_place_of_pythons_makes_it(
    make_accepted: Callable[[], Accepted], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, init = [], socket.socket.__init__

    def noted(self: socket.socket, *arguments: Any, **keywords: Any) -> None:
        made.append(self)
        init(self, *arguments, **keywords)

    class Own(socket.socket):
        pass

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "__init__", noted)
        near, _ = make_accepted()
        assert any(each is near for each in made)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", Own)
        near, _ = make_accepted()
        assert type(near) is Own
    assert type(make_accepted()[0]) is socket.socket


@posix_only
@pytest.mark.process_wide
@pytest.mark.clause("O1")
def test_it_does_not_block_whatever_time_out_the_program_gives_to_new_sockets(
    make_accepted: Callable[[], Accepted],
) -> None:
    before = socket.getdefaulttimeout()
    try:
        for timeout in (None, 60.0, 0.0):
            socket.setdefaulttimeout(timeout)
            for near, _ in (make_accepted(), make_accepted()):
                assert (near.gettimeout(), near.getblocking()) == (0.0, False)
                with pytest.raises(BlockingIOError):
                    near.recv(1)
    finally:
        socket.setdefaulttimeout(before)


@posix_only
@pytest.mark.clause("O1", "A2")
def test_one_that_is_given_a_time_out_is_made_fit_again_when_it_joins(
    port: unio.Port, make_accepted: Callable[[], Accepted]
) -> None:
    for change in (lambda sock: sock.settimeout(60), lambda sock: sock.setblocking(True)):
        near, far = make_accepted()
        change(near)
        receive = unio.Recv(port.associate(near), bytearray(1))
        port.submit(receive)
        assert port.wait(0) == []
        far.sendall(b"x")
        assert completion(port)[1:] == (receive, 1, None)
        assert near.gettimeout() == 0


AUDITED = """
import socket, sys, unio

heard = []


def hear(event, arguments):
    if event == "socket.__new__" and listening:
        heard.append((type(arguments[0]), *arguments[1:]))


listening = None
sys.addaudithook(hear)
with unio.Port(backend=sys.argv[1]) as port, socket.create_server(("127.0.0.1", 0)) as listening:
    handle = port.associate(listening)
    port.wait(0)
    for number in range(3):
        client = socket.create_connection(listening.getsockname())
        heard.clear()
        accept = unio.Accept(handle)
        port.submit(accept)
        port.wait()
        [(kind, family, _, _)] = heard
        assert kind is socket.socket and family == socket.AF_INET, heard
        accept.socket.close()
        client.close()
"""


@posix_only
@pytest.mark.clause("O1")
def test_what_watches_the_program_hears_of_each(backend: str) -> None:
    subprocess.run([sys.executable, "-c", AUDITED, backend], check=True, timeout=PATIENCE)


@pytest.mark.clause("O1")
def test_the_address_of_its_peer_stays_until_there_is_another_or_the_program_says_so(
    port: unio.Port, make_listener: Any, resources: Any
) -> None:
    listening = make_listener()
    accept = unio.Accept(port.associate(listening))
    assert accept.address is None
    assert port.wait(0) == []
    for given in (None, "somebody", ["a list"]):
        client = resources.enter_context(connect(listening))
        port.submit(accept)
        completion(port)
        resources.enter_context(accept.socket).close()
        assert accept.address == accept.address == client.getsockname()
        accept.address = given  # type: ignore[assignment]
        assert accept.address is given


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX") or sys.platform == "win32", reason="there are no local sockets")
@pytest.mark.clause("O1")
def test_the_address_of_a_local_peer_is_its_path(port: unio.Port, tmp_path: Path, resources: Any) -> None:
    listening = resources.enter_context(socket.socket(socket.AF_UNIX))
    listening.bind(str(tmp_path / "here"))
    listening.listen()
    accept = unio.Accept(port.associate(listening))
    assert port.wait(0) == []
    for path in ("", str(tmp_path / "there")):
        client = resources.enter_context(socket.socket(socket.AF_UNIX))
        if path:
            client.bind(path)
        client.connect(str(tmp_path / "here"))
        port.submit(accept)
        assert completion(port).error is None
        resources.enter_context(accept.socket)
        assert accept.address == accept.socket.getpeername() == path


@posix_only
@pytest.mark.clause("A1", "A4", "S4")
def test_a_handle_has_nothing_of_one_that_has_gone_before(
    port: unio.Port, make_accepted: Callable[[], Accepted]
) -> None:
    for _ in range(3):
        near, far = make_accepted()
        former = port.associate(near, "former", skip_on_success=True)
        assert port.submit(unio.Send(former, b"x"))
        assert recv_exactly(far, 1) == b"x"
        receive = unio.Recv(former, bytearray(1))
        port.submit(receive)
        far.close()
        assert completion(port)[1:] == (receive, 0, None)
        watch = weakref.ref(former)
        former.close()
        del former, receive
        near, far = make_accepted()
        handle = port.associate(near)
        assert (handle.key, handle.closed, handle.fileno()) == (None, False, near.fileno())
        assert watch() is not handle
        receive, send = unio.Recv(handle, bytearray(1)), unio.Send(handle, b"y")
        assert not port.submit(receive)
        assert not port.submit(send)
        assert completion(port)[:3] == (None, send, 1)
        far.sendall(recv_exactly(far, 1))
        assert completion(port)[:3] == (None, receive, 1)
        handle.close()


@posix_only
@pytest.mark.clause("X3", "P6")
def test_a_look_that_finds_nothing_else_notices_a_plain_close(
    port: unio.Port, make_accepted: Callable[[], Accepted]
) -> None:
    near, _far = make_accepted()
    recv = unio.Recv(port.associate(near, "key"))
    port.submit(recv)
    for _ in range(3):
        assert port.wait(0) == []
    near.close()
    [found] = port.wait(0)
    assert (found.key, found.operation) == ("key", recv)
    assert_cancelled(found)


@posix_only
@pytest.mark.clause("X3", "P6", "O11")
def test_a_look_in_vain_misses_neither_a_number_that_was_closed_nor_a_deadline(
    port: unio.Port, make_accepted: Callable[[], Accepted]
) -> None:
    near, _far = make_accepted()
    port.submit(recv := unio.Recv(port.associate(near.detach())))
    assert port.wait(0) == []
    os.close(recv.handle.fileno())
    [found] = port.wait(0)
    assert_cancelled(found)
    assert found.operation is recv
    port.submit(timer := unio.Timer(0))
    assert completion(port).operation is timer
    assert port.wait(0) == []

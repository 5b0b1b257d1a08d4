"""What is plainly closed gives its number away at once: nothing that was submitted for it touches who has that next."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import channels
import pytest
from support import (
    BIG,
    PATIENCE,
    assert_cancelled,
    assert_idle,
    completion,
    completions,
    fill,
    recv_exactly,
    recv_to_end,
    reuse,
    succeed,
)

import unio

pytestmark = [
    pytest.mark.process_wide,
    pytest.mark.skipif(sys.platform == "win32", reason="there, a number is not the lowest that is free"),
]

Pair = tuple[socket.socket, socket.socket]

MANY = 20
"""More operations than a direction gets attempts in one go."""


class Named:
    """An object of the program's that stands for a socket, and does something whenever it is asked for its number."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.asked: Callable[[], object] = lambda: None

    def fileno(self) -> int:
        self.asked()
        return self.sock.fileno()


class Given:
    """A socket in one of the forms in which it can be associated, and how the program closes that plainly."""

    def __init__(self, form: str, sock: socket.socket) -> None:
        self.number = sock.fileno()
        made = {"socket": lambda: sock, "object": lambda: Named(sock), "number": sock.detach}
        self.given: Any = made[form]()
        self.close: Callable[[], None] = sock.close if form != "number" else lambda: os.close(self.number)


every_form = pytest.mark.parametrize("form", ["socket", "object", "number"])


def assert_untouched(pair: Pair) -> None:
    """Nobody has sent or received anything on it, nor ended it."""
    near, far = pair
    for sender, receiver in ((near, far), (far, near)):
        sender.send(b"and only this")
        sender.shutdown(socket.SHUT_WR)
        assert recv_to_end(receiver) == b"and only this"


@pytest.mark.clause("A3", "X3")
@every_form
def test_a_receive_that_was_behind_others_takes_nothing_of_another_socket(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack, form: str
) -> None:
    near, far = make_pair(local=True)
    old = Given(form, near)
    handle = port.associate(old.given)
    ahead = [unio.Recv(handle, bytearray(0)) for _ in range(MANY)]
    behind = unio.Recv(handle, bytearray(100))
    for recv in (*ahead, behind):
        port.submit(recv)
    far.send(b"x")
    assert [found.operation for found in completions(port, MANY)] == ahead
    old.close()
    pair = reuse(old.number, resources)
    pair[1].send(b"for the new one")
    found = completion(port)
    assert found.operation is behind
    if found.error is None:
        assert behind.data == b"x"
    else:
        assert_cancelled(found)
    assert recv_exactly(pair[0], 15) == b"for the new one"
    assert_untouched(pair)


@pytest.mark.clause("A3", "X3", "S9")
@every_form
def test_a_send_that_was_behind_others_has_left_when_a_wait_returns_them(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack, tmp_path: Path, form: str
) -> None:
    near, far = make_pair(local=True)
    filled = fill(near)
    old = Given(form, near)
    handle = port.associate(old.given)
    file = resources.enter_context(unio.open(tmp_path / "file", "w+b"))
    file.write(b"f")
    ahead = [unio.SendFile(handle, file, 0, 1) for _ in range(MANY)]
    behind = unio.Send(handle, b"for the old one")
    for send in (*ahead, behind):
        port.submit(send)
    recv_exactly(far, filled)
    assert [found.operation for found in completions(port, MANY)] == ahead
    assert recv_exactly(far, MANY + 15) == MANY * b"f" + b"for the old one", "it is started by then"
    old.close()
    pair = reuse(old.number, resources)
    assert completion(port).operation is behind
    assert_untouched(pair)


@pytest.mark.clause("A3", "X1", "X3")
@every_form
def test_what_was_behind_a_cancelled_receive_takes_nothing_of_another_socket(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack, form: str
) -> None:
    near, _far = make_pair()
    old = Given(form, near)
    handle = port.associate(old.given)
    first, second = unio.Recv(handle, bytearray(0)), unio.Recv(handle, bytearray(100))
    port.submit(first)
    port.submit(second)
    assert_idle(port)
    assert port.cancel(first)
    old.close()
    pair = reuse(old.number, resources)
    pair[1].send(b"for the new one")
    for found in completions(port, 2):
        assert_cancelled(found)
    assert recv_exactly(pair[0], 15) == b"for the new one"
    assert_untouched(pair)


@pytest.mark.clause("A3", "X1", "X3", "S9")
@every_form
def test_what_was_behind_a_cancelled_datagram_that_rests_leaves_at_once_and_from_its_own_socket(
    port: unio.Port, resources: contextlib.ExitStack, form: str
) -> None:
    def bound(name: str) -> socket.socket:
        sock = resources.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        sock.settimeout(PATIENCE)
        sock.bind(channels.path(resources, name))
        return sock

    full, free, near, other = map(bound, ("full", "free", "near", "other"))
    own_address = near.getsockname()
    with contextlib.suppress(BlockingIOError):
        other.setblocking(False)
        while True:
            other.sendto(b"fill", full.getsockname())
    old = Given(form, near)
    handle = port.associate(old.given)
    first = unio.SendTo(handle, b"first", full.getsockname())
    second = unio.SendTo(handle, b"second", free.getsockname())
    port.submit(first)
    port.submit(second)
    assert port.cancel(first)
    assert free.recvfrom(100) == (b"second", own_address)
    old.close()
    os.dup2(other.fileno(), old.number, inheritable=False)
    resources.callback(os.close, old.number)
    found = completions(port, 2)
    assert {each.operation: type(each.error) for each in found} == {first: unio.Cancelled, second: type(None)}
    free.setblocking(False)
    with pytest.raises(BlockingIOError):
        free.recv(100)


@pytest.mark.clause("A3", "X3")
@every_form
def test_a_send_that_waits_for_room_goes_to_nobody_else_when_there_is_some(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack, form: str
) -> None:
    near, far = make_pair(local=True)
    old = Given(form, near)
    handle = port.associate(old.given)
    far.shutdown(socket.SHUT_WR)
    assert succeed(port, unio.Recv(handle, bytearray(1))).transferred == 0
    send = unio.Send(handle, bytes(BIG))
    port.submit(send)
    assert_idle(port)
    old.close()
    pair = reuse(old.number, resources)
    far.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while far.recv(1 << 16):
            pass
    found = completion(port)
    assert found.operation is send
    assert_cancelled(found)
    assert_untouched(pair)


@pytest.mark.clause("A3", "X3")
@pytest.mark.parametrize("waited", [False, True])
@every_form
def test_what_is_closed_in_the_middle_of_a_wait_takes_nothing_of_another_socket(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack, form: str, *, waited: bool
) -> None:
    """A wait can run the program's own code: it asks an object that was associated for its number."""
    near, far = make_pair(local=True)
    stranger_near, stranger_far = make_pair(local=True)
    if waited:
        assert_idle(port)
    old, stranger = Given(form, near), Named(stranger_near)
    handle, others = port.associate(old.given), port.associate(stranger)
    first, second = unio.Recv(handle, bytearray(1)), unio.Recv(handle, bytearray(100))
    third, fourth = unio.Recv(others, bytearray(1)), unio.Recv(others, bytearray(1))
    for operation in (first, second, third, fourth):
        port.submit(operation)
    assert_idle(port)
    pairs: list[Pair] = []

    def close_and_reuse() -> None:
        if not pairs:
            old.close()
            pairs.append(reuse(old.number, resources))
            pairs[0][1].send(b"for the new one")

    far.send(b"x")
    stranger_far.send(b"y")
    stranger.asked = close_and_reuse
    found = {each.operation: each for each in completions(port, 3)}
    assert set(found) == {first, second, third}
    assert found[first].error is None or type(found[first].error) is unio.Cancelled
    assert_cancelled(found[second])
    assert found[third].error is None
    assert recv_exactly(pairs[0][0], 15) == b"for the new one"
    assert_untouched(pairs[0])


def send_file(handle: unio.Handle, directory: Path, resources: contextlib.ExitStack) -> unio.Operation:
    file = resources.enter_context(unio.open(directory / "file", "w+b"))
    file.write(b"for the old one")
    return unio.SendFile(handle, file)


LATE: dict[str, Callable[[unio.Handle, Path, contextlib.ExitStack], unio.Operation]] = {
    "disconnect": lambda handle, _, __: unio.Disconnect(handle),
    "look": lambda handle, _, __: unio.Recv(handle, bytearray(0)),
    "poll": lambda handle, _, __: unio.Poll(handle, unio.Readiness.WRITABLE),
    "receive": lambda handle, _, __: unio.Recv(handle, bytearray(100)),
    "send": lambda handle, _, __: unio.Send(handle, b"for the old one"),
    "send_file": send_file,
    "shutdown": lambda handle, _, __: unio.Shutdown(handle),
}


@pytest.mark.clause("A3", "X3")
@pytest.mark.parametrize("kind", LATE)
@every_form
def test_what_is_submitted_after_a_plain_close_does_nothing_to_another_socket(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack, tmp_path: Path, form: str, kind: str
) -> None:
    near, _far = make_pair(local=True)
    old = Given(form, near)
    operation = LATE[kind](port.associate(old.given), tmp_path, resources)
    old.close()
    pair = reuse(old.number, resources)
    pair[1].send(b"for the new one")
    port.submit(operation)
    found = completion(port)
    assert found.operation is operation
    assert_cancelled(found)
    assert recv_exactly(pair[0], 15) == b"for the new one"
    assert_untouched(pair)

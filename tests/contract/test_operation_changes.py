"""The clauses S of the contract: what can be changed of an operation, and when; and that it can't be copied."""

from __future__ import annotations

import contextlib
import copy
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import completion, datagram_socket, pending, run, succeed

import unio

CHANGES: dict[str, Callable[[Any, Any], None]] = {
    "handle": lambda operation, other: setattr(operation, "handle", other),
    "the same handle": lambda operation, _: setattr(operation, "handle", operation.handle),
    "no handle": lambda operation, _: setattr(operation, "handle", None),
    "key": lambda operation, _: setattr(operation, "key", "changed"),
    "transferred": lambda operation, _: setattr(operation, "transferred", 3),
    "error": lambda operation, _: setattr(operation, "error", OSError()),
    "made anew": lambda operation, other: type(operation).__init__(operation, other, bytearray(1)),
}


@pytest.mark.clause("S5", "S3")
@pytest.mark.parametrize("change", CHANGES)
def test_nothing_of_an_operation_in_flight_can_be_changed(port: unio.Port, make_pair: Any, change: str) -> None:
    near, far = make_pair()
    other, _ = make_pair()
    handle, second = port.associate(near, "key"), port.associate(other, "other key")
    recv: Any = unio.Recv(handle, bytearray(8))
    port.submit(recv)
    with pytest.raises(unio.InFlight):
        CHANGES[change](recv, second)
    far.send(b"data")
    assert completion(port) == ("key", recv, 4, None)
    assert bytes(recv.data) == b"data"
    assert recv.handle is handle


@pytest.mark.clause("S5", "S1")
@pytest.mark.parametrize("kind", ["accept", "connect", "poll", "process_exit", "recv_from", "send", "timer"])
def test_no_kind_of_operation_can_be_given_another_key_or_handle_in_flight(
    port: unio.Port, resources: contextlib.ExitStack, tmp_path: Path, kind: str
) -> None:
    operation = pending(kind, port, resources, tmp_path)
    port.submit(operation)
    for name in ("handle", "key", "transferred", "error"):
        with pytest.raises(unio.InFlight):
            setattr(operation, name, getattr(operation, name))
    assert port.cancel(operation)
    assert completion(port).operation is operation


@pytest.mark.clause("S3", "C1")
def test_an_idle_operation_takes_another_handle_of_its_kind_and_nothing_else(
    port: unio.Port, make_pair: Any, make_port: Callable[[], unio.Port], resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    (near, _), (other, far), (foreign, _) = make_pair(), make_pair(), make_pair()
    file = resources.enter_context(unio.open(tmp_path / "file", "w+b"))
    recv: Any = unio.Recv(port.associate(near, "first"), bytearray(8))
    wrong: Any
    for wrong in (None, port.associate(file), near, 7, "handle"):
        with pytest.raises(TypeError):
            recv.handle = wrong
    recv.handle = second = port.associate(other, "second")
    far.send(b"data")
    assert run(port, recv) == ("second", recv, 4, None)
    assert recv.handle is second
    recv.handle = make_port().associate(foreign)
    with pytest.raises(unio.NotAssociated):
        port.submit(recv)
    assert not recv.in_flight


@pytest.mark.clause("S3")
def test_what_has_no_handle_takes_none(port: unio.Port, make_pair: Any) -> None:
    near, _ = make_pair()
    handle = port.associate(near)
    timer = unio.Timer(0, "key")
    with pytest.raises(TypeError, match="Timer works on no handle"):
        timer.handle = handle
    assert succeed(port, timer) == ("key", timer, 0, None)


@pytest.mark.clause("S3")
def test_another_handle_has_to_fit_the_address(port: unio.Port, resources: contextlib.ExitStack) -> None:
    receiver = resources.enter_context(datagram_socket())
    sender = port.associate(resources.enter_context(datagram_socket()))
    send = unio.SendTo(sender, b"x", receiver.getsockname())
    if hasattr(socket, "AF_UNIX"):
        local = resources.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        with pytest.raises(TypeError, match="AF_UNIX"):
            send.handle = port.associate(local)
    send.handle = port.associate(resources.enter_context(datagram_socket()))
    succeed(port, send)
    assert receiver.recv(8) == b"x"


@pytest.mark.clause("C1", "S3")
def test_the_key_of_an_idle_operation_is_the_programs_to_choose(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    recv = unio.Recv(port.associate(near, "handle's"), bytearray(8))
    recv.key = chosen = object()
    far.send(b"x")
    assert run(port, recv).key is chosen
    recv.transferred, recv.error = 0, None
    for wrong in ("1", 1.5, None):
        with pytest.raises(TypeError):
            recv.transferred = wrong  # type: ignore[assignment]


@pytest.mark.clause("S1")
@pytest.mark.parametrize("in_flight", [False, True])
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_an_operation_and_what_it_works_on_can_be_neither_copied_nor_pickled(
    port: unio.Port, make_pair: Any, how: Callable[[object], object], in_flight: bool
) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    recv = unio.Recv(handle, bytearray(8))
    if in_flight:
        port.submit(recv)
    for each in (recv, handle, port, unio.Timer(0)):
        with pytest.raises(TypeError, match="can't be copied or pickled"):
            how(each)
    far.send(b"data")
    if not in_flight:
        port.submit(recv)
    assert completion(port) == (None, recv, 4, None)

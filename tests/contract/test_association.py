"""The clauses A of the contract: what can join a port, and what a handle's number means once it is closed."""

from __future__ import annotations

import contextlib
import io
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from descriptors import open_descriptors
from platforms import WINDOWS, needs_plain_close
from support import (
    PATIENCE,
    assert_cancelled,
    assert_idle,
    assert_nothing_comes,
    batch,
    completion,
    completions,
    in_threads,
    recv_exactly,
    reuse,
    run,
    succeed,
)

import unio

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="descriptors are POSIX's")


# Clause A1: one port, once


@pytest.mark.clause("A1")
def test_a_second_association_is_refused_by_the_same_port_and_by_another(make_port: Any, make_pair: Any) -> None:
    port, other = make_port(), make_port()
    near, far = make_pair()
    handle = port.associate(near, "first")
    operation = unio.Recv(handle, bytearray(8))
    port.submit(operation)
    for again in (port, other):
        for form in (near, near.fileno(), handle):
            with pytest.raises(unio.AssociationError):
                again.associate(form, "second")
    far.send(b"data")
    assert completion(port) == ("first", operation, 4, None)
    assert not handle.closed
    assert_idle(other)


@posix_only
@pytest.mark.clause("A1")
def test_a_number_that_has_joined_has_joined_as_an_object_too(port: unio.Port, make_pair: Any) -> None:
    near, _ = make_pair()
    handle = port.associate(near.fileno(), "number")
    with pytest.raises(unio.AssociationError):
        port.associate(near, "object")
    assert succeed(port, unio.Send(handle, b"x")).key == "number"


@pytest.mark.clause("A1", "P7")
def test_a_handle_that_has_joined_a_port_that_is_closed_now_joins_no_other(make_port: Any, make_pair: Any) -> None:
    port, other = make_port(), make_port()
    near, _far = make_pair()
    handle = port.associate(near)
    port.close()
    for form in (near, near.fileno()):
        with pytest.raises(unio.AssociationError):
            other.associate(form)
    assert handle.object is near


@pytest.mark.clause("A1")
def test_of_many_associations_at_once_one_wins(make_port: Any, make_pair: Any) -> None:
    ports = [make_port() for _ in range(4)]

    def associate(number: int) -> unio.Handle | None:
        try:
            return ports[number % 4].associate(near, number)
        except unio.AssociationError:
            return None

    for _ in range(20):
        near, _far = make_pair(local=True)
        handles = in_threads(8, associate)
        [handle] = [each for each in handles if each is not None]
        port = ports[handle.key % 4]
        assert succeed(port, unio.Send(handle, b"x")).key == handle.key
        handle.close()


@pytest.mark.clause("A1")
@pytest.mark.parametrize("kind", ["socket", "pipe", "file"])
def test_the_key_and_the_object_are_on_the_handle(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack, tmp_path: Path, kind: str
) -> None:
    given: Any
    if kind == "socket":
        given, _ = make_pair()
    elif kind == "pipe":
        given, writer = unio.pipe()
        resources.enter_context(given)
        resources.enter_context(writer)
    else:
        given = resources.enter_context(unio.open(tmp_path / "file", "wb"))
    handle = port.associate(given, ["key"])
    assert handle.key == ["key"]
    assert handle.object is given
    assert handle.kind.value == kind
    assert handle.fileno() == given.fileno()
    assert not handle.closed
    assert kind in repr(handle)


# Clause A2: fit for overlapped work, or refused


@posix_only
@pytest.mark.clause("A2")
def test_sockets_and_pipes_become_non_blocking(
    port: unio.Port, make_pair: Any, make_listener: Any, resources: contextlib.ExitStack
) -> None:
    reader, writer = unio.pipe()
    resources.enter_context(reader)
    resources.enter_context(writer)
    near, far = make_pair()
    local, _ = make_pair(local=True)
    for given in (near, local, make_listener(), reader, writer):
        port.associate(given)
        assert not os.get_blocking(given.fileno())
    assert near.gettimeout() == 0
    port.associate(far.fileno())
    assert not os.get_blocking(far.fileno())


class WithoutNumber:
    def fileno(self) -> int:
        return -1


class WithWrongNumber:
    def fileno(self) -> str:
        return "3"


class NoFile:
    pass


def a_directory(resources: contextlib.ExitStack) -> Any:
    number = os.open(".", os.O_RDONLY)
    resources.callback(os.close, number)
    return number


def a_device(resources: contextlib.ExitStack) -> Any:
    return resources.enter_context(io.FileIO(os.devnull, "r+"))


def a_closed_socket(resources: contextlib.ExitStack) -> Any:
    sock = socket.socket()
    sock.close()
    return sock


def a_detached_socket(resources: contextlib.ExitStack) -> Any:
    sock = socket.socket()
    os.close(sock.detach())
    return sock


def a_closed_file(resources: contextlib.ExitStack) -> Any:
    with io.FileIO(__file__) as file:
        return file


def an_epoll_object(resources: contextlib.ExitStack) -> Any:
    if not hasattr(select, "epoll"):
        pytest.skip("this system has no epoll")
    return resources.enter_context(select.epoll())


def an_eventfd(resources: contextlib.ExitStack) -> Any:
    if not hasattr(os, "eventfd"):
        pytest.skip("this system has no eventfd")
    number = os.eventfd(0)
    resources.callback(os.close, number)
    return number


REFUSED: dict[str, Callable[[contextlib.ExitStack], Any]] = {
    "directory": a_directory,
    "device": a_device,
    "closed socket": a_closed_socket,
    "detached socket": a_detached_socket,
    "closed file": a_closed_file,
    "epoll object": an_epoll_object,
    "eventfd": an_eventfd,
    "negative number": lambda _: -1,
    "very negative number": lambda _: -(2**40),
    "number that is not open": lambda _: 1_000_000,
    "number beyond what a descriptor can be": lambda _: 2**70,
    "object without a number": lambda _: WithoutNumber(),
}


@posix_only
@pytest.mark.process_wide
@pytest.mark.clause("A2")
@pytest.mark.parametrize("which", REFUSED)
def test_what_can_do_no_overlapped_work_is_refused_and_nothing_has_changed(
    port: unio.Port, resources: contextlib.ExitStack, which: str
) -> None:
    given = REFUSED[which](resources)
    number = given if isinstance(given, int) else -1
    if not isinstance(given, int):
        with contextlib.suppress(ValueError):
            number = given.fileno()
    blocking = os.get_blocking(number) if 0 <= number < 1000 else None
    before = open_descriptors()
    for _ in range(3):
        with pytest.raises(unio.AssociationError) as caught:
            port.associate(given, "key")
        assert isinstance(caught.value, ValueError)
    assert open_descriptors() == before
    if blocking is not None:
        assert os.get_blocking(number) == blocking
    assert_idle(port)


@pytest.mark.process_wide
@pytest.mark.clause("A2")
@pytest.mark.parametrize(
    "given",
    ["text", b"bytes", None, 1.5, [], NoFile(), NoFile, WithWrongNumber(), True],
    ids=lambda given: str(given)[:8],
)
def test_what_is_no_handle_at_all_is_a_type_error(port: unio.Port, given: Any) -> None:
    before = open_descriptors()
    with pytest.raises(TypeError):
        port.associate(given, "key")
    assert open_descriptors() == before


@pytest.mark.clause("A2")
def test_what_was_refused_once_is_not_taken_for_joined(make_port: Any, make_pair: Any) -> None:
    port, other = make_port(), make_port()
    near, _ = make_pair()
    port.close()
    with pytest.raises(unio.PortClosed):
        port.associate(near)
    assert near.gettimeout() == PATIENCE
    assert succeed(other, unio.Send(other.associate(near, "key"), b"x")).key == "key"


# Clause A3: a handle is its association, not its number


@posix_only
@pytest.mark.process_wide
@pytest.mark.clause("A3")
def test_a_number_reused_after_a_close_gets_nothing_of_its_predecessor(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack
) -> None:
    near, far = make_pair()
    number = near.fileno()
    handle = port.associate(near, "old")
    old = unio.Recv(handle, bytearray(8))
    port.submit(old)
    far.send(b"old data")  # on its way when the close comes
    handle.close()
    new_near, new_far = reuse(number, resources)
    new_handle = port.associate(new_near, "new")
    assert new_handle.fileno() == number
    new = unio.Recv(new_handle, bytearray(8))
    port.submit(new)
    found = completion(port)
    assert (found.key, found.operation) == ("old", old)
    assert_nothing_comes(port)
    new_far.send(b"new")
    assert completion(port) == ("new", new, 3, None)
    assert bytes(new.buffer[:3]) == b"new"
    assert handle.closed
    assert handle.fileno() == -1
    assert_cancelled(run(port, unio.Recv(handle, bytearray(8))))
    assert_nothing_comes(port, 0.02)


@posix_only
@pytest.mark.clause("A3")
@pytest.mark.process_wide
def test_a_handle_closed_and_its_number_reused_while_a_batch_is_handled(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack
) -> None:
    # Both have something in what the kernel reported at once; the first completion leads to the end of the other
    # handle and to a successor with its number.
    for _ in range(10):
        pairs = [make_pair(local=True) for _ in range(8)]
        handles = [port.associate(near, number) for number, (near, _) in enumerate(pairs)]
        for handle in handles:
            port.submit(unio.Recv(handle, bytearray(1)))
        for _, far in pairs:
            far.send(b"x")
        first = batch(port, limit=1)[0]
        successors = []
        for handle in handles:
            if handle.key != first.key:
                number = handle.fileno()
                handle.close()
                near, far = reuse(number, resources)
                successor = port.associate(near, ("successor", handle.key))
                port.submit(unio.Recv(successor, bytearray(1)))
                successors.append((successor, far))
        found = completions(port, len(pairs) - 1)
        assert sorted(each.key for each in found) == sorted({*range(8)} - {first.key})
        assert_idle(port)
        for successor, far in successors:
            far.send(b"y")
            assert completion(port).key == successor.key
            successor.close()
        handles[first.key].close()


@posix_only
@pytest.mark.clause("A3", "X3")
@pytest.mark.parametrize("form", ["object", "number"])
@pytest.mark.process_wide
def test_a_number_reused_behind_the_port_gets_nothing_of_its_predecessor(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack, form: str
) -> None:
    near, _far = make_pair()
    number = near.fileno()
    handle = port.associate(near if form == "object" else near.detach(), "old")
    operation = unio.Recv(handle, bytearray(8))
    port.submit(operation)
    if form == "object":
        near.close()
    else:
        os.close(number)
    new_near, new_far = reuse(number, resources)
    new_far.send(b"for the new one")
    found = completion(port)
    assert found.operation is operation
    assert_cancelled(found)
    assert recv_exactly(new_near, 15) == b"for the new one"
    assert new_near.gettimeout() == PATIENCE
    successor = port.associate(new_near, "new")
    port.submit(unio.Recv(successor, bytearray(8)))
    assert_nothing_comes(port)
    new_far.send(b"again")
    assert completion(port)[::2] == ("new", 5)


@posix_only
@pytest.mark.process_wide
@pytest.mark.clause("A3", "X3")
def test_a_number_overwritten_behind_the_port_joins_anew_at_once(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack
) -> None:
    near, _far = make_pair()
    number = near.detach()
    old = unio.Recv(port.associate(number, "old"), bytearray(8))
    port.submit(old)
    new_near, new_far = reuse(number, resources)  # dup2 closes what was there
    new = unio.Recv(port.associate(new_near, "new"), bytearray(8))
    port.submit(new)
    new_far.send(b"data")
    found = {each.key: each for each in completions(port, 2)}
    assert_cancelled(found["old"])
    assert found["new"] == ("new", new, 4, None)


@pytest.mark.clause("A3")
@pytest.mark.parametrize("close", ["through unio", pytest.param("behind the port", marks=needs_plain_close)])
def test_a_duplicate_that_lives_on_does_not_keep_a_closed_handle_firing(
    port: unio.Port, make_pair: Any, close: str
) -> None:
    near, far = make_pair()
    duplicate = near.dup()
    with duplicate:
        handle = port.associate(near)
        port.submit(unio.Recv(handle, bytearray(8)))
        handle.close() if close == "through unio" else near.close()
        assert_cancelled(completion(port))
        for _ in range(3):
            far.send(b"data")
            assert_nothing_comes(port, 0.05)
        duplicate.settimeout(PATIENCE)
        assert recv_exactly(duplicate, 12) == b"data" * 3


@pytest.mark.skipif(not WINDOWS, reason="elsewhere a plain close counts whatever duplicates there are")
@pytest.mark.clause("X3")
def test_what_is_in_flight_beside_a_duplicate_ends_with_the_last_plain_close(port: unio.Port, make_pair: Any) -> None:
    near, _far = make_pair()
    with near.dup():
        port.submit(unio.Recv(port.associate(near), bytearray(8)))
        near.close()
        assert_nothing_comes(port)
    assert_cancelled(completion(port))


@posix_only
@pytest.mark.process_wide
@pytest.mark.clause("A3")
@pytest.mark.parametrize("close", ["through unio", "behind the port"])
def test_a_duplicate_that_lives_on_does_not_disturb_the_successor_of_the_number(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack, close: str
) -> None:
    near, far = make_pair()
    number = near.fileno()
    with near.dup():
        handle = port.associate(near, "old")
        handle.close() if close == "through unio" else near.close()
        new_near, new_far = reuse(number, resources)
        successor = port.associate(new_near, "new")
        operation = unio.Recv(successor, bytearray(8))
        port.submit(operation)
        for _ in range(3):
            far.send(b"old")
            assert_nothing_comes(port, 0.05)
        new_far.send(b"new")
        assert completion(port) == ("new", operation, 3, None)


@posix_only
@pytest.mark.clause("A3")
def test_what_a_duplicate_does_not_do_an_associated_duplicate_does(port: unio.Port, make_pair: Any) -> None:
    # A duplicate has a number of its own, so that it is a handle of its own.
    near, far = make_pair()
    with near.dup() as duplicate:
        first, second = port.associate(near, "first"), port.associate(duplicate, "second")
        operation = unio.Recv(second, bytearray(8))
        port.submit(operation)
        first.close()
        far.send(b"data")
        assert completion(port) == ("second", operation, 4, None)


@posix_only
@pytest.mark.clause("A3")
@pytest.mark.parametrize("close", ["through unio", "behind the port"])
@pytest.mark.process_wide
def test_a_process_that_inherited_the_descriptor_does_not_keep_a_closed_handle_firing(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack, close: str
) -> None:
    near, far = make_pair()
    number = near.fileno()
    command = [sys.executable, "-S", "-E", "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[number]) as process:
        handle = port.associate(near, "old")
        port.submit(unio.Recv(handle, bytearray(8)))
        handle.close() if close == "through unio" else near.close()
        assert_cancelled(completion(port))
        far.send(b"data")
        assert_nothing_comes(port)
        new_near, new_far = reuse(number, resources)
        port.submit(unio.Recv(port.associate(new_near, "new"), bytearray(8)))
        far.send(b"data")
        assert_nothing_comes(port)
        new_far.send(b"x")
        assert completion(port)[::2] == ("new", 1)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


@posix_only
@pytest.mark.clause("A3", "L2")
@pytest.mark.process_wide
def test_handles_come_and_go_without_leaving_anything_behind(port: unio.Port, backend: str) -> None:
    before = open_descriptors()
    for number in range(300):
        near, far = socket.socketpair()
        with far:
            handle = port.associate(near, number)
            port.submit(unio.Recv(handle, bytearray(1)))
            if number % 3 == 0:
                far.send(b"x")
            if number % 20:
                handle.close()
            else:
                near.close()
            found = completion(port)
            assert found.key == number
    assert open_descriptors() == before
    assert_idle(port)


# Clause A4: closing an idle handle


@pytest.mark.clause("A4")
@pytest.mark.parametrize("used", [False, True])
def test_closing_an_idle_socket_queues_nothing(port: unio.Port, make_pair: Any, *, used: bool) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    if used:
        far.send(b"data")
        succeed(port, unio.Recv(handle, bytearray(8)))
        succeed(port, unio.Send(handle, b"data"))
        recv_exactly(far, 4)
    handle.close()
    handle.close()
    assert far.recv(1) == b"", "the peer sees it closed"
    assert handle.closed
    assert handle.fileno() == -1
    assert near.fileno() == -1
    assert_nothing_comes(port, 0.02)
    port.post("next")
    assert completion(port).key == "next"


@pytest.mark.clause("A4")
def test_closing_idle_pipes_and_files_queues_nothing(port: unio.Port, tmp_path: Path) -> None:
    reader, writer = unio.pipe()
    file = unio.open(tmp_path / "file", "wb")
    for given in (reader, writer, file):
        handle = port.associate(given)
        handle.close()
        assert handle.closed
        assert given.closed
    assert_nothing_comes(port, 0.02)


@posix_only
@pytest.mark.clause("A4")
def test_closing_a_handle_that_was_given_as_a_number_closes_the_number(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near.detach())
    handle.close()
    assert far.recv(1) == b""
    assert_idle(port)


@pytest.mark.clause("A4")
def test_closing_an_idle_object_behind_the_port_queues_nothing(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    near.close()
    assert far.recv(1) == b""
    assert_nothing_comes(port)
    assert handle.closed
    handle.close()


@pytest.mark.clause("A1")
def test_only_a_port_makes_handles() -> None:
    with pytest.raises(TypeError, match=r"Port\.associate"):
        unio.Handle()


@pytest.mark.clause("X3")
def test_a_handle_is_closed_at_the_end_of_a_with_block(port: unio.Port, make_pair: Any) -> None:
    near, _far = make_pair()
    recv = None
    with contextlib.suppress(ZeroDivisionError), port.associate(near) as handle:
        recv = unio.Recv(handle)
        port.submit(recv)
        raise ZeroDivisionError
    assert handle.closed
    assert near.fileno() == -1
    assert type(completion(port).error) is unio.Cancelled

"""An error keeps nothing alive: what a program drops is gone at once, without the garbage collection."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket
import subprocess
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import support
from platforms import needs_parentage, needs_rlimit
from wine import wine_row

import unio

pytestmark = pytest.mark.process_wide  # the garbage collection is off


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Token:
    """Something of the program's."""


class Wrong:
    """A file that is none."""

    def fileno(self) -> int:
        raise LookupError("it has no number")


class Scene:
    """What an operation is made of that is to fail."""

    def __init__(self, port: unio.Port, resources: contextlib.ExitStack, directory: Path) -> None:
        self.port = port
        self.resources = resources
        self.path = directory / "file"
        self.path.write_bytes(b"data")

    def keep(self, thing: Any) -> Any:
        return self.resources.enter_context(thing)

    def handle(self, thing: Any) -> unio.Handle:
        return self.port.associate(self.keep(thing))

    def pair(self) -> tuple[unio.Handle, socket.socket]:
        near, far = support.tcp_pair()
        return self.handle(near), self.keep(far)


def receive_of_a_reset(scene: Scene) -> unio.Operation:
    handle, far = scene.pair()
    support.reset(far)
    return unio.Recv(handle, bytearray(8))


def send_after_the_end(scene: Scene) -> unio.Operation:
    handle, _ = scene.pair()
    support.succeed(scene.port, unio.Shutdown(handle))
    return unio.Send(handle, b"data")


def connect_to_nobody(scene: Scene) -> unio.Operation:
    with support.listener() as listening:
        address = listening.getsockname()
    return unio.Connect(scene.handle(socket.socket()), address)


def large_datagram(scene: Scene) -> unio.Operation:
    near = support.datagram_socket()
    handle = scene.handle(near)
    with support.datagram_socket() as far:
        far.sendto(b"a datagram", near.getsockname())
    return unio.RecvFrom(handle, bytearray(4))


def too_large_a_datagram(scene: Scene) -> unio.Operation:
    near = support.datagram_socket()
    return unio.SendTo(scene.handle(near), bytes(100_000), near.getsockname())


def shutdown_of_the_unconnected(scene: Scene) -> unio.Operation:
    return unio.Shutdown(scene.handle(socket.socket()))


def disconnect_of_the_unconnected(scene: Scene) -> unio.Operation:
    return unio.Disconnect(scene.handle(socket.socket()))


def read_of_a_file_for_writing(scene: Scene) -> unio.Operation:
    return unio.Read(scene.handle(unio.open(scene.path, "wb")), bytearray(4), 0)


def write_to_a_file_for_reading(scene: Scene) -> unio.Operation:
    return unio.Write(scene.handle(unio.open(scene.path)), b"data", 0)


def send_of_a_file_for_writing(scene: Scene) -> unio.Operation:
    return unio.SendFile(scene.pair()[0], scene.keep(unio.open(scene.path, "wb")), 0, 4)


def send_of_no_file(scene: Scene) -> unio.Operation:
    return unio.SendFile(scene.pair()[0], Wrong(), 0, 4)


def exit_of_no_process(scene: Scene) -> unio.Operation:
    return unio.ProcessExit(2**31 - 1)  # a number that a process could have, but none gets


def exit_of_what_can_be_no_process(scene: Scene) -> unio.Operation:
    return unio.ProcessExit(2**40)


MAKERS: list[Any] = [
    receive_of_a_reset,
    send_after_the_end,
    connect_to_nobody,
    large_datagram,
    too_large_a_datagram,
    shutdown_of_the_unconnected,
    disconnect_of_the_unconnected,
    read_of_a_file_for_writing,
    write_to_a_file_for_reading,
    pytest.param(send_of_a_file_for_writing, marks=wine_row("unreadable-file")),
    send_of_no_file,
    exit_of_no_process,
    exit_of_what_can_be_no_process,
]


def leave(operation: unio.Operation, error: BaseException | None) -> list[weakref.ref[Any]]:
    """What is to be dead when the caller's frame is gone: an operation that failed, and what it has."""
    assert isinstance(error, OSError)
    assert error is operation.error
    assert error.__traceback__ is error.__context__ is None
    if cause := error.__cause__:
        assert cause.__traceback__ is cause.__context__ is None
    operation.state = Token()
    return [weakref.ref(operation), weakref.ref(operation.state)]


def all_dead(left: list[weakref.ref[Any]]) -> None:
    # Another thread, which has carried the operation out, may just be about to let go of it.
    support.until(lambda: not any(each() for each in left))


@pytest.mark.clause("C2", "S6")
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("waits", [True, False])
def test_an_operation_that_failed_goes_when_it_is_dropped(
    backend: str, resources: contextlib.ExitStack, tmp_path: Path, make: Callable[[Scene], unio.Operation], waits: bool
) -> None:
    def fail() -> list[weakref.ref[Any]]:
        with unio.Port(backend=backend) as port:
            operation = make(Scene(port, resources, tmp_path))
            if waits:  # what this thread submits may be gathered
                port.post("key")
                support.completion(port)
            return [*leave(operation, support.run(port, operation).error), weakref.ref(port)]

    all_dead(fail())


@pytest.mark.clause("O1", "C2")
@needs_rlimit
def test_an_accept_that_finds_no_descriptor_goes_when_it_is_dropped(
    backend: str, resources: contextlib.ExitStack, make_listener: Any
) -> None:
    import resource  # noqa: PLC0415 - Windows has neither the module nor the limit

    def fail() -> list[weakref.ref[Any]]:
        with unio.Port(backend=backend) as port:
            operation = unio.Accept(port.associate(listening))
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            lowest = os.dup(client.fileno())
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                found = support.run(port, operation)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert found.error is not None
            assert found.error.errno == errno.EMFILE
            return leave(operation, found.error)

    listening = make_listener()
    client = resources.enter_context(support.connect(listening))
    all_dead(fail())


@pytest.mark.clause("O13", "C2")
@needs_parentage
def test_an_exit_whose_status_another_has_taken_goes_when_it_is_dropped(
    backend: str, resources: contextlib.ExitStack
) -> None:
    def fail() -> list[weakref.ref[Any]]:
        with unio.Port(backend=backend) as port:
            operation = unio.ProcessExit(child.pid)
            port.submit(operation)
            child.kill()
            child.wait()
            found = support.completion(port)
            assert isinstance(found.error, ChildProcessError)
            return leave(operation, found.error)

    command = [sys.executable, "-S", "-E", "-c", "input()"]
    child = resources.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE))
    all_dead(fail())


@pytest.mark.clause("S8", "X1", "X3")
@pytest.mark.parametrize("how", ["cancel", "close", "time-out", "plain close"])
def test_one_that_was_ended_goes_when_it_is_dropped(backend: str, make_pair: Any, how: str) -> None:
    def end() -> list[weakref.ref[Any]]:
        near, _ = make_pair()
        with unio.Port(backend=backend) as port:
            handle = port.associate(near)
            operation = unio.Recv(handle, bytearray(8))
            port.submit(operation, 0.001 if how == "time-out" else None)
            if how == "cancel":
                port.cancel(operation)
            elif how == "close":
                handle.close()
            elif how == "plain close":
                near.close()
            return [*leave(operation, support.completion(port).error), weakref.ref(port)]

    all_dead(end())


@pytest.mark.clause("C2")
def test_the_error_that_the_program_deals_with_is_left_alone(backend: str, make_pair: Any) -> None:
    def fail() -> list[weakref.ref[Any]]:
        near, _ = make_pair()
        with unio.Port(backend=backend) as port:
            handle = port.associate(near)
            operation = unio.SendFile(handle, Wrong(), 0, 4)
            try:
                Wrong().fileno()
            except LookupError:
                found = support.run(port, operation)
                is_whole = sys.exc_info()[2] is not None
            assert is_whole
            assert isinstance(found.error, OSError)
            assert found.error.errno == errno.EBADF
            return leave(operation, found.error)

    all_dead(fail())


CALLS: dict[str, Callable[[unio.Port, unio.Operation], object]] = {
    "associate": lambda port, operation: port.associate(operation.handle.object),
    "cancel": lambda port, operation: port.cancel(operation),
    "start_gathered": lambda port, operation: port.start_gathered(),
    "post": lambda port, operation: port.post("key"),
    "submit": lambda port, operation: port.submit(operation),
    "wait": lambda port, operation: port.wait(),
    "cancel of a handle": lambda port, operation: operation.handle.cancel(),
}


@pytest.mark.clause("P7", "S3")
@pytest.mark.parametrize("call", CALLS)
def test_a_closed_port_goes_when_it_is_dropped_however_often_it_has_refused(
    backend: str, resources: contextlib.ExitStack, make_pair: Any, call: str
) -> None:
    def refuse() -> list[weakref.ref[Any]]:
        near, _ = make_pair()
        port = unio.Port(backend=backend)
        operation = unio.Recv(port.associate(near), bytearray(8))
        port.close()
        depths = set()
        for _ in range(3):
            try:
                CALLS[call](port, operation)
            except unio.PortClosed as error:
                depths.add(len(list(traceback.walk_tb(error.__traceback__))))
        assert len(depths) == 1, "it is a new error each time, which has come through the same frames"
        return [weakref.ref(port), weakref.ref(operation)]

    all_dead(refuse())


@pytest.mark.clause("S3")
def test_what_was_refused_goes_when_it_is_dropped(backend: str, make_pair: Any) -> None:
    def refuse() -> list[weakref.ref[Any]]:
        near, _ = make_pair()
        with unio.Port(backend=backend) as port, unio.Port(backend=backend) as other:
            operation = unio.Recv(port.associate(near), bytearray(8))
            port.submit(operation)
            for wrong in (port.submit, other.submit):
                with contextlib.suppress(unio.InFlight, unio.NotAssociated):
                    wrong(operation)
            with contextlib.suppress(unio.AssociationError):
                other.associate(near)
            return [weakref.ref(each) for each in (port, other, operation)]

    all_dead(refuse())

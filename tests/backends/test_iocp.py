"""What the IOCP backend says to Windows, where no result would show here that it was not said, and what it keeps."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from descriptors import open_handles
from support import arrived, completion, completions, connect, pending, run, succeed, until

import unio

if sys.platform == "win32":
    from unio.backends import iocp
    from unio.backends.kernel import win32
    from unio.backends.kernel.win32_api import ffi
    from unio.backends.windows import operations, sockets, submissions

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="IOCP is Windows'")

STATUS_PENDING = 0x103
SO_UPDATE_ACCEPT_CONTEXT = 0x700B
SO_UPDATE_CONNECT_CONTEXT = 0x7010


class Listening:
    """A library of Windows', and what it was told of the options of sockets."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self.told: list[tuple[int, int, int | None]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def setsockopt(self, number: int, level: int, option: int, value: Any, size: int) -> int:
        about = int(ffi.cast("SOCKET *", value)[0]) if size == ffi.sizeof("SOCKET") else None
        if level == socket.SOL_SOCKET:
            self.told.append((number, option, about))
        result: int = self._library.setsockopt(number, level, option, value, size)
        return result


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Listening:
    made = Listening(sockets.ws2_32)
    monkeypatch.setattr(sockets, "ws2_32", made)
    return made


def test_the_accepted_socket_is_told_its_listener(
    port: unio.Port, listening: Listening, make_listener: Callable[[], socket.socket]
) -> None:
    # Without it getpeername and shutdown fail on Windows; Wine lets them pass.
    listener = make_listener()
    accept = unio.Accept(port.associate(listener))
    with connect(listener):
        succeed(port, accept)
        with accept.socket:
            wanted = (accept.socket.fileno(), SO_UPDATE_ACCEPT_CONTEXT, listener.fileno())
            assert listening.told == [wanted]


def test_the_connected_socket_is_told_that_it_is(
    port: unio.Port, listening: Listening, make_listener: Callable[[], socket.socket]
) -> None:
    # Without it shutdown and getpeername fail on Windows; Wine lets them pass.
    listener = make_listener()
    with socket.socket() as sock:
        succeed(port, unio.Connect(port.associate(sock), listener.getsockname()))
        assert listening.told == [(sock.fileno(), SO_UPDATE_CONNECT_CONTEXT, None)]


def test_an_accept_that_windows_refuses_is_told_that_its_socket_does_not_listen(
    port: unio.Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Wine lets it pend.
    monkeypatch.setitem(operations.STARTS, "accept", lambda *_: 10022)
    with socket.socket() as sock:
        error = run(port, unio.Accept(port.associate(sock))).error
    assert error is not None
    assert (error.errno, error.winerror) == (errno.EINVAL, 10022)
    assert "does not listen" in str(error)


def test_what_ends_short_goes_on_where_it_stopped(
    port: unio.Port, make_pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No Windows ends a send short that was not cancelled. Wine may, as the peer ends.
    near, far = make_pair()
    send = unio.Send(port.associate(near), b"0123456789")
    finish = operations.FINISHES["send"]
    counts = iter((4, 6))

    def start(handle: Any, operation: Any) -> int:
        """Give the device less than it was to get."""
        views = operation._views
        operation._made_views = (memoryview(b"0123"),) if not operation.transferred else views
        try:
            return start_send(handle, operation)
        finally:
            operation._made_views = views

    start_send = operations.STARTS["send"]
    monkeypatch.setitem(operations.STARTS, "send", start)
    monkeypatch.setitem(
        operations.FINISHES, "send", lambda handle, operation, code, _: finish(handle, operation, code, next(counts))
    )
    assert run(port, send) == (None, send, 10, None)
    near.close()
    assert far.recv(20) == b"0123456789"


class Clock:
    """A time that passes only where a thread sleeps in the kernel's queue."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[int] = []

    def monotonic(self) -> float:
        return self.now

    def fetch(self, _: int, milliseconds: int) -> tuple[()]:
        self.asked.append(milliseconds)
        self.now += max(milliseconds, 0.1) / 1000
        return ()


@pytest.mark.parametrize(("seconds", "milliseconds"), [(0.0004, 1), (0.0105, 11), (0.02, 20)])
def test_a_time_out_is_rounded_up(
    port: unio.Port, monkeypatch: pytest.MonkeyPatch, seconds: float, milliseconds: int
) -> None:
    # Rounded down it would not end early, as the clock is looked at; but for the rest of a millisecond it would spin.
    clock = Clock()
    monkeypatch.setattr(iocp.clock, "now", clock.monotonic)
    monkeypatch.setattr(iocp.KernelQueue, "fetch", lambda _, *arguments: clock.fetch(*arguments))
    assert port.wait(seconds) == []
    assert clock.asked == [milliseconds, 0]


def test_operations_are_found_without_a_search_and_none_is_left(port: unio.Port, make_pair: Any) -> None:
    """A small form of what the soaks do a million times: what was in flight is gone, with no help of the collector."""
    near, far = make_pair()
    handle = port.associate(near)

    def exchange(count: int) -> None:
        receives = [unio.Recv(handle, bytearray(1)) for _ in range(count)]
        for receive in receives:
            port.submit(receive)
        far.send(bytes(count))
        for receive in receives:
            assert completion(port).operation is receive
        for number in range(count):
            port.post(number)
            assert completion(port).key == number
            assert port.submit(unio.Timer(0)) is False
            completion(port)
        timer = unio.Timer(60)
        port.submit(timer)
        assert port.cancel(timer)
        completion(port)

    exchange(300)  # the first time fills caches
    gc.collect()
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        for _ in range(10):
            exchange(300)
        # One block for each operation would be 6,000.
        assert sys.getallocatedblocks() - before < 600
    finally:
        gc.enable()
    assert port.in_flight() == 0
    assert not gc.collect()


@pytest.mark.filterwarnings("ignore:.*was dropped with 20 operations in flight:ResourceWarning")
def test_a_port_that_the_garbage_collection_closes_within_the_wait_of_another_takes_nothing_from_it(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    near, far = map(resources.enter_context, socket.socketpair())
    handle = port.associate(near)
    receives = [unio.Recv(handle, bytearray(1), state=number) for number in range(20)]
    thresholds = gc.get_threshold()
    resources.callback(gc.set_threshold, *thresholds)
    for allocations in range(80):
        far.send(bytes(len(receives)))
        arrived(near)
        for receive in receives:
            port.submit(receive)
        idle, _ = map(resources.enter_context, socket.socketpair())
        dropped = unio.Port(backend=port.backend)
        waiting = dropped.associate(idle)
        for _ in receives:
            dropped.submit(unio.Recv(waiting, bytearray(1)))
        cycle: list[Any] = [dropped]
        cycle.append(cycle)
        del dropped, waiting, cycle
        gc.set_threshold(gc.get_count()[0] + allocations)
        found = port.wait(0)
        gc.set_threshold(*thresholds)
        gc.collect()
        found += completions(port, len(receives) - len(found))
        assert [each.operation for each in found] == receives


def test_a_watched_process_leaves_no_handle(port: unio.Port, resources: contextlib.ExitStack) -> None:
    watch = pending("process_exit", port, resources, Path())

    def watch_and_stop() -> None:
        port.submit(watch)
        assert port.cancel(watch)
        assert type(completion(port).error) is unio.Cancelled

    watch_and_stop()  # the first one starts a thread of Windows' own
    before = open_handles()
    for _ in range(50):
        watch_and_stop()
    until(lambda: open_handles() < before + 25)


def test_a_file_is_not_taken_for_the_socket_whose_handle_is_its_descriptor(
    port: unio.Port, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    near, _ = map(resources.enter_context, socket.socketpair())
    (tmp_path / "file").write_bytes(b"of the file")
    opened = resources.enter_context(unio.open(tmp_path / "file", "r+b"))
    file = resources.enter_context(open(os.dup2(opened.fileno(), near.fileno()), "r+b"))
    assert file.fileno() == near.fileno()
    read = unio.Read(port.associate(file), bytearray(20), 0)
    assert succeed(port, read).transferred == len(b"of the file")
    port.associate(near)


def test_a_flush_of_a_closed_file_is_not_one_of_the_file_that_has_its_number(port: unio.Port, tmp_path: Path) -> None:
    closed = unio.open(tmp_path / "closed", "w+b")
    flush = unio.Flush(port.associate(closed))
    closed.close()
    with unio.open(tmp_path / "next", "w+b"):
        assert type(run(port, flush).error) is unio.Cancelled


def test_what_windows_does_not_let_go_of_is_not_used_again(
    make_port: Callable[[], unio.Port], resources: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = make_port()
    near, far = map(resources.enter_context, socket.socketpair())
    receive = unio.Recv(port.associate(near), bytearray(8))
    port.submit(receive)
    kept = receive._native.pointer
    with monkeypatch.context() as patch:
        patch.setattr(submissions, "kernel32", Deaf(submissions.kernel32))
        port.close()
    other = make_port()
    near, _ = map(resources.enter_context, socket.socketpair())
    receive.handle = other.associate(near)
    receive.buffer = bytearray(8)
    other.submit(receive)
    far.send(b"late")
    until(lambda: kept.Internal != STATUS_PENDING)
    assert receive._native.pointer.Internal == STATUS_PENDING
    assert receive.in_flight
    assert other.cancel(receive)
    completion(other)


class Deaf:
    """A library of Windows' that ends no operation."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def CancelIoEx(self, *_: object) -> int:  # noqa: N802 - Microsoft's name
        return 1


@pytest.mark.parametrize(
    ("code", "name"),
    [(2, "ENOENT"), (19, "EROFS"), (23, "EIO"), (64, "ECONNRESET"), (112, "ENOSPC"), (223, "EFBIG"), (1117, "EIO")],
)
def test_a_code_of_windows_has_the_number_that_other_systems_give(code: int, name: str) -> None:
    error = win32.os_error(code)
    assert (error.errno, error.winerror) == (getattr(errno, name), code)


@pytest.mark.parametrize("name", ["accept", "recv", "send"])
@pytest.mark.parametrize("code", [10055, 1450])  # WSAENOBUFS, ERROR_NO_SYSTEM_RESOURCES
def test_what_memory_is_lacking_for_says_so_and_can_be_submitted_again(
    port: unio.Port, make_pair: Any, make_listener: Any, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    near, far = make_pair()
    listener = make_listener()
    handle = port.associate(near)
    operation = {
        "accept": lambda: unio.Accept(port.associate(listener)),
        "recv": lambda: unio.Recv(handle, bytearray(4)),
        "send": lambda: unio.Send(handle, b"data"),
    }[name]()

    def lacking(_: Any, started: unio.Operation) -> int:
        started._native.reset()
        return code

    with monkeypatch.context() as lack:
        lack.setitem(operations.STARTS, name, lacking)
        error = run(port, operation).error
    assert error is not None
    assert (error.errno, error.winerror) == (errno.ENOBUFS, code)
    far.send(b"data")
    with connect(listener):
        succeed(port, operation)
    if isinstance(operation, unio.Accept):
        operation.socket.close()

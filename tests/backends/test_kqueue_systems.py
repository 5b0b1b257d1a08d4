"""What macOS and the BSDs do otherwise than the double of kqueue and Linux, played to the backend.

Each test says which system does it. On that system itself, most of them find it there anyway.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support
from children import Child
from platforms import needs_fifo, needs_kqueue
from played import Fetch, play

import unio
from unio import backends
from unio.backends.kernel import kevent

pytestmark = needs_kqueue


@pytest.fixture
def port(resources: contextlib.ExitStack) -> unio.Port:
    return resources.enter_context(unio.Port(backend="kqueue"))


@pytest.fixture
def fifo(resources: contextlib.ExitStack, tmp_path: Path) -> tuple[io.FileIO, io.FileIO]:
    """Both ends of a FIFO: one open for reading alone, one for writing alone."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = resources.enter_context(io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "r"))
    return reader, resources.enter_context(io.FileIO(os.open(path, os.O_WRONLY), "w"))


def refuse(monkeypatch: pytest.MonkeyPatch, number: int, refused: Callable[[kevent.Change], bool]) -> None:
    """Have kqueue answer these changes with an error, and not make them."""
    change = kevent.Kqueue.change

    def refusing(kqueue: kevent.Kqueue, *changes: kevent.Change) -> list[int]:
        return [number if refused(each) else change(kqueue, each)[0] for each in changes]

    monkeypatch.setattr(kevent.Kqueue, "change", refusing)


# FIFOs


@needs_fifo
def test_a_fifo_is_asked_about_in_its_own_direction_alone(
    monkeypatch: pytest.MonkeyPatch, port: unio.Port, fifo: tuple[io.FileIO, io.FileIO]
) -> None:  # OpenBSD: fifo_kqfilter
    reader, writer = fifo
    wrong = {(reader.fileno(), kevent.dialect().write), (writer.fileno(), kevent.dialect().read)}
    refuse(monkeypatch, errno.EINVAL, lambda change: (change.ident, change.filter) in wrong)
    near, far = port.associate(reader), port.associate(writer)
    recv, send = unio.Recv(near, bytearray(1 << 16)), unio.Send(far, bytes(1 << 20))
    port.submit(recv)
    support.assert_nothing_comes(port)
    port.submit(send)  # more than it holds, so that each end has to hear of the other
    received, ended = 0, []
    while received < 1 << 20:
        found = support.completion(port)
        assert found.error is None
        ended.append(found.operation)
        if found.operation is recv:
            received += found.transferred
            port.submit(recv)
    assert send in ended or support.completion(port).operation is send


@needs_fifo
@pytest.mark.parametrize("kind", ["receive", "poll"])
def test_the_end_of_a_fifo_that_no_event_tells_is_found(
    monkeypatch: pytest.MonkeyPatch, resources: contextlib.ExitStack, fifo: tuple[io.FileIO, io.FileIO], kind: str
) -> None:  # macOS: closing the last writer makes no event for the readers
    reader, writer = fifo
    deaf = kevent.dialect()._replace(tells_of_fifos=False)
    for module in (kevent, backends.kqueue):
        monkeypatch.setattr(module, "dialect", lambda: deaf)
    timeouts: list[float | None] = []

    def wait(fetch: Fetch, timeout: float | None) -> list[kevent.Change]:
        timeouts.append(timeout)
        return [event for event in fetch() if not event.flags & kevent.EV_EOF]

    play(monkeypatch, wait)
    port = resources.enter_context(unio.Port(backend="kqueue"))
    handle = port.associate(reader)
    operation: unio.Operation = unio.Recv(handle, bytearray(4))
    if kind == "poll":
        operation = unio.Poll(handle, unio.Readiness.READABLE)
    waiter = support.Background(support.completion, port)
    port.submit(operation)
    support.until(lambda: len(timeouts) >= 3)  # it is looked for again and again
    writer.close()
    found = waiter.result()
    assert (found.operation, found.transferred, found.error) == (operation, 0, None)
    handle.close()

    def sleeps_long() -> bool:  # nobody is woken for one that is closed
        timeouts.clear()
        assert port.wait(0.2) == []
        return any(timeout is None or timeout > 2 * backends.kqueue.LOOK_SECONDS for timeout in timeouts)

    support.until(sleeps_long)


@pytest.mark.parametrize("direction", ["read", "write"])
def test_a_registration_that_fails_is_an_error_of_associate_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, port: unio.Port, resources: contextlib.ExitStack, direction: str
) -> None:
    near, far = map(resources.enter_context, support.local_pair())
    which = getattr(kevent.dialect(), direction)
    with monkeypatch.context() as refusing:
        refuse(refusing, errno.ENOMEM, lambda change: change.filter == which and bool(change.flags & kevent.EV_ADD))
        with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)):
            port.associate(near)
    assert near.gettimeout() == support.PATIENCE
    recv = unio.Recv(port.associate(near), bytearray(4))
    port.submit(recv)
    support.assert_nothing_comes(port)
    far.send(b"data")
    assert support.completion(port).transferred == 4


def fit_pair(port: unio.Port, resources: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    """Two ends; the first is fit to join, and no port remembers who had its number before: so C has it join."""
    near, far = support.local_pair()
    port.associate(near).close()
    near, other = map(resources.enter_context, socket.socketpair())
    near.setblocking(False)
    far.close()
    return near, other


@pytest.mark.parametrize("direction", ["read", "write"])
def test_so_it_is_of_a_socket_that_is_fit_already(
    monkeypatch: pytest.MonkeyPatch, resources: contextlib.ExitStack, direction: str
) -> None:
    which = getattr(kevent.dialect(), direction)
    answers: list[int] = []
    armed, added_again = set(), []

    def lacking(change: kevent.Change) -> int:
        if not change.flags & kevent.EV_ADD:
            armed.discard(change[:2])
            return 0
        if answers and change.filter == which:
            return answers.pop()
        if change[:2] in armed:
            added_again.append(change)
        armed.add(change[:2])
        return 0

    play(monkeypatch, answer=lacking)
    port: Any = resources.enter_context(unio.Port(backend="kqueue"))
    near, far = fit_pair(port, resources)
    answers += [errno.ENOMEM] * (1 + port.is_fast)  # once to C, and then to Python
    with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)):
        port.associate(near)
    assert not answers
    assert not added_again, "some would go on to report the serial number of before"
    recv = unio.Recv(port.associate(near), bytearray(4))
    port.submit(recv)
    support.assert_nothing_comes(port)
    far.send(b"data")
    assert support.completion(port).transferred == 4


def test_a_socket_whose_write_side_is_refused_because_nobody_reads_joins_all_the_same(
    monkeypatch: pytest.MonkeyPatch, resources: contextlib.ExitStack
) -> None:  # NetBSD: EBADF; FreeBSD: EPIPE
    asked: list[int] = []

    def gone(change: kevent.Change) -> int:
        if change.filter != kevent.dialect().write or not change.flags & kevent.EV_ADD:
            return 0
        asked.append(change.ident)
        return errno.EPIPE

    play(monkeypatch, answer=gone)
    port = resources.enter_context(unio.Port(backend="kqueue"))
    near, far = fit_pair(port, resources)
    asked.clear()
    recv = unio.Recv(port.associate(near), bytearray(4))
    assert asked == [near.fileno()]
    port.submit(recv)
    far.send(b"data")
    assert support.completion(port).transferred == 4


# Processes


def test_the_event_tells_the_status_where_python_has_no_waitid(
    monkeypatch: pytest.MonkeyPatch, port: unio.Port, child: Child
) -> None:
    monkeypatch.setattr(backends.kqueue, "HAS_WAITID", False)
    operation = unio.ProcessExit(child.pid)
    port.submit(operation)
    child.tell()
    assert support.completion(port).error is None
    assert operation.status == child.wait() == 7


@pytest.mark.parametrize("has_waitid", [True, False])
def test_a_child_that_ended_before_is_found_where_kqueue_knows_it_no_more(
    has_waitid: bool, monkeypatch: pytest.MonkeyPatch, port: unio.Port, child: Child
) -> None:
    child.tell()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    refuse(monkeypatch, errno.ESRCH, lambda change: change.filter == kevent.dialect().process)
    monkeypatch.setattr(backends.kqueue, "HAS_WAITID", has_waitid)
    operation = unio.ProcessExit(child)
    assert support.run(port, operation).error is None
    assert operation.status == child.wait() == 7
    gone = support.run(port, unio.ProcessExit(child.pid))
    assert isinstance(gone.error, ProcessLookupError)


@pytest.mark.parametrize("has_waitid", [True, False])
def test_a_child_that_is_on_its_way_to_its_end_is_waited_for(
    has_waitid: bool, monkeypatch: pytest.MonkeyPatch, port: unio.Port, child: Child
) -> None:  # macOS, NetBSD, OpenBSD: kqueue knows it no more, and it can't be waited for yet
    refuse(monkeypatch, errno.ESRCH, lambda change: change.filter == kevent.dialect().process)
    monkeypatch.setattr(backends.kqueue, "HAS_WAITID", has_waitid)
    first, second = unio.ProcessExit(child, "first"), unio.ProcessExit(child, "second")
    port.submit(first)
    port.submit(second)
    support.assert_nothing_comes(port)
    assert port.cancel(first)
    support.assert_cancelled(support.completion(port))
    child.tell()
    found = support.completion(port)
    assert (found.key, found.error, second.status) == ("second", None, 7)
    assert child.wait() == 7
    support.assert_nothing_comes(port)


def test_a_process_that_no_thread_can_be_started_for_is_an_error_and_the_next_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, port: unio.Port, child: Child
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    refuse(monkeypatch, errno.ESRCH, lambda change: change.filter == kevent.dialect().process)
    operation = unio.ProcessExit(child)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for _ in range(100):  # more than there may be threads
            error = support.run(port, operation).error
            assert error is not None
            assert error.errno == errno.EAGAIN
    port.submit(operation)
    child.tell()
    assert support.completion(port)[1:] == (operation, 0, None)
    assert operation.status == child.wait() == 7


def test_a_process_that_nobody_knows_is_not_found(
    monkeypatch: pytest.MonkeyPatch, port: unio.Port, child: Child
) -> None:
    child.tell()
    child.wait()
    for has_waitid in (True, False):
        monkeypatch.setattr(backends.kqueue, "HAS_WAITID", has_waitid)
        for number in (child.pid, 2**31, 2**70):
            assert isinstance(support.run(port, unio.ProcessExit(number)).error, ProcessLookupError)


def test_a_process_whose_status_is_not_told_is_no_child(
    monkeypatch: pytest.MonkeyPatch, port: unio.Port, child: Child
) -> None:  # macOS, with NOTE_EXITSTATUS
    refuse(monkeypatch, errno.EACCES, lambda change: change.filter == kevent.dialect().process)
    assert isinstance(support.run(port, unio.ProcessExit(child.pid)).error, ChildProcessError)
    child.tell()


def test_a_status_that_comes_later_than_the_end_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch, port: unio.Port, child: Child
) -> None:  # macOS, for a moment; and for as long as it takes who traces the process
    told = threading.Event()
    exit_status = backends.kqueue.exit_status

    def late(kind: int, number: int, options: int = 0) -> int | None:
        if not options & os.WNOHANG:
            assert told.wait(support.PATIENCE)
        return exit_status(kind, number, options) if told.is_set() else None

    monkeypatch.setattr(backends.kqueue, "exit_status", late)
    exit_, timer = unio.ProcessExit(child), unio.Timer(0.1)
    port.submit(exit_)
    child.tell()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert support.run(port, timer) == (None, timer, 0, None)
    assert exit_.in_flight
    told.set()
    assert support.completion(port) == (None, exit_, 0, None)
    assert exit_.status == 7


# Sending


@pytest.fixture
def make_file(resources: contextlib.ExitStack, tmp_path: Path) -> Callable[[bytes], Any]:
    def make(content: bytes) -> Any:
        path = tmp_path / "content"
        path.write_bytes(content)
        return resources.enter_context(path.open("rb"))

    return make


def failing(call: Callable[..., Any], number: int, times: int) -> Callable[..., Any]:
    """A call that fails so many times before it is the one that was given."""
    left = [number] * times

    def fail(*arguments: Any) -> Any:
        if left:
            raise OSError(left.pop(), "as another system has it")
        return call(*arguments)

    return fail


CONTENT = bytes(range(256)) * 300


def assert_file_arrives(port: unio.Port, resources: contextlib.ExitStack, file: Any) -> None:
    near, far = map(resources.enter_context, support.tcp_pair())
    sending = unio.SendFile(port.associate(near), file, 5)
    reading = support.Background(support.recv_exactly, far, len(CONTENT) - 5)
    assert support.succeed(port, sending).transferred == len(CONTENT) - 5
    assert reading.result() == CONTENT[5:]


def test_a_file_is_sent_where_there_is_no_sendfile(
    monkeypatch: pytest.MonkeyPatch, port: unio.Port, resources: contextlib.ExitStack, make_file: Any
) -> None:  # NetBSD, OpenBSD
    monkeypatch.delattr(os, "sendfile")
    monkeypatch.setattr(backends.engine.attempts, "HAS_SENDFILE", False)
    assert_file_arrives(port, resources, make_file(CONTENT))


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_a_file_that_sendfile_refuses_is_copied(
    monkeypatch: pytest.MonkeyPatch, port: unio.Port, resources: contextlib.ExitStack, make_file: Any, number: int
) -> None:  # macOS, FreeBSD
    monkeypatch.setattr(os, "sendfile", failing(os.sendfile, number, 1000))
    assert_file_arrives(port, resources, make_file(CONTENT))


def test_a_sendfile_that_lacks_buffers_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, port: unio.Port, resources: contextlib.ExitStack, make_file: Any
) -> None:  # FreeBSD
    monkeypatch.setattr(os, "sendfile", failing(os.sendfile, errno.ENOBUFS, 3))
    assert_file_arrives(port, resources, make_file(CONTENT))


@pytest.mark.parametrize("number", [errno.EPROTOTYPE, errno.ENOBUFS])
def test_a_send_that_fails_for_a_moment_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, port: unio.Port, resources: contextlib.ExitStack, number: int
) -> None:  # EPROTOTYPE: macOS, of a connection that is taken down just then
    near, far = map(resources.enter_context, support.tcp_pair())
    monkeypatch.setattr(backends.engine.attempts, "_sendmsg", failing(backends.engine.attempts._sendmsg, number, 3))
    assert support.succeed(port, unio.Send(port.associate(near), [b"da", b"ta"])).transferred == 4
    assert support.recv_exactly(far, 4) == b"data"


def unheard(call: Callable[..., Any], position: int) -> Callable[..., Any]:
    """A call of a socket that is not heard when it asks not to wait; its flags are at this position."""

    def wait(*arguments: Any) -> Any:
        flags = arguments[position] & ~socket.MSG_DONTWAIT
        return call(*arguments[:position], flags, *arguments[position + 1 :])

    return wait


@pytest.mark.parametrize("kind", ["one buffer", "several", "a file"])
def test_a_send_holds_nothing_up_where_the_kernel_does_not_hear_that_it_is_not_to_wait(
    kind: str, monkeypatch: pytest.MonkeyPatch, port: unio.Port, resources: contextlib.ExitStack, make_file: Any
) -> None:  # macOS, NetBSD: sosend looks at the socket alone
    for name, position in (("_send", 2), ("_sendmsg", 3)):
        monkeypatch.setattr(backends.engine.attempts, name, unheard(getattr(backends.engine.attempts, name), position))
    monkeypatch.setattr(backends.engine.syscalls, "SENDS_WAIT", True)
    monkeypatch.setattr(backends.engine.attempts, "HAS_SENDFILE", False)
    near, far = map(resources.enter_context, support.local_pair())
    handle, data = port.associate(near), CONTENT * 100
    with near.dup() as copy:  # as a child that has inherited it may
        copy.setblocking(True)
    send: unio.Operation = unio.Send(handle, [data, data] if kind == "several" else data)
    if kind == "a file":
        send = unio.SendFile(handle, make_file(data))
    support.Background(port.submit, send).result()
    support.assert_nothing_comes(port)
    assert port.cancel(send)
    found = support.completion(port)
    support.assert_cancelled(found)
    assert support.recv_exactly(far, found.transferred) == data[: found.transferred]

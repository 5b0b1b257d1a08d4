"""What only the kqueue backend does: each system's layouts, what it does without a filter, events that come late."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import threading
from pathlib import Path

import pytest
import support
from children import Child
from platforms import needs_fork, needs_kqueue
from played import Fetch, play

import unio
from unio import backends
from unio.backends.kernel import kevent
from unio.backends.kernel.kqueue_api import ffi

kqueue = pytest.importorskip("unio.backends.kqueue", reason="it is for POSIX", exc_type=ImportError)

needs_stand_in = pytest.mark.skipif(
    not os.environ.get(backends.KQUEUE_LIBRARY), reason=f"{backends.KQUEUE_LIBRARY} names no library"
)


@pytest.fixture
def port(resources: contextlib.ExitStack) -> unio.Port:
    return resources.enter_context(unio.Port(backend="kqueue"))


# The layer below


@pytest.mark.parametrize(
    ("system", "size", "offsets", "filters"),
    [
        ("darwin", 32, (0, 8, 10, 12, 16, 24), (-1, -2, -5, -10)),
        ("dragonfly", 32, (0, 8, 10, 12, 16, 24), (-1, -2, -5, -9)),
        ("freebsd14", 64, (0, 8, 10, 12, 16, 24), (-1, -2, -5, -11)),
        ("netbsd10", 40, (0, 8, 12, 16, 24, 32), (0, 1, 4, 8)),
        ("openbsd7", 32, (0, 8, 10, 12, 16, 24), (-1, -2, -5, -10)),
    ],
)
def test_each_systems_layout_and_numbers(
    system: str, size: int, offsets: tuple[int, ...], filters: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(backends.KQUEUE_LIBRARY, raising=False)
    monkeypatch.setattr(sys, "platform", system)
    spoken = kevent.dialect()
    assert ffi.sizeof(spoken.struct) == size
    assert tuple(ffi.offsetof(spoken.struct, field) for field in kevent.Change._fields) == offsets
    assert (spoken.read, spoken.write, spoken.process, spoken.user) == filters


def found() -> backends.Candidate:
    return next(each for each in backends.candidates() if each.name == "kqueue")


@pytest.mark.skipif(sys.platform != "linux", reason="the others have a kqueue, or no library that could have one")
def test_on_linux_it_takes_a_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(backends.KQUEUE_LIBRARY, raising=False)
    assert not found().available
    assert found().reason == (
        "it is for darwin, dragonfly, freebsd, netbsd and openbsd, and this is linux; UNIO_KQUEUE_LIBRARY is not set"
    )
    monkeypatch.setenv(backends.KQUEUE_LIBRARY, str(tmp_path / "none.so"))
    assert not found().available
    assert "none.so" in found().reason
    monkeypatch.setenv(backends.KQUEUE_LIBRARY, "libc.so.6")
    assert found()[1:] == (False, "kqueue fails: libc.so.6 has no kqueue")


@pytest.mark.skipif(os.name != "posix", reason="another kind of system is told that kqueue is for others")
def test_without_cffi_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.KQUEUE_LIBRARY, "any")
    for name in (
        "_cffi_backend",
        "unio.backends.kqueue",
        "unio.backends.kernel.kevent",
        "unio.backends.kernel.kqueue_api",
    ):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "_cffi_backend", None)  # type: ignore[arg-type]
    assert found()[1:] == (False, "it needs cffi, which isn't installed")


@needs_kqueue
@pytest.mark.parametrize("place", range(3))
def test_each_change_has_its_answer_and_no_event_comes_with_them(resources: contextlib.ExitStack, place: int) -> None:
    spoken = kevent.dialect()
    kqueue = resources.enter_context(contextlib.closing(kevent.Kqueue()))
    near, far = map(resources.enter_context, socket.socketpair())
    far.send(b"x")
    with socket.socket() as gone:
        number = gone.fileno()
    changes = [
        kevent.Change(near.fileno(), spoken.read, kevent.EV_ADD | kevent.EV_CLEAR, udata=1),
        kevent.Change(near.fileno(), spoken.write, kevent.EV_ADD | kevent.EV_CLEAR, udata=2),
    ]
    changes.insert(place, kevent.Change(number, spoken.read, kevent.EV_DELETE))
    assert [bool(answer) for answer in kqueue.change(*changes)] == [each == place for each in range(3)]
    events = {event.filter: event.udata for event in kqueue.wait(support.PATIENCE)}
    assert events == {spoken.read: 1, spoken.write: 2}


@needs_kqueue
def test_a_closed_kqueue_touches_nothing(resources: contextlib.ExitStack) -> None:
    spoken = kevent.dialect()
    kqueue = kevent.Kqueue()
    number = kqueue.number
    kqueue.close()
    other = resources.enter_context(contextlib.closing(kevent.Kqueue()))
    assert other.number == number
    assert other.change(kevent.Change(0, spoken.user, kevent.EV_ADD | kevent.EV_CLEAR)) == [0]
    kqueue.trigger()
    kqueue.change(kevent.Change(0, spoken.user, kevent.EV_DELETE))
    assert not other.wait(0)
    other.trigger()
    assert [event.filter for event in other.wait(support.PATIENCE)] == [spoken.user]
    kqueue.close()
    os.fstat(number)


@needs_kqueue
def test_where_what_interrupts_it_is_forbidden_it_can_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EPERM, "pipes are forbidden")

    assert found().available
    monkeypatch.setattr(kqueue, "dialect", lambda: kevent.dialect()._replace(user=-99))  # which no system has
    assert found().available, "a pipe does"
    monkeypatch.setattr(os, "pipe", forbidden)
    assert found()[1:] == (False, "kqueue fails: [Errno 1] pipes are forbidden")


@needs_kqueue
@needs_fork
def test_a_forked_child_has_no_kqueue_to_close(resources: contextlib.ExitStack) -> None:
    kqueue = resources.enter_context(contextlib.closing(kevent.Kqueue()))
    with open(os.devnull) as file:
        child = os.fork()
        if child == 0:
            os.dup2(file.fileno(), kqueue.number)  # which is free in the child
            kqueue.close()
            with contextlib.suppress(OSError):
                os.fstat(kqueue.number)
                os._exit(0)
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


# The port


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of all that the kernel reports."""
    seen: list[int] = []

    def wait(fetch: Fetch, _timeout: float | None) -> list[kevent.Change]:
        found = fetch()
        seen.extend(event.ident for event in found)
        return found

    play(monkeypatch, wait)
    return seen


@needs_kqueue
def test_a_closed_handle_whose_descriptor_stays_open_makes_no_events(
    events: list[int], port: unio.Port, resources: contextlib.ExitStack
) -> None:
    near, far = map(resources.enter_context, socket.socketpair())
    file = resources.enter_context(near.makefile("rb", buffering=0))  # closing the socket leaves it to the file
    handle = port.associate(near)
    number = handle.fileno()
    port.submit(unio.Recv(handle, bytearray(1)))
    far.send(b"x")
    assert support.completion(port).transferred == 1
    support.assert_nothing_comes(port)
    assert number in events
    handle.close()
    events.clear()
    far.send(b"y")
    support.assert_nothing_comes(port)
    assert events == []
    assert file.read(1) == b"y"


@needs_kqueue
def test_data_that_nobody_wants_yet_is_told_once(
    events: list[int], port: unio.Port, resources: contextlib.ExitStack
) -> None:
    near, far = map(resources.enter_context, socket.socketpair())
    handle = port.associate(near)
    far.send(b"x")
    support.assert_nothing_comes(port)
    support.assert_nothing_comes(port)
    assert 1 <= events.count(handle.fileno()) <= 4  # for each direction, and the double may say it twice


@needs_kqueue
def test_a_wake_up_is_told_once(events: list[int], port: unio.Port) -> None:
    events.clear()  # of the choice of the backend
    waiter = support.Background(support.completion, port)
    support.asleep(waiter)
    port.post("key")
    assert waiter.result().key == "key"
    support.assert_nothing_comes(port)
    assert len(events) == 1


@needs_stand_in
def test_a_pipe_wakes_where_there_is_no_user_event(
    events: list[int], monkeypatch: pytest.MonkeyPatch, resources: contextlib.ExitStack
) -> None:
    monkeypatch.setattr(kevent, "STAND_IN", kevent.STAND_IN._replace(user=-99))  # which it doesn't know
    port = resources.enter_context(unio.Port(backend="kqueue"))
    events.clear()  # of the choice of the backend
    for number in range(3):
        waiter = support.Background(support.completion, port)
        support.asleep(waiter)
        port.post(number)
        assert waiter.result().key == number
    support.assert_nothing_comes(port)
    assert len(events) == 3


@needs_kqueue
def test_an_event_of_a_number_that_has_another_handle_by_now_is_dropped(
    monkeypatch: pytest.MonkeyPatch, resources: contextlib.ExitStack
) -> None:
    # The event, with the error of the connect, has been fetched when the handle is closed and its number joins anew.
    with support.listener() as closed:
        nobody = closed.getsockname()
    connect: unio.Connect | None = None

    def late(fetch: Fetch, _timeout: float | None) -> list[kevent.Change]:
        nonlocal connect
        events = fetch()
        if connect is None and any(event.fflags for event in events):
            old.close()
            young = socket.socket()
            assert young.fileno() == number
            resources.enter_context(young)
            connect = unio.Connect(port.associate(young, "young"), support.full_listener(resources))
            port.submit(connect)
        return events

    play(monkeypatch, late)
    port = resources.enter_context(unio.Port(backend="kqueue"))
    old = port.associate(resources.enter_context(socket.socket()))
    number = old.fileno()
    port.submit(unio.Connect(old, nobody))
    support.assert_cancelled(support.completion(port))
    support.assert_nothing_comes(port)
    assert connect is not None
    assert port.cancel(connect)
    support.assert_cancelled(support.completion(port))


@needs_kqueue
def test_the_error_of_a_connect_that_only_the_event_has_is_what_it_ends_with(
    monkeypatch: pytest.MonkeyPatch, resources: contextlib.ExitStack
) -> None:
    # Some kernels take it from the socket when they tell it. Which here is done for them.
    with support.listener() as closed:
        nobody = closed.getsockname()
    sock = resources.enter_context(socket.socket())
    told: list[int] = []

    def wait(fetch: Fetch, _timeout: float | None) -> list[kevent.Change]:
        events = fetch()
        if any(event.fflags for event in events):
            told.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        return events

    play(monkeypatch, wait)
    port = resources.enter_context(unio.Port(backend="kqueue"))
    connect = unio.Connect(port.associate(sock), nobody)
    assert isinstance(support.run(port, connect).error, ConnectionRefusedError)
    assert len(told) == 1, "and it was not tried again"


@needs_stand_in  # POSIX leaves open whether a socket can connect once it has failed to; Linux' can
def test_a_connect_does_not_end_with_the_error_of_the_one_before(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    with support.listener() as closed:
        nobody = closed.getsockname()
    listening = resources.enter_context(support.listener())
    handle = port.associate(resources.enter_context(socket.socket()))
    assert isinstance(support.run(port, unio.Connect(handle, nobody)).error, ConnectionRefusedError)
    support.succeed(port, unio.Connect(handle, listening.getsockname()))


@needs_kqueue
def test_operations_share_the_watch_of_one_process(port: unio.Port, child: Child) -> None:
    first, second, third = (unio.ProcessExit(child, key) for key in "abc")
    for operation in (first, second, third):
        port.submit(operation)
    assert port.cancel(first)
    support.assert_cancelled(support.completion(port))
    child.communicate("go")
    ended = {found.key: (found.error, found.operation.status) for found in support.completions(port, 2)}
    assert ended == {"b": (None, 7), "c": (None, 7)}


@needs_kqueue
def test_a_watch_that_was_cancelled_is_not_the_next_one(port: unio.Port, child: Child) -> None:
    operation = unio.ProcessExit(child)
    for _ in range(3):
        port.submit(operation)
        assert port.cancel(operation)
        support.assert_cancelled(support.completion(port))
    port.submit(operation)
    child.tell()
    assert support.completion(port).error is None
    assert operation.status == child.wait() == 7


@needs_kqueue
def test_an_event_of_a_watch_that_was_cancelled_since_is_dropped(
    monkeypatch: pytest.MonkeyPatch, resources: contextlib.ExitStack, child: Child
) -> None:
    # It was fetched before the cancel, and by now the number can be that of another process, which lives.
    added: list[kevent.Change] = []
    late: list[kevent.Change] = []

    def noting(change: kevent.Change) -> int:
        if change.filter == kevent.dialect().process and change.flags & kevent.EV_ADD:
            added.append(change)
        return 0

    def wait(fetch: Fetch, _timeout: float | None) -> list[kevent.Change]:
        return [late.pop()] if late else fetch()

    play(monkeypatch, wait, noting)
    port = resources.enter_context(unio.Port(backend="kqueue"))
    operation = unio.ProcessExit(child)
    port.submit(operation)
    assert port.cancel(operation)
    support.assert_cancelled(support.completion(port))
    port.submit(operation)
    late.append(added[0])  # has the fields of the event that would have come of it
    support.assert_nothing_comes(port)
    assert not late
    child.tell()
    assert support.completion(port).error is None
    assert operation.status == child.wait() == 7


@needs_kqueue
def test_a_process_that_ended_before_is_told_to_who_sleeps_already(
    monkeypatch: pytest.MonkeyPatch, resources: contextlib.ExitStack, child: Child
) -> None:
    child.tell()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    change = kevent.Kqueue.change
    fetched, back = threading.Event(), threading.Event()

    def fetched_before_it_returns(kqueue: kevent.Kqueue, *changes: kevent.Change) -> list[int]:
        answers = change(kqueue, *changes)
        if changes[0].filter == kevent.dialect().process:
            assert fetched.wait(support.PATIENCE)
            back.wait(0.1)  # the other thread drops the event, if it does, and comes back
        return answers

    def wait(fetch: Fetch, _timeout: float | None) -> list[kevent.Change]:
        if fetched.is_set():
            back.set()
        events = fetch()
        if any(event.filter == kevent.dialect().process for event in events):
            fetched.set()
        return events

    play(monkeypatch, wait)
    monkeypatch.setattr(kevent.Kqueue, "change", fetched_before_it_returns)
    port = resources.enter_context(unio.Port(backend="kqueue"))
    waiter = support.Background(support.completion, port)
    support.asleep(waiter)
    operation = unio.ProcessExit(child)
    port.submit(operation)
    assert waiter.result().error is None
    assert operation.status == child.wait() == 7

"""What other systems have for the calls of the attempts, played to them, and what races no test can win otherwise."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from pathlib import Path

import pytest
import support

import unio

fcntl = pytest.importorskip("fcntl", reason="it is for POSIX")
calls = pytest.importorskip("unio.backends.engine.syscalls", reason="it is for POSIX")

EMULATED = [each.name for each in unio.backends.candidates() if each.available and each.name in ("epoll", "kqueue")]


@pytest.fixture(params=EMULATED)
def port(request: pytest.FixtureRequest, resources: contextlib.ExitStack) -> unio.Port:
    return resources.enter_context(unio.Port(backend=request.param))


class Fcntl:
    """A fcntl module whose calls succeed, or fail with an error, and are noted."""

    def __init__(self, error: int = 0) -> None:
        self.error = error
        self.told: list[tuple[int, ...]] = []

    def fcntl(self, *arguments: int) -> int:
        self.told.append(arguments)
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        return 0


# macOS


@pytest.fixture
def file(port: unio.Port, resources: contextlib.ExitStack, tmp_path: Path) -> unio.Handle:
    return port.associate(resources.enter_context(unio.open(tmp_path / "file", "w+b")))


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes that fsync was called for."""
    noted: list[int] = []
    fsync = os.fsync

    def note(number: int) -> None:
        noted.append(os.fstat(number).st_ino)
        fsync(number)

    monkeypatch.setattr(os, "fsync", note)
    return noted


def test_a_flush_reaches_the_disk_where_the_system_has_a_call_for_that(
    monkeypatch: pytest.MonkeyPatch, port: unio.Port, file: unio.Handle, synced: list[int]
) -> None:
    double = Fcntl()
    monkeypatch.setattr(calls, "fcntl", double)
    monkeypatch.setattr(calls, "F_FULLFSYNC", 51)
    support.succeed(port, unio.Flush(file))
    assert [command for _, command in double.told] == [51]
    assert not synced


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY])
def test_a_flush_goes_as_far_as_the_file_system_knows(
    monkeypatch: pytest.MonkeyPatch, port: unio.Port, file: unio.Handle, synced: list[int], number: int
) -> None:
    monkeypatch.setattr(calls, "fcntl", Fcntl(number))
    monkeypatch.setattr(calls, "F_FULLFSYNC", 51)
    support.succeed(port, unio.Flush(file))
    assert synced == [os.fstat(file.fileno()).st_ino]


def test_a_flush_that_fails_on_the_disk_is_an_error(
    monkeypatch: pytest.MonkeyPatch, port: unio.Port, file: unio.Handle, synced: list[int]
) -> None:
    monkeypatch.setattr(calls, "fcntl", Fcntl(errno.EIO))
    monkeypatch.setattr(calls, "F_FULLFSYNC", 51)
    assert support.run(port, unio.Flush(file)).error.errno == errno.EIO
    assert not synced


@pytest.mark.skipif(not hasattr(fcntl, "F_FULLFSYNC"), reason="macOS alone has this call")
def test_a_flush_makes_the_call_of_this_system(port: unio.Port, file: unio.Handle, synced: list[int]) -> None:
    support.succeed(port, unio.Flush(file))
    assert not synced


def test_a_descriptor_is_told_to_raise_no_signal_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch, port: unio.Port, resources: contextlib.ExitStack
) -> None:
    double = Fcntl()
    monkeypatch.setattr(calls, "fcntl", double)
    monkeypatch.setattr(calls, "F_SETNOSIGPIPE", 73)
    near, _ = map(resources.enter_context, support.tcp_pair())
    reader, writer = map(resources.enter_context, unio.pipe())
    for end in (near, reader, writer):
        port.associate(end)
    assert double.told == [(end.fileno(), 73, 1) for end in (near, reader, writer)]


# OpenBSD


def test_a_signal_is_taken_back_where_only_a_wait_for_it_takes_one(
    monkeypatch: pytest.MonkeyPatch, port: unio.Port, resources: contextlib.ExitStack
) -> None:
    monkeypatch.delattr(signal, "sigtimedwait", raising=False)
    monkeypatch.setattr(calls, "PIPES", calls._Pipes(None, take_no_signal=False))
    told: list[int] = []
    resources.callback(signal.signal, signal.SIGPIPE, signal.signal(signal.SIGPIPE, lambda *_: told.append(1)))
    reader, writer = map(resources.enter_context, unio.pipe())
    handle = port.associate(writer)
    assert support.run(port, unio.Send(handle, b"data"))[2:] == (4, None)
    reader.close()
    assert isinstance(support.run(port, unio.Send(handle, b"data")).error, BrokenPipeError)
    assert not told
    assert signal.SIGPIPE not in signal.sigpending()


# Any


def test_what_passes_a_time_out_by_waits_for_a_descriptor(
    monkeypatch: pytest.MonkeyPatch, port: unio.Port, resources: contextlib.ExitStack
) -> None:
    near, far = map(resources.enter_context, support.tcp_pair())
    recv = unio.Recv(port.associate(near), [bytearray(2), bytearray(2)])
    near.settimeout(3)
    left = [errno.EMFILE] * 3
    dup = os.dup

    def lacking(number: int) -> int:
        if left:
            raise OSError(left.pop(), "as where others have them all")
        return dup(number)

    monkeypatch.setattr(os, "dup", lacking)
    far.send(b"data")
    assert support.run(port, recv) == (None, recv, 4, None)
    assert not left


def test_what_passes_a_time_out_by_never_touches_a_number_that_is_in_use_again(
    monkeypatch: pytest.MonkeyPatch, port: unio.Port, resources: contextlib.ExitStack
) -> None:
    near, _ = map(resources.enter_context, support.tcp_pair())
    recv = unio.Recv(port.associate(near), [bytearray(2), bytearray(2)])
    near.settimeout(3)
    number, dup = near.fileno(), os.dup
    ends: list[socket.socket] = []

    def late(wanted: int) -> int:
        if wanted == number and not ends:
            near.close()
            ends.extend(support.reuse(number, resources))
            ends[1].send(b"another's")
        return dup(wanted)

    monkeypatch.setattr(os, "dup", late)
    port.submit(recv)
    monkeypatch.setattr(os, "dup", dup)
    support.assert_cancelled(support.completion(port))
    assert ends[0].recv(100) == b"another's"
    assert ends[0].gettimeout() == support.PATIENCE

"""The system calls of the attempts: none of them waits, and none raises a signal, whatever others do to the descriptor.

It knows of a handle the socket, the number and whether that is still its own; of operations it knows nothing.

A handle is made fit when it joins, but that need not last. Whether a descriptor blocks is a property of the open file
behind it, which a duplicate has as well, in this process or in one that has inherited it; and a time-out that the
program gives a socket object has Python wait in poll(2) before each call. So each call asks for itself not to wait:

- Sockets are asked with ``MSG_DONTWAIT``, and those objects that have a time-out are passed by (:func:`at_once`).
  macOS and NetBSD take it of a receive alone: a send waits for room all the same (:func:`send_at_once`).
- Pipes are asked with ``RWF_NOWAIT``, where the kernel takes that; Linux does of pipes without a name.
- FIFOs, accept(2), connect(2), sendfile(2), and those sends, can't be asked. There the property is looked at right
  before the call, and set again. Who clears it just between the two makes that call wait: no kernel has a door for it.

SIGPIPE, "nobody reads what you write", ends a program that has not turned it off, as Python does at its start. Here
that is the error of a completion. Sockets are asked for it with ``MSG_NOSIGNAL``, pipes with ``RWF_NOSIGNAL`` where the
kernel takes that, and macOS has an option of a descriptor. Elsewhere the signal, which comes to the thread that makes
the call, is blocked meanwhile and then taken back (:func:`unsignalled`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from unio.backends.common.base_handle import BorrowedSocket
from unio.backends.engine.handle import family_of, type_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from unio.backends.engine.handle import EngineHandle

Returned = TypeVar("Returned")


class RetryLater(Exception):
    """The attempt would block, and the kernel will not tell when to try again: try after *delay* seconds."""

    def __init__(self, delay: float) -> None:
        super().__init__(delay)
        self.delay = delay


RETRY_SECONDS = 0.005
"""Between two attempts where no event tells. Seldom needed; short enough for a person not to notice."""

DONT_WAIT = socket.MSG_DONTWAIT
NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)  # macOS has none

SENDS_WAIT = sys.platform.startswith(("darwin", "netbsd"))
"""Whether a send that is asked not to wait does so where the socket is full: sosend() there looks at the property."""

# What pwritev2(2) is asked for. Python names the first one; the other one is Linux', since 6.18.
RWF_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
RWF_NOSIGNAL = 0x100

F_SETNOSIGPIPE = 73 if sys.platform == "darwin" else None
"""macOS' fcntl for it, which Python has no name for; it takes sockets and pipes."""
F_GETNOSIGPIPE = 74 if sys.platform == "darwin" else None

RCVLOWAT = socket.SO_RCVLOWAT

F_FULLFSYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
"""macOS' fcntl that has a drive write what it has, too; its fsync(2) only gives the drive what the system has."""

NOT_FULLY = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY)
"""What it says where the file system doesn't know of it, as those of a network don't."""

_SIGPIPE = {signal.SIGPIPE}

_fileno = socket.socket.fileno
_gettimeout = socket.socket.gettimeout


def make_fit(handle: EngineHandle) -> None:
    """Make a socket or a pipe fit for overlapped work, and note how it was before."""
    sock, number = handle.socket, handle.number
    timeout, mark = (None, 1) if sock is None else (sock.gettimeout(), sock.getsockopt(socket.SOL_SOCKET, RCVLOWAT))
    silent = 1 if F_GETNOSIGPIPE is None else fcntl.fcntl(number, F_GETNOSIGPIPE)
    handle.before = timeout, os.get_blocking(number), mark, silent
    if sock is None:
        os.set_blocking(number, False)
    elif timeout != 0:  # or else it was told already
        sock.setblocking(False)
    # A socket with a low-water mark doesn't tell of fewer bytes, and those who wait would not hear of them.
    if sock is not None and mark != 1:
        sock.setsockopt(socket.SOL_SOCKET, RCVLOWAT, 1)
    if F_SETNOSIGPIPE is not None:
        fcntl.fcntl(number, F_SETNOSIGPIPE, 1)


def make_as_before(handle: EngineHandle) -> None:
    """Undo that; what the program has changed itself since stays, and the descriptor follows its socket object."""
    sock, number = handle.socket, handle.number
    timeout, blocks, mark, silent = handle.before or (0.0, False, 1, 1)  # else C has found it fit as it was
    with contextlib.suppress(OSError):  # the program closes it just now
        if sock is not None and mark != 1 and sock.getsockopt(socket.SOL_SOCKET, RCVLOWAT) == 1:
            sock.setsockopt(socket.SOL_SOCKET, RCVLOWAT, mark)
        if not silent:
            fcntl.fcntl(number, F_SETNOSIGPIPE or 0, 0)
        if sock is None or isinstance(sock, BorrowedSocket):
            os.set_blocking(number, blocks)
        else:
            sock.settimeout(timeout if sock.gettimeout() == 0 else sock.gettimeout())


# Not waiting


def at_once(method: Callable[..., Returned], sock: socket.socket, *arguments: Any) -> Returned:
    """Call a method of a socket which doesn't wait in the kernel, so that it doesn't wait in Python either.

    One that has a time-out is the program's own business, and stays as it is: another object makes the call. That has a
    descriptor of its own, since the number, unlike the object, doesn't tell whether it was closed and is another's.
    """
    if not _gettimeout(sock):
        return method(sock, *arguments)
    with _twin(sock) as twin:
        return method(twin, *arguments)


@contextlib.contextmanager
def _twin(sock: socket.socket) -> Iterator[socket.socket]:
    number = _fileno(sock)
    try:
        copy = os.dup(number)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):  # which is not what the operation asks for
            raise RetryLater(RETRY_SECONDS) from None
        raise
    with socket.socket(family_of(sock), type_of(sock), sock.proto, copy) as twin:
        if _fileno(sock) != number:  # it was closed before the copy was made, maybe
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        twin.setblocking(False)
        yield twin


def unblock(handle: EngineHandle) -> None:
    """Have the next call not wait, for calls that can't be asked for it."""
    number = handle.checked_number()
    if os.get_blocking(number):
        os.set_blocking(number, False)


def send_at_once(method: Callable[..., Returned], handle: EngineHandle, *arguments: Any) -> Returned:
    """Call a method of a handle's socket that sends; its flags have ``DONT_WAIT``, which not every kernel takes."""
    if SENDS_WAIT:
        unblock(handle)
    assert handle.socket is not None
    return at_once(method, handle.socket, *arguments)


# No signals


def unsignalled(call: Callable[[], int]) -> int:
    """Make a call that may lead to SIGPIPE, and have none come of it.

    It may lead to it whatever it returns: sendfile(2) says how much was sent before. Nor is it asked whether the signal
    was turned off: Python knows what it has set by itself, and not what other code in the process has.
    """
    if F_SETNOSIGPIPE is not None:  # the descriptor was told when it joined
        return call()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())  # first: a handler that raises may come behind the next call
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGPIPE)
        theirs = signal.SIGPIPE in before and signal.SIGPIPE in signal.sigpending()
        try:
            return call()
        finally:
            if not theirs:
                _take_back()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _take_back() -> None:
    """Take the signal, if it has come."""
    if sys.platform not in ("win32", "darwin") and hasattr(signal, "sigtimedwait"):
        signal.sigtimedwait(_SIGPIPE, 0)
    elif signal.SIGPIPE in signal.sigpending():  # OpenBSD
        signal.sigwait(_SIGPIPE)


# Pipes


class _Pipes(NamedTuple):
    """What the kernel takes in the calls of pipes."""

    device: int | None
    """What pipes without a name are on, if they can be asked not to wait."""
    take_no_signal: bool
    """Whether any pipe can be asked for no signal."""


def _ask_about_pipes() -> _Pipes:
    try:
        reader, writer = os.pipe()
    except OSError:  # no descriptors are left; there is a way without
        return _Pipes(None, take_no_signal=False)
    try:
        waits = not RWF_NOWAIT or not _takes(writer, RWF_NOWAIT)
        return _Pipes(None if waits else os.fstat(reader).st_dev, take_no_signal=_takes(writer, RWF_NOSIGNAL))
    finally:
        os.close(reader)
        os.close(writer)


def _takes(writer: int, flag: int) -> bool:
    try:
        return os.pwritev(writer, [b"x"], -1, flag) == 1
    except (OSError, NotImplementedError):
        return False


PIPES = _ask_about_pipes()


def _takes_flag(handle: EngineHandle) -> bool:
    """Whether a pipe can be asked not to wait."""
    return handle.identity is not None and handle.identity[0] == PIPES.device


def read_pipe(handle: EngineHandle, views: Sequence[memoryview]) -> int:
    """Read from a pipe what there is."""
    if _takes_flag(handle):
        return os.preadv(handle.checked_number(), views, -1, RWF_NOWAIT)
    unblock(handle)
    return os.readv(handle.checked_number(), views)


def write_pipe(handle: EngineHandle, views: Sequence[memoryview]) -> int:
    """Write to a pipe as much as it takes."""
    flags = RWF_NOSIGNAL if PIPES.take_no_signal else 0
    if _takes_flag(handle):
        flags |= RWF_NOWAIT
    else:
        unblock(handle)
    number = handle.checked_number()
    write = partial(os.pwritev, number, views, -1, flags) if flags else partial(os.writev, number, views)
    return write() if flags & RWF_NOSIGNAL else unsignalled(write)


# Files


def send_part_of_file(number: int, file: int, offset: int, count: int) -> int:
    """Send a part of a file to a socket."""
    # One call for three: Python gives each system's its own arguments, and where macOS and FreeBSD say EAGAIN of a part
    # that was sent, returns its size. The count is never 0, which means "all of it" to those two.
    return unsignalled(partial(os.sendfile, number, file, offset, count))


def flush_file(number: int) -> None:
    """Have what was written to a file reach the disk, not only what drives it."""
    if F_FULLFSYNC is not None:
        try:
            fcntl.fcntl(number, F_FULLFSYNC)
        except OSError as error:
            if error.errno not in NOT_FULLY:
                raise
        else:
            return
    os.fsync(number)

"""A handle of the engine: a queue of operations for each of its directions, and what has become of it.

It holds the queues of a handle and its lock, and makes no system call but to look at its descriptor and to close it;
what is in a queue is done by a port.
"""

from __future__ import annotations

import contextlib
import errno
import operator
import os
import socket
import stat
import weakref
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from unio.backends.common.accelerator import has_fast_path, next_sequence
from unio.backends.common.base_handle import BaseHandle, BorrowedSocket, HandleOwner
from unio.backends.common.locks import Lock, holds_lock, put_off, refuse_within_lock
from unio.backends.common.objects import close_elsewhere, closed, closes_at_once, stands_for
from unio.errors import AssociationError, cant_detach, has_left, is_closed, shown
from unio.handle import HasFileno, Kind
from unio.operations import Route

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from unio.backends.engine.completion_queue import CompletionQueue
    from unio.backends.engine.registry import Table
    from unio.operations import Operation


# No function of Python's: where there is no memory to call one, the sort of CPython 3.12 and 3.13 crashes.
_sequence_of = operator.attrgetter("_sequence")

# The properties of socket.socket make an enumeration's member of the number, which takes several times as long.
family_of: Callable[[socket.socket], int] = socket.SocketType.family.__get__
type_of: Callable[[socket.socket], int] = socket.SocketType.type.__get__


class Lifecycle(IntEnum):
    """What has become of a handle."""

    OPEN = 0
    CLOSING = 1  # it takes nothing new; the descriptor is given back when the last system call on it has ended
    CLOSED = 2
    ORPHANED = 3  # the port was closed; the object is still the caller's to close
    DETACHED = 4  # as CLOSED, but the object was given back; not all is done while the port has the handle in its table


if TYPE_CHECKING:
    from unio._core import Direction as Direction  # noqa: PLC0414 - so that it counts as this module's
    from unio._core import HandleState
elif has_fast_path:
    from unio._core import Direction, HandleState
else:

    class Direction:
        """The queue of one direction of a handle: its operations, oldest first, linked so that any can be taken out."""

        __slots__ = ("active", "drained", "first", "last", "ready", "request", "resting")

        def __init__(self) -> None:
            self.first = None
            self.last = None
            self.ready = True
            """Whether an attempt may succeed: none was made yet, or an event came since the last that blocked."""
            self.active = False
            """Whether some thread owns the direction and is at its first operation."""
            self.resting = False
            """Whether it waits for a deadline and not for an event: where an attempt that blocks makes one by
            itself."""
            self.drained = False
            """Whether the last receive has left nothing, so that the kernel had better wait before the next attempt."""
            self.request = 0
            """What the kernel knows the first operation by, while it has that and so owns the direction; otherwise
            0."""

        def append(self, operation: Operation) -> None:
            self._link(self.last, operation, None)

        def remove(self, operation: Operation) -> None:
            previous, following = operation._previous, operation._next
            if previous is None:
                self.first = following
            else:
                previous._next = following
            if following is None:
                self.last = previous
            else:
                following._previous = previous
            operation._previous = operation._next = None

        def restore(self, operation: Operation) -> None:
            """Put an operation back where it was, in the order of submission."""
            previous, following = None, self.first
            while following is not None and following._sequence < operation._sequence:
                previous, following = following, following._next
            self._link(previous, operation, following)

        def _link(self, previous: Operation | None, operation: Operation, following: Operation | None) -> None:
            operation._previous, operation._next = previous, following
            if previous is None:
                self.first = operation
            else:
                previous._next = operation
            if following is None:
                self.last = operation
            else:
                following._previous = operation

        def operations(self) -> list[Operation]:
            """All of them; the caller holds the handle's lock."""
            found = []
            operation = self.first
            while operation is not None:
                found.append(operation)
                operation = operation._next
            return found

    class HandleState:
        """What a handle keeps; EngineHandle says what each is."""

        __slots__ = (
            "__weakref__",
            "before",
            "closing",
            "ended",
            "failure",
            "files",
            "identity",
            "incoming",
            "is_fast",
            "key",
            "kind",
            "lifecycle",
            "lock",
            "number",
            "object",
            "outgoing",
            "port",
            "private",
            "queue",
            "readiness",
            "running",
            "serial",
            "shows_drained",
            "shut_down",
            "skip_on_success",
            "socket",
            "stream",
        )

        def __init__(self) -> None:
            self.lock = Lock()
            self.incoming = Direction()
            self.outgoing = Direction()

        def close(self) -> None:
            self._close()


class EngineOwner(HandleOwner, Protocol):
    """What a handle of the engine asks of its port besides."""

    is_fast: ClassVar[bool]
    tells_urgent: ClassVar[bool]
    _forked: bool
    _queue: CompletionQueue
    _backlog: deque[tuple[EngineHandle, Direction]]
    _table: Table

    @property
    def closed(self) -> bool: ...

    def _abandon(self, handle: EngineHandle, *, at_once: bool) -> None: ...

    def _forget(self, handle: EngineHandle, *, is_open: bool) -> None: ...

    def _hand_back(self, handle: EngineHandle) -> None: ...


class EngineHandle(HandleState, BaseHandle):
    """A handle and its directions. Its ``lock`` guards those, the status of their operations, and its own state.

    C makes such a handle of what is plain, and closes it where nothing is in flight (association.c).
    """

    __slots__ = ()

    port: weakref.ref[EngineOwner]
    lock: Lock
    incoming: Direction
    outgoing: Direction
    readiness: Direction | None
    """Of polls. This and the next are seldom needed, and a server may have many handles."""
    files: Direction | None
    """The operations of a file, which have no order."""
    is_fast: bool
    """Whether C does the plain operations of this handle."""
    before: tuple[float | None, bool, int, int] | None
    """What associating has changed, as it was: time-out, whether it blocks, low-water mark, whether it raises no
    signal."""
    identity: tuple[int, int] | None
    """Of what the number stands for, where no socket object knows."""
    closing: bool
    """Whether a thread is within its close(), or its detach()."""
    running: int
    """Operations that are being done without the direction: of files, and polls."""
    serial: int
    """A number that no other has."""
    failure: int
    """The errno of the last connect, where an event told it."""
    ended: bool
    """The peer will send no more, or urgent data made receives short."""
    shut_down: bool
    """The write side was ended here."""
    private: int
    """A descriptor of the port's own that stands for a file, or -1."""
    shows_drained: bool
    """Whether a receive that comes up short has emptied the socket."""

    def __init__(
        self, port: EngineOwner, given: HasFileno | int, number: int, key: Any, *, skip_on_success: bool
    ) -> None:
        HandleState.__init__(self)
        self.lifecycle = Lifecycle.OPEN
        self.before = self.identity = None
        if isinstance(given, socket.socket):
            self.kind = Kind.SOCKET
        else:
            status = _status(given, number)
            self.kind = _kind(given, status)
            self.identity = (status.st_dev, status.st_ino)
        self.object = given
        self.key = key
        self.skip_on_success = skip_on_success
        self.number = number
        self.port = weakref.ref(port)
        self.queue = port._queue
        self.readiness = None
        self.files = Direction() if self.kind is Kind.FILE else None
        self.closing = self.ended = self.shut_down = False
        self.running = self.failure = 0
        self.serial = next_sequence()
        self.socket = None
        self.private = -1
        self.stream = True
        self.shows_drained = self.is_fast = False
        if self.kind is Kind.SOCKET:
            sock = given if isinstance(given, socket.socket) else BorrowedSocket(fileno=number)
            self.socket = sock
            self.stream = type_of(sock) == socket.SOCK_STREAM
            # Only TCP's receive ends early for no other reason: AF_UNIX stops where credentials or descriptors change,
            # and SCTP at the end of a message.
            inet = family_of(sock) in (socket.AF_INET, socket.AF_INET6)
            is_tcp = inet and self.stream and sock.proto in (0, socket.IPPROTO_TCP)
            self.shows_drained = is_tcp and port.tells_urgent
            self.is_fast = port.is_fast and isinstance(given, socket.socket) and _is_fast(sock)

    def fileno(self) -> int:
        return self.number if self.lifecycle in (Lifecycle.OPEN, Lifecycle.ORPHANED) and self.is_open() else -1

    @property
    def closed(self) -> bool:
        return self.lifecycle != Lifecycle.OPEN or not self.is_open()

    def is_open(self) -> bool:
        """Whether the number still stands for what was associated."""
        if isinstance(self.object, int):
            try:
                status = os.fstat(self.number)
            except OSError:
                return False
            return (status.st_dev, status.st_ino) == self.identity
        return stands_for(self.object, self.number)

    def checked_number(self) -> int:
        """The number, for a system call; OSError if it no longer stands for what was associated."""
        if not self.is_open():
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self.number

    def private_number(self) -> int:
        """The descriptor that file operations use."""
        return self.private

    def _all_in_flight(self) -> list[Operation]:
        if holds_lock():  # perhaps this handle's: in flight is what can be seen now
            return self.in_flight()
        self.queue.start_gathered()
        with self.lock:
            return self.in_flight()

    def _close(self) -> None:
        port = self.port()
        if port is not None and port._forked:
            self._close_object()  # the parent's handle, its lock and its registration are not this process's business
            return
        if holds_lock():
            put_off(self.close)
            return
        self.queue.start_gathered()
        with self.lock:
            if self.lifecycle in (Lifecycle.CLOSING, Lifecycle.CLOSED, Lifecycle.DETACHED):
                return
            self.lifecycle = Lifecycle.CLOSING
            self.closing = True  # this thread is busy with it too, and leaves it last unless others stay for longer
        self._end(closer=True)

    def detach(self) -> HasFileno | int:
        port = self._joined_port()
        refuse_within_lock("detach a handle")
        is_open = self.is_open()
        with self.lock:
            begun = self.lifecycle == Lifecycle.DETACHED and port._table.get(self.number) is self
            if self.closing or not is_open or not (begun or self.lifecycle == Lifecycle.OPEN):
                raise port._unusable() if port._unusable is not None else is_closed(self)
            if not begun and (self._is_in_use() or self.queue.has_any_of(self)):
                raise cant_detach(self)
            self.lifecycle = Lifecycle.DETACHED
            self.closing = True
        try:
            port._hand_back(self)
        finally:
            self.closing = False
        return self.object

    def _is_in_use(self) -> bool:
        """Whether anything is in flight on it, or may be being done; the caller holds the lock."""
        return bool(self.in_flight() or self.running or self.incoming.active or self.outgoing.active)

    def part_unharmed(self) -> None:
        """Close what the port has of its own of the object, and let go of that."""
        if isinstance(self.socket, BorrowedSocket):
            self.socket.detach()
        self._close_both(is_open=False)

    def leave(self, lifecycle: Lifecycle) -> None:
        """Take part in nothing any more: the object was closed behind the port's back, or the port was closed."""
        if holds_lock():
            put_off(partial(self.leave, lifecycle))
            return
        with self.lock:
            if self.lifecycle != Lifecycle.OPEN:
                return
            self.lifecycle = lifecycle
        self._end(closer=False)

    def _end(self, *, closer: bool) -> None:
        """End what is in flight on a handle that has left its port. Where that raises, the leader begins it anew."""
        port = self.port()
        try:
            try:
                # What was submitted just before the life ended: its thread need not wait again.
                self.queue.start_gathered()
                if port is not None:
                    port._abandon(self, at_once=closer)
            finally:
                self.release(closer=closer)
        except BaseException:
            if closer:
                self.closing = False
            self._leave_to_leader()
            raise

    def _leave_to_leader(self) -> None:
        port = self.port()
        if port is not None:
            port._backlog.append((self, self.incoming))
            self.queue.wake_leader()

    def end_anew(self) -> None:
        """Go on with an end that was broken off."""
        self._end(closer=False)

    def release(self, *, closer: bool = False) -> None:
        """Once nobody is in a system call, cancel what is left and part from the descriptor.

        It is called by who closed the handle or its port and by whoever leaves the last system call on it. The *closer*
        is busy with the handle no more, and closes the object whatever time that takes and whatever it raises.
        """
        with self.lock:
            if closer:
                self.closing = False
            if self.lifecycle in (Lifecycle.OPEN, Lifecycle.CLOSED, Lifecycle.DETACHED) or self._is_busy():
                return
            closing = self.lifecycle == Lifecycle.CLOSING
            for operation in self.in_flight():
                verdict = operation._verdict or has_left()
                self.queue.complete_from(self.direction(operation), operation, verdict)
            if closing:
                self.lifecycle = Lifecycle.CLOSED
        try:
            self._leave_all(closing=closing, here=closer or not closing)
        except MemoryError:  # whoever called may know of nothing to be done once more
            if closing:
                self.lifecycle = Lifecycle.CLOSING
                self._leave_to_leader()
            raise

    def _leave_all(self, *, closing: bool, here: bool) -> None:
        """Part from the descriptor and, in *closing*, from the port."""
        is_open = closing
        try:
            self.queue.wake()  # first, as the rest may take its time
            is_open = closing and self.is_open()
        finally:  # that may be the program's code, and raise what is to end the program: then it is closed all the same
            if closing:
                self._leave_port(is_open=is_open)
            self._part(is_open=is_open, here=here)

    def _is_busy(self) -> bool:
        """Whether somebody may be in a system call on it, or the kernel at a request; the caller holds the lock."""
        polled = self.readiness is not None and self.readiness.active
        return bool(self.closing or self.running or self.incoming.active or self.outgoing.active or polled)

    def _leave_port(self, *, is_open: bool) -> None:
        port = self.port()
        if port is not None and not port.closed:
            port._forget(self, is_open=is_open)

    def _part(self, *, is_open: bool, here: bool) -> None:
        """Close the private descriptor, and the object if the program has not done so itself."""
        elsewhere = not here and (is_open or self.private >= 0) and not closes_at_once(self)
        if isinstance(self.socket, BorrowedSocket):
            self.socket.detach()
        if elsewhere:
            close_elsewhere(partial(self._close_both, is_open=is_open))
        else:
            self._close_both(is_open=is_open)

    def _close_both(self, *, is_open: bool) -> None:
        with self.lock:
            private, self.private = self.private, -1
        if private >= 0:
            try:  # noqa: SIM105 - nothing that takes memory may come in between: nobody else has the number any more
                os.close(private)
            except OSError:
                pass
        if is_open:
            self._close_object()

    def _close_object(self) -> None:
        with contextlib.suppress(OSError):  # close(2) gives the descriptor back whatever it reports
            if isinstance(self.object, int):
                if self.is_open():  # still: the program may have closed the number itself, which is another's then
                    os.close(self.object)
            else:
                self.object.close()  # type: ignore[attr-defined]

    def in_flight(self) -> list[Operation]:
        """The operations in flight, in the order of their submission; the caller holds the lock."""
        directions = (self.incoming, self.outgoing, self.readiness, self.files)
        operations = [each for direction in directions if direction is not None for each in direction.operations()]
        operations.sort(key=_sequence_of)
        return operations

    def own(self, direction: Direction) -> bool:
        """Make this thread the owner of a direction, if that is worth an attempt; the caller holds the lock."""
        if (
            direction.first is None
            or not direction.ready
            or direction.active
            or direction.resting
            or self.lifecycle != Lifecycle.OPEN
        ):
            return False
        direction.active = True
        return True

    def disown(self, direction: Direction) -> None:
        """Give a direction up; the caller holds the lock."""
        direction.active = False

    def direction(self, operation: Operation) -> Direction:
        route = operation.route
        if route is Route.INCOMING:
            return self.incoming
        if route is Route.OUTGOING:
            return self.outgoing
        if route is Route.READINESS:
            if self.readiness is None:
                with self.lock:
                    self.readiness = self.readiness or Direction()
            return self.readiness
        assert self.files is not None  # the operation has checked what kind of handle this is
        return self.files


def _status(given: HasFileno | int, number: int) -> os.stat_result:
    try:
        return os.fstat(number)
    except (OverflowError, OSError):
        raise closed(given) from None


def _is_fast(sock: socket.socket) -> bool:
    """Whether C does the plain operations of a socket: a stream's, or datagrams' with addresses that it knows."""
    return type_of(sock) == socket.SOCK_STREAM or (
        type_of(sock) == socket.SOCK_DGRAM and family_of(sock) in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    )


def _kind(given: HasFileno | int, status: os.stat_result) -> Kind:
    mode = status.st_mode
    if stat.S_ISSOCK(mode):
        return Kind.SOCKET
    if stat.S_ISFIFO(mode):
        return Kind.PIPE
    if stat.S_ISREG(mode):
        return Kind.FILE
    names = {stat.S_IFDIR: "a directory", stat.S_IFCHR: "a character device", stat.S_IFBLK: "a block device"}
    what = names.get(stat.S_IFMT(mode), "neither")
    raise AssociationError(f"only sockets, pipes and regular files can join a port, and {shown(given)} is {what}")

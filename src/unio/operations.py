"""The operations that a port runs.

An operation is an object that the caller makes, submits, gets back with its completion, and may submit again: what an
``OVERLAPPED`` structure is to Windows. It carries the caller's own state, either in :attr:`Operation.state` or in the
attributes of a subclass. While an operation is in flight (from its submit to the return of the wait that delivers its
completion) it belongs to the port, and so do its buffers: changing it then raises :class:`unio.InFlight`.

Constructing an operation does no input or output. Wrong arguments raise :class:`TypeError` or :class:`ValueError`
here; what the operating system says of the input or output arrives as the completion's error.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol, Self

from unio.arguments import (
    Address,
    checked_address,
    checked_file,
    checked_signal,
    require,
    seconds,
    view,
    whole_number,
)
from unio.awaiting import Within, completed
from unio.backends.common.accelerator import AcceptState, BufferedState, OperationState, RecvState, SendState
from unio.errors import InFlight, anew, shown
from unio.handle import Handle, HasFileno, Kind
from unio.operation_state import IDLE

if TYPE_CHECKING:
    import socket
    from collections.abc import Generator, Sequence
    from typing import TypeAlias

    from typing_extensions import Buffer

    Buffers: TypeAlias = Buffer | Sequence[Buffer]

BUFFER_MIN = 4096
"""The size, in bytes, that a receive's own buffer has at first."""

BUFFER_MAX = 256 * 1024
"""The size up to which it grows: with larger ones, loopback gets no faster."""

NO_BYTES: tuple[memoryview, ...] = (memoryview(b""),)
"""The views of a send that is made before there is something to send: one for all, since a server has many of them."""

DATAGRAM_MAX = 65536
"""More than any datagram of UDP has."""


class Readiness(enum.IntFlag):
    """What :class:`Poll` waits for, and what it found."""

    READABLE = 1
    WRITABLE = 2


class Route(enum.Enum):
    """Where a backend queues an operation; operations of one route and one handle are started in order."""

    INCOMING = "incoming"
    OUTGOING = "outgoing"
    READINESS = "readiness"
    FILE = "file"
    TIMER = "timer"
    PROCESS = "process"
    NAME = "name"
    SIGNAL = "signal"


SOCKET = (Kind.SOCKET,)
STREAM = (Kind.SOCKET, Kind.PIPE)
FILE = (Kind.FILE,)


STATUS_NAMES = ("idle", "pending", "queued")


class HasPid(Protocol):
    """A process as :class:`subprocess.Popen` or :class:`multiprocessing.Process` represent it."""

    @property
    def pid(self) -> int | None: ...


class Operation(OperationState):
    """What all operations have in common; make one of its subclasses.

    In a coroutine that :meth:`unio.Port.start` has begun, ``await operation`` submits it, waits until it has completed,
    and gives it back: ``recv = await unio.Recv(handle)``. The error of its completion is raised there, and so is what
    :meth:`unio.Port.submit` raises. Its :attr:`state` is the task meanwhile, and then what it was before.
    """

    __slots__ = ()

    name: ClassVar[str] = ""
    route: ClassVar[Route]

    _kinds: ClassVar[tuple[Kind, ...]] = ()
    """The kinds of handles that it works on; none for a timer, a process exit and a signal."""

    _hint: ClassVar[str] = ""
    """What to use for other kinds."""

    _is_part: ClassVar[bool] = False
    """Whether it is a part of what the port does for another operation: its end is told to its state, and no wait
    returns it."""

    state: Any
    """Whatever the caller wants to have back with the completion. :meth:`unio.Port.run` calls it with that; otherwise
    unio never looks at it."""

    def __init__(self, handle: Handle | None, key: Any, state: Any) -> None:
        if not self.name:
            raise TypeError(
                "Operation is what all operations have in common: make one of unio's, or of a subclass of it"
            )
        self._prepare(handle, key, state)

    def _await(self) -> Generator[Any, None, Self]:
        return completed(self, self)

    def _raise_error(self) -> NoReturn:
        assert self.error is not None
        raise anew(self.error)

    def within(self, timeout: float | None) -> Within[Self]:
        """Awaits it with a time-out, a number of seconds: ``await unio.Recv(handle).within(30)``.

        When it passes first, :class:`TimeoutError` is raised, as :meth:`unio.Port.submit` says.
        """
        return Within(self, timeout)

    def _set_handle(self, handle: Handle) -> None:
        self._must_be_idle()
        self._check_handle(handle)
        self._handle, self._key = handle, handle.key

    def _check_handle(self, handle: Handle) -> None:
        """Raise TypeError for a handle that the operation can't work on, as it is now."""
        if not self._kinds:
            raise TypeError(f"{type(self).__name__} works on no handle")
        require(handle, self._kinds, type(self).__name__, self._hint)

    def _set_transferred(self, transferred: int) -> None:
        self._must_be_idle()
        self._transferred = whole_number(transferred, "the number of bytes")

    def _must_be_idle(self) -> None:
        if self._status != IDLE:
            raise _in_flight(self, "it can't be changed before its completion")

    def _refuse_submission(self) -> NoReturn:
        raise _in_flight(self, "wait for its completion, or make another operation")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        # A copy would have this one's place in the port's rows, and its buffers.
        raise TypeError(f"{type(self).__name__} can't be copied or pickled: make another one")

    def __repr__(self) -> str:
        # No code of the program's runs here, such as the key's own repr: see shown.
        return f"<unio.{type(self).__name__} {STATUS_NAMES[self._status]} key={shown(self._key)}>"


def _in_flight(operation: Operation, hint: str) -> InFlight:
    return InFlight(f"{Operation.__repr__(operation)} is in flight: {hint}")  # not the repr of a program's subclass


class _Buffered(BufferedState, Operation):
    """An operation with a buffer, or several of them (scatter and gather)."""

    __slots__ = ()

    _fills: ClassVar[bool]

    def __init__(self, handle: Handle, buffer: Buffers, state: Any) -> None:
        super().__init__(handle, handle.key, state)
        if type(buffer) is bytes and not buffer and not self._fills:  # a class may compare as it likes
            self._buffer = buffer
            self._made_views, self._size = NO_BYTES, 0
        else:
            self.buffer = buffer

    def _set_buffer(self, buffer: Buffers) -> None:
        """Check a buffer of any kind, and take it."""
        self._must_be_idle()
        if self._native is not None:
            self._native.let_go()  # a backend's own grip on the former buffers
        name, fills = type(self).__name__, self._fills
        # They go when this returns, as with them may go what sets another buffer.
        _former = getattr(self, "_made_views", None), getattr(self, "_buffer", None)
        if isinstance(buffer, (list, tuple)):
            views = tuple([part for each in buffer if len(part := view(each, name, writable=fills))])
        else:
            views = (view(buffer, name, writable=fills),)  # type: ignore[arg-type]
        self._made_views = views
        self._size = sum([len(view) for view in views])
        self._buffer = buffer
        if isinstance(self, Recv):
            self._grows = False  # it is the caller's now


class _Addressed(Operation):
    """An operation with an address, which has to fit its handle's family."""

    __slots__ = ()

    _address: Address

    @property
    def address(self) -> Address:
        """Where the datagram goes, or the connection."""
        return self._address

    @address.setter
    def address(self, address: Address) -> None:
        self._must_be_idle()
        self._address = checked_address(self.handle.socket, address)

    def _check_handle(self, handle: Handle) -> None:
        super()._check_handle(handle)
        if hasattr(self, "_address"):
            checked_address(handle.socket, self._address)


class Recv(RecvState, _Buffered):
    """Receive from a socket or a pipe what there is, up to the size of the buffer.

    Completes as soon as one byte is there; *transferred* is their number. The end of the stream is a success with 0
    bytes, and data that came before it, or before a reset, is delivered first. A buffer of size 0 waits until there
    is something (data, the end, an error), transfers 0 and consumes nothing. Receives of one handle are filled in
    the order of their submission.

    Without a *buffer* the operation has one of its own, of 4 KiB. Whenever a receive has filled it, the next submission
    finds one of twice the size, up to 256 KiB: most connections never need much, and those that do are served in large
    pieces. What was received is in :attr:`data`.

    On a datagram socket it receives one datagram; one that is too large fills the buffer and completes with
    ``EMSGSIZE``. There, a buffer of its own has 64 KiB, more than any datagram, and doesn't grow.

    Errors: ``ConnectionResetError`` when the peer reset the connection; what recv(2) or WSARecv say otherwise.
    """

    __slots__ = ()
    name = "recv"
    route = Route.INCOMING
    _kinds = STREAM
    _hint = "; use Read"
    _fills = True

    def _make(self, handle: Handle, buffer: Buffers | None, state: Any) -> None:
        self._check_handle(handle)
        if buffer is not None:
            _Buffered.__init__(self, handle, buffer, state)
        else:
            Operation.__init__(self, handle, handle.key, state)
            self._take_buffer(BUFFER_MIN if handle.stream else DATAGRAM_MAX)
            self._grows = handle.stream

    def _take_buffer(self, size: int) -> None:
        """Have a new buffer of its own."""
        self._buffer = bytearray(size)
        self._made_views = None
        self._size = size

    def _begin(self) -> object:
        received = self.transferred
        left = super()._begin()
        if self._grows and received == self._size < BUFFER_MAX:
            if self._native is not None:
                self._native.let_go()
            self._take_buffer(2 * received)
        return left


class Send(SendState, _Buffered):
    """Send all the bytes of the buffer to a socket or a pipe.

    Completes when the operating system has taken all of them, or with the error; *transferred* is how many it took
    either way. Sends of one handle leave in the order of their submission, whole, never interleaved. On a connected
    datagram socket it sends one datagram.

    Errors: ``ConnectionResetError`` when the peer of a socket is gone; ``BrokenPipeError`` when nobody reads the pipe
    or the write side was shut down here; what send(2) or WSASend say otherwise.
    """

    __slots__ = ()
    name = "send"
    route = Route.OUTGOING
    _kinds = STREAM
    _hint = "; use Write"
    _fills = False

    def _make(self, handle: Handle, buffer: Buffers, state: Any) -> None:
        self._check_handle(handle)
        _Buffered.__init__(self, handle, buffer, state)


class RecvFrom(_Buffered):
    """Receive one datagram; its sender is then in :attr:`address`.

    One that is larger than the buffer fills it and completes with ``EMSGSIZE``; the rest of it is lost, as UDP has
    it. A buffer of size 0 waits until a datagram is there and consumes nothing.

    Errors: what recvmsg(2) or WSARecvFrom say. An unreachable peer is no error of a socket that is not connected.
    """

    __slots__ = ("address",)
    name = "recv_from"
    route = Route.INCOMING
    _kinds = SOCKET
    _fills = True

    address: Address
    """The sender of the datagram that was received last."""

    def __init__(self, handle: Handle, buffer: Buffers, *, state: Any = None) -> None:
        self._check_handle(handle)
        super().__init__(handle, buffer, state)
        self.address = None


class SendTo(_Addressed, _Buffered):
    """Send one datagram to *address*, which must be numeric.

    Errors: ``EMSGSIZE`` when it is too large for the protocol; what sendto(2) or WSASendTo say otherwise.
    """

    __slots__ = ("_address",)
    name = "send_to"
    route = Route.OUTGOING
    _kinds = SOCKET
    _fills = False

    def __init__(self, handle: Handle, buffer: Buffers, address: Address, *, state: Any = None) -> None:
        self._check_handle(handle)
        super().__init__(handle, buffer, state)
        self.address = address


class Accept(AcceptState, Operation):
    """Accept one connection of a listening socket.

    The new socket is in :attr:`socket` and its peer's address in :attr:`address`: ready for overlapped work, not
    inheritable, not associated. A peer that has left already is still an accepted socket.

    Errors: ``EMFILE`` and ``ENFILE`` when no descriptor is free; the listener survives, the connection stays in its
    backlog, and accepts submitted after it wait for a moment before they try again, so that a server that re-submits
    at once does not spin. What accept(2) or AcceptEx say otherwise.
    """

    __slots__ = ()
    name = "accept"
    route = Route.INCOMING
    _kinds = SOCKET

    def __init__(self, handle: Handle, *, state: Any = None) -> None:
        self._check_handle(handle)
        super().__init__(handle, handle.key, state)
        self.socket = None  # type: ignore[assignment]  # or else every program would have to assert that there is one
        self.address = None

    def take(self) -> socket.socket:
        """Give the socket that was accepted away: it is the caller's to close, and the operation has none any more.

        So it lives as long as the caller has it, and not until another connection is accepted. Raises
        :class:`RuntimeError` where there is none, or it was taken already.
        """
        taken = self.socket
        if taken is None:
            raise RuntimeError(f"{Operation.__repr__(self)} has no socket to give: none was accepted, or it was taken")
        self.socket = None  # type: ignore[assignment]
        return taken


class Connect(_Addressed):
    """Connect a socket to *address*, which must be numeric. Success means that it is connected.

    After a refusal, an unreachable network or a time-out of the system's own the socket may connect again, but not on
    macOS and BSD. After a cancel, or a submission's time-out, the system may still be at work on the connection: take
    another socket then.

    Errors: ``ConnectionRefusedError``; ``TimeoutError``; ``OSError`` with ``ENETUNREACH``, ``EHOSTUNREACH`` and what
    else connect(2) or ConnectEx say.
    """

    __slots__ = ("_address",)
    name = "connect"
    route = Route.OUTGOING
    _kinds = SOCKET

    def __init__(self, handle: Handle, address: Address, *, state: Any = None) -> None:
        self._check_handle(handle)
        super().__init__(handle, handle.key, state)
        self.address = address


class Shutdown(Operation):
    """Half-close: once the sends submitted before it have left, end the write side. Receiving goes on.

    Errors: ``ENOTCONN``; what shutdown(2) says otherwise.
    """

    __slots__ = ()
    name = "shutdown"
    route = Route.OUTGOING
    _kinds = SOCKET

    def __init__(self, handle: Handle, *, state: Any = None) -> None:
        self._check_handle(handle)
        super().__init__(handle, handle.key, state)


class Disconnect(Operation):
    """Once the sends submitted before it have left, end both directions. The handle is still to be closed.

    Errors: ``ENOTCONN``; what shutdown(2) or DisconnectEx say otherwise.
    """

    __slots__ = ()
    name = "disconnect"
    route = Route.OUTGOING
    _kinds = SOCKET

    def __init__(self, handle: Handle, *, state: Any = None) -> None:
        self._check_handle(handle)
        super().__init__(handle, handle.key, state)


class _Positioned(_Buffered):
    """An operation of a file, at an offset."""

    __slots__ = ("_offset",)

    def __init__(self, handle: Handle, buffer: Buffers, offset: int, state: Any) -> None:
        super().__init__(handle, buffer, state)
        self.offset = offset

    @property
    def offset(self) -> int:
        """Where in the file it starts, in bytes."""
        return self._offset

    @offset.setter
    def offset(self, offset: int) -> None:
        self._must_be_idle()
        self._offset = whole_number(offset, "the offset")


class Read(_Positioned):
    """Read from a file at an offset, until the buffer is full or the file ends.

    The end of the file is a success with fewer bytes, and at or past the end with 0. The file's own position is
    neither used nor moved. Never blocks the submitting thread.

    Errors: ``EBADF`` when the file is not open for reading; ``EIO`` and what else preadv(2) or ReadFile say; ``EAGAIN``
    when it takes a thread, and the system lets none start.
    """

    __slots__ = ()
    name = "read"
    route = Route.FILE
    _kinds = FILE
    _hint = "; use Recv"
    _fills = True

    def __init__(self, handle: Handle, buffer: Buffers, offset: int, *, state: Any = None) -> None:
        self._check_handle(handle)
        super().__init__(handle, buffer, offset, state)


class Write(_Positioned):
    """Write all the bytes of the buffer to a file at an offset; one past the end makes the file longer.

    A file opened for appending is written at its end whatever the offset. Writes of one handle are independent of
    each other and may be done in any order. Never blocks the submitting thread.

    Errors: ``EBADF`` when the file is not open for writing; ``ENOSPC``, ``EFBIG``, ``EIO`` and what else pwritev(2) or
    WriteFile say; *transferred* is how many bytes were written before it; ``EAGAIN`` as for :class:`Read`.
    """

    __slots__ = ()
    name = "write"
    route = Route.FILE
    _kinds = FILE
    _hint = "; use Send"
    _fills = False

    def __init__(self, handle: Handle, buffer: Buffers, offset: int, *, state: Any = None) -> None:
        self._check_handle(handle)
        super().__init__(handle, buffer, offset, state)


class Flush(Operation):
    """Bring to the disk what the writes that completed before it have written, the file's length included.

    On macOS that takes ``F_FULLFSYNC``; on a file system that doesn't know of it, it is what fsync(2) can do.

    Errors: ``EIO``, ``ENOSPC`` and what else fsync(2) or FlushFileBuffers say; ``EAGAIN`` as for :class:`Read`.
    """

    __slots__ = ()
    name = "flush"
    route = Route.FILE
    _kinds = FILE

    def __init__(self, handle: Handle, *, state: Any = None) -> None:
        self._check_handle(handle)
        super().__init__(handle, handle.key, state)


class SendFile(Operation):
    """Send a range of a file to a stream socket, without copying it through the program where the system can.

    Completes when all of the range was taken, or with the error; *transferred* says how many bytes were. When the
    file ends before the range does, it completes with what there was. The file need not join a port; it must stay
    open until the completion.

    *file* has a ``fileno()`` or is the operating system's handle; *offset* and *count* are in bytes, and a *count* of
    None means up to the file's end.

    Errors: those of :class:`Send`, and what sendfile(2) or TransmitFile say of the file.
    """

    __slots__ = ("_count", "_file", "_offset")
    name = "send_file"
    route = Route.OUTGOING
    _kinds = SOCKET

    def __init__(
        self, handle: Handle, file: HasFileno | int, offset: int = 0, count: int | None = None, *, state: Any = None
    ) -> None:
        self._check_handle(handle)
        super().__init__(handle, handle.key, state)
        self.file = file
        self.set_range(offset, count)

    @property
    def file(self) -> HasFileno | int:
        """The file that is sent."""
        return self._file

    @file.setter
    def file(self, file: HasFileno | int) -> None:
        self._must_be_idle()
        self._file = checked_file(file)

    @property
    def offset(self) -> int:
        """Where in the file the range starts, in bytes."""
        return self._offset

    @property
    def count(self) -> int | None:
        """The length of the range in bytes; None is up to the end of the file."""
        return self._count

    def set_range(self, offset: int, count: int | None = None) -> None:
        """Choose the range for the next submission, in bytes."""
        self._must_be_idle()
        self._offset = whole_number(offset, "the offset")
        self._count = None if count is None else whole_number(count, "the count")


class Poll(Operation):
    """Wait until a socket or a pipe is readable or writable, consuming nothing.

    It is for a socket whose bytes another library moves; of one that encrypts them, as :class:`ssl.SSLSocket` does,
    associate the ``fileno()``, since the object itself is refused. Completes as soon as one of the wanted directions is
    ready (at once if it is already); which ones is in :attr:`found`. A peer's hang-up and errors count as both, since
    the next call will not block.
    """

    __slots__ = ("_readiness", "found")
    name = "poll"
    route = Route.READINESS
    _kinds = STREAM
    _hint = "; a file is always ready"

    found: Readiness
    """What was ready at the last completion."""

    def __init__(self, handle: Handle, readiness: Readiness, *, state: Any = None) -> None:
        self._check_handle(handle)
        super().__init__(handle, handle.key, state)
        self.found = Readiness(0)
        self.readiness = readiness

    @property
    def readiness(self) -> Readiness:
        """What is waited for."""
        return self._readiness

    @readiness.setter
    def readiness(self, readiness: Readiness) -> None:
        self._must_be_idle()
        if not isinstance(readiness, Readiness) or not readiness:
            raise TypeError(f"Poll needs a unio.Readiness that is not empty, not {shown(readiness)}")
        self._readiness = readiness


class Timer(Operation):
    """Complete once *delay* seconds have passed since its submission, never before."""

    __slots__ = ("_delay",)
    name = "timer"
    route = Route.TIMER

    def __init__(self, delay: float, key: Any = None, *, state: Any = None) -> None:
        super().__init__(None, key, state)
        self.delay = delay

    @property
    def delay(self) -> float:
        """How long it takes, in seconds."""
        return self._delay

    @delay.setter
    def delay(self, delay: float) -> None:
        self._must_be_idle()
        self._delay = seconds(delay, "the delay")


class ProcessExit(Operation):
    """Complete when a child process has ended, with its exit status in :attr:`status`.

    *process* is a :class:`subprocess.Popen`, another object with a ``pid``, or the number itself. The process is
    only observed: it stays for its owner to wait for, who gets the same status at once.

    Errors: ``ProcessLookupError`` when there is no such process; once it has ended, ``ChildProcessError`` when it was
    not a child of this one, or was waited for by someone else before its status could be read (an object that knows
    its ``returncode`` answers then); ``ENOSYS`` on Linux before 5.3.
    """

    __slots__ = ("_pid", "_process", "status")
    name = "process_exit"
    route = Route.PROCESS

    status: int | None
    """The exit status at the last completion: as :attr:`subprocess.Popen.returncode` has it, -N for signal N."""

    def __init__(self, process: HasPid | int, key: Any = None, *, state: Any = None) -> None:
        super().__init__(None, key, state)
        self.process = process
        self.status = None

    @property
    def process(self) -> HasPid | int:
        """The process that is observed."""
        return self._process

    @process.setter
    def process(self, process: HasPid | int) -> None:
        self._must_be_idle()
        number: Any = process if isinstance(process, int) else getattr(process, "pid", None)
        if not isinstance(number, int) or isinstance(number, bool):
            raise TypeError(f"ProcessExit needs a process or its number, not {shown(process)}")
        self._pid = whole_number(number, "a process number", None, least=1)
        self._process = process

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._pid


class Signal(Operation):
    """Complete when this process is sent a signal: at once, in whichever thread waits, however long it waits.

    *number* is a :class:`signal.Signals` or another number that ``signal.valid_signals()`` has, such as SIGTERM, SIGHUP
    or SIGINT; on Windows SIGINT (Ctrl-C), SIGBREAK (Ctrl-Break) or SIGTERM. Raises :class:`ValueError` for the others,
    for those that can't be caught, and for those that say that the program itself is at fault, such as SIGSEGV.

    From the first submission on, the signal is the port's: the handler that the program had, or Python's, is not
    called, so that Ctrl-C raises no ``KeyboardInterrupt``. What comes between a completion and the next submission, of
    this Signal or of another one of the same number, completes that one at once: none is lost, and several that come
    while nobody has heard of the first are one, as the system itself has it. The program has its own handling of the
    signal back when a Signal of that number was cancelled (by :meth:`Port.cancel`, which may also come between a
    completion and the next submission), or the port is closed. A time-out gives nothing back.

    If the program sets another handler meanwhile, as by :func:`signal.signal`, that one is called, and the next
    submission takes the signal again.

    Errors: ``EBUSY`` while another Signal of the same number is in flight, or another port has it; ``ENOTSUP`` where
    signals can't be had: in a subinterpreter, and, without the part of unio that is C, in a thread other than the main
    one unless the port has the signal already.
    """

    __slots__ = ("_number",)
    name = "signal"
    route = Route.SIGNAL

    def __init__(self, number: int, key: Any = None, *, state: Any = None) -> None:
        super().__init__(None, key, state)
        self.number = number

    @property
    def number(self) -> int:
        """The number of the signal."""
        return self._number

    @number.setter
    def number(self, number: int) -> None:
        self._must_be_idle()
        self._number = checked_signal(number)

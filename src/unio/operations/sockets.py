"""The operations of sockets, and of pipes what they share.

What has a buffer, of a file too, or an address begins with the first two classes.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, ClassVar

from unio.arguments import Address, checked_address, view
from unio.backends.common.accelerator import (
    AcceptState,
    BufferedState,
    PollState,
    RecvFromState,
    RecvState,
    SendState,
    SendToState,
)
from unio.errors import shown
from unio.handle import Handle, Kind
from unio.operations.operation import Operation, Route

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
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

SOCKET = (Kind.SOCKET,)
STREAM = (Kind.SOCKET, Kind.PIPE)


class Readiness(enum.IntFlag):
    """What :class:`Poll` waits for, and what it found."""

    READABLE = 1
    WRITABLE = 2


class Buffered(BufferedState, Operation):
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


class Addressed(Operation):
    """An operation with an address, which has to fit its handle's family."""

    __slots__ = ()

    _address: Address

    @property
    def address(self) -> Address:
        """Where the datagram goes, or the connection."""
        return self._address

    @address.setter
    def address(self, address: Address) -> None:
        self._set_address(address)

    def _set_address(self, address: Address) -> None:
        """Check an address of any kind, and take it."""
        self._must_be_idle()
        self._address = checked_address(self.handle.socket, address)

    def _check_handle(self, handle: Handle) -> None:
        super()._check_handle(handle)
        if hasattr(self, "_address"):
            checked_address(handle.socket, self._address)


class Recv(RecvState, Buffered):
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
            Buffered.__init__(self, handle, buffer, state)
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


class Send(SendState, Buffered):
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
        Buffered.__init__(self, handle, buffer, state)


class RecvFrom(RecvFromState, Buffered):
    """Receive one datagram; its sender is then in :attr:`address`.

    One that is larger than the buffer fills it and completes with ``EMSGSIZE``; the rest of it is lost, as UDP has
    it. A buffer of size 0 waits until a datagram is there and consumes nothing.

    Errors: what recvmsg(2) or WSARecvFrom say. An unreachable peer is no error of a socket that is not connected.
    """

    __slots__ = ()
    name = "recv_from"
    route = Route.INCOMING
    _kinds = SOCKET
    _fills = True

    def _make(self, handle: Handle, buffer: Buffers, state: Any) -> None:
        self._check_handle(handle)
        Buffered.__init__(self, handle, buffer, state)
        self.address = None


class SendTo(SendToState, Addressed, Buffered):
    """Send one datagram to *address*, which must be numeric.

    Errors: ``EMSGSIZE`` when it is too large for the protocol; what sendto(2) or WSASendTo say otherwise.
    """

    __slots__ = ()
    name = "send_to"
    route = Route.OUTGOING
    _kinds = SOCKET
    _fills = False

    def _make(self, handle: Handle, buffer: Buffers, address: Address, state: Any) -> None:
        self._check_handle(handle)
        Buffered.__init__(self, handle, buffer, state)
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


class Connect(Addressed):
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


class Poll(PollState, Operation):
    """Wait until a socket or a pipe is readable or writable, consuming nothing.

    It is for a socket whose bytes another library moves; of one that encrypts them, as :class:`ssl.SSLSocket` does,
    associate the ``fileno()``, since the object itself is refused. Completes as soon as one of the wanted directions is
    ready (at once if it is already); which ones is in :attr:`found`. A peer's hang-up and errors count as both, since
    the next call will not block.
    """

    __slots__ = ()
    name = "poll"
    route = Route.READINESS
    _kinds = STREAM
    _hint = "; a file is always ready"

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

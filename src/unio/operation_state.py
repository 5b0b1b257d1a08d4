"""What every operation keeps, and how a program sees it: the form in Python.

Where there is ``unio._core``, its classes of the same names stand in the place of these
(:mod:`unio.backends.common.accelerator` chooses); ``src/core/operation.c`` and ``buffers.c`` say what each does there.
Nothing else of an operation is in two forms: :mod:`unio.operations` builds on either, and what is not plain is left to
it by both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    import socket
    from collections.abc import Generator

    from unio.arguments import Address
    from unio.handle import Handle
    from unio.operations.sockets import Buffers, Readiness

# Where an operation is in its cycle. Only a backend changes it. (C has its own copy; a test compares them.)
IDLE: Final = 0
PENDING: Final = 1  # submitted, not completed: the kernel or the emulation has it
QUEUED: Final = 2  # completed, but no wait has returned the completion yet


class OperationState:
    """What all operations keep."""

    __slots__ = (
        "__weakref__",
        "_error",
        "_expiry",
        "_handle",
        "_key",
        "_native",
        "_next",
        "_previous",
        "_sequence",
        "_status",
        "_transferred",
        "_verdict",
        "state",
    )

    _handle: Handle | None
    _key: Any
    _transferred: int
    _error: OSError | None
    _status: int
    _next: Any  # the operation behind it in its direction
    _previous: Any
    _sequence: int
    _expiry: Any
    _verdict: OSError | None
    _native: Any  # the backend's own, during one flight

    state: Any

    if TYPE_CHECKING:  # what both forms leave to Operation

        def _await(self) -> Generator[Any, None, Self]: ...

        def _must_be_idle(self) -> None:
            """Raise InFlight for what is in flight."""

        def _refuse_submission(self) -> None:
            """Raise InFlight for what was submitted before."""

        def _set_handle(self, handle: Handle) -> None: ...

        def _set_transferred(self, transferred: int) -> None: ...

    def _prepare(self, handle: Handle | None, key: Any, state: Any) -> None:
        """Begin the life of the operation, or begin it anew."""
        if getattr(self, "_status", IDLE) != IDLE:
            self._must_be_idle()
        self._handle = handle
        self._key = key
        self.state = state
        self._transferred = 0
        self._error = None
        self._status = IDLE
        self._next = None
        self._previous = None
        self._sequence = 0
        self._expiry = None
        self._verdict = None
        self._native = None

    @property
    def handle(self) -> Handle:
        """The handle that the operation works on; None for a timer, a process exit and a signal, which have none.

        It may be given another one, of a kind that it works on; its key is that handle's then. Assigning while the
        operation is in flight raises :class:`unio.InFlight`.
        """
        return self._handle  # type: ignore[return-value]  # or else programs would have to assert that there is one

    @handle.setter
    def handle(self, handle: Handle) -> None:
        self._set_handle(handle)

    def __await__(self) -> Generator[Any, None, Self]:
        return self._await()

    @property
    def key(self) -> Any:
        """The key that its completions carry: its handle's, or the one given to an operation without a handle.

        Assigning while the operation is in flight raises :class:`unio.InFlight`, as for the two below.
        """
        return self._key

    @key.setter
    def key(self, key: Any) -> None:
        self._must_be_idle()
        self._key = key

    @property
    def transferred(self) -> int:
        """The number of bytes that the last completion reported."""
        return self._transferred

    @transferred.setter
    def transferred(self, transferred: int) -> None:
        self._set_transferred(transferred)

    @property
    def error(self) -> OSError | None:
        """The error that the last completion reported, or None."""
        return self._error

    @error.setter
    def error(self, error: OSError | None) -> None:
        self._must_be_idle()
        self._error = error

    @property
    def in_flight(self) -> bool:
        """Whether it was submitted and no wait has returned its completion yet."""
        return self._status != IDLE

    def _begin(self) -> object:
        """Start a flight; the backend holds the lock that guards the status.

        Returns what the last flight has left, for the backend to keep until it holds no lock any more: an error leads
        to what is the program's, whose finalizer may take the lock.
        """
        left = self._error, self._verdict
        if self._status != IDLE:
            self._refuse_submission()
        self._status = PENDING
        self._verdict = None
        self._transferred = 0
        self._error = None
        return left


class BufferedState(OperationState):
    """What an operation with a buffer keeps besides, or with several of them."""

    __slots__ = ("_buffer", "_made_views", "_size")

    _buffer: Any
    _made_views: tuple[memoryview, ...] | None
    _size: int

    if TYPE_CHECKING:

        def _set_buffer(self, buffer: Any) -> None: ...

    @property
    def _views(self) -> tuple[memoryview, ...]:
        """The parts of the memory that is filled or sent.

        That of a receive's own buffer is made when it is first asked for. Until then nobody else has the buffer, so
        that nothing has to hold it at its size; and of many connections most just wait for their first byte.
        """
        if self._made_views is None:
            self._made_views = (memoryview(self._buffer),)
        return self._made_views

    @property
    def buffer(self) -> Any:
        """The buffer, or the sequence of buffers, in the order in which they are filled or sent.

        The operation holds them, so that a ``bytearray`` can't be resized, for as long as it names them. Assign
        another buffer to let go. Assigning while the operation is in flight raises :class:`unio.InFlight`.
        """
        _ = self._views  # from now on its size has to be held
        return self._buffer

    @buffer.setter
    def buffer(self, buffer: Any) -> None:
        self._set_buffer(buffer)


class RecvState(BufferedState):
    """What a receive keeps besides."""

    __slots__ = ("_grows",)

    _grows: bool
    """Whether the buffer is its own, and a larger one is to follow once it was filled."""

    if TYPE_CHECKING:

        def _make(self, handle: Handle, buffer: Buffers | None, state: Any) -> None: ...

    def __init__(self, handle: Handle, buffer: Buffers | None = None, *, state: Any = None) -> None:
        self._make(handle, buffer, state)

    @property
    def data(self) -> memoryview:
        """What the last completion delivered: a view of the buffer, so that nothing is copied.

        The next submission fills the same memory; ``bytes(operation.data)`` outlives that. Raises :class:`TypeError`
        where there are several buffers.
        """
        if len(self._views) != 1:
            raise TypeError("the data are spread over several buffers: look at Recv.buffer and Recv.transferred")
        return self._views[0][: self.transferred]


class SendState(BufferedState):
    """What a send keeps besides: nothing. By its class, C knows that the operation is one."""

    __slots__ = ()

    if TYPE_CHECKING:

        def _make(self, handle: Handle, buffer: Buffers, state: Any) -> None: ...

    def __init__(self, handle: Handle, buffer: Buffers, *, state: Any = None) -> None:
        self._make(handle, buffer, state)


class RecvFromState(BufferedState):
    """What a receive of datagrams keeps besides."""

    __slots__ = ("address",)

    address: Address
    """The sender of the datagram that was received last."""

    if TYPE_CHECKING:

        def _make(self, handle: Handle, buffer: Buffers, state: Any) -> None: ...

    def __init__(self, handle: Handle, buffer: Buffers, *, state: Any = None) -> None:
        self._make(handle, buffer, state)


class SendToState(BufferedState):
    """What a send of datagrams keeps besides."""

    __slots__ = ("_address",)

    _address: Address

    if TYPE_CHECKING:

        def _make(self, handle: Handle, buffer: Buffers, address: Address, state: Any) -> None: ...

        def _set_address(self, address: Address) -> None: ...

    def __init__(self, handle: Handle, buffer: Buffers, address: Address, *, state: Any = None) -> None:
        self._make(handle, buffer, address, state)

    @property
    def address(self) -> Address:
        """Where the datagram goes."""
        return self._address

    @address.setter
    def address(self, address: Address) -> None:
        self._set_address(address)


class PollState(OperationState):
    """What a poll keeps besides."""

    __slots__ = ("_readiness", "found")

    _readiness: Readiness
    found: Readiness
    """What was ready at the last completion."""

    if TYPE_CHECKING:
        _request: int  # what an io_uring knows it by; of the form in C


class AcceptState(OperationState):
    """What an accept keeps besides."""

    __slots__ = ("address", "socket")

    socket: socket.socket
    """The socket that was accepted last, the caller's to close; None before there was one."""

    address: Address
    """The address of its peer."""

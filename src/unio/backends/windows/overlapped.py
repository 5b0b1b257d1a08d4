"""The native side of an operation: its OVERLAPPED, and the buffers that Windows writes to or reads from.

It belongs to the operation and is used again with it, so that a submission allocates nothing. It calls nothing of
Windows', and knows nothing of handles; which flags stand when, and who has the operation, is for in_flight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unio.backends.kernel import win32
from unio.backends.kernel.win32 import NULL
from unio.backends.kernel.win32_api import ffi

if TYPE_CHECKING:
    import socket

    from unio.operations import Operation

VECTOR_MAX = 1024
"""The most buffers that one call is given. Windows names no limit; Wine has this one, and takes part of the rest."""


class Overlapped:
    """The native side of one operation."""

    __slots__ = (
        "accepted",
        "address",
        "bounce",
        "buffers",
        "count",
        "extra",
        "failure",
        "finished",
        "flags",
        "given",
        "kept",
        "pointer",
        "result",
        "started",
        "views",
    )

    def __init__(self) -> None:
        self.pointer: Any = ffi.new("OVERLAPPED *")
        self.address = int(ffi.cast("uintptr_t", self.pointer))
        self.count: Any = ffi.new("DWORD *")
        self.flags: Any = ffi.new("DWORD *")
        self.views: Any = None
        self.kept: Any = None
        self.buffers: Any = NULL
        self.bounce: tuple[memoryview, ...] = ()  # one buffer in place of too many for a datagram
        self.extra: Any = None
        self.accepted: socket.socket | None = None
        self.failure: OSError | None = None  # what the start itself raised
        self.finished = False  # whether its results were taken over, and what came of that was not acted on yet
        self.result: int | None = None  # what came of it
        self.given = False  # whether Windows was given it, and its direction counts it
        self.started = False  # whether the call that starts it has returned, so that it can be cancelled

    def let_go(self) -> None:
        """Release the buffers, so that the caller can resize them."""
        self.bounce = ()
        self.views = self.kept = None
        self.buffers = NULL

    def hold(self) -> tuple[object, ...]:
        """All that Windows may use while the operation is in flight."""
        return self, self.kept, self.buffers, self.bounce, self.extra, self.accepted

    def begin(self) -> None:
        """Start another flight."""
        self.failure = None
        self.given = self.started = self.finished = False

    def reset(self, offset: int = 0) -> None:
        """Make the OVERLAPPED ready for another call."""
        overlapped = self.pointer
        overlapped.Internal = win32.STATUS_PENDING
        overlapped.InternalHigh = 0
        overlapped.Offset = offset & 0xFFFFFFFF
        overlapped.OffsetHigh = offset >> 32

    def wsabufs(self, views: tuple[memoryview, ...]) -> tuple[Any, int]:
        """The buffers as an array of WSABUF, made once for as long as the operation names the same ones."""
        if self.views is not views:
            self.views = None  # in the middle of this there may be no memory
            self.kept = [ffi.from_buffer(view) for view in views[:VECTOR_MAX]]
            self.buffers = ffi.new("WSABUF[]", max(1, len(self.kept)))
            for index, (view, pointer) in enumerate(zip(views, self.kept, strict=False)):
                self.buffers[index].len = len(view)
                self.buffers[index].buf = ffi.cast("char *", pointer)
            self.views = views
        return self.buffers, max(1, len(self.kept))  # one of no length, where there is nothing


def overlapped_of(operation: Operation) -> Overlapped:
    overlapped: Overlapped = operation._native  # no cast(): that is a call, and may find no memory
    return overlapped

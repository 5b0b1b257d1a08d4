"""A handle of Windows': the object behind it, what is in flight on it, and how that object is closed.

Its lock guards what is written here. Who has its operations is for in_flight to say; giving them to Windows, and ending
them, is for submissions.
"""

from __future__ import annotations

import contextlib
import io
import socket
import weakref
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

from unio.backends.common.base_handle import BaseHandle, BorrowedSocket, HandleOwner
from unio.backends.common.locks import Lock, holds_lock, put_off, refuse_within_lock
from unio.backends.common.objects import close_elsewhere, closed, closes_at_once, lingers, number_of, stands_for
from unio.backends.kernel import win32
from unio.backends.kernel.win32 import kernel32
from unio.backends.kernel.win32_api import ffi
from unio.backends.windows.in_flight import Direction
from unio.backends.windows.kernel_queue import surely
from unio.errors import AssociationError, cant_detach, is_closed, shown
from unio.handle import HasFileno, Kind
from unio.operations import Operation, Route

if TYPE_CHECKING:
    from unio.backends.common.file_threads import FilePool
    from unio.backends.windows.kernel_queue import KernelQueue
    from unio.backends.windows.polls import Device


class Lifecycle(IntEnum):
    """What has become of a handle."""

    OPEN = 0
    CLOSING = 1  # closed; its operations have still to be reaped
    CLOSED = 2
    DETACHED = 3  # as CLOSED, but the object was given back


class WindowsOwner(HandleOwner, Protocol):
    """What a handle of Windows' asks of its port besides."""

    _queue: KernelQueue
    _pool: FilePool
    _device: Device

    def _close_handle(self, handle: IocpHandle) -> None:
        """Close a handle that is closing; where it finds no memory, it raises, and the next wait goes on."""

    def _hand_back(self, handle: IocpHandle) -> None: ...

    def _has_any_of(self, handle: IocpHandle) -> bool: ...


class IocpHandle(BaseHandle):
    """A handle of Windows'. Its ``lock`` guards its directions, its state, and the status of its operations.

    The lock is held over CancelIoEx, so that an operation can't end, be submitted again and be hit by the cancel of its
    former flight; that call does not block.
    """

    __slots__ = (
        "__weakref__",
        "calling",
        "connected",
        "device",
        "directions",
        "disconnected",
        "ended",
        "extensions",
        "key",
        "kind",
        "lifecycle",
        "lock",
        "number",
        "object",
        "pending",
        "pointer",
        "pool",
        "port",
        "queue",
        "said",
        "skip_on_success",
        "skips_packets",
        "socket",
        "stream",
        "timeout",
    )

    port: weakref.ref[WindowsOwner]

    def __init__(self, port: WindowsOwner, given: HasFileno | int, key: Any, *, skip_on_success: bool) -> None:
        self.object = given
        self.key = key
        self.skip_on_success = skip_on_success
        self.skips_packets = False  # whether Windows queues none for a success at once, which is for ever
        self.said = number_of(given)  # what the object says that its number is; a file's is not the HANDLE
        self.kind, self.number, self.socket = _examine(given, self.said)
        self.pointer: Any = ffi.cast("HANDLE", self.number)
        self.port = weakref.ref(port)
        # What its operations need of the port, whether that is still there or not.
        self.queue = port._queue
        self.pool = port._pool
        self.device = port._device
        self.lock = Lock()
        self.lifecycle = Lifecycle.OPEN
        self.directions = {
            route: Direction() for route in (Route.INCOMING, Route.OUTGOING, Route.READINESS, Route.FILE)
        }
        self.pending: dict[int, Operation] = {}  # in flight, in the order of submission; it is in_flight that writes it
        self.ended: list[Operation] = []  # reaped since the handle began to close; delivered in order, at the end
        self.calling = 0  # threads that are in a call which starts something here, so that the number must stay
        self.extensions: dict[str, Any] = {}
        self.stream = self.socket is None or self.socket.type == socket.SOCK_STREAM
        self.connected = False
        self.disconnected = False
        self.timeout = self.socket.gettimeout() if self.socket is not None else None  # before it joined
        if self.socket is not None and not self.stream:
            with contextlib.suppress(OSError):
                self.socket.getpeername()
                self.connected = True

    def fileno(self) -> int:
        return self.said if self.lifecycle is Lifecycle.OPEN and self.is_open() else -1

    @property
    def closed(self) -> bool:
        return self.lifecycle is not Lifecycle.OPEN or not self.is_open()

    def is_open(self) -> bool:
        """Whether the number still stands for what was associated."""
        if isinstance(self.object, int):
            return win32.is_socket(self.number) if self.socket is not None else win32.is_handle(self.pointer)
        return stands_for(self.object, self.said)

    def extension(self, function_id: str, kind: str) -> Any:
        """An extension function of this socket's provider."""
        found = self.extensions.get(function_id)
        if found is None:
            assert self.socket is not None
            found = self.extensions[function_id] = win32.extension(self.socket, function_id, kind)
        return found

    def _all_in_flight(self) -> list[Operation]:
        if holds_lock():  # perhaps this handle's: in flight is what can be seen now
            return list(self.pending.values())
        with self.lock:  # a submit whose operation is in flight already may be about to enter it here
            return list(self.pending.values())

    def close(self) -> None:
        if holds_lock():
            put_off(self.close)
            return
        port = self.port()
        with self.lock:
            if self.lifecycle is not Lifecycle.OPEN:
                return
            self.lifecycle = Lifecycle.CLOSING
        if port is None or port._unusable is not None:
            self.part(is_open=self.is_open(), here=True)
        else:
            port._close_handle(self)

    def detach(self) -> HasFileno | int:
        port: WindowsOwner = self._joined_port()
        refuse_within_lock("detach a handle")
        is_open = self.is_open()
        with self.lock:
            if self.lifecycle is not Lifecycle.OPEN or not is_open:
                raise port._unusable() if port._unusable is not None else is_closed(self)
            if self.pending or self.calling or port._has_any_of(self):
                raise cant_detach(self)
            win32.leave_port(self.pointer)
            self.lifecycle = Lifecycle.DETACHED
        surely(port._hand_back, self)
        return self.object

    def make_as_before(self) -> None:
        """Undo what associating has changed, as far as Windows tells what that was."""
        if self.socket is None:
            return
        with contextlib.suppress(OSError):  # the program closes it just now
            if not self.stream and not self.connected:
                win32.report_unreachable(self.socket, report=True)
            if isinstance(self.socket, BorrowedSocket):
                self.socket.detach()
            elif self.socket.gettimeout() == 0:
                self.socket.settimeout(self.timeout)

    def part(self, *, is_open: bool, here: bool) -> None:
        """Close the object, if the program has not done so itself.

        With *here* this thread does it, whatever time that takes and whatever it raises.
        """
        if is_open and (here or closes_at_once(self)):
            self._close_object()
        elif is_open:
            close_elsewhere(self._close_object)

    def _close_object(self) -> None:
        with contextlib.suppress(OSError):
            if self.socket is not None and lingers(self.socket):
                self.socket.setblocking(True)  # else Windows would neither wait nor close it (WSAEWOULDBLOCK)
            if not isinstance(self.object, int):
                self.object.close()  # type: ignore[attr-defined]
            elif self.socket is not None:
                self.socket.close()
            else:
                kernel32.CloseHandle(self.pointer)


def _examine(given: HasFileno | int, number: int) -> tuple[Kind, int, socket.socket | None]:
    """What kind of handle it is, its number, and its socket if it is one."""
    if isinstance(given, socket.socket):
        return Kind.SOCKET, number, given
    if not _is_file(given):
        with contextlib.suppress(OSError):
            return Kind.SOCKET, number, BorrowedSocket(fileno=number)
    try:
        pointer = win32.file_handle(given)
    except (OverflowError, OSError):
        raise closed(given) from None
    kind = {win32.FILE_TYPE_DISK: Kind.FILE, win32.FILE_TYPE_PIPE: Kind.PIPE}.get(kernel32.GetFileType(pointer))
    if kind is None:
        what = shown(given)
        raise AssociationError(f"only sockets, pipes and regular files can join a port, and {what} is none of them")
    return kind, int(ffi.cast("uintptr_t", pointer)), None


def _is_file(given: HasFileno | int) -> bool:
    """Whether it is a file of Python's, whose descriptor is the C runtime's: a socket may well have the same number."""
    for inner in ("buffer", "raw"):
        given = getattr(given, inner, given)
    return isinstance(given, io.FileIO)

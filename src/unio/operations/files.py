"""The operations of files, and the one that sends a file to a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unio.arguments import checked_file, whole_number
from unio.handle import Handle, HasFileno, Kind
from unio.operations.operation import Operation, Route
from unio.operations.sockets import SOCKET, Buffered

if TYPE_CHECKING:
    from unio.operations.sockets import Buffers

FILE = (Kind.FILE,)


class _Positioned(Buffered):
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

"""What has come and was not read yet. No port is in here: whoever has the bytes puts them in, by whatever way.

One piece of memory is filled from its start to its end. What is received goes there without a copy, and is copied once,
when it is read. Only where the memory is full, or nearly so, is what was not read moved to its start, or into memory of
twice the size: each time at least as many bytes have come, or were read, as are moved. And where a separator was looked
for in vain, it is not looked for again. So the work is in proportion to the bytes, whatever the pieces in which a peer
sends them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unio.arguments import whole_number
from unio.errors import LimitExceeded, StreamEnded, shown

if TYPE_CHECKING:
    from typing_extensions import Buffer

SIZE_MIN = 4096
"""The size in bytes of the memory at first: an idle connection must be cheap, for there may be 10,000."""

SIZE_MAX = 256 * 1024
"""The size up to which it grows because receives fill it. It grows beyond that only for a reader who wants more."""

LINE_MAX = 64 * 1024
"""The longest line in bytes, with its end, unless the reader says otherwise."""


class ReceiveBuffer:
    """Bytes in the order in which they came, to be read in the portions of a protocol.

    Each ``read_`` method gives what it is asked for, or None as long as that has not all come. What it refuses to give,
    because it is too long or because the stream ended first, stays: another read can have it.
    """

    __slots__ = ("_end", "_memory", "_misfits", "_searched", "_separator", "_start", "_whole", "ended")

    ended: bool
    """Whether nothing comes any more."""

    def __init__(self) -> None:
        self._memory = bytearray(SIZE_MIN)
        self._whole = memoryview(self._memory)
        self._start = self._end = 0
        self._misfits = False  # whether it was filled by one receive, or is larger than that warrants
        self._separator = b"\n"
        self._searched = 0  # so many bytes from the start on, that separator does not begin
        self.ended = False

    def __len__(self) -> int:
        return self._end - self._start

    # Filling

    def space(self) -> memoryview:
        """Memory for what comes next, never empty; the same object as before where that will do."""
        if self._start == self._end:
            self._start = self._end = 0
            if not self._misfits:
                return self._whole
        if self._misfits and (len(self._memory) < SIZE_MAX or not self._end):
            self._misfits = False
            self._move(min(2 * len(self._memory), SIZE_MAX))
        elif self._end > len(self._memory) // 2:
            self._make_room()
        return self._whole[self._end :]

    def received(self, size: int) -> None:
        """So many bytes were written to the space; none means the end of the stream."""
        self._end += size
        if not size:
            self.ended = True
        elif size == len(self._memory) < SIZE_MAX:
            self._misfits = True

    def add(self, data: Buffer) -> None:
        """Copy what came elsewhere."""
        with memoryview(data) as given, given.cast("B") as view:
            while view:
                space = self.space()
                size = min(len(space), len(view))
                space[:size] = view[:size]
                self.received(size)
                view = view[size:]  # noqa: PLW2901 - what is left of it

    def _make_room(self) -> None:
        unread, size = len(self), len(self._memory)
        if unread <= size // 4 or (self._end == size and unread <= size // 2):
            self._memory[:unread] = self._whole[self._start : self._end]
            self._start, self._end = 0, unread
        elif self._end == size:
            self._move(2 * size)
            self._misfits = 2 * size > SIZE_MAX

    def _move(self, size: int) -> None:
        """Go on in memory of another size."""
        memory = bytearray(size)
        unread = len(self)
        memory[:unread] = self._whole[self._start : self._end]
        self._memory, self._whole = memory, memoryview(memory)
        self._start, self._end = 0, unread

    # Reading

    def read_some(self, limit: int = SIZE_MAX) -> bytes | None:
        """What there is, at most *limit* bytes; ``b""`` at the end of the stream."""
        unread = self._end - self._start
        if limit < 1:
            whole_number(limit, "the limit", None, least=1)
        if not unread:
            return b"" if self.ended else None
        return self._take(min(unread, limit))

    def read_exactly(self, size: int) -> bytes | None:
        """Exactly *size* bytes. Raises StreamEnded."""
        if 0 <= size <= self._end - self._start:
            return self._take(size)
        whole_number(size, "the size", None)
        if self.ended:
            raise StreamEnded(f"the stream ended after {len(self)} of the {size} bytes that were to be read")
        return None

    def read_until(self, separator: bytes, limit: int = LINE_MAX) -> bytes | None:
        """The bytes up to the separator and this, in all at most *limit*. Raises LimitExceeded and StreamEnded."""
        found = self._find(separator, limit)
        if found is None and self.ended:
            raise StreamEnded(f"the stream ended after {len(self)} bytes without {shown(separator)}")
        return found

    def read_line(self, limit: int = LINE_MAX) -> bytes | None:
        r"""A line and its end, ``b"\n"``, in all at most *limit* bytes. Raises LimitExceeded.

        The last line of a stream is given without an end where it has none; ``b""`` is the end of the stream.
        """
        found = self._find(b"\n", limit)
        return self._take(len(self)) if found is None and self.ended else found

    def peek(self, size: int = 1) -> bytes | None:
        """The next *size* bytes, which stay to be read; fewer where the stream ends before."""
        unread = len(self)
        if unread < size and not self.ended:
            return None
        return bytes(self._whole[self._start : self._start + min(whole_number(size, "the size", None), unread)])

    def _find(self, separator: bytes, limit: int) -> bytes | None:
        if separator != self._separator:
            if not separator:
                raise ValueError("the separator must not be empty")
            self._separator, self._searched = bytes(separator), 0
        if limit < 1:
            whole_number(limit, "the limit", None, least=1)
        start, end = self._start, self._end
        stop = min(end, start + limit)
        found = self._memory.find(separator, start + self._searched, stop)
        if found >= 0:
            return self._take(found + len(separator) - start)
        if end - start >= limit:
            raise LimitExceeded(f"no {shown(separator)} is in the next {limit} bytes, which is the limit")
        self._searched = max(0, end - start + 1 - len(separator))
        return None

    def _take(self, size: int) -> bytes:
        start = self._start
        self._start = stop = start + size
        self._searched = 0
        return self._whole[start:stop].tobytes()

"""What is to be sent and was not yet. No port is in here: whoever sends takes from it, and says what came of that."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Buffer

    Piece: TypeAlias = bytes | memoryview

SMALL = 16 * 1024
"""Below so many bytes a piece is copied together with its neighbours, since that costs less than a buffer of its own
does in a send."""

PIECES_MAX = 64
"""How many buffers one send has at most."""


class WriteQueue:
    """Pieces of bytes in the order in which they are to leave.

    A piece that can't change is not copied: ``bytes``, or a view of some. Of what may change while it waits, such as a
    ``bytearray``, a copy is kept.
    """

    __slots__ = ("_pieces", "_taken", "size")

    size: int
    """How many bytes wait, with those that were taken, as long as nobody has said that they were sent."""

    def __init__(self) -> None:
        self._pieces: deque[Piece] = deque()
        self._taken: list[Piece] = []
        self.size = 0

    def __bool__(self) -> bool:
        """Whether there is something to take."""
        return bool(self._pieces)

    def add(self, data: Buffer) -> None:
        """Have these bytes wait behind the others. Raises TypeError for what has no bytes."""
        piece = data if type(data) is bytes else unchanging(data)
        if piece:
            self._pieces.append(piece)
            self.size += len(piece)

    def take(self, limit: int) -> list[Piece]:
        """What is to be sent next, at most *limit* bytes of it, in as few buffers as it takes."""
        pieces = self._pieces
        if len(pieces) == 1 and len(pieces[0]) <= limit:
            self._taken = [pieces.popleft()]
        else:
            self._taken = self._joined(limit)
        return self._taken

    def sent(self, size: int) -> None:
        """So many bytes of what was taken have left; the rest is the next to be taken."""
        self.size -= size
        taken, self._taken = self._taken, []
        if len(taken) == 1 and size == len(taken[0]):
            return
        left: list[Piece] = []
        for piece in taken:
            if size < len(piece):
                left.append(memoryview(piece)[size:] if size else piece)
            size = max(0, size - len(piece))
        self._pieces.extendleft(reversed(left))

    def clear(self) -> None:
        """Drop everything."""
        self._pieces.clear()
        self._taken = []
        self.size = 0

    def _joined(self, limit: int) -> list[Piece]:
        found: list[Piece] = []
        small: list[Piece] = []
        while self._pieces and limit and len(found) < PIECES_MAX:
            piece = self._pieces.popleft()
            if len(piece) > limit:
                view = memoryview(piece)
                piece = view[:limit]
                self._pieces.appendleft(view[limit:])
            limit -= len(piece)
            if len(piece) < SMALL:
                small.append(piece)
                continue
            add_joined(small, found)
            found.append(piece)
        add_joined(small, found)
        return found


def add_joined(small: list[Piece], found: list[Piece]) -> None:
    """Add the small pieces as one, and forget them."""
    if small:
        found.append(small[0] if len(small) == 1 else b"".join(small))
        small.clear()


def unchanging(data: Buffer) -> Piece:
    """The bytes of *data* in one row, which stay as they are now."""
    view = memoryview(data)
    if type(view.obj) is bytes and view.c_contiguous:
        return view.cast("B") if view.nbytes else b""
    return view.tobytes()

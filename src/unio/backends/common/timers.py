"""Deadlines: what is to happen later, found in the order of its time.

Of an operation it knows which flight it is on, and nothing else.
"""

from __future__ import annotations

import heapq
import itertools
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

from unio.backends.common.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unio.operations import Operation

Deadline: TypeAlias = list[Any]
"""An entry of the heap: [time, a number that keeps equal times in order, what is due]; the last is None once spent."""

WhichFlight: TypeAlias = int | Deadline
"""One flight of an operation, among others: its number, or the deadline that was set for it."""

NOT_LINKED = -1
"""The number of an operation whose flight has begun, and which is put off (locks)."""

STALE_MAX = 64
"""How many spent entries may stay in the heap at least, before it is rebuilt without them."""


class Timers:
    """A heap of deadlines that any thread may add to and discard from.

    Most time-outs never pass: the operation ends before. So discarding only empties the entry, and the heap is
    rebuilt once more than half of it is empty, which costs each entry a constant share.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._heap: list[Deadline] = []
        self._spent = 0
        self._numbers = itertools.count()

    def add(self, delay: float, due: object) -> Deadline:
        """Let *due* be returned by :meth:`expired` once *delay* seconds have passed."""
        entry: Deadline = [monotonic() + delay, next(self._numbers), due]
        with self._lock:
            heapq.heappush(self._heap, entry)
        return entry

    def discard(self, entry: Deadline) -> None:
        """Take an entry back, unless it is spent already."""
        with self._lock:
            if entry[2] is None:
                return
            entry[2] = None
            self._spent += 1
            if self._spent > STALE_MAX and self._spent * 2 > len(self._heap):
                self._rebuild()

    def _rebuild(self) -> None:
        try:
            left = [each for each in self._heap if each[2] is not None]
        except MemoryError:  # a later one does it; who has taken an entry back is not to hear of this
            return
        heapq.heapify(left)
        self._heap = left
        self._spent = 0

    def next_time(self) -> float | None:
        """When the next entry is due, on the monotonic clock; None if there is none."""
        if not self._heap:
            return None
        with self._lock:
            self._drop_spent()
            return self._heap[0][0] if self._heap else None

    def expired(self) -> Iterator[tuple[Deadline, Any]]:
        """The entries that are due by now, one by one, each with what is due, in the order of their time.

        Each is spent once the next is asked for: if what has to be done raises, it is found again. Another thread may
        find it meanwhile.
        """
        if not self._heap:
            return
        now = monotonic()
        while True:
            with self._lock:
                self._drop_spent()
                if not self._heap or self._heap[0][0] > now:
                    return
                entry = self._heap[0]
                due = entry[2]
            yield entry, due
            self.discard(entry)

    def clear(self) -> None:
        """Discard everything."""
        with self._lock:
            for entry in self._heap:
                entry[2] = None
            self._heap.clear()
            self._spent = 0

    def _drop_spent(self) -> None:
        while self._heap and self._heap[0][2] is None:
            heapq.heappop(self._heap)
            self._spent -= 1


def is_on(operation: Operation, flight: WhichFlight | None) -> bool:
    """Whether an operation in flight is on the flight that this number, or this deadline, belongs to; or on any."""
    return flight is None or flight == operation._sequence or flight is operation._expiry

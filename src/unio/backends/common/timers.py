"""Deadlines: what is to happen later, found in the order of its time.

Of an operation it knows which flight it is on, and where it keeps its deadline.

Most time-outs never pass: the operation ends before, and is submitted again with another one, which passes later than
the last would have. So a deadline moves lazily. An operation keeps one from flight to flight, and that has one entry in
a heap, by the time that was set first. Setting it anew and taking it back only write to the deadline. When the entry
comes up, it is found out what has become of it: it gets its place by the time that holds by then, or goes where none
does. Only a deadline that is set for earlier than its entry has to have a new one; the former entry is spent, like
those of deadlines that were taken back. Once more than half of the heap is spent it is rebuilt without them, which
costs each a constant share and bounds what is kept.

An entry never comes up after its deadline, so none is late. None is early either: what is found due is what the
deadline itself says, by a clock that is read after the entry came up.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

from unio.backends.common import clock
from unio.backends.common.accelerator import has_fast_path, next_sequence
from unio.backends.common.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unio._core import Deadlines
    from unio.operations import Operation

NOT_LINKED = -1
"""The number of an operation whose flight has begun, and which is put off (locks)."""

STALE_MAX = 64
"""How many spent entries may stay in the heap at least, before it is rebuilt without them."""


class Deadline:
    """What is due at some time, or nothing while it is not set; then it keeps nothing alive."""

    __slots__ = ("belongs", "detail", "due", "entry", "flight", "time", "what")

    belongs: object
    """A mark of the structure that it is in."""
    what: Any
    """None while it is not set."""
    detail: Any
    due: float
    flight: int
    """The number of the flight that it was set for."""
    entry: int | None
    """The number of its entry in the heap, if it has one; and the time of that."""
    time: float

    def __init__(self, belongs: object) -> None:
        self.belongs = belongs
        self.what = self.detail = self.entry = None


if not TYPE_CHECKING and has_fast_path:
    from unio._core import Deadlines
elif not TYPE_CHECKING:

    class Deadlines:
        """Deadlines in the order of their time, and of equal ones in that of their numbers.

        Any thread may set them and take them back. It knows no clock.
        """

        def __init__(self) -> None:
            self._lock = Lock()
            self._mark = object()
            self._heap: list[tuple[float, int, Deadline]] = []
            self._spent = 0

        def assign(self, operation: Operation, due: float, detail: object) -> bool:
            """Set the deadline of an operation, for the flight that it is on.

            Returns whether it comes before all others, so that who sleeps has to be told. Where it raises, as there is
            no memory, it is not set.
            """
            deadline = operation._expiry
            if deadline is None or deadline.belongs is not self._mark:
                deadline = Deadline(self._mark)
            first = self._set(deadline, due, operation._sequence, operation, detail)
            operation._expiry = deadline
            return first

        def insert(self, due: float, number: int, what: object, detail: object) -> bool:
            """Set a deadline that is no operation's, and is not taken back."""
            return self._set(Deadline(self._mark), due, number, what, detail)

        def _set(self, deadline: Deadline, due: float, flight: int, what: object, detail: object) -> bool:
            with self._lock:
                is_new, was_set = deadline.entry is None or due < deadline.time, deadline.what is not None
                spent = self._spent + (was_set if is_new else was_set - 1)
                if is_new:
                    heapq.heappush(self._heap, (due, flight, deadline))
                    deadline.time, deadline.entry = due, flight
                self._spent = spent
                deadline.due, deadline.flight = due, flight
                deadline.what, deadline.detail = what, detail
                return is_new and self._heap[0][1] == flight

        def discard(self, operation: Operation, flight: int | None = None) -> None:
            """Take back the deadline of an operation, if it has one; of one flight, or of any."""
            deadline = operation._expiry
            if deadline is not None and deadline.belongs is self._mark:
                self._unset(deadline, flight)

        def spend(self, deadline: Deadline, flight: int) -> None:
            """Take a deadline back that was found due, unless it is set for another flight by now."""
            self._unset(deadline, flight)

        def _unset(self, deadline: Deadline, flight: int | None) -> None:
            with self._lock:
                if deadline.what is None or flight not in (None, deadline.flight):
                    return
                self._spent += deadline.entry is not None
                deadline.what = deadline.detail = None
                if self._spent > STALE_MAX and self._spent * 2 > len(self._heap):
                    try:  # noqa: SIM105 - which takes memory
                        self._rebuild()
                    except MemoryError:  # a later one does it; who has taken a deadline back is not to hear of this
                        pass

        def _rebuild(self) -> None:
            left = [each for each in self._heap if not _is_spent(each)]
            for each in self._heap:
                if _is_spent(each):
                    _drop(each)
            heapq.heapify(left)
            self._heap = left
            self._spent = 0

        def next_time(self) -> float | None:
            """When one may be due, and none before that; None if there is none."""
            if not self._heap:
                return None
            with self._lock:
                return self._heap[0][0] if self._heap else None

        def first_due(self, when: float) -> tuple[Deadline, Any, Any, int] | None:
            """The first that is due by a time, what is due and its detail, and the flight that it was set for.

            It stays until it is spent: who finds nothing due has seen all of them. None where none is.
            """
            with self._lock:
                while self._heap and self._heap[0][0] <= when:
                    _, number, deadline = self._heap[0]
                    if _is_spent(self._heap[0]):
                        spent = max(0, self._spent - 1)
                        _drop(heapq.heappop(self._heap))
                        self._spent = spent
                    elif deadline.flight != number:
                        heapq.heapreplace(self._heap, (deadline.due, deadline.flight, deadline))
                        deadline.time, deadline.entry = deadline.due, deadline.flight
                    else:
                        return deadline, deadline.what, deadline.detail, number
            return None

        def clear(self) -> None:
            """Take everything back."""
            with self._lock:
                for _, _, deadline in self._heap:
                    deadline.what = deadline.detail = deadline.entry = None
                self._heap.clear()
                self._spent = 0

    def _is_spent(entry: tuple[float, int, Deadline]) -> bool:
        return entry[2].entry != entry[1] or entry[2].what is None

    def _drop(entry: tuple[float, int, Deadline]) -> None:
        if entry[2].entry == entry[1]:
            entry[2].entry = None


class Timers(Deadlines):
    """Deadlines, by the clock."""

    def set(self, operation: Operation, delay: float, detail: object = True) -> bool:  # noqa: FBT002 - any object
        """Let an operation be returned by :meth:`expired` once *delay* seconds have passed, unless it is discarded."""
        return self.assign(operation, clock.now() + delay, detail)

    def add(self, delay: float, what: object, detail: object) -> bool:
        """The same of what is no operation's deadline, and is not discarded."""
        return self.insert(clock.now() + delay, next_sequence(), what, detail)

    def expired(self) -> Iterator[tuple[Any, Any, int]]:
        """What is due by now, one by one in the order of its time: what, its detail, and the flight it was set for.

        Each is spent once the next is asked for: if what has to be done raises, it is found again. Another thread may
        find it meanwhile.
        """
        if self.next_time() is None:
            return
        when = clock.now()
        while (found := self.first_due(when)) is not None:
            deadline, what, detail, flight = found
            yield what, detail, flight
            self.spend(deadline, flight)


def is_on(operation: Operation, flight: int | None) -> bool:
    """Whether an operation in flight is on the flight of this number; or on any."""
    return flight is None or flight == operation._sequence

"""The turns of a loop: the form in Python, on the private queues of asyncio's base class.

Where there is the fast path of ``unio._core``, its class of the same name stands in the place of this one;
``src/core/asyncio_turns.c`` says what it gains. What is not plain is left to :class:`unio.asyncio.turns.Turns` by both.

A turn is: do what was put off to its end; take from the port what there is, waiting only where nothing else is to be
done; run the callbacks that were scheduled before; deliver the completions, each by a call of its operation's
``state`` and so without a callback or a future in between; run what has become due.
"""

from __future__ import annotations

import heapq
from asyncio.base_events import BaseEventLoop
from collections import deque
from typing import TYPE_CHECKING, Any

from unio.asyncio.forms import nothing

if TYPE_CHECKING:
    from asyncio import Handle
    from collections.abc import Callable

    from unio.completion import Completion
    from unio.operations import Operation
    from unio.port import Port

SPENT_MIN = 100
"""How many timers may stay in the heap that were cancelled, before it is rebuilt without them."""

WAIT_SECONDS_MAX = 86400.0
"""The longest wait of a turn: no time-out of a timer is too far away for the clock's arithmetic."""


class TurnsState(BaseEventLoop):
    """The turns of a loop: callbacks, timers, and the completions of its port."""

    if TYPE_CHECKING:  # of the base class
        _ready: deque[Handle]
        _scheduled: list[Any]
        _stopping: bool
        _debug: bool
        _timer_cancelled_count: int
        _clock_resolution: float

        def _run_timed(self, handle: Handle) -> None: ...
        def _handler_failed(self, operation: Operation | None, error: BaseException) -> None: ...

    def _begin_turns(self, port: Port) -> None:
        self._wait = port.wait
        self._post = port.post
        self._batch: list[Completion] = []  # taken and not delivered, the last first
        self._at_end: deque[Callable[[], object]] = deque()
        self._is_called = False  # whether a packet that ends the wait is on its way

    def _end_turns(self) -> None:
        """Let go of all that was to be run or delivered."""
        self._batch.clear()
        self._at_end.clear()

    def _undelivered(self) -> list[Completion]:
        """The completions that were taken and not delivered yet."""
        return self._batch[::-1]

    def before_wait(self, work: Callable[[], object]) -> None:
        """Have something done once at the end of this turn, right before the port is waited on."""
        self._at_end.append(work)

    def _run_once(self) -> None:
        self._deliver()  # what an exception in the middle of the last turn has left
        self._move_due()
        self._run_ready(len(self._ready))
        while self._at_end:
            self._at_end.popleft()()
        self._batch = self._wait(self._time_to_wait())
        self._batch.reverse()
        self._is_called = False  # who scheduled something before this is seen in the next turn
        self._move_due()  # asyncio runs them before what the completions will schedule
        self._deliver()

    def _time_to_wait(self) -> float | None:
        self._drop_spent()
        if self._ready or self._stopping:
            return 0
        if not self._scheduled:
            return None
        left: float = self._scheduled[0].when() - self.time()
        return min(max(0, left), WAIT_SECONDS_MAX)

    def _drop_spent(self) -> None:
        """Let timers that were cancelled go: those that come first, and all of them where they are the most."""
        if self._timer_cancelled_count > SPENT_MIN and self._timer_cancelled_count * 2 > len(self._scheduled):
            left = []
            for timer in self._scheduled:
                if timer.cancelled():
                    timer._scheduled = False
                else:
                    left.append(timer)
            heapq.heapify(left)
            self._scheduled, self._timer_cancelled_count = left, 0
        while self._scheduled and self._scheduled[0].cancelled():
            self._timer_cancelled_count -= 1
            heapq.heappop(self._scheduled)._scheduled = False

    def _move_due(self) -> int:
        """Have the timers that are due run in this turn. Returns how many."""
        if not self._scheduled:
            return 0
        due, until = 0, self.time() + self._clock_resolution
        while self._scheduled and self._scheduled[0].when() < until:
            timer = heapq.heappop(self._scheduled)
            timer._scheduled = False
            self._ready.append(timer)
            due += 1
        return due

    def _run_ready(self, count: int) -> None:
        ready = self._ready
        for _ in range(count):
            handle = ready.popleft()
            if self._debug:
                self._run_timed(handle)
            elif not handle.cancelled():
                handle._run()
            del handle  # see _run_timed

    def _deliver(self) -> None:
        """Call the state of each operation that has completed, whatever becomes of the others."""
        batch = self._batch
        while batch:
            completion = batch.pop()
            operation = completion.operation
            try:
                (completion.key if operation is None else operation.state)(completion)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as for any callback
                self._handler_failed(operation, error)
            del completion, operation  # as for handles

    def _write_to_self(self) -> None:
        """Wake the loop out of its wait: from another thread, or a signal handler."""
        if self._is_called:
            return
        self._is_called = True  # before the packet, which may be taken before this goes on
        try:
            self._post(nothing)
        except BaseException:
            self._is_called = False
            raise

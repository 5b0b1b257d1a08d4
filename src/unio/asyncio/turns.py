"""The turns of the loop: callbacks, timers, and the completions of the port, in asyncio's order.

It knows asyncio's base class, whose private queues it works on (the base class of all of CPython's own loops, 3.11 to
3.15, which does with them what is done here), and of the port that a completion's operation has a state to be called
with. It knows no transports.

A turn is: take from the port what there is, waiting only where nothing else is to be done; run the callbacks that were
scheduled before; deliver the completions, each by a call of its operation's ``state`` and so without a callback or a
future in between; run what has become due. What transports have gathered in a turn (:meth:`Turns.before_wait`) is
handed to the port at its end, so that what was written to one connection leaves as one send.
"""

from __future__ import annotations

import heapq
from asyncio import base_events
from asyncio.base_events import BaseEventLoop, _format_handle  # type: ignore[attr-defined]
from collections import deque
from typing import TYPE_CHECKING, Any

from unio.errors import AssociationError, InFlight, NotAssociated, PortClosed
from unio.port import Port

if TYPE_CHECKING:
    from asyncio import Handle
    from collections.abc import Callable

    from unio.completion import Completion
    from unio.handle import Handle as JoinedHandle
    from unio.handle import HasFileno

SPENT_MIN = 100
"""How many timers may stay in the heap that were cancelled, before it is rebuilt without them."""

WAIT_SECONDS_MAX = 86400.0
"""The longest wait of a turn: no time-out of a timer is too far away for the clock's arithmetic."""


class Turns(BaseEventLoop):
    """A loop that runs callbacks and delivers completions; what it can do beside is its subclass's."""

    if TYPE_CHECKING:  # of the base class
        _ready: deque[Handle]
        _scheduled: list[Any]
        _stopping: bool
        _debug: bool
        _current_handle: Handle | None
        _timer_cancelled_count: int
        _clock_resolution: float
        _thread_id: int | None

        def _check_closed(self) -> None: ...

    port: Port
    """The port that the loop waits on; any operation may be submitted to it, with a callable for its state."""

    def __init__(self) -> None:
        super().__init__()
        self.port = Port(concurrency=1)
        self._batch: list[Completion] = []  # taken and not delivered, the last first
        self._gathered: deque[Callable[[], None]] = deque()
        self._is_called = False  # whether a packet that ends the wait is on its way
        self._joined: dict[int, JoinedHandle] = {}  # by number; see join

    # Handles

    def join(self, given: HasFileno) -> JoinedHandle:
        """The handle of a socket or a pipe, which joins the loop's port where it has not done so yet."""
        number = given.fileno()
        handle = self._joined.get(number)
        if handle is None or handle.object is not given or handle.closed:
            handle = self._joined[number] = self.port.associate(given)
        return handle

    def part(self, handle: JoinedHandle) -> None:
        """Forget a handle that was closed or detached."""
        if self._joined.get(handle.number) is handle:
            del self._joined[handle.number]

    # Turns

    def before_wait(self, work: Callable[[], None]) -> None:
        """Have something done once at the end of this turn, right before the port is waited on."""
        self._gathered.append(work)

    def _run_once(self) -> None:
        while self._gathered:
            self._gathered.popleft()()
        before = len(self._ready)
        if not self._batch:  # or else an exception has come in the middle of the last turn
            self._batch = self.port.wait(self._time_to_wait())
            self._batch.reverse()
        self._is_called = False  # who scheduled something before this is seen in the next turn
        due = self._move_due()
        self._run_ready(before)
        self._deliver()
        self._run_ready(due)

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
            if handle.cancelled():
                continue
            if self._debug:
                self._run_timed(handle)
            else:
                handle._run()

    def _run_timed(self, handle: Handle) -> None:
        self._current_handle = handle
        try:
            began = self.time()
            handle._run()
            took = self.time() - began
            if took >= self.slow_callback_duration:
                base_events.logger.warning("Executing %s took %.3f seconds", _format_handle(handle), took)  # type: ignore[attr-defined]
        finally:
            self._current_handle = None

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
                self.call_exception_handler(
                    {"message": f"Exception in the handler of {operation!r}", "exception": error}
                )

    def _write_to_self(self) -> None:
        """Wake the loop out of its wait: from another thread, or a signal handler."""
        if self._is_called:
            return
        self._is_called = True  # before the packet, which may be taken before this goes on
        try:
            self.port.post(_nothing)
        except PortClosed:
            pass
        except BaseException:
            self._is_called = False
            raise

    def close(self) -> None:
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        self._let_all_go()
        super().close()
        self.port.close()

    def _let_all_go(self) -> None:
        """Give the sockets and pipes that have joined back, as they were: another loop may take them."""
        for handle in self._joined.values():
            handle.cancel()
        for handle in self._joined.values():
            while not handle.closed:
                try:
                    handle.detach()
                except InFlight:  # until all that was cancelled has come
                    self.port.wait()
                except (AssociationError, NotAssociated, OSError):  # it was closed; or the system can't, and it stays
                    break
        self._joined.clear()


def _nothing(_: Completion) -> None:
    """What a packet is that only ends a wait."""

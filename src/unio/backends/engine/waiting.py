"""Waiting: what a thread does between its call of ``wait`` and its return. C has the plain part, in ``core/waiting.c``.

One of the threads that wait, the leader, asks the kernel for all, and sees to deadlines and to what was broken off; the
others sleep in the queue (completion_queue) until there is something for them. This knows the queue and the table of
handles, and of a subclass how it asks the kernel and resumes a direction: the abstract methods.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any

from unio.arguments import seconds
from unio.backends.common import clock
from unio.backends.common.locks import holds_lock, put_off, refuse_within_lock
from unio.backends.engine.handle import Lifecycle
from unio.backends.engine.hearing import HearingPort
from unio.backends.engine.run_slots import WATCH_SECONDS, Blocking, current, join
from unio.port import LIMIT_DEFAULT, Completion, check_limit

if TYPE_CHECKING:
    from collections import deque

    from unio.backends.engine.handle import Direction, EngineHandle
    from unio.backends.engine.registry import Table
    from unio.backends.engine.run_slots import Waiter
    from unio.operations import Operation

SWEEP_SECONDS = 0.05
"""How soon an otherwise idle wait looks for handles that were closed behind the port's back."""

SWEEP_SHARE = 50
"""Sweeps of a port with many handles take at most one part in this many of the time."""

SWEEP_FREELY = 64
"""Up to so many handles a sweep is too cheap to be rationed."""

SLEEP_SECONDS_MAX = 86400.0
"""The longest single sleep in the kernel; a longer time-out takes several. No kernel here takes every float."""


class WaitingPort(HearingPort):
    """A port on which threads wait, one of them in the kernel."""

    _table: Table
    _backlog: deque[tuple[EngineHandle, Direction]]
    """Directions that the leader resumes before it sleeps: they used up their attempts, or were broken off."""

    def __init__(self, *, backend: str | None = None, concurrency: int = 0) -> None:
        self._next_sweep = 0.0
        super().__init__(backend=backend, concurrency=concurrency)

    if TYPE_CHECKING:  # what FastPort adds in C

        def _harvest_fast(self, timeout_ms: int, /) -> bool: ...

    # What a subclass adds

    @abstractmethod
    def _harvest(self, timeout: float | None) -> bool:
        """Wait in the kernel for up to *timeout* seconds and act on what it tells. Returns whether it told anything."""

    @abstractmethod
    def _resume(self, handle: EngineHandle, direction: Direction) -> None:
        """Have a direction's operations done: after an event, or when it had used up its attempts or has rested."""

    @abstractmethod
    def _expire(self, what: EngineHandle | Operation, detail: Any, flight: int) -> None:
        """Act on a deadline that has passed."""

    @abstractmethod
    def _close_kernel_once(self) -> None:
        """Close the kernel's side, unless another thread is in there: that one does it when it comes out."""

    # What threads have gathered

    def start_gathered(self) -> None:
        if self._unusable is not None:
            raise self._unusable()
        self._start_gathered()

    def _start_gathered(self) -> None:
        if holds_lock():
            put_off(self._queue.start_gathered)
        else:
            self._start_all()

    def _start_all(self) -> None:
        """Start what threads have submitted and is to be started together at their next wait."""

    # Waiting

    def post(self, key: Any, operation: Any = None, transferred: int = 0) -> None:
        if self._unusable is not None:
            raise self._unusable()
        self._queue.post(Completion(key, operation, transferred, None))

    def wait(self, timeout: float | None = None, limit: int = LIMIT_DEFAULT) -> list[Completion]:
        refuse_within_lock()
        limit = check_limit(limit)
        until = None if timeout is None else clock.now() + seconds(timeout, "the time-out")
        waiter = current.waiter
        if waiter is None or not waiter.belongs_to(self._queue):
            waiter = join(self._queue)
        batch: list[Completion] = []
        self._queue.end_turn(waiter)
        try:
            try:
                self._queue.start_gathered()
                batch = self._wait(waiter, until, limit)
            finally:  # also for what a signal handler raises, such as KeyboardInterrupt
                self._queue.arrive(waiter)
                if not batch or waiter is not current.waiter:  # a finalizer may have waited on another port meanwhile
                    waiter.leave()
                self._queue.pass_on(waiter)
        except BaseException:
            self._queue.give_back(batch)
            raise
        return batch

    def blocking(self) -> Blocking:
        return Blocking(self._start_gathered, self._queue)

    def _wait(self, waiter: Waiter, until: float | None, limit: int) -> list[Completion]:
        queue = self._queue
        while True:
            if self._unusable is not None:
                raise self._unusable()
            left = None if until is None else until - clock.now()
            gives_way = (left is None or left > 0) and queue.gives_way(waiter)
            if not gives_way and queue.has_packets and not queue.should_ask() and waiter.enter():
                batch = queue.take(queue.limit_for(waiter, limit))
                if batch:
                    queue.begin_turn(waiter, len(batch))
                    return batch
            if gives_way or not self._lead(waiter, left):
                self._follow(waiter, left)
            if left is not None and left <= 0 and self._unusable is None and not queue.has_for(waiter):
                return []

    def _lead(self, waiter: Waiter, timeout: float | None) -> bool:
        """Ask the kernel until there is something to return or the time is over. Returns False if another leads."""
        queue = self._queue
        turn = object()
        try:
            if not queue.lead(turn):
                return False
            if self._unusable is None:
                self._turn(waiter, timeout)
                queue.asked()  # not before: what others take during a long turn must not lead to another at once
        except BaseException:
            self._look_again()
            raise
        finally:
            queue.end_lead(turn, waiter)
            if self._unusable is not None:
                self._close_kernel_once()
        return True

    def _follow(self, waiter: Waiter, timeout: float | None) -> None:
        """Sleep while another thread leads, unless there is something to return."""
        waits = timeout is None or timeout > 0
        if self._queue.has_for(waiter) and not (waits and self._queue.gives_way(waiter)):
            self._queue.asked()  # the leader asks the kernel often enough
            return
        self._queue.arrive(waiter)
        waiter.leave()
        if waits:
            self._sweep(idle=True)
            self._sleep(waiter, partial(self._queue.park, waiter), timeout)

    # Leading

    def _turn(self, waiter: Waiter, timeout: float | None) -> None:
        """Wait for events for up to *timeout* seconds and act on them; then on deadlines; then on leftovers."""
        queue = self._queue
        until = None if timeout is None else clock.now() + timeout
        swept = False
        while True:
            happened = self._turn_once(waiter, until, swept=swept)
            if self._unusable is not None or queue.has_for_leader(waiter) or queue.gives_way(waiter):
                return
            if until is not None and clock.now() >= until:
                self._sweep(idle=True)
                return
            if not happened:
                swept = self._sweep(idle=True) or swept

    def _turn_once(self, waiter: Waiter, until: float | None, *, swept: bool) -> bool:
        """One call to the kernel and what follows from it. Returns whether anything happened."""
        queue = self._queue
        queue.sleeping = True  # from here on whoever queues a packet interrupts; so look at the queue after this
        timeout = self._sleep_time(until, swept=swept)
        if self._backlog or self._unusable is not None or queue.has_for_leader(waiter):
            timeout = 0
        elif queue.has_packets:  # they are for threads that run, or are about to
            queue.watching = True
            timeout = WATCH_SECONDS if timeout is None else min(timeout, WATCH_SECONDS)
        elif waiter.slot:
            queue.arrive(waiter)  # who was woken for what others have taken would else wait for itself
            waiter.leave()
        happened = self._harvest(timeout) if self.is_fast else self._sleep(waiter, self._harvest, timeout)
        queue.sleeping = False
        if queue.watching:
            queue.watching = False
            queue.watch()
        happened = self._see_to_leftovers() or happened
        if happened and clock.now() >= self._next_sweep:
            self._sweep(idle=False)
        return happened

    def _sleep_time(self, until: float | None, *, swept: bool) -> float | None:
        """How long the kernel may hold the leader: to the caller's time-out, the next deadline or the next sweep."""
        ends = [end for end in (until, self._queue.timers.next_time()) if end is not None]
        left = max(0.0, min(ends) - clock.now()) if ends else None
        if not swept and self._table:
            return SWEEP_SECONDS if left is None else min(left, SWEEP_SECONDS)
        return None if left is None else min(left, SLEEP_SECONDS_MAX)

    def _see_to_leftovers(self) -> bool:
        """Act on deadlines that have passed, and resume the directions of the backlog.

        Returns whether a deadline had.
        """
        expired = False
        for what, detail, flight in self._queue.timers.expired():
            self._expire(what, detail, flight)
            expired = True
        directions = len(self._backlog)
        for _ in range(directions):
            entry = self._backlog.popleft()
            try:
                self._resume(*entry)
            except BaseException:
                self._backlog.append(entry)
                raise
        if expired or directions:
            self._queue.start_gathered()  # what has become the first of its direction: a wait may return now
        return expired

    def _look_again(self) -> None:
        """Attempt everything once more: events may have been fetched and not acted on, and they don't come again."""
        for handle in list(self._table.values()):
            for direction in (handle.incoming, handle.outgoing, handle.readiness, handle.files):
                if direction is not None:
                    self._backlog.append((handle, direction))

    def _sweep(self, *, idle: bool) -> bool:
        """Find handles whose object was closed behind the port's back, and end their operations.

        The kernel tells nobody of a close, so one has to look; rarely enough that it does not count.
        """
        now = clock.now()
        if now < self._next_sweep and not (idle and len(self._table) <= SWEEP_FREELY):
            return False
        for handle in list(self._table.values()):
            if not handle.is_open():
                handle.leave(Lifecycle.CLOSING)
        self._queue.start_gathered()  # which may bring the ends of their operations
        after = clock.now()
        self._next_sweep = after + max(SWEEP_SECONDS, SWEEP_SHARE * (after - now))
        return True

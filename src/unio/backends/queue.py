"""The queue of a port whose kernel has none, and the threads that wait for it.

One of the waiting threads, the *leader*, waits in the kernel; the others are *parked*, each on a lock of its own. A
thread that queues a packet wakes the one that has parked last, or interrupts the leader when none is parked. The leader
is the one that has waited longest, or nearly so: one that leaves wakes the first of the parked to lead in its place. So
threads are released last-in first-out, and under load few of them do all the work.

A thread is woken for a packet only if it may run, which takes a place (places): it gets the place with the wake-up, so
that never more are woken than may run.

No wake-up may be lost, and no lock is held while doing any of this, so the order of the steps carries the proof:

- who waits first shows that it does (joins the parked, or says that it is about to sleep in the kernel) and then looks
  once more whether there is a packet, and a place;
- who queues first appends the packet, and who stops running first gives its place back; then either looks for somebody
  to wake.

Whichever comes last sees the others. It also makes :meth:`CompletionQueue.post` safe in a signal handler, which may
run in the middle of any other method of the same thread: there is no lock that the thread could be holding.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from unio.backends.native import made_completion, make_packets
from unio.backends.places import BLOCKED_SECONDS
from unio.backends.timers import Timers
from unio.operation_state import IDLE, PENDING, QUEUED
from unio.port import Completion

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.backends.places import Waiter
    from unio.operations import Operation


HAND_OVER_SECONDS = 1.0
"""How long a thread whose time is over waits for the one that is just waking it: between two steps of that one."""


def nothing_gathered() -> None:
    """Start nothing: where a port gathers no submissions."""


def _completion_of(packet: Operation | Completion) -> Completion:
    if isinstance(packet, Completion):
        return packet
    return made_completion((packet.key, packet, packet.transferred, packet.error))


class CompletionQueue:
    """Packets, first in, first out: operations that have completed, and completions that the caller posted."""

    def __init__(self, interrupt: Callable[[], None], concurrency: int) -> None:
        self.packets = make_packets()
        self.timers = Timers()
        self.closed = False
        self.seat: list[None] = [None]
        """Empty while a thread leads: waits in the kernel or works on what it found there.

        A thread takes the lead with ``del seat[0]``. That is one step of the interpreter, which a signal handler that
        raises can't come behind, as it can behind a call, whose result would then be lost and the lead with it.
        """
        self.sleeping = False
        """Whether the leader is in the kernel, or about to be, and has to be interrupted to see a packet."""
        self.watching = False
        """Whether the leader sleeps no longer than until it looks at the running threads again."""
        self.places: list[None] = [None] * concurrency
        """One for each thread that may begin to run."""
        self.start_gathered: Callable[[], None] = nothing_gathered
        """Starts what the threads of the port have submitted and is to be started together at their next wait."""
        self.waiters: dict[int, Waiter] = {}
        """The threads that belong to the port, by id."""
        self._interrupt = interrupt
        self._parked: list[Waiter] = []
        self._coming: list[Waiter] = []  # those that were woken for a packet and have not yet taken one

    def complete(self, operation: Operation, error: OSError | None) -> None:
        """Queue an operation that has ended, waking nobody; call :meth:`wake` when no lock is held any more.

        Where it raises, as there is no memory, the operation is still in flight, and this can be called again.
        """
        operation._error = error
        if operation._expiry is not None:
            self._cancel_expiry(operation)
        native, operation._native = operation._native, None
        operation._status = QUEUED
        try:
            self.packets.append(operation)
        except MemoryError:
            self._append_again(operation, native)
        if self.closed:  # looked at after the append, as close() empties the queue after saying so: one of them sees it
            self._empty()

    def _append_again(self, operation: Operation, native: Any) -> None:
        """Append a packet for which there was no memory at first: the system may have found some."""
        try:
            self.packets.append(operation)
        except BaseException:
            operation._status = PENDING
            operation._native = native
            raise

    def forget(self, operation: Operation) -> None:
        """End the flight of an operation without a packet."""
        if operation._expiry is not None:
            self._cancel_expiry(operation)
        operation._native = None
        operation._status = IDLE

    def _cancel_expiry(self, operation: Operation) -> None:
        self.timers.discard(operation._expiry)
        operation._expiry = None

    def post(self, completion: Completion) -> None:
        self.packets.append(completion)
        if self.closed:
            self._empty()
        self.wake()

    def take(self, limit: int) -> list[Completion]:
        """Take up to *limit* packets out of the queue, without waiting."""
        packets = self.packets
        batch: list[Completion] = []
        while packets and len(batch) < limit:
            try:
                packet = packets.popleft()
            except IndexError:  # another thread was quicker
                break
            try:
                batch.append(_completion_of(packet))
            except BaseException:
                packets.appendleft(packet)
                self.give_back(batch)
                raise
            if not isinstance(packet, Completion):
                packet._status = IDLE  # last: from here on another thread may submit it again
        return batch

    def give_back(self, batch: list[Completion]) -> None:
        """Put completions back to the head of the queue, as no wait can return them after all."""
        while batch:
            self.packets.appendleft(batch.pop())

    def wake(self) -> bool:
        """Let one waiting thread look at the queue, if one may run. Returns whether a parked one was woken."""
        while self.places:
            if not self._parked:
                self.wake_leader()
                return False
            if self._release_last():
                return True
        if not self.watching:  # somebody has to see it when those that run are blocked
            self.wake_leader()
        return False

    def _release_last(self) -> bool:
        """Give a place to the thread that has parked last, and wake it. Returns False if there is none of either."""
        now = time.monotonic()
        try:
            place = self.places.pop()
        except IndexError:  # another thread was quicker
            return False
        try:
            waiter = self._parked.pop()
        except IndexError:
            keep(self.places, place)  # who gives a place back looks again; the caller does
            return False
        waiter.woken = now
        keep(self._coming, waiter)
        keep(waiter.place, place)
        waiter.gate.release()
        return True

    def _release_first(self) -> None:
        """Wake the thread that has been parked longest; it gets no place."""
        try:
            waiter = self._parked.pop(0)
        except IndexError:  # another thread was quicker
            return
        waiter.gate.release()

    def wake_leader(self) -> None:
        """Fetch the leader out of the kernel, if it sleeps there."""
        if self.sleeping:
            self.sleeping = False  # one interruption is enough, however many packets follow
            try:
                self._interrupt()
            except BaseException:  # a signal handler's, which may have come before the interruption
                self.sleeping = True
                raise

    def has_for(self, waiter: Waiter) -> bool:
        """Whether there is a packet that this thread may take."""
        return bool(self.packets and (waiter.place or self.places))

    def has_for_leader(self, waiter: Waiter) -> bool:
        """The same for the leader, which leaves to those that have parked after it what they may take."""
        coming = bool(self._coming)  # looked at before the packets, as in pass_on
        if waiter.place or not self.has_for(waiter):
            return self.has_for(waiter)
        return not coming and not self._coming and not (self._parked and self._release_last())

    def park(self, waiter: Waiter, timeout: float | None) -> None:
        """Sleep until another thread wakes this one, or *timeout* seconds have passed, or for no reason.

        Whoever leaves the queue afterwards, with packets or without, calls :meth:`pass_on`.
        """
        woken = False
        try:
            self._parked.append(waiter)
            # Now that it shows: was there a packet and a place, or has the leader gone, before it could be seen parked?
            if not self.has_for(waiter) and not self.closed and not self.seat:
                most = -1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)
                woken = waiter.gate.acquire(timeout=most)
        finally:
            if not woken:
                try:
                    self._parked.remove(waiter)
                except ValueError:  # another thread is about to wake this one, and what it hands over must not be lost
                    waiter.gate.acquire(timeout=HAND_OVER_SECONDS)

    def arrive(self, waiter: Waiter) -> None:
        """Count a thread no more among those that come: it has taken what it was woken for, or found it taken."""
        if self._coming:
            with contextlib.suppress(ValueError):  # others come, or this one was not waited for any longer
                self._coming.remove(waiter)

    def pass_on(self) -> None:
        """See to it that somebody works on what this thread leaves behind: packets, or a kernel that nobody asks."""
        # Those that are coming have a packet each. They are counted first: one that comes takes its packet before it is
        # struck off, and passes on what it leaves after, so that nobody is woken for a packet that it has just taken.
        coming = len(self._coming)
        if len(self.packets) > coming and self.wake():
            return  # that one passes on the rest
        if self.seat and self._parked:
            self._release_first()

    def watch(self) -> None:
        """Take the place from threads that hold one and are blocked, and wait no longer for those that don't come.

        A thread that is only given no processor is neither; see the module places.
        """
        now = time.monotonic()
        for waiter in self.waiters.copy().values():
            if not waiter.place:
                continue
            still = waiter.stands_still(now)
            late = waiter in self._coming and now - waiter.woken >= BLOCKED_SECONDS
            if not (late or still >= BLOCKED_SECONDS) or (still and waiter.may_run()):
                continue
            self.arrive(waiter)
            if still >= BLOCKED_SECONDS:
                waiter.leave()

    def count_operations(self) -> int:
        """How many operations are queued."""
        while True:
            with contextlib.suppress(RuntimeError):  # without the GIL a copy is no single step: another thread was here
                return sum([not isinstance(packet, Completion) for packet in self.packets.copy()])

    def close(self) -> None:
        """Wake everybody, and let what is still queued go."""
        self.closed = True
        self._empty()
        while self._parked:
            self._release_first()
        self.wake_leader()

    def _empty(self) -> None:
        while self.packets:
            try:
                packet = self.packets.popleft()
            except IndexError:  # another thread was quicker
                break
            if not isinstance(packet, Completion):
                packet._status = IDLE

"""The queue of a port whose kernel has none, and the threads that wait for it.

One of the waiting threads, the *leader*, waits in the kernel; the others are *parked*, each on a lock of its own. A
thread that queues a packet wakes one parked thread, or interrupts the leader when none is parked. A leader that leaves
wakes a parked thread to lead in its place.

No wake-up may be lost, and no lock is held while doing any of this, so the order of the steps carries the proof:

- who waits first shows that it does (joins the parked, or says that it is about to sleep in the kernel) and then looks
  at the queue once more;
- who queues first appends the packet and then looks for somebody to wake.

Whichever comes second sees the other. It also makes :meth:`CompletionQueue.post` safe in a signal handler, which may
run in the middle of any other method of the same thread: there is no lock that the thread could be holding.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from unio.backends.timers import Timers
from unio.operations import Status
from unio.port import Completion

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.operations import Operation

IDLE = Status.IDLE
QUEUED = Status.QUEUED

_new_tuple = tuple.__new__  # makes a Completion at a third of the price of calling the class


class CompletionQueue:
    """Packets, first in, first out: operations that have completed, and completions that the caller posted."""

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self.packets: deque[Operation | Completion] = deque()
        self.timers = Timers()
        self.closed = False
        self.seat: list[None] = [None]
        """Empty while a thread leads: waits in the kernel or works on what it found there.

        A thread takes the lead with ``del seat[0]``. That is one step of the interpreter, which a signal handler that
        raises can't come behind, as it can behind a call, whose result would then be lost and the lead with it.
        """
        self.sleeping = False
        """Whether the leader is in the kernel, or about to be, and has to be interrupted to see a packet."""
        self._interrupt = interrupt
        self._parked: list[threading.Lock] = []

    def complete(self, operation: Operation, error: OSError | None) -> None:
        """Queue an operation that has ended, waking nobody; call :meth:`wake` when no lock is held any more."""
        operation.error = error
        operation._native = None
        if operation._expiry is not None:
            self._cancel_expiry(operation)
        operation._status = QUEUED
        self.packets.append(operation)
        if self.closed:  # looked at after the append, as close() empties the queue after saying so: one of them sees it
            self._empty()

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
            if isinstance(packet, Completion):
                batch.append(packet)
                continue
            completed: tuple[Any, ...] = (packet.key, packet, packet.transferred, packet.error)
            packet._status = IDLE  # last: from here on another thread may submit it again
            batch.append(_new_tuple(Completion, completed))
        return batch

    def wake(self) -> None:
        """Let one waiting thread look at the queue."""
        if not self.wake_parked():
            self.wake_leader()

    def wake_parked(self) -> bool:
        """Let one parked thread go on, if there is one."""
        while self._parked:
            try:
                parked = self._parked.pop()
            except IndexError:  # another thread was quicker
                break
            parked.release()
            return True
        return False

    def wake_leader(self) -> None:
        """Fetch the leader out of the kernel, if it sleeps there."""
        if self.sleeping:
            self.sleeping = False  # one interruption is enough, however many packets follow
            self._interrupt()

    def park(self, timeout: float | None) -> None:
        """Sleep until another thread wakes this one, or *timeout* seconds have passed, or for no reason.

        Whoever leaves the queue afterwards, with packets or without, calls :meth:`pass_on`.
        """
        lock = threading.Lock()
        lock.acquire()  # the waker releases it
        try:
            self._parked.append(lock)
            # Now that it shows: was there a packet, or has the leader gone, before anybody could see it parked?
            if not self.packets and not self.closed and not self.seat:
                lock.acquire(timeout=-1 if timeout is None else min(timeout, threading.TIMEOUT_MAX))
        finally:
            with contextlib.suppress(ValueError):  # whoever woke this thread has removed it
                self._parked.remove(lock)

    def pass_on(self) -> None:
        """See to it that somebody works on what this thread leaves behind: packets, or a kernel that nobody asks."""
        if self.packets:
            self.wake()
        elif self.seat and self._parked:
            self.wake_parked()

    def close(self) -> None:
        """Wake everybody, and let what is still queued go."""
        self.closed = True
        self._empty()
        while self.wake_parked():
            pass
        self.wake_leader()

    def _empty(self) -> None:
        while self.packets:
            try:
                packet = self.packets.popleft()
            except IndexError:  # another thread was quicker
                break
            if not isinstance(packet, Completion):
                packet._status = IDLE

"""The queue of a port whose kernel has none, and the threads that wait for it.

It knows packets and threads, and neither handles nor the kernel: waking whoever sleeps there is a callable that it was
given.

One of the waiting threads, the *leader*, waits in the kernel; the others are *parked*, each on a lock of its own. A
thread that queues a packet wakes the one that has parked last, or interrupts the leader when none is parked. The leader
is the one that has waited longest, or nearly so: one that leaves wakes the first of the parked to lead in its place. So
threads are released last-in first-out, and under load few of them do all the work.

A thread is woken for a packet only if it may run, which takes a slot (run_slots): it gets the slot with the wake-up, so
that never more are woken than may run.

No wake-up may be lost. In C each method of :class:`QueueState` is one step to all others (queue_locked.h). In
Python no lock is held while doing any of this, so the order of the steps carries the proof:

- who waits first shows that it does (joins the parked, or says that it is about to sleep in the kernel) and then looks
  once more whether there is a packet, and a slot;
- who queues first appends the packet, and who stops running first gives its slot back; then either looks for somebody
  to wake.

Whichever comes last sees the others. Where the others leave what comes to one that runs, docs/threads.md says why no
wake-up is lost either. It also makes :meth:`CompletionQueue.post` safe in a signal handler, which may run in the
middle of any other method of the same thread: there is no lock that the thread could be holding.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from unio.backends.common.accelerator import has_fast_path, made_completion
from unio.backends.common.locks import holds_lock, put_off
from unio.backends.common.timers import Timers
from unio.backends.engine.run_slots import BLOCKED_SECONDS, keep
from unio.operation_state import IDLE, PENDING, QUEUED
from unio.port import Completion

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio._core import QueueState
    from unio.backends.engine.handle import Direction, EngineHandle
    from unio.backends.engine.run_slots import Waiter
    from unio.operations import Operation


TAKES_MAX = 256
"""How many packets may be taken out of the queue before the kernel is asked again, though the queue is not empty."""

ASK_SECONDS = 0.001
"""How soon after the first of them it is asked again, however few they were: a handler may take long over each."""

HAND_OVER_SECONDS = 1.0
"""How long a thread whose time is over waits for the one that is just waking it: between two steps of that one."""


QUICK_SECONDS = 5e-6 if has_fast_path else 50e-6
"""How long the turns of a quick thread take for each packet, at most. They submit, which is slower without C."""

RUN_SECONDS = 0.005
"""How long the others leave what comes to a quick thread that doesn't come back. As often they look."""

SLOW_LIMIT = 4
"""How many packets a thread that is not quick takes at a time. What it has taken waits for it, beside idle threads."""

PACE_MAX = 8.0
"""How many times QUICK_SECONDS a turn counts for at most: one that was long by chance makes no quick thread slow."""

PACE_WEIGHT = 1 / 32
"""Of the last turn, in the pace of a thread."""


def nothing_gathered() -> None:
    """Start nothing: where a port gathers no submissions."""


def _has_gil() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def _completion_of(packet: Operation | Completion) -> Completion:
    if isinstance(packet, Completion):
        return packet
    return made_completion((packet.key, packet, packet.transferred, packet.error))


if not TYPE_CHECKING and has_fast_path:
    from unio._core import QueueState
elif not TYPE_CHECKING:

    class QueueState:
        """The packets, and which threads lead, run, wait and are on their way.

        Any thread may call anything at any time, also in the middle of another call of its own.
        """

        def __init__(self, interrupt: Callable[[], None], concurrency: int, takes_turns: bool, /) -> None:  # noqa: FBT001 - as in C
            self.closed = False
            self.sleeping = False
            """Whether the leader is in the kernel, or about to be, and has to be interrupted to see a packet."""
            self.watching = False
            """Whether the leader sleeps no longer than until it looks at the running threads again."""
            self._interrupt = interrupt
            self._packets: deque[Operation | Completion] = deque()
            self._slots: list[None] = [None] * concurrency  # one for each thread that may begin to run
            self._leader: dict[None, object] = {}  # what the leading thread has given, if one leads
            self._parked: list[Waiter] = []
            self._coming: list[Waiter] = []  # those that were woken for a packet and have not yet taken one
            self._called: Waiter | None = None  # who is about to ask the kernel: woken for that, or just back from it
            self._admitted: list[None] = []  # one for each thread
            self._takes_turns = takes_turns  # whether there is ever a runner
            self._runner: Waiter | None = None  # whom the others leave what comes, for as long as its time lasts
            self._runner_until = 0.0  # when that is over, or was
            self._parkings = 0  # how often threads have parked, or nearly so: it tells whether any has
            self._keeps = False  # whether the leader takes what comes, as it is quick and has come last
            self._roused = False  # the main thread is not to park
            self._takes = 0
            self._first_take = 0.0  # when the first of them was

        # Packets

        @property
        def has_packets(self) -> bool:
            return bool(self._packets)

        def append(self, packet: Operation | Completion) -> None:
            self._packets.append(packet)

        def append_left(self, packet: Operation | Completion) -> None:
            self._packets.appendleft(packet)

        def pop_left(self) -> Operation | Completion:
            """Take the first packet; raises IndexError."""
            return self._packets.popleft()

        def packets(self) -> list[Operation | Completion]:
            """All of them, as they are now."""
            while True:
                with contextlib.suppress(RuntimeError):  # without the GIL this is no single step: another was here
                    return list(self._packets)

        def take(self, limit: int) -> list[Completion]:
            """Take up to *limit* packets out of the queue, without waiting, as completions."""
            packets = self._packets
            batch: list[Completion] = []
            if not self._takes:
                self._first_take = time.monotonic()
            while packets and len(batch) < limit:
                try:
                    packet = packets.popleft()
                except IndexError:  # another thread was quicker
                    break
                try:
                    self._takes += 1
                    batch.append(_completion_of(packet))
                except BaseException:
                    packets.appendleft(packet)
                    self.give_back(batch)
                    raise
                if not isinstance(packet, Completion):
                    packet._status = IDLE  # last: from here on another thread may submit it again
            return batch

        def should_ask(self) -> bool:
            """Whether the kernel is to be asked before more packets are taken."""
            if not self._takes:
                return False
            return self._takes >= TAKES_MAX or time.monotonic() >= self._first_take + ASK_SECONDS

        def asked(self) -> None:
            """Note that it has been asked."""
            self._takes = 0

        # Slots: a thread that runs has one

        @property
        def has_slots(self) -> bool:
            return bool(self._slots)

        def enter(self, waiter: Waiter) -> bool:
            """Take a slot for a thread unless it has one. Returns whether it has one now."""
            if waiter.slot:
                return True
            waiter.beyond = False
            try:
                slot = self._slots.pop()
            except IndexError:  # all are taken
                return False
            try:
                keep(waiter.slot, slot)
            except BaseException:
                keep(self._slots, slot)
                raise
            return True

        def leave(self, waiter: Waiter) -> bool:
            """Take the slot from a thread. Returns whether it had one; then the caller looks for somebody to wake."""
            waiter.beyond = False
            self._stop_running(waiter)
            try:
                slot = waiter.slot.pop()
            except IndexError:
                return False
            keep(self._slots, slot)
            return True

        # Turns: what a thread does between two waits

        @property
        def _is_shared(self) -> bool:
            return len(self._admitted) > 1

        def gives_way(self, waiter: Waiter | None) -> bool:
            """Whether a thread leaves what comes to the runner; with None, whether any does."""
            runner = self._runner
            return runner is not None and runner is not waiter and time.monotonic() < self._runner_until

        def limit_for(self, waiter: Waiter, limit: int) -> int:
            """How many packets a thread takes at a time, where a wait may return *limit*."""
            return min(limit, SLOW_LIMIT) if self._is_shared and waiter.pace >= QUICK_SECONDS else limit

        def begin_turn(self, waiter: Waiter, packets: int) -> None:
            """Note that a thread has been given packets."""
            if not self._is_shared:
                return
            now = time.monotonic()
            waiter.turn_began, waiter.turn_packets = now, packets
            if waiter.pace >= QUICK_SECONDS:
                self._stop_running(waiter)
            elif self._takes_turns and waiter.slot and not self.gives_way(waiter):
                self._runner_until = now + RUN_SECONDS  # first: who sees the runner looks at this
                self._runner = waiter

        def end_turn(self, waiter: Waiter) -> None:
            """Note that it is back."""
            if waiter.turn_packets and self._is_shared:
                spent = (time.monotonic() - waiter.turn_began) / waiter.turn_packets
                waiter.pace += (min(spent, QUICK_SECONDS * PACE_MAX) - waiter.pace) * PACE_WEIGHT
            waiter.turn_packets = 0
            waiter.came_at = self._parkings

        def _stop_running(self, waiter: Waiter) -> None:
            if self._runner is waiter:
                self._runner = None

        # The lead

        def lead(self, turn: object) -> bool:
            """Let the calling thread lead, if none does: wait in the kernel, and work on what it finds there.

            *turn* is an object of the caller's own for this, with which it ends it. So what a signal handler raises
            right behind this, when its result is lost, does not leave a port that nobody can lead.
            """
            leads = self._leader.setdefault(None, turn) is turn
            if leads:
                self._called = None
            return leads

        def end_lead(self, turn: object, waiter: Waiter) -> None:
            """End that, if it is this turn that leads; its thread leads again, or passes that on."""
            if self._leader.get(None) is turn:
                self.sleeping = self.watching = self._keeps = False
                self._called = waiter  # first: who finds no leader relies on it; and it takes no memory
                del self._leader[None]

        # Threads that wait

        def admit(self, waiter: Waiter) -> None:
            """Have room for a thread that comes to wait."""
            waiter.slot = []  # empty, or the one slot that the thread has
            waiter.turn_packets, waiter.pace = 0, QUICK_SECONDS * PACE_MAX  # none is known
            waiter.watches = False
            self._admitted.append(None)

        def dismiss(self, waiter: Waiter) -> None:
            """A thread has ended, or has gone to another port."""
            self._admitted.pop()
            self._stop_running(waiter)

        def has_for(self, waiter: Waiter) -> bool:
            """Whether there is a packet that this thread may take."""
            return bool(self._packets and (waiter.slot or self._slots))

        def has_for_leader(self, waiter: Waiter) -> bool:
            """Whether there is one for the leader, which leaves to those that have parked later what they may take."""
            quick = waiter.pace < QUICK_SECONDS
            self._keeps = self._takes_turns and quick and waiter.came_at == self._parkings
            coming = bool(self._coming)  # looked at before the packets, as in pass_on
            if waiter.slot or self._keeps or not self.has_for(waiter):
                return self.has_for(waiter)
            return not coming and not self._coming and not (self._parked and self._release_last())

        def wake(self) -> bool:
            """Let one waiting thread look at the queue, if one may run. Returns whether a parked one was woken."""
            if self.gives_way(None):  # to the runner
                return False
            while self._slots:
                if self._keeps or not self._parked:  # a leader that is awake looks at the queue by itself
                    self.wake_leader()
                    return False
                if self._release_last():
                    return True
            if not self.watching:  # somebody has to see it when those that run are blocked
                self.wake_leader()
            return False

        def wake_leader(self) -> None:
            """Fetch the leader out of the kernel, if it sleeps there."""
            if self.sleeping:
                self.sleeping = False  # one interruption is enough, however many packets follow
                try:
                    self._interrupt()
                except BaseException:  # a signal handler's, which may have come before the interruption
                    self.sleeping = True
                    raise

        def wake_first(self) -> bool:
            """Wake the thread that has been parked longest, which gets no slot. Returns whether there was one."""
            try:
                waiter = self._parked.pop(0)
            except IndexError:  # none, or another thread was quicker
                return False
            self._called = waiter
            waiter.gate.release()
            return True

        def rouse(self) -> None:
            """Wake the main thread, if it is parked, to have the handler of a signal run. It gets no slot.

            If it is just about to park, it doesn't.
            """
            self._roused = True
            for waiter in [*self._parked]:
                if waiter.heard:
                    with contextlib.suppress(ValueError):  # another thread was quicker
                        self._parked.remove(waiter)
                        waiter.gate.release()

        def _release_last(self) -> bool:
            """Give a slot to the thread that has parked last, and wake it. Returns False if there is none of either."""
            now = time.monotonic()
            try:
                slot = self._slots.pop()
            except IndexError:  # another thread was quicker
                return False
            try:
                waiter = self._parked.pop()
            except IndexError:
                keep(self._slots, slot)  # who gives a slot back looks again; the caller does
                return False
            waiter.woken = now
            keep(self._coming, waiter)
            keep(waiter.slot, slot)
            waiter.gate.release()
            return True

        def park(self, waiter: Waiter, timeout: float | None) -> None:
            """Sleep until another thread wakes this one, or *timeout* seconds have passed, or for no reason.

            Whoever leaves the queue afterwards, with packets or without, calls :meth:`pass_on`.
            """
            until = None if timeout is None else time.monotonic() + timeout
            woken = is_over = False
            try:
                self._parked.append(waiter)
                self._parkings += 1
                self._keeps = False
                self._call_off(waiter)
                # Now that it shows: was there a packet and a slot, or has the leader gone, before it could be seen?
                roused = waiter.heard and self._roused
                if roused:
                    self._roused = False
                while not roused and not woken and not is_over and self._may_sleep(waiter):
                    left = None if until is None else until - time.monotonic()
                    watch = self._runner_until - time.monotonic()
                    waiter.watches = watch > 0
                    is_over = left is not None and (watch <= 0 or left <= watch)
                    most = watch if waiter.watches and not is_over else left
                    most = -1 if most is None else min(max(most, 0), threading.TIMEOUT_MAX)
                    woken = waiter.gate.acquire(timeout=most)
            finally:
                if not woken:
                    try:
                        self._parked.remove(waiter)
                    except ValueError:  # another thread is about to wake this one: what it hands over must not be lost
                        waiter.gate.acquire(timeout=HAND_OVER_SECONDS)

        def _may_sleep(self, waiter: Waiter) -> bool:
            if self.closed or self.gives_way(waiter):
                return not self.closed
            return not self.has_for(waiter) and bool(self._leader)

        def is_coming(self, waiter: Waiter) -> bool:
            """Whether a thread was woken for a packet, and has not taken it yet."""
            return waiter in self._coming

        def arrive(self, waiter: Waiter) -> None:
            """Count a thread no more among those that come: it has taken what it was woken for, or found it taken."""
            if self._coming:
                with contextlib.suppress(ValueError):  # others come, or this one was not waited for any longer
                    self._coming.remove(waiter)

        def pass_on(self, waiter: Waiter | None = None) -> None:
            """See to it that somebody works on what a thread leaves: packets, or a kernel that nobody asks.

            *waiter* is that thread's; without it, nobody is relied on to ask the kernel that was woken for it.
            """
            self._call_off(waiter)
            # Those that are coming have a packet each. They are counted first: one that comes takes its packet before
            # it is counted no more, and passes on what it leaves after, so that nobody is woken for a packet that it
            # has just taken.
            coming = len(self._coming)
            if len(self._packets) > coming and self.wake():
                return  # that one passes on the rest
            if not self._leader and self._parked and self._called is None and not self._is_watched():
                self.wake_first()

        def _call_off(self, waiter: Waiter | None) -> None:
            """A thread comes no more to ask the kernel, or has come for something else."""
            if waiter is None or waiter is self._called:
                self._called = None

        def _is_watched(self) -> bool:
            """Whether one of the parked looks again, as soon as the runner's time is over."""
            return self.gives_way(None) and any(waiter.watches for waiter in self._parked)


class CompletionQueue(QueueState):
    """Packets, first in, first out: operations that have completed, and completions that the caller posted."""

    def __init__(self, interrupt: Callable[[], None], concurrency: int) -> None:
        super().__init__(interrupt, concurrency, _has_gil())
        self.timers = Timers()
        self.start_gathered: Callable[[], None] = nothing_gathered
        """Starts what the threads of the port have submitted and is to be started together at their next wait."""
        self.waiters: dict[int, Waiter] = {}
        """The threads that belong to the port, by id."""

    def join(self, waiter: Waiter) -> None:
        """Let a thread belong to the port from now on."""
        self.admit(waiter)
        self.waiters[id(waiter)] = waiter

    def part(self, waiter: Waiter) -> None:
        """End that."""
        self.waiters.pop(id(waiter), None)
        self.start_gathered()
        self.dismiss(waiter)

    def complete(self, operation: Operation, error: OSError | None) -> None:
        """Queue an operation that has ended, waking nobody; call :meth:`wake` when no lock is held any more.

        Where it raises, as there is no memory, the operation is still in flight, and this can be called again.
        """
        hand_over = self._leave_to_leader if operation._is_part else self.append  # first, as it takes memory
        operation._error = error
        has_deadline, flight = operation._expiry is not None, operation._sequence
        native, operation._native = operation._native, None
        operation._status = QUEUED
        try:
            hand_over(operation)
        except MemoryError:
            self._hand_over_again(hand_over, operation, native)
        if has_deadline:  # last: to what is still in flight it may be all that ends it
            self._discard(operation, flight)
        if self.closed:  # looked at after the append, as close() empties the queue after saying so: one of them sees it
            self._empty()

    def _discard(self, operation: Operation, flight: int) -> None:
        """Take back the deadline of a flight that has ended; another thread may have the operation on the next one.

        Where there is no memory for that, it goes when its time comes, and finds nobody on that flight.
        """
        try:
            self.timers.discard(operation, flight)
        except MemoryError:  # there may be some by now
            try:  # noqa: SIM105 - which takes memory
                self.timers.discard(operation, flight)
            except MemoryError:
                pass

    def complete_from(self, direction: Direction, operation: Operation, error: OSError | None) -> None:
        """Take an operation out of its direction and queue it; or neither, where that raises.

        In this order: once it is queued, another thread may take it, and submit it to another handle.
        """
        try:
            direction.remove(operation)
            self.complete(operation, error)
        except BaseException:
            if operation._status == PENDING:
                direction.restore(operation)
            raise

    def _leave_to_leader(self, operation: Operation) -> None:
        """Have the leader go on with what an operation is a part of; it may be this thread, which holds a lock."""
        self.timers.add(0, operation, False)
        if holds_lock():
            put_off(self.wake_leader)
        else:
            self.wake_leader()

    def _hand_over_again(self, hand_over: Callable[[Operation], None], operation: Operation, native: Any) -> None:
        """Hand over an operation for which there was no memory at first: the system may have found some."""
        try:
            hand_over(operation)
        except BaseException:
            operation._status = PENDING
            operation._native = native
            raise

    def forget(self, operation: Operation) -> None:
        """End the flight of an operation without a packet."""
        if operation._expiry is not None:
            self.timers.discard(operation)
        operation._native = None
        operation._status = IDLE

    def post(self, completion: Completion) -> None:
        self.append(completion)
        if self.closed:
            self._empty()
        self.wake()

    def give_back(self, batch: list[Completion]) -> None:
        """Put completions back to the head of the queue, as no wait can return them after all."""
        while batch:
            self.append_left(batch.pop())

    def watch(self) -> None:
        """Take the slot from threads that hold one and are blocked, and wait no longer for those that don't come.

        A thread that is only given no processor is neither; see the module run_slots.
        """
        now = time.monotonic()
        for waiter in self.waiters.copy().values():
            if not waiter.slot:
                continue
            still = waiter.stands_still(now)
            late = self.is_coming(waiter) and now - waiter.woken >= BLOCKED_SECONDS
            if not (late or still >= BLOCKED_SECONDS) or (still and waiter.may_run()):
                continue
            self.arrive(waiter)
            if still >= BLOCKED_SECONDS:
                waiter.leave()

    def operations(self) -> list[Operation]:
        """The operations that are queued."""
        return [packet for packet in self.packets() if not isinstance(packet, Completion)]

    def has_any_of(self, handle: EngineHandle) -> bool:
        """Whether an operation on a handle is queued."""
        # No generator: where there is no memory for the frame of one, CPython 3.12 and 3.13 crash.
        for packet in self.packets():  # noqa: SIM110 - see above
            if not isinstance(packet, Completion) and packet._handle is handle:
                return True
        return False

    def close(self) -> None:
        """Wake everybody, and let what is still queued go."""
        self.closed = True
        self._empty()
        while self.wake_first():
            pass
        self.wake_leader()

    def _empty(self) -> None:
        while self.has_packets:
            try:
                packet = self.pop_left()
            except IndexError:  # another thread was quicker
                break
            if not isinstance(packet, Completion):
                packet._status = IDLE

"""A port whose kernel has no queue of completions for it: everything but how operations are done.

It knows no kernel: what a subclass adds are its abstract methods. Of an operation it changes the status, under the lock
of its handle, and no result.

Completions wait in a queue of ours, and threads wait for them there (completion_queue); one of them, the leader, asks
the kernel for all (waiting). A handle has a :class:`Direction` for what comes in and one for what goes out: a queue of
operations in the order of their submission, with one owner at a time, who has the first of them done. That keeps sends
whole and receives in order. The handle's lock is held only to pass ownership and to link and unlink operations, never
over a system call.

Timers and time-outs are deadlines (timers) that the leader looks at. What has no handle, a timer or the exit of a
process, is *detached* (detached), and guarded by the port's lock; that is not held over a system call either.

How an operation is done is for a subclass: attempted until it would block, where the kernel tells readiness
(readiness), or handed to the kernel, where that does it by itself. Those methods are the abstract ones of
:class:`EnginePort`. How the main thread hears of signals in its sleep is in hearing.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import weakref
from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar

from unio.arguments import seconds
from unio.backends.common.accelerator import core, has_fast_path, know_sockets, next_sequence
from unio.backends.common.locks import Lock, holds_lock, put_off
from unio.backends.common.lookups import lookup_threads
from unio.backends.common.objects import number_of
from unio.backends.common.timers import NOT_LINKED, is_on
from unio.backends.engine import registry
from unio.backends.engine.attempts import ATTEMPTS_MAX, SEND_CHUNK, VECTOR_MAX, Outcome, unblocked_socket
from unio.backends.engine.completion_queue import (
    ASK_SECONDS,
    PACE_MAX,
    PACE_WEIGHT,
    QUICK_SECONDS,
    RUN_SECONDS,
    SLOW_LIMIT,
    TAKES_MAX,
    CompletionQueue,
    nothing_gathered,
)
from unio.backends.engine.detached import Detached
from unio.backends.engine.handle import Direction, EngineHandle, Lifecycle
from unio.backends.engine.hearing import programs_own, write_signals_to
from unio.backends.engine.syscalls import make_as_before, make_fit
from unio.backends.engine.waiting import SWEEP_FREELY, SWEEP_SECONDS, WaitingPort
from unio.backends.kernel.interrupt import SignalPipe
from unio.errors import has_left, no_memory, timed_out
from unio.handle import HasFileno, Kind
from unio.operation_state import IDLE, PENDING, QUEUED
from unio.operations import BUFFER_MIN, Operation, ProcessExit, Readiness, Signal
from unio.port import LIMIT_DEFAULT, Completion, port_closed

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio._core import Ring
    from unio.backends.common.lookups import Undertaking

OWNED, URGENT = 1, 2
"""After an operation was linked: its direction is this thread's, its deadline comes before all others."""


class EnginePort(WaitingPort):
    """A port with a queue of its own. Subclasses add how operations are done, and the kernel."""

    tells_urgent: ClassVar[bool] = True
    """Whether an event tells that urgent data have come, after which a short receive doesn't show an empty socket."""

    def __init__(self, *, backend: str | None = None, concurrency: int = 0) -> None:
        self._signal_pipe = SignalPipe()
        self._queue = CompletionQueue(self._make_interrupt(), self.concurrency)
        self._lock = Lock()
        self._detached = Detached(self._lock, self._queue, self._signal_pipe)
        self._table = registry.Table()
        self._backlog = deque()
        self._lookups = lookup_threads()
        super().__init__(backend=backend, concurrency=concurrency)

    def _gather(self, ring: Ring | None) -> None:
        """Gather what threads submit between two waits, in C where that is there; over a ring, if one is given."""
        port = weakref.ref(self)  # its queue does not keep it alive

        def start_gathered() -> None:
            if (current := port()) is not None:
                current._start_all()

        self._queue.start_gathered = start_gathered
        if self.is_fast:
            self._write_signals_to(self._signal_pipe.writer)
            self._begin_fast(self._queue, self._table, self._backlog, self._queue.timers, ring)

    if TYPE_CHECKING:  # what FastPort adds in C

        def _begin_fast(
            self, queue: CompletionQueue, table: Any, backlog: Any, timers: object, ring: Ring | None, /
        ) -> None: ...
        def _end_fast(self) -> None: ...
        def _request_fast(self, handle: EngineHandle, direction: Direction, /) -> int: ...
        def _use_epoll(self, number: int, stale: set[int], /) -> None: ...
        def _write_signals_to(self, descriptor: int, /) -> None: ...
        def _use_kqueue(self, number: int, kevent: int, /) -> None: ...

    # What a subclass adds

    @abstractmethod
    def _make_interrupt(self) -> Callable[[], None]:
        """Make what wakes a thread in :meth:`_harvest`, and return the callable that does it.

        From then on it also has :meth:`_hear` called there when something is to be read from the pipe of the signals.
        """

    @abstractmethod
    def _register(self, handle: EngineHandle) -> None:
        """Tell the kernel of a handle that joins; perhaps more than once, and in two threads."""

    @abstractmethod
    def _unregister(self, number: int) -> None:
        """End that; the descriptor is still open. Raises nothing."""

    @abstractmethod
    def _start(self, handle: EngineHandle, direction: Direction, operation: Operation, *, owned: bool) -> bool:
        """Have an operation done that was linked into its direction.

        *owned* says that this thread has become the direction's owner. Returns whether the operation has succeeded and,
        because the handle was associated so, was not queued.
        """

    @abstractmethod
    def _run(self, handle: EngineHandle, direction: Direction) -> None:
        """Have the operations of a direction done, beginning with the first; this thread has become its owner."""

    @abstractmethod
    def _is_being_done(self, handle: EngineHandle, direction: Direction, operation: Operation) -> bool:
        """Whether an operation can't be taken out of its direction just now; then its verdict waits for it."""

    def _revoke(self, handle: EngineHandle, direction: Direction, operation: Operation) -> None:
        """Ask the kernel to end an operation that is being done; the caller holds the handle's lock."""

    def _abandon(self, handle: EngineHandle, *, at_once: bool) -> None:
        """Ask the kernel to end everything that it does on a handle that is not open any more.

        With *at_once*, also act on those answers of the kernel's that are there when this returns.
        """

    @abstractmethod
    def _watch_process(self, operation: ProcessExit) -> None:
        """See :class:`unio.backends.engine.detached.Watcher`."""

    @abstractmethod
    def _unwatch_process(self, operation: ProcessExit) -> None:
        """See there."""

    @abstractmethod
    def _close_kernel(self) -> None:
        """Close the backend's own descriptors; no thread uses them any more."""

    # Association

    def associate(self, handle: HasFileno | int, key: Any = None, *, skip_on_success: bool = False) -> EngineHandle:
        if self._unusable is not None:
            raise self._unusable()
        number = number_of(handle)
        made = EngineHandle(self, handle, number, key, skip_on_success=skip_on_success)
        registry.enter(self._table, made)
        try:
            self._join(made)
        except BaseException:
            self._forget(made, is_open=True)
            made.leave(Lifecycle.ORPHANED)
            if self._unusable is not None:  # it was closed in the middle of this
                raise self._unusable() from None
            raise
        return made

    def _join(self, handle: EngineHandle) -> None:
        if handle.kind is Kind.FILE:
            # File operations run later, on another thread: a descriptor of the port's own stands for the file even
            # if the program closes its own meanwhile and the number becomes another file's.
            handle.private = os.dup(handle.number)
        if self._unusable is not None:  # else who closes the port finds the handle in the table
            raise self._unusable()
        if handle.kind is Kind.FILE:
            return
        self._register(handle)  # first, as the kernel may refuse that: then the descriptor blocks as before
        self._register_successor(handle)
        make_fit(handle)

    def _forget(self, handle: EngineHandle, *, is_open: bool) -> None:
        """Have no more events of a handle, and let its number be associated again."""
        registered = is_open and handle.kind is not Kind.FILE and self._table.get(handle.number) is handle
        if registered:
            self._unregister(handle.number)
        registry.remove(self._table, handle)
        if registered:
            self._register_successor(handle)

    def _hand_back(self, handle: EngineHandle) -> None:
        """Let a handle go that was detached; where this raises, it can be called again."""
        if handle.kind is not Kind.FILE:
            make_as_before(handle)
        handle.part_unharmed()
        self._forget(handle, is_open=True)  # last: from here on another port may have the object

    def _register_successor(self, handle: EngineHandle) -> None:
        """Register once more who has joined with a handle's number, if that is another by now.

        The kernel is told a number. If the program closed the object behind the handle just then, that number may have
        been the other one's already.
        """
        now = self._table.get(handle.number)
        if now is not None and now is not handle and now.kind is not Kind.FILE:
            with contextlib.suppress(OSError):  # it is closed as well
                self._register(now)

    # Submitting

    def submit(self, operation: Operation, timeout: float | None = None) -> bool:
        if self._unusable is not None:
            raise self._unusable()
        if timeout is not None:
            timeout = seconds(timeout, "the time-out")
        handle = self._handle_of(operation)
        if holds_lock():
            self._submit_later(handle, operation, timeout)
            return False
        if handle is None:
            self._detached.submit(self, operation, timeout)
            return False
        direction = handle.direction(operation)
        try:
            linked = self._link(handle, direction, operation, timeout)
            if linked is None:
                self._queue.wake()
                return False
            done_at_once = self._start(handle, direction, operation, owned=bool(linked & OWNED))
            if linked & URGENT:
                self._queue.wake_leader()  # it may sleep past the new deadline
        except BaseException:  # if the operation is in flight all the same, somebody else shall start it
            self._backlog.append((handle, direction))
            self._queue.wake_leader()
            raise
        return done_at_once

    def _link(
        self, handle: EngineHandle, direction: Direction, operation: Operation, timeout: float | None
    ) -> int | None:
        """Put an operation into its direction.

        Returns whether this thread has become the direction's owner, and whether its deadline comes before all others.
        That is one small number, as what takes memory is not to come behind becoming the owner.
        None says that the handle has left its port, which ends the operation: at once, or with those before it.
        """
        with handle.lock:
            if self._unusable is not None:  # it was closed meanwhile, and nobody would end the operation any more
                raise self._unusable()
            idle = operation._status == IDLE
            try:
                _left = operation._begin()  # goes when this returns, and the lock is given back
                urgent = False
                if handle.lifecycle in (Lifecycle.CLOSED, Lifecycle.DETACHED):
                    operation._sequence = next_sequence()
                    self._queue.complete(operation, has_left())
                else:
                    urgent = self._append(handle, direction, operation, timeout)
            except BaseException:
                if idle:
                    self._queue.forget(operation)
                raise
            if handle.lifecycle != Lifecycle.OPEN:
                return None
            owned = direction is not handle.files and handle.own(direction)
            return (OWNED if owned else 0) | (URGENT if urgent else 0)

    def _append(self, handle: EngineHandle, direction: Direction, operation: Operation, timeout: float | None) -> bool:
        """Put an operation whose flight has begun into its direction; the caller holds the handle's lock.

        Returns whether its deadline comes before all others.
        """
        operation._sequence = next_sequence()
        urgent = timeout is not None and self._queue.timers.set(operation, timeout)
        if direction is handle.readiness:
            direction.ready = True  # a poll does not depend on those ahead of it
        direction.append(operation)
        return urgent

    def _submit_begun(self, handle: EngineHandle | None, operation: Operation, timeout: float | None) -> None:
        if handle is None:
            self._detached.submit_begun(self, operation, timeout)
            return
        try:
            linked = self._link_begun(handle, operation, timeout)
        except MemoryError:  # nobody has it, and it ends with that
            operation._verdict = operation._verdict or no_memory()
            linked = self._link_begun(handle, operation, timeout)
        try:
            if linked:
                self._start_begun(handle, operation)
            self._queue.wake()
        except MemoryError:  # it is in flight, and somebody else shall start it
            self._backlog.append((handle, handle.direction(operation)))
            self._queue.wake_leader()

    def _link_begun(self, handle: EngineHandle, operation: Operation, timeout: float | None) -> bool:
        """Put an operation whose flight has begun before into its direction, or end it: where it raises, neither.

        Returns whether it is in its direction.
        """
        direction = handle.direction(operation)
        with handle.lock:
            try:
                verdict = operation._verdict
                if handle.lifecycle != Lifecycle.OPEN:
                    verdict = verdict or has_left()
                if verdict is None:
                    self._append(handle, direction, operation, timeout)
                else:
                    operation._sequence = next_sequence()
                    self._queue.complete(operation, verdict)
            except BaseException:
                operation._sequence = NOT_LINKED
                raise
            return verdict is None

    def _start_begun(self, handle: EngineHandle, operation: Operation) -> None:
        direction = handle.direction(operation)
        with handle.lock:
            owned = direction is not handle.files and handle.own(direction)
        self._start(handle, direction, operation, owned=owned)
        self._queue.wake_leader()

    # Doing

    def _resume(self, handle: EngineHandle, direction: Direction) -> None:
        """Attempt a direction's operations again: after an event, or when it had used up its attempts or has rested."""
        # Without the lock: a submit that links an operation from here on sees that the direction is ready.
        direction.ready = True
        if handle.lifecycle != Lifecycle.OPEN:  # perhaps something has kept its end from being finished
            handle.end_anew()
            return
        if direction.first is None:
            return
        with handle.lock:
            run = handle.own(direction)
        if run:
            self._run(handle, direction)

    def _settle(
        self,
        direction: Direction,
        operation: Operation,
        outcome: Outcome,
        error: OSError | None,
        skipping: Operation | None,
    ) -> bool:
        """Act on the outcome of an attempt, with the handle's lock held. Returns whether *skipping* was skipped."""
        if outcome >= Outcome.PROGRESS and operation._verdict is not None:
            outcome, error = Outcome.DONE, operation._verdict
        if outcome in (Outcome.DONE, Outcome.PROGRESS):
            direction.ready = True
        if outcome > Outcome.DRAINED:
            return False
        if operation is skipping and error is None:
            direction.remove(operation)
            self._queue.forget(operation)
            return True
        self._queue.complete_from(direction, operation, error)
        return False

    def _after_run(self, handle: EngineHandle) -> None:
        if handle.lifecycle != Lifecycle.OPEN:
            handle.release()
        if self._queue.has_packets:
            self._queue.wake()

    # Ending

    def cancel(self, operation: Operation) -> bool:
        if self._unusable is not None:
            raise self._unusable()
        self._handle_of(operation)
        self._start_gathered()
        asked = self._cancel(operation, "cancelled by Port.cancel")
        if isinstance(operation, Signal):
            self._detached.give_back(operation)
        return asked

    def _end(self, operation: Operation, verdict: OSError, flight: int | None = None) -> bool:
        handle = operation._handle  # what the property gives, at a fifth of the price
        if handle is None:
            return self._detached.end(self, operation, verdict, flight)
        assert isinstance(handle, EngineHandle)
        direction = handle.direction(operation)
        try:
            return self._end_in_direction(handle, direction, operation, verdict, flight)
        except BaseException:  # somebody else shall see to those behind it
            self._backlog.append((handle, direction))
            self._queue.wake_leader()
            raise

    def _end_in_direction(
        self,
        handle: EngineHandle,
        direction: Direction,
        operation: Operation,
        verdict: OSError,
        flight: int | None,
    ) -> bool:
        run = False
        with handle.lock:
            if operation._status != PENDING or not is_on(operation, flight):
                return False
            if operation._sequence == NOT_LINKED:
                operation._verdict = operation._verdict or verdict
                return True
            being_done = self._is_being_done(handle, direction, operation)
            if being_done:
                operation._verdict = operation._verdict or verdict
                self._revoke(handle, direction, operation)
            else:
                run = self._take_out(handle, direction, operation, verdict)
        if run:
            self._run(handle, direction)
        if being_done or run:
            self._start_all()
        if not being_done:
            self._queue.wake()
        return True

    def _take_out(self, handle: EngineHandle, direction: Direction, operation: Operation, verdict: OSError) -> bool:
        """End an operation that nobody is doing; the caller holds the handle's lock.

        Returns whether this thread has become the direction's owner: what blocked the first need not block the one
        behind it, for instance a datagram to another receiver.
        """
        first = direction.first is operation
        self._queue.complete_from(direction, operation, verdict)
        if not first or direction not in (handle.incoming, handle.outgoing):
            return False
        direction.ready = True
        direction.resting = False
        return handle.own(direction)

    def _expire(self, what: EngineHandle | Operation, detail: Any, flight: int) -> None:
        """Act on a deadline that has passed: a direction has rested, an operation times out, or a timer ends."""
        if isinstance(what, EngineHandle):
            detail.resting = False
            self._resume(what, detail)
        elif what._is_part and what._status == QUEUED:
            what.state(what)
            what._status = IDLE
        elif detail:
            self._end(what, timed_out(), flight)
        else:
            self._detached.end(self, what, None, flight)

    # Closing

    def close(self) -> None:
        if self._forked:
            self._close_kernel()  # this process's copies of the descriptors; no lock of the parent's is touched
            self._close_signal_pipe()
            return
        if holds_lock():
            put_off(self.close)
            return
        with self._lock:
            if self._unusable is not None:
                return
            self._unusable = port_closed
        try:
            self._end_everything()
        except BaseException:  # there was no memory, or a signal came: nothing is to stay in flight
            self._end_everything()
            raise
        finally:
            self._close_tasks()

    def _end_everything(self) -> None:
        """Close what a port consists of, as far as that has not been done yet."""
        if self.is_fast:
            self._end_fast()
        self._queue.close()
        for handle in list(self._table.values()):
            handle.leave(Lifecycle.ORPHANED)
            handle.end_anew()  # for what an earlier call of this has left
            registry.keep_object(handle)
        self._start_all()  # what was gathered on those handles ends with them
        self._queue.start_gathered = nothing_gathered
        registry.clear(self._table)
        self._detached.end_all(self)
        self._lookups.close()
        self._queue.timers.clear()
        self._close_kernel_once()

    def _close_kernel_once(self) -> None:
        """Close the kernel's side, unless another thread is in there: that one does it when it comes out."""
        if not self._queue.lead(self._queue.timers):  # for ever
            return
        self._close_kernel()
        self._close_signal_pipe()
        while self._backlog:  # what was broken off, and which nobody takes up any more
            self._resume(*self._backlog.popleft())

    def _complete_signals(self) -> None:
        self._detached.complete_signals()

    def _undertaken(
        self, operation: Operation, undertaking: Undertaking, error: OSError | None, **results: Any
    ) -> bool:
        return self._detached.undertaken(operation, undertaking, error, results)

    def _give_back(self, completion: Completion) -> None:
        self._queue.give_back([completion])
        self._queue.wake()

    def _operations(self) -> list[Operation]:
        # An operation goes from its handle to the queue, so in this order none is missed.
        found: list[Operation] = []
        for handle in list(self._table.values()):
            with handle.lock:
                found += handle.in_flight()
        found += self._detached.operations()
        return [each for each in found if not each._is_part] + self._queue.operations()


if has_fast_path:
    each_readiness = tuple(Readiness(number) for number in range(4))
    core.learn(
        *(EnginePort, EngineHandle, Kind.SOCKET, unblocked_socket, io.FileIO, write_signals_to, programs_own),
        each_readiness,
    )
    know_sockets()
    core.adopt(
        takes_max=TAKES_MAX,
        ask_seconds=ASK_SECONDS,
        sweep_seconds=SWEEP_SECONDS,
        lock_seconds_max=threading.TIMEOUT_MAX,
        attempts_max=ATTEMPTS_MAX,
        limit=LIMIT_DEFAULT,
        send_max=SEND_CHUNK,
        buffer_min=BUFFER_MIN,
        sweep_freely=SWEEP_FREELY,
        quick_seconds=QUICK_SECONDS,
        pace_max=PACE_MAX,
        pace_weight=PACE_WEIGHT,
        run_seconds=RUN_SECONDS,
        slow_limit=SLOW_LIMIT,
        vector_max=VECTOR_MAX,
    )

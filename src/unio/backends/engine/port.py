"""A port whose kernel has no queue of completions for it: everything but how operations are done.

It knows no kernel: what a subclass adds are its abstract methods. Of an operation it changes the status, under the lock
of its handle, and no result but the exit status of a process.

Completions wait in a queue of ours, and threads wait for them there (completion_queue); one of them, the leader, asks
the kernel for all. A handle has a :class:`Direction` for what comes in and one for what goes out: a queue of operations
in the order of their submission, with one owner at a time, who has the first of them done. That keeps sends whole and
receives in order. The handle's lock is held only to pass ownership and to link and unlink operations, never over a
system call.

Timers and time-outs are deadlines (timers) that the leader looks at. What has no handle, a timer or the exit of a
process, is *detached*, and guarded by the port's lock; that is not held over a system call either.

How an operation is done is for a subclass: attempted until it would block, where the kernel tells readiness
(readiness), or handed to the kernel, where that does it by itself. Those methods are the abstract ones of
:class:`EnginePort`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import threading
import weakref
from abc import abstractmethod
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from unio.arguments import seconds
from unio.backends.common import clock
from unio.backends.common.accelerator import core, has_fast_path, know_sockets, next_sequence
from unio.backends.common.base_port import BasePort
from unio.backends.common.connecting import UNDERTAKINGS
from unio.backends.common.descriptor_guard import DescriptorGuard
from unio.backends.common.locks import Lock, holds_lock, put_off, refuse_within_lock
from unio.backends.common.lookups import lookup_threads
from unio.backends.common.objects import number_of, told_status
from unio.backends.common.signals import POSIX, Signals
from unio.backends.common.timers import NOT_LINKED, is_on
from unio.backends.engine import registry
from unio.backends.engine.attempts import ATTEMPTS_MAX, SEND_CHUNK, Outcome, unblocked_socket
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
from unio.backends.engine.handle import Direction, EngineHandle, Lifecycle
from unio.backends.engine.run_slots import WATCH_SECONDS, Blocking, Waiter, current, join
from unio.backends.engine.syscalls import make_as_before, make_fit
from unio.backends.kernel.interrupt import SignalPipe
from unio.errors import as_oserror, cancelled, has_left, no_memory, timed_out
from unio.handle import HasFileno, Kind
from unio.operation_state import IDLE, PENDING, QUEUED
from unio.operations import BUFFER_MIN, Operation, ProcessExit, Signal, Timer
from unio.port import LIMIT_DEFAULT, Completion, check_limit, port_closed

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio._core import Ring
    from unio.backends.common.lookups import Undertaking


Slept = TypeVar("Slept")

SWEEP_SECONDS = 0.05
"""How soon an otherwise idle wait looks for handles that were closed behind the port's back."""

SWEEP_SHARE = 50
"""Sweeps of a port with many handles take at most one part in this many of the time."""

SWEEP_FREELY = 64
"""Up to so many handles a sweep is too cheap to be rationed."""

SLEEP_SECONDS_MAX = 86400.0
"""The longest single sleep in the kernel; a longer time-out takes several. No kernel here takes every float."""

write_signals_to = partial(signal.set_wakeup_fd, warn_on_full_buffer=False)
"""Has Python write the number of each signal to a descriptor, at once, and returns the one before; -1 is none."""

_before: list[int] = []
"""The program's own descriptor, or -1, while the main thread waits and another one is in its place."""


UNTOLD_MAX = 64
"""Reads of the signal pipe that wait for the program's own descriptor, which may be a moment."""

OWNED, URGENT = 1, 2
"""After an operation was linked: its direction is this thread's, its deadline comes before all others."""


class EnginePort(BasePort):
    """A port with a queue of its own. Subclasses add how operations are done, and the kernel."""

    is_fast: ClassVar[bool] = False
    """Whether C does the plain operations of such a port; see native.FastPort, which its class begins with then."""

    tells_urgent: ClassVar[bool] = True
    """Whether an event tells that urgent data have come, after which a short receive doesn't show an empty socket."""

    def __init__(self, *, backend: str | None = None, concurrency: int = 0) -> None:
        self._signal_pipe = SignalPipe()
        self._queue = CompletionQueue(self._make_interrupt(), self.concurrency)
        self._lock = Lock()
        self._signals = Signals(self._lock, self._signal_pipe, POSIX)
        self._forwards_to: tuple[int, DescriptorGuard] | None = None  # see _forward_to
        self._untold: deque[bytes] = deque(maxlen=UNTOLD_MAX)  # of signals, for the program's own descriptor
        self._tells = False  # whether the program is to be told, as far as is known
        self._table = registry.Table()
        # By identity, since a subclass may compare as it likes.
        self._detached: dict[int, Operation] = {}  # in flight without a handle: timers and process exits
        self._claimed: set[int] = set()  # those of them that some thread begins or ends just now
        self._backlog: deque[tuple[EngineHandle, Direction]] = deque()  # directions that used up their attempts
        self._next_sweep = 0.0
        self._lookups = lookup_threads()
        super().__init__(backend=backend, concurrency=concurrency)

    def start_gathered(self) -> None:
        if self._unusable is not None:
            raise self._unusable()
        self._start_gathered()

    def _start_gathered(self) -> None:
        if holds_lock():
            put_off(self._queue.start_gathered)
        else:
            self._start_all()

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

    def _start_all(self) -> None:
        """Start what threads have submitted and is to be started together at their next wait."""

    if TYPE_CHECKING:  # what FastPort adds in C

        def _begin_fast(
            self, queue: CompletionQueue, table: Any, backlog: Any, timers: object, ring: Ring | None, /
        ) -> None: ...
        def _end_fast(self) -> None: ...
        def _harvest_fast(self, timeout_ms: int, /) -> bool: ...
        def _is_heard(self) -> bool: ...
        def _tells_program(self) -> bool: ...
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
    def _harvest(self, timeout: float | None) -> bool:
        """Wait in the kernel for up to *timeout* seconds and act on what it tells. Returns whether it told anything."""

    @abstractmethod
    def _watch_process(self, operation: ProcessExit) -> None:
        """Have :meth:`_complete_exit` called when the process ends, or raise OSError.

        What :meth:`_unwatch_process` needs to end that goes into ``operation._native``. If the process has ended
        already, its status may go into ``operation.status`` instead. Neither is called with a lock held, nor while the
        other is at work for the same operation.
        """

    @abstractmethod
    def _unwatch_process(self, operation: ProcessExit) -> None:
        """End it."""

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
            self._submit_detached(operation, timeout)
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
            self._submit_begun_detached(operation, timeout)
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

    def _submit_detached(self, operation: Operation, timeout: float | None) -> None:
        with self._lock:
            if self._unusable is not None:  # it was closed meanwhile, and nobody would end the operation any more
                raise self._unusable()
            idle = operation._status == IDLE
            try:
                _left = operation._begin()  # goes when this returns, and the lock is given back
                self._enter_detached(operation, timeout)
            except BaseException:
                if idle:
                    self._claimed.discard(id(operation))
                    self._detached.pop(id(operation), None)
                    self._queue.forget(operation)
                raise
        self._start_detached(operation)

    def _submit_begun_detached(self, operation: Operation, timeout: float | None) -> None:
        try:
            begun = self._enter_begun(operation, timeout)
        except MemoryError:  # nobody has it, and it ends with that
            operation._verdict = operation._verdict or no_memory()
            begun = self._enter_begun(operation, timeout)
        if begun:
            self._start_detached(operation)
        else:
            self._queue.wake()

    def _enter_begun(self, operation: Operation, timeout: float | None) -> bool:
        """Keep an operation whose flight has begun before, or end it: where it raises, neither. Tells if it is kept."""
        with self._lock:
            verdict = operation._verdict
            if self._unusable is not None:
                verdict = verdict or cancelled("the port was closed")
            try:
                if verdict is None:
                    self._enter_detached(operation, timeout)
                    return True
                operation._sequence = next_sequence()
                self._queue.complete(operation, verdict)
            except BaseException:
                self._claimed.discard(id(operation))
                self._detached.pop(id(operation), None)
                operation._native = None
                operation._sequence = NOT_LINKED
                raise
        return False

    def _enter_detached(self, operation: Operation, timeout: float | None) -> None:
        """Keep an operation without a handle until it has ended; the caller holds the port's lock."""
        operation._sequence = next_sequence()
        self._detached[id(operation)] = operation
        if isinstance(operation, Timer):
            times_out = timeout is not None and timeout < operation._delay
            delay = timeout if timeout is not None and times_out else operation._delay
            self._queue.timers.set(operation, delay, times_out)
        elif timeout is not None:
            self._queue.timers.set(operation, timeout)
        if isinstance(operation, ProcessExit):
            self._claimed.add(id(operation))
        elif (undertake := UNDERTAKINGS.get(operation.name)) is not None:
            operation._native = undertake(self, operation)

    def _start_detached(self, operation: Operation) -> None:
        if isinstance(operation, ProcessExit):
            self._start_watch(operation)
        elif operation.name in UNDERTAKINGS and (undertaking := operation._native) is not None:
            try:
                undertaking.start()
            except MemoryError:  # it is in flight, and there may be some by now
                undertaking.start()
        elif isinstance(operation, Signal):
            self._start_signal(operation)
        self._queue.wake_leader()
        if self._queue.has_packets:
            self._queue.wake()

    # Signals

    def _start_signal(self, operation: Signal) -> None:
        """Have an operation wait for its signal, which may have come already."""
        error = self._signals.begin(operation, self._detached)
        if error is not None:
            self._detached_ended(operation, error, operation._sequence)
        self._complete_signals()

    def _complete_signals(self) -> None:
        with self._lock:
            for operation in self._signals.come():
                self._complete_detached(operation, None)

    def _complete_detached(self, operation: Operation, error: OSError | None) -> None:
        """Queue an operation without a handle that nobody has claimed; the caller holds the port's lock."""
        number = id(operation)  # first, as it takes memory: nothing may fail between the next two
        if isinstance(operation, Signal):
            self._signals.complete(operation, error, self._queue.complete)
        else:
            self._queue.complete(operation, error)  # where it fails, the operation keeps its place
        del self._detached[number]

    def _hear(self) -> None:
        """Signals have come: complete the operations that wait for them, and let the main thread run handlers."""
        try:
            told = self._signal_pipe.read()
            if told and (self._tells or self._forwards_to is not None or (self.is_fast and self._tells_program())):
                self._untold.append(told)
                self._forward()
            self._complete_signals()
            self._queue.rouse()
        except BaseException:  # somebody else shall hear of them
            self._signal_pipe()
            raise
        if self._queue.has_packets:
            self._queue.wake()

    # The watch of a process is begun and ended by system calls, over which the port's lock is not held. A thread that
    # is about to make one claims the operation; what would end it meanwhile leaves a result or a verdict for it.

    def _start_watch(self, operation: ProcessExit) -> None:
        """Have a process watched, or end the operation if that can't be; this thread has claimed it."""
        error = None
        try:
            operation.status = told_status(operation.process)
            if operation.status is None:
                self._watch_process(operation)
        except OverflowError:  # a number that no process can have
            error = OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        except Exception as failure:  # noqa: BLE001 - whatever went wrong, the operation ends once
            error = as_oserror(failure)
        finally:
            self._end_claim(operation, error)

    def _complete_exit(self, operation: ProcessExit, status: int | None, error: OSError | None) -> None:
        """Complete the exit of a process. What is told of another flight of the operation is as true of this one."""
        if error is not None and (told := told_status(operation.process)) is not None:
            status, error = told, None
        with self._lock:
            if id(operation) not in self._detached:
                return
            operation.status = status
            if id(operation) in self._claimed:
                operation._verdict = operation._verdict or error
                return
            self._claimed.add(id(operation))
        self._end_claim(operation, error)

    def _detached_ended(self, operation: Operation, error: OSError | None, flight: int | None = None) -> bool:
        """Complete an operation without a handle, unless that was done already, or on another *flight* of it."""
        number = id(operation)  # which takes memory, too
        with self._lock:
            if operation._status == PENDING and operation._sequence == NOT_LINKED:
                operation._verdict = operation._verdict or error
                return True
            if number not in self._detached or not is_on(operation, flight):
                return False
            if number in self._claimed:
                operation._verdict = operation._verdict or error
                return True
            undertaking = operation._native
            if isinstance(operation, ProcessExit):
                self._claimed.add(number)
            else:
                self._complete_detached(operation, error)
        if isinstance(operation, ProcessExit):
            self._end_claim(operation, error)
            return True
        self._queue.wake()
        if undertaking is not None:
            undertaking.abandon()
        return True

    def _undertaken(
        self, operation: Operation, undertaking: Undertaking, error: OSError | None, **results: Any
    ) -> bool:
        """Complete an operation with what its undertaking has come to.

        Returns False if it has ended before, so that nobody takes the results.
        """
        number = id(operation)
        with self._lock:
            if operation._native is not undertaking or number not in self._detached:
                return False
            for name, result in results.items():
                setattr(operation, name, result)
            self._queue.complete(operation, error)
            del self._detached[number]
        try:
            self._queue.wake()
        except MemoryError:  # there may be some by now, and who calls this is to hear that it was done
            self._queue.wake()
        return True

    def _end_claim(self, operation: ProcessExit, error: OSError | None) -> None:
        """Give up the claim of an operation, and complete it if there is a result, an error or a verdict."""
        with self._lock:
            if operation.status is None and error is None and operation._verdict is None:
                self._claimed.discard(id(operation))
                return
        if operation._native is not None:
            self._unwatch_process(operation)
        number = id(operation)
        with self._lock:
            self._claimed.discard(number)
            result_won = operation.status is not None
            self._queue.complete(operation, None if result_won else error or operation._verdict)
            self._detached.pop(number, None)
        self._queue.wake()

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
            self._signals.give_back(operation._number)
        return asked

    def _end(self, operation: Operation, verdict: OSError, flight: int | None = None) -> bool:
        handle = operation._handle  # what the property gives, at a fifth of the price
        if handle is None:
            return self._detached_ended(operation, verdict, flight)
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

    def _look_again(self) -> None:
        """Attempt everything once more: events may have been fetched and not acted on, and they don't come again."""
        for handle in list(self._table.values()):
            for direction in (handle.incoming, handle.outgoing, handle.readiness, handle.files):
                if direction is not None:
                    self._backlog.append((handle, direction))

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

    def _sleep_time(self, until: float | None, *, swept: bool) -> float | None:
        """How long the kernel may hold the leader: to the caller's time-out, the next deadline or the next sweep."""
        ends = [end for end in (until, self._queue.timers.next_time()) if end is not None]
        left = max(0.0, min(ends) - clock.now()) if ends else None
        if not swept and self._table:
            return SWEEP_SECONDS if left is None else min(left, SWEEP_SECONDS)
        return None if left is None else min(left, SLEEP_SECONDS_MAX)

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
            self._detached_ended(what, None, flight)

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

    # Signals, and the sleep of the main thread

    def _sleep(self, waiter: Waiter, sleep: Callable[[float | None], Slept], timeout: float | None) -> Slept:
        """Call what sleeps for up to *timeout* seconds; in the main thread, a signal ends it. C has the same.

        Python looks whether a signal has come, and then goes to sleep in some system call: one that comes in between
        would be handled when that call ends. So for as long as the sleep takes, Python writes the numbers of signals to
        the port's pipe, which the kernel watches for the leader. Where the program has a descriptor of its own for
        them, the port tells that one.
        """
        if timeout == 0 or not waiter.hears or waiter.heard:
            return sleep(timeout)
        before: list[int] = []
        pipe = self._signal_pipe
        with pipe.guard as is_open:
            try:
                if is_open:
                    waiter.heard = True
                    self._begin_hearing(waiter, before)
                return sleep(timeout)
            finally:
                waiter.heard = False
                if before:
                    try:
                        now = write_signals_to(before[0])
                    except (OSError, ValueError):  # it was closed meanwhile
                        now = write_signals_to(-1)
                    if now != pipe.writer:  # a handler has set another
                        write_signals_to(now)
                    if _before and _before[0] is before[0]:
                        _before.clear()
                    if before[0] >= 0:
                        self._forward_no_more()

    def _begin_hearing(self, waiter: Waiter, before: list[int]) -> None:
        self._tells = True
        try:
            # One step, in the middle of which no handler comes: else nobody would know what to set again.
            before.extend(map(write_signals_to, (self._signal_pipe.writer,)))
        except ValueError:  # of a subinterpreter, in which no handler runs
            waiter.hears = False
        else:
            if not _before:
                _before.extend(before)
            if before[0] >= 0:
                self._forward_to(before[0])
        finally:
            self._tells = False

    def _forward_to(self, descriptor: int) -> None:
        """Let the program's own descriptor be told of what this port is told in its place: by a duplicate of it.

        The thread that leads does so, also when the program has closed its own by then. It may have read the pipe
        before it can know where to, or come to that when this has ended: so what is untold is told as soon as there is
        somebody.
        """
        try:
            number = os.dup(descriptor)
        except OSError:  # it is closed, or there is none to be had
            return
        self._forwards_to = number, DescriptorGuard(number)
        self._forward()

    def _forward(self) -> None:
        forwards_to = self._forwards_to
        if forwards_to is None:
            return
        number, guard = forwards_to
        with guard as is_open, contextlib.suppress(IndexError, OSError):  # all is told; it is full, or nobody reads it
            while is_open:
                os.write(number, self._untold.popleft())

    def _forward_no_more(self) -> None:
        self._hear()
        forwards_to, self._forwards_to = self._forwards_to, None
        if forwards_to is not None:
            forwards_to[1].close()

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
        for operation in list(self._detached.values()):
            self._end(operation, cancelled("the port was closed"))
        self._signals.give_all_back()
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

    def _close_signal_pipe(self) -> None:
        """Close it, unless Python writes to it for the main thread: that one does it when its wait ends."""
        if not self.is_fast or not self._is_heard():
            self._signal_pipe.close()

    def _give_back(self, completion: Completion) -> None:
        self._queue.give_back([completion])
        self._queue.wake()

    def _operations(self) -> list[Operation]:
        # An operation goes from its handle to the queue, so in this order none is missed.
        found: list[Operation] = []
        for handle in list(self._table.values()):
            with handle.lock:
                found += handle.in_flight()
        found += list(self._detached.values())
        return [each for each in found if not each._is_part] + self._queue.operations()


def _after_fork_in_child() -> None:
    if _before:
        write_signals_to(_before.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

if has_fast_path:
    core.learn(EnginePort, EngineHandle, Kind.SOCKET, unblocked_socket, io.FileIO, write_signals_to, _before)
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
    )

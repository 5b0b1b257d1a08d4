"""Operations without a handle: timers, exits of processes, signals, and what is undertaken for a name.

They are *detached*: nothing but this keeps them, from the submit until they have ended, guarded by the port's lock,
which is not held over a system call. It changes their status and their results.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Protocol

from unio.backends.common.accelerator import next_sequence
from unio.backends.common.connecting import UNDERTAKINGS
from unio.backends.common.lookups import Ends
from unio.backends.common.objects import told_status
from unio.backends.common.signals import POSIX, Signals
from unio.backends.common.timers import NOT_LINKED, is_on
from unio.errors import as_oserror, cancelled, no_memory
from unio.operation_state import IDLE, PENDING
from unio.operations import ProcessExit, Signal, Timer

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.backends.common.locks import Lock
    from unio.backends.common.lookups import Undertaking
    from unio.backends.common.signals import Waker
    from unio.backends.engine.completion_queue import CompletionQueue
    from unio.operations import Operation


class Watcher(Ends, Protocol):
    """The port: what is asked of it for an operation without a handle."""

    @property
    def _unusable(self) -> Callable[[], Exception] | None:
        """Makes what is raised once the port is closed; None before."""

    def _watch_process(self, operation: ProcessExit) -> None:
        """Have :meth:`Detached.exited` called when the process ends, or raise OSError.

        What :meth:`_unwatch_process` needs to end that goes into ``operation._native``. If the process has ended
        already, its status may go into ``operation.status`` instead. Neither is called with a lock held, nor while the
        other is at work for the same operation.
        """

    def _unwatch_process(self, operation: ProcessExit) -> None:
        """End it."""


class Detached:
    """The operations of a port that have no handle. They do not keep the port: whoever calls this names it."""

    def __init__(self, lock: Lock, queue: CompletionQueue, waker: Waker) -> None:
        self._lock = lock  # the port's
        self._queue = queue
        self._here: dict[int, Operation] = {}  # by identity, since a subclass may compare as it likes
        self._claimed: set[int] = set()  # those of them that some thread begins or ends just now
        self._signals = Signals(lock, waker, POSIX)

    def operations(self) -> list[Operation]:
        return list(self._here.values())

    def submit(self, port: Watcher, operation: Operation, timeout: float | None) -> None:
        with self._lock:
            if port._unusable is not None:  # it was closed meanwhile, and nobody would end the operation any more
                raise port._unusable()
            idle = operation._status == IDLE
            try:
                _left = operation._begin()  # goes when this returns, and the lock is given back
                self._enter(port, operation, timeout)
            except BaseException:
                if idle:
                    self._claimed.discard(id(operation))
                    self._here.pop(id(operation), None)
                    self._queue.forget(operation)
                raise
        self._start(port, operation)

    def submit_begun(self, port: Watcher, operation: Operation, timeout: float | None) -> None:
        try:
            begun = self._enter_begun(port, operation, timeout)
        except MemoryError:  # nobody has it, and it ends with that
            operation._verdict = operation._verdict or no_memory()
            begun = self._enter_begun(port, operation, timeout)
        if begun:
            self._start(port, operation)
        else:
            self._queue.wake()

    def _enter_begun(self, port: Watcher, operation: Operation, timeout: float | None) -> bool:
        """Keep an operation whose flight has begun before, or end it: where it raises, neither. Tells if it is kept."""
        with self._lock:
            verdict = operation._verdict
            if port._unusable is not None:
                verdict = verdict or cancelled("the port was closed")
            try:
                if verdict is None:
                    self._enter(port, operation, timeout)
                    return True
                operation._sequence = next_sequence()
                self._queue.complete(operation, verdict)
            except BaseException:
                self._claimed.discard(id(operation))
                self._here.pop(id(operation), None)
                operation._native = None
                operation._sequence = NOT_LINKED
                raise
        return False

    def _enter(self, port: Watcher, operation: Operation, timeout: float | None) -> None:
        """Keep an operation without a handle until it has ended; the caller holds the port's lock."""
        operation._sequence = next_sequence()
        self._here[id(operation)] = operation
        if isinstance(operation, Timer):
            times_out = timeout is not None and timeout < operation._delay
            delay = timeout if timeout is not None and times_out else operation._delay
            self._queue.timers.set(operation, delay, times_out)
        elif timeout is not None:
            self._queue.timers.set(operation, timeout)
        if isinstance(operation, ProcessExit):
            self._claimed.add(id(operation))
        elif (undertake := UNDERTAKINGS.get(operation.name)) is not None:
            operation._native = undertake(port, operation)

    def _start(self, port: Watcher, operation: Operation) -> None:
        if isinstance(operation, ProcessExit):
            self._start_watch(port, operation)
        elif operation.name in UNDERTAKINGS and (undertaking := operation._native) is not None:
            try:
                undertaking.start()
            except MemoryError:  # it is in flight, and there may be some by now
                undertaking.start()
        elif isinstance(operation, Signal):
            self._start_signal(port, operation)
        self._queue.wake_leader()
        if self._queue.has_packets:
            self._queue.wake()

    def end(self, port: Watcher, operation: Operation, error: OSError | None, flight: int | None = None) -> bool:
        """Complete an operation without a handle, unless that was done already, or on another *flight* of it."""
        number = id(operation)  # which takes memory, too
        with self._lock:
            if operation._status == PENDING and operation._sequence == NOT_LINKED:
                operation._verdict = operation._verdict or error
                return True
            if number not in self._here or not is_on(operation, flight):
                return False
            if number in self._claimed:
                operation._verdict = operation._verdict or error
                return True
            undertaking = operation._native
            if isinstance(operation, ProcessExit):
                self._claimed.add(number)
            else:
                self._complete(operation, error)
        if isinstance(operation, ProcessExit):
            self._end_claim(port, operation, error)
            return True
        self._queue.wake()
        if undertaking is not None:
            undertaking.abandon()
        return True

    def end_all(self, port: Watcher) -> None:
        """End what there is, as the port is closed."""
        for operation in self.operations():
            self.end(port, operation, cancelled("the port was closed"))
        self._signals.give_all_back()

    def undertaken(
        self, operation: Operation, undertaking: Undertaking, error: OSError | None, results: dict[str, Any]
    ) -> bool:
        """Complete an operation with what its undertaking has come to.

        Returns False if it has ended before, so that nobody takes the results.
        """
        number = id(operation)
        with self._lock:
            if operation._native is not undertaking or number not in self._here:
                return False
            for name, result in results.items():
                setattr(operation, name, result)
            self._queue.complete(operation, error)
            del self._here[number]
        try:
            self._queue.wake()
        except MemoryError:  # there may be some by now, and who calls this is to hear that it was done
            self._queue.wake()
        return True

    # Signals

    def _start_signal(self, port: Watcher, operation: Signal) -> None:
        """Have an operation wait for its signal, which may have come already."""
        error = self._signals.begin(operation, self._here)
        if error is not None:
            self.end(port, operation, error, operation._sequence)
        self.complete_signals()

    def complete_signals(self) -> None:
        with self._lock:
            for operation in self._signals.come():
                self._complete(operation, None)

    def give_back(self, operation: Signal) -> None:
        """Leave a signal to the program again that nobody waits for any more."""
        self._signals.give_back(operation._number)

    def _complete(self, operation: Operation, error: OSError | None) -> None:
        """Queue an operation without a handle that nobody has claimed; the caller holds the port's lock."""
        number = id(operation)  # first, as it takes memory: nothing may fail between the next two
        if isinstance(operation, Signal):
            self._signals.complete(operation, error, self._queue.complete)
        else:
            self._queue.complete(operation, error)  # where it fails, the operation keeps its place
        del self._here[number]

    # Exits. The watch of a process is begun and ended by system calls, over which the port's lock is not held. A thread
    # that is about to make one claims the operation; what would end it meanwhile leaves a result or a verdict for it.

    def _start_watch(self, port: Watcher, operation: ProcessExit) -> None:
        """Have a process watched, or end the operation if that can't be; this thread has claimed it."""
        error = None
        try:
            operation.status = told_status(operation.process)
            if operation.status is None:
                port._watch_process(operation)
        except OverflowError:  # a number that no process can have
            error = OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        except Exception as failure:  # noqa: BLE001 - whatever went wrong, the operation ends once
            error = as_oserror(failure)
        finally:
            self._end_claim(port, operation, error)

    def exited(self, port: Watcher, operation: ProcessExit, status: int | None, error: OSError | None) -> None:
        """Complete the exit of a process. What is told of another flight of the operation is as true of this one."""
        if error is not None and (told := told_status(operation.process)) is not None:
            status, error = told, None
        with self._lock:
            if id(operation) not in self._here:
                return
            operation.status = status
            if id(operation) in self._claimed:
                operation._verdict = operation._verdict or error
                return
            self._claimed.add(id(operation))
        self._end_claim(port, operation, error)

    def _end_claim(self, port: Watcher, operation: ProcessExit, error: OSError | None) -> None:
        """Give up the claim of an operation, and complete it if there is a result, an error or a verdict."""
        with self._lock:
            if operation.status is None and error is None and operation._verdict is None:
                self._claimed.discard(id(operation))
                return
        if operation._native is not None:
            port._unwatch_process(operation)
        number = id(operation)
        with self._lock:
            self._claimed.discard(number)
            result_won = operation.status is not None
            self._queue.complete(operation, None if result_won else error or operation._verdict)
            self._here.pop(number, None)
        self._queue.wake()

"""Operations without a handle: timers, exits of processes, signals, and what is undertaken for a name.

They are *detached*: nothing but this keeps them, from the submit until they have ended. It changes their status and
their results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unio.backends.common.accelerator import next_sequence
from unio.backends.common.connecting import UNDERTAKINGS
from unio.backends.common.locks import Lock
from unio.backends.common.objects import told_status
from unio.backends.common.signals import Signals
from unio.backends.common.timers import NOT_LINKED, is_on
from unio.backends.windows.kernel_queue import SignalPacket
from unio.backends.windows.processes import Watches
from unio.backends.windows.signals import CATCHER
from unio.errors import cancelled
from unio.operation_state import IDLE, PENDING
from unio.operations import ProcessExit, Signal, Timer
from unio.port import port_closed

if TYPE_CHECKING:
    from unio.backends.common.lookups import Ends, Undertaking
    from unio.backends.windows.deadlines import Deadlines
    from unio.backends.windows.delivery import Delivery
    from unio.operations import Operation


class Detached:
    """The operations of a port that have no handle. Its lock guards them."""

    def __init__(self, delivery: Delivery, deadlines: Deadlines) -> None:
        self._delivery = delivery
        self._deadlines = deadlines
        self._lock = Lock()
        self._here: dict[int, Operation] = {}  # by identity
        self._watches = Watches(delivery.queue)
        self._signals = Signals(self._lock, SignalPacket(delivery.queue), CATCHER)

    def __len__(self) -> int:
        return len(self._here)

    def operations(self) -> list[Operation]:
        return list(self._here.values())

    def submit(self, port: Ends, operation: Operation, timeout: float | None) -> None:
        with self._lock:
            if self._delivery.closed:  # it was closed meanwhile, and nobody would end the operation any more
                raise port_closed()
            idle = operation._status == IDLE
            try:
                _left = operation._begin()  # goes when this returns, and the lock is given back
                self._enter(port, operation, timeout)
            except BaseException:
                if idle:
                    self._delivery.timers.discard(operation)
                    self._here.pop(id(operation), None)
                    operation._status = IDLE
                raise
        self._delivery.insist(self._start, operation)

    def submit_begun(self, port: Ends, operation: Operation, timeout: float | None, verdict: OSError | None) -> None:
        """Submit an operation whose flight has begun before, or end it. Where it raises, it can be called again."""
        with self._lock:
            verdict = operation._verdict or verdict
            try:
                if verdict is None:
                    self._enter(port, operation, timeout)
                else:
                    operation._sequence = next_sequence()
                    delivered = self._delivery.complete(operation, verdict)
            except BaseException:
                self._here.pop(id(operation), None)
                operation._sequence = NOT_LINKED
                raise
        if verdict is None:
            self._delivery.insist(self._start, operation)
        elif delivered:
            self._delivery.put(operation)

    def _enter(self, port: Ends, operation: Operation, timeout: float | None) -> None:
        """Keep an operation until it has ended; the caller holds the lock.

        An undertaking tells its end to the port.
        """
        operation._sequence = next_sequence()
        self._here[id(operation)] = operation
        timers = self._delivery.timers
        if isinstance(operation, Timer):
            times_out = timeout is not None and timeout < operation._delay
            delay = timeout if timeout is not None and times_out else operation._delay
            timers.set(operation, delay, times_out)
        elif timeout is not None:
            timers.set(operation, timeout)
        if (undertake := UNDERTAKINGS.get(operation.name)) is not None:
            operation._native = undertake(port, operation)

    def _start(self, operation: Operation) -> None:
        if operation.name in UNDERTAKINGS and (undertaking := operation._native) is not None:
            undertaking.start()
        if isinstance(operation, ProcessExit):
            status = told_status(operation.process)
            with self._lock:
                if id(operation) in self._here and operation._native is None:  # else it was ended meanwhile
                    self._start_watch(operation, status)
        elif isinstance(operation, Signal):
            error = self._signals.begin(operation, self._here)
            if error is not None:
                self.end(operation, error, operation._sequence)
            self.complete_signals()
        self._deadlines.mind()

    def complete_signals(self) -> None:
        """End those whose signals have come."""
        with self._lock:
            for operation in self._signals.come():
                self._end(operation, None)

    def give_back(self, operation: Operation) -> None:
        """Leave a signal to the program again that nobody waits for any more."""
        if isinstance(operation, Signal):
            self._signals.give_back(operation._number)

    def _start_watch(self, operation: ProcessExit, status: int | None) -> None:
        """Have a process watched, or end the operation if that can't be; the caller holds the lock."""
        operation.status = status
        error = None if status is not None else self._watches.begin(operation)
        if operation._native is None:
            self._end(operation, error)

    def process_ended(self, number: int) -> Operation | None:
        """The operation whose process has ended by this packet, if its completion is to be delivered."""
        with self._lock:
            operation = self._watches.ended(number)
            return operation if operation is not None and self._leave(operation, None) else None

    def end(self, operation: Operation, error: OSError | None, flight: int | None = None) -> bool:
        """End an operation. Returns whether it was in flight, on this one if it is named."""
        with self._lock:
            if operation._status == PENDING and operation._sequence == NOT_LINKED:
                operation._verdict = operation._verdict or error
                return True
            if id(operation) not in self._here or not is_on(operation, flight):
                return False
            undertaking = operation._native if operation.name in UNDERTAKINGS else None
            self._end(operation, error)
        if undertaking is not None:
            undertaking.abandon()
        return True

    def end_all(self) -> None:
        """End what there is, as the port is closed."""
        with self._lock:  # who is about to enter one has done so by now, or sees that the port is closed
            left = self.operations()
        for operation in left:
            self.end(operation, cancelled("the port was closed"))
        self._signals.give_all_back()

    def undertaken(
        self, operation: Operation, undertaking: Undertaking, error: OSError | None, results: dict[str, Any]
    ) -> bool:
        """Complete an operation with what its undertaking has come to. Returns False if it has ended before."""
        with self._lock:
            if operation._native is not undertaking or id(operation) not in self._here:
                return False
            for name, result in results.items():
                setattr(operation, name, result)
            self._end(operation, error)
        return True

    def _end(self, operation: Operation, error: OSError | None) -> None:
        if self._leave(operation, error):
            self._delivery.put(operation)

    def _leave(self, operation: Operation, error: OSError | None) -> bool:
        """End the flight of an operation; the caller holds the lock.

        Returns whether its completion is still to be delivered.
        """
        number = id(operation)
        # This is first: where it fails, the operation keeps its place.
        if isinstance(operation, Signal):
            delivered: bool = self._signals.complete(operation, error, self._delivery.complete)
        else:
            delivered = self._delivery.complete(operation, error)
        self._here.pop(number, None)
        if not isinstance(operation, ProcessExit):
            operation._native = None
        elif operation._native is not None:
            try:  # noqa: SIM105 - a context manager takes memory, too
                self._watches.end(operation)
            except MemoryError:  # it leaves a handle open, and loses nothing
                pass
        return delivered

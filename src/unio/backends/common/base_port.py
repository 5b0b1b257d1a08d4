"""What the ports of all backends do alike: whose an operation is, and what is asked for within a lock.

A thread that holds a lock of unio's is in the middle of a step, and what it asks for comes from a finalizer or a signal
handler (locks): it is noted with the operation, and done when the lock was given back. How an operation is begun and
ended is each backend's, as the abstract methods say. Of an operation this changes the status, its number and its
verdict.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any

from unio.backends.common.locks import holds_lock, put_off
from unio.backends.common.timers import NOT_LINKED
from unio.errors import NotAssociated, cancelled
from unio.operation_state import IDLE, PENDING
from unio.operations import Operation
from unio.port import Port


class BasePort(Port, ABC):
    """A port of which some operations name a handle, and which can be asked for things within a lock."""

    def _handle_of(self, operation: Operation) -> Any:
        """The handle of an operation that was given to a method, which is this port's; None for one that has none."""
        if not isinstance(operation, Operation):
            raise TypeError(f"an operation is needed here, not {type(operation).__name__}")
        handle: Any = operation._handle  # what the property gives, at a fifth of the price
        if handle is None or handle.port() is self:
            return handle
        raise NotAssociated(f"{handle!r} belongs to another port")

    def _submit_later(self, handle: Any, operation: Operation, timeout: float | None) -> None:
        """Submit where this thread holds a lock: from now on the operation is in flight, and what is to be done waits.

        Until then nobody has it, which its number says: a verdict is left with it.
        """
        idle = operation._status == IDLE
        try:
            if idle:
                operation._sequence = NOT_LINKED
            _left = operation._begin()
            put_off(partial(self._submit_begun, handle, operation, timeout))
        except BaseException:
            if idle:
                operation._status = IDLE
            raise

    @abstractmethod
    def _submit_begun(self, handle: Any, operation: Operation, timeout: float | None) -> None:
        """Submit an operation whose flight has begun before; where there is no memory for that, it completes anyway."""

    def _cancel(self, operation: Operation, reason: str) -> bool:
        """Ask an operation to end. Returns whether it was in flight."""
        if not holds_lock():
            return self._end(operation, cancelled(reason))
        if operation._status != PENDING:
            return False
        if operation._sequence == NOT_LINKED:
            operation._verdict = operation._verdict or cancelled(reason)
        else:
            put_off(partial(self._end, operation, cancelled(reason), operation._sequence))
        return True

    @abstractmethod
    def _end(self, operation: Operation, verdict: OSError, flight: int | None = None) -> bool:
        """End an operation with *verdict* unless its own result wins. Returns whether it was in flight.

        With *flight*, only the one of this number: by now it may be on another.
        """

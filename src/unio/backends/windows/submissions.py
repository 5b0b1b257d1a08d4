"""The way of an operation that names a handle: given to Windows, reaped, ended; and the close of the handle.

It decides when each of these is done. How Windows is asked, and what is taken over, is in the tables of operations; who
has the operation meanwhile, in in_flight. Of an operation it changes the status, the error and the verdict, with the
handle's lock held.

An operation that was ended without a call of Windows', or whose call has failed at once, has its packet posted here,
and goes the same way as the others from there on.
"""

from __future__ import annotations

import errno
import operator
from typing import TYPE_CHECKING

from unio.backends.common.accelerator import next_sequence
from unio.backends.common.locks import Lock
from unio.backends.common.timers import NOT_LINKED, is_on
from unio.backends.kernel import win32
from unio.backends.kernel.win32 import kernel32, last_error
from unio.backends.windows.handle import Lifecycle
from unio.backends.windows.in_flight import InFlight
from unio.backends.windows.kernel_queue import PacketKey, surely
from unio.backends.windows.operations import STARTS, finish, may_go_on
from unio.backends.windows.overlapped import Overlapped, overlapped_of
from unio.errors import cancelled, has_left
from unio.operation_state import IDLE, PENDING
from unio.operations import Route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from unio.backends.windows.delivery import Delivery
    from unio.backends.windows.handle import IocpHandle
    from unio.backends.windows.in_flight import Direction
    from unio.operations import Operation

ENDED_HERE = (995, 64, 676, 1236, 6, 10004, 10038, 10053, 10054, 232, 109)
"""The codes seen for an operation that was cancelled or whose handle was closed here; any other is a result that won.
"""


# No function of Python's: where there is no memory to call one, the sort of CPython 3.12 and 3.13 crashes.
_sequence_of = operator.attrgetter("_sequence")


class Submissions:
    """What is in flight on the handles of a port, from the submit to the end."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._queue = delivery.queue
        self._lock = Lock()
        self._handles: dict[int, IocpHandle] = {}  # by number: one that has it in its turn takes the place of the other
        self.in_flight = InFlight()

    # Handles

    def join(self, handle: IocpHandle) -> None:
        with self._lock:
            self._handles[handle.number] = handle

    def part(self, handle: IocpHandle) -> None:
        with self._lock:
            if self._handles.get(handle.number) is handle:
                del self._handles[handle.number]

    def handles(self) -> list[IocpHandle]:
        return list(self._handles.values())

    # Beginning

    def enter(self, handle: IocpHandle, operation: Operation, timeout: float | None) -> None:
        """Let an operation whose flight has begun wait to be started; the caller holds the handle's lock."""
        if operation._native is None:
            operation._native = Overlapped()
        overlapped_of(operation).begin()
        operation._sequence = next_sequence()
        if timeout is not None:
            self._delivery.timers.set(operation, timeout)
        self.in_flight.enter(handle, operation)

    def end_late(self, handle: IocpHandle, operation: Operation) -> None:
        """End an operation whose handle has left the port, behind those before it; the caller holds its lock."""
        operation._sequence = next_sequence()
        if handle.pending:
            operation._error = has_left()
            handle.ended.append(operation)
        elif self._delivery.complete(operation, has_left()):
            self._delivery.put(operation)

    def forget(self, handle: IocpHandle, operation: Operation) -> None:
        """Undo what a submit has done that raises; the caller holds the handle's lock."""
        self._delivery.timers.discard(operation)
        self.in_flight.leave(handle, operation)
        operation._status = IDLE

    def submit_begun(
        self, handle: IocpHandle, operation: Operation, timeout: float | None, verdict: OSError | None
    ) -> None:
        """Submit an operation whose flight has begun before, or end it. Where it raises, it can be called again."""
        with handle.lock:
            verdict = operation._verdict or verdict
            try:
                if verdict is None:
                    self.enter(handle, operation, timeout)
                else:
                    operation._sequence = next_sequence()
                    delivered = self._delivery.complete(operation, verdict)
            except BaseException:
                self.in_flight.leave(handle, operation)
                operation._sequence = NOT_LINKED
                raise
        if verdict is None:
            self._delivery.insist(self.start_waiting, handle, operation.route)
            self._finish_close(handle)
        elif delivered:
            self._delivery.put(operation)

    # Giving to Windows

    def start_waiting(self, handle: IocpHandle, route: Route, skipping: Operation | None = None) -> bool:
        """Give Windows what waits to be started and may be. Returns whether *skipping* has succeeded at once."""
        direction = handle.directions[route]
        skipped = False
        while (operation := self._next_to_start(handle, direction)) is not None:
            sequence = operation._sequence
            try:
                skipped = self._start(handle, operation, skip=operation is skipping) or skipped
            finally:
                surely(self._started, handle, operation, sequence, direction)
                self._finish_close(handle)
        return skipped

    def _next_to_start(self, handle: IocpHandle, direction: Direction) -> Operation | None:
        with handle.lock:
            if handle.lifecycle is not Lifecycle.OPEN:
                return None
            return self.in_flight.next_to_start(handle, direction)

    def _started(
        self, handle: IocpHandle, operation: Operation, sequence: int, direction: Direction | None = None
    ) -> None:
        """The call that starts an operation has returned: catch up on what was asked for meanwhile."""
        with handle.lock:
            if operation._status == PENDING and operation.handle is handle and operation._sequence == sequence:
                operation._native.started = True
                if operation._verdict is not None:
                    surely(self._cancel_io, handle, operation)
            if direction is not None:
                direction.starting = False
            handle.calling -= 1  # last, as what finds no memory before is done again

    def _start(self, handle: IocpHandle, operation: Operation, *, skip: bool) -> bool:
        """Make the call that starts an operation. Returns whether it has succeeded at once and no packet will come."""
        while True:
            code = self._call(handle, operation)
            if code == win32.SEE_LAST_ERROR:
                code = surely(last_error)
            succeeded = surely(self._called, handle, operation, code, skip)
            if succeeded is not None:
                return succeeded

    def _call(self, handle: IocpHandle, operation: Operation) -> int:
        """Make the Win32 call of an operation; the code of what it, or Python on the way to it, reports."""
        overlapped = overlapped_of(operation)
        try:
            if handle.is_open():  # else the number may be another's by now
                return STARTS[operation.name](handle, operation)
            overlapped.failure = cancelled("the object behind the handle was closed")
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the operation ends once
            overlapped.failure = surely(win32.normal, error)
        except BaseException:  # of the program's own fileno, and nothing has been started yet
            overlapped.reset()
            self._post_end(overlapped, win32.ERROR_OPERATION_ABORTED, 0)
            raise
        overlapped.reset()
        return win32.ERROR_OPERATION_ABORTED

    def _called(  # the last of its arguments by its place, as surely passes it
        self,
        handle: IocpHandle,
        operation: Operation,
        code: int,
        skip: bool,  # noqa: FBT001
    ) -> bool | None:
        """Act on the code of the call that starts an operation: the same, or None if it takes another call."""
        overlapped = overlapped_of(operation)
        count = 0
        if code == win32.DONE_HERE:
            code = 0
        elif _packet_comes(handle, overlapped, code):
            return False
        else:
            count = overlapped.pointer.InternalHigh
        if code or not skip:
            self._post_end(overlapped, code, count)
            return False
        if not overlapped.finished:
            overlapped.result = finish(handle, operation, 0, count)
            overlapped.finished = True
        result = overlapped.result
        if result is None:
            overlapped.finished = False
            return None
        if self._ended(handle, operation, result, silent=result == 0):
            self._delivery.put(operation)
        return result == 0

    def _post_end(self, overlapped: Overlapped, code: int, count: int) -> None:
        """Queue the packet of an operation whose end Windows does not queue."""
        if code == 0 and count:  # as Windows would have, had it not been told to skip it
            self._queue.post(count, PacketKey.IO, overlapped.address)
        else:
            self._queue.post(code, PacketKey.FAILED, overlapped.address)

    # Reaping

    def reaped(self, operation: Operation, code: int, count: int) -> Operation | None:
        """Act on the packet of an operation. Returns it if it has ended and its completion is to be delivered.

        Where it raises, as there is no memory, it can be called again.
        """
        handle, overlapped = _handle_of(operation), overlapped_of(operation)
        if not overlapped.finished:
            if handle.lifecycle is Lifecycle.OPEN and not handle.is_open():
                self._left_behind(handle)
            overlapped.pointer.InternalHigh = 0  # first, so that may_go_on never counts a part twice
            overlapped.result = finish(handle, operation, code, count)
            overlapped.finished = True
        if overlapped.result is None and self._go_on(handle, operation):
            return None
        ended = self._ended(handle, operation, overlapped.result)
        self._delivery.insist(self.start_waiting, handle, operation.route)
        return operation if ended else None

    def _left_behind(self, handle: IocpHandle) -> None:
        """The program has closed the object itself: end what is in flight as if the handle had been closed."""
        with handle.lock:
            if handle.lifecycle is not Lifecycle.OPEN:
                return
            handle.lifecycle = Lifecycle.CLOSING
        self._finish_close(handle)

    def _go_on(self, handle: IocpHandle, operation: Operation) -> bool:
        """Make the next call of an operation, unless it is being ended. Returns whether it goes on."""
        with handle.lock:
            if operation._verdict is not None or handle.lifecycle is not Lifecycle.OPEN or self._delivery.closed:
                return False
            handle.calling += 1
            operation._native.started = operation._native.finished = False
            sequence = operation._sequence
        try:
            self._start(handle, operation, skip=False)
        finally:
            surely(self._started, handle, operation, sequence)
            self._finish_close(handle)
        return True

    def _error_of(
        self, handle: IocpHandle, operation: Operation, result: int | None, *, is_open: bool
    ) -> OSError | None:
        """The error of a completion: the result of the call, unless the operation was ended here.

        The caller holds the handle's lock, so that a cancel has either not been asked for or left its verdict.
        """
        failure = overlapped_of(operation).failure
        verdict = operation._verdict
        if result == 0:
            return None  # it won
        if result is None or result in ENDED_HERE:
            if verdict is not None:
                return verdict
            if handle.lifecycle is not Lifecycle.OPEN or not is_open:
                return cancelled("the handle or the object behind it was closed")
        if failure is not None:
            return failure
        error = win32.os_error(result or win32.ERROR_OPERATION_ABORTED)
        return cancelled("cancelled from outside") if error.errno == errno.ECANCELED else error

    def _ended(self, handle: IocpHandle, operation: Operation, result: int | None, *, silent: bool = False) -> bool:
        """End the flight of an operation. Returns whether its completion is still to be delivered."""
        # The program's own code, maybe; asked where it matters.
        is_open = result == 0 or handle.lifecycle is not Lifecycle.OPEN or handle.is_open()
        with handle.lock:
            error = self._error_of(handle, operation, result, is_open=is_open)
            self._delivery.timers.discard(operation)
            if not silent and handle.lifecycle is not Lifecycle.OPEN:
                handle.ended.append(operation)
                operation._error = error
            # From here on nothing finds no memory.
            self.in_flight.leave(handle, operation)  # which the close of the port may have done
            if silent:
                operation._status = IDLE
            elif handle.lifecycle is Lifecycle.OPEN:
                return self._delivery.complete(operation, error)
            surely(self.deliver_ended, handle)  # also where the one that all waited for is told of by its submit
        return False

    def deliver_ended(self, handle: IocpHandle) -> None:
        """Deliver what has ended on a handle since its close began, once nothing else is in flight on it.

        The caller holds the handle's lock.
        """
        if not handle.pending:
            handle.ended.sort(key=_sequence_of, reverse=True)
            while handle.ended:
                each = handle.ended.pop()
                if self._delivery.complete(each, each.error):
                    self._delivery.put(each)

    # Ending early

    def end(self, operation: Operation, verdict: OSError, flight: int | None) -> bool:
        """Ask that an operation ends with *verdict*. Returns whether it was in flight."""
        handle = _handle_of(operation)
        is_open = handle.is_open()  # the program's own code, maybe
        with handle.lock:
            if operation._status != PENDING or not is_on(operation, flight):
                return False
            if operation._sequence == NOT_LINKED:
                operation._verdict = operation._verdict or verdict
                return True
            if handle.lifecycle is not Lifecycle.OPEN:
                return False  # it is being ended already, and may never have had an OVERLAPPED: see end_late
            given = overlapped_of(operation).given
            if operation._verdict is not None and not given:
                return False
            if given:
                return self._ask(handle, operation, verdict, is_open=is_open)
            handle.directions[operation.route].remove(operation)
            operation._verdict = verdict
        address = overlapped_of(operation).address
        self._delivery.insist(self._queue.post, win32.ERROR_OPERATION_ABORTED, PacketKey.FAILED, address)
        return True

    def _ask(self, handle: IocpHandle, operation: Operation, verdict: OSError, *, is_open: bool) -> bool:
        """End an operation that Windows has, if it can still be asked to; the caller holds the handle's lock."""
        asked = not is_open or not operation._native.started or surely(self._cancel_io, handle, operation)
        asked = asked or may_go_on(operation)
        if asked:  # else its packet is on the way, and is the last
            operation._verdict = operation._verdict or verdict
        return asked

    def _cancel_io(self, handle: IocpHandle, operation: Operation) -> bool:
        """Ask Windows to end an operation. Returns whether it was still at it (or unio's own threads are).

        The number may be another's by now. Windows finds nothing there then, as it looks for this very OVERLAPPED.
        """
        pointer = handle.device.opened if operation.route is Route.READINESS else handle.pointer
        if operation.name == "flush":
            return True
        if pointer is None:  # a poll that has ended before the device was asked anything
            return False
        # Nothing that takes memory follows its success: asked once more, Windows would not find the operation.
        return kernel32.CancelIoEx(pointer, operation._native.pointer) != 0 or last_error() != win32.ERROR_NOT_FOUND

    # Closing a handle, or the port

    def close_handle(self, handle: IocpHandle, *, here: bool = False) -> None:
        """Cancel what a closing handle has in flight, and part from it, once no thread is starting anything on it.

        *here* says that this thread is the one which closes the handle.
        """
        is_open = True
        try:
            is_open = handle.is_open()
        finally:  # that may be the program's code, and raise what is to end the program: then it is closed all the same
            if self._claim_end(handle):
                try:
                    self._cancel_pending(handle)
                    handle.part(is_open=is_open, here=here)
                except MemoryError:  # all of it is done again
                    handle.lifecycle = Lifecycle.CLOSING
                    raise

    def _finish_close(self, handle: IocpHandle) -> None:
        """Close a handle that was to be closed while a thread was starting something on it, which it has done now."""
        if handle.lifecycle is Lifecycle.CLOSING:
            self._delivery.insist(self.close_handle, handle)

    def _claim_end(self, handle: IocpHandle) -> bool:
        """Close a handle that is closing. Returns False if a thread is starting something on it, or that was done."""
        with handle.lock:
            if handle.lifecycle is not Lifecycle.CLOSING or handle.calling:
                return False
            handle.lifecycle = Lifecycle.CLOSED
        return True

    def _cancel_pending(self, handle: IocpHandle) -> None:
        """End what is in flight on a handle whose life has ended."""
        with handle.lock:
            for operation in handle.pending.values():
                operation._verdict = operation._verdict or cancelled("the handle was closed")
                if overlapped_of(operation).given:
                    surely(self._cancel_io, handle, operation)
            for each in handle.directions.values():
                while each.waiting:  # nobody starts one of these any more
                    address = each.waiting[0]._native.address
                    self._queue.post(win32.ERROR_OPERATION_ABORTED, PacketKey.FAILED, address)
                    each.waiting.popleft()
        self.part(handle)

    def cancel_all(self, handle: IocpHandle) -> None:
        """End what a handle has in flight because the port is closed; the object stays open."""
        with handle.lock:
            for operation in self.in_flight.take_back(handle):
                self._delivery.complete(operation, cancelled("the port was closed"))
            self.deliver_ended(handle)
            for operation in handle.pending.values():
                operation._verdict = operation._verdict or cancelled("the port was closed")
                self._cancel_io(handle, operation)

    def give_up(self) -> None:
        """End what some device, or a thread of the pool, does not let go of, and have no handles any more."""
        for operation, overlapped in self.in_flight.give_up():
            _limbo.append(overlapped.hold())
            handle = _handle_of(operation)
            with handle.lock:
                self.deliver_ended(handle)
            operation._status = IDLE
        with self._lock:
            self._handles.clear()


_limbo: list[Iterable[object]] = []  # memory that Windows may still write to, of ports that were closed


def _handle_of(operation: Operation) -> IocpHandle:
    handle: IocpHandle = operation._handle  # type: ignore[assignment]  # this port's, and of this backend
    return handle


def _packet_comes(handle: IocpHandle, overlapped: Overlapped, code: int) -> bool:
    """Whether Windows queues a packet for a call that has returned this code."""
    if code == win32.ERROR_IO_PENDING:
        return True
    if code == 0:
        return not handle.skips_packets
    return bool(overlapped.pointer.Internal >> 30 & 3 == 2)  # noqa: PLR2004 - a status that is but a warning

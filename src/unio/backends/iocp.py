"""The IOCP backend: Windows, whose kernel has completion ports.

Here is the port; what it consists of besides is in windows, which this may use.

What the kernel does by itself needs nothing here: the queue, its order, the choice of the thread that runs next. All
that a wait returns comes out of that one queue (kernel_queue), what unio has ended itself as well as what Windows has.
What is left is to say each thing in one way:

- The key of the kernel's packets says what kind of packet it is; the caller's keys never leave Python. The packet of an
  operation is found again by the address of its OVERLAPPED, in a table that also keeps the operation, its OVERLAPPED
  and its buffers alive until the packet was reaped, whatever the caller drops.
- A call that fails at once queues no packet, with one exception: a datagram that is larger than the buffer does, since
  its status is a warning. So whether one will come is read off the OVERLAPPED: its status is untouched, or an error. An
  operation that failed so, or was done without an overlapped call, has its packet posted by unio.
- GetQueuedCompletionStatus returns in five ways (success, a failed operation, a time-out, an abandoned port, an error
  of the call); GetQueuedCompletionStatusEx has three of them, and wait two.
- What a cancelled or closed operation ends with differs by the layers below: 995, 64, 676, 1236 are all seen. So that
  it was ended here is remembered with the operation, and not concluded from the code.
"""

from __future__ import annotations

import errno
import math
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from unio.arguments import seconds
from unio.backends.common import clock
from unio.backends.common.accelerator import next_sequence
from unio.backends.common.base_port import BasePort
from unio.backends.common.connecting import UNDERTAKINGS
from unio.backends.common.file_threads import FilePool
from unio.backends.common.locks import Lock, holds_lock, put_off, refuse_within_lock
from unio.backends.common.lookups import lookup_threads
from unio.backends.common.objects import told_status
from unio.backends.common.signals import Signals
from unio.backends.common.timers import NOT_LINKED, Timers, is_on
from unio.backends.kernel import win32
from unio.backends.kernel.win32 import kernel32, last_error
from unio.backends.windows.handle import Direction, IocpHandle, Lifecycle
from unio.backends.windows.kernel_queue import KernelQueue, PacketKey, SignalPacket, surely
from unio.backends.windows.overlapped import STARTS, Overlapped, finish, goes_alone, may_go_on
from unio.backends.windows.processes import Watches
from unio.backends.windows.signals import CATCHER
from unio.errors import AssociationError, cancelled, has_left, shown, timed_out
from unio.operation_state import IDLE, PENDING, QUEUED
from unio.operations import Operation, ProcessExit, Route, Signal, Timer
from unio.port import LIMIT_DEFAULT, Completion, check_limit, port_closed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from unio.backends.common.lookups import Undertaking
    from unio.backends.windows.kernel_queue import Packet
    from unio.handle import HasFileno


def unavailable() -> str | None:
    """Why this backend can't run here, or None."""
    try:
        queue = KernelQueue(1)
        queue.post(0, PacketKey.WAKE)
        queue.fetch(1, 0)
        queue.close()
    except OSError as error:
        return f"completion ports fail: {error}"
    return None


SLICE_MS_MAX = 100
"""How long the main thread sleeps in one go: Windows does not wake it for a signal, and Python's handlers run in it."""

SLEEP_MS_MAX = 0x7FFFFFFF

NEVER = math.inf
"""The deadline that comes after all others."""

REAP_MS = 250
"""How long a port that is being closed waits for the next packet of what it has cancelled."""

ENDED_HERE = (995, 64, 676, 1236, 6, 10004, 10038, 10053, 10054, 232, 109)
"""The codes seen for an operation that was cancelled or whose handle was closed here; any other is a result that won.
"""


class IocpPort(BasePort):
    """A port over a completion port of Windows'."""

    backend = "iocp"

    def __init__(self, *, backend: str | None = None, concurrency: int = 0) -> None:
        self._queue = KernelQueue(self.concurrency)
        self._lock = Lock()
        self._overlapped: dict[int, Operation] = {}  # what Windows has, by the address of its OVERLAPPED
        self._timers = Timers()
        self._bound = NEVER  # until when the thread sleeps that minds the deadlines
        self._pool = FilePool()
        self._lookups = lookup_threads()
        self._handles: dict[int, IocpHandle] = {}
        self._detached: dict[int, Operation] = {}  # in flight without a handle: timers and process exits; by identity
        self._watches = Watches(self._queue)
        self._signals = Signals(self._lock, SignalPacket(self._queue), CATCHER)
        # What found no memory: what a wait has fetched and not returned, and steps that are still to be taken.
        self._left: deque[Packet | Completion | Operation] = deque()
        self._steps: deque[Callable[[], object]] = deque()
        self._afd: Any = None
        super().__init__(backend=backend, concurrency=concurrency)

    # Association

    def associate(self, handle: HasFileno | int, key: Any = None, *, skip_on_success: bool = False) -> IocpHandle:
        if self._unusable is not None:
            raise self._unusable()
        made = IocpHandle(self, handle, key, skip_on_success=skip_on_success)
        if not self._queue.join(made.pointer):
            code = last_error()
            if self._unusable is not None:  # it was closed meanwhile
                raise self._unusable()
            if code in (win32.ERROR_INVALID_PARAMETER, win32.ERROR_ACCESS_DENIED, win32.ERROR_INVALID_HANDLE):
                why = "it has joined a port already (a handle does so once), or was not opened for overlapped work"
                hint = "; open files with unio.open and make pipes with unio.pipe" if made.socket is None else ""
                raise AssociationError(f"{shown(handle)} can't join the port: {why}{hint}")
            raise win32.os_error(code)
        # A datagram that is too large is neither a success nor a failure to Windows: whether its packet is skipped
        # can't be told. So datagram sockets queue all their packets.
        made.skip_on_success = skip_on_success and made.stream
        if made.skip_on_success:
            flags = win32.FILE_SKIP_COMPLETION_PORT_ON_SUCCESS
            win32.check(kernel32.SetFileCompletionNotificationModes(made.pointer, flags))
        made.skips_packets = made.skip_on_success or win32.skips_packets(made.pointer)  # of a port before this, maybe
        if made.socket is not None:
            made.socket.setblocking(False)
            if not made.stream and not made.connected:
                win32.report_unreachable(made.socket, report=False)
        self._handles[made.number] = made
        if self._unusable is not None:  # looked at afterwards: else who closes the port finds the handle there
            raise self._unusable()
        return made

    def _hand_back(self, handle: IocpHandle) -> None:
        """Let a handle go that was detached."""
        handle.make_as_before()
        with self._lock:
            if self._handles.get(handle.number) is handle:
                del self._handles[handle.number]

    def _has_any_of(self, handle: IocpHandle) -> bool:
        """Whether an operation on a handle has ended, and no wait has returned it."""
        ended = [*self._queue.operations(), *tuple(self._left)]
        return any(isinstance(each, Operation) and each._handle is handle for each in ended)

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
        if not self._link(handle, operation, timeout):
            return False
        try:
            done = self._start_waiting(handle, operation.route, operation if handle.skip_on_success else None)
            if timeout is not None and not done:
                self._mind_deadlines()
        except MemoryError:  # it is in flight, and somebody else shall start it
            self._later(self._start_waiting, handle, operation.route)
            raise
        return done

    def _link(self, handle: IocpHandle, operation: Operation, timeout: float | None) -> bool:
        """Begin a flight. Returns False where the handle has left its port, which ends it."""
        with handle.lock:
            if self._unusable is not None:  # it was closed meanwhile
                raise self._unusable()
            idle = operation._status == IDLE
            is_open = handle.lifecycle is Lifecycle.OPEN
            try:
                _left = operation._begin()  # goes when this returns, and the lock is given back
                if is_open:
                    self._enter(handle, operation, timeout)
                else:
                    self._end_late(handle, operation)
            except BaseException:
                if idle:
                    self._forget(handle, operation)
                raise
            return is_open

    def _end_late(self, handle: IocpHandle, operation: Operation) -> None:
        """End an operation whose handle has left the port, behind those before it; the caller holds its lock."""
        operation._sequence = next_sequence()
        if handle.pending:
            operation._error = has_left()
            handle.ended.append(operation)
        elif self._complete(operation, has_left()):
            self._put(operation)

    def _enter(self, handle: IocpHandle, operation: Operation, timeout: float | None) -> None:
        """Let an operation whose flight has begun wait to be started; the caller holds the handle's lock."""
        if operation._native is None:
            operation._native = Overlapped()
        operation._native.begin()
        operation._sequence = next_sequence()
        if timeout is not None:
            self._timers.set(operation, timeout)
        handle.pending[id(operation)] = operation
        self._overlapped[operation._native.address] = operation
        handle.directions[operation.route].waiting.append(operation)  # last: now it can be started

    def _forget(self, handle: IocpHandle | None, operation: Operation) -> None:
        """Undo what a submit has done that raises; the caller holds the lock."""
        self._timers.discard(operation)
        if handle is None:
            self._detached.pop(id(operation), None)
        else:
            handle.pending.pop(id(operation), None)
            if operation._native is not None:
                self._overlapped.pop(operation._native.address, None)
        operation._status = IDLE

    # Steps that are not to be left out, however little memory there is

    def _later(self, step: Callable[..., object], *arguments: object) -> None:
        """Have the next wait take a step."""
        self._steps.append(partial(step, *arguments))
        self._wake()

    def _insist(self, step: Callable[..., object], *arguments: object) -> None:
        """Take a step; if there is no memory for it, the next wait takes it from its beginning.

        That raises nothing here: what the caller has done before is done, and is not to be done again.
        """
        try:
            step(*arguments)
        except MemoryError:
            self._later(step, *arguments)

    def _take_steps(self) -> None:
        while self._steps:
            try:
                step = self._steps.popleft()
            except IndexError:  # another thread was quicker
                return
            try:
                step()
            except MemoryError:
                self._steps.append(step)
                self._wake()
                raise

    def _submit_begun(self, handle: IocpHandle | None, operation: Operation, timeout: float | None) -> None:
        self._insist(self._enter_begun, handle, operation, timeout)

    def _enter_begun(self, handle: IocpHandle | None, operation: Operation, timeout: float | None) -> None:
        """Submit an operation whose flight has begun before. Where it raises, it can be called again."""
        verdict = operation._verdict
        if self._unusable is not None or (handle is not None and handle.lifecycle is not Lifecycle.OPEN):
            verdict = verdict or has_left()
        with self._lock if handle is None else handle.lock:
            if verdict is not None:
                operation._sequence = next_sequence()
                delivered = self._complete(operation, verdict)
            elif handle is None:
                self._enter_detached(operation, timeout)
            else:
                self._enter(handle, operation, timeout)
        if verdict is not None:
            if delivered:
                self._put(operation)
        elif handle is None:
            self._insist(self._start_detached, operation)
        else:
            self._insist(self._start_waiting, handle, operation.route)
            self._finish_close(handle)
            self._insist(self._mind_deadlines)

    def _start_waiting(self, handle: IocpHandle, route: Route, skipping: Operation | None = None) -> bool:
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

    def _next_to_start(self, handle: IocpHandle, direction: Direction) -> Operation | None:
        """The operation that this thread is to start now, or None."""
        with handle.lock:
            if direction.starting or not direction.waiting or handle.lifecycle is not Lifecycle.OPEN:
                return None
            alone = goes_alone(handle, direction.waiting[0])
            if direction.exclusive or (alone and direction.busy):
                return None
            operation = direction.waiting.popleft()
            handle.calling += 1
            direction.starting = True
            direction.busy += 1
            direction.exclusive = alone
            operation._native.given = True
            return operation

    def _start(self, handle: IocpHandle, operation: Operation, *, skip: bool) -> bool:
        """Make the call that starts an operation. Returns whether it has succeeded at once and no packet will come."""
        while True:
            code = self._call(handle, operation)
            succeeded = surely(self._called, handle, operation, code, skip)
            if succeeded is not None:
                return succeeded

    def _called(  # the last of its arguments by its place, as surely passes it
        self,
        handle: IocpHandle,
        operation: Operation,
        code: int,
        skip: bool,  # noqa: FBT001
    ) -> bool | None:
        """Act on the code of the call that starts an operation: the same, or None if it takes another call."""
        overlapped: Overlapped = operation._native
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
            self._put(operation)
        return result == 0

    def _post_end(self, overlapped: Overlapped, code: int, count: int) -> None:
        """Queue the packet of an operation whose end Windows does not queue."""
        if code == 0 and count:  # as Windows would have, had it not been told to skip it
            self._queue.post(count, PacketKey.IO, overlapped.address)
        else:
            self._queue.post(code, PacketKey.FAILED, overlapped.address)

    def _call(self, handle: IocpHandle, operation: Operation) -> int:
        """Make the Win32 call of an operation; the code of what it, or Python on the way to it, reports."""
        overlapped: Overlapped = operation._native
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

    # Operations without a handle

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
                    self._forget(None, operation)
                raise
        self._insist(self._start_detached, operation)

    def _enter_detached(self, operation: Operation, timeout: float | None) -> None:
        """Keep an operation without a handle until it has ended; the caller holds the port's lock."""
        operation._sequence = next_sequence()
        self._detached[id(operation)] = operation
        if isinstance(operation, Timer):
            times_out = timeout is not None and timeout < operation._delay
            delay = timeout if timeout is not None and times_out else operation._delay
            self._timers.set(operation, delay, times_out)
        elif timeout is not None:
            self._timers.set(operation, timeout)
        if (undertake := UNDERTAKINGS.get(operation.name)) is not None:
            operation._native = undertake(self, operation)

    def _start_detached(self, operation: Operation) -> None:
        if operation.name in UNDERTAKINGS and (undertaking := operation._native) is not None:
            undertaking.start()
        if isinstance(operation, ProcessExit):
            status = told_status(operation.process)
            with self._lock:
                if id(operation) in self._detached and operation._native is None:  # else it was ended meanwhile
                    self._start_watch(operation, status)
        elif isinstance(operation, Signal):
            error = self._signals.begin(operation, self._detached)
            if error is not None:
                self._detached_ended(operation, error, operation._sequence)
            self._complete_signals()
        self._mind_deadlines()

    def _complete_signals(self) -> None:
        with self._lock:
            for operation in self._signals.come():
                self._end_detached(operation, None)

    def _start_watch(self, operation: ProcessExit, status: int | None) -> None:
        """Have a process watched, or end the operation if that can't be; the caller holds the port's lock."""
        operation.status = status
        error = None if status is not None else self._watches.begin(operation)
        if operation._native is None:
            self._end_detached(operation, error)

    def _process_ended(self, number: int) -> Operation | None:
        with self._lock:
            operation = self._watches.ended(number)
            return operation if operation is not None and self._leave_detached(operation, None) else None

    def _leave_detached(self, operation: Operation, error: OSError | None) -> bool:
        """End the flight of an operation without a handle; the caller holds the port's lock.

        Returns whether its completion is still to be delivered.
        """
        number = id(operation)
        if isinstance(operation, Signal):
            delivered: bool = self._signals.complete(operation, error, self._complete)
        else:
            delivered = self._complete(operation, error)  # first: where it fails, the operation keeps its place
        self._detached.pop(number, None)
        if not isinstance(operation, ProcessExit):
            operation._native = None
        elif operation._native is not None:
            try:  # noqa: SIM105 - a context manager takes memory, too
                self._watches.end(operation)
            except MemoryError:  # it leaves a handle open, and loses nothing
                pass
        return delivered

    def _end_detached(self, operation: Operation, error: OSError | None) -> None:
        """Complete an operation without a handle; the caller holds the port's lock."""
        if self._leave_detached(operation, error):
            self._put(operation)

    def _detached_ended(self, operation: Operation, error: OSError | None, flight: int | None = None) -> bool:
        with self._lock:
            if operation._status == PENDING and operation._sequence == NOT_LINKED:
                operation._verdict = operation._verdict or error
                return True
            if id(operation) not in self._detached or not is_on(operation, flight):
                return False
            undertaking = operation._native if operation.name in UNDERTAKINGS else None
            self._end_detached(operation, error)
        if undertaking is not None:
            undertaking.abandon()
        return True

    def _undertaken(
        self, operation: Operation, undertaking: Undertaking, error: OSError | None, **results: Any
    ) -> bool:
        """Complete an operation with what its undertaking has come to.

        Returns False if it has ended before, so that nobody takes the results.
        """
        with self._lock:
            if operation._native is not undertaking or id(operation) not in self._detached:
                return False
            for name, result in results.items():
                setattr(operation, name, result)
            self._end_detached(operation, error)
        return True

    # Ending

    def _reaped(self, operation: Operation, code: int, count: int) -> Operation | None:
        """Act on the packet of an operation. Returns it if it has ended and its completion is to be delivered.

        Where it raises, as there is no memory, it can be called again.
        """
        handle, flight = operation.handle, operation._native
        assert isinstance(handle, IocpHandle)
        if not flight.finished:
            if handle.lifecycle is Lifecycle.OPEN and not handle.is_open():
                self._left_behind(handle)
            flight.pointer.InternalHigh = 0  # first, so that may_go_on never counts a part twice
            flight.result = finish(handle, operation, code, count)
            flight.finished = True
        if flight.result is None and self._go_on(handle, operation):
            return None
        ended = self._ended(handle, operation, flight.result)
        self._insist(self._start_waiting, handle, operation.route)
        return operation if ended else None

    def _left_behind(self, handle: IocpHandle) -> None:
        """The program has closed the object itself: end what is in flight as if the handle had been closed."""
        with handle.lock:
            if handle.lifecycle is not Lifecycle.OPEN:
                return
            handle.lifecycle = Lifecycle.CLOSING
        self._insist(self._close_handle, handle)

    def _go_on(self, handle: IocpHandle, operation: Operation) -> bool:
        """Make the next call of an operation, unless it is being ended. Returns whether it goes on."""
        with handle.lock:
            if operation._verdict is not None or handle.lifecycle is not Lifecycle.OPEN or self._unusable is not None:
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
        failure: OSError | None = operation._native.failure
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
        overlapped: Overlapped = operation._native
        # The program's own code, maybe; asked where it matters.
        is_open = result == 0 or handle.lifecycle is not Lifecycle.OPEN or handle.is_open()
        number = id(operation)
        with handle.lock:
            error = self._error_of(handle, operation, result, is_open=is_open)
            self._timers.discard(operation)
            if not silent and handle.lifecycle is not Lifecycle.OPEN:
                handle.ended.append(operation)
                operation._error = error
            # From here on nothing finds no memory.
            handle.pending.pop(number, None)  # it is not there any more if the port was closed meanwhile
            self._overlapped.pop(overlapped.address, None)
            if overlapped.given:
                direction = handle.directions[operation.route]
                direction.busy -= 1
                direction.exclusive = False
            if silent:
                operation._status = IDLE
            elif handle.lifecycle is Lifecycle.OPEN:
                return self._complete(operation, error)
            surely(self._deliver_ended, handle)  # also where the one that all waited for is told of by its submit
        return False

    def _deliver_ended(self, handle: IocpHandle) -> None:
        """Deliver what has ended on a handle since its close began, once nothing else is in flight on it.

        The caller holds the handle's lock.
        """
        if not handle.pending:
            handle.ended.sort(key=lambda ended: -ended._sequence)
            while handle.ended:
                each = handle.ended.pop()
                if self._complete(each, each.error):
                    self._put(each)

    def _complete(self, operation: Operation, error: OSError | None) -> bool:
        """Give an operation its error. Returns whether its completion is to be delivered: not by a closed port."""
        operation._error = error
        self._timers.discard(operation)
        open_still = self._unusable is None
        operation._status = QUEUED if open_still else IDLE
        return open_still

    def _put(self, packet: Operation | Completion) -> None:
        """Queue what has ended without a packet of Windows', or what was posted."""
        try:
            self._queue.put(packet)
        except MemoryError:
            if not isinstance(packet, Operation):
                raise
            self._left.append(packet)  # there the next wait finds it
            self._wake()
        if self._unusable is not None:  # whoever comes last, this thread or the one that closes the port, drops it
            self._drop_put()

    def _drop_put(self) -> None:
        for operation in self._queue.drop():
            operation._status = IDLE
        for each in tuple(self._left):
            if isinstance(each, Operation):
                each._status = IDLE

    def cancel(self, operation: Operation) -> bool:
        if self._unusable is not None:
            raise self._unusable()
        self._handle_of(operation)
        asked = self._cancel(operation, "cancelled by Port.cancel")
        if isinstance(operation, Signal):
            self._signals.give_back(operation._number)
        return asked

    def _end(self, operation: Operation, verdict: OSError, flight: int | None = None) -> bool:
        handle = operation.handle
        if handle is None:
            return self._detached_ended(operation, verdict, flight)
        assert isinstance(handle, IocpHandle)
        is_open = handle.is_open()  # the program's own code, maybe
        with handle.lock:
            if operation._status != PENDING or not is_on(operation, flight):
                return False
            if operation._sequence == NOT_LINKED:
                operation._verdict = operation._verdict or verdict
                return True
            if handle.lifecycle is not Lifecycle.OPEN or (
                operation._verdict is not None and not operation._native.given
            ):
                return False  # it is being ended already
            if operation._native.given:
                return self._ask(handle, operation, verdict, is_open=is_open)
            handle.directions[operation.route].remove(operation)
            operation._verdict = verdict
        self._insist(self._queue.post, win32.ERROR_OPERATION_ABORTED, PacketKey.FAILED, operation._native.address)
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
        pointer = self._afd if operation.route is Route.READINESS else handle.pointer
        if operation.name == "flush":
            return True
        if pointer is None:  # a poll that has ended before the device was asked anything
            return False
        # Nothing that takes memory follows its success: asked once more, Windows would not find the operation.
        return kernel32.CancelIoEx(pointer, operation._native.pointer) != 0 or last_error() != win32.ERROR_NOT_FOUND

    def _close_handle(self, handle: IocpHandle, *, here: bool = False) -> None:
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
            self._insist(self._close_handle, handle)

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
                if operation._native.given:
                    surely(self._cancel_io, handle, operation)
            for each in handle.directions.values():
                while each.waiting:  # nobody starts one of these any more
                    address = each.waiting[0]._native.address
                    self._queue.post(win32.ERROR_OPERATION_ABORTED, PacketKey.FAILED, address)
                    each.waiting.popleft()
        with self._lock:
            if self._handles.get(handle.number) is handle:
                del self._handles[handle.number]

    # Waiting

    def post(self, key: Any, operation: Any = None, transferred: int = 0) -> None:
        if self._unusable is not None:
            raise self._unusable()
        self._put(Completion(key, operation, transferred, None))

    def wait(self, timeout: float | None = None, limit: int = LIMIT_DEFAULT) -> list[Completion]:
        refuse_within_lock()
        limit = check_limit(limit)
        until = None if timeout is None else clock.now() + seconds(timeout, "the time-out")
        batch: list[Completion] = []
        try:
            try:
                batch = self._wait(until, limit)
            finally:
                surely(self._hand_over)
        except BaseException:
            self._keep(batch)
            raise
        return batch

    def _wait(self, until: float | None, limit: int) -> list[Completion]:
        while True:
            if self._unusable is not None:
                raise self._unusable()
            self._take_steps()
            self._expire()
            late = until is not None and clock.now() >= until
            found = self._fetch_left(limit) if self._left else self._fetch(limit, until)
            batch = self._collect(found)
            if batch or (late and not found):
                return batch

    def _fetch_left(self, limit: int) -> list[Packet | Completion | Operation]:
        """What another wait has fetched, and found no memory to return."""
        found: list[Packet | Completion | Operation] = []
        while self._left and len(found) < limit:
            try:
                each = self._left.popleft()
            except IndexError:  # another thread was quicker
                break
            try:
                found.append(each)
            except MemoryError:
                self._left.appendleft(each)
                self._keep(found)
                raise
        return found

    def _collect(self, found: list[Any]) -> list[Completion]:
        """Act on what was fetched. Returns what a wait is to return for it; where it raises, another one does."""
        batch: list[Completion] = []
        at = 0  # what is before this is done with; what is there may be half of the way from a packet to a completion
        try:
            while at < len(found):
                each = found[at]
                if type(each) is tuple:
                    found[at] = each = self._packet(*each)
                if isinstance(each, Operation):
                    found[at] = each = self._taken(each)
                if each is not None:
                    batch.append(each)
                at += 1
        except BaseException:
            if at < len(found) and found[at] is None:
                at += 1
            self._keep([*batch, *found[at:]])
            raise
        return batch

    def _keep(self, found: Sequence[Packet | Completion | Operation]) -> None:
        """Keep what a wait can't return after all, for the next one."""
        if found:
            self._left.extendleft(reversed(found))
            self._wake()
            if self._unusable is not None:
                self._drop_put()

    def _expire(self) -> None:
        """Act on the deadlines that have passed. What has ended by them is queued, behind what had come before."""
        for what, times_out, flight in self._timers.expired():
            if times_out:
                self._end(what, timed_out(), flight)
            else:
                self._detached_ended(what, None, flight)

    def _fetch(self, limit: int, until: float | None) -> list[Any]:
        """Sleep in the kernel's queue until packets come, *until*, or the next deadline."""
        if not self._queue.enter():
            return []
        found: list[Any] = []
        mine: float | None = None
        try:
            try:
                mine = self._take_deadline()
                found = self._queue.fetch(limit, _ms(until, mine))
            finally:
                if mine is not None:
                    surely(self._leave_deadline, mine)
        except BaseException:
            self._keep(found)
            raise
        finally:
            self._queue.leave()
        return found

    def _packet(self, key: int, number: int, status: int, count: int) -> Operation | Completion | None:
        """Act on a packet. Returns what a wait is to return for it."""
        if key == PacketKey.WAKE:
            return None
        if key == PacketKey.SIGNAL:
            self._complete_signals()
            return None
        if key == PacketKey.KEPT:
            return self._queue.kept(number)
        operation = self._overlapped.get(number)
        if operation is None:
            return self._process_ended(number) if key == PacketKey.IO else None
        if key == PacketKey.FAILED:
            return self._reaped(operation, count, 0)
        told = operation._native.pointer.Internal & 0xFFFFFFFF
        if told != win32.STATUS_PENDING:  # seen under Wine, where the thread ended that had submitted it
            status = told
        return self._reaped(operation, win32.status_error(status & 0xFFFFFFFF), count)

    @staticmethod
    def _taken(packet: Operation | Completion) -> Completion | None:
        """What a wait is to return for an operation that has ended: nothing for a part of another one's."""
        if not isinstance(packet, Operation):
            return packet
        if packet._is_part:
            packet.state(packet)
            packet._status = IDLE
            return None
        completion = Completion(packet.key, packet, packet.transferred, packet.error)
        packet._status = IDLE  # last: from here on another thread may submit it again
        return completion

    # Deadlines

    def _take_deadline(self) -> float | None:
        """The next deadline, if this thread is the one to mind it; it has entered the queue before."""
        earliest = self._timers.next_time()
        if earliest is None:
            return None
        with self._lock:
            if earliest >= self._bound:
                return None  # another thread does
            self._bound = earliest
        return earliest

    def _leave_deadline(self, mine: float) -> None:
        with self._lock:
            if self._bound == mine:
                self._bound = NEVER

    def _hand_over(self) -> None:
        """Have another thread mind the deadlines in the place of this one, which goes."""
        if self._queue.waiting and self._bound == NEVER and self._timers.next_time() is not None:
            self._wake()

    def _mind_deadlines(self) -> None:
        """Wake a thread for a deadline that comes before those that are minded."""
        if self._queue.waiting:
            earliest = self._timers.next_time()
            if earliest is not None and earliest < self._bound:
                self._wake()

    def _wake(self) -> None:
        if self._unusable is None:
            self._queue.post(0, PacketKey.WAKE)

    def _afd_handle(self) -> Any:
        """A handle of the device that answers polls, opened for this port when the first one is submitted."""
        with self._lock:
            if self._afd is None:
                afd = win32.open_afd()
                try:
                    win32.check(self._queue.join(afd))
                    win32.check(kernel32.SetFileCompletionNotificationModes(afd, win32.FILE_SKIP_SET_EVENT_ON_HANDLE))
                except BaseException:  # as where the port is being closed
                    kernel32.CloseHandle(afd)
                    raise
                self._afd = afd
            return self._afd

    # Closing

    def close(self) -> None:
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
        self._take_steps()
        handles = list(self._handles.values())
        for handle in handles:
            self._cancel_all(handle)
        for operation in list(self._detached.values()):
            self._end(operation, cancelled("the port was closed"))
        self._signals.give_all_back()
        self._drop_put()
        self._timers.clear()
        self._pool.close()
        self._lookups.close()
        if self._queue.enter():  # so that no thread that leaves it takes the kernel's port away meanwhile
            try:
                self._reap_cancelled(handles)
            finally:
                self._queue.leave()
        self._queue.close()
        self._handles.clear()
        afd, self._afd = self._afd, None
        if afd is not None:
            surely(kernel32.CloseHandle, afd)

    def _cancel_all(self, handle: IocpHandle) -> None:
        """End what a handle has in flight because the port is closed; the object stays open."""
        with handle.lock:
            for direction in handle.directions.values():
                for operation in direction.waiting:
                    handle.pending.pop(id(operation), None)
                    self._overlapped.pop(operation._native.address, None)
                    self._complete(operation, cancelled("the port was closed"))
                direction.waiting.clear()
            self._deliver_ended(handle)
            for operation in handle.pending.values():
                operation._verdict = operation._verdict or cancelled("the port was closed")
                self._cancel_io(handle, operation)

    def _reap_cancelled(self, handles: list[IocpHandle]) -> None:
        """Fetch the packets of what was cancelled, so that Windows is done with its memory."""
        while self._overlapped:
            found = self._fetch_left(LIMIT_DEFAULT) or list(self._queue.fetch(LIMIT_DEFAULT, REAP_MS))
            self._collect(found)  # of which nobody hears
            if not found and not any(handle.calling for handle in handles):
                break
        while self._overlapped:  # some device, or a thread of the pool, does not let go
            operation = self._overlapped.popitem()[1]
            _limbo.append(operation._native.hold())
            operation._native = Overlapped()  # of the next submission, which a port that is open may get
            handle = operation.handle
            assert isinstance(handle, IocpHandle)
            with handle.lock:
                handle.pending.pop(id(operation), None)
                self._deliver_ended(handle)
            operation._status = IDLE

    def _give_back(self, completion: Completion) -> None:
        self._keep([completion])

    def _operations(self) -> list[Operation]:
        # From there they go to what is put, so that none is missed in this order.
        found = [*self._overlapped.values(), *self._detached.values(), *tuple(self._left), *self._queue.operations()]
        return [each for each in found if isinstance(each, Operation) and not each._is_part]


_limbo: list[Any] = []  # memory that Windows may still write to, of ports that were closed


def _ms(until: float | None, deadline: float | None) -> int:
    """How long the kernel may hold this thread, in milliseconds."""
    ends = [end for end in (until, deadline) if end is not None]
    most = SLICE_MS_MAX if threading.current_thread() is threading.main_thread() else SLEEP_MS_MAX
    if not ends:
        return most if most == SLICE_MS_MAX else win32.INFINITE
    left = (min(ends) - clock.now()) * 1000
    return math.ceil(left) if 0 < left < most else most if left > 0 else 0  # rounded up, never to wake early


def _packet_comes(handle: IocpHandle, overlapped: Overlapped, code: int) -> bool:
    """Whether Windows queues a packet for a call that has returned this code."""
    if code == win32.ERROR_IO_PENDING:
        return True
    if code == 0:
        return not handle.skips_packets
    return bool(overlapped.pointer.Internal >> 30 & 3 == 2)  # noqa: PLR2004 - a status that is but a warning


PORT = IocpPort

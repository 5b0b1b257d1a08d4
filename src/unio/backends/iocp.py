"""The IOCP backend: Windows, whose kernel has completion ports.

Here is the port: what a program asks of it, the waits, and its end. The ways of operations are in windows, which this
may use: of those that name a handle (submissions) and of those without (detached). Of an operation this changes the
status, at the beginning of its flight and as a wait returns it.

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

import math
import threading
from typing import TYPE_CHECKING, Any

from unio.arguments import seconds
from unio.backends.common import clock
from unio.backends.common.base_port import BasePort
from unio.backends.common.file_threads import FilePool
from unio.backends.common.locks import Lock, holds_lock, put_off, refuse_within_lock
from unio.backends.common.lookups import lookup_threads
from unio.backends.kernel import win32
from unio.backends.kernel.win32 import kernel32, last_error
from unio.backends.windows.deadlines import Deadlines
from unio.backends.windows.delivery import Delivery
from unio.backends.windows.detached import Detached
from unio.backends.windows.handle import IocpHandle, Lifecycle
from unio.backends.windows.kernel_queue import KernelQueue, PacketKey, surely
from unio.backends.windows.polls import Device
from unio.backends.windows.submissions import Submissions
from unio.errors import AssociationError, has_left, shown, timed_out
from unio.operation_state import IDLE
from unio.operations import Operation
from unio.port import LIMIT_DEFAULT, Completion, check_limit, port_closed

if TYPE_CHECKING:
    from unio.backends.common.lookups import Undertaking
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

REAP_MS = 250
"""How long a port that is being closed waits for the next packet of what it has cancelled."""


class IocpPort(BasePort):
    """A port over a completion port of Windows'."""

    backend = "iocp"

    def __init__(self, *, backend: str | None = None, concurrency: int = 0) -> None:
        self._queue = KernelQueue(self.concurrency)
        self._pool = FilePool()
        self._lookups = lookup_threads()
        self._device = Device(self._queue)
        self._lock = Lock()
        self._delivery = Delivery(self._queue)
        self._deadlines = Deadlines(self._delivery)
        self._submissions = Submissions(self._delivery)
        self._detached = Detached(self._delivery, self._deadlines)
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
        self._submissions.join(made)
        if self._unusable is not None:  # looked at afterwards: else who closes the port finds the handle there
            raise self._unusable()
        return made

    def _hand_back(self, handle: IocpHandle) -> None:
        """Let a handle go that was detached."""
        handle.make_as_before()
        self._submissions.part(handle)

    def _has_any_of(self, handle: IocpHandle) -> bool:
        """Whether an operation on a handle has ended, and no wait has returned it."""
        return any(each._handle is handle for each in self._delivery.operations())

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
        if not self._link(handle, operation, timeout):
            return False
        try:
            done = self._submissions.start_waiting(
                handle, operation.route, operation if handle.skip_on_success else None
            )
            if timeout is not None and not done:
                self._deadlines.mind()
        except MemoryError:  # it is in flight, and somebody else shall start it
            self._delivery.later(self._submissions.start_waiting, handle, operation.route)
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
                    self._submissions.enter(handle, operation, timeout)
                else:
                    self._submissions.end_late(handle, operation)
            except BaseException:
                if idle:
                    self._submissions.forget(handle, operation)
                raise
            return is_open

    def _submit_begun(self, handle: IocpHandle | None, operation: Operation, timeout: float | None) -> None:
        self._delivery.insist(self._enter_begun, handle, operation, timeout)
        self._delivery.insist(self._deadlines.mind)

    def _enter_begun(self, handle: IocpHandle | None, operation: Operation, timeout: float | None) -> None:
        verdict = None
        if self._unusable is not None or (handle is not None and handle.lifecycle is not Lifecycle.OPEN):
            verdict = has_left()
        if handle is None:
            self._detached.submit_begun(self, operation, timeout, verdict)
        else:
            self._submissions.submit_begun(handle, operation, timeout, verdict)

    # Ending

    def cancel(self, operation: Operation) -> bool:
        if self._unusable is not None:
            raise self._unusable()
        self._handle_of(operation)
        asked = self._cancel(operation, "cancelled by Port.cancel")
        self._detached.give_back(operation)
        return asked

    def _end(self, operation: Operation, verdict: OSError, flight: int | None = None) -> bool:
        if operation._handle is None:
            return self._detached.end(operation, verdict, flight)
        return self._submissions.end(operation, verdict, flight)

    def _undertaken(
        self, operation: Operation, undertaking: Undertaking, error: OSError | None, **results: Any
    ) -> bool:
        return self._detached.undertaken(operation, undertaking, error, results)

    def _close_handle(self, handle: IocpHandle) -> None:
        try:
            self._submissions.close_handle(handle, here=True)
        except MemoryError:
            self._delivery.later(self._submissions.close_handle, handle)
            raise

    # Waiting

    def post(self, key: Any, operation: Any = None, transferred: int = 0) -> None:
        if self._unusable is not None:
            raise self._unusable()
        self._delivery.put(Completion(key, operation, transferred, None))

    def wait(self, timeout: float | None = None, limit: int = LIMIT_DEFAULT) -> list[Completion]:
        refuse_within_lock()
        limit = check_limit(limit)
        until = None if timeout is None else clock.now() + seconds(timeout, "the time-out")
        batch: list[Completion] = []
        try:
            try:
                batch = self._wait(until, limit)
            finally:
                surely(self._deadlines.hand_over)
        except BaseException:
            self._delivery.keep(batch)
            raise
        return batch

    def _wait(self, until: float | None, limit: int) -> list[Completion]:
        while True:
            if self._unusable is not None:
                raise self._unusable()
            self._delivery.take_steps()
            self._expire()
            late = until is not None and clock.now() >= until
            found = self._delivery.fetch_left(limit) if self._delivery.has_left else self._fetch(limit, until)
            batch = self._collect(found)
            if batch or (late and not found):
                return batch

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
            self._delivery.keep([*batch, *found[at:]])
            raise
        return batch

    def _expire(self) -> None:
        """Act on the deadlines that have passed. What has ended by them is queued, behind what had come before."""
        for what, times_out, flight in self._delivery.timers.expired():
            if times_out:
                self._end(what, timed_out(), flight)
            else:
                self._detached.end(what, None, flight)

    def _fetch(self, limit: int, until: float | None) -> list[Any]:
        """Sleep in the kernel's queue until packets come, *until*, or the next deadline."""
        if not self._queue.enter():
            return []
        found: list[Any] = []
        mine: float | None = None
        try:
            try:
                mine = self._deadlines.take()
                found = self._queue.fetch(limit, _ms(until, mine))
            finally:
                if mine is not None:
                    surely(self._deadlines.leave, mine)
        except BaseException:
            self._delivery.keep(found)
            raise
        finally:
            self._queue.leave()
        return found

    def _packet(self, key: int, number: int, status: int, count: int) -> Operation | Completion | None:
        """Act on a packet. Returns what a wait is to return for it."""
        if key == PacketKey.WAKE:
            return None
        if key == PacketKey.SIGNAL:
            self._detached.complete_signals()
            return None
        if key == PacketKey.KEPT:
            return self._queue.kept(number)
        operation = self._submissions.in_flight.at(number)
        if operation is None:
            return self._detached.process_ended(number) if key == PacketKey.IO else None
        if key == PacketKey.FAILED:
            return self._submissions.reaped(operation, count, 0)
        told = operation._native.pointer.Internal & 0xFFFFFFFF
        if told != win32.STATUS_PENDING:  # seen under Wine, where the thread ended that had submitted it
            status = told
        return self._submissions.reaped(operation, win32.status_error(status & 0xFFFFFFFF), count)

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

    # Closing

    def close(self) -> None:
        if holds_lock():
            put_off(self.close)
            return
        with self._lock:
            if self._unusable is not None:
                return
            self._unusable = port_closed
            self._delivery.closed = True
        try:
            self._end_everything()
        except BaseException:  # there was no memory, or a signal came: nothing is to stay in flight
            self._end_everything()
            raise
        finally:
            self._close_tasks()

    def _end_everything(self) -> None:
        """Close what a port consists of, as far as that has not been done yet."""
        self._delivery.take_steps()
        handles = self._submissions.handles()
        for handle in handles:
            self._submissions.cancel_all(handle)
        self._detached.end_all()
        self._delivery.drop()
        self._delivery.timers.clear()
        self._pool.close()
        self._lookups.close()
        if self._queue.enter():  # so that no thread that leaves it takes the kernel's port away meanwhile
            try:
                self._reap_cancelled(handles)
            finally:
                self._queue.leave()
        self._queue.close()
        self._submissions.give_up()
        self._device.close()

    def _reap_cancelled(self, handles: list[IocpHandle]) -> None:
        """Fetch the packets of what was cancelled, so that Windows is done with its memory."""
        while self._submissions.in_flight:
            found = self._delivery.fetch_left(LIMIT_DEFAULT) or list(self._queue.fetch(LIMIT_DEFAULT, REAP_MS))
            self._collect(found)  # of which nobody hears
            if not found and not any(handle.calling for handle in handles):
                break

    def _give_back(self, completion: Completion) -> None:
        self._delivery.keep([completion])

    def _operations(self) -> list[Operation]:
        # From the first two they go to the third, so that none is missed in this order.
        found = [*self._submissions.in_flight.operations(), *self._detached.operations(), *self._delivery.operations()]
        return [each for each in found if not each._is_part]


def _ms(until: float | None, deadline: float | None) -> int:
    """How long the kernel may hold this thread, in milliseconds."""
    ends = [end for end in (until, deadline) if end is not None]
    most = SLICE_MS_MAX if threading.current_thread() is threading.main_thread() else SLEEP_MS_MAX
    if not ends:
        return most if most == SLICE_MS_MAX else win32.INFINITE
    left = (min(ends) - clock.now()) * 1000
    return math.ceil(left) if 0 < left < most else most if left > 0 else 0  # rounded up, never to wake early


PORT = IocpPort

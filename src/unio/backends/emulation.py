"""Completion over readiness: what the backends for epoll and kqueue have in common.

The kernel says when a descriptor *may* be ready; a program wants to hear that its operation *is* done. In between:

- A descriptor is registered once, when it joins the port, for both directions and edge-triggered. Submitting and
  completing make no further call about it.
- Each direction of a handle is a :class:`Lane`: operations in the order of their submission. Whoever finds a lane
  worth trying (a submit on a lane that may be ready, or the leading thread after an event) becomes its owner, tries
  its operations from the first on until one would block, and queues those that ended. There is one owner at a time,
  which is what keeps sends whole and receives in order, and the handle's lock is held only to pass ownership and to
  link and unlink operations, never over a system call.
- Events are hints. An event sets the lane's ``ready``; the owner clears it before each try, so that an event which
  comes in the middle of one leads to another. A stale or doubled event costs one try that would block and can't do
  harm, also when the number has been reused since.

Files have no readiness; their operations are called on a pool of threads. Timers and time-outs live in a heap that
the leading thread looks at. Deeper layers: the packets and the waiting threads (queue), single tries (attempts).

A backend adds how descriptors are registered and events are fetched, how the leader is interrupted, and how a process
is watched: the abstract methods of :class:`EmulatedPort`.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from unio.backends.attempts import ATTEMPTS, Outcome, RetryLater, as_oserror, found_ready
from unio.backends.lanes import EmulatedHandle, Lane, Life, number_of, stands_for
from unio.backends.pool import FilePool
from unio.backends.queue import CompletionQueue
from unio.errors import AssociationError, NotAssociated, cancelled, timed_out
from unio.handle import HasFileno, Kind
from unio.operations import Operation, Poll, ProcessExit, Readiness, Status, Timer, seconds
from unio.port import LIMIT_DEFAULT, Completion, Port, check_limit, port_closed

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.backends.timers import Deadline

IDLE = Status.IDLE
PENDING = Status.PENDING

ATTEMPTS_MAX = 16
"""How often an owner tries one lane before it lets the others have their turn."""

TAKES_MAX = 256
"""How many packets may be taken out of the queue before the kernel is asked again, though the queue is not empty."""

PAUSE_SECONDS = 0.1
"""How long a lane rests after the system lacked descriptors or memory, unless an event comes first."""

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

SWEEP_SECONDS = 0.05
"""How soon an otherwise idle wait looks for handles that were closed behind the port's back."""

SWEEP_SHARE = 50
"""Sweeps of a port with many handles take at most one part in this many of the time."""

SWEEP_FREELY = 64
"""Up to so many handles a sweep is too cheap to be rationed."""


SLEEP_SECONDS_MAX = 86400.0
"""The longest single sleep in the kernel; a longer time-out takes several. No kernel here takes every float."""


# A handle joins one port, once. Windows' kernel keeps that book for its own handles; here this does, for all ports of
# the process: by number, the object that was associated, as long as it lives, and its handle.
_joined: dict[int, tuple[Callable[[], Any], weakref.ref[EmulatedHandle]]] = {}
_joined_lock = threading.Lock()


def _after_fork_in_child() -> None:
    global _joined_lock  # noqa: PLW0603 - the parent's may be held by a thread that the child does not have
    _joined_lock = threading.Lock()
    _joined.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _book(made: EmulatedHandle) -> EmulatedHandle | None:
    """Note that a handle joins a port, and return the one whose number it has inherited, if that is still known.

    Raises :class:`unio.AssociationError` if what it stands for has joined a port already.
    """
    given = made.object
    with _joined_lock:
        reference, handle_reference = _joined.get(made.number, (lambda: None, lambda: None))
        previous, known = handle_reference(), reference()
        if previous.is_open() if previous is not None else known is not None and stands_for(known, made.number):
            raise AssociationError(
                f"{given!r} has joined a port already; a handle does so once, even if that port is closed"
            )
        weak = type(given).__weakrefoffset__ != 0
        _joined[made.number] = (weakref.ref(given) if weak else lambda: None, weakref.ref(made))
    return previous


def _strike(handle: EmulatedHandle) -> None:
    """Let the number of a closed handle be associated again."""
    with _joined_lock:
        _, reference = _joined.get(handle.number, (None, lambda: None))
        if reference() is handle:
            del _joined[handle.number]


class EmulatedPort(Port, ABC):
    """A port on a kernel that tells readiness. Subclasses add the kernel."""

    tells_urgent: ClassVar[bool] = True
    """Whether an event tells that urgent data have come, after which a short receive doesn't show an empty socket."""

    def __init__(self, *, backend: str | None = None) -> None:
        self._queue = CompletionQueue(self._make_interrupt())
        self._pool = FilePool()
        self._lock = threading.Lock()
        self._table: dict[int, EmulatedHandle] = {}
        self._detached: set[Operation] = set()  # in flight without a handle: timers and process exits
        self._backlog: deque[tuple[EmulatedHandle, Lane]] = deque()  # lanes that used up their tries
        self._takes = 0
        self._next_sweep = 0.0
        super().__init__(backend=backend)

    # What a backend adds

    @abstractmethod
    def _make_interrupt(self) -> Callable[[], None]:
        """Make what wakes a thread in :meth:`_harvest`, and return the callable that does it."""

    @abstractmethod
    def _register(self, handle: EmulatedHandle) -> None:
        """Have events of a handle's descriptor reported, both directions, edge-triggered."""

    @abstractmethod
    def _unregister(self, number: int) -> None:
        """End that; the descriptor is still open. Raises nothing."""

    @abstractmethod
    def _harvest(self, timeout: float | None) -> bool:
        """Wait up to *timeout* seconds for events and pass each to :meth:`_notice`. Returns whether there were any."""

    @abstractmethod
    def _watch_process(self, operation: ProcessExit) -> None:
        """Have :meth:`_end_detached` called when the process ends, or raise OSError.

        What :meth:`_unwatch_process` needs to end that goes into ``operation._native``. Both are called with the port's
        lock held, so that a cancel can't come in between; they don't block.
        """

    @abstractmethod
    def _unwatch_process(self, operation: ProcessExit) -> None:
        """End it."""

    @abstractmethod
    def _close_kernel(self) -> None:
        """Close the backend's own descriptors; no thread uses them any more."""

    # Association

    def associate(self, handle: HasFileno | int, key: Any = None, *, skip_on_success: bool = False) -> EmulatedHandle:
        if self._unusable is not None:
            raise self._unusable
        number = number_of(handle)
        made = EmulatedHandle(self, handle, number, key, skip_on_success=skip_on_success)
        previous = _book(made)
        if previous is not None:
            previous.leave(Life.CLOSING)
        try:
            self._join(made)
        except BaseException:
            self._forget(made, is_open=True)
            made.leave(Life.ORPHANED)
            if self._unusable is not None:  # it was closed in the middle of this
                raise self._unusable from None
            raise
        return made

    def _join(self, handle: EmulatedHandle) -> None:
        number = handle.number
        if handle.kind is Kind.FILE:
            # File operations run later, on another thread: a descriptor of the port's own stands for the file even
            # if the program closes its own meanwhile and the number becomes another file's.
            handle.private = os.dup(number)
        elif handle.socket is not None:
            handle.socket.setblocking(False)
        else:
            os.set_blocking(number, False)
        with self._lock:
            if self._unusable is not None:
                raise self._unusable
            self._table[number] = handle
        if handle.kind is not Kind.FILE:
            self._register(handle)

    def _forget(self, handle: EmulatedHandle, *, is_open: bool) -> None:
        """Have no more events of a handle, and let its number be associated again."""
        with self._lock:
            if self._table.get(handle.number) is handle:
                del self._table[handle.number]
                registered = is_open and handle.kind is not Kind.FILE
            else:
                registered = False
        if registered:
            self._unregister(handle.number)
        _strike(handle)

    # Submitting

    def submit(self, operation: Operation, timeout: float | None = None) -> bool:
        if self._unusable is not None:
            raise self._unusable
        if timeout is not None:
            seconds(timeout, "the time-out")
        handle = self._handle_of(operation)
        if handle is None:
            self._submit_detached(operation, timeout)
            return False
        lane = handle.lane(operation)
        run = self._link(handle, lane, operation, timeout)
        done_at_once = False
        if lane is handle.files:
            self._pool.put(partial(_do_on_pool, handle, operation, operation._sequence))
        elif run and lane is handle.readiness:
            self._run_readiness(handle)
        elif run:
            done_at_once = self._run(handle, lane, operation if handle.skip_on_success else None)
        if timeout is not None:
            self._queue.wake_leader()  # it may sleep past the new deadline
        return done_at_once

    def _link(self, handle: EmulatedHandle, lane: Lane, operation: Operation, timeout: float | None) -> bool:
        """Put an operation into its lane. Returns whether this thread has become the lane's owner."""
        with handle.lock:
            operation._begin()
            if handle.life is not Life.OPEN:
                operation._status = IDLE
                raise self._unusable or NotAssociated(f"{handle!r} is closed")
            handle.sequence = operation._sequence = handle.sequence + 1
            lane.append(operation)
            if timeout is not None:
                operation._expiry = self._queue.timers.add(timeout, (operation, True))
            if lane is handle.readiness:
                lane.ready = True  # a poll does not depend on those ahead of it
            return lane is not handle.files and handle.own(lane)

    def _handle_of(self, operation: Operation) -> EmulatedHandle | None:
        """The handle of an operation that was given to a method; None for one that has none."""
        if not isinstance(operation, Operation):
            raise TypeError(f"an operation is needed here, not {type(operation).__name__}")
        handle = operation.handle
        if handle is None or (isinstance(handle, EmulatedHandle) and handle.port() is self):
            return handle
        raise NotAssociated(f"{handle!r} belongs to another port")

    def _submit_detached(self, operation: Operation, timeout: float | None) -> None:
        with self._lock:
            if self._unusable is not None:  # it was closed meanwhile, and nobody would end the operation any more
                raise self._unusable
            operation._begin()
            self._detached.add(operation)
            if isinstance(operation, Timer):
                times_out = timeout is not None and timeout < operation.delay
                delay = timeout if timeout is not None and times_out else operation.delay
                operation._expiry = self._queue.timers.add(delay, (operation, times_out))
            elif timeout is not None:
                operation._expiry = self._queue.timers.add(timeout, (operation, True))
            if isinstance(operation, ProcessExit):
                self._start_watch(operation)
        self._queue.wake_leader()
        if self._queue.packets:
            self._queue.wake()

    def _start_watch(self, operation: ProcessExit) -> None:
        """Have a process watched, or end the operation if that can't be; the caller holds the port's lock."""
        try:
            if not self._know_status(operation):
                self._watch_process(operation)
                return
            error = None
        except OverflowError:  # a number that no process can have
            error = OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        except OSError as failure:
            error = failure
        self._end_detached(operation, error)

    def _know_status(self, operation: ProcessExit) -> bool:
        """Whether the process object has been told the exit status already; its number may be another's by now."""
        operation.status = getattr(operation.process, "returncode", None)
        return operation.status is not None

    def _end_process(self, operation: ProcessExit, status: int | None, error: OSError | None) -> None:
        """Complete the exit of a process; the caller holds the port's lock, and wakes a thread afterwards."""
        operation.status = status
        if error is not None and self._know_status(operation):
            error = None
        self._end_detached(operation, error)

    def _end_detached(self, operation: Operation, error: OSError | None) -> None:
        """Complete an operation without a handle; the caller holds the port's lock, and wakes a thread afterwards."""
        self._detached.discard(operation)
        if operation._native is not None:
            assert isinstance(operation, ProcessExit)
            self._unwatch_process(operation)
        self._queue.complete(operation, error)

    def _detached_ended(self, operation: Operation, error: OSError | None, expiry: Deadline | None = None) -> bool:
        """Complete an operation without a handle, unless that was done already (or *expiry* was of another flight)."""
        with self._lock:
            if operation not in self._detached or (expiry is not None and operation._expiry is not expiry):
                return False
            self._end_detached(operation, error)
        self._queue.wake()
        return True

    # Trying

    def _notice(self, handle: EmulatedHandle, *, readable: bool, writable: bool, ended: bool = False) -> None:
        """Act on an event: these directions may be ready."""
        if ended:
            handle.ended = True
        if readable:
            self._resume(handle, handle.incoming)
        if writable:
            self._resume(handle, handle.outgoing)
        self._resume(handle, handle.readiness)

    def _resume(self, handle: EmulatedHandle, lane: Lane) -> None:
        """Try a lane again: after an event, or when it had used up its tries or was to rest for a while."""
        # Without the lock: a submit that links an operation from here on sees that the lane is ready.
        lane.ready = True
        if lane.first is None:
            return
        with handle.lock:
            run = handle.own(lane)
        if run and lane is handle.readiness:
            self._run_readiness(handle)
        elif run:
            self._run(handle, lane)

    def _run(self, handle: EmulatedHandle, lane: Lane, skipping: Operation | None = None) -> bool:
        """Try the lane's operations in order until one would block. The caller has made this thread the owner.

        Returns whether *skipping* has succeeded, in which case it was not queued.
        """
        skipped = go_on = False
        owned = True
        rest = 0.0
        try:
            for left in reversed(range(ATTEMPTS_MAX)):
                operation = lane.first
                assert operation is not None  # only the owner takes out the first one, and it stops after the last
                lane.ready = False
                outcome, error, rest = self._try(handle, operation)
                with handle.lock:
                    skipped = self._settle(lane, operation, outcome, error, skipping) or skipped
                    lane.resting = rest > 0 and outcome is Outcome.BLOCKED
                    go_on = lane.ready and lane.first is not None and not lane.resting and handle.life is Life.OPEN
                    if not go_on or not left:
                        handle.disown(lane)
                        owned = False
                        break
        except BaseException:  # KeyboardInterrupt, say: somebody else shall go on
            if owned:
                with handle.lock:
                    handle.disown(lane)
            go_on = True
            raise
        finally:
            if go_on:
                self._backlog.append((handle, lane))
            if rest:
                self._queue.timers.add(rest, (handle, lane))
            if go_on or rest:
                self._queue.wake_leader()
            self._after_run(handle)
        return skipped

    def _settle(
        self, lane: Lane, operation: Operation, outcome: Outcome, error: OSError | None, skipping: Operation | None
    ) -> bool:
        """Act on the outcome of a try; the caller holds the handle's lock. Returns whether *skipping* was skipped."""
        if outcome >= Outcome.PROGRESS and operation._verdict is not None:
            outcome, error = Outcome.DONE, operation._verdict
        if outcome in (Outcome.DONE, Outcome.PROGRESS):
            lane.ready = True
        if outcome > Outcome.DRAINED:
            return False
        lane.remove(operation)
        if operation is skipping and error is None:
            self._queue.forget(operation)
            return True
        self._queue.complete(operation, error)
        return False

    def _try(self, handle: EmulatedHandle, operation: Operation) -> tuple[Outcome, OSError | None, float]:
        """Try an operation once: how it went, its error, and how many seconds the lane rests unless an event comes."""
        try:
            return ATTEMPTS[operation.name](handle, operation), None, 0.0
        except BlockingIOError:
            return Outcome.BLOCKED, None, 0.0
        except RetryLater as later:
            return Outcome.BLOCKED, None, later.delay
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the operation ends once
            failure = as_oserror(error)
            if failure.errno == errno.EBADF and not handle.is_open():
                handle.leave(Life.CLOSING)  # which ends this one in its turn, once this thread has given the lane up
                return Outcome.BLOCKED, None, 0.0
            # The caller hears of exhaustion, and the operations behind this one rest: one that is submitted again at
            # once would fail at once, for as long as the descriptors or the memory are lacking.
            if failure.errno in EXHAUSTED:
                return Outcome.DRAINED, failure, PAUSE_SECONDS
            return Outcome.DONE, failure, 0.0

    def _run_readiness(self, handle: EmulatedHandle) -> None:
        """Complete the polls of the handle that are satisfied. The caller has made this thread the owner."""
        lane = handle.readiness
        owned = True
        try:
            while owned:
                lane.ready = False
                with handle.lock:
                    polls = [(poll, poll._sequence) for poll in lane if isinstance(poll, Poll)]
                found = self._find_ready(handle, polls)
                with handle.lock:
                    for poll, sequence, readiness in found:
                        if poll._status is PENDING and poll._sequence == sequence:  # it was not cancelled meanwhile
                            poll.found = readiness
                            lane.remove(poll)
                            self._queue.complete(poll, None)
                    if handle.life is not Life.OPEN or not lane.ready or lane.first is None:
                        handle.disown(lane)
                        owned = False
        finally:
            if owned:  # KeyboardInterrupt, say: somebody else shall go on
                with handle.lock:
                    handle.disown(lane)
                self._backlog.append((handle, lane))
            self._after_run(handle)

    def _find_ready(self, handle: EmulatedHandle, polls: list[tuple[Poll, int]]) -> list[tuple[Poll, int, Readiness]]:
        """The polls that are satisfied, each with what was found."""
        found = []
        try:
            for poll, sequence in polls:
                if readiness := found_ready(handle, poll.readiness):
                    found.append((poll, sequence, readiness))
        except OSError:
            handle.leave(Life.CLOSING)  # the object was closed; that ends the polls, once this thread has left
        return found

    def _after_run(self, handle: EmulatedHandle) -> None:
        if handle.life is not Life.OPEN:
            handle.release()
        if self._queue.packets:
            self._queue.wake()

    # Ending

    def cancel(self, operation: Operation) -> bool:
        if self._unusable is not None:
            raise self._unusable
        self._handle_of(operation)
        return self._end(operation, cancelled("cancelled by Port.cancel"))

    def _end(self, operation: Operation, verdict: OSError, expiry: Deadline | None = None) -> bool:
        """End an operation with *verdict* unless its own result wins. Returns whether it was in flight.

        With *expiry*, only the flight that this deadline belongs to: by now the operation may be on another one.
        """
        handle = operation.handle
        if handle is None:
            return self._detached_ended(operation, verdict, expiry)
        assert isinstance(handle, EmulatedHandle)
        lane = handle.lane(operation)
        run = False
        with handle.lock:
            if operation._status is not PENDING or (expiry is not None and operation._expiry is not expiry):
                return False
            if self._is_being_tried(lane, operation, handle):
                operation._verdict = operation._verdict or verdict
                return True
            first = lane.first is operation
            lane.remove(operation)
            self._queue.complete(operation, verdict)
            # What blocked the first need not block the one behind it, for instance a datagram to another receiver.
            if first and lane in (handle.incoming, handle.outgoing):
                lane.ready = True
                lane.resting = False
                run = handle.own(lane)
        if run:
            self._run(handle, lane)
        self._queue.wake()
        return True

    def _is_being_tried(self, lane: Lane, operation: Operation, handle: EmulatedHandle) -> bool:
        if lane is handle.files:
            return operation._native is not None
        return lane.active and lane.first is operation and lane is not handle.readiness

    # Waiting

    def post(self, key: Any, operation: Any = None, transferred: int = 0) -> None:
        if self._unusable is not None:
            raise self._unusable
        self._queue.post(Completion(key, operation, transferred, None))

    def wait(self, timeout: float | None = None, limit: int = LIMIT_DEFAULT) -> list[Completion]:
        check_limit(limit)
        until = None if timeout is None else time.monotonic() + seconds(timeout, "the time-out")
        try:
            return self._wait(until, limit)
        finally:  # also for what a signal handler raises, such as KeyboardInterrupt
            self._queue.pass_on()

    def _wait(self, until: float | None, limit: int) -> list[Completion]:
        queue = self._queue
        while True:
            if self._unusable is not None:
                raise self._unusable
            if self._takes < TAKES_MAX and (batch := queue.take(limit)):
                self._takes += len(batch)
                return batch
            left = None if until is None else until - time.monotonic()
            if not self._lead(left):
                self._follow(left)
            if left is not None and left <= 0 and not queue.packets and self._unusable is None:
                return []

    def _lead(self, timeout: float | None) -> bool:
        """Ask the kernel until there is something to return or the time is over. Returns False if another leads."""
        queue = self._queue
        try:
            del queue.seat[0]
        except IndexError:
            return False
        try:
            if self._unusable is None:
                self._takes = 0
                self._turn(timeout)
        except BaseException:
            # Events may have been fetched and not acted on; they don't come again.
            for handle in list(self._table.values()):
                self._backlog.extend((handle, lane) for lane in (handle.incoming, handle.outgoing, handle.readiness))
            raise
        finally:
            queue.sleeping = False
            queue.seat.append(None)
            if self._unusable is not None:
                self._close_kernel_once()
        return True

    def _follow(self, timeout: float | None) -> None:
        """Sleep while another thread leads, unless there is something to return."""
        if self._queue.packets:
            self._takes = 0  # the leader asks the kernel often enough
        elif timeout is None or timeout > 0:
            self._sweep(idle=True)
            self._queue.park(timeout)

    def _turn(self, timeout: float | None) -> None:
        """Wait for events for up to *timeout* seconds and act on them; then on deadlines; then on leftovers."""
        queue = self._queue
        until = None if timeout is None else time.monotonic() + timeout
        swept = False
        while True:
            happened = self._turn_once(until, swept=swept)
            if queue.packets or self._unusable is not None:
                return
            if until is not None and time.monotonic() >= until:
                self._sweep(idle=True)
                return
            if not happened:
                swept = self._sweep(idle=True) or swept

    def _turn_once(self, until: float | None, *, swept: bool) -> bool:
        """One call to the kernel and what follows from it. Returns whether anything happened."""
        queue = self._queue
        queue.sleeping = True  # from here on whoever queues a packet interrupts; so look at the queue after this
        timeout = self._sleep_time(until, swept=swept)
        if queue.packets or self._backlog or self._unusable is not None:
            timeout = 0
        happened = self._harvest(timeout)
        queue.sleeping = False
        for deadline, (what, detail) in queue.timers.expired():
            self._expire(deadline, what, detail)
            happened = True
        for _ in range(len(self._backlog)):
            self._resume(*self._backlog.popleft())
        if happened and time.monotonic() >= self._next_sweep:
            self._sweep(idle=False)
        return happened

    def _sleep_time(self, until: float | None, *, swept: bool) -> float | None:
        """How long the kernel may hold the leader: to the caller's time-out, the next deadline or the next sweep."""
        ends = [end for end in (until, self._queue.timers.next_time()) if end is not None]
        left = max(0.0, min(ends) - time.monotonic()) if ends else None
        if not swept and self._table:
            return SWEEP_SECONDS if left is None else min(left, SWEEP_SECONDS)
        return None if left is None else min(left, SLEEP_SECONDS_MAX)

    def _expire(self, deadline: Deadline, what: EmulatedHandle | Operation, detail: Any) -> None:
        """Act on a deadline that has passed: a lane of a handle has rested, an operation times out, or a timer ends."""
        if isinstance(what, EmulatedHandle):
            detail.resting = False
            self._resume(what, detail)
        elif detail:
            self._end(what, timed_out(), deadline)
        else:
            self._detached_ended(what, None, deadline)

    def _sweep(self, *, idle: bool) -> bool:
        """Find handles whose object was closed behind the port's back, and end their operations.

        The kernel tells nobody of a close, so one has to look; rarely enough that it does not count.
        """
        now = time.monotonic()
        if now < self._next_sweep and not (idle and len(self._table) <= SWEEP_FREELY):
            return False
        for handle in list(self._table.values()):
            if not handle.is_open():
                handle.leave(Life.CLOSING)
        after = time.monotonic()
        self._next_sweep = after + max(SWEEP_SECONDS, SWEEP_SHARE * (after - now))
        return True

    # Closing

    def close(self) -> None:
        if self._forked:
            self._close_kernel()  # this process's copies of the descriptors; no lock of the parent's is touched
            return
        with self._lock:
            if self._unusable is not None:
                return
            self._unusable = port_closed()
        self._queue.close()
        for handle in list(self._table.values()):
            handle.leave(Life.ORPHANED)
        self._table.clear()
        for operation in list(self._detached):
            self._end(operation, cancelled("the port was closed"))
        self._queue.timers.clear()
        self._pool.close()
        self._close_kernel_once()

    def _close_kernel_once(self) -> None:
        """Close the kernel's side, unless another thread is in there: that one does it when it comes out."""
        try:
            del self._queue.seat[0]
        except IndexError:
            return
        self._close_kernel()

    def _in_flight(self) -> int:
        # An operation goes from its handle to the queue, so in this order none is missed.
        count = 0
        for handle in list(self._table.values()):
            with handle.lock:
                count += len(handle.in_flight())
        count += len(self._detached)
        return count + sum([isinstance(packet, Operation) for packet in self._queue.packets.copy()])


def _do_on_pool(handle: EmulatedHandle, operation: Operation, sequence: int) -> None:
    """A job of the pool: do a file operation, unless it was cancelled before a thread was free for it."""
    with handle.lock:
        current = operation._status is PENDING and operation._sequence == sequence
        if not current or handle.life is not Life.OPEN:
            return
        operation._native = "running"
        handle.running += 1
    error = None
    try:
        ATTEMPTS[operation.name](handle, operation)
    except Exception as failure:  # noqa: BLE001 - whatever went wrong, the operation ends once
        error = as_oserror(failure)
    with handle.lock:
        handle.files.remove(operation)
        handle.queue.complete(operation, error)
        handle.running -= 1
    if handle.life is not Life.OPEN:
        handle.release()
    handle.queue.wake()

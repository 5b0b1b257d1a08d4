"""The io_uring backend: Linux, whose kernel does operations by itself and has a queue of results.

Here is what only io_uring does; the port and its queue are in engine, which this may use, and the ring itself is C.

What io_uring(7) is, what that means here, and what was chosen:

- A request is done in the kernel, and its result comes through a ring that memory is shared for; one call hands over
  any number of requests and waits for results. The results are still put into the port's own queue: the ring knows
  nothing of keys, of posts, of who waits and how many threads may run.
- Requests on one descriptor are not ordered among each other. So of each direction only the first operation is with the
  kernel, which then owns the direction, and its result starts the next one. Polls and the operations of files have no
  order and all go at once.
- A request looks its descriptor up when the kernel takes it, and from then on keeps the file open, whatever closes the
  descriptor. So a handle is closed only after its requests have ended, and one that was closed behind the port's back
  is found by looking; a request is revoked by its own number, never by a descriptor.
- Until the kernel takes it, a request is a number in memory, which may be another file's once the program has closed
  that descriptor. So one on a socket object names the object, and gets its number in the call that hands it over (see
  ring.c); one that can only name a number is handed over by the very function that has checked it. And nothing is left
  lying when control goes back to the program.
- To revoke is to ask. The operation ends when its request does: as revoked, or with the result that won, which may be a
  socket that was accepted.
- The kernel writes to a buffer until the request's result is there. The ring itself (ring_type.c) holds the buffers
  for so long, whatever becomes of the operation, and a port that is closed lets its ring go when nothing is in flight.
- What is left to do for a request when its event comes is done by the thread that submitted it, on its next way into
  the kernel. If that thread has ended, the request ends as revoked though nobody asked, and is started again.
- A thread is woken out of the ring by an entry that does nothing: unlike an eventfd, it needs no request that waits,
  nor any thread but the one that wakes.
- A process that ends is noticed by a poll of its pidfd. The ring can wait for a process (IORING_OP_WAITID), but only
  for a child, while the exit of others is to be told as well; so that would be a second way, for newer kernels.
"""

from __future__ import annotations

import errno
import math
import select
import time
from typing import TYPE_CHECKING, Any, cast

from unio.backends.common.accelerator import FastPort, has_fast_path
from unio.backends.common.file_threads import start_thread
from unio.backends.engine.attempts import ATTEMPTS_MAX, Outcome, attempt, judged, readiness_of
from unio.backends.engine.handle import EngineHandle, Lifecycle
from unio.backends.engine.ring_requests import NOTHING, POLLRDHUP, Request, Result, finish, poll, start, target
from unio.backends.engine.ring_watches import WatchingPort
from unio.backends.kernel.ring import open_ring
from unio.operation_state import PENDING
from unio.operations import Route

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.backends.engine.attempts import Judgement
    from unio.backends.engine.handle import Direction
    from unio.backends.engine.ring_requests import Target
    from unio.operations import Operation, Poll

LASTING = POLLRDHUP | select.POLLERR | select.POLLHUP
"""What a poll tells at once when it begins, asked for or not, and what need not keep an attempt from blocking."""

DRAIN_SECONDS = 0.2
"""How long closing waits for what the kernel is just doing to files; what takes longer is waited for elsewhere."""

DRAIN_STEP_SECONDS = 0.01
"""How soon it looks again for those that were submitted meanwhile."""


def unavailable() -> str | None:
    """Why this backend can't run here, or None."""
    try:
        open_ring().close()
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):  # those pass
            return error.strerror
    return None


class IoUringPort(FastPort, WatchingPort):
    """A port over one io_uring."""

    backend = "io_uring"
    tells_urgent = False
    is_fast = has_fast_path

    def _make_interrupt(self) -> Callable[[], None]:
        self._ring = open_ring()
        return self._ring.interrupt

    def __init__(self, *, backend: str | None = None, concurrency: int = 0) -> None:
        # What has become of the first of a direction, where there was no memory to act on it. Nobody else can own that
        # direction until the leader goes on with it: the first would be done again.
        self._unsettled: dict[Direction, Judgement] = {}
        super().__init__(backend=backend, concurrency=concurrency)
        self._gather(self._ring)
        self._poll_signals()

    def _register(self, handle: EngineHandle) -> None:
        """Nothing: the ring takes any descriptor at any time."""

    def _unregister(self, number: int) -> None:
        """Nothing."""

    # Starting

    def _start(self, handle: EngineHandle, direction: Direction, operation: Operation, *, owned: bool) -> bool:
        skipping = operation if handle.skip_on_success else None
        # whoever owns a direction does nothing that takes memory first
        if direction is handle.files or direction is handle.readiness:
            self._start_alone(handle, operation, direction if owned else None)
        elif owned and self._go_on(handle, direction, None, skipping):
            self._ring.submit()  # what another thread has put behind it
            return True
        return self._submit(skipping)

    def _run(self, handle: EngineHandle, direction: Direction) -> None:
        if direction is handle.files or direction is handle.readiness:
            direction.active = False  # first, as the rest may lack memory
            try:
                for operation in self._give_up(handle, direction):
                    self._start_alone(handle, operation)
            except BaseException:  # somebody else shall go on
                self._backlog.append((handle, direction))
                self._queue.wake_leader()
                raise
        else:
            self._go_on(handle, direction, None)

    def _run_on(self, handle: EngineHandle, direction: Direction, result: int, detail: Any = None) -> None:
        """Go on where the fast path has requested the first operation: *result* is what came of that."""
        assert direction.first is not None  # it has a result
        try:
            became = self._judge(handle, direction.first, Result(NOTHING, result, detail))
        except MemoryError:  # there may be some by now
            became = self._judge(handle, direction.first, Result(NOTHING, result, detail))
        self._go_on(handle, direction, became)

    def _submit(self, skipping: Operation | None) -> bool:
        """Let the kernel start what it was given. Returns whether *skipping* has succeeded already."""
        self._ring.submit()
        skipped = False
        for _ in range(ATTEMPTS_MAX):
            if not self._ring.take():  # of what has ended already, so that what is behind it can start
                break
            skipped = self._act_on_results(skipping) or skipped
        return skipped

    def _harvest(self, timeout: float | None) -> bool:
        if self.is_fast:
            return self._harvest_fast(-1 if timeout is None else math.ceil(timeout * 1000))
        return self._reap(timeout)

    if not has_fast_path:  # or else it is C's, which a call through here would make three times as dear

        def _start_all(self) -> None:
            self._submit(None)

    def _reap(self, timeout: float | None) -> bool:
        """What the part in C does as well, which is not used any more when the port is closed."""
        happened = self._ring.wait(timeout) > 0
        self._queue.sleeping = False  # what comes of it, this thread sees without being interrupted
        self._act_on_results()
        return happened

    def _act_on_results(self, skipping: Operation | None = None) -> bool:
        """Act on all results that were taken out of the ring. Returns whether *skipping* has succeeded."""
        skipped = False
        for request, name, number, detail in self._ring:
            try:
                skipped = self._act_on(request, name, number, detail, skipping) or skipped
            except (
                MemoryError
            ):  # nothing has been done yet, or what was done isn't done again: there may be some by now
                skipped = self._act_on(request, name, number, detail, skipping) or skipped
                whose = detail[0] if request is None else request.whose
                if isinstance(whose, EngineHandle):  # what was to follow may have been broken off
                    self._backlog.append((whose, detail[1] if request is None else whose.direction(request.operation)))
                    self._queue.wake_leader()
        self._ring.submit()  # what has become the first of its direction
        return skipped

    def _act_on(self, request: Request | None, name: int, number: int, detail: Any, skipping: Operation | None) -> bool:
        if request is None:  # it is the fast path's
            handle, direction, more = detail
            if direction is handle.readiness:
                self._take_over_poll(handle, more, Result(name, number, detail=False))
                return False
            with handle.lock:  # as in _take_over_first
                acted_on = direction.request != name
            if not acted_on:
                self._run_on(handle, direction, number, more)
            return False
        return request.take_over(self, request.whose, request.operation, Result(name, number, detail), skipping)

    # The operations of a direction, one after the other

    def _go_on(  # noqa: C901 - one loop, and what is to be kept wherever it is broken off
        self, handle: EngineHandle, direction: Direction, became: Judgement | None, skipping: Operation | None = None
    ) -> bool:
        """Settle what became of a direction's first operation, if anything, and start what is first then.

        This thread owns the direction; afterwards the kernel does, or nobody. Returns whether *skipping* has succeeded,
        in which case it was not queued.
        """
        skipped = False
        owned = True
        attempts = 0
        unsettled = became  # what is to be kept where this is broken off
        try:
            direction.request = NOTHING  # what became of that one is here
            if became is None and self._unsettled:
                unsettled = became = self._unsettled.pop(direction, None)
            while owned:
                # Nobody asks the object of a handle whose life has ended: that may be the program's code.
                found = self._find_target(handle) if self._takes_on(handle) else None
                with handle.lock:
                    operation = direction.first
                    if became is not None:
                        skipped = self._settle_first(handle, direction, became, skipping) or skipped
                    unsettled = None
                    enough = attempts == ATTEMPTS_MAX or not self._takes_on(handle)
                    if direction.first is None or direction.resting or enough or found is None:
                        handle.disown(direction)
                        break
                    blocked = became is not None and became[0] is Outcome.BLOCKED and direction.first is operation
                    operation = direction.first
                    raised = self._start_first(handle, direction, operation, found, blocked=blocked)
                    owned = not direction.request
                if owned:
                    unsettled = became = self._attempt(handle, operation) if raised is None else judged(handle, raised)
                    attempts += 1
                elif isinstance(found, int):
                    self._ring.submit()  # before the number can be another's
        except BaseException as error:  # KeyboardInterrupt, say: somebody else shall go on
            self._ring.submit()
            if owned and not direction.request:  # to tell that there is a request may be what has found no memory
                self._break_off(handle, direction, unsettled)
            attempts = ATTEMPTS_MAX
            if not isinstance(error, MemoryError):  # of that nobody need hear, as nothing is lost
                raise
        finally:
            if attempts == ATTEMPTS_MAX:
                self._backlog.append((handle, direction))
            if attempts == ATTEMPTS_MAX or direction.resting:
                self._queue.wake_leader()
            self._after_run(handle)
        return skipped

    def _break_off(self, handle: EngineHandle, direction: Direction, unsettled: Judgement | None) -> None:
        """Keep what became of a direction's first operation for the leader; if there is nothing, own it no more."""
        if unsettled is None:
            self._give_up(handle, direction)
            return
        try:
            self._unsettled[direction] = unsettled
        except MemoryError:  # there may be some by now
            self._unsettled[direction] = unsettled

    def _resume(self, handle: EngineHandle, direction: Direction) -> None:
        if direction in self._unsettled:
            self._go_on(handle, direction, None)
        else:
            super()._resume(handle, direction)

    def _settle_first(
        self, handle: EngineHandle, direction: Direction, became: Judgement, skipping: Operation | None
    ) -> bool:
        """Act on what became of a direction's first operation; the caller holds the handle's lock."""
        assert direction.first is not None  # only the owner takes out the first one
        outcome, error, rest = became
        if rest:
            direction.resting = True
            self._queue.timers.add(rest, handle, direction)
        return self._settle(direction, direction.first, outcome, error, skipping)

    def _takes_on(self, handle: EngineHandle) -> bool:
        """Whether the kernel may be given more of a handle: a port that is being closed would revoke it again."""
        return handle.lifecycle == Lifecycle.OPEN and self._unusable is None

    def _find_target(self, handle: EngineHandle) -> Target | Exception:
        """What the next request on a handle names, or what kept it from being found; the caller holds no lock."""
        try:
            return target(handle)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the operation ends once
            return error

    def _start_first(
        self,
        handle: EngineHandle,
        direction: Direction,
        operation: Operation,
        found: Target | Exception,
        *,
        blocked: bool,
    ) -> Exception | None:
        """Prepare the first operation of a direction, or a poll if it would block; the caller holds the lock.

        Returns what kept it from that. If there is nothing of the kind and no request, it is to be attempted.
        """
        if operation._verdict is not None:
            return operation._verdict
        if isinstance(found, Exception):
            return found
        try:
            if blocked:
                events = select.POLLIN if direction is handle.incoming else select.POLLOUT
                request = Request(IoUringPort._take_over_wait, operation, handle)
                direction.request = poll(self._ring, request, handle, found, events)
            else:
                direction.request = self._request_first(handle, direction, operation, found)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the operation ends once
            return error
        return None

    def _request_first(self, handle: EngineHandle, direction: Direction, operation: Operation, found: Target) -> int:
        """Prepare its request: by C where it is plain, which then goes on with those behind it by itself."""
        if handle.is_fast and not handle.skip_on_success and (name := self._request_fast(handle, direction)):
            return name
        request = Request(IoUringPort._take_over_first, operation, handle)
        return start(self._ring, request, handle, found, operation)

    def _attempt(self, handle: EngineHandle, operation: Operation) -> Judgement:
        try:
            return attempt(handle, operation), None, 0.0
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the operation ends once
            return judged(handle, error)

    def _judge(self, handle: EngineHandle, operation: Operation, result: Result) -> Judgement:
        before = operation._transferred
        try:
            try:
                return finish(handle, operation, result.number, result.detail), None, 0.0
            except MemoryError:
                if operation._transferred is not before:
                    raise
            return finish(handle, operation, result.number, result.detail), None, 0.0  # what was moved is to be noted
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the operation ends once
            return judged(handle, error)

    def _take_over_first(
        self, handle: EngineHandle, operation: Operation, result: Result, skipping: Operation | None
    ) -> bool:
        """Act on the result of a direction's first operation."""
        direction = handle.direction(operation)
        with handle.lock:  # who has started it may be about to note the request
            if direction.request != result.name:  # it was acted on, as far as there was memory for that
                return False
        became = self._judge(handle, operation, result)
        return self._go_on(handle, direction, became, skipping)

    def _take_over_wait(
        self, handle: EngineHandle, operation: Operation, result: Result, skipping: Operation | None
    ) -> bool:
        """Act on a poll that a direction's first operation has waited for: a hint, and the next attempt tells."""
        direction = handle.direction(operation)
        became: Judgement | None = (Outcome.PROGRESS, None, 0.0)
        with handle.lock:
            if _goes_on(result):
                return False
            direction.ready = True  # so that a thread at an attempt just now looks again
            if direction.request != result.name:
                return False
            direction.request = NOTHING  # this thread has the direction now
        try:
            if result.detail:
                became = self._attempt_beside(handle, direction, operation, result.name)
            if became is not None:
                self._end_poll(handle, result)
        except BaseException:  # somebody else shall go on
            direction.ready = True
            self._break_off(handle, direction, became)
            self._backlog.append((handle, direction))
            self._queue.wake_leader()
            raise
        return became is not None and self._go_on(handle, direction, became, skipping)

    def _attempt_beside(
        self, handle: EngineHandle, direction: Direction, operation: Operation, poll: int
    ) -> Judgement | None:
        """Attempt a direction's first operation while a poll for it goes on; this thread is the owner.

        The poll may have found what lasts, such as an error that the socket keeps for who asks for it. That is told
        when the poll begins, and then no more; so an attempt that would block gives the direction back to this poll,
        and returns None. Another poll would only tell the same at once.
        """
        direction.ready = False
        became = self._attempt(handle, operation)
        try:
            with handle.lock:
                ended = operation._verdict is not None or handle.lifecycle != Lifecycle.OPEN
                blocks = became[0] is Outcome.BLOCKED and not became[2]
                if blocks and not direction.ready and not ended:
                    direction.request = poll
                    return None
        except MemoryError:  # what was moved is not to be lost; another poll tells what there is
            pass
        direction.ready = True
        return became

    # Polls and operations of files, each by itself

    def _give_up(self, handle: EngineHandle, direction: Direction) -> list[Operation]:
        """Own a direction no more. Returns its operations."""
        with handle.lock:
            handle.disown(direction)
            operations = direction.operations()
        self._after_run(handle)
        return operations

    def _start_alone(  # noqa: C901 - the same
        self, handle: EngineHandle, operation: Operation, owned: Direction | None = None
    ) -> None:
        """Give the kernel an operation, unless it was ended or given to the kernel in the meantime.

        *owned* is the direction of the polls, if this thread has become its owner, which is of no use here.
        """
        try:
            found = self._find_target(handle)
        except BaseException:  # KeyboardInterrupt, say: others go on
            if owned is not None:
                self._give_up(handle, owned)
            self._leave_to_others(handle, operation)
            raise
        raised, mine = None, owned
        try:
            with handle.lock:
                if mine is not None:
                    handle.disown(mine)
                    mine = None
                if operation._status == PENDING and operation._native is None and self._takes_on(handle):
                    handle.running += 1
                    operation._native = NOTHING
                    try:
                        raised = self._prepare_alone(handle, operation, found)
                    except MemoryError as error:
                        raised = error
        except BaseException:
            if mine is not None:  # who submits sees to it that somebody takes it up again
                mine.active = False
            raise
        finally:
            if isinstance(found, int):
                self._ring.submit()  # before the number can be another's
        if raised is not None and not isinstance(raised, Exception):
            self._end_alone(handle, operation, (Outcome.BLOCKED, None, 0.0), again=False)
            self._leave_to_others(handle, operation)
            raise raised
        if raised is not None:  # whatever went wrong, the operation ends once
            self._end_alone(handle, operation, judged(handle, raised))
        elif owned is not None:
            self._after_run(handle)

    def _prepare_alone(
        self, handle: EngineHandle, operation: Operation, found: Target | Exception
    ) -> BaseException | None:
        """Prepare a poll or an operation of a file; the caller holds the lock. Returns what kept it from that."""
        if operation._verdict is not None:
            return operation._verdict
        if isinstance(found, Exception):
            return found
        try:
            request = Request(IoUringPort._take_over_alone, operation, handle)
            operation._native = start(self._ring, request, handle, found, operation)
        except BaseException as error:  # noqa: BLE001 - it goes on without the lock
            return error
        return None

    def _leave_to_others(self, handle: EngineHandle, operation: Operation) -> None:
        """Have the leader start an operation, with the others of its direction."""
        self._backlog.append((handle, handle.direction(operation)))
        self._queue.wake_leader()

    def _take_over_alone(
        self, handle: EngineHandle, operation: Operation, result: Result, _skipping: Operation | None
    ) -> bool:
        """Act on the result of a poll or an operation of a file; it is always queued."""
        polls = operation.route is Route.READINESS
        with handle.lock:
            if operation._native != result.name or (polls and _goes_on(result)):
                return False
            operation._native = NOTHING  # this thread is at it now
        try:
            if polls:
                self._end_poll(handle, result)
            became = self._judge(handle, operation, result)
        except BaseException:  # it is acted on again
            operation._native = result.name
            raise
        self._end_alone(handle, operation, became)
        return False

    def _take_over_poll(self, handle: EngineHandle, operation: Poll, result: Result) -> None:
        """Act on the result of a poll that C has requested."""
        with handle.lock:
            if operation._request != result.name or operation._native not in (True, result.name):
                return
            operation._native = result.name
        self._take_over_alone(handle, operation, result, None)

    def _end_poll(self, handle: EngineHandle, result: Result) -> None:
        """Have no more results of a poll; those that are there already are of a request that nobody knows any more."""
        if result.detail:
            self._ring.cancel(result.name)
        if result.number > 0 and result.number & LASTING:
            handle.ended = True

    def _end_alone(self, handle: EngineHandle, operation: Operation, became: Judgement, *, again: bool = True) -> None:
        """Complete an operation that the kernel has no more, or give it to the kernel *again*."""
        try:
            self._settle_alone(handle, operation, became)
        except MemoryError:  # there may be some by now
            self._settle_alone(handle, operation, became)
        if again:
            self._start_alone(handle, operation)
        self._after_run(handle)

    def _settle_alone(self, handle: EngineHandle, operation: Operation, became: Judgement) -> None:
        outcome, error, _ = became
        with handle.lock:
            if operation._native != NOTHING:  # an earlier call of this has come to its end
                return
            if outcome is Outcome.PROGRESS and operation._verdict is not None and operation.name == "read":
                operation._transferred = 0  # a part that was read is no end of the file, and nothing is lost with it
            self._settle(handle.direction(operation), operation, outcome, error, None)
            handle.running -= 1
            operation._native = None

    # Ending

    def _is_being_done(self, handle: EngineHandle, direction: Direction, operation: Operation) -> bool:
        if direction in (handle.files, handle.readiness):
            return operation._native is not None
        return direction.active and direction.first is operation

    def _revoke(self, handle: EngineHandle, direction: Direction, operation: Operation) -> None:
        name = operation._native if direction in (handle.files, handle.readiness) else direction.request
        if name is True:  # it is a poll that C has requested
            name = cast("Poll", operation)._request
        self._ring.cancel(name or NOTHING)

    def _abandon(self, handle: EngineHandle, *, at_once: bool) -> None:
        with handle.lock:
            firsts = [direction.first for direction in (handle.incoming, handle.outgoing) if direction.request]
            others = [direction for direction in (handle.readiness, handle.files) if direction is not None]
            alone = [operation for direction in others for operation in direction.operations()]
            for operation in (*firsts, *alone):
                if operation is not None:
                    self._revoke(handle, handle.direction(operation), operation)
        if at_once:
            self._submit(None)
        else:
            self._ring.submit()

    # Closing

    def _close_kernel(self) -> None:
        if self._forked:
            self._ring.close()  # this process's copy of the descriptor and of the mapping
            return
        until = time.monotonic() + DRAIN_SECONDS
        # What can be revoked ends, however long that takes a machine that has other things to do.
        while self._ring.revocable or (self._ring.in_flight and time.monotonic() < until):
            self._ring.cancel_all()
            self._reap(DRAIN_STEP_SECONDS)
        if not self._ring.in_flight:
            self._ring.close()
            return
        try:
            start_thread(self._drain, "unio-drain")
        except RuntimeError:  # the system lets no thread start, or the program is at its end
            self._drain()

    def _drain(self) -> None:
        """Keep the ring, and with it the buffers, until the kernel has done what it can't be kept from."""
        while self._ring.in_flight:
            self._reap(None)
        self._ring.close()


def _goes_on(result: Result) -> bool:
    """Whether a poll has found nothing that was waited for, and goes on."""
    return bool(result.detail) and not readiness_of(result.number)


PORT = IoUringPort

"""Completion over readiness: what the backends for epoll and kqueue have in common.

It knows that the kernel tells readiness, and not by which calls: those of the attempts are in attempts, those that
register and wait in a door.

The kernel says when a descriptor *may* be ready; a program wants to hear that its operation *is* done. In between:

- A descriptor is registered once, when it joins the port, for both directions and edge-triggered. Submitting and
  completing make no further call about it.
- Whoever finds a direction worth an attempt (a submit where it may be ready, or the leading thread after an event)
  becomes its owner, attempts its operations from the first on until one would block, and queues those that ended.
- Events are hints. An event sets the direction's ``ready``; the owner clears it before each attempt, so that an event
  which comes in the middle of one leads to another. A stale or doubled event costs one attempt that would block and
  can't do harm, also when the number has been reused since.

Files have no readiness; their operations are called on a pool of threads. Below are the port without its kernel (port)
and single attempts (attempts).

A backend adds how descriptors are registered and events are fetched, how the leader is interrupted, and how a process
is watched: the abstract methods that are left.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from unio.backends.common.file_threads import FilePool
from unio.backends.engine.attempts import ATTEMPTS, ATTEMPTS_MAX, JUDGEMENTS, Outcome, attempt, found_ready, judged
from unio.backends.engine.handle import Direction, EngineHandle, Lifecycle
from unio.backends.engine.port import EnginePort
from unio.errors import as_oserror
from unio.operation_state import PENDING
from unio.operations import Poll

if TYPE_CHECKING:
    from unio.backends.engine.attempts import Judgement
    from unio.operations import Operation, Readiness

SKIPPED, GOES_ON, OWNED = 1, 2, 4
"""After an attempt: its operation was not queued, there is more to try, the direction is still this thread's."""

GIVEN, RUNNING, ENDED = "given", "running", "ended"
"""How far the pool has come with an operation of a file: its native side. It can be taken out until a thread has it."""


class ReadinessPort(EnginePort):
    """A port on a kernel that tells readiness. Subclasses add the kernel.

    They have events reported of each handle that is registered, both directions and edge-triggered, and pass each to
    :meth:`_notice`.
    """

    def __init__(self, *, backend: str | None = None, concurrency: int = 0) -> None:
        self._pool = FilePool()
        super().__init__(backend=backend, concurrency=concurrency)

    def _start(self, handle: EngineHandle, direction: Direction, operation: Operation, *, owned: bool) -> bool:
        if direction is handle.files:
            self._give_to_pool(handle, operation)
        elif owned and direction is handle.readiness:
            self._run_readiness(handle)
        elif owned:
            return self._attempt_direction(handle, direction, operation if handle.skip_on_success else None)
        return False

    def _run(self, handle: EngineHandle, direction: Direction) -> None:
        if direction is handle.readiness:
            self._run_readiness(handle)
        elif direction is handle.files:  # some of them could not be given to the pool
            direction.active = False  # nobody owns it
            with handle.lock:
                operations = [each for each in direction.operations() if each._native is None]
            for operation in operations:
                self._give_to_pool(handle, operation)
        else:
            self._attempt_direction(handle, direction)

    def _give_to_pool(self, handle: EngineHandle, operation: Operation) -> None:
        with handle.lock:
            if operation._status != PENDING or operation._native is not None:
                return
            progress = [GIVEN]
            job = partial(_do_on_pool, handle, operation, progress)
            operation._native = progress
        try:
            self._pool.put(job)
        except BaseException:  # there was no memory; who submits sees to it that the leader tries again
            operation._native = None
            raise

    def _run_on(self, handle: EngineHandle, direction: Direction, result: int) -> None:
        """Go on where C has made the first attempt already: *result* is what its call returned, or -errno."""
        self._attempt_direction(handle, direction, result=result)

    def _is_being_done(self, handle: EngineHandle, direction: Direction, operation: Operation) -> bool:
        if direction is handle.files:
            return operation._native is not None and operation._native[0] is not GIVEN
        return direction.active and direction.first is operation and direction is not handle.readiness

    def _notice(self, handle: EngineHandle, *, readable: bool, writable: bool, ended: bool = False) -> None:
        """Act on an event: these directions may be ready."""
        if ended:
            handle.ended = True
        if readable:
            self._resume(handle, handle.incoming)
        if writable:
            self._resume(handle, handle.outgoing)
        if handle.readiness is not None:
            self._resume(handle, handle.readiness)

    def _attempt_direction(
        self, handle: EngineHandle, direction: Direction, skipping: Operation | None = None, result: int | None = None
    ) -> bool:
        """Attempt the direction's operations in order until one would block; this thread is the owner.

        *result* is that of the first attempt, if that was made already. Returns whether *skipping* has succeeded, in
        which case it was not queued.
        """
        skipped = go_on = False
        owned = True
        rest = 0.0
        left = ATTEMPTS_MAX
        try:
            while owned:
                left -= 1
                operation = direction.first
                assert operation is not None  # only the owner takes out the first one, and it stops after the last
                if result is None:
                    direction.ready = False
                became = self._attempt(handle, operation, result)
                result = None
                rest = became[2]
                try:
                    found = self._settle_attempt(handle, direction, operation, became, skipping, last=not left)
                except MemoryError:  # what was moved is not to be lost, and there may be some by now
                    found = self._settle_attempt(handle, direction, operation, became, skipping, last=not left)
                skipped = skipped or bool(found & SKIPPED)
                go_on, owned = bool(found & GOES_ON), bool(found & OWNED)
        except BaseException:  # KeyboardInterrupt, say: somebody else shall go on
            if owned:
                with handle.lock:
                    handle.disown(direction)
            go_on = True
            raise
        finally:
            if go_on:
                self._backlog.append((handle, direction))
            if rest:
                self._queue.timers.add(rest, handle, direction)
            if go_on or rest:
                self._queue.wake_leader()
            self._after_run(handle)
        return skipped

    def _settle_attempt(  # noqa: PLR0913 - it is a part of what is above, for the sake of doing it once more
        self,
        handle: EngineHandle,
        direction: Direction,
        operation: Operation,
        became: Judgement,
        skipping: Operation | None,
        *,
        last: bool,
    ) -> int:
        """Act on what became of a direction's first operation, and give that up if this attempt was the last or enough.

        Returns what is the case now. It is all one step: a cancel that comes before it leaves its verdict for it, and
        one that comes after it finds that nobody is at it.
        """
        outcome, error, rest = became
        found = 0
        with handle.lock:
            if direction.first is operation and self._settle(direction, operation, outcome, error, skipping):
                found = SKIPPED
            direction.resting = rest > 0 and outcome is Outcome.BLOCKED
            if (
                direction.ready
                and direction.first is not None
                and not direction.resting
                and handle.lifecycle == Lifecycle.OPEN
            ):
                found |= GOES_ON
            if last or not found & GOES_ON:
                handle.disown(direction)
            else:
                found |= OWNED
            return found

    def _attempt(self, handle: EngineHandle, operation: Operation, result: int | None) -> Judgement:
        """Attempt an operation once: how it went, its error, and how many seconds the direction rests.

        It rests for that long unless an event comes. With *result*, the call was made already, and this is what it
        returned.
        """
        try:
            if result is not None:
                return JUDGEMENTS[operation.name](handle, operation, result), None, 0.0
            return attempt(handle, operation), None, 0.0
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the operation ends once
            return judged(handle, error)

    def _run_readiness(self, handle: EngineHandle) -> None:
        """Complete the polls of the handle that are satisfied. The caller has made this thread the owner."""
        direction = handle.readiness
        assert direction is not None  # it has an owner
        owned = True
        try:
            while owned:
                direction.ready = False
                with handle.lock:
                    polls = [(poll, poll._sequence) for poll in direction.operations() if isinstance(poll, Poll)]
                found = self._find_ready(handle, polls)
                with handle.lock:
                    for poll, sequence, readiness in found:
                        if poll._status == PENDING and poll._sequence == sequence:  # it was not cancelled meanwhile
                            poll.found = readiness
                            self._queue.complete_from(direction, poll, None)
                    if handle.lifecycle != Lifecycle.OPEN or not direction.ready or direction.first is None:
                        handle.disown(direction)
                        owned = False
        finally:
            if owned:  # KeyboardInterrupt, say: somebody else shall go on
                with handle.lock:
                    handle.disown(direction)
                self._backlog.append((handle, direction))
            self._after_run(handle)

    def _find_ready(self, handle: EngineHandle, polls: list[tuple[Poll, int]]) -> list[tuple[Poll, int, Readiness]]:
        """The polls that are satisfied, each with what was found."""
        found = []
        try:
            for poll, sequence in polls:
                if readiness := found_ready(handle, poll.readiness):
                    found.append((poll, sequence, readiness))
        except OSError:
            handle.leave(Lifecycle.CLOSING)  # the object was closed; that ends the polls, once this thread has left
        return found

    def close(self) -> None:
        was_open = self._unusable is None  # two threads that close at once may both see it; that does no harm
        super().close()
        if was_open:
            self._pool.close()


def _do_on_pool(handle: EngineHandle, operation: Operation, progress: list[str], refusal: OSError | None) -> None:
    """A job of the pool: do a file operation, unless it was cancelled before a thread was free for it.

    It notes its progress, for who goes on with it after a lack of memory.
    """
    direction = handle.direction(operation)
    with handle.lock:
        current = operation._native is progress
        if current and progress[0] is GIVEN and handle.lifecycle == Lifecycle.OPEN:
            progress[0] = RUNNING
            handle.running += 1
    if current and progress[0] is not GIVEN:
        if progress[0] is RUNNING:
            operation._error = refusal or _error_of_attempt(handle, operation)
            progress[0] = ENDED
        with handle.lock:
            handle.queue.complete_from(direction, operation, operation._error)  # where it fails, this is done again
            handle.running -= 1
    if handle.lifecycle != Lifecycle.OPEN:
        handle.release()
    handle.queue.wake()


def _error_of_attempt(handle: EngineHandle, operation: Operation) -> OSError | None:
    try:
        ATTEMPTS[operation.name](handle, operation)
    except Exception as failure:  # noqa: BLE001 - whatever went wrong, the operation ends once
        return as_oserror(failure)
    return None

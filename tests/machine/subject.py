"""What all subjects of the model have in common: the life of a submission."""

from __future__ import annotations

import collections
import errno
import itertools
import os
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from machine.pattern import Sizes
from platforms import WINDOWS
from wine import has_row

import unio

if TYPE_CHECKING:
    from machine.world import World


class Violation(AssertionError):
    """A promise was broken."""


def check(holds: object, what: object, *details: object) -> None:
    if not holds:
        raise Violation(" ".join(str(each) for each in (what, *details)))


@dataclass(slots=True, eq=False)
class Submission:
    """One submit, from its start to its completion."""

    subject: Subject
    operation: Any
    sequence: int
    timeout: float | None
    at: float
    sizes: Sizes
    start: int
    cancel_asked: bool = False
    done: bool = False
    transferred: int = 0
    error: OSError | None = None
    data: bytes = b""

    @property
    def size(self) -> int:
        return sum(self.sizes)

    @property
    def is_to_end(self) -> bool:
        """Whether it was cancelled, or its time-out passes soon."""
        return self.cancel_asked or (self.timeout is not None and self.timeout < 1)

    def __repr__(self) -> str:
        what = f"{type(self.operation).__name__} #{self.sequence} {self.sizes} timeout={self.timeout}"
        result = f"{self.transferred} {self.error!r}" if self.done else "pending"
        return f"<{what} asked={self.cancel_asked} {result} of {self.subject!r}>"


class Subject(ABC):
    """What can be submitted to, and what the model knows of it."""

    def __init__(self, world: World, thing: Any = None, *, skip: bool = False) -> None:
        self.world = world
        self.thing = thing
        self.skip = skip
        self.lock = threading.RLock()
        self.pending: dict[Submission, None] = {}  # in the order of submission
        self.idle: dict[type, list[Any]] = collections.defaultdict(list)
        self.closed = False
        self.closed_plainly = False
        self.duplicate: Any = None
        self._sequences = itertools.count(1)
        self._cancelled_last = 0
        self._closed_after = sys.maxsize  # what is submitted after a plain close has no order
        if thing is not None:
            self.handle = world.port.associate(thing, key=self, skip_on_success=skip)
        world.add(self)

    def __repr__(self) -> str:
        where = "closed" if self.closed else "open"
        return f"<{type(self).__name__} {where}, {len(self.pending)} pending>"

    # What the caller does

    def submit(self, operation: Any, timeout: float | None, sizes: Sizes = (), start: int = 0) -> None:
        """Submit an operation, which is cancelled if the subject is closed."""
        with self.lock:
            submission = Submission(self, operation, next(self._sequences), timeout, time.monotonic(), sizes, start)
            check(not operation.in_flight, "in flight before its submit:", submission)
            operation.state = submission
            self.pending[submission] = None
            succeeded = self.world.port.submit(operation, timeout)
            check(succeeded in (True, False), "submit returned", succeeded)
            check(self.skip or not succeeded, "submit reported a success without skip on success:", submission)
            self.submitted(submission)
            self.world.count("submitted")
            if succeeded:
                self.world.count("skipped")
                self.end(submission, operation.transferred, operation.error)

    def cancel(self, index: int) -> None:
        """Cancel one of the operations in flight."""
        with self.lock:
            if not self.pending:
                return
            submission = list(self.pending)[index % len(self.pending)]
            # A thread that is given the completion meanwhile waits for the lock, and then sees that it was asked for.
            submission.cancel_asked |= self.world.port.cancel(submission.operation)

    def cancel_idle(self) -> None:
        """Cancel an operation that is not in flight, of which a later submit must know nothing."""
        with self.lock:
            for operations in self.idle.values():
                for operation in operations:
                    check(not self.world.port.cancel(operation), "cancel found an idle operation in flight:", operation)

    def cancel_all(self) -> None:
        """Cancel what is in flight on the handle."""
        with self.lock:
            count = self.handle.cancel()
            check(0 <= count <= len(self.pending), count, "cancelled of", list(self.pending))
            if count:
                for submission in self.pending:
                    submission.cancel_asked = True

    def close(self) -> None:
        """Close the handle through unio; also a second time, and after a plain close."""
        with self.lock:
            if self._must_not_close():
                return
            self.closed = True
            self.closed_plainly = False
            self.handle.close()
            check(self.handle.closed, "not closed after its close:", self.handle)

    def close_plainly(self) -> None:
        """Close the object behind the handle's back."""
        with self.lock:
            if self.closed or self._must_not_close():
                return
            if WINDOWS:  # it would not end what is in flight before the last duplicate is closed
                self._close_duplicate()
            self.closed = self.closed_plainly = True
            self._closed_after = next(self._sequences)
            self.world.closed_plainly(self)
            self.thing.close()

    def duplicate_descriptor(self) -> None:
        """Keep the object below alive in another descriptor, which must never fire for this handle."""
        with self.lock:
            if not self.closed and self.duplicate is None:
                self.duplicate = duplicate_of(self.thing)

    # What completes

    def end(self, submission: Submission, transferred: int, error: OSError | None) -> None:
        """Take the completion of a submission."""
        if submission not in self.pending:
            self.world.count("doubled")
            raise Violation(f"a second completion, {transferred} {error!r}, of {submission!r}")
        del self.pending[submission]
        submission.done = True
        submission.transferred = transferred
        submission.error = error
        operation = submission.operation
        check(operation.transferred == transferred, "the operation has another count than the completion:", submission)
        check(operation.error is error, "the operation has another error than the completion:", submission)
        check(not operation.in_flight, "in flight after its completion:", submission)
        self._check_error(submission)
        self.completed(submission)
        self.reuse(operation)

    def _check_error(self, submission: Submission) -> None:
        error = submission.error
        if error is None:
            return
        check(isinstance(error, OSError), "not an OSError:", submission)
        if isinstance(error, unio.Cancelled):
            self.world.count("cancelled")
            check(error.errno == errno.ECANCELED, "Cancelled with another errno:", submission)
            check(submission.cancel_asked or self.closed, "cancelled by nobody:", submission)
            self._check_order_of_close(submission)
        elif isinstance(error, TimeoutError):
            self.world.count("timed out")
            check(submission.timeout is not None, "timed out without a time-out:", submission)
            assert submission.timeout is not None
            check(time.monotonic() >= submission.at + submission.timeout, "timed out early:", submission)
        else:
            self.world.count("failed")
            check(self.may_fail(submission, error), "an error that nothing explains:", submission)

    def _check_order_of_close(self, submission: Submission) -> None:
        if submission.cancel_asked or not self.world.ordered or submission.sequence > self._closed_after:
            return
        check(submission.sequence > self._cancelled_last, "closed out of order:", submission)
        self._cancelled_last = submission.sequence

    def reuse(self, operation: Any) -> None:
        """Keep an operation for another submission, but not so many that none is ever new."""
        idle = self.idle[type(operation)]
        if len(idle) < 2:
            idle.append(operation)

    def again(self, kind: type) -> Any:
        """An operation that has completed, or None for a new one."""
        idle = self.idle[kind]
        return idle.pop() if idle else None

    def _must_not_close(self) -> bool:
        """Whether something in flight may be under way with the number of this handle, and end up with another's."""
        return not self.closed and has_row("close-amid-retry") and self.goes_on()

    # What each kind of subject defines

    def goes_on(self) -> bool:
        """Whether something in flight goes on with nothing more done by this end."""
        return False

    def submitted(self, submission: Submission) -> None:  # noqa: B027 - not every kind has something to note
        """Note what has been submitted."""

    @abstractmethod
    def completed(self, submission: Submission) -> None:
        """Check the result."""

    def may_fail(self, submission: Submission, error: OSError) -> bool:
        """Whether what happened to the subject explains an error."""
        return False

    def owes(self) -> list[Submission]:
        """The submissions that must complete with nothing more done by anybody."""
        return [each for each in self.pending if self.closed or each.is_to_end]

    def peer_drains(self) -> bool:
        """Let the peer take what there is, so that sends can go on; whether there was something."""
        return False

    def finish(self) -> None:  # noqa: B027 - not every kind has something left
        """Check what is left to check once nothing is pending any more, and let go of the peer."""

    def retire(self) -> None:
        """End the subject, closed and with nothing pending."""
        with self.lock:
            self._close_duplicate()
            self.finish()
            self.idle.clear()
            self.handle.close()  # also after a plain close: whoever has the number by now must not notice

    def abandon(self) -> None:
        """Close what there is to close; the port is closed already."""
        for each in self.things():
            if each is not None:
                each.close()
        self._close_duplicate()

    def _close_duplicate(self) -> None:
        if self.duplicate is not None:
            self.duplicate.close()
            self.duplicate = None

    def things(self) -> list[Any]:
        """What abandon closes."""
        return [self.thing]


def duplicate_of(thing: Any) -> Any:
    """Another descriptor of a socket or a file, for the caller to close."""
    return thing.dup() if isinstance(thing, socket.socket) else open(os.dup(thing.fileno()), "rb", buffering=0)

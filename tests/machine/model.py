"""A model of what a port promises, checked against real sockets, pipes and files.

A :class:`World` is a port with everything that can be done to it. Its subjects (streams, a listener, datagrams, files,
timers) submit operations, play the peers at the other ends, and compare each completion with what they know:

- each submit leads to exactly one completion, whose error is one that what happened can explain;
- bytes are coded by their position in the stream, so that a lost, doubled or misplaced one is seen; whatever a send
  reported as transferred is what its peer receives, also where it was cancelled half-way;
- what can complete does: :meth:`World.settle` fails when something that owes a completion does not deliver it.

The state machine and the soak drive the same model: the one to find a short example, the other to go on for long.
Subjects may be used by several threads. Each has a lock, so that the model knows the order of its submissions; waiting
takes no lock.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import fcntl
import itertools
import os
import random
import select
import socket
import struct
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import unio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

PATIENCE = 2.0
"""Seconds after which what must happen has failed to happen; long enough for a machine under load."""

PERIOD = 1_048_573
"""After how many bytes the pattern repeats: a prime, so that no buffer's size divides it."""

_twice = memoryview(random.Random(1).randbytes(PERIOD) * 2)

LOCAL, TCP, PIPE_IN, PIPE_OUT = "local", "tcp", "pipe in", "pipe out"
STREAMS = (LOCAL, TCP, PIPE_IN, PIPE_OUT)

Sizes = tuple[int, ...]
"""The sizes of an operation's buffers; one for a plain operation, several for a vectored one."""


class Violation(AssertionError):
    """A promise was broken."""


def check(holds: object, what: object, *details: object) -> None:
    if not holds:
        raise Violation(" ".join(str(each) for each in (what, *details)))


def pattern(position: int, size: int) -> memoryview:
    """The bytes of the pattern from a position on."""
    start = position % PERIOD
    return _twice[start : start + size]


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd")) - 1  # the listing itself takes one


def descriptors_settle(wanted: int) -> int:
    """How many descriptors are open, once a file operation that a thread was doing has let go of its own."""
    deadline = time.monotonic() + PATIENCE
    while open_descriptors() != wanted and time.monotonic() < deadline:
        time.sleep(0.001)
    return open_descriptors()


def split(data: memoryview, sizes: Sizes) -> list[memoryview]:
    ends = list(itertools.accumulate(sizes))
    return [data[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def one_or_many(buffers: list[Any]) -> Any:
    """What an operation takes: a buffer, or several as a list."""
    return buffers[0] if len(buffers) == 1 else buffers


def taken(buffer: Any, size: int) -> bytes:
    """The first bytes of a buffer or of a list of them."""
    if not isinstance(buffer, list):
        return bytes(memoryview(buffer)[:size])
    return b"".join(buffer)[:size]


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

    def __repr__(self) -> str:
        what = f"{type(self.operation).__name__} #{self.sequence} {self.sizes} timeout={self.timeout}"
        result = f"{self.transferred} {self.error!r}" if self.done else "pending"
        return f"<{what} asked={self.cancel_asked} {result} of {self.subject!r}>"


class Subject:
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
        self.duplicate = -1
        self._sequences = itertools.count(1)
        self._cancelled_last = 0
        if thing is not None:
            self.handle = world.port.associate(thing, key=self, skip_on_success=skip)
        world.add(self)

    def __repr__(self) -> str:
        where = "closed" if self.closed else "open"
        return f"<{type(self).__name__} {where}, {len(self.pending)} pending>"

    # What the caller does

    def submit(self, operation: Any, timeout: float | None, sizes: Sizes = (), start: int = 0) -> None:
        """Submit an operation, and see it refused if the subject is closed.

        After a plain close it may still be accepted, and is then cancelled.
        """
        with self.lock:
            submission = Submission(
                self, operation, next(self._sequences), timeout, time.monotonic(), sizes, start
            )
            check(not operation.in_flight, "in flight before its submit:", submission)
            operation.state = submission
            self.pending[submission] = None
            try:
                succeeded = self.world.port.submit(operation, timeout)
            except unio.NotAssociated:
                check(self.closed, "refused, though open:", submission)
                check(not operation.in_flight, "refused, and yet in flight:", submission)
                del self.pending[submission]
                self.reuse(operation)
                return
            check(not self.closed or self.closed_plainly, "accepted, though closed:", submission)
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
            # Said beforehand: the completion may be on its way to another thread before cancel returns.
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
            self.closed = True
            self.closed_plainly = False
            self.handle.close()
            check(self.handle.closed, "not closed after its close:", self.handle)

    def close_plainly(self) -> None:
        """Close the object behind the handle's back."""
        with self.lock:
            if self.closed:
                return
            self.closed = self.closed_plainly = True
            self.world.closed_plainly(self)
            self.thing.close()

    def duplicate_descriptor(self) -> None:
        """Keep the object below alive in another descriptor, which must never fire for this handle."""
        with self.lock:
            if not self.closed and self.duplicate < 0:
                self.duplicate = os.dup(self.thing.fileno())

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
        if submission.cancel_asked or not self.world.ordered:
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

    # What each kind of subject defines

    def submitted(self, submission: Submission) -> None:
        """Note what has been submitted."""

    def completed(self, submission: Submission) -> None:
        """Check the result."""
        raise NotImplementedError

    def may_fail(self, submission: Submission, error: OSError) -> bool:  # noqa: ARG002 - for those who know more
        """Whether what happened to the subject explains an error."""
        return False

    def owes(self) -> list[Submission]:
        """The submissions that must complete with nothing more done by anybody."""
        return [each for each in self.pending if self.closed or each.cancel_asked or (each.timeout or PATIENCE) < 1]

    def peer_drains(self) -> None:
        """Let the peer take what there is, so that sends can go on."""

    def finish(self) -> None:
        """Check what is left to check once nothing is pending any more, and let go of the peer."""

    def retire(self) -> None:
        """End the subject, closed and with nothing pending."""
        with self.lock:
            if self.duplicate >= 0:
                os.close(self.duplicate)
                self.duplicate = -1
            self.finish()
            self.idle.clear()
            self.handle.close()  # also after a plain close: whoever has the number by now must not notice


    def abandon(self) -> None:
        """Close what there is to close; the port is closed already."""
        for each in self.things():
            if each is not None:
                each.close()
        if self.duplicate >= 0:
            os.close(self.duplicate)
            self.duplicate = -1

    def things(self) -> list[Any]:
        """What abandon closes."""
        return [self.thing]


class Stream(Subject):
    """A stream: one end is the port's, the other is a peer that the model plays on its descriptor."""

    def __init__(self, world: World, ours: Any, peer: Any, kind: str, *, skip: bool = False) -> None:
        self.kind = kind
        self.peer = peer
        self.base = world.next_start()
        self.connecting = False
        # What the peer sends and this end receives
        self.sent = 0
        self.received = 0
        self.ended = False  # the peer sends no more
        self.reset = False
        self.receives: collections.deque[Submission] = collections.deque()
        self._filled_last = 0
        # What this end sends and the peer receives
        self.sends: collections.deque[Submission] = collections.deque()
        self.expected: collections.deque[memoryview] = collections.deque()
        self.seen = bytearray()
        self.seen_end = False
        self.peer_failed = False
        self.has_sent = False
        self.shut_down = False  # or about to be: asked for
        self.is_shut_down = False
        self.disconnected = False  # or about to be: asked for
        self.is_disconnected = False
        super().__init__(world, ours, skip=skip)

    def __repr__(self) -> str:
        ends = f"ended={self.ended} reset={self.reset} shut={self.shut_down} disconnected={self.disconnected}"
        counts = f"received {self.received} of {self.sent}"
        return f"<{self.kind} {'closed' if self.closed else 'open'}, {len(self.pending)} pending, {counts}, {ends}>"

    @property
    def _in_order(self) -> bool:
        """Whether completions are seen in the order in which the operations ended."""
        return self.world.ordered and not self.skip

    @property
    def can_receive(self) -> bool:
        return self.kind != PIPE_OUT and not self.connecting

    @property
    def can_send(self) -> bool:
        return self.kind != PIPE_IN and not self.connecting

    @property
    def is_socket(self) -> bool:
        return self.kind in (LOCAL, TCP)

    @property
    def connected(self) -> bool:
        """Whether there is a peer that nobody has broken off with."""
        return self.peer is not None and not self.connecting

    # What the caller does

    def connect(self, address: Any, timeout: float | None = None) -> None:
        with self.lock:
            self.connecting = True
            self.world.connecting(1)
            self.submit(unio.Connect(self.handle, address), timeout)

    def receive(self, sizes: Sizes, timeout: float | None = None) -> None:
        with self.lock:
            if not self.can_receive:
                return
            operation = self.again(unio.Recv)
            if operation is not None and operation.state.sizes == sizes:
                self.submit(operation, timeout, sizes)  # the same buffer again
                return
            buffer = one_or_many([bytearray(size) for size in sizes])
            if operation is None:
                operation = unio.Recv(self.handle, buffer)
            else:
                operation.buffer = buffer
            self.submit(operation, timeout, sizes)

    def send(self, sizes: Sizes, timeout: float | None = None) -> None:
        with self.lock:
            if not self.can_send:
                return
            start = self.world.next_start()
            buffer = one_or_many(split(pattern(start, sum(sizes)), sizes))
            operation = self.again(unio.Send)
            if operation is None:
                operation = unio.Send(self.handle, buffer)
            else:
                operation.buffer = buffer
            self.submit(operation, timeout, sizes, start)

    def send_file(self, size: int, timeout: float | None = None) -> None:
        with self.lock:
            if not (self.can_send and self.is_socket):
                return
            start = self.world.next_start() % (PERIOD - size)
            operation = self.again(unio.SendFile)
            if operation is None:
                operation = unio.SendFile(self.handle, self.world.file, start, size)
            else:
                operation.set_range(start, size)
            self.submit(operation, timeout, (size,), start)

    def shut(self, kind: type[unio.Shutdown | unio.Disconnect]) -> None:
        """Half-close or disconnect."""
        with self.lock:
            if self.can_send and self.is_socket:
                self.submit(self.again(kind) or kind(self.handle), None)

    def poll(self, readiness: unio.Readiness, timeout: float | None = None) -> None:
        with self.lock:
            if self.connecting:
                return
            operation = self.again(unio.Poll)
            if operation is None:
                operation = unio.Poll(self.handle, readiness)
            else:
                operation.readiness = readiness
            self.submit(operation, timeout)

    # What the peer does

    def peer_sends(self, size: int) -> None:
        with self.lock:
            if not self.connected or self.ended or self.kind == PIPE_OUT:
                return
            try:
                self.sent += os.write(self.peer.fileno(), pattern(self.base + self.sent, size))
            except BlockingIOError:
                pass
            except (ConnectionResetError, BrokenPipeError):
                check(self.closed or self.disconnected, "the peer was broken off by nobody:", self)
                self.peer_failed = True

    def peer_receives(self, size: int = 1 << 20) -> bool:
        """Receive what is there; whether there was something."""
        with self.lock:
            if not self.connected or self.seen_end or self.kind == PIPE_IN:
                return False
            try:
                data = os.read(self.peer.fileno(), size)
            except BlockingIOError:
                return False
            except (ConnectionResetError, BrokenPipeError):
                check(self.closed or self.disconnected, "the peer was reset by nobody:", self)
                self.peer_failed = self.seen_end = True
                return False
            if data:
                self.seen += data
                self._match()
                return True
            self.seen_end = True
            check(self.closed or self.shut_down, "the peer saw an end that nobody made:", self)
            return False

    def peer_drains(self) -> None:
        while self.peer_receives():
            pass

    def peer_half_closes(self) -> None:
        with self.lock:
            if self.connected and self.is_socket and not self.ended:
                self.ended = True
                with contextlib.suppress(OSError):  # this end may have reset it
                    self.peer.shutdown(socket.SHUT_WR)

    def peer_closes(self, *, reset: bool = False) -> None:
        """Close the peer, and with *reset* abortively."""
        with self.lock:
            if not self.connected:
                return
            if reset and self.kind == TCP:
                self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.ended = True
            self.reset |= reset
            self._drop_peer()

    def _drop_peer(self) -> None:
        if self.peer is not None:
            self.peer.close()
            self.peer = None

    # What completes

    def submitted(self, submission: Submission) -> None:
        match submission.operation:
            case unio.Recv():
                self.receives.append(submission)
            case unio.Send() | unio.SendFile():
                self.sends.append(submission)
                self.has_sent |= submission.size > 0
            case unio.Shutdown():
                self.sends.append(submission)
                self.shut_down = True
            case unio.Disconnect():
                self.sends.append(submission)
                self.shut_down = self.disconnected = True

    def completed(self, submission: Submission) -> None:
        match submission.operation:
            case unio.Recv():
                self._completed_receive(submission)
            case unio.Poll():
                self._completed_poll(submission)
            case unio.Connect():
                self._completed_connect(submission)
            case _:
                self._completed_send(submission)

    def may_fail(self, submission: Submission, error: OSError) -> bool:
        left = self.ended and self.peer is None
        match submission.operation:
            case unio.Recv():
                return left and self.is_socket and isinstance(error, ConnectionResetError)
            case unio.Send() | unio.SendFile():
                if isinstance(error, BrokenPipeError):
                    return self.shut_down or (left and not self.is_socket)
                return left and self.is_socket and isinstance(error, ConnectionResetError)
            case unio.Shutdown() | unio.Disconnect():
                return (left or self.ended or self.shut_down) and error.errno == errno.ENOTCONN
            case unio.Connect():
                return isinstance(error, ConnectionRefusedError) and submission.operation.address == self.world.nobody
        return False

    def _completed_receive(self, submission: Submission) -> None:
        check(submission.error is None or not submission.transferred, "failed, and yet received:", submission)
        check(submission.transferred <= submission.size, "received more than there is room for:", submission)
        if submission.transferred and self._in_order:
            check(submission.sequence > self._filled_last, "receives completed out of order:", submission)
            self._filled_last = submission.sequence
        submission.data = taken(submission.operation.buffer, submission.transferred)
        while self.receives and self.receives[0].done:
            self._take_received(self.receives.popleft())

    def _take_received(self, submission: Submission) -> None:
        """Compare what a receive got; all that were submitted before it have been compared."""
        if submission.error is not None:
            return
        nothing_follows = self.ended or self.disconnected
        if submission.size == 0:
            check(self.sent > self.received or nothing_follows, "an empty receive ended for nothing:", submission)
        elif submission.transferred == 0:
            check(nothing_follows, "an end of stream that nobody made:", submission)
            whole = not self.reset and not self.disconnected and not (self.peer is None and self.has_sent)
            check(not whole or self.received == self.sent, "the end came before the data:", submission)
        wanted = pattern(self.base + self.received, submission.transferred)
        check(submission.data == wanted, "received other bytes than were sent:", submission)
        self.received += submission.transferred
        submission.data = b""
        check(self.received <= self.sent, "received more than was sent:", submission)

    def _completed_send(self, submission: Submission) -> None:
        check(submission.transferred <= submission.size, "sent more than there was:", submission)
        if submission.error is None:
            check(submission.transferred == submission.size, "sent less, with no error:", submission)
        while self.sends and self.sends[0].done:
            self._take_sent(self.sends.popleft())
        self._match()

    def _take_sent(self, submission: Submission) -> None:
        if submission.transferred:
            check(not self.is_shut_down, "sent after the shutdown:", submission)
            self.expected.append(pattern(submission.start, submission.transferred))
        elif isinstance(submission.operation, (unio.Shutdown, unio.Disconnect)) and submission.error is None:
            self.is_shut_down = True
            self.is_disconnected |= isinstance(submission.operation, unio.Disconnect)

    def _match(self) -> None:
        """Compare what the peer received with what completed sends reported."""
        while self.expected and self.seen:
            wanted = self.expected.popleft()
            count = min(len(wanted), len(self.seen))
            if self.seen[:count] != wanted[:count]:
                raise Violation(f"the peer received other bytes than were sent: {self!r}")
            del self.seen[:count]
            if count < len(wanted):
                self.expected.appendleft(wanted[count:])
        check(self.sends or not self.seen, "the peer received more than was reported as sent:", self)

    def _completed_poll(self, submission: Submission) -> None:
        operation = submission.operation
        check(submission.transferred == 0, "a poll transferred something:", submission)
        if submission.error is not None:
            return
        check(operation.found, "a poll that found nothing:", submission)
        check(not operation.found & ~operation.readiness, "a poll found what nobody asked for:", submission)
        if operation.found == unio.Readiness.READABLE and self._in_order and not self.receives:
            something = self.sent > self.received or self.ended or self.disconnected or self.is_shut_down
            check(something, "a poll found readable what is not:", submission)

    def _completed_connect(self, submission: Submission) -> None:
        self.connecting = False
        if submission.error is None:
            check(submission.operation.address != self.world.nobody, "connected to nobody:", submission)
            if not self.closed:
                check(self.thing.getpeername() == submission.operation.address, "connected elsewhere:", submission)
                self.peer = self.world.peer_of(self.thing.getsockname())
        self.world.connecting(-1)
        if self.peer is None:
            self.ended = True
            self.close()

    def owes(self) -> list[Submission]:
        with self.lock:
            owed = super().owes()
            readable = (self.sent > self.received or self.ended or self.is_disconnected) and not self.connecting
            if self.receives and readable:
                owed.append(self.receives[0])
            owed += self.sends
            for each in self.pending:
                match each.operation:
                    case unio.Connect():
                        owed.append(each)
                    case unio.Poll():
                        wanted = each.operation.readiness
                        if wanted & unio.Readiness.READABLE and readable and not self.receives:
                            owed.append(each)
                        if wanted & unio.Readiness.WRITABLE and self.can_send and not self.sends:
                            owed.append(each)
            return owed

    def finish(self) -> None:
        check(not self.receives and not self.sends, "closed, with something pending:", self)
        if self.peer is not None and self.kind != PIPE_IN:
            self._drain_to_the_end()
        self._drop_peer()
        self.expected.clear()

    def things(self) -> list[Any]:
        return [self.thing, self.peer]

    def _drain_to_the_end(self) -> None:
        """The descriptor is closed, so the peer must see its end; a copy that is still open would keep it from that."""
        poll = select.poll()
        poll.register(self.peer, select.POLLIN)
        while not self.seen_end:
            self.peer_drains()
            if not self.seen_end:
                check(poll.poll(PATIENCE * 1000), "closed, and the peer sees no end:", self)
        if not self.peer_failed:
            check(not self.expected, "the peer saw the end before the data:", self)


class Listener(Subject):
    """A listening socket of the port's; the peers connect to it and the accepted sockets become streams."""

    def __init__(self, world: World) -> None:
        self.waiting: dict[Any, socket.socket | None] = {}  # by address; None has left before it was accepted
        self.born: list[Stream] = []
        listening = socket.create_server(("127.0.0.1", 0))
        super().__init__(world, listening)
        self.address = listening.getsockname()

    def accept(self, timeout: float | None = None) -> None:
        with self.lock:
            operation = self.again(unio.Accept) or unio.Accept(self.handle)
            operation.socket = None
            self.submit(operation, timeout)

    def peer_connects(self) -> None:
        with self.lock:
            if self.closed or len(self.waiting) >= 8:
                return
            peer = socket.create_connection(self.address, PATIENCE)
            peer.setblocking(False)
            self.waiting[peer.getsockname()] = peer

    def peer_leaves(self, index: int, *, reset: bool) -> None:
        """A peer that nobody has accepted yet goes away."""
        with self.lock:
            present = [address for address, peer in self.waiting.items() if peer is not None]
            if present:
                address = present[index % len(present)]
                peer = self.waiting[address]
                assert peer is not None
                if reset:
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.close()
                self.waiting[address] = None

    def completed(self, submission: Submission) -> None:
        operation = submission.operation
        check(submission.transferred == 0, "an accept transferred something:", submission)
        if submission.error is not None:
            check(operation.socket is None, "failed, and yet accepted:", submission)
            return
        sock, operation.socket = operation.socket, None
        check(operation.address in self.waiting, "accepted a stranger:", operation.address)
        check(not sock.get_inheritable(), "accepted an inheritable socket")
        check(sock.gettimeout() == 0, "accepted a blocking socket")
        peer = self.waiting.pop(operation.address)
        stream = Stream(self.world, sock, peer, TCP)
        stream.ended = stream.reset = peer is None
        self.born.append(stream)

    def owes(self) -> list[Submission]:
        with self.lock:
            return super().owes() + list(self.pending)[: len(self.waiting)]

    def take_born(self) -> list[Stream]:
        with self.lock:
            born, self.born = self.born, []
            return born

    def finish(self) -> None:
        for peer in self.waiting.values():
            if peer is not None:
                peer.close()
        self.waiting.clear()

    def things(self) -> list[Any]:
        accepted = [each.operation.socket for each in self.pending if each.operation.socket]  # not delivered any more
        return [self.thing, *self.waiting.values(), *accepted]


class Datagrams(Subject):
    """A datagram socket and a peer. So little is under way at a time that the loopback interface loses none."""

    UNDER_WAY = 8

    def __init__(self, world: World) -> None:
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.setblocking(False)
        self.peer.bind(("127.0.0.1", 0))
        self.peer_address = self.peer.getsockname()
        ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ours.bind(("127.0.0.1", 0))
        self.address = ours.getsockname()
        self.incoming: collections.deque[memoryview] = collections.deque()
        self.receives: collections.deque[Submission] = collections.deque()
        self.sends: collections.deque[Submission] = collections.deque()
        self.expected: collections.deque[memoryview] = collections.deque()
        self.seen: collections.deque[bytes] = collections.deque()
        super().__init__(world, ours)

    def receive(self, sizes: Sizes, timeout: float | None = None) -> None:
        with self.lock:
            buffer = one_or_many([bytearray(size) for size in sizes])
            operation = self.again(unio.RecvFrom)
            if operation is None:
                operation = unio.RecvFrom(self.handle, buffer)
            else:
                operation.buffer = buffer
            self.submit(operation, timeout, sizes)

    def send(self, size: int, timeout: float | None = None) -> None:
        with self.lock:
            self.peer_drains()
            if len(self.sends) + len(self.expected) >= self.UNDER_WAY:
                return
            start = self.world.next_start()
            data = pattern(start, size)
            operation = self.again(unio.SendTo)
            if operation is None:
                operation = unio.SendTo(self.handle, data, self.peer_address)
            else:
                operation.buffer, operation.address = data, self.peer_address
            self.submit(operation, timeout, (size,), start)

    def send_to_nobody(self) -> None:
        """An unreachable peer breaks nothing."""
        with self.lock:
            self.submit(unio.SendTo(self.handle, b"anybody?", ("127.0.0.1", 1)), None, (8,), -1)

    def peer_sends(self, size: int) -> None:
        with self.lock:
            if self.closed or len(self.incoming) >= self.UNDER_WAY:
                return
            data = pattern(self.world.next_start(), size)
            self.incoming.append(data)
            self.peer.sendto(data, self.address)

    def peer_drains(self) -> None:
        with self.lock, contextlib.suppress(BlockingIOError):
            while self.peer.fileno() >= 0:
                data, sender = self.peer.recvfrom(1 << 16)
                check(sender == self.address, "a datagram of a stranger:", sender)
                self.seen.append(data)
                self._match()

    def submitted(self, submission: Submission) -> None:
        if isinstance(submission.operation, unio.RecvFrom):
            self.receives.append(submission)
        else:
            self.sends.append(submission)

    def completed(self, submission: Submission) -> None:
        if isinstance(submission.operation, unio.RecvFrom):
            submission.data = taken(submission.operation.buffer, submission.transferred)
            check(self._failed_well(submission), "failed, and yet transferred:", submission)
            if submission.size and (submission.error is None or submission.transferred):
                check(submission.operation.address == self.peer_address, "received from a stranger:", submission)
            while self.receives and self.receives[0].done:
                self._take_received(self.receives.popleft())
        else:
            whole = submission.size if submission.error is None else 0
            check(submission.transferred == whole, "a part of a datagram was sent:", submission)
            while self.sends and self.sends[0].done:
                sent = self.sends.popleft()
                if sent.error is None and sent.start >= 0:
                    self.expected.append(pattern(sent.start, sent.size))
            self._match()

    def _failed_well(self, submission: Submission) -> bool:
        if submission.error is None:
            return True
        return submission.transferred == (submission.size if submission.error.errno == errno.EMSGSIZE else 0)

    def _take_received(self, submission: Submission) -> None:
        if submission.error is not None and submission.error.errno != errno.EMSGSIZE:
            return
        check(self.incoming, "received a datagram that nobody sent:", submission)
        if submission.size == 0:
            check(submission.error is None, "an empty receive that failed:", submission)
            return
        wanted = self.incoming.popleft()
        too_large = len(wanted) > submission.size
        check((submission.error is not None) == too_large, "EMSGSIZE for", len(wanted), "bytes:", submission)
        check(submission.data == wanted[: submission.size], "received another datagram than was sent:", submission)

    def _match(self) -> None:
        while self.expected and self.seen:
            check(self.seen.popleft() == self.expected.popleft(), "the peer received another datagram than was sent")
        check(self.sends or not self.seen, "the peer received a datagram that was reported as not sent")

    def may_fail(self, submission: Submission, error: OSError) -> bool:
        return isinstance(submission.operation, unio.RecvFrom) and error.errno == errno.EMSGSIZE

    def owes(self) -> list[Submission]:
        with self.lock:
            owed = super().owes() + list(self.sends)
            if self.incoming and self.receives:
                owed.append(self.receives[0])
            return owed

    def finish(self) -> None:
        self.peer_drains()
        check(not self.expected, "datagrams were lost:", len(self.expected))
        self.peer.close()

    def things(self) -> list[Any]:
        return [self.thing, self.peer]


class File(Subject):
    """A file, of which the model knows each byte: no two operations meet where one of them writes."""

    BLOCK = 4096
    BLOCKS = 32

    def __init__(self, world: World) -> None:
        self.content = bytearray(self.BLOCK * self.BLOCKS)
        self.readers: collections.Counter[int] = collections.Counter()
        self.writers: collections.Counter[int] = collections.Counter()
        path = world.directory / f"file-{world.next_start()}"
        path.write_bytes(self.content)
        self.check_file = path.open("rb", buffering=0)
        thing = unio.open(path, "rb+")
        path.unlink()
        super().__init__(world, thing)

    def _blocks(self, submission: Submission) -> Iterable[int]:
        return range(submission.start // self.BLOCK, -(-(submission.start + submission.size) // self.BLOCK))

    def _is_free(self, offset: int, size: int, *users: collections.Counter[int]) -> bool:
        blocks = range(offset // self.BLOCK, -(-(offset + size) // self.BLOCK))
        return not any(used[block] for block in blocks for used in users)

    def read(self, offset: int, sizes: Sizes, timeout: float | None = None) -> None:
        with self.lock:
            if not self._is_free(offset, sum(sizes), self.writers):
                return
            buffer = one_or_many([bytearray(size) for size in sizes])
            operation = self.again(unio.Read)
            if operation is None:
                operation = unio.Read(self.handle, buffer, offset)
            else:
                operation.buffer, operation.offset = buffer, offset
            self.submit(operation, timeout, sizes, offset)

    def write(self, offset: int, sizes: Sizes, timeout: float | None = None) -> None:
        size = sum(sizes)
        with self.lock:
            offset = min(offset, len(self.content) - size)
            if not self._is_free(offset, size, self.writers, self.readers):
                return
            buffer = one_or_many(split(pattern(self.world.next_start(), size), sizes))
            operation = self.again(unio.Write)
            if operation is None:
                operation = unio.Write(self.handle, buffer, offset)
            else:
                operation.buffer, operation.offset = buffer, offset
            self.submit(operation, timeout, sizes, offset)

    def flush(self, timeout: float | None = None) -> None:
        with self.lock:
            self.submit(self.again(unio.Flush) or unio.Flush(self.handle), timeout)

    def submitted(self, submission: Submission) -> None:
        self._users(submission).update(self._blocks(submission))

    def _users(self, submission: Submission) -> collections.Counter[int]:
        return self.writers if isinstance(submission.operation, unio.Write) else self.readers

    def completed(self, submission: Submission) -> None:
        self._users(submission).subtract(self._blocks(submission))
        count, buffer = submission.transferred, getattr(submission.operation, "buffer", [])
        there = self.content[submission.start : submission.start + submission.size]
        if isinstance(submission.operation, unio.Write):
            check(submission.error is not None or count == submission.size, "wrote less, with no error:", submission)
            self.content[submission.start : submission.start + count] = taken(buffer, count)
        elif submission.error is None and submission.sizes:
            check(count == len(there), "read another count than there was:", submission)
            check(taken(buffer, count) == there, "read other bytes than were written:", submission)
        else:
            check(count == 0, "failed, and yet transferred:", submission)

    def owes(self) -> list[Submission]:
        with self.lock:
            return list(self.pending)

    def finish(self) -> None:
        with self.check_file as file:
            check(os.pread(file.fileno(), 1 << 20, 0) == self.content, "the file has other bytes than were written")

    def things(self) -> list[Any]:
        return [self.thing, self.check_file]


class Timers(Subject):
    """Timers, which have no handle."""

    def start(self, delay: float, timeout: float | None = None) -> None:
        with self.lock:
            operation = self.again(unio.Timer)
            if operation is None:
                operation = unio.Timer(delay, key=self)
            else:
                operation.delay = delay
            self.submit(operation, timeout)

    def completed(self, submission: Submission) -> None:
        check(submission.transferred == 0, "a timer transferred something:", submission)
        if submission.error is None:
            check(time.monotonic() >= submission.at + submission.operation.delay, "a timer was early:", submission)

    def owes(self) -> list[Submission]:
        with self.lock:
            short = [each for each in self.pending if each.operation.delay < 1]
            return super().owes() + short

    def close(self) -> None:
        """Cancel each: there is no handle to close."""
        with self.lock:
            for index in range(len(self.pending)):
                self.cancel(index)

    def retire(self) -> None:
        self.idle.clear()


@dataclass(slots=True, eq=False)
class Packet:
    """What is posted."""

    poster: int
    number: int


class World:
    """A port, its subjects and its posts.

    With *ordered* a single thread waits, and completions must come in the order in which they were queued.
    """

    def __init__(self, *, backend: str | None = None, ordered: bool = True) -> None:
        self.ordered = ordered
        self.lock = threading.RLock()
        self.counts: collections.Counter[str] = collections.Counter()
        self.subjects: list[Subject] = []
        self._starts = itertools.count(1)
        self._packets = itertools.count(1)
        self._posted: dict[int, dict[Packet, None]] = collections.defaultdict(dict)  # by poster, in their order
        self._closed_plainly: list[Subject] = []
        self._connecting = 0
        self._met: dict[Any, socket.socket] = {}
        self._resources = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="unio-model-")))
            self.file = stack.enter_context(self._pattern_file())
            self.meeting = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=256))
            self.meeting.setblocking(False)
            refusing = stack.enter_context(socket.socket())  # bound and not listening, so that it refuses
            refusing.bind(("127.0.0.1", 0))
            self.nobody = refusing.getsockname()
            self.port = stack.enter_context(unio.Port(backend=backend))  # last, so that it is closed first
            self.timers = Timers(self)
            self._resources = stack.pop_all()

    def _pattern_file(self) -> Any:
        path = self.directory / "pattern"
        path.write_bytes(_twice[:PERIOD])
        return path.open("rb", buffering=0)

    def add(self, subject: Subject) -> None:
        with self.lock:
            self.subjects.append(subject)

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1

    def next_start(self) -> int:
        """Where in the pattern another piece of data starts, away from all others."""
        return next(self._starts) * 104_729

    # New subjects

    def new_stream(self, kind: str, *, skip: bool = False, small: bool = False) -> Stream:
        """A connected stream; *small* makes its buffers in the kernel so, that sends have to wait."""
        ours: Any
        peer: Any
        if kind in (PIPE_IN, PIPE_OUT):
            reader, writer = unio.pipe()
            ours, peer = (reader, writer) if kind == PIPE_IN else (writer, reader)
            os.set_blocking(peer.fileno(), False)
            if small and hasattr(fcntl, "F_SETPIPE_SZ"):
                fcntl.fcntl(peer, fcntl.F_SETPIPE_SZ, 4096)
            return Stream(self, ours, peer, kind, skip=skip)
        if kind == LOCAL:
            ours, peer = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as listening:
                ours = socket.create_connection(listening.getsockname(), PATIENCE)
                peer, _ = listening.accept()
        for sock in ours, peer:
            sock.setblocking(False)
            if small:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        return Stream(self, ours, peer, kind, skip=skip)

    def new_connection(self, *, refused: bool = False, timeout: float | None = None) -> Stream:
        """A stream that connects through the port."""
        stream = Stream(self, socket.socket(), None, TCP)
        stream.connect(self.nobody if refused else self.meeting.getsockname(), timeout)
        return stream

    def connecting(self, change: int) -> None:
        with self.lock:
            self._connecting += change
            if self._connecting == 0:
                self._meet()
                for peer in self._met.values():  # of connects that were cancelled
                    peer.close()
                self._met.clear()

    def _meet(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                peer, address = self.meeting.accept()
                peer.setblocking(False)
                self._met[address] = peer

    def peer_of(self, address: Any) -> socket.socket:
        """The other end of a connection that has just been made."""
        with self.lock:
            if address not in self._met:
                self._meet()
            peer = self._met.pop(address, None)
            check(peer is not None, "connected, and nobody is there:", address)
            assert peer is not None
            return peer

    # Posts and waits

    def post(self, poster: int = 0) -> None:
        packet = Packet(poster, next(self._packets))
        with self.lock:
            self._posted[poster][packet] = None
        self.port.post(self, packet, packet.number)
        self.count("posted")

    def wait(self, timeout: float = 0, limit: int = 64) -> int:
        """Wait, check what came, and return how many there were."""
        plainly, self._closed_plainly = self._closed_plainly, []
        start = time.monotonic()
        completions = self.port.wait(timeout, limit)
        took = time.monotonic() - start
        check(len(completions) <= limit, len(completions), "completions for a limit of", limit)
        check(completions or took >= timeout, "nothing after", took, "seconds instead of", timeout)
        latest: dict[int, int] = {}
        for completion in completions:
            self._take(completion, latest)
        for subject in plainly:
            self._check_closed_plainly(subject, found_all=not completions and bool(os.environ.get("STRICT")))
        return len(completions)

    def _take(self, completion: unio.Completion, latest: dict[int, int]) -> None:
        self.count("completed")
        key, operation, transferred, error = completion
        if key is self:
            self._take_packet(operation, transferred, error, latest)
            return
        submission = operation.state
        with submission.subject.lock:
            check(key is submission.subject, "completed with another key:", submission)
            submission.subject.end(submission, transferred, error)

    def _take_packet(self, packet: Packet, transferred: int, error: object, latest: dict[int, int]) -> None:
        check(error is None and transferred == packet.number, "a packet was changed:", packet, transferred, error)
        with self.lock:
            posted = self._posted[packet.poster]
            if packet not in posted:
                self.count("doubled")
                raise Violation(f"posted once and delivered twice: {packet}")
            check(not self.ordered or packet is next(iter(posted)), "a packet overtook another:", packet)
            del posted[packet]
        check(packet.number > latest.get(packet.poster, 0), "packets of one batch out of order:", packet)
        latest[packet.poster] = packet.number

    def closed_plainly(self, subject: Subject) -> None:
        if self.ordered:
            self._closed_plainly.append(subject)

    def _check_closed_plainly(self, subject: Subject, *, found_all: bool) -> None:
        """A wait that finds nothing has ended what was in flight, but for what a thread is just doing to a file."""
        if not found_all:
            self._closed_plainly.append(subject)
        elif not isinstance(subject, File):
            check(not subject.pending, "closed plainly, and after a wait still pending:", list(subject.pending))

    # Ends

    def sweep(self) -> None:
        """Retire what is closed and has nothing pending."""
        with self.lock:
            ended = [each for each in self.subjects if each.closed and not each.pending]
            self.subjects = [each for each in self.subjects if each not in ended]
        for subject in ended:
            try:
                subject.retire()
            except Violation:
                subject.abandon()
                raise

    def _owed(self) -> list[Submission]:
        return [submission for subject in self._all() for submission in subject.owes()]

    def _all(self) -> list[Subject]:
        with self.lock:
            return list(self.subjects)

    def _packets_pending(self) -> int:
        with self.lock:
            return sum(len(packets) for packets in self._posted.values())

    def settle(self) -> None:
        """Wait until everything has completed that can without more being done, with the peers reading."""
        deadline = time.monotonic() + PATIENCE
        while (owed := self._owed()) or self._packets_pending():
            check(time.monotonic() < deadline, self._packets_pending(), "packets and these do not complete:", owed)
            for subject in self._all():
                subject.peer_drains()
            self.wait(0.02)
        self.sweep()

    def close_all(self) -> None:
        """Close all handles; everything in flight must complete, and then nothing may be left."""
        self.timers.close()
        while subjects := [each for each in self._all() if each is not self.timers]:
            for subject in subjects:
                subject.close()
            self.settle()  # an accept that won against its cancel makes another one
        self.settle()
        check(self.lost() == 0, "never completed:", list(self.timers.pending), self._packets_pending(), "packets")
        check(self.port.wait(0) == [], "a completion of nobody's")

    def end(self) -> None:
        """Close all handles, then the port."""
        self.close_all()
        self.close()

    def lost(self) -> int:
        """How many submissions and packets have not completed."""
        with self.lock:
            return sum(len(each.pending) for each in self.subjects) + self._packets_pending()

    def end_abruptly(self) -> None:
        """Close the port with everything in flight, then the objects, which live on."""
        self.port.close()
        for call in (lambda: self.port.wait(0), lambda: self.port.post(None), lambda: self.timers.start(0)):
            check(_raises_port_closed(call), "a closed port was usable")
        self.close()

    def close(self) -> None:
        """Let go of everything, whatever state it is in."""
        self._resources.close()
        for peer in self._met.values():
            peer.close()
        for subject in self.subjects:
            subject.abandon()
        self.subjects.clear()


def _raises_port_closed(call: Callable[[], object]) -> bool:
    try:
        call()
    except unio.PortClosed:
        return True
    return False

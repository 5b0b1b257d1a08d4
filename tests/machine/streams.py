"""Streams: sockets and pipes, with peers that the model plays."""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import select
import socket
import struct
from typing import TYPE_CHECKING, Any

from machine.pattern import PERIOD, Sizes, one_or_many, pattern, split, taken
from machine.subject import Subject, Submission, Violation, check
from platforms import WINDOWS
from support import PATIENCE
from wine import has_row

import unio

if TYPE_CHECKING:
    from machine.world import World

LOCAL, TCP, PIPE_IN, PIPE_OUT = "local", "tcp", "pipe in", "pipe out"
STREAMS = (LOCAL, TCP) if WINDOWS else (LOCAL, TCP, PIPE_IN, PIPE_OUT)  # its pipes have no non-blocking peers


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
        self.counted = True  # it is known how much was sent
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
        if self.peer is None and has_row("send-at-end"):
            return False
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

    def receive_many(self, count: int, sizes: Sizes) -> None:
        """More than a backend tries in one go."""
        for _ in range(count):
            self.receive(sizes)

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
                self.sent += _write(self.peer, pattern(self.base + self.sent, size))
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
                data = _read(self.peer, size)
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

    def peer_drains(self) -> bool:
        drained = False
        while self.peer_receives():
            drained = True
        return drained

    def _must_not_end(self) -> bool:
        """Whether an end now would let a send hang, which even a cancel need not end any more."""
        return bool(self.sends) and has_row("send-at-end")

    def peer_half_closes(self) -> None:
        with self.lock:
            if self.connected and self.is_socket and not self.ended and not self._must_not_end():
                self.ended = True
                with contextlib.suppress(OSError):  # this end may have reset it
                    self.peer.shutdown(socket.SHUT_WR)

    def peer_closes(self) -> None:
        with self.lock:
            if self.connected and not self._must_not_end():
                self.ended = True
                self._drop_peer()

    def peer_resets(self) -> None:
        """Close the peer abortively, where there is such a thing."""
        with self.lock:
            if self.kind != TCP:
                self.peer_closes()
            elif self.connected and not self._must_not_end():
                self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.reset = self.ended = True
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
        left = (self.ended and self.peer is None) or self.disconnected  # which resets a peer that goes on sending
        match submission.operation:
            case unio.Recv():
                return left and self.is_socket and isinstance(error, ConnectionResetError)
            case unio.Send() | unio.SendFile():
                if isinstance(error, BrokenPipeError):
                    return self.shut_down or (left and not self.is_socket)
                if has_row("send-after-reset") and error.errno == errno.ENOTCONN:
                    return self.shut_down or self.ended or left
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
            whole = whole and not has_row("end-before-data")
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
        if isinstance(submission.operation, unio.SendFile) and submission.error and has_row("cancelled-send-file"):
            self.counted = False
        if submission.transferred:
            check(not self.is_shut_down, "sent after the shutdown:", submission)
            self.expected.append(pattern(submission.start, submission.transferred))
        elif isinstance(submission.operation, (unio.Shutdown, unio.Disconnect)) and submission.error is None:
            self.is_shut_down = True
            self.is_disconnected |= isinstance(submission.operation, unio.Disconnect)

    def _match(self) -> None:
        """Compare what the peer received with what completed sends reported."""
        if not self.counted or (self.ended and has_row("send-at-end")):
            self.seen.clear()
            self.expected.clear()
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
            readable = self._readable()
            if self.receives and readable:
                owed.append(self.receives[0])
            owed += self.sends
            for each in self.pending:
                match each.operation:
                    case unio.Connect():
                        owed.append(each)
                    case unio.Poll() if not (self.ended and self.shut_down and has_row("poll-at-end")):
                        wanted = each.operation.readiness
                        if wanted & unio.Readiness.READABLE and readable and not self.receives:
                            owed.append(each)
                        if wanted & unio.Readiness.WRITABLE and self.can_send and not self.sends:
                            owed.append(each)
            return owed

    def _readable(self) -> bool:
        return (self.sent > self.received or self.ended or self.is_disconnected) and not self.connecting

    def goes_on(self) -> bool:
        return bool(self.sends or (self.receives and self._readable()))

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
        while not self.seen_end:
            self.peer_drains()
            if not self.seen_end:
                check(_readable(self.peer), "closed, and the peer sees no end:", self)
        if not (self.peer_failed or has_row("receive-after-reset")):
            check(not self.expected, "the peer saw the end before the data:", self)


def _write(peer: Any, data: memoryview) -> int:
    return peer.send(data) if isinstance(peer, socket.socket) else os.write(peer.fileno(), data)


def _read(peer: Any, size: int) -> bytes:
    return peer.recv(size) if isinstance(peer, socket.socket) else os.read(peer.fileno(), size)


def _readable(peer: Any) -> bool:
    """Wait until the peer has something to read; whether it has."""
    if WINDOWS:
        return bool(select.select([peer], [], [], PATIENCE)[0])
    poll = select.poll()
    poll.register(peer, select.POLLIN)
    return bool(poll.poll(PATIENCE * 1000))

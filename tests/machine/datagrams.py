"""Datagram sockets."""

from __future__ import annotations

import collections
import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Any

from machine.pattern import Sizes, one_or_many, pattern, taken
from machine.subject import Subject, Submission, check

import unio

if TYPE_CHECKING:
    from machine.world import World


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

    def peer_drains(self) -> bool:
        drained = False
        with self.lock, contextlib.suppress(BlockingIOError):
            while self.peer.fileno() >= 0:
                data, sender = self.peer.recvfrom(1 << 16)
                check(sender == self.address, "a datagram of a stranger:", sender)
                self.seen.append(data)
                self._match()
                drained = True
        return drained

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

    def goes_on(self) -> bool:
        return bool(self.sends or (self.incoming and self.receives))

    def finish(self) -> None:
        self.peer_drains()
        check(not self.expected, "datagrams were lost:", len(self.expected))
        self.peer.close()

    def things(self) -> list[Any]:
        return [self.thing, self.peer]

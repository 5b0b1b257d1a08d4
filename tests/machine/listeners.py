"""Listening sockets, to which peers connect."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

from machine.streams import TCP, Stream
from machine.subject import Subject, Submission, check
from support import PATIENCE

import unio

if TYPE_CHECKING:
    from machine.world import World


class Listener(Subject):
    """A listening socket of the port's; the peers connect to it and the accepted sockets become streams."""

    def __init__(self, world: World) -> None:
        self.waiting: dict[Any, socket.socket | None] = {}  # by address; None has left before it was accepted
        self.may_be_passed_over: set[Any] = set()  # the addresses of those that have reset before it
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

    def peer_leaves(self, index: int, reset: bool) -> None:
        """A peer that nobody has accepted yet goes away."""
        with self.lock:
            present = [address for address, peer in self.waiting.items() if peer is not None]
            if present:
                address = present[index % len(present)]
                peer = self.waiting[address]
                assert peer is not None
                if reset:
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.may_be_passed_over.add(address)
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
        self.world.accepted.append(stream)

    def owes(self) -> list[Submission]:
        with self.lock:
            certain = self.waiting.keys() - self.may_be_passed_over
            return super().owes() + list(self.pending)[: len(certain)]

    def finish(self) -> None:
        for peer in self.waiting.values():
            if peer is not None:
                peer.close()
        self.waiting.clear()

    def things(self) -> list[Any]:
        accepted = [each.operation.socket for each in self.pending if each.operation.socket]  # not delivered any more
        return [self.thing, *self.waiting.values(), *accepted]

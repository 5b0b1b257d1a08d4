"""Threads that close their sockets plainly while others submit: nobody gets what came for another socket."""

from __future__ import annotations

import contextlib
import queue
import random
import socket
import sys
from typing import Any

import pytest
from support import PATIENCE, Background, in_threads, restless

import unio

OWNERS = 6
ROUNDS = 80
MOST_AHEAD = 24
"""More receives than a direction gets attempts in one go."""


@pytest.mark.skipif(sys.platform == "win32", reason="there, a number is not the lowest that is free")
@pytest.mark.process_wide
@pytest.mark.timeout(300)
@pytest.mark.clause("A3", "X3", "P2")
def test_no_thread_gets_what_came_for_another_socket(port: unio.Port) -> None:
    def hand_out() -> None:
        """Bring each completion to the thread whose socket it is of: the key of the handle."""
        with contextlib.suppress(unio.PortClosed):
            while True:
                for found in port.wait(0.01):  # each wait looks for what was closed
                    found.key.put(found)

    def own(number: int) -> int:
        choice = random.Random(number)
        return sum([Owned(port, f"{number}.{each}").live(choice.randrange(MOST_AHEAD)) for each in range(ROUNDS)])

    waiter = Background(hand_out)
    with restless():
        received = sum(in_threads(OWNERS, own))
    port.close()
    waiter.result()
    assert 0 < received <= OWNERS * ROUNDS


class Owned:
    """A connection of one thread's: what comes on it has its name."""

    def __init__(self, port: unio.Port, name: str) -> None:
        self.port = port
        self.name = name.encode()
        self.completed: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def live(self, ahead: int) -> bool:
        """Have receives complete, close plainly, and have who gets the number receive. Returns whether the last did.

        That one is behind the others, so that its turn comes within a wait of another thread's.
        """
        near, far = socket.socketpair()
        with far:
            handle = self.port.associate(near, self.completed)
            for _ in range(ahead):
                self.port.submit(unio.Recv(handle, bytearray(0)))
            last = unio.Recv(handle, bytearray(100))
            self.port.submit(last)
            if ahead:
                far.send(self.name)
            for _ in range(ahead):
                assert self.completion().error is None
            near.close()
            self.succeed()
            found = self.completion()
        assert found.operation is last
        if found.error is None:
            assert last.data == self.name
        else:
            assert type(found.error) is unio.Cancelled
        return found.error is None

    def succeed(self) -> None:
        """Make a connection, of which one end has the number that is free now, unless another thread was quicker."""
        near, far = socket.socketpair()
        with near, far:
            for end, other in ((near, far), (far, near)):
                end.settimeout(PATIENCE)
                other.send(b"to " + self.name)
                assert end.recv(100) == b"to " + self.name

    def completion(self) -> unio.Completion:
        found: unio.Completion = self.completed.get(timeout=PATIENCE)
        return found

"""Threads that lose the processor at random points of unio's own code: at none of them what they share is torn.

What is drawn follows from the seed in the name of a test; what the system makes of it doesn't. The points are lines of
Python, so that this reaches most where no part in C takes the short way: on kqueue, and on epoll without the GIL.
"""

from __future__ import annotations

import collections
import contextlib
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from support import HOME, PATIENCE, Background, Result, batch, restless

import unio

CREW = 3
"""How many threads cause packets, and how many take them."""

ROUNDS = 40

WAYS = ("post", "timer", "receive", "receive", "cancel", "time-out", "close")
"""How a packet may come to be."""

CHANCE = 0.05
"""Of a line, that its thread lets others go on before it."""


def let_others_go_on(choice: random.Random) -> None:
    """For longer or shorter."""
    for _ in range(choice.choice((1, 4, 40))):
        time.sleep(0)


class Yielding(Background[Result]):
    """A thread that lets others go on before lines of unio's own code that are drawn."""

    def __init__(self, choice: random.Random, function: Callable[..., Result], *arguments: Any) -> None:
        self._choice = choice
        super().__init__(function, *arguments)

    def run(self) -> None:
        sys.settrace(self._trace)
        try:
            super().run()
        finally:
            sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(HOME):
            return None
        if event == "line" and self._choice.random() < CHANCE:
            let_others_go_on(self._choice)
        return self._trace


class Rounds:
    """In each round every causing thread brings about one packet, and every taking one takes one and then blocks.

    So nobody comes back to make up for a wake-up that somebody else has lost.
    """

    def __init__(self, port: unio.Port, cap: int) -> None:
        self.port = port
        self.cap = cap
        self.caused: collections.deque[Any] = collections.deque()
        self.taken: collections.deque[Any] = collections.deque()
        self._running: collections.deque[None] = collections.deque()
        self.failures: list[BaseException] = []
        self._end_of_round = threading.Barrier(2 * CREW, self._compare)

    def _compare(self) -> None:
        """Each packet that was caused was taken once, and no other."""
        assert collections.Counter(map(id, self.taken)) == collections.Counter(map(id, self.caused))
        self.taken.clear()
        self.caused.clear()

    def _end_round(self) -> None:
        self._end_of_round.wait(2 * PATIENCE)

    @contextlib.contextmanager
    def _or_nobody(self) -> Iterator[None]:
        """Who fails ends the others as well."""
        try:
            yield
        except threading.BrokenBarrierError:  # somebody else has failed
            pass
        except BaseException as error:  # noqa: BLE001 - the test raises it again
            self.failures.append(error)
            self._end_of_round.abort()

    def take(self, choice: random.Random) -> None:
        with self._or_nobody():
            for _ in range(ROUNDS):
                found = batch(self.port, limit=1)
                self._running.append(None)
                self.taken.append(found[0].operation)
                let_others_go_on(choice)
                assert len(self._running) <= self.cap
                self._running.pop()
                with self.port.blocking():
                    self._end_round()

    def cause(self, choice: random.Random, ways: tuple[str, ...]) -> None:
        with self._or_nobody(), contextlib.ExitStack() as stack:
            connection = Connection(self.port, stack)
            for _ in range(ROUNDS):
                if connection.handle.closed:
                    connection = Connection(self.port, stack)
                way = choice.choice(ways)
                operation = unio.Timer(0) if way == "timer" else unio.Recv(connection.handle, bytearray(1))
                self.caused.append(operation)
                if way == "post":
                    self.port.post(None, operation)
                else:
                    self.port.submit(operation, 0 if way in ("time-out", "all at once") else None)
                connection.disturb(way, operation)
                self._end_round()


class Connection:
    """What is received on, and what ends a receive."""

    def __init__(self, port: unio.Port, stack: contextlib.ExitStack) -> None:
        self._port = port
        near, self._far = map(stack.enter_context, socket.socketpair())
        self.handle = port.associate(near)

    def disturb(self, way: str, operation: unio.Operation) -> None:
        if way in ("receive", "all at once"):
            self._far.send(b"x")
        if way in ("cancel", "all at once"):
            self._port.cancel(operation)
        if way in ("close", "all at once"):
            self.handle.close()


@pytest.mark.clause("P2", "P4", "P8", "S1", "X1", "X3")
@pytest.mark.parametrize("concurrency", [1, 2], ids=["one runs", "two run"])
@pytest.mark.parametrize("ways", [WAYS, (*WAYS, "all at once")], ids=["one by one", "all at once"])
@pytest.mark.parametrize("seed", [1, 2, 3], ids="seed {}".format)
def test_each_packet_comes_once_wherever_threads_lose_the_processor(
    backend: str, monkeypatch: pytest.MonkeyPatch, seed: int, ways: tuple[str, ...], concurrency: int
) -> None:
    # No clock shows who blocks, as on macOS. Otherwise a thread that got no processor for long would lose its place to
    # another one, and one that failed to give it back would be found out.
    monkeypatch.delattr(time, "pthread_getcpuclockid", raising=False)
    choice = random.Random(seed)
    with unio.Port(backend=backend, concurrency=concurrency) as port, restless():
        # Where the kernel sees who blocks, one that waits for Python's lock does.
        rounds = Rounds(port, CREW if backend == "iocp" else concurrency)
        threads: list[Yielding[None]] = []
        for _ in range(CREW):
            taking, causing = random.Random(choice.random()), random.Random(choice.random())
            threads.append(Yielding(taking, rounds.take, taking))
            threads.append(Yielding(causing, rounds.cause, causing, ways))
        for thread in threads:
            thread.result()
        for failure in rounds.failures:
            raise failure
        assert port.wait(0) == []

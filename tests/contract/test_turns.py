"""Threads that take turns at a port: who is left what comes, and who takes over when that one doesn't come back."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable

import pytest
from support import PATIENCE, Background, asleep, batch, completion, times_slept, until

import unio
from unio.backends.common.accelerator import has_fast_path

MakePair = Callable[..., tuple[socket.socket, socket.socket]]

QUICK = 500
"""After so many packets that it was quick with, a thread is known to be quick."""

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, which counts how often a thread slept")
needs_gil = pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="without the GIL a second thread gains something"
)


class Quick:
    """A thread that is quick with many packets; another waits on the port meanwhile, and came before it."""

    def __init__(self, port: unio.Port) -> None:
        self.port = port
        self.other: Background[unio.Completion] = Background(self._take)
        asleep(self.other)
        self._left = QUICK

    def _take(self) -> unio.Completion:
        while (found := batch(self.port, limit=1)[0]).key == "quick":
            self.port.post("quick")  # for the quick one
        return found

    def be_quick(self) -> None:
        """Take many packets, one after the other; there is always a next one."""
        for _ in range(8):
            self.port.post("quick")
        for _ in range(QUICK):
            if batch(self.port, limit=1)[0].key == "quick":
                self.port.post("quick")
        left = 8
        while left:
            left -= len(self.port.wait(0, limit=1))


def goes_to_sleep(quick: Quick, done: threading.Event) -> None:
    completion(quick.port)
    done.wait(PATIENCE)


def says_that_it_blocks(quick: Quick, done: threading.Event) -> None:
    completion(quick.port)
    with quick.port.blocking():
        done.wait(PATIENCE)


def ends(quick: Quick, _: threading.Event) -> None:
    completion(quick.port)


def goes_to_another_port(quick: Quick, done: threading.Event) -> None:
    completion(quick.port)
    with unio.Port() as port:
        port.post("other")
        completion(port)
        done.wait(PATIENCE)


LEAVES = [goes_to_sleep, says_that_it_blocks, ends, goes_to_another_port]


@pytest.mark.clause("P2", "P4")
@pytest.mark.parametrize("leave", LEAVES, ids=lambda leave: leave.__name__.replace("_", " "))
@pytest.mark.parametrize("cause", ["post", "post before", "receive", "timer"])
def test_what_a_quick_thread_was_left_goes_to_another_when_it(
    port: unio.Port, make_pair: MakePair, leave: Callable[[Quick, threading.Event], object], cause: str
) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    quick = Quick(port)
    done, gone = threading.Event(), threading.Event()

    def run() -> None:
        quick.be_quick()
        port.submit(unio.Recv(handle, bytearray(1)))
        port.start_gathered()
        port.post("the last that it takes")
        if cause == "post before":
            port.post("for the other one")
        gone.set()
        leave(quick, done)

    leaving = Background(run)
    assert gone.wait(PATIENCE)
    if cause == "post":
        port.post("for the other one")
    elif cause == "receive":
        far.send(b"x")
    elif cause == "timer":
        port.submit(unio.Timer(0.001))
    try:
        found = [quick.other.result()]
        if found[0].key == "the last that it takes":  # which of two takes it, nobody says
            port.post("for the quick one")
    finally:
        done.set()
        port.post("more")
    leaving.result()


@needs_proc
@needs_gil
@pytest.mark.clause("P4")
def test_threads_that_only_move_bytes_do_not_wake_one_another(
    backend: str, resources: contextlib.ExitStack, make_pair: MakePair
) -> None:
    port = resources.enter_context(unio.Port(backend=backend, concurrency=2))
    messages = 16000  # in the first few hundred they get to know how quick they are
    handled: list[None] = []
    for _ in range(16):
        for sock in make_pair(local=True):
            handle = port.associate(sock)
            port.submit(unio.Recv(handle, bytearray(8)))
        port.submit(unio.Send(handle, b"message!"))

    def echo() -> int:
        before = times_slept(threading.current_thread())
        while len(handled) < messages:
            for found in port.wait(0.1):
                if isinstance(found.operation, unio.Recv):
                    handled.append(None)
                    port.submit(unio.Send(found.operation.handle, found.operation.buffer))
                    port.submit(found.operation)
        return times_slept(threading.current_thread()) - before

    threads = [Background(echo) for _ in range(2)]
    # Before they took turns it was one for 6 messages, and nearly 3 for each in Python, which makes more calls.
    assert sum(thread.result() for thread in threads) < (messages / 10 if has_fast_path else messages)


@pytest.mark.clause("P2", "S1")
@pytest.mark.parametrize("seconds", [0.0001, 10], ids=["over soon", "never over"])
def test_no_connection_is_forgotten_between_threads_whose_waits_are(
    port: unio.Port, make_pair: MakePair, seconds: float
) -> None:
    rounds, pairs = 200, 16
    finished: list[None] = []
    for _ in range(pairs):
        for sock in make_pair(local=True):
            handle = port.associate(sock)
            port.submit(unio.Recv(handle, bytearray(8), state=[rounds]))
        port.submit(unio.Send(handle, b"message!"))

    def echo() -> None:
        while True:
            for found in port.wait(seconds):
                if found.key == "exit":
                    return
                if isinstance(found.operation, unio.Recv):
                    found.operation.state[0] -= 1
                    if found.operation.state[0] == 0:
                        finished.append(None)
                        continue
                    port.submit(unio.Send(found.operation.handle, found.operation.buffer))
                    port.submit(found.operation)

    threads = [Background(echo) for _ in range(4)]
    until(lambda: len(finished) == pairs)  # the other end of each has got one less
    for ended in range(len(threads)):
        port.post("exit")
        until(lambda ended=ended: sum(not thread.is_alive() for thread in threads) > ended)
    for thread in threads:
        thread.result()

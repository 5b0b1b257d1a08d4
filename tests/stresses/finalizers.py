"""The program's own code in the middle of unio's: the garbage collector drops ports, cancels and closes."""

from __future__ import annotations

import contextlib
import gc
import random
import socket
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from stresses.ledger import STOP, Ledger, alive

import unio


class Finalized:
    """Calls a function when the garbage collector finds it, as only a cycle leads to it."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function
        self.itself = self

    def __del__(self) -> None:
        self.function()


class Owner:
    """Has a connection, and closes it as it goes."""

    def __init__(self, handle: unio.Handle, far: socket.socket, number: int) -> None:
        self.handle = handle
        self.far = far
        self.number = number

    def __del__(self) -> None:
        self.handle.close()
        self.far.close()


class Finalizing:
    """What one thread does to a port that all share."""

    STEPS = 150

    def __init__(self, port: unio.Port, ledger: Ledger, choice: random.Random) -> None:
        self.port = port
        self.ledger = ledger
        self.choice = choice
        near, self.far = socket.socketpair()
        self.far.setblocking(False)
        self.handle = port.associate(near, "own")
        self.actions = [self.drop_port, self.associate, self.cancel_timer, self.cancel_handle, self.own] + 3 * [
            self.talk
        ]

    def run(self) -> None:
        for _ in range(self.STEPS):
            self.choice.choice(self.actions)()
            alive()

    def end(self) -> None:
        self.handle.close()
        self.far.close()

    def submit(self, make: Callable[..., unio.Operation], *arguments: Any, timeout: float | None = None) -> Any:
        operation = make(*arguments, state=self.ledger.owe(make.__name__))
        self.port.submit(operation, timeout)
        return operation

    def drop_port(self) -> None:
        near, far = socket.socketpair()
        ring: list[Any] = [unio.Port(backend=self.port.backend)]
        ring[0].submit(unio.Recv(ring[0].associate(near, ring), bytearray(1)))
        ring[0].submit(unio.Timer(3600))
        ring.append(ring)
        far.close()
        self.ledger.counts["ports dropped"] += 1

    def associate(self) -> None:
        near, far = socket.socketpair()
        handle = self.port.associate(near, "another")
        self.submit(unio.Recv, handle, bytearray(1))
        handle.close()
        far.close()

    def cancel_timer(self) -> None:
        Finalized(partial(self.port.cancel, self.submit(unio.Timer, 3600)))

    def cancel_handle(self) -> None:
        thing = Finalized(lambda: None)
        weakref.finalize(thing, self.handle.cancel).atexit = False
        del thing
        self.submit(unio.Recv, self.handle, bytearray(1), timeout=3600)

    def own(self) -> None:
        near, far = socket.socketpair()
        handle = self.port.associate(near, "owned")
        first: Any = unio.Recv(handle, bytearray(1))
        first.state = Owner(handle, far, self.ledger.owe("Recv of an owner"))
        second = unio.Recv(handle, bytearray(1), state=self.ledger.owe("Recv that an owner closes"))
        pair = [first, second] if self.choice.random() < 0.7 else [second, first]
        del first, second
        for operation in pair:
            self.port.submit(operation)
        if self.choice.random() < 0.7:
            far.send(b"x")
        else:
            self.port.cancel(pair[0])
        if pair[0].state.__class__ is int:  # its owner's is behind it, and has to end as well
            self.port.cancel(pair[1])

    def talk(self) -> None:
        timeout = self.choice.choice([None, 3600, 0.0005])
        receive = self.submit(unio.Recv, self.handle, bytearray(1), timeout=timeout)
        self.submit(unio.Send, self.handle, b"x")
        self.submit(unio.Poll, self.handle, unio.Readiness.WRITABLE)
        self.submit(unio.Timer, self.choice.choice([0, 0.0005]))
        with contextlib.suppress(BlockingIOError):
            self.far.send(b"x" * self.choice.randrange(3))
            self.far.recv(1000)
        if self.choice.random() < 0.3:
            self.port.cancel(receive)


def take_until_stopped(port: unio.Port, ledger: Ledger) -> None:
    while True:
        for found in port.wait(limit=1):
            if found.key is STOP:
                return
            state = found.operation.state
            ledger.came(state.number if isinstance(state, Owner) else state)
            del found, state


def finalizers(ledger: Ledger, backend: str | None, choice: random.Random) -> None:
    """One round: four threads work on a port, and three take what completes there."""
    gc.set_threshold(choice.randint(1, 50), choice.randint(1, 10), choice.randint(1, 10))
    with unio.Port(backend=backend) as port:
        takers = [ledger.thread(take_until_stopped, port, ledger) for _ in range(3)]
        works = [Finalizing(port, ledger, random.Random(choice.random())) for _ in range(4)]
        threads = [ledger.thread(work.run) for work in works]
        for thread in threads:
            thread.join()
        for work in works:
            work.end()
        ledger.settle(gc.collect)
        for _ in takers:
            port.post(STOP)
        for taker in takers:
            taker.join()
        gc.collect()  # no other thread is in the middle of it any more: what still wants to reach the port has done so

"""Ports that only a call, or a method, holds: the last reference goes while threads wait."""

from __future__ import annotations

import gc
import queue
import random
import socket
import threading
import time
import weakref
from functools import partial
from typing import Any

from machine.subject import check
from patience import PATIENCE
from stresses.ledger import Ledger, alive

import unio


class Held:
    """What one thread does with ports that only a call, or a method, holds."""

    STEPS = 40

    def __init__(self, ledger: Ledger, backend: str | None, choice: random.Random) -> None:
        self.ledger, self.choice = ledger, choice
        self.make = partial(unio.Port, backend=backend, concurrency=16)
        self.known: list[weakref.ref[unio.Port]] = []
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def port(self) -> unio.Port:
        made = self.make()
        self.known.append(weakref.ref(made))
        return made

    def run(self) -> None:
        actions = [self.receive, self.post_alone, self.many, self.close, self.cycle, self.timer]
        for _ in range(self.STEPS):
            self.choice.choice(actions)()
            alive()

    def waiting(self, ports: list[Any], count: int = 1) -> list[threading.Thread]:
        """Threads that wait on the ports of a list, which keep nothing but what their calls do."""

        def wait() -> None:
            try:
                self.answers.put(ports.pop().wait(limit=1))
            except unio.PortClosed as error:
                self.answers.put(type(error))

        def call() -> None:
            try:
                self.answers.put(ports.pop()(limit=1))
            except unio.PortClosed as error:
                self.answers.put(type(error))

        if self.choice.random() < 0.5:
            ports[:] = [port.wait for port in ports]
            return [self.ledger.thread(call) for _ in range(count)]
        return [self.ledger.thread(wait) for _ in range(count)]

    def pause(self) -> None:
        """Nothing, or as long as a thread takes to come to its wait."""
        if self.choice.random() < 0.7:
            time.sleep(self.choice.random() / 500)

    def answer(self, number: int, threads: list[threading.Thread]) -> Any:
        found = self.answers.get(timeout=PATIENCE / 2)
        for thread in threads:
            thread.join()
        self.ledger.came(number)
        return found

    def receive(self) -> None:
        near, far = socket.socketpair()
        ports = [self.port()]
        recv: Any = unio.Recv(ports[0].associate(near), bytearray(5))
        ports[0].submit(recv)
        number = self.ledger.owe("receive")
        threads = self.waiting(ports)
        self.pause()
        far.send(b"hello")
        [(_, operation, transferred, error)] = self.answer(number, threads)
        check((operation, transferred, error, bytes(recv.buffer)) == (recv, 5, None, b"hello"), "not what was sent")
        near.close()
        far.close()

    def timer(self) -> None:
        ports = [self.port()]
        timer = unio.Timer(self.choice.choice([0, 0.001]))
        ports[0].submit(timer)
        number = self.ledger.owe("timer")
        [found] = self.answer(number, self.waiting(ports))
        check(found.operation is timer, "another operation:", found)

    def post_alone(self) -> None:
        post = self.port().post
        number = self.ledger.owe("post")
        post(number)
        port: Any = post.__self__  # type: ignore[attr-defined]
        del post
        wait = port.wait
        del port
        [found] = wait()
        check(found.key == number, "another packet:", found)
        self.ledger.came(number)

    def many(self) -> None:
        """Several threads wait, and only they and a post hold the port."""
        count = self.choice.randint(2, 4)
        port = self.port()
        post = port.post
        ports = [port] * count
        del port
        threads = self.waiting(ports, count)
        self.pause()
        numbers = {self.ledger.owe("post to many") for _ in range(count)}
        for number in numbers:
            post(number)
        del post
        came = [self.answers.get(timeout=PATIENCE / 2)[0].key for _ in range(count)]
        for thread in threads:
            thread.join()
        check(sorted(came) == sorted(numbers), "posts differ:", came, numbers)
        for number in came:
            self.ledger.came(number)

    def close(self) -> None:
        ports = [self.port()]
        close = ports[0].close
        number = self.ledger.owe("wait that a close ends")
        threads = self.waiting(ports)
        self.pause()
        close()
        del close
        check(self.answer(number, threads) is unio.PortClosed, "a wait on a closed port has returned something")

    def cycle(self) -> None:
        """A port in a cycle, which the collector may look at during the wait."""
        near, far = socket.socketpair()
        ports: list[Any] = [self.port()]
        recv: Any = unio.Recv(ports[0].associate(near, [ports[0]]), bytearray(1), state=[ports[0]])
        ports[0].submit(recv)
        number = self.ledger.owe("receive of a cycle")
        threads = self.waiting(ports)
        del recv
        gc.collect(0)
        self.pause()
        far.send(b"x")
        [found] = self.answer(number, threads)
        check(found.transferred == 1, "not what was sent:", found)
        near.close()
        far.close()


def held(ledger: Ledger, backend: str | None, choice: random.Random) -> None:
    """One round: three threads make ports, and others wait on them."""
    works = [Held(ledger, backend, random.Random(choice.random())) for _ in range(3)]
    threads = [ledger.thread(work.run) for work in works]
    for thread in threads:
        thread.join()
    gc.collect()
    ledger.settle()
    check(not any(known() for work in works for known in work.known), "a port is held by nobody, and is there")

"""Three kinds of trouble, each for as long as one likes; not part of the suite.

    python tests/stress.py finalizers --seconds 600
    python tests/stress.py memory --seconds 600
    python tests/stress.py held --seconds 600

``finalizers``: the program's own code runs in the middle of unio's, in many threads: the garbage collector drops ports,
cancels and closes. ``memory``: allocations fail in each kind of call. ``held``: the last reference to a port goes while
threads wait on it, and methods are kept alone.

What is submitted is owed a completion, and each comes once. The last lines of the output have the figures and what was
wrong. The exit status is 1 if something was lost, doubled or left over, and also when nothing has happened for a
minute: then the standard error says where each thread is.
"""

# ruff: noqa: T201 - a script speaks to whoever runs it

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import gc
import itertools
import queue
import random
import socket
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from machine.subject import Violation, check
from machine.world import handles_agree
from patience import PATIENCE
from scarcity import WHY_NOT, lacking
from support import open_handles
from wine import has_row

import unio

STOP = object()

SENDS_END = not has_row("cancel-amid-retry")
"""Whether a send can be cancelled so that it is known what it has sent; else it is left to its own end."""

_pulse = 0.0


def alive() -> None:
    """Something has happened: from now on nothing may stand still for PATIENCE seconds, or the program ends."""
    global _pulse  # noqa: PLW0603 - of all threads
    now = time.monotonic()
    if now - _pulse > 1:
        _pulse = now
        faulthandler.dump_traceback_later(PATIENCE, exit=True)


class Ledger:
    """What is owed a completion, under a number of its own, which is (or is on) the operation's state."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self._due: dict[int, str] = {}
        self._numbers = itertools.count(1)

    def owe(self, what: str) -> int:
        number = next(self._numbers)
        self._due[number] = what
        return number

    def remit(self, number: int) -> None:
        """It was refused."""
        del self._due[number]

    def came(self, number: int) -> None:
        alive()
        if (what := self._due.pop(number, None)) is None:
            self.problems.append(f"operation {number} has completed twice, or was never submitted")
        else:
            self.counts[what] += 1  # a thread may be overtaken here; these are figures and no proof

    def settle(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Return when all has come, or raise when nothing comes any more."""
        left, since = len(self._due), time.monotonic()
        while self._due:
            if len(self._due) != left:
                left, since = len(self._due), time.monotonic()
            if time.monotonic() - since > PATIENCE / 2:
                lost = ", ".join(f"{count} {what}" for what, count in collections.Counter(self._due.values()).items())
                raise Violation(f"lost, as nothing has completed for {PATIENCE / 2:.0f} s: {lost}")
            meanwhile()
            time.sleep(0.001)
        self.check()

    def check(self) -> None:
        check(not self.problems, "; ".join(self.problems[:10]))

    def watch(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function in a thread of its own, whose failure is a problem."""
        try:
            function(*arguments)
        except BaseException as error:  # noqa: BLE001 - told at the end of the round
            self.problems.append(f"{threading.current_thread().name}: {error!r}")

    def thread(self, function: Callable[..., object], *arguments: Any) -> threading.Thread:
        made = threading.Thread(target=self.watch, args=(function, *arguments), daemon=True)
        made.start()
        return made


# Finalizers


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


# Memory


SIZE_MAX = 256
"""The most bytes that one call moves: Python has the numbers up to this ready. For a larger one it needs memory, and
where that fails within a call of its own, the count of what was moved is lost before unio sees it."""


class Way:
    """One direction of a stream: what was sent, and what came, in the order of the submissions."""

    def __init__(self, sender: unio.Handle, receiver: unio.Handle) -> None:
        self.sender, self.receiver = sender, receiver
        self.sends: collections.deque[Any] = collections.deque()
        self.receives: collections.deque[Any] = collections.deque()
        self.wire = bytearray()
        self.got = bytearray()

    def take(self, moved: dict[int, bytes]) -> int:
        """See to what has moved, and that it is the same at both ends. Returns how many bytes it is."""
        for row, stream in ((self.sends, self.wire), (self.receives, self.got)):
            while row and row[0].state in moved:
                stream.extend(moved.pop(row.popleft().state))
        count = min(len(self.wire), len(self.got))
        check(
            self.wire[:count] == self.got[:count],
            "what was received is not what was sent:",
            self.receiver,
            bytes(self.wire[:count]),
            bytes(self.got[:count]),
        )
        del self.wire[:count], self.got[:count]
        return count


class Memory:
    """One thread's choices where allocations fail."""

    def __init__(self, port: unio.Port, ledger: Ledger, choice: random.Random) -> None:
        self.port, self.ledger, self.choice = port, ledger, choice
        self.flying: dict[int, Any] = {}
        self.moved: dict[int, bytes] = {}
        self.posts: set[int] = set()
        self.ways: list[Way] = []
        self.sockets: list[Any] = []
        self.closed: list[Any] = []
        for _ in range(2):
            self.connect()
        reader, writer = unio.pipe()
        self.ways.append(Way(port.associate(writer), port.associate(reader)))
        self.file = unio.open(Path(tempfile.gettempdir()) / f"unio-stress-{id(self)}", "wb+")
        self.disk = port.associate(self.file)
        self.warm_up()

    def connect(self) -> None:
        near, far = socket.socketpair()
        for sock in (near, far):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # so that sends have to wait
        self.sockets += [near, far]
        handles = [self.port.associate(near), self.port.associate(far)]
        self.ways += [Way(*handles), Way(*reversed(handles))]

    def warm_up(self) -> None:
        """Have all threads start that do file operations: Python's own start of a thread hangs without memory."""
        for _ in range(100):
            self.submit(unio.Write(self.disk, b"x", 0), lack=False)
        while self.flying:
            self.take(self.port.wait(PATIENCE / 2))

    def lacking(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of whose allocations one fails. Returns its result, or the MemoryError that it has raised."""
        return lacking(self.choice.randrange(60), function, *arguments)

    def failed(self, function: Callable[..., Any], *arguments: Any) -> bool:
        """The same for a function whose result does not matter. Returns whether it has raised."""
        found = isinstance(self.lacking(function, *arguments), MemoryError)
        self.ledger.counts["memory errors"] += found
        return found

    def submit(self, operation: Any, row: collections.deque[Any] | None = None, *, lack: bool = True) -> None:
        timeout = self.choice.choice([None, None, 3600, 0.001]) if lack else None
        if isinstance(operation, unio.Send) and not SENDS_END:
            timeout = None
        operation.state = self.ledger.owe(type(operation).__name__)
        failed = self.failed(self.port.submit, operation, timeout) if lack else self.port.submit(operation)
        if failed and not operation.in_flight:
            self.ledger.remit(operation.state)
            return
        self.flying[id(operation)] = operation
        if row is not None:
            row.append(operation)

    # What may be done

    def receive(self) -> None:
        way = self.choice.choice(self.ways)
        if len(way.receives) < 10:
            self.submit(unio.Recv(way.receiver, bytearray(self.choice.randint(1, SIZE_MAX))), way.receives)

    def send(self) -> None:
        way = self.choice.choice(self.ways)
        if len(way.sends) < 10:
            data = self.choice.randbytes(self.choice.randint(1, SIZE_MAX))
            self.submit(unio.Send(way.sender, data), way.sends)

    def poll(self) -> None:
        self.submit(unio.Poll(self.choice.choice(self.ways).receiver, unio.Readiness.READABLE))

    def timer(self) -> None:
        self.submit(unio.Timer(self.choice.choice([0, 0.0005, 3600])))

    def use_file(self) -> None:
        offset, size = self.choice.randrange(10_000), self.choice.randint(1, SIZE_MAX)
        self.submit(
            unio.Write(self.disk, bytes(size), offset)
            if self.choice.random() < 0.5
            else unio.Read(self.disk, bytearray(size), offset)
        )

    def post(self) -> None:
        number = self.ledger.owe("post")
        if self.failed(self.port.post, STOP, number, 0):
            self.posts.add(number)  # it may come, or not
            self.ledger.remit(number)

    def cancel(self) -> None:
        flying = [each for each in self.flying.values() if SENDS_END or not isinstance(each, unio.Send)]
        if flying:
            self.failed(self.port.cancel, self.choice.choice(flying))

    def cancel_all(self) -> None:
        if SENDS_END:
            self.failed(self.choice.choice(self.ways).sender.cancel)

    def close(self) -> None:
        """Close a connection, each time at another step of it, and open the next."""
        way = self.choice.choice(self.ways[:4])
        both = [each for each in self.ways if {each.sender, each.receiver} == {way.sender, way.receiver}]
        self.ways = [each for each in self.ways if each not in both]
        self.failed(way.sender.close)
        self.failed(way.receiver.close)
        for handle in (way.sender, way.receiver):
            handle.close()
            self.closed.append(handle.object)
        pipe = self.ways.pop()
        self.connect()
        self.ways.append(pipe)

    def wait(self) -> None:
        found = self.lacking(self.port.wait, 0, self.choice.choice([1, 3, 64]))
        if isinstance(found, MemoryError):
            self.ledger.counts["memory errors"] += 1
        else:
            self.take(found)

    def take(self, found: list[unio.Completion]) -> None:
        for key, operation, transferred, error in found:
            if key is STOP:
                if operation not in self.posts:
                    self.ledger.came(operation)
                self.posts.discard(operation)
                continue
            self.ledger.came(operation.state)
            self.flying.pop(id(operation), None)
            if isinstance(operation, (unio.Send, unio.Recv)):
                self.moved[operation.state] = bytes(operation.buffer[:transferred])
            check(error is None or error.errno, "an error says nothing:", error)
        for way in self.ways:
            self.ledger.counts["bytes"] += way.take(self.moved)

    def run(self) -> None:
        weights: dict[Callable[[], object], int] = {
            self.receive: 20,
            self.send: 20,
            self.poll: 4,
            self.timer: 6,
            self.use_file: 6,
            self.post: 6,
            self.cancel: 8,
            self.cancel_all: 1,
            self.close: 1,
            self.wait: 30,
        }
        actions = self.choice.choices(list(weights), list(weights.values()), k=2000)
        for action in actions:
            action()
            alive()

    def end(self) -> None:
        """Let everything end, and see that both ends have had the same."""
        for way in self.ways:
            while way.sends or way.wire:
                if not way.receives:
                    self.submit(unio.Recv(way.receiver, bytearray(SIZE_MAX)), way.receives, lack=False)
                self.take(self.wait_for("what was sent", way))
        while short := [each for each in self.flying.values() if isinstance(each, unio.Timer) and each.delay < 1]:
            self.take(self.wait_for("what is due", *short))
        for operation in list(self.flying.values()):
            self.port.cancel(operation)
        while self.flying:
            self.take(self.wait_for("what was cancelled", *self.flying.values()))
        check(not any(way.got or way.wire for way in self.ways), "bytes are lost")
        self.port.wait(0)  # where what was broken off is finished
        still_open = [each for each in self.closed if each.fileno() >= 0]
        check(not still_open, "the sockets of closed handles are open:", still_open)

    def wait_for(self, *what: object) -> list[unio.Completion]:
        found = self.port.wait(PATIENCE / 2)
        check(found, "nothing completes any more of", *what)
        return found

    def shut(self) -> None:
        """Close the port with everything in flight."""
        for way in self.ways:
            for _ in range(3):
                self.submit(unio.Recv(way.receiver, bytearray(1)), lack=False)
        self.failed(self.port.close)
        self.port.close()
        check(not any(each.in_flight for each in self.flying.values()), "in flight on a port that is closed")
        for operation in self.flying.values():
            self.ledger.came(operation.state)
        for each in (self.file, *self.sockets, *(way.sender.object for way in self.ways[4:])):
            each.close()
        for way in self.ways[4:]:
            way.receiver.object.close()  # type: ignore[union-attr]
        Path(str(self.file.name)).unlink()


def memory(ledger: Ledger, backend: str | None, choice: random.Random) -> None:
    """One round: a thread works on a port, where in most calls one allocation fails."""
    if WHY_NOT:
        raise Violation(WHY_NOT)
    work = Memory(unio.Port(backend=backend), ledger, choice)
    work.run()
    work.end()
    work.shut()
    ledger.settle()


# Held


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


STRESSES: dict[str, Callable[[Ledger, str | None, random.Random], None]] = {
    "finalizers": finalizers,
    "memory": memory,
    "held": held,
}


def settled_handles(before: int) -> int:
    """How many descriptors or handles are open, once threads have let go of theirs."""
    deadline = time.monotonic() + PATIENCE / 2
    while not handles_agree(before, count := open_handles()) and time.monotonic() < deadline:
        time.sleep(0.001)
    return count


def rounds(options: argparse.Namespace) -> Iterator[random.Random]:
    """The choices of each round, until the time is over."""
    end = time.monotonic() + options.seconds
    for number in itertools.count():
        if number and time.monotonic() >= end:
            return
        yield random.Random(f"{options.seed} {number}")


def stress(ledger: Ledger, options: argparse.Namespace) -> None:
    """All rounds; the first warms up what the system and Python keep from then on."""
    warm = None
    for choice in rounds(options):
        STRESSES[options.what](ledger, options.backend, choice)
        gc.collect()
        ledger.check()
        ledger.counts["rounds"] += 1
        warm = open_handles() if warm is None else warm
        after = settled_handles(warm)
        check(handles_agree(warm, after), f"descriptors are left over: {warm} after the first round, {after} now")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=STRESSES)
    parser.add_argument("--seconds", type=float, default=60, help="for how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="what the choices follow from (default: %(default)s)")
    parser.add_argument("--backend", default=None, help="the backend (default: the one that a port gets)")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ResourceWarning)  # of what is dropped: that is the point
    sys.setswitchinterval(1e-4)  # let threads meet in the middle of things more often
    ledger = Ledger()

    def unraisable(what: Any) -> None:
        if what.exc_type is not MemoryError:
            ledger.problems.append(f"{what.object!r} raises {what.exc_value!r}")

    sys.unraisablehook = unraisable
    began = time.monotonic()
    problem = ""
    try:
        stress(ledger, options)
    except Violation as violation:
        problem = f"VIOLATION: {violation}"
    seconds = time.monotonic() - began
    faulthandler.cancel_dump_traceback_later()
    figures = ", ".join(f"{count} {what}" for what, count in sorted(ledger.counts.items()))
    name = options.backend or unio.Port().backend
    print(f"{options.what} on {name}, seed {options.seed}: {seconds:.0f} s, {figures}")
    print(problem or "nothing lost, doubled or left over", flush=True)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())

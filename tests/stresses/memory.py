"""Allocations that fail, in each kind of call."""

from __future__ import annotations

import collections
import random
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine.subject import Violation, check
from patience import PATIENCE
from scarcity import WHY_NOT, lacking
from stresses.ledger import STOP, Ledger, alive
from wine import has_row

import unio

SENDS_END = not has_row("cancel-amid-retry")
"""Whether a send can be cancelled so that it is known what it has sent; else it is left to its own end."""

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

"""Open, echo on and close as many connections as asked, among posts and cancels, and check that nothing is lost.

``python tests/soak_connections.py --connections 200000 --posts 1000000`` runs both ends of every connection on one
port. Meanwhile another thread posts, and cancels operations at random: whatever it hits completes once, cancelled or
not, and is submitted again or given up. The last line of the output has the figures, and the exit status is not 0 if a
completion was lost, came twice or out of order, or if handles or memory are left over.
"""

# ruff: noqa: T201 - a script speaks to whoever runs it

from __future__ import annotations

import argparse
import collections
import contextlib
import gc
import random
import socket
import struct
import sys
import threading
import time

from descriptors import open_handles
from patience import PATIENCE

import unio

ROUND = 2_000
"""How many connections there are in one round; what is left over is looked for between two."""

TOGETHER = 50
ACCEPTS = 16
POSTS_AHEAD = 500
PAYLOAD = 200

GROWTH_MAX = 2_000
"""How many memory blocks may be left over, for caches that fill late: far less than one for each connection."""


class Violation(AssertionError):
    """A promise was broken."""


def check(holds: object, *what: object) -> None:
    if not holds:
        raise Violation(" ".join(map(str, what)))


class Connection:
    """One end of a connection: the key of its handle."""

    def __init__(self, sock: socket.socket, number: int | None) -> None:
        self.sock = sock
        self.number = number  # the client's; None at the server
        self.handle: unio.Handle
        self.received = 0
        self.sent = 0


class Soak:
    """All of it: two ends, the posts and the figures."""

    def __init__(self, options: argparse.Namespace, port: unio.Port) -> None:
        self.port = port
        self.options = options
        self.random = random.Random(options.seed)
        self.counts: collections.Counter[str] = collections.Counter()
        self.flying: set[unio.Operation] = set()
        self.targets: collections.deque[unio.Operation] = collections.deque(maxlen=64)
        self.clients: set[Connection] = set()
        self.servers: set[Connection] = set()
        self.goal = 0
        self.posted = 0
        self.post_goal = 0
        self.arrived = 0
        self.stopping = False
        self.room = threading.Semaphore(POSTS_AHEAD)

    # Submitting

    def submit(self, operation: unio.Operation) -> None:
        check(operation not in self.flying, "submitted twice:", operation)
        self.flying.add(operation)
        self.port.submit(operation)
        self.counts["submitted"] += 1
        self.targets.append(operation)
        if self.random.random() < self.options.cancels:
            self.counts["asked"] += self.port.cancel(operation)

    def connect(self) -> None:
        sock = socket.socket()
        number = self.counts["connecting"] = self.counts["connecting"] + 1
        connection = Connection(sock, number)
        self.clients.add(connection)
        connection.handle = self.port.associate(sock, connection)
        self.submit(unio.Connect(connection.handle, self.address))

    def payload(self, connection: Connection) -> bytes:
        assert connection.number is not None
        return struct.pack("<Q", connection.number) * (PAYLOAD // 8)

    def end(self, connection: Connection) -> None:
        """Close one end; what is in flight on it completes as cancelled."""
        if connection.number is not None and connection.number % 8:  # most by a reset, which leaves no TIME_WAIT
            with contextlib.suppress(OSError):
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.handle.close()
        self.clients.discard(connection)
        self.servers.discard(connection)

    # Completions

    def take(self, found: unio.Completion) -> None:
        if found.key is self:
            self.take_post(found)
            return
        operation = found.operation
        self.counts["completed"] += 1
        check(operation in self.flying, "completed twice, or never submitted:", operation)
        self.flying.remove(operation)
        cancelled = isinstance(found.error, unio.Cancelled)
        self.counts["cancelled"] += cancelled
        if isinstance(operation, unio.Accept):
            self.accepted(operation, found.error)
            return
        connection: Connection = found.key
        if connection.handle.closed:
            return
        if found.error is not None and not cancelled:
            check(connection.number is None, "a client fails:", found.error)  # it has reset the server's end
            self.counts["reset"] += 1
            self.end(connection)
        elif isinstance(operation, unio.Connect):
            if cancelled:
                self.end(connection)
                self.connect()
            else:
                self.submit(unio.Send(connection.handle, self.payload(connection)))
        elif isinstance(operation, unio.Send):
            self.sent(connection, operation, found.transferred)
        else:
            self.received(connection, operation, found.transferred, cancelled=cancelled)

    def take_post(self, found: unio.Completion) -> None:
        self.arrived += 1
        check(found.transferred == self.arrived, "posts out of order:", found.transferred, "after", self.arrived - 1)
        self.room.release()

    def accepted(self, operation: unio.Accept, error: OSError | None) -> None:
        if error is None:
            connection = Connection(operation.socket, None)
            self.servers.add(connection)
            connection.handle = self.port.associate(operation.socket, connection)
            self.submit(unio.Recv(connection.handle, bytearray(PAYLOAD)))
            self.counts["accepted"] += 1
        elif not isinstance(
            error, unio.Cancelled
        ):  # a peer that has reset already may be an error, of this accept only
            self.counts["gone"] += 1
            check(self.counts["gone"] <= self.counts["cancelled"], "the listener fails:", error)
        if self.listening:
            self.submit(operation)

    def sent(self, connection: Connection, operation: unio.Send, count: int) -> None:
        connection.sent += count
        rest = memoryview(operation.buffer)[count:]
        if rest:  # it was cancelled
            self.submit(unio.Send(connection.handle, rest))
        else:
            self.submit(unio.Recv(connection.handle, bytearray(PAYLOAD)))

    def received(self, connection: Connection, operation: unio.Recv, count: int, *, cancelled: bool) -> None:
        data = bytes(operation.buffer[:count])
        if cancelled:
            check(count == 0, "a cancelled receive has data:", count)
            self.submit(operation)
        elif connection.number is None:
            if count:
                self.submit(unio.Send(connection.handle, data))
            else:
                self.end(connection)
        else:
            expected = self.payload(connection)[connection.received : connection.received + count]
            check(count > 0 and data == expected, "an echo differs:", connection.number, connection.received, count)
            connection.received += count
            if connection.received < PAYLOAD:
                self.submit(operation)
            else:
                self.counts["connections"] += 1
                self.end(connection)
                if self.counts["connections"] + len(self.clients) < self.goal:
                    self.connect()

    # Rounds

    def round(self, connections: int, posts: int) -> None:
        """Some connections with all that belongs to them, until nothing is in flight."""
        self.goal += connections
        self.post_goal += posts
        self.listening = True
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(TOGETHER * 2)
            self.address = listener.getsockname()
            handle = self.port.associate(listener, "listener")
            for _ in range(ACCEPTS):
                self.submit(unio.Accept(handle))
            poster = threading.Thread(target=self.post)
            poster.start()
            for _ in range(min(TOGETHER, connections)):
                self.connect()
            try:
                self.wait_while(lambda: self.counts["connections"] < self.goal or self.servers)
                self.wait_while(lambda: self.arrived < self.post_goal)
            except BaseException:
                self.stopping = True
                self.room.release()
                raise
            finally:
                poster.join()
            self.listening = False
            handle.close()
            self.wait_while(lambda: self.flying)
        for connection in list(self.servers):
            self.end(connection)
        self.wait_while(lambda: self.flying)
        check(not self.port.wait(0), "something completes that was never submitted")

    def wait_while(self, condition: object) -> None:
        while condition():  # type: ignore[operator]
            end = time.monotonic() + PATIENCE
            batch = self.port.wait(PATIENCE)
            check(time.monotonic() < end, "nobody was woken for", batch)
            check(batch, "nothing completes any more;", len(self.flying), "are lost:", list(self.flying)[:5])
            for found in batch:
                self.take(found)

    def post(self) -> None:
        """Post, and cancel now and then what another thread has submitted."""
        chance = random.Random(self.posted)
        while self.posted < self.post_goal:
            self.room.acquire()
            if self.stopping:  # the other thread has met a violation
                break
            self.posted += 1
            self.port.post(self, None, self.posted)
            if chance.random() < self.options.cancels:
                with contextlib.suppress(IndexError):
                    self.counts["asked from another thread"] += self.port.cancel(self.targets.pop())

    def run(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """All rounds; handles and memory blocks after the warm-up and at the end."""
        start = time.monotonic()
        warm = last = None
        rounds = max(1, -(-self.options.connections // ROUND))
        for number in range(rounds):
            connections = min(ROUND, self.options.connections - number * ROUND)
            self.round(connections, self.options.posts * (number + 1) // rounds - self.posted)
            gc.collect()
            last = open_handles(), sys.getallocatedblocks()
            warm = warm or last if number >= rounds // 10 else None
            rate = self.counts["connections"] / (time.monotonic() - start)
            print(f"{self.counts['connections']:>8} connections, {rate:,.0f}/s, {last[0]} handles, {last[1]} blocks")
            sys.stdout.flush()
        assert last is not None
        return warm or last, last


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=20_000, help="how many to open (default: %(default)s)")
    parser.add_argument("--posts", type=int, default=100_000, help="how many packets to post (default: %(default)s)")
    parser.add_argument(
        "--cancels", type=float, default=0.05, help="the share that is cancelled (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="what the choices follow from (default: %(default)s)")
    parser.add_argument("--backend", default=None, help="the backend (default: the one that a port gets)")
    options = parser.parse_args()
    problem = ""
    warm = last = (0, 0)
    with unio.Port(backend=options.backend) as port:
        print(f"{port!r}, seed {options.seed}")
        soak = Soak(options, port)
        try:
            warm, last = soak.run()
            check(last[0] <= warm[0], "handles are left over")
            check(last[1] - warm[1] <= GROWTH_MAX, "memory is left over")
        except Violation as violation:
            problem = str(violation)
    counts = soak.counts
    lost = counts["submitted"] - counts["completed"] + soak.posted - soak.arrived
    print(
        f"{problem or 'done'}: {counts['connections']} connections echoed, "
        f"{soak.arrived} of {soak.posted} posts in order; "
        f"{counts['submitted']} operations submitted, {counts['completed']} completed, {lost} lost or doubled; "
        f"{counts['cancelled']} of them cancelled; handles: {warm[0]} after the warm-up, {last[0]} at the end; "
        f"memory blocks: {warm[1]} and {last[1]}"
    )
    return 0 if not problem and not lost else 1


if __name__ == "__main__":
    sys.exit(main())

"""Do random things to a port for as long as asked, and check that nothing is lost, doubled or left over.

``python tests/soak.py --operations 1000000`` submits a million operations of all kinds to one port, among posts,
cancels, closes and whatever peers do; ``--threads 4`` does it from four threads at once. It is the state machine's
model (see machine/world.py) without the search for a short example. The last line of its output has the figures, and
the exit status is not 0 if a promise was broken.

It goes in rounds. Each begins with new handles and ends with closing them all, so that what is left of one round can
be told: descriptors, memory, objects. The first rounds are the warm-up, against which the last is compared.
"""

# ruff: noqa: T201 - a script speaks to whoever runs it

from __future__ import annotations

import argparse
import gc
import mmap
import random
import struct
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from machine.datagrams import Datagrams
from machine.files import File
from machine.listeners import Listener
from machine.streams import LOCAL, STREAMS, Stream
from machine.subject import Violation, check
from machine.world import World, handles_agree, handles_settle, handles_warm
from patience import patience_left
from wine import has_row

import unio

if TYPE_CHECKING:
    from collections.abc import Callable

ROUND = 20_000
"""How many operations are submitted in one round."""

AT_ONCE = 24
"""How many streams there are at a time."""

PENDING_MAX = 40
"""How many operations are in flight on one handle at most: more than a backend tries in one go."""

STATM = Path("/proc/self/statm")
"""Where Linux says how much memory the process has."""

BLOCKS_GROWTH_MAX = 2_000
RSS_GROWTH_MAX_KIB = 16 * 1024
"""What may be left over, for caches that fill late: far less than one object for each operation."""

RECEIVE_SIZES = [(100,)] * 6 + [(1,), (0,), (4096,), (4096,), (65536,), (3, 0, 500), (1, 1, 5000), (0, 0)]
SEND_SIZES = [(100,)] * 8 + [(1,), (0,), (5000,), (5000,), (3, 0, 500), (70_000,), (9, 50_000, 1), (400_000,)]
FILE_SIZES = [(100,), (0,), (4096,), (9000,), (100, 0, 5000)]
PEER_SIZES = [1, 100, 100, 100, 5000, 5000, 60_000]
DATAGRAM_SIZES = [0, 1, 100, 1400, 4000]
READINESS = [
    unio.Readiness.READABLE,
    unio.Readiness.WRITABLE,
    unio.Readiness.READABLE | unio.Readiness.WRITABLE,
]


class Crowd:
    """The subjects of one round, shared by its threads."""

    def __init__(self, world: World, choice: random.Random) -> None:
        self.world = world
        self.choice = choice
        self.lock = threading.Lock()
        self.failures: list[BaseException] = []
        self.streams = [self.new_stream() for _ in range(AT_ONCE)]
        self.listener = Listener(world)
        self.datagrams = [Datagrams(world), Datagrams(world)]
        self.files = [File(world), File(world)]

    def new_stream(self) -> Stream:
        chance = self.choice.random
        if chance() < 0.02:
            return self.world.new_connection(refused=chance() < 0.3, timeout=self.choice.choice([None, 0.001]))
        kind = self.choice.choice([LOCAL, LOCAL, *STREAMS])
        return self.world.new_stream(kind, skip=chance() < 0.3, small=chance() < 0.3)

    def stream(self, index: int) -> Stream:
        """A stream that is open: one that was accepted, or a new one, takes the place of one that is closed."""
        stream = self.streams[index]
        if stream.closed or stream.disconnected:
            with self.lock:
                stream = self.streams[index]
                if stream.closed or stream.disconnected:
                    stream.close()
                    stream = self.streams[index] = self._accepted() or self.new_stream()
        return stream

    def _accepted(self) -> Stream | None:
        accepted = self.world.take_accepted()
        for stream in accepted[1:]:
            stream.close()
        return accepted[0] if accepted else None

    def renew_listener(self) -> None:
        with self.lock:
            listener, self.listener = self.listener, Listener(self.world)
        listener.close()

    def renew_file(self, index: int) -> None:
        with self.lock:
            file, self.files[index] = self.files[index], File(self.world)
        file.close()

    def renew_datagrams(self, index: int) -> None:
        with self.lock:
            datagrams, self.datagrams[index] = self.datagrams[index], Datagrams(self.world)
        datagrams.close()


class Driver:
    """One thread's choices."""

    def __init__(self, world: World, crowd: Crowd, choice: random.Random, poster: int) -> None:
        self.world = world
        self.crowd = crowd
        self.poster = poster
        self.random = choice.random
        self.pick = choice.choice
        weights: dict[Callable[[], object], int] = {
            self.receive: 200,
            self.receive_many: 1,
            self.send: 120,
            self.peer_sends: 160,
            self.peer_receives: 120,
            self.wait: 140,
            self.post: 40,
            self.read: 20,
            self.write: 20,
            self.receive_from: 25,
            self.send_to: 25,
            self.peer_sends_datagram: 25,
            self.poll: 25,
            self.start_timer: 25,
            self.send_file: 15,
            self.cancel: 40,
            self.cancel_all: 8,
            self.cancel_timer: 5,
            self.accept: 3,
            self.peer_connects: 2,
            self.peer_leaves: 1,
            self.peer_half_closes: 2,
            self.peer_closes: 3,
            self.shut: 2,
            self.close: 3,
            self.close_plainly: 3,
            self.duplicate: 2,
            self.renew: 1,
            self.sweep: 4,
            self.settle: 1,
        }
        self.actions = [action for action, weight in weights.items() for _ in range(weight)]

    def run(self, goal: int) -> None:
        """Go on until so many operations have been submitted by all threads."""
        counts, actions, chance = self.world.counts, self.actions, self.random
        while counts["submitted"] < goal and not self.crowd.failures:
            actions[int(chance() * len(actions))]()

    def stream(self) -> Stream:
        return self.crowd.stream(int(self.random() * AT_ONCE))

    def roomy(self, subject: Any) -> Any:
        """The subject, if there is room for one more operation in flight; else one that has room."""
        since = time.monotonic()
        while len(subject.pending) >= PENDING_MAX:
            check(patience_left(since) > 0, "nothing of this completes:", subject)
            self.peers_drain(subject)
            self.wait()
            subject = self.stream() if isinstance(subject, Stream) else subject
        return subject

    def peers_drain(self, subject: Any) -> None:
        subject.peer_drains()
        if isinstance(subject, Stream):
            subject.peer_sends(60_000)
        elif isinstance(subject, Datagrams):
            subject.peer_sends(100)
        elif isinstance(subject, Listener):
            subject.cancel_all()

    def timeout(self) -> float | None:
        chance = self.random()
        if chance < 0.9:
            return None
        return 60 if chance > 0.97 else self.pick([0, 0.0005, 0.002])

    def receive(self) -> None:
        self.roomy(self.stream()).receive(self.pick(RECEIVE_SIZES), self.timeout())

    def receive_many(self) -> None:
        stream = self.roomy(self.stream())
        stream.receive_many(PENDING_MAX, self.pick([(1,), (0,), (100,)]))
        stream.peer_sends(5000)

    def send(self) -> None:
        self.roomy(self.stream()).send(self.pick(SEND_SIZES), self.timeout())

    def send_file(self) -> None:
        self.roomy(self.stream()).send_file(self.pick([0, 100, 5000, 300_000]), self.timeout())

    def poll(self) -> None:
        self.roomy(self.stream()).poll(self.pick(READINESS), self.timeout())

    def shut(self) -> None:
        self.roomy(self.stream()).shut(self.pick([unio.Shutdown, unio.Shutdown, unio.Disconnect]))

    def peer_sends(self) -> None:
        self.stream().peer_sends(self.pick(PEER_SIZES))

    def peer_receives(self) -> None:
        self.stream().peer_receives(self.pick([100, 100_000, 1_000_000]))

    def peer_half_closes(self) -> None:
        self.stream().peer_half_closes()

    def peer_closes(self) -> None:
        stream = self.stream()
        self.pick([stream.peer_closes, stream.peer_resets])()
        if self.random() < 0.5:
            stream.close()

    def accept(self) -> None:
        self.roomy(self.crowd.listener).accept(self.timeout())

    def peer_connects(self) -> None:
        self.crowd.listener.peer_connects()

    def peer_leaves(self) -> None:
        self.crowd.listener.peer_leaves(int(self.random() * 8), self.random() < 0.5)

    def receive_from(self) -> None:
        self.roomy(self.pick(self.crowd.datagrams)).receive((self.pick(DATAGRAM_SIZES),), self.timeout())

    def send_to(self) -> None:
        datagrams = self.roomy(self.pick(self.crowd.datagrams))
        if self.random() < 0.05:
            datagrams.send_to_nobody()
        else:
            datagrams.send(self.pick(DATAGRAM_SIZES), self.timeout())

    def peer_sends_datagram(self) -> None:
        self.pick(self.crowd.datagrams).peer_sends(self.pick(DATAGRAM_SIZES))

    def offset(self) -> int:
        return int(self.random() * File.BLOCK * (File.BLOCKS + 1))

    def read(self) -> None:
        self.roomy(self.pick(self.crowd.files)).read(self.offset(), self.pick(FILE_SIZES), self.timeout())

    def write(self) -> None:
        file = self.roomy(self.pick(self.crowd.files))
        if self.random() < 0.01:
            file.flush(self.timeout())
        else:
            file.write(self.offset(), self.pick(FILE_SIZES), self.timeout())

    def start_timer(self) -> None:
        self.roomy(self.world.timers).start(self.pick([0, 0.001, 0.003]), self.timeout())

    def post(self) -> None:
        self.world.post(self.poster)

    def subject(self) -> Any:
        if self.random() < 0.8:
            return self.stream()
        return self.pick([self.crowd.listener, *self.crowd.datagrams, *self.crowd.files])

    def cancel(self) -> None:
        subject = self.subject()
        subject.cancel(int(self.random() * PENDING_MAX))
        if self.random() < 0.1:
            subject.cancel_idle()

    def cancel_timer(self) -> None:
        self.world.timers.cancel(int(self.random() * PENDING_MAX))

    def cancel_all(self) -> None:
        subject = self.subject()
        if not subject.closed:
            subject.cancel_all()

    def close(self) -> None:
        self.stream().close()

    def close_plainly(self) -> None:
        # Only where no other thread can be in a system call on the descriptor: that race is the program's own, and
        # closing through unio is how to avoid it.
        if self.world.ordered:
            self.stream().close_plainly()

    def duplicate(self) -> None:
        self.stream().duplicate_descriptor()

    def renew(self) -> None:
        chance = self.random()
        if chance < 0.3:
            self.crowd.renew_listener()
        elif chance < 0.6:
            self.crowd.renew_file(int(chance * 1000) % 2)
        else:
            self.crowd.renew_datagrams(int(chance * 1000) % 2)

    def sweep(self) -> None:
        self.world.sweep()

    def settle(self) -> None:
        """Let all end that can; only a thread that is alone knows what that is."""
        if self.world.ordered:
            self.world.settle()

    def wait(self) -> None:
        timeout = 0 if self.world.ordered or self.random() < 0.5 else 0.001
        self.world.wait(timeout, self.pick([64, 64, 16, 1]))


class Footprint(NamedTuple):
    """What a process holds between two rounds."""

    rss_kib: int
    blocks: int

    @classmethod
    def measure(cls) -> Footprint:
        gc.collect()
        return cls(resident_kib(), sys.getallocatedblocks())


def resident_kib() -> int:
    """How much memory the process has, in KiB; 0 where the system does not say."""
    if sys.platform == "win32":
        import ctypes  # noqa: PLC0415 - needed on Windows only

        counters = ctypes.create_string_buffer(72)  # PROCESS_MEMORY_COUNTERS, of which WorkingSetSize is the fourth
        ctypes.windll.kernel32.K32GetProcessMemoryInfo(ctypes.c_void_p(-1), counters, len(counters))
        return struct.unpack_from("<Q", counters, 16)[0] // 1024
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * mmap.PAGESIZE // 1024
    return 0


def run_round(world: World, threads: int, seed: str, goal: int) -> None:
    choice = random.Random(seed)
    crowd = Crowd(world, choice)
    drivers = [Driver(world, crowd, random.Random(f"{seed} {number}"), number) for number in range(threads)]
    if threads == 1:
        drivers[0].run(goal)
        end_round(world)
    else:
        run_together(world, drivers, goal, crowd.failures)


def end_round(world: World) -> None:
    world.settle()
    world.close_all()


def run_together(world: World, drivers: list[Driver], goal: int, failures: list[BaseException]) -> None:
    """Run each driver in a thread of its own, then end the round; the first failure ends all and is raised."""
    finished, over = threading.Barrier(len(drivers) + 1), threading.Event()

    def run(driver: Driver) -> None:
        try:
            driver.run(goal)
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)
        finished.wait()
        if has_row("thread-ends-amid-retry"):  # elsewhere its operations go on without it
            over.wait()

    threads = [threading.Thread(target=run, args=(driver,)) for driver in drivers]
    for thread in threads:
        thread.start()
    finished.wait()
    try:
        if failures:
            raise failures[0]
        end_round(world)
    finally:
        over.set()
        for thread in threads:
            thread.join()


def soak(world: World, options: argparse.Namespace) -> tuple[Footprint, Footprint]:
    """All rounds; the footprints after the warm-up and at the end."""
    start = time.monotonic()
    warm = last = None
    number = 0
    while (done := world.counts["submitted"]) < options.operations:
        run_round(world, options.threads, f"{options.seed} {number}", min(done + ROUND, options.operations))
        number += 1
        last = Footprint.measure()
        if warm is None and (world.counts["submitted"] >= options.operations // 10 and number > 1):
            warm = last
        rate = world.counts["submitted"] / (time.monotonic() - start)
        print(f"{world.counts['submitted']:>10} operations, {rate:,.0f}/s, {last.rss_kib} KiB, {last.blocks} blocks")
        sys.stdout.flush()
    assert last is not None
    return warm or last, last


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--operations", type=int, default=1_000_000, help="how many to submit (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="how many submit and wait (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=None, help="what the choices follow from (default: another each time)"
    )
    parser.add_argument("--backend", default=None, help="the backend (default: the one that a port gets)")
    options = parser.parse_args()
    if options.threads > 1:
        sys.setswitchinterval(1e-4)  # let threads meet in the middle of things more often
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(2**32)
    before = handles_warm(options.backend)
    world = World(backend=options.backend, ordered=options.threads == 1)
    print(f"seed {options.seed}, {options.threads} threads, {world.port!r}")
    problem = ""
    warm = last = Footprint.measure()
    try:
        warm, last = soak(world, options)
        world.end()
        check(last.blocks - warm.blocks <= BLOCKS_GROWTH_MAX, "memory blocks are left over")
        if not has_row("transmit-file-leaks"):
            check(last.rss_kib - warm.rss_kib <= RSS_GROWTH_MAX_KIB, "memory is left over")
    except Violation as violation:
        problem = str(violation)
    lost = world.lost()
    world.close()
    after = handles_settle(before)
    counts = world.counts
    if problem:
        print(f"VIOLATION: {problem}")
    print(
        f"{counts['submitted']} operations and {counts['posted']} posts, {counts['completed']} completed in waits and "
        f"{counts['skipped']} within submit, {lost} lost, {counts['doubled']} doubled; "
        f"{counts['cancelled']} were cancelled, {counts['timed out']} timed out, {counts['failed']} failed as they "
        f"must; handles: {before} before, {after} after; memory: {warm.rss_kib} KiB and {warm.blocks} blocks after "
        f"the warm-up, {last.rss_kib} KiB and {last.blocks} blocks at the end"
    )
    balanced = counts["submitted"] + counts["posted"] == counts["completed"] + counts["skipped"]
    return 0 if not problem and not lost and balanced and handles_agree(before, after) else 1


if __name__ == "__main__":
    sys.exit(main())

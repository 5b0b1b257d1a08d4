"""How many threads run at once, and which: the cap, who is released, who makes room."""

from __future__ import annotations

import _thread
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from support import PATIENCE, Background, asleep, batch, completion, reset, tcp_pair, times_slept, until
from wine import wine_row

import unio
from unio.backends.common.processors import usable_processors

needs_thread_clocks = pytest.mark.skipif(
    sys.platform != "win32" and not hasattr(time, "pthread_getcpuclockid"),
    reason="needs the processor clocks of other threads, without which a thread has to say that it blocks",
)
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, which counts how often a thread slept")

MakePort = Callable[[int], unio.Port]
MakePair = Callable[..., tuple[socket.socket, socket.socket]]


@pytest.fixture
def make_port(backend: str, resources: contextlib.ExitStack) -> MakePort:
    """Make ports with a concurrency; they are closed at the end."""
    return lambda concurrency: resources.enter_context(unio.Port(backend=backend, concurrency=concurrency))


def let_pass(event: threading.Event) -> None:
    """Wait for an event, computing where only the thread's own word can tell that it is blocked."""
    if sys.platform == "win32":
        event.wait(PATIENCE)
    while not event.is_set():
        pass


class Running:
    """A thread that takes one packet and then computes, and so runs, until it is let go; it takes one more then.

    That one must be there already.
    """

    def __init__(self, port: unio.Port) -> None:
        self.port = port
        self.keys: list[Any] = []
        self._go = False
        self._thread = Background(self._run)

    def _run(self) -> None:
        self.keys += [each.key for each in batch(self.port, limit=1)]
        while not self._go and not self.port.closed:  # a test that fails closes the port
            pass
        self.keys += [each.key for each in self.port.wait(0, limit=1)]

    def until_it_runs(self) -> None:
        until(lambda: self.keys)

    def go(self) -> list[Any]:
        """Let it go on; return what it took."""
        self._go = True
        self._thread.result()
        return self.keys


@pytest.mark.clause("P4")
def test_the_cap_is_the_number_of_usable_processors_unless_told(backend: str, make_port: MakePort) -> None:
    assert make_port(0).concurrency == usable_processors()
    assert make_port(3).concurrency == 3
    with unio.Port(backend=backend) as port:
        assert port.concurrency == usable_processors()


@pytest.mark.clause("P4")
@pytest.mark.parametrize(
    ("wrong", "error"), [(-1, ValueError), (65537, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_a_cap_that_is_no_number_of_threads_is_refused(backend: str, wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="the concurrency must be"):
        unio.Port(backend=backend, concurrency=wrong)


@wine_row("no-concurrency-limit")
@pytest.mark.clause("P4")
@pytest.mark.parametrize("cap", [1, 2])
def test_while_as_many_run_as_may_the_others_get_nothing(make_port: MakePort, cap: int) -> None:
    port = make_port(cap)
    running = [Running(port) for _ in range(cap)]
    for number in range(cap):
        port.post(number)
    for each in running:
        each.until_it_runs()
    for number in range(cap):
        port.post(cap + number)
    assert port.wait(0) == []
    assert port.wait(0.05) == []
    # Those that run take the next without giving their run slots away.
    assert sorted(key for each in running for key in each.go()) == list(range(2 * cap))


@wine_row("no-concurrency-limit", always=False)
@pytest.mark.clause("P4")
def test_a_thread_that_runs_already_takes_the_next_and_not_one_that_waits(make_port: MakePort) -> None:
    port = make_port(1)
    running = Running(port)
    port.post("first")
    running.until_it_runs()
    waiting = Background(batch, port)
    asleep(waiting)
    port.post("second")
    assert running.go() == ["first", "second"]
    port.post("third")  # it has ended, and so it runs no more
    assert [each.key for each in waiting.result()] == ["third"]


@pytest.mark.clause("P4")
def test_a_thread_that_has_ended_runs_no_more_though_an_error_keeps_its_frames(
    resources: contextlib.ExitStack, make_port: MakePort
) -> None:
    port = make_port(1)
    near, far = map(resources.enter_context, tcp_pair())
    port.submit(unio.Recv(port.associate(near), bytearray(1)))
    waiting = Background(completion, port)
    asleep(waiting)  # so that it is this thread which the error comes to
    reset(far)
    kept = waiting.result()
    assert isinstance(kept.error, ConnectionResetError)
    waiting.join(PATIENCE)
    port.post("next")
    assert completion(port).key == "next"


@wine_row("fifo-waiters")
@pytest.mark.clause("P3")
def test_who_came_last_is_released_first(make_port: MakePort) -> None:
    port = make_port(4)
    taken: list[int] = []
    done = threading.Event()

    def take(number: int) -> None:
        batch(port, limit=1)
        taken.append(number)
        done.wait(PATIENCE)  # and doesn't wait again: it would be the last then

    threads = []
    for number in range(4):
        threads.append(Background(take, number))
        asleep(threads[-1])
    for count in range(1, 5):
        port.post(None)
        until(lambda count=count: len(taken) == count)
    done.set()
    for thread in threads:
        thread.result()
    assert taken == [3, 2, 1, 0]


@pytest.mark.clause("P4")
def test_one_that_says_it_blocks_makes_room_for_another(make_port: MakePort) -> None:
    port = make_port(1)
    runs, freed = threading.Event(), threading.Event()

    def block() -> None:
        assert completion(port).key == "blocks"
        runs.set()
        with port.blocking():
            let_pass(freed)

    blocked = Background(block)
    port.post("blocks")
    assert runs.wait(PATIENCE)
    port.post("frees")
    assert completion(port).key == "frees"
    freed.set()
    blocked.result()


@wine_row("no-concurrency-limit", always=False)
@pytest.mark.clause("P4")
def test_one_that_has_blocked_goes_on_though_another_runs(make_port: MakePort) -> None:
    port = make_port(1)
    runs, leave, back = threading.Event(), threading.Event(), threading.Event()

    def block() -> list[unio.Completion]:
        assert completion(port).key == 1
        runs.set()
        with port.blocking(), port.blocking():  # twice is once
            let_pass(leave)
        back.set()
        return batch(port)

    blocked = Background(block)
    port.post(1)
    assert runs.wait(PATIENCE)
    running = Running(port)
    port.post(2)
    running.until_it_runs()
    leave.set()
    assert back.wait(PATIENCE)
    # Now it is one too many, and gets nothing until the other has stopped running.
    port.post(3)
    assert running.go() == [2, 3]
    port.post(4)
    assert [each.key for each in blocked.result()] == [4]


@pytest.mark.clause("P4")
def test_blocking_changes_nothing_for_a_thread_that_does_not_run(make_port: MakePort) -> None:
    port = make_port(1)
    with port.blocking():
        port.post("in the middle")
        assert completion(port).key == "in the middle"
        port.post("and again")
    assert completion(port).key == "and again"
    port.close()
    with port.blocking():
        pass


@needs_thread_clocks
@pytest.mark.clause("P4")
def test_one_that_blocks_without_saying_so_makes_room_as_well(make_port: MakePort) -> None:
    port = make_port(1)
    runs, freed = threading.Event(), threading.Event()

    def block() -> bool:
        assert completion(port).key == "blocks"
        runs.set()
        return freed.wait(PATIENCE)

    blocked = Background(block)
    port.post("blocks")
    assert runs.wait(PATIENCE)
    port.post("frees")
    assert completion(port).key == "frees"
    freed.set()
    assert blocked.result()


HOG = """
import os, sys
os.sched_setaffinity(0, [int(sys.argv[1])])
print("has it", flush=True)
while True: pass
"""


class Starved:
    """A thread that takes one packet and then wants to run, and is given next to no processor until it is let go."""

    def __init__(self, port: unio.Port, resources: contextlib.ExitStack) -> None:
        self._port = port
        self._processor = min(os.sched_getaffinity(0))
        command = [sys.executable, "-S", "-E", "-c", HOG, str(self._processor)]
        self._hog = resources.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        resources.callback(self._hog.kill)
        assert self._hog.stdout is not None
        self._hog.stdout.readline()
        self._clocks: list[int] = []
        self._ended = False
        self._thread = Background(self._run)

    def _run(self) -> None:
        completion(self._port)
        os.sched_setaffinity(0, [self._processor])
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        self._clocks.append(time.pthread_getcpuclockid(threading.get_ident()))
        block = bytes(1 << 26)  # most of the time it computes without Python's lock, which it would starve others of
        while not self._ended:
            zlib.crc32(block)

    def until_its_clock_stood_still(self, seconds: float) -> None:
        until(lambda: self._clocks)
        used, since = -1.0, 0.0

        def stood_still() -> bool:
            nonlocal used, since
            now = time.monotonic()
            if (read := time.clock_gettime(self._clocks[0])) != used:
                used, since = read, now
            return now - since >= seconds

        until(stood_still)

    def go(self) -> None:
        """Let it have the processor, and end."""
        self._ended = True
        self._hog.kill()
        self._thread.result()


@needs_proc
@pytest.mark.skipif(
    hasattr(os, "nice") and os.nice(0) > 0, reason="a process of low priority can't keep a thread from the processor"
)
@pytest.mark.clause("P4")
def test_one_that_is_given_no_processor_keeps_its_place(resources: contextlib.ExitStack, make_port: MakePort) -> None:
    port = make_port(1)
    port.post("for one that wants to run")
    starved = Starved(port, resources)
    starved.until_its_clock_stood_still(0.2)
    waiting = Background(completion, port)
    asleep(waiting)
    port.post("for one that waits")
    starved.until_its_clock_stood_still(0.3)  # longer than after which it would have lost its place, were it blocked
    assert waiting.is_alive()
    starved.go()
    assert waiting.result().key == "for one that waits"


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="needs the processor clocks of other threads")
@pytest.mark.process_wide
@pytest.mark.clause("P4")
def test_while_no_packet_waits_for_a_place_no_clock_is_looked_at(
    make_port: MakePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    monkeypatch.setattr(time, "clock_gettime", looked.append)
    port, back = make_port(2), make_port(2)

    def answer() -> None:
        while (key := completion(port).key) != "exit":
            back.post(key)

    answering = Background(answer)
    for number in range(1000):
        port.post(number)
        assert completion(back).key == number
    port.post("exit")
    answering.result()
    assert looked == []


@pytest.mark.clause("P4")
@pytest.mark.parametrize(
    "start", [lambda run: threading.Thread(target=run).start(), lambda run: _thread.start_new_thread(run, ())]
)
def test_one_that_ends_makes_room(make_port: MakePort, start: Callable[[Callable[[], None]], None]) -> None:
    port = make_port(1)
    taken: list[Any] = []
    for number in range(20):  # each of them by a thread of its own
        start(lambda: taken.extend(each.key for each in batch(port, limit=1)))
        port.post(number)
    until(lambda: len(taken) == 20)
    assert sorted(taken) == list(range(20))


@pytest.mark.clause("P5")
def test_one_that_waits_on_another_port_makes_room(make_port: MakePort) -> None:
    port, other = make_port(1), make_port(1)
    moved, done = threading.Event(), threading.Event()

    def move() -> None:
        assert completion(port).key == "here"
        assert completion(other).key == "there"
        moved.set()
        while not done.is_set():  # it runs, but for the other port
            pass

    moving = Background(move)
    other.post("there")
    port.post("here")
    assert moved.wait(PATIENCE)
    port.post("for whoever is left")
    assert completion(port).key == "for whoever is left"
    done.set()
    moving.result()


@pytest.mark.clause("P4", "P6")
def test_a_wait_that_ended_with_nothing_leaves_the_thread_not_running(make_port: MakePort) -> None:
    port = make_port(1)
    assert port.wait(0) == []
    taking = Background(completion, port)
    port.post(1)
    assert taking.result().key == 1


@needs_proc
@pytest.mark.clause("P4")
def test_one_packet_wakes_one_thread(make_port: MakePort) -> None:
    port = make_port(8)
    ending = threading.Event()
    taken: list[Any] = []

    def take() -> None:
        while batch(port, limit=1)[0].key != "exit":
            taken.append(threading.current_thread())
            ending.wait(PATIENCE)

    threads = [Background(take) for _ in range(8)]
    for thread in threads:
        asleep(thread)
    before = {thread: times_slept(thread) for thread in threads}
    port.post("one")
    until(lambda: taken)
    asleep_others = [thread for thread in threads if thread not in taken]
    assert [thread for thread in asleep_others if times_slept(thread) != before[thread]] == []
    ending.set()
    for _ in threads:
        port.post("exit")
    for thread in threads:
        thread.result()


@needs_proc
@pytest.mark.clause("P4")
@pytest.mark.parametrize(("cap", "packets"), [(1, 3), (2, 5), (3, 2), (8, 3)])
@pytest.mark.parametrize("cause", ["post", "receive"])
def test_no_more_threads_wake_than_there_are_packets_and_places(
    make_port: MakePort, make_pair: MakePair, resources: contextlib.ExitStack, cause: str, cap: int, packets: int
) -> None:
    port = make_port(cap)
    pairs = [make_pair(local=True) for _ in range(packets if cause == "receive" else 0)]
    for near, _ in pairs:
        port.submit(unio.Recv(port.associate(near), bytearray(1)))
    taken: list[threading.Thread] = []
    ended = threading.Event()
    resources.callback(ended.set)
    block = bytes(1 << 20)

    def take() -> None:
        while batch(port, limit=1)[0].key != "exit":
            taken.append(threading.current_thread())
            while not ended.is_set():  # it runs, and keeps its place, but not Python's lock
                zlib.crc32(block)

    threads = [Background(take) for _ in range(8)]
    for thread in threads:
        asleep(thread)
    before = {thread: times_slept(thread) for thread in threads}
    for number in range(packets):
        pairs[number][1].send(b"x") if pairs else port.post("packet")
    until(lambda: len(taken) == min(cap, packets))
    woken = [thread for thread in threads if times_slept(thread) != before[thread] and thread not in taken]
    assert len(woken) <= 1, "it can only be the one that asks the kernel for all, and sees to it that those that run do"
    assert len(taken) == min(cap, packets)
    ended.set()
    until(lambda: len(taken) == packets)
    for _ in threads:
        port.post("exit")
    for thread in threads:
        thread.result()


@pytest.mark.clause("P2", "P4")
@pytest.mark.parametrize("cap", [1, 2, 16])
def test_no_wake_up_is_lost_whatever_the_cap(make_port: MakePort, cap: int) -> None:
    port = make_port(cap)
    count = 4000

    def take(number: int) -> int:
        taken = 0
        while True:
            for each in batch(port, limit=1 + number % 3):
                if each.key == "exit":
                    return taken
                taken += 1
                if each.key % 16 == 0:
                    with port.blocking():
                        os.stat(".")

    threads = [Background(take, number) for number in range(8)]
    posting = [Background(lambda: [port.post(number) for number in range(count)]) for _ in range(8)]
    for each in posting:
        each.result()
    for ended in range(len(threads)):  # one by one: a thread that takes several at once could take another's exit
        port.post("exit")
        until(lambda ended=ended: sum(not thread.is_alive() for thread in threads) > ended)
    assert sum(thread.result() for thread in threads) == 8 * count

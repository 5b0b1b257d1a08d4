"""What threads bring: one port with one thread and with two, and how long it takes to wake one.

    python benchmarks/threads.py --python python3.13 --python python3.13t

It is not part of `nox -s bench`. Each figure is one of a process of its own. The interpreters and the numbers of
threads take turns, round by round, and what is printed are medians of ratios within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import operator
import os
import queue
import socket
import statistics
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import unio

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGES = 16
"""How many are under way at once."""

SECONDS = 0.5
WAKES = 5000


def compute(turns: int) -> None:
    for _ in range(turns):
        pass


WORK: dict[str, Callable[[], object]] = {
    "no work": lambda: None,
    # Above 2047 bytes it releases the GIL.
    "20 µs of hashing": partial(hashlib.sha256, bytes(40 * 1024)),
    "200 µs of hashing": partial(hashlib.sha256, bytes(400 * 1024)),
    "20 µs of Python": partial(compute, 2_000),
    "200 µs of Python": partial(compute, 20_000),
}
"""What a handler does for each message, and about how long it takes."""


def rate(port: unio.Port, threads: int, handle: Callable[[unio.Completion], bool]) -> float:
    """How many messages a second some threads handle, as *handle* says what was one."""
    counts = [0] * threads
    ended = False

    def run(number: int) -> None:
        while not ended:
            for completion in port.wait(0.1, 1):
                counts[number] += handle(completion)

    crowd = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in crowd:
        thread.start()
    time.sleep(SECONDS / 4)
    before, began = sum(counts), time.monotonic()
    time.sleep(SECONDS)
    found = (sum(counts) - before) / (time.monotonic() - began)
    ended = True
    for thread in crowd:
        thread.join()
    return found


def echo(work: Callable[[], object], threads: int) -> float:
    """Messages that go to and fro for ever: both ends of each connection echo, so that no client takes a processor."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(unio.Port(concurrency=threads))
        for _ in range(MESSAGES):
            near, far = [port.associate(stack.enter_context(sock)) for sock in socket.socketpair()]
            for handle in near, far:
                port.submit(unio.Recv(handle, bytearray(64)))
            port.submit(unio.Send(near, bytes(64)))

        def answer(completion: unio.Completion) -> bool:
            operation = completion.operation
            if not isinstance(operation, unio.Recv):
                return False
            work()
            port.submit(unio.Send(operation.handle, operation.buffer))
            port.submit(operation)
            return True

        return rate(port, threads, answer)


def posts(work: Callable[[], object], threads: int) -> float:
    """Packets that are posted anew by who has taken them: nothing is measured but the queue, and the work."""
    with unio.Port(concurrency=threads) as port:

        def answer(completion: unio.Completion) -> bool:
            work()
            port.post(completion.key)
            return True

        for number in range(MESSAGES):
            port.post(number)
        return rate(port, threads, answer)


def stay_on_one_processor() -> None:
    """Keep out what the system takes to wake an idle processor, or doesn't, as it places the threads."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def wake_port() -> float:
    """Seconds from a post to the thread that it wakes."""
    with unio.Port() as here, unio.Port() as there:
        return _to_and_fro(lambda: there.post(None), here.wait, there.wait, lambda: here.post(None))


def wake_queue() -> float:
    here: queue.SimpleQueue[None] = queue.SimpleQueue()
    there: queue.SimpleQueue[None] = queue.SimpleQueue()
    return _to_and_fro(lambda: there.put(None), here.get, there.get, lambda: here.put(None))


def _to_and_fro(call: Callable[[], object], hear: Callable[[], object], *answer: Callable[[], object]) -> float:
    stay_on_one_processor()

    def other() -> None:
        for _ in range(WAKES):
            for step in answer:
                step()

    thread = threading.Thread(target=other)
    thread.start()
    began = time.perf_counter()
    for _ in range(WAKES):
        call()
        hear()
    spent = time.perf_counter() - began
    thread.join()
    return spent / WAKES / 2


def wake_asyncio() -> float:
    stay_on_one_processor()
    loops: list[asyncio.AbstractEventLoop] = []

    def run() -> None:
        loop = asyncio.new_event_loop()
        loops.append(loop)
        loop.run_forever()

    threads = []
    for _ in range(2):
        threads.append(threading.Thread(target=run))
        threads[-1].start()
    while len(loops) < len(threads):
        time.sleep(0.001)
    left = 2 * WAKES
    done = threading.Event()

    def hand_on(to: int) -> None:
        nonlocal left
        left -= 1
        loops[to].call_soon_threadsafe(hand_on, 1 - to) if left > 0 else done.set()

    began = time.perf_counter()
    loops[0].call_soon_threadsafe(hand_on, 1)
    done.wait()
    spent = time.perf_counter() - began
    for loop in loops:
        loop.call_soon_threadsafe(loop.stop)
    for thread, loop in zip(threads, loops, strict=True):
        thread.join()
        loop.close()
    return spent / WAKES / 2


def threads_woken() -> float:
    """How many threads of eight have gone to sleep anew, as each woken one does, for each packet that comes alone."""
    with unio.Port(concurrency=8) as port:
        told: queue.SimpleQueue[None] = queue.SimpleQueue()

        def run() -> None:
            while port.wait(limit=1)[0].key:
                told.put(None)

        crowd = [threading.Thread(target=run) for _ in range(8)]
        for thread in crowd:
            thread.start()
        time.sleep(0.3)
        woken = 0
        for _ in range(500):
            before = _slept(crowd)
            port.post("packet")
            told.get()
            time.sleep(0.001)
            woken += sum(map(operator.ne, before, _slept(crowd)))
        for _ in crowd:
            port.post(None)
        for thread in crowd:
            thread.join()
    return woken / 500


def _slept(threads: list[threading.Thread]) -> list[list[str]]:
    """What the system says of how often each thread slept; once or twice for a packet, as it may wait for the GIL."""
    lines = [Path(f"/proc/self/task/{thread.native_id}/status").read_text().splitlines() for thread in threads]
    return [[line for line in each if line.startswith("voluntary")] for each in lines]


MEASURES: dict[str, Callable[[], float]] = {
    f"{kind.__name__}, {name}, {threads}": partial(kind, work, threads)
    for kind in (echo, posts)
    for name, work in WORK.items()
    for threads in (1, 2)
} | {
    "wake port": wake_port,
    "wake SimpleQueue": wake_queue,
    "wake asyncio": wake_asyncio,
    "woken": threads_woken,
}

COMPARED = {name: [f"{name[:-1]}1"] for name in MEASURES if name.endswith(", 2")} | {
    "wake port": ["wake SimpleQueue", "wake asyncio"]
}
"""The measures that a measure is divided by."""


def measured(python: str, name: str) -> float:
    command = [python, __file__, "--measure", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", action="append", default=[], help="an interpreter that has unio; may be repeated")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="what the names of the measures to take begin with")
    parser.add_argument("--measure", choices=MEASURES, help="print this one, of this interpreter")
    options = parser.parse_args()
    if options.measure:
        print(MEASURES[options.measure]())
        return
    pythons = options.python or [sys.executable]
    names = [name for name in MEASURES if name.startswith(options.only)]
    rounds = [{(python, name): measured(python, name) for name in names for python in pythons}
              for _ in range(options.rounds)]  # fmt: skip

    def ratio(one: tuple[str, str], other: tuple[str, str]) -> str:
        ratios = sorted(each[one] / each[other] for each in rounds)
        return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"

    for python in pythons:
        print(python)
        for name in names:
            for other in COMPARED.get(name, ()):
                print(f"  {name}, to {other}: {ratio((python, name), (python, other))}")
            if name == "woken":
                print(f"  woken for each packet: {statistics.median(each[python, name] for each in rounds):.2f}")
            elif python != pythons[0]:
                print(f"  {name}, to {pythons[0]}: {ratio((python, name), (pythons[0], name))}")


if __name__ == "__main__":
    main()

"""What threads bring: one port with one thread and with two, and how long it takes to wake one.

    python benchmarks/threads.py --python python3.13 --python python3.13t

It is not part of `nox -s bench`. Each figure is one of a process of its own. The interpreters and the numbers of
threads take turns, round by round, and what is printed are medians of ratios within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import queue
import select
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import unio

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = bytes(12 * 1024)  # sha256 of it takes about 20 µs, without the GIL as it is above 2047 bytes
CONNECTIONS = 16
SECONDS = 1.0
WAKES = 5000


def clients(servers: tuple[socket.socket, ...], sockets: tuple[socket.socket, ...]) -> None:
    """Send 64 bytes on each connection and wait for them, again and again, until the server ends."""
    for sock in servers:
        sock.close()
    poll = select.epoll()
    by_number = {sock.fileno(): sock for sock in sockets}
    for number, sock in by_number.items():
        poll.register(number, select.EPOLLIN)
        sock.send(bytes(64))
    while True:
        for number, _ in poll.poll():
            if not by_number[number].recv(64):
                os._exit(0)
            by_number[number].send(bytes(64))


def serve(threads: int, work: Callable[[], object]) -> float:
    """Messages per second of an echo server that does some work for each."""
    counts = [0] * threads
    pairs = [socket.socketpair() for _ in range(CONNECTIONS)]
    if os.fork() == 0:
        clients(*zip(*pairs, strict=True))
    ended = False

    def run(number: int, port: unio.Port) -> None:
        while not ended:
            for _, operation, _, _ in port.wait(0.1, 4):
                if isinstance(operation, unio.Recv):
                    work()
                    port.submit(unio.Send(operation.handle, operation.buffer))
                    counts[number] += 1
                    port.submit(operation)

    with unio.Port(concurrency=threads) as port:
        for near, far in pairs:
            far.close()
            port.submit(unio.Recv(port.associate(near), bytearray(64)))
        crowd = [threading.Thread(target=run, args=(number, port)) for number in range(threads)]
        for thread in crowd:
            thread.start()
        time.sleep(SECONDS / 4)
        before, began = sum(counts), time.monotonic()
        time.sleep(SECONDS)
        rate = (sum(counts) - before) / (time.monotonic() - began)
        ended = True
        for thread in crowd:
            thread.join()
    for near, _ in pairs:
        near.close()
    os.wait()
    return rate


def wake_port() -> float:
    """Seconds from a post to the thread that it wakes."""
    with unio.Port() as here, unio.Port() as there:
        return _to_and_fro(lambda: there.post(None), here.wait, there.wait, lambda: here.post(None))


def wake_queue() -> float:
    here: queue.SimpleQueue[None] = queue.SimpleQueue()
    there: queue.SimpleQueue[None] = queue.SimpleQueue()
    return _to_and_fro(lambda: there.put(None), here.get, there.get, lambda: here.put(None))


def _to_and_fro(call: Callable[[], object], hear: Callable[[], object], *answer: Callable[[], object]) -> float:
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
    """How many threads of eight go to sleep anew, which each woken one does, for each packet that comes alone."""
    with unio.Port(concurrency=8) as port:
        told: queue.SimpleQueue[None] = queue.SimpleQueue()

        def run() -> None:
            while port.wait(limit=1)[0].key:
                told.put(None)

        crowd = [threading.Thread(target=run) for _ in range(8)]
        for thread in crowd:
            thread.start()
        time.sleep(0.3)
        before = _slept(crowd)
        for _ in range(500):
            port.post("packet")
            told.get()
            time.sleep(0.001)
        slept = _slept(crowd) - before
        for _ in crowd:
            port.post(None)
        for thread in crowd:
            thread.join()
    return slept / 500


def _slept(threads: list[threading.Thread]) -> int:
    lines = [Path(f"/proc/self/task/{thread.native_id}/status").read_text().splitlines() for thread in threads]
    return sum(int(line.split()[1]) for each in lines for line in each if line.startswith("voluntary"))


MEASURES: dict[str, Callable[[], float]] = {
    "echo 1": lambda: serve(1, lambda: None),
    "echo 2": lambda: serve(2, lambda: None),
    "hash 1": lambda: serve(1, lambda: hashlib.sha256(BLOCK)),
    "hash 2": lambda: serve(2, lambda: hashlib.sha256(BLOCK)),
    "wake port": wake_port,
    "wake SimpleQueue": wake_queue,
    "wake asyncio": wake_asyncio,
    "woken": threads_woken,
}


def measured(python: str, name: str) -> float:
    command = [python, __file__, "--measure", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", action="append", default=[], help="an interpreter that has unio; may be repeated")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--measure", choices=MEASURES, help="print this one, of this interpreter")
    options = parser.parse_args()
    if options.measure:
        print(MEASURES[options.measure]())
        return
    pythons = options.python or [sys.executable]
    rounds = [{(python, name): measured(python, name) for name in MEASURES for python in pythons}
              for _ in range(options.rounds)]  # fmt: skip

    def ratio(one: tuple[str, str], other: tuple[str, str]) -> str:
        ratios = sorted(each[one] / each[other] for each in rounds)
        return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"

    for python in pythons:
        print(python)
        for what in ("echo", "hash"):
            print(f"  {what}, 2 threads to 1: {ratio((python, f'{what} 2'), (python, f'{what} 1'))}")
            print(f"  {what}, 2 threads, to the first: {ratio((python, f'{what} 2'), (pythons[0], f'{what} 2'))}")
        for other in ("SimpleQueue", "asyncio"):
            print(f"  time to wake, port to {other}: {ratio((python, 'wake port'), (python, f'wake {other}'))}")
        print(f"  woken for each packet: {statistics.median(each[python, 'woken'] for each in rounds):.2f}")


if __name__ == "__main__":
    main()

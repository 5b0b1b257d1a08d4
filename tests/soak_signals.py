"""Signals without end, each of which has to be heard before the next is sent; not part of the suite.

    python tests/soak_signals.py --signals 100000

Half of them go to a handler of the program's that posts, at any moment before and while the main thread falls asleep in
a wait; the others to a Signal that is submitted again for each completion. The last line says how many were slept over,
and the exit status is 1 if one was.
"""

# ruff: noqa: T201 - a script speaks to whoever runs it

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable

import unio

PATIENCE = 2.0  # seconds, after which a signal counts as slept over


def take_all(port: unio.Port, count: int, again: Callable[[], object]) -> int:
    """Have *count* signals sent while this thread waits; *again* is called for each. Returns how many were missed."""
    heard = threading.Semaphore(0)
    choice = random.Random(1)
    missed = 0

    def send() -> None:
        nonlocal missed
        for _ in range(count):
            for _ in range(choice.randrange(60)):  # so that it comes at any moment
                pass
            os.kill(os.getpid(), signal.SIGUSR1)
            if not heard.acquire(timeout=PATIENCE):
                missed += 1
                port.post("missed")
                heard.acquire(timeout=PATIENCE)
        port.post("end")

    sender = threading.Thread(target=send)
    sender.start()
    keys: set[object] = set()
    while "end" not in keys:
        keys = {found.key for found in port.wait()}
        if "signal" in keys:
            again()
            heard.release()
    sender.join()
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--signals", type=int, default=100_000, help="how many (default: %(default)s)")
    parser.add_argument("--backend", default=None, help="the backend (default: the one that a port gets)")
    options = parser.parse_args()
    began = time.monotonic()
    with unio.Port(backend=options.backend) as port:
        signal.signal(signal.SIGUSR1, lambda *_: port.post("signal"))
        missed = take_all(port, options.signals // 2, lambda: None)
        operation = unio.Signal(signal.SIGUSR1, "signal")
        port.submit(operation)
        missed += take_all(port, options.signals // 2, lambda: port.submit(operation))
        print(f"{options.signals} signals on {port.backend}, {time.monotonic() - began:.0f} s: {missed} slept over")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

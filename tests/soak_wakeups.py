"""Posts and waits among many threads, a million of them: no wake-up is lost. Not part of the suite.

    python tests/soak_wakeups.py --pairs 1000000 --threads 16

Half of the threads post, each a packet at a time, and go on when it was taken; the other half take. So those that take
have to be woken again and again, and a wake-up that is lost leaves both sides asleep, which ends the program with an
error. It is done with as many run slots as there are threads, with the usual number, and with one.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time

from patience import PATIENCE

import unio

STOP = object()


def post(port: unio.Port, count: int, lost: list[str]) -> None:
    """Post packets, one after the other."""
    taken = threading.Lock()
    taken.acquire()
    for number in range(count):
        port.post(taken)
        if not taken.acquire(timeout=PATIENCE):
            lost.append(f"packet {number} of {count} was not taken")
            return


def take(port: unio.Port) -> None:
    """Take packets and tell who has posted them."""
    while (key := port.wait(limit=1)[0].key) is not STOP:
        key.release()


def run_round(backend: str | None, threads: int, concurrency: int, count: int) -> float:
    """Let each thread that posts do so *count* times. Returns how many seconds it took."""
    lost: list[str] = []
    with unio.Port(backend=backend, concurrency=concurrency) as port:
        taking = [threading.Thread(target=take, args=(port,), daemon=True) for _ in range(threads // 2)]
        posting = [threading.Thread(target=post, args=(port, count, lost)) for _ in range(threads // 2)]
        began = time.monotonic()
        for thread in taking + posting:
            thread.start()
        for thread in posting:
            thread.join()
        spent = time.monotonic() - began
        if lost:
            sys.exit("; ".join(lost))
        for _ in taking:
            port.post(STOP)
        for thread in taking:
            thread.join()
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=1_000_000, help="of a post and a wait (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=16, help="how many there are (default: %(default)s)")
    parser.add_argument("--backend", default=None, help="the backend (default: the one that a port gets)")
    options = parser.parse_args()
    each = -(-options.pairs // (3 * (options.threads // 2)))
    done = 0
    for concurrency in (options.threads, 0, 1):
        spent = run_round(options.backend, options.threads, concurrency, each)
        pairs = each * (options.threads // 2)
        done += pairs
        sys.stdout.write(f"concurrency {concurrency}: {pairs} pairs, {pairs / spent:,.0f}/s\n")
        sys.stdout.flush()
    sys.stdout.write(f"{done} pairs among {options.threads} threads, no wake-up lost\n")


if __name__ == "__main__":
    main()

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
import faulthandler
import gc
import itertools
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from descriptors import open_handles
from machine.subject import Violation, check
from machine.world import handles_agree
from patience import PATIENCE
from stresses.finalizers import finalizers
from stresses.held import held
from stresses.ledger import Ledger
from stresses.memory import memory

import unio

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

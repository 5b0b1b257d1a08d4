"""What a workload says to the one who runs it: the same lines as the load generator's.

A workload is a program whose work needs no load from outside. It calls :func:`serve` with a function that works for a
number of seconds and returns how many exchanges it made.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def serve(work: Callable[[float], int]) -> None:
    """Do what the lines on standard input say, until they end."""
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = float(line.split()[1])
        start = time.monotonic()
        exchanges = work(seconds)
        rate = exchanges / (time.monotonic() - start)
        print(json.dumps({"rate": rate, "exchanges": exchanges}), flush=True)

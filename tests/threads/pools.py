"""What tests of pools share: handlers, a grace that no test uses up, programs that have a pool."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from patience import PROGRAM
from support import PATIENCE

import unio

LONG = 10 * PATIENCE
"""A grace that no test can wait for: a pool that ends did not use it up."""


class Record:
    """A handler that keeps the completions it was called with."""

    def __init__(self) -> None:
        self.seen: list[unio.Completion] = []

    def __call__(self, found: unio.Completion) -> None:
        self.seen.append(found)

    @property
    def keys(self) -> list[Any]:
        return [found.key for found in self.seen]


class Gate:
    """A handler that stays in each call until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, _: object = None) -> None:
        self.entered.release()
        assert self.go.wait(PATIENCE)

    def is_entered(self) -> bool:
        return self.entered.acquire(timeout=PATIENCE)


def run(port: unio.Port, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program on the port's backend to its end."""
    paths = [str(Path(unio.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), unio.backends.VARIABLE: port.backend}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=PROGRAM, check=False
    )

"""What a stress owes and has had, and that it does not stand still."""

from __future__ import annotations

import collections
import faulthandler
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

from machine.subject import Violation, check
from patience import PATIENCE

STOP = object()
"""The key of what a stress posts."""

_pulse = 0.0


def alive() -> None:
    """Something has happened: from now on nothing may stand still for PATIENCE seconds, or the program ends."""
    global _pulse  # noqa: PLW0603 - of all threads
    now = time.monotonic()
    if now - _pulse > 1:
        _pulse = now
        faulthandler.dump_traceback_later(PATIENCE, exit=True)


class Ledger:
    """What is owed a completion, under a number of its own, which is (or is on) the operation's state."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self._due: dict[int, str] = {}
        self._numbers = itertools.count(1)

    def owe(self, what: str) -> int:
        number = next(self._numbers)
        self._due[number] = what
        return number

    def remit(self, number: int) -> None:
        """It was refused."""
        del self._due[number]

    def came(self, number: int) -> None:
        alive()
        if (what := self._due.pop(number, None)) is None:
            self.problems.append(f"operation {number} has completed twice, or was never submitted")
        else:
            self.counts[what] += 1  # a thread may be overtaken here; these are figures and no proof

    def settle(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Return when all has come, or raise when nothing comes any more."""
        left, since = len(self._due), time.monotonic()
        while self._due:
            if len(self._due) != left:
                left, since = len(self._due), time.monotonic()
            if time.monotonic() - since > PATIENCE / 2:
                lost = ", ".join(f"{count} {what}" for what, count in collections.Counter(self._due.values()).items())
                raise Violation(f"lost, as nothing has completed for {PATIENCE / 2:.0f} s: {lost}")
            meanwhile()
            time.sleep(0.001)
        self.check()

    def check(self) -> None:
        check(not self.problems, "; ".join(self.problems[:10]))

    def watch(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function in a thread of its own, whose failure is a problem."""
        try:
            function(*arguments)
        except BaseException as error:  # noqa: BLE001 - told at the end of the round
            self.problems.append(f"{threading.current_thread().name}: {error!r}")

    def thread(self, function: Callable[..., object], *arguments: Any) -> threading.Thread:
        made = threading.Thread(target=self.watch, args=(function, *arguments), daemon=True)
        made.start()
        return made

"""How long a test waits for what a fault may have lost: until nothing has happened for so long that nothing will.

A slow machine loses nothing, and may take any time for all that a test does. So what is bounded is not how long that
takes, but how long nothing of it happens: who waits for many things has new patience with each that came, to itself or
to another thread of the test. That a test which goes in circles ends is up to pytest's time-out for each test.
"""

from __future__ import annotations

import time

PATIENCE = 60.0
"""Seconds without anything after which what a test waits for has failed to happen."""

PROGRAM = 5 * PATIENCE
"""Seconds that a program which a test starts may take for all that it does; nobody sees how far it is."""

_happened = 0.0


def happened() -> None:
    """Something has come to whoever has waited for it."""
    global _happened  # noqa: PLW0603 - what any thread of the test has seen
    _happened = time.monotonic()


def patience_left(since: float, patience: float = PATIENCE) -> float:
    """Seconds that are left to who has waited since then: as long as if it had begun when something last happened."""
    return max(since, _happened) + patience - time.monotonic()

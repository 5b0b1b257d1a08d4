"""Which of the threads that wait minds the deadlines: one at a time sleeps no longer than until the next of them.

It knows nothing of what is due.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from unio.backends.common.locks import Lock

if TYPE_CHECKING:
    from unio.backends.windows.delivery import Delivery

NEVER = math.inf
"""The deadline that comes after all others."""


class Deadlines:
    """The deadlines of a port, and until when the thread sleeps that minds them."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._lock = Lock()
        self._bound = NEVER

    def take(self) -> float | None:
        """The next deadline, if this thread is the one to mind it; it has entered the queue before."""
        earliest = self._delivery.timers.next_time()
        if earliest is None:
            return None
        with self._lock:
            if earliest >= self._bound:
                return None  # another thread does
            self._bound = earliest
        return earliest

    def leave(self, mine: float) -> None:
        with self._lock:
            if self._bound == mine:
                self._bound = NEVER

    def hand_over(self) -> None:
        """Have another thread mind the deadlines in the place of this one, which goes."""
        delivery = self._delivery
        if delivery.queue.waiting and self._bound == NEVER and delivery.timers.next_time() is not None:
            delivery.wake()

    def mind(self) -> None:
        """Wake a thread for a deadline that comes before those that are minded."""
        if self._delivery.queue.waiting:
            earliest = self._delivery.timers.next_time()
            if earliest is not None and earliest < self._bound:
                self._delivery.wake()

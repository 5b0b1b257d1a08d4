"""What a fork does to a loop: nothing in the parent, and in the child the loop is over, so that another one can begin.

The loop's port is the parent's, as its descriptors are; the port itself refuses to be used in the child, and says why.
"""

from __future__ import annotations

import os
import weakref

from unio.asyncio.signals import Signals

_loops: weakref.WeakSet[Forks] = weakref.WeakSet()


class Forks(Signals):
    """A loop that knows when its process was forked."""

    def __init__(self) -> None:
        super().__init__()
        _loops.add(self)

    def become_child(self) -> None:
        """It runs no more: nobody is left in it, and the signals are the child's own."""
        self._thread_id = None
        self.forget_signals()

    def _let_all_go(self) -> None:
        if self.port.closed:  # what has joined is the parent's to give back
            self._joined.clear()
        else:
            super()._let_all_go()


def _after_fork_in_child() -> None:
    for loop in list(_loops):
        loop.become_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

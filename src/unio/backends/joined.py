"""Which handles have joined a port, of all ports of the process.

A handle joins one port, once. Windows' kernel keeps that book for its own handles; elsewhere this does, by number: the
handle, and once its port is closed the object that was associated, each for as long as it lives. A handle leads to what
is the program's, by its key and its operations, and so perhaps to the port: if the book kept it alive, a port that is
dropped would never be closed. The lock of the book is held to write in it, and not to look at a handle, which is a
system call and may be the program's own code.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import Any

from unio.backends.lanes import EmulatedHandle, stands_for
from unio.errors import AssociationError

_joined: dict[int, weakref.ref[Any]] = {}
_joined_lock = threading.Lock()


def _after_fork_in_child() -> None:
    global _joined_lock  # noqa: PLW0603 - the parent's may be held by a thread that the child does not have
    _joined_lock = threading.Lock()
    _joined.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


def book(made: EmulatedHandle) -> EmulatedHandle | None:
    """Note that a handle joins a port, and return the one whose number it has inherited, if that is still known.

    Raises :class:`unio.AssociationError` if what it stands for has joined a port already.
    """
    entry = weakref.ref(made)
    while True:
        found = _joined.get(made.number)
        previous = found() if found else None
        if _is_taken(made.number, previous):
            raise AssociationError(
                f"{made.object!r} has joined a port already; a handle does so once, even if that port is closed"
            )
        with _joined_lock:
            if _joined.get(made.number) is found:  # nobody has been quicker since that was looked at
                _joined[made.number] = entry
                return previous if isinstance(previous, EmulatedHandle) else None


def _is_taken(number: int, known: Any) -> bool:
    """Whether a number stands for what has joined with it: a handle, or an object whose handle's port is closed."""
    if isinstance(known, EmulatedHandle):
        return known.is_open()
    return known is not None and stands_for(known, number)


def keep_object(handle: EmulatedHandle) -> None:
    """Remember, for a handle whose port is closed, the object instead: it may live longer."""
    with _joined_lock, contextlib.suppress(TypeError):  # of such objects no weak references can be made
        if _is_entry(handle):
            _joined[handle.number] = weakref.ref(handle.object)


def strike(handle: EmulatedHandle) -> None:
    """Let the number of a closed handle be associated again."""
    with _joined_lock:
        if _is_entry(handle):
            del _joined[handle.number]


def _is_entry(handle: EmulatedHandle) -> bool:
    found = _joined.get(handle.number)
    return found is not None and found() is handle

"""Which handles have joined a port, of all ports of the process.

A handle joins one port, once. Windows' kernel keeps that book for its own handles; elsewhere this does: by number, the
object that was associated, as long as it lives, and its handle. The lock of the book is held to write in it, and not to
look at a handle, which is a system call and may be the program's own code.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, TypeAlias

from unio.backends.lanes import stands_for
from unio.errors import AssociationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.backends.lanes import EmulatedHandle

    Entry: TypeAlias = tuple[Callable[[], Any], weakref.ref[EmulatedHandle]]

_joined: dict[int, Entry] = {}
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
    given = made.object
    weak = type(given).__weakrefoffset__ != 0
    entry = (weakref.ref(given) if weak else lambda: None, weakref.ref(made))
    while True:
        found = _joined.get(made.number)
        previous = found[1]() if found else None
        if _is_taken(made.number, found, previous):
            raise AssociationError(
                f"{given!r} has joined a port already; a handle does so once, even if that port is closed"
            )
        with _joined_lock:
            if _joined.get(made.number) is found:  # nobody has been quicker since that was looked at
                _joined[made.number] = entry
                return previous


def _is_taken(number: int, found: Entry | None, previous: EmulatedHandle | None) -> bool:
    """Whether a number stands for what has joined with it."""
    if previous is not None:
        return previous.is_open()
    known = found[0]() if found else None
    return known is not None and stands_for(known, number)


def strike(handle: EmulatedHandle) -> None:
    """Let the number of a closed handle be associated again."""
    with _joined_lock:
        _, reference = _joined.get(handle.number, (None, lambda: None))
        if reference() is handle:
            del _joined[handle.number]

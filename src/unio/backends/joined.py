"""Which handles have joined a port, of all ports of the process.

A handle joins one port, once. Windows' kernel keeps that book for its own handles; elsewhere this does: by number, the
object that was associated, as long as it lives, and its handle.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

from unio.backends.lanes import stands_for
from unio.errors import AssociationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.backends.lanes import EmulatedHandle

_joined: dict[int, tuple[Callable[[], Any], weakref.ref[EmulatedHandle]]] = {}
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
    with _joined_lock:
        reference, handle_reference = _joined.get(made.number, (lambda: None, lambda: None))
        previous, known = handle_reference(), reference()
        if previous.is_open() if previous is not None else known is not None and stands_for(known, made.number):
            raise AssociationError(
                f"{given!r} has joined a port already; a handle does so once, even if that port is closed"
            )
        weak = type(given).__weakrefoffset__ != 0
        _joined[made.number] = (weakref.ref(given) if weak else lambda: None, weakref.ref(made))
    return previous


def strike(handle: EmulatedHandle) -> None:
    """Let the number of a closed handle be associated again."""
    with _joined_lock:
        _, reference = _joined.get(handle.number, (None, lambda: None))
        if reference() is handle:
            del _joined[handle.number]

"""Which handles have joined a port, of all ports of the process.

A handle joins one port, once. Windows' kernel keeps that book for its own handles; elsewhere this does, by number: the
table of the port that the handle is in, and once that port is closed the object that was associated, each for as long
as it lives. The book keeps neither alive: a handle leads to what is the program's, by its key and its operations, and
so perhaps to the port, which would never be closed when it is dropped.

The lock of the book is held to compare and to write, and not to look at a handle, which is a system call and may be the
program's own code. Nor is anything called with it, so that between two of those steps Python runs nothing else: who
associates can't leave that for later, and may do so in a finalizer.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

from unio.backends.lanes import EmulatedHandle, Life
from unio.backends.locks import Lock
from unio.backends.native import share_book
from unio.backends.objects import stands_for
from unio.errors import AssociationError, shown

_joined: dict[int, weakref.ref[Any]] = {}
_joined_lock = Lock()


def _after_fork_in_child() -> None:
    global _joined_lock  # noqa: PLW0603 - the parent's may be held by a thread that the child does not have
    _joined_lock = Lock()
    _joined.clear()
    share_book(_joined, _joined_lock)


os.register_at_fork(after_in_child=_after_fork_in_child)
share_book(_joined, _joined_lock)


class Table(dict[int, EmulatedHandle]):
    """The handles of a port, by number. One weak reference to it serves for all of them in the book."""

    __slots__ = ("__weakref__",)


def enter(table: Table, made: EmulatedHandle) -> None:
    """Put a handle into the table of the port that it joins, and note that in the book.

    If its number has been another handle's, that one leaves its port. Raises :class:`unio.AssociationError` if what it
    stands for has joined a port already.
    """
    number = made.number
    reference = weakref.ref(table)  # each table has one, the same each time
    while True:
        entry = _joined.get(number)
        known = _known(entry, number)
        if _is_taken(number, known):
            raise AssociationError(
                f"{shown(made.object)} has joined a port already; a handle does so once, even if that port is closed"
            )
        if isinstance(known, EmulatedHandle):
            known.leave(Life.CLOSING)
        with _joined_lock:
            now = _joined[number] if number in _joined else None  # noqa: SIM401 - get() is a call
            left = table[number] if number in table else None  # noqa: SIM401
            if now is entry and (entry is not reference or left is known or left is None):  # nobody has been quicker
                _joined[number] = reference
                table[number] = made
                return


def _known(entry: weakref.ref[Any] | None, number: int) -> Any:
    """The handle that has joined with a number, or the object of one whose port is closed, if it is still known."""
    what = entry() if entry is not None else None
    return what.get(number) if isinstance(what, Table) else what


def _is_taken(number: int, known: Any) -> bool:
    """Whether a number stands for what has joined with it: a handle, or an object whose handle's port is closed."""
    if isinstance(known, EmulatedHandle):
        return known.is_open()
    return known is not None and stands_for(known, number)


def keep_object(handle: EmulatedHandle) -> None:
    """Remember, for a handle whose port is closed, the object instead: it may live longer."""
    number = handle.number
    try:
        kept: weakref.ref[Any] = weakref.ref(handle.object)
    except TypeError:  # of such objects no weak references can be made
        kept = weakref.ref(handle)
    entry = _joined.get(number)
    known = _known(entry, number)
    if known is handle or known is None:  # with a port that is dropped, its table may go first
        with _joined_lock:
            if (_joined[number] if number in _joined else None) is entry:  # noqa: SIM401 - get() is a call
                _joined[number] = kept


def strike(table: Table, handle: EmulatedHandle) -> None:
    """Take a handle out of its table, and let its number be associated again.

    The entry of the book says nothing any more once the table has no such handle. It goes as well, as C enters a handle
    by itself only where the book has nothing, and leaves the rest to :func:`enter`.
    """
    number = handle.number
    reference = weakref.ref(table)
    with _joined_lock:
        if number in table and table[number] is handle:
            if number in _joined and _joined[number] is reference:
                del _joined[number]
            del table[number]

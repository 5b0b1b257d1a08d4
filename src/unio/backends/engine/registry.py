"""The registry: which handles have joined a port, of all ports of the process.

All ports of the process share it; it changes the table of a port together with its own, under its own lock.

A handle joins one port, once. Windows' kernel keeps such a registry for its own handles; elsewhere this does, by
number: the table of the port that the handle is in, and once that port is closed the object that was associated, each
for as long as it lives. The registry keeps neither alive: a handle leads to what is the program's, by its key and its
operations, and so perhaps to the port, which would never be closed when it is dropped.

The lock of the registry is held to compare and to write, and not to look at a handle, which is a system call and may be
the program's own code. Nor is anything called with it, so that between two of those steps Python runs nothing else: who
associates can't leave that for later, and may do so in a finalizer.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

from unio.backends.common.accelerator import share_registry
from unio.backends.common.locks import Lock
from unio.backends.common.objects import stands_for
from unio.backends.engine.handle import EngineHandle, Lifecycle
from unio.errors import AssociationError, shown

_registry: dict[int, weakref.ref[Any]] = {}
_registry_lock = Lock()


def _after_fork_in_child() -> None:
    global _registry_lock  # noqa: PLW0603 - the parent's may be held by a thread that the child does not have
    _registry_lock = Lock()
    _registry.clear()
    share_registry(_registry, _registry_lock)


os.register_at_fork(after_in_child=_after_fork_in_child)
share_registry(_registry, _registry_lock)


class Table(dict[int, EngineHandle]):
    """The handles of a port, by number. One weak reference to it serves for all of them in the registry."""

    __slots__ = ("__weakref__",)


def enter(table: Table, made: EngineHandle) -> None:
    """Put a handle into the table of the port that it joins, and note that in the registry.

    If its number has been another handle's, that one leaves its port. Raises :class:`unio.AssociationError` if what it
    stands for has joined a port already.
    """
    number = made.number
    reference = weakref.ref(table)  # each table has one, the same each time
    while True:
        entry = _registry.get(number)
        known = _known(entry, number)
        if _is_taken(number, known):
            raise AssociationError(
                f"{shown(made.object)} has joined a port already; a handle does so once, even if that port is closed"
            )
        if isinstance(known, EngineHandle):
            known.leave(Lifecycle.CLOSING)
        with _registry_lock:
            now = _registry[number] if number in _registry else None  # noqa: SIM401 - get() is a call
            left = table[number] if number in table else None  # noqa: SIM401
            if now is entry and (entry is not reference or left is known or left is None):  # nobody has been quicker
                _registry[number] = reference
                table[number] = made
                return


def _known(entry: weakref.ref[Any] | None, number: int) -> Any:
    """The handle that has joined with a number, or the object of one whose port is closed, if it is still known."""
    what = entry() if entry is not None else None
    return what.get(number) if isinstance(what, Table) else what


def _is_taken(number: int, known: Any) -> bool:
    """Whether a number stands for what has joined with it: a handle, or an object whose handle's port is closed."""
    if isinstance(known, EngineHandle):
        return known.is_open()
    return known is not None and stands_for(known, number)


def keep_object(handle: EngineHandle) -> None:
    """Remember, for a handle whose port is closed, the object instead: it may live longer."""
    number = handle.number
    if handle.lifecycle == Lifecycle.DETACHED:  # it may join another port, and perhaps has
        return
    try:
        kept: weakref.ref[Any] = weakref.ref(handle.object)
    except TypeError:  # of such objects no weak references can be made
        kept = weakref.ref(handle)
    entry = _registry.get(number)
    known = _known(entry, number)
    if known is handle or known is None:  # with a port that is dropped, its table may go first
        with _registry_lock:
            if (_registry[number] if number in _registry else None) is entry:  # noqa: SIM401 - get() is a call
                _registry[number] = kept


def remove(table: Table, handle: EngineHandle) -> None:
    """Take a handle out of its table, and let its number be associated again.

    The entry of the registry says nothing any more once the table has no such handle. It goes as well, as C enters a
    handle by itself only where the registry has nothing, and leaves the rest to :func:`enter`.
    """
    number = handle.number
    reference = weakref.ref(table)
    with _registry_lock:
        if number in table and table[number] is handle:
            if number in _registry and _registry[number] is reference:
                del _registry[number]
            del table[number]


def clear(table: Table) -> None:
    """Empty the table of a port that is closed, in no other thread's middle of a step."""
    _left = list(table.values())  # they go when this returns, and the lock is given back
    with _registry_lock:
        table.clear()

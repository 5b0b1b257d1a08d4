"""What a wait returns: the form in Python.

Where there is ``unio._core``, its class of the same name stands in the place of this one
(:mod:`unio.backends.common.accelerator` chooses); ``src/core/completion.c`` says what it gains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Completion(NamedTuple):
    """What a wait returns: one packet of the port's queue."""

    key: Any
    operation: Any
    transferred: int
    error: OSError | None


Completion.__module__ = "unio.port"  # as which either form is pickled

# The same words as in C, where a reader looks for them as well: help(), and the documentation.
DOCUMENTATION = {
    "key": "The key of the operation's handle, or the one that was posted: the same object.",
    "operation": "The operation that completed, or what was posted in its place.",
    "transferred": "The number of bytes transferred, also where there is an error; or the number that was posted.",
    "error": "Why the operation failed, or None if it succeeded.",
}
for name, text in DOCUMENTATION.items():
    getattr(Completion, name).__doc__ = text


_new_tuple = tuple.__new__


def made_completion(fields: Iterable[Any]) -> Completion:
    """Make a completion of its four fields, at a third of the price of calling the class."""
    return _new_tuple(Completion, fields)

"""The C part of unio, where there is one.

All that asks whether there is C, or how much of it, asks here; it uses nothing of unio but its C.

``unio._core`` comes with the wheel for a system, or is compiled at installation, where there is a compiler. Without it
everything works, in Python alone: the Python form stays for those who have no compiler, and for other systems and
interpreters. A class is C or it is Python: a module that has a twin in Python looks here which of them it is to be.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import socket
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from typing import TYPE_CHECKING, Any


def _why_absent(error: ImportError) -> str:
    """Why there is no C part. What has built unio without one has left word of it (hatch_build.py)."""
    if sys.platform == "win32":
        return "it is for Linux, macOS and the BSDs; Windows does by itself what it is for"
    found = _files()
    if any(f"_core{suffix}" in found for suffix in EXTENSION_SUFFIXES):
        return f"it is there and can't be loaded: {error}"  # as the loader says, or a subinterpreter with its own lock
    if found:
        return f"it was compiled for another Python: {', '.join(found)}"
    try:
        return str(importlib.import_module("unio._no_core").WHY)
    except ModuleNotFoundError:
        return "unio was not installed: installing it compiles this part, where there is a compiler"


def _files() -> list[str]:
    """The names of the files of C parts, whatever Python they are for."""
    with contextlib.suppress(OSError):  # unio may be in an archive, which can't have any
        names = os.listdir(sys.modules["unio"].__path__[0])  # noqa: PTH208 - pathlib imports what a program may never need
        return sorted(name for name in names if name.startswith("_core.") and not name.endswith((".pyi", ".new")))
    return []


if TYPE_CHECKING:
    from collections.abc import Callable

    from unio import _core
    from unio._core import Lock

    core = _core
    _absence = ""
else:
    try:
        core = importlib.import_module("unio._core")
    except ImportError as error:
        core = None
        _absence = _why_absent(error)


def _finds_numbers() -> bool:
    probe = socket.socket()
    with probe:
        found = core.keeps_number(probe, probe.fileno())
    return found and core.keeps_number(probe, -1)


def _why_no_numbers() -> str | None:
    if core is None:
        return _absence
    if not _finds_numbers():
        return "this Python keeps the descriptors of sockets elsewhere"
    return None if core.claim(socket.socket) else "it serves the main interpreter's first copy of unio, and no other"


_no_numbers = _why_no_numbers()

finds_numbers = _no_numbers is None
"""Whether C sees which descriptor a socket object has, and that it has none any more.

It looks into the object, right before each call: a number that was remembered might be another's by then.
"""

has_fast_path = finds_numbers
"""Whether C does what is plain: submissions, completions and waits."""

no_fast_path = _no_numbers
"""Why C does nothing, or less than it could; None where it does all."""


SOCKET_METHODS = {
    "__init__": ("AF_INET", "SOCK_STREAM", "_socket", "socket", "__init__", "_io_refs", "_closed"),
    "close": ("_closed", "_io_refs", "_real_close"),
    "_real_close": ("close",),
}
"""The methods of :class:`socket.socket` that C has short forms of, and all names that their code looks up."""


def know_sockets() -> None:
    """Let the C part make and close sockets by itself, if this Python's do no more than what it knows.

    Its forms of these methods are those of CPython 3.11 to 3.15. With others, as a later one's or those of a library
    that has changed the class, Python makes and closes each socket as before.
    """
    found = {name: getattr(vars(socket.socket).get(name), "__code__", None) for name in SOCKET_METHODS}
    names = {name: code and code.co_names for name, code in found.items()}
    if names == SOCKET_METHODS and "__new__" not in vars(socket.socket):
        core.know_sockets(vars(socket))


if TYPE_CHECKING or core is None:
    from unio.completion import Completion as Completion  # noqa: PLC0414
    from unio.completion import made_completion as made_completion  # noqa: PLC0414
    from unio.operation_state import AcceptState as AcceptState  # noqa: PLC0414
    from unio.operation_state import BufferedState as BufferedState  # noqa: PLC0414
    from unio.operation_state import OperationState as OperationState  # noqa: PLC0414
    from unio.operation_state import PollState as PollState  # noqa: PLC0414
    from unio.operation_state import RecvFromState as RecvFromState  # noqa: PLC0414
    from unio.operation_state import RecvState as RecvState  # noqa: PLC0414
    from unio.operation_state import SendState as SendState  # noqa: PLC0414
    from unio.operation_state import SendToState as SendToState  # noqa: PLC0414
else:
    OperationState = core.OperationState
    BufferedState = core.BufferedState
    RecvState = core.RecvState
    SendState = core.SendState
    PollState = core.PollState
    RecvFromState = core.RecvFromState
    SendToState = core.SendToState
    AcceptState = core.AcceptState
    Completion = core.Completion
    made_completion = Completion._make


if TYPE_CHECKING or not has_fast_path:
    from unio.task_state import TaskState as TaskState  # noqa: PLC0414
    from unio.task_state import in_task as in_task  # noqa: PLC0414
else:
    TaskState = core.TaskState
    in_task = core.in_task


if TYPE_CHECKING:
    from unio._core import FastPort as FastPort  # noqa: PLC0414 - so that it counts as this module's
elif has_fast_path:
    FastPort = core.FastPort
else:

    class FastPort:
        """What a port's class begins with, to have its methods in C where there is a fast path."""

        __slots__ = ()


next_sequence: Callable[[], int] = core.next_sequence if has_fast_path else itertools.count(1).__next__
"""A number above all before it, by which operations are ordered."""


def _no_part_in_c(_waiter: object) -> None:
    pass


thread_waits: Callable[[object], None] = core.thread_waits if has_fast_path else _no_part_in_c
"""Lets the C part know what the calling thread is as one that waits; the caller keeps it alive."""


def share_registry(registry: dict[int, Any], lock: Lock) -> None:
    """Let the C part write into the registry of the handles that have joined a port, with its lock held."""
    if has_fast_path:
        core.share_registry(registry, lock)

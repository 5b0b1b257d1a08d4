"""Which backends there are, which can run here, and which one a port gets.

The choice is the argument of :class:`unio.Port`, else the environment variable ``UNIO_BACKEND``, else the first
candidate that is available.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from unio.errors import BackendUnavailable, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unio.port import Port

__all__ = ["VARIABLE", "Candidate", "candidates", "choose"]

VARIABLE = "UNIO_BACKEND"
"""The environment variable that names a backend."""

KQUEUE_LIBRARY = "UNIO_KQUEUE_LIBRARY"
"""The environment variable that names a library with kqueue(2), to be called in place of the system's own."""


class Candidate(NamedTuple):
    """A backend and whether it can run here."""

    name: str
    available: bool
    reason: str
    """Why it is available or is not, in words."""


# In the order of preference, with the systems that a backend is for: sys.platform begins with such a name, and may go
# on with a version. Elsewhere its module is not even imported. The module has `unavailable()`, which gives a reason or
# None, and PORT, the class of its ports.
_SYSTEMS = {
    "iocp": ("win32",),
    "epoll": ("linux",),
    "io_uring": ("linux",),
    "kqueue": ("darwin", "dragonfly", "freebsd", "netbsd", "openbsd"),
}
_STAND_INS = {"kqueue": KQUEUE_LIBRARY}  # what names a library that makes a backend run on other systems too


def candidates() -> list[Candidate]:
    """All backends in the order of preference, each with the reason why it can or can't run here."""
    return [_candidate(name) for name in _SYSTEMS]


def _candidate(name: str) -> Candidate:
    systems, stand_in = _SYSTEMS[name], _STAND_INS.get(name, "")
    if sys.platform.startswith(systems) or (os.name == "posix" and os.environ.get(stand_in)):
        problem = _unavailable(name)
    else:
        problem = f"it is for {_listed(systems)}, and this is {sys.platform}"
        if stand_in:
            problem += f"; {stand_in} is not set"
    return Candidate(name, problem is None, problem or "available")


def _unavailable(name: str) -> str | None:
    """Why a backend can't run here, or None. What its module raises is a reason, and keeps no other from serving."""
    try:
        module = importlib.import_module(f"unio.backends.{name}")
        if not hasattr(module, "unavailable"):  # another thread's import of it has just failed, and left this half
            return _unavailable(name)
        problem: str | None = module.unavailable()
    except ImportError as error:
        return _lacking(error)
    except Exception as error:  # noqa: BLE001 - see above
        return f"{type(error).__name__}: {error}"
    return problem


def _lacking(error: ImportError) -> str:
    """What is imported by a backend and is not there, or can't be imported though it is."""
    if error.name in {"unio._core", "_core"}:  # the latter where the loader refuses it
        from unio.backends.common.accelerator import no_fast_path  # noqa: PLC0415 - it is asked on the way to an error

        return f"it needs unio._core, the part of unio that is C, which is absent: {no_fast_path}"
    if error.name == "_cffi_backend" and isinstance(error, ModuleNotFoundError):
        return "it needs cffi, which isn't installed"
    return f"it can't be imported: {error}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def choose(name: str | None = None) -> str:
    """The name of the backend that a port gets when *name* is its argument.

    Raises :class:`unio.BackendUnavailable` for an unknown or unavailable one, listing the candidates.
    """
    source = "asked for"
    if name is not None and not isinstance(name, str):
        raise TypeError(f"the backend must be a name, not {type(name).__name__}")
    if name is None:
        name = os.environ.get(VARIABLE) or None
        source = f"named by {VARIABLE}"
    for each in _SYSTEMS if name is None else {name} & _SYSTEMS.keys():  # those behind it are not even imported
        if _candidate(each).available:
            return each
    what = "can't run here" if name in _SYSTEMS else f"is unknown{_meant(name or '')}"
    problem = "no backend can run here" if name is None else f"the backend {shown(name)}, {source}, {what}"
    listed = [f"  {each.name}: {each.reason}" for each in candidates()]
    raise BackendUnavailable("\n".join([problem, "The candidates:", *listed]))


def _meant(name: str) -> str:
    """A guess at what an unknown name was to be."""
    import difflib  # noqa: PLC0415 - only on the way to an error

    close = difflib.get_close_matches(name.lower(), _SYSTEMS, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def load(name: str | None) -> type[Port]:
    """The class of the ports of the chosen backend."""
    port_type: type[Port] = importlib.import_module(f"unio.backends.{choose(name)}").PORT
    return port_type

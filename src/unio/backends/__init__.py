"""Which backends there are, which can run here, and which one a port gets.

The choice is the argument of :class:`unio.Port`, else the environment variable ``UNIO_BACKEND``, else the first
candidate that is available.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from unio.errors import BackendUnavailable

if TYPE_CHECKING:
    from unio.port import Port

__all__ = ["VARIABLE", "Candidate", "candidates", "choose"]

VARIABLE = "UNIO_BACKEND"
"""The environment variable that names a backend."""


class Candidate(NamedTuple):
    """A backend and whether it can run here."""

    name: str
    available: bool
    reason: str
    """Why it is available or is not, in words."""


# In the order of preference, with the systems (as sys.platform has them) that a backend is for; elsewhere its module is
# not even imported. The module has `unavailable()`, which gives a reason or None, and PORT, the class of its ports.
_SYSTEMS = {"iocp": ("win32",), "epoll": ("linux",)}


def candidates() -> list[Candidate]:
    """All backends in the order of preference, each with the reason why it can or can't run here."""
    found = []
    for name, systems in _SYSTEMS.items():
        if sys.platform in systems:
            problem = importlib.import_module(f"unio.backends.{name}").unavailable()
        else:
            problem = f"it is for {' and '.join(systems)}, and this is {sys.platform}"
        found.append(Candidate(name, problem is None, problem or "available"))
    return found


def choose(name: str | None = None) -> str:
    """The name of the backend that a port gets when *name* is its argument.

    Raises :class:`unio.BackendUnavailable` for an unknown or unavailable one, listing the candidates.
    """
    source = "asked for"
    if name is None:
        name = os.environ.get(VARIABLE) or None
        source = f"named by {VARIABLE}"
    known = candidates()
    for candidate in known:
        if candidate.available and name in (None, candidate.name):
            return candidate.name
    listed = "; ".join(f"{each.name}: {each.reason}" for each in known)
    if name is None:
        raise BackendUnavailable(f"no backend can run here ({listed})")
    what = "can't run here" if name in _SYSTEMS else "is unknown"
    raise BackendUnavailable(f"the backend {name!r}, {source}, {what}; the candidates are: {listed}")


def load(name: str | None) -> type[Port]:
    """The class of the ports of the chosen backend."""
    port_type: type[Port] = importlib.import_module(f"unio.backends.{choose(name)}").PORT
    return port_type

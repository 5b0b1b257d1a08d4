"""Looking names up: socket.getaddrinfo, which blocks, on threads of its own.

Of a port it knows how an operation without a handle is ended, and of operations what is asked for.

A name server that does not answer holds up a thread for as long as the system's resolver has patience, and nothing
interrupts that. So these threads are not those of the file operations, which would wait behind it; there is a bound to
them; and what a thread works on keeps neither the port nor the operation alive, as both may be gone when it is through.
"""

from __future__ import annotations

import socket
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from unio.backends.common.file_threads import FilePool
from unio.errors import as_oserror, shown

if TYPE_CHECKING:
    from unio.names import Resolve
    from unio.operations import Operation

LOOKUPS_MAX = 32
"""How many names a port looks up at a time at most."""

NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
"""The flags by which no name is looked up."""


class Undertaking(Protocol):
    """What is done for one flight of an operation without a handle."""

    def start(self) -> None:
        """Begin with it, in whatever thread; no lock is held.

        A second call does nothing, or goes on where there was no memory for the first.
        """

    def abandon(self) -> None:
        """The operation has ended otherwise: give up what is under way. No lock is held."""


class Ends(Protocol):
    """The port, for an undertaking."""

    _lookups: FilePool

    def _undertaken(
        self, operation: Operation, undertaking: Undertaking, error: OSError | None, **results: Any
    ) -> bool:
        """Complete an operation with what its undertaking has come to.

        Returns False if it has ended before, so that nobody takes the results.
        """
        ...


def lookup_threads() -> FilePool:
    """The threads on which a port looks names up."""
    return FilePool(LOOKUPS_MAX, "unio-name")


class Lookup:
    """One flight of a :class:`unio.Resolve`."""

    def __init__(self, port: Ends, operation: Resolve) -> None:
        self._port = weakref.ref(port)
        self._operation = weakref.ref(operation)
        self._asked = operation._name, operation._service, operation._family, operation._type, operation._protocol
        self._flags = operation._flags
        self._shown = shown((operation._host, operation._port))
        self._found: list[tuple[Any, ...]] | OSError | None = None
        self._given_up = False

    def start(self) -> None:
        port = self._port()
        try:
            if self._found is None:
                self._found = self._look_up_number()
            if self._found is None and port is not None:
                port._lookups.put(self._work)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the operation ends once
            self._found = as_oserror(error)
        if self._found is not None:
            self._end()

    def abandon(self) -> None:
        self._given_up = True

    def _look_up_number(self) -> list[tuple[Any, ...]] | None:
        """What is found without asking anybody, which is a numeric address; None if it takes more than that."""
        if (
            isinstance(self._asked[1], bytes) and not self._asked[1].isdigit()
        ):  # which NUMERICSERV takes on some systems
            return None
        try:
            return socket.getaddrinfo(*self._asked, self._flags | NUMERIC)
        except OSError:
            return None

    def _work(self, refusal: OSError | None) -> None:
        """A job of the pool."""
        if self._given_up:
            return
        if self._found is None:
            self._found = refusal or self._look_up()
        self._end()

    def _look_up(self) -> list[tuple[Any, ...]] | OSError:
        try:
            return socket.getaddrinfo(*self._asked, self._flags)
        except socket.gaierror as error:
            return socket.gaierror(error.errno, f"{error.strerror}: {self._shown}")
        except Exception as error:  # noqa: BLE001 - as above
            return as_oserror(error)

    def _end(self) -> None:
        port, operation = self._port(), self._operation()
        if port is None or operation is None:  # nobody waits for it any more
            return
        if isinstance(self._found, OSError):
            port._undertaken(operation, self, self._found)
        else:
            port._undertaken(operation, self, None, addresses=self._found)

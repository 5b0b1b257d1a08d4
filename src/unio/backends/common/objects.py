"""The program's own objects: what their ``fileno()`` and ``returncode`` say, and their ``close()``.

It asks them and closes them, and changes nothing of a port's.

All may be a library's code, which raises what it likes. ``fileno()`` of a connection that is closed raises psycopg2's
InterfaceError or zmq's ZMQError, for instance; so whatever it raises means closed, and so does what is no number.

``close()`` may take its time. That of a socket with SO_LINGER and a time waits for the unsent bytes, also if the socket
doesn't block otherwise; that of a file may wait for a server; a library's may do anything. The thread that closes the
handle waits for that, as it would with the object alone, and gets what is raised. A thread that serves others does not:
there, a thread of its own closes the object, and what is raised is reported as that of any thread is.
"""

from __future__ import annotations

import contextlib
import io
import operator
import socket
import struct
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from unio.backends.common.file_threads import start_thread
from unio.errors import AssociationError, shown
from unio.handle import Handle, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.handle import HasFileno

ENCRYPTING = (("ssl", "SSLSocket"), ("OpenSSL.SSL", "Connection"))
"""Module and name of each known class whose objects encrypt what is sent through them, and not through the descriptor.
"""

LAYERS_MAX = 8
"""More than a file object has: text, a buffer, what has the descriptor, and its socket."""

LINGER = struct.Struct("HH" if sys.platform == "win32" else "ii")
"""A struct linger: whether a close waits, and for how long."""

_getsockopt = socket.socket.getsockopt


def number_of(given: HasFileno | int) -> int:
    """The number of what is to join a port.

    Raises :class:`TypeError` for what is no handle, and :class:`unio.AssociationError` for one that is closed.
    """
    if isinstance(given, bool) or not (isinstance(given, int) or hasattr(given, "fileno")):
        kind = type(given).__name__
        raise TypeError(f"a handle is an object with a fileno() or the operating system's own, not {kind}")
    if isinstance(given, Handle):
        raise AssociationError(f"{given!r} has joined a port already")
    try:
        number = given if isinstance(given, int) else given.fileno()
    except MemoryError:
        raise
    except Exception as error:
        raise closed(given) from error
    if not isinstance(number, int):
        raise TypeError(f"the fileno() of {shown(given)} is no number, but {shown(number)}")
    if not 0 <= (number := operator.index(number)) < 2**63:
        raise closed(given)
    if _encrypts(given):
        raise TypeError(
            f"{shown(given)} encrypts what it sends, and operations would send past it, in plain text: associate the "
            "plain socket, and have Stream.start_tls encrypt; to Poll alone, associate its fileno()"
        )
    return number


def _encrypts(given: Any) -> bool:
    """Whether what is sent through an object is encrypted, and what is sent through its descriptor is not."""
    named = [getattr(sys.modules.get(module), name, None) for module, name in ENCRYPTING]
    classes = tuple([each for each in named if isinstance(each, type)])  # of modules that somebody has imported
    for _ in range(LAYERS_MAX):
        if isinstance(given, classes):
            return True
        if not isinstance(given, io.IOBase):
            break
        given = _below(given)
    return False


def _below(file: io.IOBase) -> Any:
    """What a file object reads and writes through; http.client's responses, which are files as well, call it ``fp``."""
    for name in ("buffer", "raw", "fp", "_sock"):
        if (inner := getattr(file, name, None)) is not None:
            return inner
    return None


def closed(given: HasFileno | int) -> AssociationError:
    return AssociationError(f"{shown(given)} is closed or has no descriptor")


def stands_for(file: HasFileno, number: int) -> bool:
    """Whether an object is open and has this number."""
    try:
        said = file.fileno()
        return said == number and isinstance(said, int)
    except MemoryError:  # which says nothing of the object
        raise
    except Exception:  # noqa: BLE001 - see above
        return False


def told_status(process: object) -> int | None:
    """The exit status, if a process object has been told it already; the process's number may be another's by now."""
    try:
        status = getattr(process, "returncode", None)
    except Exception:  # noqa: BLE001 - one that can't say has not been told
        return None
    return status if isinstance(status, int) else None


def lingers(sock: socket.socket) -> bool:
    """Whether the close of a socket waits for its unsent bytes."""
    with contextlib.suppress(OSError):  # the program has closed it just now
        on, seconds = LINGER.unpack(_getsockopt(sock, socket.SOL_SOCKET, socket.SO_LINGER, LINGER.size))
        return bool(on and seconds)
    return False


def closes_at_once(handle: Handle) -> bool:
    """Whether the close of what is behind a handle is one call that waits for nothing."""
    if handle.kind is Kind.FILE or type(handle.object) not in (int, io.FileIO, socket.socket):
        return False
    return handle.socket is None or not lingers(handle.socket)


def close_elsewhere(close: Callable[[], None]) -> None:
    """Have a thread of its own call *close*."""
    try:
        start_thread(partial(_close, close), "unio-close")
    except RuntimeError:  # the system lets no thread start, or the program is at its end
        _close(close)


def _close(close: Callable[[], None]) -> None:
    try:
        close()
    except Exception as error:  # noqa: BLE001 - whatever it is
        arguments = (type(error), error, error.__traceback__, threading.current_thread())
        threading.excepthook(threading.ExceptHookArgs(arguments))

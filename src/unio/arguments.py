"""The checks of the arguments that programs give: what is wrong raises TypeError or ValueError, and says what to do."""

from __future__ import annotations

import errno
import math
import os
import socket
from typing import TYPE_CHECKING, Any

from unio.handle import Handle, HasFileno, Kind

if TYPE_CHECKING:
    from typing_extensions import Buffer

Address = Any
"""What :mod:`socket` takes and returns for the socket's family: ``(host, port)`` for IPv4, a path for AF_UNIX."""

OFFSET_MAX = 2**63 - 1
"""The largest offset of a file: off_t on every POSIX system here and LARGE_INTEGER on Windows are signed 64 bits."""


def require(handle: Handle, kinds: tuple[Kind, ...], operation: str, hint: str = "") -> None:
    if not isinstance(handle, Handle):
        raise TypeError(
            f"{operation} needs a handle, not {type(handle).__name__}: pass what port.associate() returned for it"
        )
    if handle.kind not in kinds:
        wanted = " or ".join(kind.value for kind in kinds)
        raise TypeError(f"{operation} needs a {wanted}, and this handle is a {handle.kind.value}{hint}")


def whole_number(value: int, name: str, most: int = OFFSET_MAX) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not 0 <= value <= most:
        raise ValueError(f"{name} must be between 0 and {most}, not {value}")
    return value


def seconds(value: float, name: str) -> float:
    """Check a time given by the caller, in seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if math.isnan(value) or value < 0:
        raise ValueError(f"{name} must not be negative or NaN, and is {value}")
    return value


def checked_address(sock: socket.socket | None, address: Address) -> Address:
    """Check the form of an address, and that no name server has to be asked, which would block the submitter."""
    family = sock.family if sock is not None else None
    if family == getattr(socket, "AF_UNIX", -1):
        if not isinstance(address, (str, bytes, os.PathLike)):
            raise TypeError(f"an address of AF_UNIX is a path, not {address!r}")
        return os.fspath(address)  # an object's own code is not to run when the address is used
    if family in (socket.AF_INET, socket.AF_INET6):
        check_internet_address(socket.AddressFamily(family), address)
    return address


def check_internet_address(family: socket.AddressFamily, address: Address) -> None:
    parts = (str, int) if family == socket.AF_INET else (str, int, int, int)
    form = "(host, port)" if family == socket.AF_INET else "(host, port[, flow information[, scope]])"
    fits = isinstance(address, tuple) and 2 <= len(address) <= len(parts)  # noqa: PLR2004 - host and port at least
    if not fits or not all(isinstance(part, kind) for part, kind in zip(address, parts, strict=False)):
        raise TypeError(f"an address of {family.name} is a tuple {form}, not {address!r}")
    host, port = address[:2]
    whole_number(port, "the port number", 65535)
    try:
        if "%" in host:  # an IPv6 zone, which inet_pton does not know
            socket.getaddrinfo(host, port, family, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)
        else:
            socket.inet_pton(family, host)
    except (OSError, ValueError):
        message = f"{host!r} is no numeric address of {family.name} that is known here; resolve names first"
        raise ValueError(message) from None


def view(buffer: Buffer, operation: str, *, writable: bool) -> memoryview:
    try:
        view = memoryview(buffer)
    except TypeError:
        raise TypeError(f"{operation} needs a bytes-like object, not {type(buffer).__name__}") from None
    if writable and view.readonly:
        raise TypeError(
            f"{operation} writes into its buffer, and {type(buffer).__name__} is read-only: use a bytearray"
        )
    if not view.c_contiguous:
        raise ValueError(f"{operation} needs a buffer whose bytes are contiguous")
    if view.format != "B" or view.ndim != 1:
        return view.cast("B") if view.nbytes else memoryview(bytearray())
    return view


def file_number(file: HasFileno | int) -> int:
    """The operating system's number of a file object or a number; raises OSError when the object is closed."""
    if isinstance(file, int):
        return file
    try:
        return file.fileno()
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from error

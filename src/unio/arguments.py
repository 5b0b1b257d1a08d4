"""The checks of the arguments that programs give: what is wrong raises TypeError or ValueError, and says what to do."""

from __future__ import annotations

import errno
import math
import operator
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

from unio.errors import shown
from unio.handle import Handle, HasFileno, Kind

if TYPE_CHECKING:
    from typing_extensions import Buffer

Address = Any
"""What :mod:`socket` takes and returns for the socket's family: ``(host, port)`` for IPv4, a path for AF_UNIX."""

OFFSET_MAX = 2**63 - 1
"""The largest offset of a file: off_t on every POSIX system here and LARGE_INTEGER on Windows are signed 64 bits."""

DESCRIPTOR_MAX = 2**31 - 1
"""The largest descriptor: an int of C."""

FLOAT_MAX = int(sys.float_info.max)
"""The largest number of a float."""

HAS_ABSTRACT_NAMES = sys.platform in ("linux", "android")
"""Whether an address of AF_UNIX that begins with a zero byte is a name that is no file's."""

FAULTS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL")
"""Signals that the program's own instructions raise: a handler that returns would have them raised again, for ever."""

SIGNALS_OF_WINDOWS = ("SIGINT", "SIGBREAK", "SIGTERM")
"""Those that somebody outside the program can have meant there. Python knows SIGABRT too, which only abort() raises."""

LOCAL_MAX = 108 if HAS_ABSTRACT_NAMES else 104
"""The size of ``sun_path``, in bytes: Linux, and macOS and the BSDs."""


def require(handle: Handle, kinds: tuple[Kind, ...], operation: str, hint: str = "") -> None:
    if not isinstance(handle, Handle):
        raise TypeError(
            f"{operation} needs a handle, not {type(handle).__name__}: pass what port.associate() returned for it"
        )
    if handle.kind not in kinds:
        wanted = " or ".join(kind.value for kind in kinds)
        raise TypeError(f"{operation} needs a {wanted}, and this handle is a {handle.kind.value}{hint}")


def whole_number(value: int, name: str, most: int | None = OFFSET_MAX, *, least: int = 0) -> int:
    """A number given by the caller, as a plain int: a subclass may compare as it likes."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    number = operator.index(value)
    if number < least or (most is not None and number > most):
        wanted = f"at least {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"{name} must be {wanted}, not {shown(number)}")
    return number


def seconds(value: float, name: str) -> float:
    """A time given by the caller, in seconds, as a plain float; the longest one, for what no float can say."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if isinstance(value, float):
        plain = float.__float__(value)
    else:
        plain = float(max(-1, min(operator.index(value), FLOAT_MAX)))
    if math.isnan(plain) or plain < 0:
        raise ValueError(f"{name} must not be negative or NaN, and is {shown(value)}")
    return plain


def checked_signal(value: int) -> int:
    """The number of a signal that a program can wait for."""
    import signal  # noqa: PLC0415 - it makes an enumeration of all of them, which few programs need

    number = whole_number(value, "the number of a signal", None)
    name = signal.Signals(number).name if number in {*signal.Signals} else ""
    if name in ("SIGKILL", "SIGSTOP"):
        raise ValueError(f"{name} can't be caught")
    if name in FAULTS:
        raise ValueError(f"{name} says that the program itself is at fault, and can't be waited for")
    wanted = SIGNALS_OF_WINDOWS if sys.platform == "win32" else None
    if number not in signal.valid_signals() or (wanted is not None and name not in wanted):
        raise ValueError(f"{shown(number)} is no signal that a program can be sent here")
    return number


# Addresses
#
# What is given is brought into one form here, once: tuples, text and numbers of Python's own types, with nothing left
# in them that each system's calls might take otherwise than this check.


def checked_address(sock: socket.socket | None, address: Address) -> Address:
    """Check an address, and that no name server has to be asked, which would block the submitter; return its form."""
    family = sock.family if sock is not None else None
    if family == getattr(socket, "AF_UNIX", -1):
        return _local_address(address)
    if family in (socket.AF_INET, socket.AF_INET6):
        return _internet_address(socket.AddressFamily(family), address)
    return address


def _local_address(address: Address) -> str | bytes:
    if not isinstance(address, (str, bytes, os.PathLike)):
        raise TypeError(f"an address of AF_UNIX is a path, not {shown(address)}")
    path: str | bytes = os.fspath(address)
    path = str.__str__(path) if isinstance(path, str) else bytes.__getitem__(path, slice(None))
    try:
        raw = os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(f"{shown(path)} has characters that no path has") from None
    is_abstract = HAS_ABSTRACT_NAMES and raw[:1] == b"\0"
    most = LOCAL_MAX if is_abstract else LOCAL_MAX - 1  # a path has a zero byte at its end
    if not raw or (b"\0" in raw and not is_abstract):
        raise ValueError(f"{shown(path)} is no path for AF_UNIX: it is empty, or has a zero byte in it")
    if len(raw) > most:
        raise ValueError(f"an address of AF_UNIX has at most {most} bytes, and {shown(path)} has {len(raw)}")
    return path


def _internet_address(family: socket.AddressFamily, address: Address) -> Address:
    is_ipv4 = family == socket.AF_INET
    form, most = ("(host, port)", 2) if is_ipv4 else ("(host, port[, flow information[, scope]])", 4)
    if not isinstance(address, tuple) or not 2 <= tuple.__len__(address) <= most:  # noqa: PLR2004 - host and port
        raise TypeError(f"an address of {family.name} is a tuple {form}, not {shown(address)}")
    host, port, *rest = tuple.__getitem__(address, slice(None))
    if not isinstance(host, str):
        raise TypeError(f"the host in an address of {family.name} must be a str, not {type(host).__name__}")
    host, port = str.__str__(host), whole_number(port, "the port number", 65535)
    limits = ("the flow information", 2**20 - 1), ("the scope", 2**32 - 1)
    rest = [whole_number(part, *limit) for part, limit in zip(rest, limits, strict=False)]
    if is_ipv4 or "%" not in host:
        _check_numeric(family, host)
        return (host, port, *rest)
    host, zone = _without_zone(host)
    flow, scope = [*rest, 0, 0][:2]
    return host, port, flow, scope or zone


def _check_numeric(family: socket.AddressFamily, host: str) -> None:
    if _is_numeric(family, host):
        return
    other = socket.AF_INET if family == socket.AF_INET6 else socket.AF_INET6
    if _is_numeric(other, host):
        raise ValueError(f"{shown(host)} is a numeric address of {other.name}, and the socket is one of {family.name}")
    raise _unknown_host(family, host)


def _is_numeric(family: socket.AddressFamily, host: str) -> bool:
    try:
        socket.inet_pton(family, host)
    except (OSError, ValueError):
        return False
    return True


def _without_zone(host: str) -> tuple[str, int]:
    """The host without its zone ("%eth0"), which inet_pton does not know, and the number of that interface."""
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    try:
        found: Any = socket.getaddrinfo(host, 0, socket.AF_INET6, flags=flags)[0][4]
    except (OSError, ValueError):
        raise _unknown_host(socket.AF_INET6, host) from None
    return found[0], found[3]


def _unknown_host(family: socket.AddressFamily, host: str) -> ValueError:
    return ValueError(f"{shown(host)} is no numeric address of {family.name} that is known here; resolve names first")


# Names

NUMBER_MAX = 2**31 - 1
"""The largest that a family, a type, a protocol or flags can be: an int of C."""


def checked_name(host: str | bytes | None) -> bytes | None:
    """A host's name in the form that the system is asked with; a name that is not ASCII's as IDNA has it."""
    if host is None:
        return None
    if not isinstance(host, (str, bytes)):
        raise TypeError(f"the name of a host is a str, bytes or None, not {type(host).__name__}")
    try:
        name = str.__str__(host).encode("idna") if isinstance(host, str) else bytes.__getitem__(host, slice(None))
    except UnicodeError as error:
        raise ValueError(f"{shown(host)} can't be the name of a host: {error}") from None
    return _without_zero(name, host)


def checked_service(port: str | bytes | int | None) -> bytes | int | None:
    """A port's number, or the name of a service, in the form that the system is asked with."""
    if port is None:
        return None
    if isinstance(port, int):
        return whole_number(port, "the port number", 65535)
    if not isinstance(port, (str, bytes)):
        raise TypeError(f"a port is a number, the name of a service or None, not {type(port).__name__}")
    try:
        name = str.__str__(port).encode() if isinstance(port, str) else bytes.__getitem__(port, slice(None))
    except UnicodeError:
        raise ValueError(f"{shown(port)} has characters that no name of a service has") from None
    return _without_zero(name, port)


def _without_zero(name: bytes, given: str | bytes) -> bytes:
    if b"\0" in name:  # the system would take what is before it
        raise ValueError(f"{shown(given)} has a zero byte in it")
    return name


# Buffers and files


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


def checked_file(file: HasFileno | int) -> HasFileno | int:
    """Check that something is a file or the operating system's number of one, and return it."""
    if isinstance(file, int) and not isinstance(file, bool):
        return operator.index(file)
    if isinstance(file, bool) or not hasattr(file, "fileno"):
        raise TypeError(f"SendFile needs a file or its descriptor, not {type(file).__name__}")
    return file


def file_number(file: HasFileno | int) -> int:
    """The operating system's number of a file object or a number; raises OSError when nothing is open by it."""
    try:
        number = file if isinstance(file, int) else file.fileno()
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from error
    if not 0 <= number <= DESCRIPTOR_MAX:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return number

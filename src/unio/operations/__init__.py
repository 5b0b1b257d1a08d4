"""The operations that a port runs.

An operation is an object that the caller makes, submits, gets back with its completion, and may submit again: what an
``OVERLAPPED`` structure is to Windows. It carries the caller's own state, either in :attr:`Operation.state` or in the
attributes of a subclass. While an operation is in flight (from its submit to the return of the wait that delivers its
completion) it belongs to the port, and so do its buffers: changing it then raises :class:`unio.InFlight`.

Constructing an operation does no input or output. Wrong arguments raise :class:`TypeError` or :class:`ValueError`
here; what the operating system says of the input or output arrives as the completion's error.
"""

from unio.operations.detached import HasPid, ProcessExit, Signal, Timer
from unio.operations.files import Flush, Read, SendFile, Write
from unio.operations.operation import Operation, Route
from unio.operations.sockets import (
    BUFFER_MIN,
    Accept,
    Connect,
    Disconnect,
    Poll,
    Readiness,
    Recv,
    RecvFrom,
    Send,
    SendTo,
    Shutdown,
)

__all__ = [
    "BUFFER_MIN",
    "Accept",
    "Connect",
    "Disconnect",
    "Flush",
    "HasPid",
    "Operation",
    "Poll",
    "ProcessExit",
    "Read",
    "Readiness",
    "Recv",
    "RecvFrom",
    "Route",
    "Send",
    "SendFile",
    "SendTo",
    "Shutdown",
    "Signal",
    "Timer",
    "Write",
]

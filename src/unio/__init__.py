"""High-performance I/O in the completion style: submit operations to a port, wait for their completions.

>>> import unio
>>> with unio.Port() as port:
...     port.post("hello")
...     [completion] = port.wait()
>>> completion.key
'hello'
"""

from unio import backends
from unio.errors import AssociationError, BackendUnavailable, Cancelled, InFlight, NotAssociated, PortClosed
from unio.files import open, pipe  # noqa: A004 - as in os.open, the module's name says which
from unio.handle import Handle
from unio.operations import (
    Accept,
    Connect,
    Disconnect,
    Flush,
    Operation,
    Poll,
    ProcessExit,
    Read,
    Readiness,
    Recv,
    RecvFrom,
    Send,
    SendFile,
    SendTo,
    Shutdown,
    Timer,
    Write,
)
from unio.port import Completion, Port

__version__ = "0.1.0"

__all__ = [
    "Accept",
    "AssociationError",
    "BackendUnavailable",
    "Cancelled",
    "Completion",
    "Connect",
    "Disconnect",
    "Flush",
    "Handle",
    "InFlight",
    "NotAssociated",
    "Operation",
    "Poll",
    "Port",
    "PortClosed",
    "ProcessExit",
    "Read",
    "Readiness",
    "Recv",
    "RecvFrom",
    "Send",
    "SendFile",
    "SendTo",
    "Shutdown",
    "Timer",
    "Write",
    "backends",
    "open",
    "pipe",
]


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

"""High-performance I/O in the completion style: submit operations to a port, wait for their completions.

>>> import unio
>>> with unio.Port() as port:
...     port.post("hello")
...     [completion] = port.wait()
>>> completion.key
'hello'
"""

import importlib

from unio import backends
from unio.errors import (
    AssociationError,
    BackendUnavailable,
    Cancelled,
    InFlight,
    LimitExceeded,
    NotAssociated,
    PortClosed,
    StreamEnded,
)
from unio.files import open, pipe  # noqa: A004 - as in os.open, the module's name says which
from unio.handle import Handle
from unio.names import ConnectTo, Resolve
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
    Signal,
    Timer,
    Write,
)
from unio.port import Completion, Port
from unio.tasks import Task

TYPE_CHECKING = False  # as typing has it, which costs an import
if TYPE_CHECKING:
    from unio.pool import Pool
    from unio.streams.stream import Stream

__version__ = "0.1.0"

__all__ = [
    "Accept",
    "AssociationError",
    "BackendUnavailable",
    "Cancelled",
    "Completion",
    "Connect",
    "ConnectTo",
    "Disconnect",
    "Flush",
    "Handle",
    "InFlight",
    "LimitExceeded",
    "NotAssociated",
    "Operation",
    "Poll",
    "Pool",
    "Port",
    "PortClosed",
    "ProcessExit",
    "Read",
    "Readiness",
    "Recv",
    "RecvFrom",
    "Resolve",
    "Send",
    "SendFile",
    "SendTo",
    "Shutdown",
    "Signal",
    "Stream",
    "StreamEnded",
    "Task",
    "Timer",
    "Write",
    "backends",
    "open",
    "pipe",
]


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


_FETCHED = {"Pool": "unio.pool", "Stream": "unio.streams.stream"}
"""Names that are fetched when they are used, and from where: others need not pay for what these import."""


def __getattr__(name: str) -> object:
    if name not in _FETCHED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    thing: object = getattr(importlib.import_module(_FETCHED[name]), name)
    globals()[name] = thing
    return thing

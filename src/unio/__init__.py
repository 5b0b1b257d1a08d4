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
    Timer,
    Write,
)
from unio.port import Completion, Port
from unio.tasks import Task

TYPE_CHECKING = False  # as typing has it, which costs an import
if TYPE_CHECKING:
    from unio.pool import Pool

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
    "Task",
    "Timer",
    "Write",
    "backends",
    "open",
    "pipe",
]


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> object:
    # The one name that is fetched when it is used: it imports concurrent.futures, which others need not pay for.
    if name != "Pool":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from unio.pool import Pool  # noqa: PLC0415

    globals()[name] = Pool
    return Pool

"""What the handles of all backends do alike, and what they ask of their port.

Each room's own handles ask for more, and say so in a protocol of their own: a handle knows its port by what it asks of
it, and not by its class.
"""

from __future__ import annotations

import socket
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

from unio.handle import Handle
from unio.port import port_closed

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable

    from unio.operations import Operation


class HandleOwner(Protocol):
    """What every handle asks of the port that it has joined (base_port, and Port)."""

    @property
    def _unusable(self) -> Callable[[], Exception] | None: ...

    def _cancel(self, operation: Operation, reason: str) -> bool: ...


class BaseHandle(Handle):
    """A handle that knows its port, for as long as there is one."""

    __slots__ = ()

    port: weakref.ref[Any]
    """Of a :class:`HandleOwner`, or of what a room's own handles ask for: no handle keeps its port alive."""

    @abstractmethod
    def _all_in_flight(self) -> list[Operation]:
        """The operations in flight on it, of which this thread's are all started; it may hold a lock of unio's."""

    def _joined_port(self) -> Any:
        """The port that it has joined. Raises what each of a handle's methods raises once that is closed or gone."""
        port: HandleOwner | None = self.port()
        if port is None:
            raise port_closed()
        if port._unusable is not None:
            raise port._unusable()
        return port

    def cancel(self) -> int:
        port: HandleOwner = self._joined_port()
        return sum([port._cancel(operation, "cancelled by Handle.cancel") for operation in self._all_in_flight()])


class BorrowedSocket(socket.socket):
    """Makes a socket's methods available for a descriptor that is somebody else's to close."""

    def __del__(self) -> None:
        self.detach()

"""What the connections of all servers have in common: how they receive, stop and end."""

from __future__ import annotations

import time
import traceback
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import unio
from unio.cli.output import complain

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from unio.cli.server import Server

BUFFER_SIZE = 4096
"""The size in bytes of a new connection's receive buffer: an idle one must be cheap, for there may be 10,000."""

LINGER_SECONDS = 2.0
"""How long a connection that ended here waits for its client to end it too."""


class Connection(ABC):
    """One client. The thread that has a completion of it is the only one that works on it, until its next submit.

    So a submit is the last thing that a method does: afterwards another thread may be at work on the connection.
    """

    def __init__(self, server: Server, client: socket.socket) -> None:
        self.server = server
        self.handle = server.port.associate(client, key=self)
        self.recv = unio.Recv(self.handle, bytearray(BUFFER_SIZE), state=self.guarded(self.received))
        self.send = unio.Send(self.handle, b"", state=self.guarded(self.sent))
        self._linger_until: float | None = None

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def received(self, recv: unio.Recv) -> None: ...

    @abstractmethod
    def sent(self, send: unio.Send) -> None: ...

    def guarded(self, method: Callable[[Any], None]) -> Callable[[unio.Completion], None]:
        """The state of an operation that is to be given to *method*: a fault there ends this connection alone."""

        def handle(completion: unio.Completion) -> None:
            try:
                method(completion.operation)
            except Exception:  # noqa: BLE001 - whatever it is, the server goes on
                complain(traceback.format_exc())
                self.close()

        return handle

    def receive(self, timeout: float | None = None) -> None:
        """Wait for the client, at most *timeout* seconds, unless the server is stopping."""
        self.server.port.submit(self.recv, timeout)
        if self.server.stopping:
            self.stop()

    def stop(self) -> None:
        """End if it is waiting for the client; any thread may ask, and one that is answering goes on."""
        if self._linger_until is None:
            self.server.port.cancel(self.recv)

    def finish(self) -> None:
        """End the connection so that the client gets all that was sent.

        Closing a socket that holds unread bytes resets the connection, and a reset destroys what the client has not
        read yet. So the write side ends first, and what the client still sends is received and dropped.
        """
        self._linger_until = time.monotonic() + LINGER_SECONDS
        self.recv.state = self.guarded(self._drained)
        self.server.port.submit(unio.Shutdown(self.handle, state=self.guarded(self._shut_down)))

    def close(self) -> None:
        self.handle.close()
        self.server.remove(self)

    def _shut_down(self, shutdown: unio.Shutdown) -> None:
        if shutdown.error is None:
            self._drain()
        else:
            self.close()

    def _drain(self) -> None:
        assert self._linger_until is not None
        self.server.port.submit(self.recv, max(0.0, self._linger_until - time.monotonic()))

    def _drained(self, recv: unio.Recv) -> None:
        if recv.error is None and recv.transferred:
            self._drain()
        else:
            self.close()

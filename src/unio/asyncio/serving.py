"""Listening: accepts that go on, whatever becomes of one of them."""

from __future__ import annotations

import errno
from asyncio.trsock import TransportSocket
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, NamedTuple

from unio.asyncio.transports import StreamTransport
from unio.asyncio.turns import Turns
from unio.errors import Cancelled, anew
from unio.operations import Accept

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable
    from contextvars import Context

    from unio.completion import Completion

ACCEPTS = 8
"""How many connections of one listener a turn takes at most; so many accepts wait."""

REST_SECONDS = 1.0
"""How long a listener rests when descriptors or memory are lacking: as long as those of asyncio do."""

SCARCITIES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Tls(NamedTuple):
    """How the connections of a listener are encrypted."""

    context: Any
    handshake_timeout: float | None
    shutdown_timeout: float | None


class Listener:
    """A socket that listens, and the accepts that wait on it."""

    def __init__(
        self,
        loop: Serving,
        sock: socket.socket,
        serve: Callable[[socket.socket], None],
        context: Context | None,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._serve = serve
        # That of who has asked for this, as the protocols are made in it.
        self._context = copy_context() if context is None else context.copy()
        self._handle = loop.join(sock)
        self._resting: list[Accept] = []
        self._is_open = True
        for _ in range(ACCEPTS):
            loop.port.submit(Accept(self._handle, state=self._accepted))

    def close(self) -> None:
        self._is_open = False
        self._handle.close()
        self._loop.part(self._handle)

    def _accepted(self, completion: Completion) -> None:
        accept: Any = completion.operation
        if completion.error is not None:
            if self._is_open:
                self._failed(accept, completion.error)
            return
        connection = accept.take()
        if not self._is_open:
            connection.close()
            return
        self._loop.port.submit(accept)
        self._context.run(self._serve, connection)

    def _failed(self, accept: Accept, error: OSError) -> None:
        """Go on with an accept that has failed, unless the socket is one that can accept nothing at all."""
        if isinstance(error, Cancelled):  # the program has closed the socket itself
            return
        if error.errno in SCARCITIES:
            if not self._resting:
                self._report("socket.accept() out of system resource", error)
                self._loop.call_later(REST_SECONDS, self._go_on)
            self._resting.append(accept)
            return
        self._report("Accept failed on a socket", error)
        if error.errno != errno.EINVAL:
            self._loop.port.submit(accept)

    def _go_on(self) -> None:
        resting, self._resting = self._resting, []
        if self._is_open:
            for accept in resting:
                self._loop.port.submit(accept)

    def _report(self, message: str, error: OSError) -> None:
        self._loop.call_exception_handler(
            {"message": message, "exception": anew(error), "socket": TransportSocket(self._sock)}
        )


class Serving(Turns):
    """A loop that accepts connections, and makes transports of sockets."""

    if TYPE_CHECKING:  # what Securing adds

        def _make_ssl_transport(self, *arguments: Any, **options: Any) -> Any: ...

    def __init__(self) -> None:
        super().__init__()
        self._listeners: dict[socket.socket, Listener] = {}

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: Context | None = None,  # which asyncio's base class gives from 3.15 on
    ) -> StreamTransport:
        return StreamTransport(self, sock, protocol, waiter, extra, server, context)

    def _start_serving(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        context: Context | None = None,
    ) -> None:
        del backlog  # the accepts that wait are not what bounds it
        tls = Tls(sslcontext, ssl_handshake_timeout, ssl_shutdown_timeout) if sslcontext else None
        self._listeners[sock] = Listener(
            self, sock, lambda connection: self._serve(protocol_factory, connection, server, tls), context
        )

    def _serve(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        connection: socket.socket,
        server: Any,
        tls: Tls | None,
    ) -> None:
        """Make a transport of a connection that was accepted."""
        try:
            protocol = protocol_factory()
            if tls is None:
                self._make_socket_transport(connection, protocol, extra={}, server=server)
            else:
                self._make_ssl_transport(
                    connection,
                    protocol,
                    tls.context,
                    server_side=True,
                    extra={},
                    server=server,
                    ssl_handshake_timeout=tls.handshake_timeout,
                    ssl_shutdown_timeout=tls.shutdown_timeout,
                )
        except BaseException as error:
            connection.close()
            if isinstance(error, (SystemExit, KeyboardInterrupt)):
                raise
            self.call_exception_handler(
                {"message": "Error on transport creation for incoming connection", "exception": error}
            )

    def _stop_serving(self, sock: socket.socket) -> None:
        listener = self._listeners.pop(sock, None)
        if listener is not None:
            listener.close()
        else:
            sock.close()

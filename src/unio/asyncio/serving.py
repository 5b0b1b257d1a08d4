"""Listening: accepts that go on, whatever becomes of one of them."""

from __future__ import annotations

from asyncio.trsock import TransportSocket
from functools import partial
from typing import TYPE_CHECKING, Any

from unio.asyncio.transports import StreamTransport
from unio.asyncio.turns import Turns
from unio.errors import Cancelled, anew
from unio.operations import Accept

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

    from unio.completion import Completion


class Serving(Turns):
    """A loop that accepts connections, and makes transports of sockets."""

    def __init__(self) -> None:
        super().__init__()
        self._accepts: dict[socket.socket, Accept] = {}

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        server: Any = None,
    ) -> StreamTransport:
        return StreamTransport(self, sock, protocol, waiter, extra, server)

    def _start_serving(  # noqa: PLR0913 - the base class calls it so
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        del backlog  # the accepts that wait are not what bounds it
        tls = (sslcontext, ssl_handshake_timeout, ssl_shutdown_timeout) if sslcontext else None
        accept = Accept(self.join(sock), state=partial(self._accepted, protocol_factory, sock, server, tls))
        self._accepts[sock] = accept
        self.port.submit(accept)

    def _accepted(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        server: Any,
        tls: tuple[Any, float | None, float | None] | None,
        completion: Completion,
    ) -> None:
        accept: Any = completion.operation
        connection = accept.take() if completion.error is None else None
        if self._accepts.get(sock) is not accept:  # it serves no more
            if connection is not None:
                connection.close()
            return
        self.port.submit(accept)
        if connection is None:
            if not isinstance(completion.error, Cancelled):
                self.call_exception_handler(
                    {
                        "message": "Accept failed on a socket",
                        "exception": anew(completion.error),
                        "socket": TransportSocket(sock),
                    }
                )
            return
        self._serve(protocol_factory, connection, server, tls)

    def _serve(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        connection: socket.socket,
        server: Any,
        tls: tuple[Any, float | None, float | None] | None,
    ) -> None:
        try:
            protocol = protocol_factory()
            if tls is None:
                self._make_socket_transport(connection, protocol, extra={}, server=server)
            else:
                context, handshake, shutdown = tls
                self._make_ssl_transport(
                    connection,
                    protocol,
                    context,
                    server_side=True,
                    server=server,
                    ssl_handshake_timeout=handshake,
                    ssl_shutdown_timeout=shutdown,
                )
        except BaseException:
            connection.close()
            raise

    def _stop_serving(self, sock: socket.socket) -> None:
        accept = self._accepts.pop(sock, None)
        if accept is not None:
            handle = accept.handle
            handle.close()
            self.part(handle)
        else:
            sock.close()

    def _make_ssl_transport(
        self,
        sock: socket.socket,
        protocol: Any,
        context: Any,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: Any = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Any:
        from asyncio.sslproto import SSLProtocol

        tls = SSLProtocol(
            self,
            protocol,
            context,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        StreamTransport(self, sock, tls, None, extra, server)
        return tls._app_transport

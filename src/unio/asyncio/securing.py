"""What a loop has to do with TLS: :mod:`unio.asyncio.tls`, which is loaded for those who use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unio.asyncio.serving import Serving

if TYPE_CHECKING:
    import asyncio
    import socket
    import ssl
    from contextvars import Context

    from unio.asyncio.tls import SSLTransport


class Securing(Serving):
    """A loop whose connections may be encrypted."""

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext | None,
        waiter: asyncio.Future[None] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        context: Context | None = None,
    ) -> SSLTransport:
        from unio.asyncio.tls import SSLTransport  # noqa: PLC0415 - many loops need none, and some Pythons have none

        try:
            tls = SSLTransport(
                self,
                protocol,
                sslcontext,
                waiter,
                server_side=server_side,
                server_hostname=server_hostname,
                handshake_timeout=ssl_handshake_timeout,
                shutdown_timeout=ssl_shutdown_timeout,
            )
        except BaseException:
            rawsock.close()  # it was given to the transport, which there is none of
            raise
        tls._below = self._make_socket_transport(rawsock, tls, extra=extra, server=server, context=context)
        return tls

    async def start_tls(
        self,
        transport: Any,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> SSLTransport:
        import ssl  # noqa: PLC0415 - as above

        from unio.asyncio.tls import SSLTransport  # noqa: PLC0415 - as above

        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}")
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        waiter = self.create_future()
        tls = SSLTransport(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side=server_side,
            server_hostname=server_hostname,
            handshake_timeout=ssl_handshake_timeout,
            shutdown_timeout=ssl_shutdown_timeout,
            begun=True,
        )
        transport.set_protocol(tls)
        tls.connection_made(transport)
        transport.resume_reading()
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return tls

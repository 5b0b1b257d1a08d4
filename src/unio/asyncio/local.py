"""Local sockets (AF_UNIX): connections to a path, and servers at one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys
from asyncio import base_events
from asyncio.log import logger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unio.asyncio.serving import Serving
from unio.asyncio.sockets import Sockets

if TYPE_CHECKING:
    from collections.abc import Callable

CLEANS_UP = sys.version_info >= (3, 13)
"""Whether the path of a server goes with it unless the program says otherwise, as in asyncio of this Python."""


class Local(Serving, Sockets):
    """A loop that connects to local sockets, and serves at them."""

    if TYPE_CHECKING:  # of the base class

        async def _create_connection_transport(self, *arguments: Any, **options: Any) -> Any: ...

    def __init__(self) -> None:
        super().__init__()
        self._bound: dict[socket.socket, tuple[Path, int]] = {}  # a path that goes with its listener, and its inode

    async def create_unix_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        path: Any = None,
        *,
        ssl: Any = None,
        sock: socket.socket | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Any:
        if ssl and server_hostname is None:
            raise ValueError("you have to pass server_hostname when using ssl")
        if not ssl and server_hostname is not None:
            raise ValueError("server_hostname is only meaningful with ssl")
        _check_times(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        sock = _given(path, sock, "no path and sock were specified")
        sock.setblocking(False)
        if path is not None:
            try:
                await self.sock_connect(sock, os.fspath(path))
            except BaseException:
                sock.close()
                raise
        return await self._create_connection_transport(
            sock,
            protocol_factory,
            ssl,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )

    async def create_unix_server(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        path: Any = None,
        *,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
        cleanup_socket: bool = CLEANS_UP,
    ) -> asyncio.Server:
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        _check_times(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        sock = _given(path, sock, "path was not specified, and no sock specified")
        if path is not None:
            _bind(sock, os.fspath(path))
        if cleanup_socket:
            self._note_path(sock)
        sock.setblocking(False)
        server = base_events.Server(
            self, [sock], protocol_factory, ssl, backlog, ssl_handshake_timeout, ssl_shutdown_timeout
        )
        if start_serving:
            await server.start_serving()
        return server

    def _note_path(self, sock: socket.socket) -> None:
        path = sock.getsockname()
        if path and not _is_abstract(path):
            file = Path(os.fsdecode(path))
            with contextlib.suppress(FileNotFoundError):
                self._bound[sock] = file, file.stat().st_ino

    def _stop_serving(self, sock: socket.socket) -> None:
        super()._stop_serving(sock)
        file, inode = self._bound.pop(sock, (None, 0))
        if file is None:
            return
        try:
            if file.stat().st_ino == inode:  # or else somebody serves there by now
                file.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.error("Unable to clean up listening UNIX socket %r: %r", str(file), error)


def _given(path: Any, sock: socket.socket | None, lacking: str) -> socket.socket:
    """The socket that was given, or a new one for a path."""
    if not hasattr(socket, "AF_UNIX"):
        raise NotImplementedError("this Python has no AF_UNIX")
    if path is not None and sock is not None:
        raise ValueError("path and sock can not be specified at the same time")
    if path is not None:
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if sock is None:
        raise ValueError(lacking)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")
    return sock


def _check_times(ssl: Any, handshake: float | None, shutdown: float | None) -> None:
    if handshake is not None and not ssl:
        raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
    if shutdown is not None and not ssl:
        raise ValueError("ssl_shutdown_timeout is only meaningful with ssl")


def _is_abstract(path: str | bytes) -> bool:
    return path[0] in (0, "\0")


def _bind(sock: socket.socket, path: str | bytes) -> None:
    """Bind a socket to a path, in the place of one that a server has left behind."""
    try:
        if path and not _is_abstract(path):
            _remove_stale(path)
        sock.bind(path)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(errno.EADDRINUSE, f"Address {path!r} is already in use") from None
        raise
    except BaseException:
        sock.close()
        raise


def _remove_stale(path: str | bytes) -> None:
    file = Path(os.fsdecode(path))
    try:
        if file.is_socket():
            file.unlink()
    except FileNotFoundError:
        pass
    except OSError as error:  # a directory may let one make a socket, and no more
        logger.error("Unable to check or remove stale UNIX socket %r: %r", path, error)

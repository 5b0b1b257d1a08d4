"""Transports of streams: what a protocol's bytes come and go through.

A transport has one receive in flight, and one send at most: what is written meanwhile, or in the same turn of the
loop, leaves together in the next. Completions call it directly (turns), in the context that it was made in. It knows
the loop, its handle and the protocol, and not what the handle is.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
import sys
import warnings
from asyncio import constants, transports
from asyncio.log import logger
from asyncio.trsock import TransportSocket
from typing import TYPE_CHECKING, Any

from unio.errors import anew
from unio.operations import Recv, Send, Shutdown

if TYPE_CHECKING:
    from unio.asyncio.turns import Turns
    from unio.completion import Completion
    from unio.handle import HasFileno

UNHEARD_MAX = 5
"""How many writes to a connection that is lost go without a warning."""


class StreamTransport(transports._FlowControlMixin, asyncio.Transport):
    """The transport of a connected stream socket."""

    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    def __init__(
        self,
        loop: Turns,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
    ) -> None:
        super().__init__(extra, loop)
        self._context = contextvars.copy_context()
        self._sock = sock
        self._handle = loop.join(sock)
        self._server = server
        self._recv = Recv(self._handle, state=self._received)
        self._send = Send(self._handle, b"", state=self._sent)
        self._written: list[bytes] = []  # and not submitted
        self._size = 0  # of that and of what is being sent
        self._flushing = False  # whether the end of this turn sends
        self._paused = False
        self._held: bytes | None = None  # what came while reading was paused
        self._ended = False  # the peer has
        self._closing = False
        self._eof_written = False
        self._lost = 0  # writes in vain, and 1 for the end
        self.set_protocol(protocol)
        self._tell_about(sock)
        if server is not None:
            _attach(server, self)
        loop.call_soon(self._begin, waiter, context=self._context)

    def _tell_about(self, sock: socket.socket) -> None:
        self._extra["socket"] = TransportSocket(sock)
        for name, ask in (("sockname", sock.getsockname), ("peername", sock.getpeername)):
            if name not in self._extra:
                try:
                    self._extra[name] = ask()
                except OSError:
                    self._extra[name] = None
        if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.proto in (0, socket.IPPROTO_TCP):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _begin(self, waiter: asyncio.Future[None] | None) -> None:
        self._protocol.connection_made(self)
        if not self._closing and not self._paused:
            self._receive()
        if waiter is not None and not waiter.cancelled():
            waiter.set_result(None)

    # What a protocol asks

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol: Any = protocol
        self._is_buffered = isinstance(protocol, asyncio.BufferedProtocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[no-any-return]

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def pause_reading(self) -> None:
        if self.is_reading():
            self._paused = True

    def resume_reading(self) -> None:
        if self._closing or not self._paused:
            return
        self._paused = False
        if self._held is not None:
            self._loop.call_soon(self._deliver_held, context=self._context)
        elif not self._recv.in_flight and not self._ended:
            self._receive()

    def _deliver_held(self) -> None:
        if self._held is not None and not self._paused and not self._closing:
            data, self._held = self._held, None
            self._take(data)

    # Receiving

    def _receive(self) -> None:
        try:
            self._loop.port.submit(self._recv)
        except Exception as error:  # noqa: BLE001 - whatever it is, the connection can't go on
            self._fail(error, "Fatal read error on socket transport")

    def _received(self, completion: Completion) -> None:
        if self._closing:
            return
        if completion.error is not None:
            self._fail(anew(completion.error), "Fatal read error on socket transport")
            return
        data = bytes(self._recv.data)
        if self._paused:
            self._held = data
        else:
            self._context.run(self._take, data)

    def _take(self, data: bytes) -> None:
        if not data:
            self._take_end()
            return
        try:
            if self._is_buffered:
                asyncio.protocols._feed_data_to_buffered_proto(self._protocol, data)  # type: ignore[attr-defined]
            else:
                self._protocol.data_received(data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - the protocol's
            self._fail(error, "Fatal error: protocol.data_received() call failed.")
            return
        if not self._closing and not self._paused and not self._recv.in_flight:
            self._receive()

    def _take_end(self) -> None:
        self._ended = True
        try:
            keeps_open = self._protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - the protocol's
            self._fail(error, "Fatal error: protocol.eof_received() call failed.")
            return
        if not keeps_open:
            self.close()

    # Sending

    def write(self, data: Any) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data:
            return
        if self._lost:
            if self._lost >= UNHEARD_MAX:
                logger.warning("socket.send() raised exception.")
            self._lost += 1
            return
        self._written.append(data if type(data) is bytes else bytes(data))
        self._size += len(self._written[-1])
        if not self._flushing and not self._send.in_flight:
            self._flushing = True
            self._loop.before_wait(self._flush)
        self._maybe_pause_protocol()

    def get_write_buffer_size(self) -> int:
        return self._size

    def _flush(self) -> None:
        self._flushing = False
        if self._lost or not self._written or self._send.in_flight:
            return
        written, self._written = self._written, []
        try:
            self._send.buffer = written[0] if len(written) == 1 else b"".join(written)
            self._loop.port.submit(self._send)
        except Exception as error:  # noqa: BLE001 - whatever it is, the connection can't go on
            self._fail(error, "Fatal write error on socket transport")

    def _sent(self, completion: Completion) -> None:
        if self._lost:
            return
        if completion.error is not None:
            self._fail(anew(completion.error), "Fatal write error on socket transport")
            return
        self._size -= completion.transferred
        self._send.buffer = b""
        self._context.run(self._maybe_resume_protocol)
        if self._written:
            self._flush()
        elif self._closing:
            self._end(None)
        elif self._eof_written:
            self._shut_down()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if self._closing or self._eof_written:
            return
        self._eof_written = True
        if not self._size:
            self._shut_down()

    def _shut_down(self) -> None:
        self._loop.port.submit(Shutdown(self._handle, state=_ignore))

    # The end

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if not self._size:
            self._end(None)
        elif self._recv.in_flight:
            self._loop.port.cancel(self._recv)

    def abort(self) -> None:
        self._end(None)

    def _force_close(self, error: BaseException | None) -> None:
        self._end(error)

    def _fail(self, error: BaseException, message: str) -> None:
        if not isinstance(error, OSError):
            self._loop.call_exception_handler(
                {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
            )
        elif self._loop.get_debug():
            logger.debug("%r: %s", self, message, exc_info=error)
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        """Let what was not sent go, and tell the protocol that the connection is lost; once."""
        if self._lost:
            return
        self._closing = True
        self._lost = 1
        self._written.clear()
        self._size = 0
        self._loop.call_soon(self._connection_lost, error, context=self._context)

    def _connection_lost(self, error: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._handle.close()
            self._loop.part(self._handle)
            server, self._server = self._server, None
            if server is not None:
                _detach(server, self)

    def __repr__(self) -> str:
        state = "closed" if self._handle.closed else "closing" if self._closing else "open"
        return f"<{type(self).__name__} {state} fd={self._handle.fileno()} write_bufsize={self._size}>"

    def __del__(self, warn: Any = warnings.warn) -> None:
        if not self._lost and not self._handle.closed:
            warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self._handle.close()


def _ignore(_: Completion) -> None:
    """What becomes of it is told by the next receive or send."""


def _attach(server: Any, transport: StreamTransport) -> None:
    server._attach(transport) if sys.version_info >= (3, 13) else server._attach()


def _detach(server: Any, transport: StreamTransport) -> None:
    server._detach(transport) if sys.version_info >= (3, 13) else server._detach()

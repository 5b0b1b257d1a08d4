"""Transports of streams: what a protocol's bytes come and go through.

A transport has one receive in flight, and one send at most: what is written meanwhile, or in the same turn of the
loop, leaves together in the next. Completions call it directly (turns), in the context that it was made in. It knows
the loop, its handle and the protocol, and not what the handle is. What is done for each message is the base class's,
which has a form in C; here is what is done seldom.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
import sys
import warnings
from asyncio import constants
from asyncio.log import logger
from asyncio.trsock import TransportSocket
from typing import TYPE_CHECKING, Any

from unio.asyncio.forms import StreamState
from unio.errors import anew
from unio.operations import Recv, Send, Shutdown

if TYPE_CHECKING:
    from unio.asyncio.turns import Turns
    from unio.completion import Completion

UNHEARD_MAX = 5
"""How many writes to a connection that is lost go without a warning."""

READS_MAX = 4
"""How often a protocol's own buffer is filled at most before others have their turn."""


class StreamTransport(StreamState):
    """The transport of a connected stream socket."""

    __slots__ = (
        "__weakref__",
        "_empty_waiter",
        "_ended",
        "_eof_written",
        "_handle",
        "_held",
        "_server",
        "_sock",
        "_unheard",
    )

    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE
    _start_tls_compatible = True

    def __init__(
        self,
        loop: Turns,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: contextvars.Context | None = None,
    ) -> None:
        self._begin_state(contextvars.copy_context() if context is None else context.copy())
        super().__init__(extra, loop)
        self._sock = sock
        self._handle = loop.join(sock)
        loop.owners[self._handle.number] = self
        self._server = server
        self._recv = Recv(self._handle, state=self._received)
        self._recv._grows = False  # what is more than it has room for is received when it is there
        self._send = Send(self._handle, b"", state=self._sent)
        self._held: bytes | None = None  # what came while reading was paused
        self._ended = False  # the peer has
        self._eof_written = False
        self._unheard = 0  # writes since the connection was lost
        self._empty_waiter: asyncio.Future[None] | None = None  # of who waits until all is sent, and lets nobody write
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
        try:
            self._protocol.connection_made(self)
        finally:  # what it raises is reported as any callback's, and the connection goes on
            if not self._closing and not self._paused and not self._receiving:
                self._receive()
            if waiter is not None and not waiter.cancelled():
                waiter.set_result(None)

    # What a protocol asks

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)
        self._protocol_paused = False  # or else one would be resumed that was never paused

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[no-any-return]

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def pause_reading(self) -> None:
        """Hand nothing to the protocol any more. The receive that is in flight goes on: a cancel might lose bytes."""
        if self.is_reading():
            self._paused = True

    def resume_reading(self) -> None:
        if self._closing or not self._paused:
            return
        self._paused = False
        if self._held is not None:
            self._loop.call_soon(self._deliver_held, context=self._context)
        elif not self._receiving and not self._ended:
            self._receive()

    # Receiving

    def _receive_rarely(self, completion: Completion) -> None:
        if self._closing:
            return
        if completion.error is not None:
            self._fail(anew(completion.error), "Fatal read error on socket transport")
        elif self._paused:
            self._held = bytes(self._recv.data)
        elif not completion.transferred:
            self._context.run(self._take_end)
        else:
            self._context.run(self._take_buffered, self._recv.data)

    def _deliver_held(self) -> None:
        if self._held is None or self._paused or self._closing:
            return
        data, self._held = self._held, None
        if not data:
            self._take_end()
        elif self._buffered:
            self._take_buffered(data)
        else:
            self._take(data)

    def _take_buffered(self, data: Any) -> None:
        """Put bytes into the protocol's buffer, and then what else is there, without another copy."""
        try:
            self._feed(memoryview(data))
            if len(data) == len(self._recv.buffer):
                self._fill()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - the protocol's
            self._fail(error, "Fatal error: protocol.buffer_updated() call failed.")
            return
        if self.is_reading() and not self._ended and self._held is None and not self._receiving:
            self._receive()

    def _feed(self, data: memoryview) -> None:
        while data:
            if not self.is_reading() or not self._buffered:
                self._keep_for_later(bytes(data))
                return
            buffer = memoryview(self._protocol.get_buffer(len(data))).cast("B")
            if not buffer:
                raise RuntimeError("get_buffer() returned an empty buffer")
            count = min(len(data), len(buffer))
            buffer[:count] = data[:count]
            self._protocol.buffer_updated(count)
            data = data[count:]

    def _keep_for_later(self, data: bytes) -> None:
        """Keep what a protocol has not taken that has paused, or has given way to another one."""
        if self._closing:
            return
        self._held = data
        if not self._paused:
            self._loop.call_soon(self._deliver_held, context=self._context)

    def _fill(self) -> None:
        """Receive into the protocol's buffer itself, as more is there for sure."""
        for _ in range(READS_MAX):
            if not self.is_reading() or not self._buffered or self._held is not None or self._sock.gettimeout() != 0:
                return
            buffer = self._protocol.get_buffer(-1)
            if not len(buffer):
                raise RuntimeError("get_buffer() returned an empty buffer")
            try:
                count = self._sock.recv_into(buffer)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._fail(error, "Fatal read error on socket transport")
                return
            if not count:
                self._take_end()
                return
            self._protocol.buffer_updated(count)

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

    def _write_rarely(self, data: Any) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._empty_waiter is not None:
            raise RuntimeError("unable to write; sendfile is in progress")
        if not data:
            return
        if self._lost:
            if self._unheard >= UNHEARD_MAX:
                logger.warning("socket.send() raised exception.")
            self._unheard += 1
            return
        self._gather(data if type(data) is bytes else bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return self._size

    def _overflow(self) -> None:
        """Have what is written leave at once, as far as the system takes it, before the protocol is asked to pause."""
        if self._flushing and not self._sending and self._sock.gettimeout() == 0:
            data = self._take_written()
            try:
                sent = self._sock.send(data)
            except OSError:  # there is no room; or that of the flush is to tell what is wrong
                sent = 0
            self._size -= sent
            if sent < len(data):
                self._put_back(memoryview(data)[sent:])
        self._maybe_pause_protocol()

    def _send_failed(self, completion: Completion) -> None:
        assert completion.error is not None
        self._fail(anew(completion.error), "Fatal write error on socket transport")

    def _sent_all(self) -> None:
        if self._empty_waiter is not None and not self._empty_waiter.done():
            self._empty_waiter.set_result(None)
        if self._closing:
            self._end(None)
        elif self._eof_written:
            self._shut_down()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if self._closing or self._eof_written:
            return
        self._eof_written = self._barred = True
        if not self._size:
            self._shut_down()

    def _shut_down(self) -> None:
        self._loop.port.submit(Shutdown(self._handle, state=_ignore))

    def _make_empty_waiter(self) -> asyncio.Future[None]:
        """Let nobody write any more, until :meth:`_reset_empty_waiter`; what is returned is done when all is sent."""
        if self._empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        self._empty_waiter = self._loop.create_future()
        self._barred = True
        if not self._size:
            self._empty_waiter.set_result(None)
        return self._empty_waiter

    def _reset_empty_waiter(self) -> None:
        self._empty_waiter = None
        self._barred = self._eof_written or self._lost

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
            self._report(error, message)
        elif self._loop.get_debug():
            logger.debug("%r: %s", self, message, exc_info=error)
        self._end(error)

    def _report(self, error: BaseException, message: str) -> None:
        self._loop.call_exception_handler(
            {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
        )

    def _end(self, error: BaseException | None) -> None:
        """Let what was not sent go, and tell the protocol that the connection is lost; once."""
        if self._lost:
            return
        self._closing = self._barred = self._lost = True
        self._take_written()
        self._size = 0
        if self._empty_waiter is not None and not self._empty_waiter.done():
            self._empty_waiter.set_exception(error or ConnectionError("Connection is closed by peer"))
        self._loop.call_soon(self._connection_lost, error, context=self._context)

    def _connection_lost(self, error: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._handle.close()
            self._loop.part(self._handle)
            self._recv.state = self._send.state = _ignore  # nothing leads back here any more
            self._protocol = None
            server, self._server = self._server, None
            if server is not None:
                _detach(server, self)

    def __repr__(self) -> str:
        state = "closed" if self._handle.closed else "closing" if self._closing else "open"
        return f"<{type(self).__name__} {state} fd={self._sock.fileno()} write_bufsize={self._size}>"

    def __del__(self, warn: Any = warnings.warn) -> None:
        if getattr(self, "_lost", True) or self._sock.fileno() < 0:
            return
        warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
        self._handle.close()
        self._sock.close()  # its handle may have been detached, with the loop


def _ignore(_: Completion) -> None:
    """What becomes of it is told by the next receive or send."""


def _attach(server: Any, transport: StreamTransport) -> None:
    server._attach(transport) if sys.version_info >= (3, 13) else server._attach()


def _detach(server: Any, transport: StreamTransport) -> None:
    server._detach(transport) if sys.version_info >= (3, 13) else server._detach()

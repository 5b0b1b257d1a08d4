"""TLS over another transport, and for the protocol above a transport itself: one object that is both.

It takes the place of :mod:`asyncio.sslproto`, and behaves as that does. What is different is the size of its steps. All
that one receive has brought is decrypted at once and handed on as one, and what a turn of the loop has written is
encrypted at its end, in one step that makes large records, and leaves as one send. No read asks OpenSSL for what can't
be there: to be told so by an exception takes as long as to decrypt a small record.

What is below may be any transport of this loop's, TLS as well. It is given so much at a time as it takes before it says
that this is enough, so that what waits to be sent is mostly what was written, and not a copy of that.

:class:`unio.streams.tls.TlsEngine` is for the streams, where several threads take turns and none has a transport.
"""

from __future__ import annotations

import asyncio
import enum
import ssl
from asyncio import constants, transports
from asyncio.log import logger
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextvars import Context

    from unio.asyncio.turns import Turns

RECORD_MAX = 16384
"""More than one read of OpenSSL's gives."""

STEP_MAX = 256 * 1024
"""How many bytes are encrypted or decrypted in one step, about."""

UNHEARD_MAX = 5
"""How many writes to a connection that is lost go without a warning."""


class Phase(enum.Enum):
    """Where a connection is in its life; it only goes on."""

    HANDSHAKE = "in its handshake"
    OPEN = "open"
    CLOSING = "closing"
    """What was written is sent, then a close_notify; that of the peer is waited for, and what it sends is dropped."""
    CLOSED = "closed"


HANDSHAKE, OPEN, CLOSING, CLOSED = Phase


class SSLTransport(transports._FlowControlMixin, asyncio.Protocol):
    """The transport of a protocol whose bytes travel in records of TLS, and the protocol of the transport below.

    With *begun* the protocol has had its ``connection_made`` before.
    """

    if TYPE_CHECKING:  # of the base class
        _extra: dict[str, Any]
        _loop: Turns
        _high_water: int
        _low_water: int
        _protocol_paused: bool

        def _maybe_pause_protocol(self) -> None: ...
        def _maybe_resume_protocol(self) -> None: ...

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.FALLBACK

    def __init__(
        self,
        loop: Turns,
        protocol: asyncio.BaseProtocol,
        context: ssl.SSLContext | None,
        waiter: asyncio.Future[None] | None,
        *,
        server_side: bool,
        server_hostname: str | None,
        handshake_timeout: float | None,
        shutdown_timeout: float | None,
        begun: bool = False,
    ) -> None:
        if not context:
            context = _default_context(server_hostname, server_side=server_side)
        super().__init__({"sslcontext": context}, loop)
        self._handshake_timeout = _seconds("ssl_handshake_timeout", handshake_timeout, constants.SSL_HANDSHAKE_TIMEOUT)
        self._shutdown_timeout = _seconds("ssl_shutdown_timeout", shutdown_timeout, constants.SSL_SHUTDOWN_TIMEOUT)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side, None if server_side else server_hostname or None
        )
        self._waiter = waiter
        self._begun = begun
        self._below: Any = None
        self._context: Context | None = None
        self._phase = HANDSHAKE
        self._timer: asyncio.TimerHandle | None = None
        self._began = 0.0
        self._error: BaseException | None = None  # that has ended it here
        self._broken: ssl.SSLError | None = None  # what was found behind records that are handed on first
        self._written: deque[bytes | memoryview] = deque()  # and not encrypted
        self._size = 0  # of that
        self._flushing = False  # whether the end of this turn encrypts
        self._is_full = False  # what is below wants no more for now
        self._paused = False
        self._ended = False  # the peer sends no more: it has said so, or the connection has ended
        self._end_told = False  # the protocol knows that
        self._notified = False  # a close_notify was sent, or would be for nobody
        self._lost = 0  # writes in vain
        self.set_protocol(protocol)
        self.set_write_buffer_limits(constants.FLOW_CONTROL_HIGH_WATER_SSL_WRITE * 1024)

    @property
    def _ssl_protocol(self) -> SSLTransport:
        """What asyncio's own transport calls its other half; libraries that reach for that find it here."""
        return self

    # What a protocol asks

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol: Any = protocol
        self._is_buffered = isinstance(protocol, asyncio.BufferedProtocol) or (
            hasattr(protocol, "get_buffer") and not isinstance(protocol, asyncio.Protocol)
        )

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[no-any-return]

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name in self._extra or self._below is None:
            return self._extra.get(name, default)
        return self._below.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._phase is CLOSING or self._phase is CLOSED

    def is_reading(self) -> bool:
        return not self._paused and not self.is_closing()

    def pause_reading(self) -> None:
        if self._below is not None and not self._paused and not self.is_closing():
            self._paused = True
            self._below.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and not self.is_closing():
            self._paused = False
            self._loop.call_soon(self._resume, context=self._context)

    def _resume(self) -> None:
        if self._phase is OPEN and not self._paused:
            self._read()
            if not self._paused and self._below is not None:
                self._below.resume_reading()

    # Handshake

    def connection_made(self, transport: Any) -> None:
        """Begin, now that the connection below is made; that may be long ago."""
        self._below = below = transport
        self._context = getattr(below, "_context", None)
        below.set_write_buffer_limits(STEP_MAX)
        self._began = self._loop.time()
        self._timer = self._loop.call_later(self._handshake_timeout, self._handshake_timed_out)
        self._shake_hands()

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
            certificate = self._tls.getpeercert()
        except ssl.SSLWantReadError:
            self._send()
        except Exception as error:  # noqa: BLE001 - of OpenSSL, which checks names and certificates in it
            self._fail_handshake(error)
        else:
            self._send()
            self._open(certificate)

    def _open(self, certificate: Any) -> None:
        tls = self._tls
        self._extra.update(peercert=certificate, cipher=tls.cipher(), compression=tls.compression(), ssl_object=tls)
        self._stop_timer()
        self._phase = OPEN
        if self._loop.get_debug():
            logger.debug("%r: the handshake took %.1f ms", self, (self._loop.time() - self._began) * 1e3)
        if self._begun:  # what has come already comes after the one who waits has learned of this transport
            self._wake(None)
            self._loop.call_soon(self._resume, context=self._context)
        else:
            self._begun = True
            self._protocol.connection_made(self)
            self._wake(None)
            self._read()

    def _fail_handshake(self, error: BaseException) -> None:
        verifying = isinstance(error, ssl.CertificateError)
        self._fail(error, "SSL handshake failed on verifying the certificate" if verifying else "SSL handshake failed")
        self._wake(error)

    def _handshake_timed_out(self) -> None:
        self._fail_handshake(
            ConnectionAbortedError(
                f"SSL handshake is taking longer than {self._handshake_timeout} seconds: aborting the connection"
            )
        )

    def _wake(self, error: BaseException | None) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is None or waiter.done():
            return
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)

    # Receiving

    def data_received(self, data: Any) -> None:
        self._incoming.write(data)
        if self._phase is OPEN:
            if not self._paused:
                self._read()
        elif self._phase is HANDSHAKE:
            self._shake_hands()
        elif self._phase is CLOSING:
            self._drop_incoming()
            self._go_on_closing()

    def _read(self) -> None:
        """Give the protocol what has come, and the peer what OpenSSL has to say to it."""
        try:
            if self._is_buffered:
                self._read_into_buffers()
            else:
                self._read_data()
        except ssl.SSLError as error:
            self._fail(error, "Fatal error on SSL protocol")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - the protocol's
            self._fail(error, "Fatal error: the protocol failed to take what was received.")
        else:
            if self._broken is not None and self._phase is OPEN and not self._paused:
                self._fail(self._broken, "Fatal error on SSL protocol")
                return
            if self._outgoing.pending:
                self._send()  # keys, or a new handshake
                if self._written:
                    self._pump()
            if self._ended and not self._paused and self._phase is OPEN:
                self._tell_end()
                self.close()

    def _read_data(self) -> None:
        read, incoming = self._tls.read, self._incoming
        while incoming.pending and self._phase is OPEN and not self._paused and not self._broken:
            try:
                data = read(RECORD_MAX)
            except ssl.SSLWantReadError:
                return
            if not data:
                self._ended = True
                return
            if incoming.pending:
                data = self._read_more(data)
            self._protocol.data_received(data)

    def _read_more(self, data: bytes) -> bytes:
        """What the records give that have come together."""
        read, incoming = self._tls.read, self._incoming
        pieces, size = [data], len(data)
        try:
            while incoming.pending and size < STEP_MAX:
                data = read(RECORD_MAX)
                if not data:
                    self._ended = True
                    break
                pieces.append(data)
                size += len(data)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._broken = error
        return b"".join(pieces)

    def _read_into_buffers(self) -> None:
        tls, incoming = self._tls, self._incoming
        while (incoming.pending or tls.pending()) and self._phase is OPEN and not self._paused and not self._ended:
            with memoryview(self._protocol.get_buffer(incoming.pending)) as given, given.cast("B") as buffer:
                size = self._fill(buffer)
            if size:
                self._protocol.buffer_updated(size)
            else:
                return

    def _fill(self, buffer: memoryview) -> int:
        """Have the buffer filled with what there is. Returns how much that was."""
        tls, incoming = self._tls, self._incoming
        if not buffer:
            raise RuntimeError("get_buffer() returned an empty buffer")
        size = 0
        try:
            while size < len(buffer) and (incoming.pending or tls.pending()):
                count: Any = tls.read(len(buffer) - size, buffer[size:])
                if not count:
                    self._ended = True
                    break
                size += count
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._broken = error
        return size

    def _drop_incoming(self) -> None:
        """Read what the peer sends up to its close_notify, for nobody."""
        try:
            while not self._ended and (self._incoming.pending or self._tls.pending()):
                self._ended = not self._tls.read(RECORD_MAX)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended = True
        except ssl.SSLError as error:
            self._fail(error, "Fatal error on SSL protocol")

    def eof_received(self) -> bool:
        """See to the end of the connection, maybe without a close_notify. Returns whether it is to stay for a while."""
        self._ended = self._notified = True
        if self._phase is HANDSHAKE:
            self._fail_handshake(ConnectionResetError("the peer ended the connection in the middle of the handshake"))
        elif self._phase is OPEN and not self._paused:
            self._read()
        elif self._phase is CLOSING:
            self._go_on_closing()
        return bool(self._phase is OPEN or self._written)

    def _tell_end(self) -> None:
        """Tell the protocol, once, that the peer sends no more."""
        if self._end_told:
            return
        self._end_told = True
        try:
            keeps_open = self._protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - the protocol's
            self._fail(error, "Fatal error: protocol.eof_received() call failed.")
            return
        if keeps_open and not isinstance(self._protocol, SSLTransport):
            logger.warning("returning true from eof_received() has no effect when using ssl")

    # Sending

    def write(self, data: Any) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
        if self._phase is CLOSING or self._phase is CLOSED:
            self._lost += 1
            if self._lost > UNHEARD_MAX:
                logger.warning("SSL connection is closed")
            return
        if type(data) is not bytes:
            data = bytes(data)  # it is read at the end of the turn, and may be something else by then
        if not data:
            return
        self._written.append(data)
        self._size += len(data)
        if not self._flushing:
            self._flushing = True
            self._loop.before_wait(self._flush)
        if self._size + self._below.get_write_buffer_size() > self._high_water:
            self._maybe_pause_protocol()

    def writelines(self, list_of_data: Any) -> None:
        for data in list_of_data:
            self.write(data)

    def get_write_buffer_size(self) -> int:
        if self._phase is CLOSED or self._below is None:  # what is below may still have a close_notify
            return 0
        return self._size + self._outgoing.pending + self._below.get_write_buffer_size()  # type: ignore[no-any-return]

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low_water, self._high_water

    def write_eof(self) -> None:
        raise NotImplementedError

    def can_write_eof(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        if self._protocol_paused:
            self._below.set_write_buffer_limits(STEP_MAX)
        self._pump()
        self._resume_protocol()

    def _flush(self) -> None:
        """At the end of a turn, encrypt what it has written."""
        self._flushing = False
        self._pump()
        if self._protocol_paused and self._context is not None:
            self._context.run(self._resume_protocol)

    def _resume_protocol(self) -> None:
        """Let a protocol that has paused go on once little enough waits to be sent; what is below is to say when."""
        self._maybe_resume_protocol()
        if self._protocol_paused and not self._is_full and self._below is not None:
            self._below.set_write_buffer_limits(self._low_water, self._low_water)

    def _pump(self) -> None:
        """Encrypt what was written, as much as what is below takes."""
        if self._phase is HANDSHAKE or self._phase is CLOSED:
            return
        try:
            while self._written and not self._is_full:
                self._encrypt(self._next_piece())
                self._send()
        except ssl.SSLWantReadError:  # the peer has begun another handshake
            self._send()
        except ssl.SSLError as error:
            self._fail(error, "Fatal error on SSL protocol")
        else:
            if self._phase is CLOSING:
                self._go_on_closing()

    def _next_piece(self) -> bytes | memoryview:
        """Take what is to be encrypted in the next step."""
        written = self._written
        if self._size <= STEP_MAX:
            piece = written[0] if len(written) == 1 else b"".join(written)
            written.clear()
            self._size = 0
            return piece
        piece = written.popleft()
        if len(piece) > STEP_MAX:
            written.appendleft(memoryview(piece)[STEP_MAX:])
            piece = memoryview(piece)[:STEP_MAX]
        self._size -= len(piece)
        return piece

    def _encrypt(self, piece: bytes | memoryview) -> None:
        try:
            self._tls.write(piece)
        except ssl.SSLWantReadError:
            self._written.appendleft(piece)  # OpenSSL wants it again, whole
            self._size += len(piece)
            raise

    def _send(self) -> None:
        records = self._outgoing.read()
        if records and self._below is not None:
            self._below.write(records)

    # The end

    def close(self) -> None:
        if self._phase is HANDSHAKE:
            self._phase = CLOSED
            self._force_close(None)
        elif self._phase is OPEN:
            self._phase = CLOSING
            self._timer = self._loop.call_later(self._shutdown_timeout, self._shutdown_timed_out)
            self._drop_incoming()
            self._pump()
            if self._below is not None:
                self._below.resume_reading()  # the peer's close_notify comes after what nobody reads any more

    def _go_on_closing(self) -> None:
        """Once all that was written is encrypted say so, and once the peer has said so too, end."""
        if self._phase is not CLOSING or self._written:
            return
        if not self._notified:
            self._notified = True
            try:
                self._tls.unwrap()
            except ssl.SSLError:  # it reads at once what the peer says to that, mostly in vain
                pass
            else:
                self._ended = True
            self._send()
        if self._ended:
            self._phase = CLOSED
            self._tell_end()
            if self._below is not None:
                self._below.close()

    def _shutdown_timed_out(self) -> None:
        self._force_close(TimeoutError("SSL shutdown timed out"))

    def abort(self) -> None:
        self._force_close(None)

    def _force_close(self, error: BaseException | None) -> None:
        self._phase = CLOSED
        if self._below is not None:
            self._below._force_close(error)

    def _fail(self, error: BaseException, message: str) -> None:
        """End the connection, as it can't go on; the peer is told why, where OpenSSL has a record for that."""
        if not isinstance(error, OSError):
            self._loop.call_exception_handler(
                {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
            )
        elif self._loop.get_debug():
            logger.debug("%r: %s", self, message, exc_info=error)
        self._error = error
        self._phase = CLOSED
        self._drop_written()
        if self._outgoing.pending and self._below is not None:
            self._stop_timer()
            self._timer = self._loop.call_later(self._shutdown_timeout, self._force_close, error)
            self._send()
            self._below.close()
        else:
            self._force_close(error)

    def _drop_written(self) -> None:
        self._written.clear()
        self._size = 0

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def connection_lost(self, exc: BaseException | None) -> None:
        error = self._error or exc
        self._phase = CLOSED
        self._stop_timer()
        self._drop_written()
        below, self._below = self._below, None
        self._extra = {**getattr(below, "_extra", {}), **self._extra}
        self._wake(error or ConnectionAbortedError("the connection was closed in the middle of the TLS handshake"))
        protocol, self._protocol, self._error, self._broken = self._protocol, None, None, None
        if self._begun:
            protocol.connection_lost(error)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._phase.value} over {self._below!r}>"


def _seconds(name: str, given: float | None, usual: float) -> float:
    if given is None:
        return usual
    if given <= 0:
        raise ValueError(f"{name} should be a positive number, got {given}")
    return given


def _default_context(server_hostname: str | None, *, server_side: bool) -> ssl.SSLContext:
    if server_side:
        raise ValueError("Server side SSL needs a valid SSLContext")
    context = ssl.create_default_context()
    if not server_hostname:
        context.check_hostname = False
    return context

"""What a transport of a stream does for each message: the form in Python.

Where there is the fast path of ``unio._core``, its class of the same name stands in the place of this one;
``src/core/asyncio_stream.c`` says what it gains. What is not plain is left to
:class:`unio.asyncio.transports.StreamTransport` by both.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import transports
from typing import TYPE_CHECKING, Any

RECEIVED_MAX = 256 * 1024
"""Bytes: so much of one connection comes in a turn at most."""

if TYPE_CHECKING:
    import socket
    from contextvars import Context

    from unio.asyncio.turns import Turns
    from unio.completion import Completion
    from unio.operations import Recv, Send


class StreamState(transports._FlowControlMixin, asyncio.Transport):
    """Receives and hands to the protocol; gathers what is written, and sends it at the end of the turn."""

    __slots__ = (
        "_barred",
        "_buffered",
        "_closing",
        "_context",
        "_flushing",
        "_lost",
        "_paused",
        "_protocol",
        "_receiving",
        "_recv",
        "_send",
        "_sending",
        "_size",
        "_written",
    )

    _loop: Turns
    _context: Context
    _protocol: Any
    _recv: Recv
    _send: Send
    _written: list[Any]  # and not submitted
    _size: int  # of that and of what is being sent, in bytes
    _lost: bool  # the connection is, or is about to be
    _buffered: bool  # whether the protocol has a buffer of its own
    _flushing: bool  # whether the end of this turn sends
    _paused: bool  # reading is
    _receiving: bool  # the receive is submitted and not delivered: a wait makes it idle before that
    _sending: bool  # so for the send
    _closing: bool
    _barred: bool  # whether nothing may be written, as the end was, or is to reach anybody

    if TYPE_CHECKING:  # what asyncio's classes have, and what StreamTransport adds
        _extra: dict[str, Any]
        _protocol_paused: bool
        _sock: socket.socket
        _high_water: int  # bytes; above that the protocol is paused
        _low_water: int  # and at that it is resumed

        def _take_end(self) -> None: ...
        def _receive_rarely(self, completion: Completion) -> None: ...
        def _write_rarely(self, data: Any) -> None: ...
        def _overflow(self) -> None: ...
        def _maybe_pause_protocol(self) -> None: ...
        def _maybe_resume_protocol(self) -> None: ...
        def _sent_all(self) -> None: ...
        def _send_failed(self, completion: Completion) -> None: ...
        def _fail(self, error: BaseException, message: str) -> None: ...

    def _begin_state(self, context: Context) -> None:
        self._context = context
        self._written = []
        self._size = 0
        self._flushing = self._paused = self._closing = self._barred = self._lost = False
        self._buffered = self._receiving = self._sending = False

    # Receiving

    def _receive(self) -> None:
        try:
            self._loop.port.submit(self._recv)
            self._receiving = True
        except Exception as error:  # noqa: BLE001 - whatever it is, the connection can't go on
            self._fail(error, "Fatal read error on socket transport")

    def _received(self, completion: Completion) -> None:
        """What the receive calls when it has completed."""
        self._receiving = False
        if completion.error is not None or self._closing or self._paused or self._buffered:
            self._receive_rarely(completion)
        elif not completion.transferred:
            self._context.run(self._take_end)
        else:
            self._context.run(self._take, self._received_bytes())

    def _received_bytes(self) -> bytes:
        """What has come.

        A receive has little room, since there is one for each connection, whether something comes or not. Where it is
        full, the rest is received now; where there is none, or something is wrong, the next receive tells.
        """
        data = bytes(self._recv.data)
        if len(data) == len(self._recv.buffer) and self._sock.gettimeout() == 0:
            with contextlib.suppress(OSError):
                data += self._sock.recv(RECEIVED_MAX - len(data))
        return data

    def _take(self, data: bytes) -> None:
        """Hand bytes to the protocol, in the transport's context, and receive more."""
        try:
            self._protocol.data_received(data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - the protocol's
            self._fail(error, "Fatal error: protocol.data_received() call failed.")
            return
        if not self._closing and not self._paused and not self._receiving:
            self._receive()

    # Sending

    def write(self, data: Any) -> None:
        if type(data) is not bytes or not data or self._barred:
            self._write_rarely(data)
        else:
            self._gather(data)

    def _gather(self, data: Any) -> None:
        """Have bytes sent at the end of this turn, or when what is being sent has left."""
        self._written.append(data)
        self._size += len(data)
        if not self._flushing and not self._sending:
            self._loop.before_wait(self._flush)
            self._flushing = True
        if self._size > self._high_water:
            self._overflow()

    def _flush(self) -> None:
        self._flushing = False
        if self._lost or not self._written or self._sending:
            return
        try:
            self._send.buffer = self._take_written()
            self._loop.port.submit(self._send)
            self._sending = True
        except Exception as error:  # noqa: BLE001 - whatever it is, the connection can't go on
            self._fail(error, "Fatal write error on socket transport")

    def _take_written(self) -> Any:
        """What is written and not submitted, as one piece; None if that is nothing."""
        written, self._written = self._written, []
        return written[0] if len(written) == 1 else b"".join(written) if written else None

    def _put_back(self, data: Any) -> None:
        """Put bytes to the head of that, where nothing else is."""
        self._written = [data]

    def _sent(self, completion: Completion) -> None:
        """What the send calls when it has completed."""
        self._sending = False
        self._send.buffer = b""
        if self._lost:
            return
        if completion.error is not None:
            self._send_failed(completion)
            return
        self._size -= completion.transferred
        if self._protocol_paused and self._size <= self._low_water:
            self._context.run(self._maybe_resume_protocol)
        if self._written:
            self._flush()
        elif self._closing or self._barred:
            self._sent_all()

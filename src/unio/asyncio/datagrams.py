"""Transports of datagrams.

A transport has a few receives in flight. A datagram is sent by one call at once, which seldom has to wait; where it
would, it is the port's to send, and those that come later stand behind it. What becomes of one datagram is told to the
protocol and ends nothing, since a peer that can't be reached says nothing of the others.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio.trsock import TransportSocket
from collections import deque
from typing import TYPE_CHECKING, Any

from unio.arguments import checked_address
from unio.asyncio.base_transport import BaseTransport
from unio.asyncio.turns import Turns
from unio.errors import anew
from unio.names import Resolve
from unio.operations import RecvFrom, Send, SendTo

if TYPE_CHECKING:
    from unio.completion import Completion

DATAGRAM_MAX = 65536
"""More than any datagram of UDP has."""

LOCAL_MAX = 256 * 1024
"""As much as a datagram of AF_UNIX has, where its sender hasn't asked the system for a larger buffer."""

RECEIVES = 4
"""How many receives are in flight, and so datagrams come in a turn. Of their buffers only what was filled is memory."""

HEADER = 8
"""What a datagram counts for besides its bytes, so that many short ones pause a protocol as well."""


class Datagrams(Turns):
    """A loop that makes transports of datagram sockets."""

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.DatagramProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> DatagramTransport:
        return DatagramTransport(self, sock, protocol, address, waiter, extra)


class DatagramTransport(BaseTransport, asyncio.DatagramTransport):
    """The transport of a datagram socket."""

    _kind = "datagram"

    def __init__(
        self,
        loop: Turns,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(loop, sock, protocol, waiter, extra)
        self._sock = sock
        self._address = address
        self._tell_about(sock)
        is_local = sock.family == getattr(socket, "AF_UNIX", None)
        size = LOCAL_MAX if is_local else DATAGRAM_MAX
        self._receives = [RecvFrom(self._handle, bytearray(size), state=self._received) for _ in range(RECEIVES)]
        self._known: Any = None  # an address that needs no check any more
        self._waiting: deque[tuple[bytes, Any]] = deque()  # the first of them is being sent, or its name looked up

    def _tell_about(self, sock: socket.socket) -> None:
        self._extra["socket"] = TransportSocket(sock)
        try:
            self._extra["sockname"] = sock.getsockname()
        except OSError:  # Windows has no name for a socket that is not bound, and lets it receive nothing
            sock.bind(("", 0))
            self._extra["sockname"] = sock.getsockname()
        try:
            self._extra["peername"], self._connected = sock.getpeername(), True
        except OSError:
            self._extra["peername"], self._connected = None, False

    # Receiving

    def _start(self) -> None:
        for receive in self._receives:
            self._submit(receive)

    def _submit(self, receive: RecvFrom) -> None:
        try:
            self._loop.port.submit(receive)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing more can come
            self._fail(error, "Fatal read error")

    def _received(self, completion: Completion) -> None:
        if self._closing:
            return
        receive: RecvFrom = completion.operation
        if completion.error is not None:
            self._context.run(self._receive_failed, receive, completion.error)
            return
        data, self._known = bytes(memoryview(receive.buffer)[: completion.transferred]), receive.address
        self._submit(receive)  # first, as the protocol may raise what ends the loop's run
        self._context.run(self._protocol.datagram_received, data, self._known)

    def _receive_failed(self, receive: RecvFrom, error: OSError) -> None:
        if self._handle.closed:  # behind the transport's back
            self._fail(anew(error), "Fatal read error")
        else:
            self._submit(receive)
            self._tell_error(anew(error))

    def _tell_error(self, error: OSError) -> None:
        try:
            self._protocol.error_received(error)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as raised:  # noqa: BLE001 - the protocol's
            self._loop.call_exception_handler(
                {
                    "message": "protocol.error_received() call failed.",
                    "exception": raised,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )

    # Sending

    def sendto(self, data: Any, addr: Any = None) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._address:
            if addr not in (None, self._address):
                raise ValueError(f"Invalid address: must be None or {self._address}")
            addr = self._address
        if self._lost:
            self._write_in_vain()
            return
        if not self._connected and (addr is None or addr is not self._known):
            addr = self._checked(addr)
        if self._waiting or isinstance(addr, Resolve) or not self._sent_at_once(data, addr):
            self._waiting.append((bytes(data), addr))
            self._size += len(data) + HEADER
            if len(self._waiting) == 1:
                self._send_first()
            self._maybe_pause_protocol()

    def _checked(self, address: Any) -> Any:
        """An address that is one of numbers, or the lookup of its name."""
        if address is None:
            raise ValueError("the datagram has no address, and its socket no peer")
        try:
            self._known = checked_address(self._sock, address)
        except ValueError:
            return Resolve(*address[:2], family=self._sock.family, type=self._sock.type, state=self._resolved)
        return self._known

    def _sent_at_once(self, data: Any, address: Any) -> bool:
        """Send a datagram if that need not wait. Returns whether it has left, or failed to."""
        try:
            if self._connected:
                self._sock.send(data)
            else:
                self._sock.sendto(data, address)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._tell_error(error)
        return True

    def _send_first(self) -> None:
        """Have the port send the first of those that wait, or look its name up."""
        data, address = self._waiting[0]
        operation: Resolve | Send | SendTo
        if isinstance(address, Resolve):
            operation = address
        elif self._connected:
            operation = Send(self._handle, data, state=self._sent)
        else:
            operation = SendTo(self._handle, data, address, state=self._sent)
        try:
            self._loop.port.submit(operation)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing more can leave
            self._fail(error, "Fatal write error")

    def _resolved(self, completion: Completion) -> None:
        if self._lost:
            return
        if completion.error is not None:
            self._context.run(self._has_left, completion.error)
        else:
            self._waiting[0] = self._waiting[0][0], completion.operation.addresses[0][4]
            self._send_first()

    def _sent(self, completion: Completion) -> None:
        if not self._lost:
            self._context.run(self._has_left, completion.error)

    def _has_left(self, error: OSError | None) -> None:
        """Go on after the first of those that wait, whatever has become of it."""
        self._forget_first()
        if error is not None:
            self._tell_error(anew(error))
        while self._waiting and not isinstance(self._waiting[0][1], Resolve) and self._sent_at_once(*self._waiting[0]):
            self._forget_first()
        if self._waiting:
            self._send_first()
        self._maybe_resume_protocol()
        if self._closing and not self._size:
            self._end(None)

    def _forget_first(self) -> None:
        data, _ = self._waiting.popleft()
        self._size -= len(data) + HEADER

    # The end

    def _end(self, error: BaseException | None) -> None:
        super()._end(error)
        self._waiting.clear()

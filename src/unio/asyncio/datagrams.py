"""Transports of datagrams.

A transport has one receive in flight, and as many sends as were asked for, up to a bound: each datagram is a send of
its own. What becomes of one datagram is told to the protocol and ends nothing, since a peer that can't be reached says
nothing of the others.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio.trsock import TransportSocket
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from unio.arguments import checked_address
from unio.asyncio.base_transport import BaseTransport
from unio.asyncio.turns import Turns
from unio.errors import anew, has_left
from unio.names import Resolve
from unio.operations import RecvFrom, Send, SendTo

if TYPE_CHECKING:
    from unio.completion import Completion

DATAGRAM_MAX = 65536
"""More than any datagram of UDP has."""

LOCAL_MAX = 256 * 1024
"""As much as a datagram of AF_UNIX has, where its sender hasn't asked the system for a larger buffer."""

HEADER = 8
"""What a datagram counts for besides its bytes, so that many short ones pause a protocol as well."""

SENDS_MAX = 64
"""How many sends are in flight at most: what a wait returns at once."""


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
        self._view = memoryview(bytearray(LOCAL_MAX if is_local else DATAGRAM_MAX))
        self._recv = RecvFrom(self._handle, self._view, state=self._received)
        self._waiting: deque[tuple[bytes, Any]] = deque()  # and not submitted
        self._idle: list[Any] = []  # sends that are in flight no more
        self._sending = 0  # in flight
        self._resolving = False  # the address of the first that waits

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
        try:
            self._loop.port.submit(self._recv)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing more can come
            self._fail(error, "Fatal read error")

    def _received(self, completion: Completion) -> None:
        if self._closing:
            return
        data, sender = bytes(self._view[: completion.transferred]), self._recv.address
        if self._handle.closed:  # behind the transport's back
            self._fail(anew(completion.error or has_left()), "Fatal read error")
            return
        self._start()  # first, as the protocol may raise what ends the loop's run
        if completion.error is None:
            self._context.run(self._protocol.datagram_received, data, sender)
        else:
            self._context.run(self._protocol.error_received, anew(completion.error))

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
        if self._connected:
            addr = None
        elif addr is None:
            raise ValueError("the datagram has no address, and its socket no peer")
        data = data if type(data) is bytes else bytes(data)
        if self._waiting or self._resolving or self._sending == SENDS_MAX:
            self._waiting.append((data, self._checked(addr)))
        else:
            self._send(data, addr)
        self._size += len(data) + HEADER
        self._maybe_pause_protocol()

    def _checked(self, address: Any) -> Any:
        try:
            return address if self._connected else checked_address(self._sock, address)
        except ValueError:
            return address  # a name, perhaps, which is looked up when it is its turn

    def _send(self, data: bytes, address: Any) -> None:
        try:
            send = self._made_send(data, address)
        except ValueError:
            self._resolve(data, address)
            return
        self._loop.port.submit(send)
        self._sending += 1

    def _made_send(self, data: bytes, address: Any) -> Send | SendTo:
        if not self._idle:
            if self._connected:
                return Send(self._handle, data, state=self._sent)
            return SendTo(self._handle, data, address, state=self._sent)
        send = self._idle.pop()
        send.buffer = data
        if not self._connected:
            send.address = address
        return send  # type: ignore[no-any-return]

    def _sent(self, completion: Completion) -> None:
        send = completion.operation
        self._sending -= 1
        if self._lost:
            return
        size, send.buffer = len(send.buffer), b""
        self._idle.append(send)
        self._has_left(size, completion.error)

    def _has_left(self, size: int, error: OSError | None) -> None:
        """Go on after a datagram, whatever has become of it."""
        self._size -= size + HEADER
        try:
            if error is not None:
                self._context.run(self._protocol.error_received, anew(error))
        finally:
            self._send_waiting()
            self._context.run(self._maybe_resume_protocol)
            if self._closing and not self._size:
                self._end(None)

    def _send_waiting(self) -> None:
        while self._waiting and self._sending < SENDS_MAX and not self._resolving:
            data, address = self._waiting.popleft()
            try:
                self._send(data, address)
            except Exception as error:  # noqa: BLE001 - whatever it is, who has asked for it is gone
                self._fail(error, "Fatal write error")

    # Names

    def _resolve(self, data: bytes, name: Any) -> None:
        """Send a datagram once the address of its peer is known; those that come later wait for it."""
        host, port, *_ = name
        self._loop.port.submit(
            Resolve(host, port, family=self._sock.family, type=self._sock.type, state=partial(self._resolved, data))
        )
        self._resolving = True

    def _resolved(self, data: bytes, completion: Completion) -> None:
        self._resolving = False
        if self._lost:
            return
        if completion.error is not None:
            self._has_left(len(data), completion.error)
            return
        self._waiting.appendleft((data, completion.operation.addresses[0][4]))
        self._send_waiting()

    # The end

    def _end(self, error: BaseException | None) -> None:
        super()._end(error)
        self._waiting.clear()

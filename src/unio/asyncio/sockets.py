"""The ``sock_*`` methods: a socket of the program's own, one call at a time.

Each call is tried at once. Where it would have to wait, the loop waits until the socket is ready, by a poll, which
takes nothing out of it, and the call is tried again. So nothing is lost whenever a task is cancelled: what has arrived
is still in the socket, for whoever asks next, in whichever way. Sends that have to wait are the port's, which takes
all of their bytes.

A socket joins the port when it first has to wait, and the port holds it for as long as it has joined. So one that no
call has waited on for a while is given back: a program that drops a socket without closing it finds it collected, as
with any loop.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
from asyncio.exceptions import SendfileNotAvailableError
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from unio.asyncio.bridge import Bridge
from unio.errors import AssociationError, Cancelled, InFlight, NotAssociated
from unio.operations import Connect, Poll, Readiness, Send, SendFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.handle import Handle, HasFileno

Result = TypeVar("Result")

IDLE_SECONDS = 1.0
"""How long a socket stays in the port at least when no call waits on it any more; it is given back after twice that."""


class Transport(Protocol):
    """What the transport of a stream has for a sendfile."""

    _sock: socket.socket

    def is_reading(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def _make_empty_waiter(self) -> Any: ...
    def _reset_empty_waiter(self) -> None: ...


class Lent:
    """A socket of the program's that has joined for as long as calls wait on it, and a while longer."""

    __slots__ = ("handle", "sending", "was_used")

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.sending = 0  # sends that wait: what is sent meanwhile goes behind them
        self.was_used = True  # since it was last looked whether it is


class Sockets(Bridge):
    """A loop for sockets of the program's own."""

    def __init__(self) -> None:
        super().__init__()
        self._lent: dict[int, Lent] = {}  # by number
        self._looks = False  # whether it is looked soon which of them are idle

    # Joining for a while

    def _lend(self, sock: socket.socket) -> Lent:
        number = sock.fileno()
        lent = self._lent.get(number)
        if lent is None or self._joined.get(number) is not lent.handle or lent.handle.object is not sock:
            is_new = number not in self._joined or self._joined[number].object is not sock
            lent = Lent(super().join(sock))
            if not is_new:  # it has joined for other reasons, and stays
                return lent
            self._lent[number] = lent
        lent.was_used = True
        if not self._looks:
            self._looks = True
            self.call_later(IDLE_SECONDS, self._give_idle_back)
        return lent

    def join(self, given: HasFileno) -> Handle:
        self._lent.pop(given.fileno(), None)  # from now on it stays
        return super().join(given)

    def _give_idle_back(self) -> None:
        self._looks = False
        for number, lent in list(self._lent.items()):
            if self._joined.get(number) is not lent.handle:
                del self._lent[number]
            elif lent.was_used:
                lent.was_used = False
                self._looks = True
            else:
                self._give_back(number, lent)
        if self._looks:
            self.call_later(IDLE_SECONDS, self._give_idle_back)

    def _give_back(self, number: int, lent: Lent) -> None:
        try:
            lent.handle.detach()
        except InFlight:
            return  # it is looked at again when what waits has come
        except (NotAssociated, AssociationError, OSError):  # it was closed, or the system can't
            pass
        del self._lent[number]
        if lent.handle.closed:
            self.part(lent.handle)

    # Waiting

    def _check(self, sock: socket.socket) -> None:
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    async def _until_done(self, sock: socket.socket, readiness: Readiness, call: Callable[[], Result]) -> Result:
        """Make a call until it need not wait any more."""
        self._check(sock)
        with contextlib.suppress(BlockingIOError, InterruptedError):
            if sock.gettimeout() == 0:
                return call()
        while True:
            lent = self._lend(sock)
            try:
                await self.complete(Poll(lent.handle, readiness))
            except Cancelled:  # its program has closed it, which the call will tell; or another one of its own waits
                if sock.fileno() < 0:
                    return call()
            finally:
                self._use(lent)
            with contextlib.suppress(BlockingIOError, InterruptedError):
                return call()

    def _use(self, lent: Lent) -> None:
        lent.was_used = True
        if not self._looks and not self.is_closed():
            self._looks = True
            self.call_later(IDLE_SECONDS, self._give_idle_back)

    # Receiving

    async def sock_recv(self, sock: socket.socket, nbytes: int) -> bytes:
        return await self._until_done(sock, Readiness.READABLE, lambda: sock.recv(nbytes))

    async def sock_recv_into(self, sock: socket.socket, buf: Any) -> int:
        return await self._until_done(sock, Readiness.READABLE, lambda: sock.recv_into(buf))

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        return await self._until_done(sock, Readiness.READABLE, lambda: sock.recvfrom(bufsize))

    async def sock_recvfrom_into(self, sock: socket.socket, buf: Any, nbytes: int = 0) -> tuple[int, Any]:
        count = nbytes or len(buf)
        return await self._until_done(sock, Readiness.READABLE, lambda: sock.recvfrom_into(buf, count))

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        connection, address = await self._until_done(sock, Readiness.READABLE, sock.accept)
        connection.setblocking(False)
        return connection, address

    # Sending

    async def sock_sendto(self, sock: socket.socket, data: Any, address: Any) -> int:
        return await self._until_done(sock, Readiness.WRITABLE, lambda: sock.sendto(data, address))

    async def sock_sendall(self, sock: socket.socket, data: Any) -> None:
        self._check(sock)
        lent = self._lent.get(sock.fileno())
        view, sent = memoryview(data).cast("B"), 0
        if sock.gettimeout() == 0 and (lent is None or not lent.sending):
            with contextlib.suppress(BlockingIOError, InterruptedError):
                sent = sock.send(view)
        if sent == len(view):
            return
        lent = self._lend(sock)
        lent.sending += 1
        try:
            await self.complete(Send(lent.handle, view[sent:]))
        finally:
            lent.sending -= 1
            self._use(lent)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        self._check(sock)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            address = await self._resolved(sock, address)
        if sock.type == socket.SOCK_DGRAM:  # no peer is asked, so it need not wait
            sock.connect(address)
            return
        lent = self._lend(sock)
        try:
            await self.complete(Connect(lent.handle, address))
        finally:
            self._use(lent)

    async def _resolved(self, sock: socket.socket, address: Any) -> Any:
        found = await self._ensure_resolved(  # type: ignore[attr-defined]
            address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
        )
        return found[0][4]

    # Sending files

    async def _sock_sendfile_native(self, sock: socket.socket, file: Any, offset: int, count: int | None) -> int:
        lent = self._lend(sock)
        try:
            return await self._send_file(lent.handle, file, offset, count)
        finally:
            self._use(lent)

    async def _send_file(self, handle: Handle, file: Any, offset: int, count: int | None) -> int:
        number, size = _regular(file)
        if not (count or size):
            return 0
        send = SendFile(handle, file, offset, count)
        try:
            await self.complete(send)
        except Cancelled:
            raise ConnectionError("the connection was closed in the middle") from None
        finally:
            if send.transferred:
                os.lseek(number, offset + send.transferred, os.SEEK_SET)
        return send.transferred

    async def _sendfile_native(self, transp: Transport, file: Any, offset: int, count: int | None) -> int:
        _regular(file)
        goes_on = transp.is_reading()
        transp.pause_reading()
        try:
            await transp._make_empty_waiter()
            return await self._send_file(super().join(transp._sock), file, offset, count)
        finally:
            transp._reset_empty_waiter()
            if goes_on:
                transp.resume_reading()


def _regular(file: Any) -> tuple[int, int]:
    """The number and the size of a file that the system can send by itself."""
    try:
        number = file.fileno()
        return number, os.fstat(number).st_size
    except (AttributeError, io.UnsupportedOperation, OSError) as error:
        raise SendfileNotAvailableError("not a regular file") from error

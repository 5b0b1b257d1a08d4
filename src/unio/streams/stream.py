"""A stream: what coroutines read from a handle and write to it, with the bytes in between kept here.

One task at a time reads, and has the receive buffer for itself; :mod:`~unio.streams.sender` has the other side.
"""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from typing import TYPE_CHECKING, Any, Self, TypeVar

from unio.arguments import seconds, whole_number
from unio.errors import Cancelled, InFlight, cancelled, is_timed_out
from unio.handle import Handle, Kind
from unio.operations import Recv, Shutdown
from unio.streams.deadlines import again, call_timed_out, deadline_of, idled, time_for, time_left
from unio.streams.receive_buffer import LINE_MAX, SIZE_MAX, ReceiveBuffer
from unio.streams.sender import Sender
from unio.streams.write_queue import unchanging

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Buffer

    from unio.handle import HasFileno
    from unio.port import Port
    from unio.streams.tls import TlsEngine, TlsInfo

Found = TypeVar("Found")

WRITE_LIMIT = 64 * 1024
"""How many bytes may wait to be sent before a write waits as well."""

HANDSHAKE_SECONDS = 60.0
"""How long a TLS handshake may take, unless told: without a bound, a peer that says nothing would be waited for."""


class Stream:
    """A stream of bytes over a socket or a pipe, for coroutines that a port runs (:meth:`Port.start`).

    *handle* is one that has joined the *port*, or a socket or a pipe that joins it here. Reading and writing are
    independent of each other: one task may read while others write. Two that read at once are told so
    (:class:`unio.InFlight`).

    Each call has a *timeout* for all that it does, in seconds. When it has passed, :class:`TimeoutError` is raised, and
    what has come, or has been written, stays: the next call goes on with it. *idle_timeout* is how long the peer may
    send nothing while it is waited for, or take nothing of what is sent: a slow peer keeps to it, and one that is gone
    does not. Where it takes nothing, the stream has failed, and each further write says so.

    At the end of an ``async with`` block the stream is closed, and if an exception ends the block, aborted.

    Raises what :meth:`Port.associate` raises. An error of the connection is raised by the call that meets with it, and
    by all later ones in that direction.
    """

    __slots__ = (
        "__weakref__",
        "_engine",
        "_idle_timeout",
        "_is_shut_down",
        "_read_failure",
        "_reader",
        "_received",
        "_recv",
        "_sender",
        "handle",
        "port",
        "tls",
    )

    port: Port

    handle: Handle

    tls: TlsInfo | None
    """What the TLS handshake has agreed on; None without TLS."""

    def __init__(
        self,
        port: Port,
        handle: Handle | HasFileno | int,
        *,
        write_limit: int = WRITE_LIMIT,
        idle_timeout: float | None = None,
    ) -> None:
        limit = whole_number(write_limit, "the write limit")
        self._idle_timeout = None if idle_timeout is None else seconds(idle_timeout, "the idle time-out")
        self.port = port
        self.handle = handle if isinstance(handle, Handle) else port.associate(handle)
        self.tls = None
        self._engine: TlsEngine | None = None
        self._sender = Sender(port, self.handle, limit, self._idle_timeout)
        self._is_shut_down = False  # the peer was told that nothing more comes
        # Whoever reads holds this, and has the next three.
        self._reader = threading.Lock()
        self._received = ReceiveBuffer()
        self._recv = Recv(self.handle, self._received.space())
        self._read_failure: Exception | None = None

    # Reading

    async def read_some(self, limit: int = SIZE_MAX, *, timeout: float | None = None) -> bytes:
        """What there is, from 1 to *limit* bytes; ``b""`` at the end of the stream."""
        return await self._read(timeout, self._received.read_some, limit)

    async def read_exactly(self, size: int, *, timeout: float | None = None) -> bytes:
        """Exactly *size* bytes. Raises :class:`unio.StreamEnded` where the stream ends before."""
        return await self._read(timeout, self._received.read_exactly, size)

    async def read_until(self, separator: bytes, limit: int = LINE_MAX, *, timeout: float | None = None) -> bytes:
        """The bytes up to the *separator* and this.

        Raises :class:`unio.LimitExceeded` where that would be more than *limit* bytes, and :class:`unio.StreamEnded`
        where the stream ends before. What came stays to be read in both cases.
        """
        return await self._read(timeout, self._received.read_until, separator, limit)

    async def read_line(self, limit: int = LINE_MAX, *, timeout: float | None = None) -> bytes:
        r"""A line with its end, ``b"\n"``; ``b""`` at the end of the stream, before which a line may have no end.

        Raises :class:`unio.LimitExceeded` where a line has more than *limit* bytes; they stay to be read.
        """
        return await self._read(timeout, self._received.read_line, limit)

    async def peek(self, size: int = 1, *, timeout: float | None = None) -> bytes:
        """The next *size* bytes, which stay to be read; fewer where the stream ends before."""
        return await self._read(timeout, self._received.peek, size)

    def __aiter__(self) -> Self:
        """The lines, as :meth:`read_line` gives them, up to the end of the stream."""
        return self

    async def __anext__(self) -> bytes:
        if line := await self.read_line():
            return line
        raise StopAsyncIteration

    async def _read(self, timeout: float | None, read: Callable[..., Found | None], *arguments: Any) -> Found:
        self._begin_reading()
        try:
            found = read(*arguments)
            if found is None:
                deadline = deadline_of(timeout)
                while found is None:
                    # This is one coroutine and not several for speed.
                    limits = self._begin_receiving(deadline)
                    try:
                        await (self._recv if limits is None else self._recv.within(limits[0]))
                    except OSError as error:
                        raise self._unreceived(error, limits) from None
                    self._received_some()
                    found = read(*arguments)
            return found
        finally:
            self._reader.release()

    def _begin_reading(self) -> None:
        if not self._reader.acquire(blocking=False):
            raise InFlight("another task is reading from this stream, and one at a time can")

    def _begin_receiving(self, deadline: float | None) -> tuple[float, bool] | None:
        """Make the receive ready. Returns what bounds it, as time_for says."""
        if self._read_failure is not None:
            raise again(self._read_failure)
        self._sender.take_turn()
        if self._engine is None:
            space = self._received.space()
            if self._recv.buffer is not space:
                self._recv.buffer = space
        return time_for(deadline, self._idle_timeout)

    def _unreceived(self, error: OSError, limits: tuple[float, bool] | None) -> OSError:
        """What is to be raised for the error of a receive."""
        if limits is not None and is_timed_out(error):
            return idled("sent", limits[0]) if limits[1] else call_timed_out()
        if not isinstance(error, Cancelled):
            self._read_failure = again(error)
        return error

    def _received_some(self) -> None:
        if self._engine is None:
            self._received.received(self._recv.transferred)
        else:
            self._decrypt(self._engine, self._recv.data)
            self._answer(self._engine)

    def _decrypt(self, engine: TlsEngine, records: memoryview | None = None) -> None:
        try:
            if records is None:
                engine.decrypt(self._received)
            else:
                engine.receive(records, self._received)
        except OSError as error:  # it is raised when there is nothing left of what came before
            self._read_failure = again(error)

    def _answer(self, engine: TlsEngine) -> None:
        """Have what TLS itself says to what has come leave."""
        if self._is_shut_down:  # nothing may follow the end
            engine.records()
        elif engine.pending:
            try:
                self._sender.answer(engine)
            except ConnectionAbortedError as error:
                self._read_failure = again(error)

    # Writing

    async def write(self, data: Buffer, *, timeout: float | None = None) -> None:
        """Have these bytes leave, behind what was written before.

        It returns at once, unless more bytes than the stream's *write_limit* wait to be sent by then: it waits until no
        more do. All that is written in one turn of the port leaves together. ``bytes`` are not copied if they are many;
        of other objects a copy is kept, so that they may be changed afterwards.

        Raises what sending raises, :meth:`drain` does so for what was written last. Raises :class:`BrokenPipeError`
        after :meth:`write_end`.
        """
        piece = data if type(data) is bytes else unchanging(data)
        if self._sender.add(piece):
            await self._sender.drain(deadline_of(timeout), None)

    async def drain(self, *, timeout: float | None = None) -> None:
        """Wait until the system has taken all that was written."""
        await self._sender.drain(deadline_of(timeout))

    async def write_end(self, *, timeout: float | None = None) -> None:
        """End the writing side, once all that was written has left. Reading goes on.

        A socket is shut down (:class:`unio.Shutdown`), with TLS behind a close_notify; a pipe, which has one direction
        only, is closed.
        """
        deadline = deadline_of(timeout)
        if self._is_shut_down:
            return
        self._sender.refuse(BrokenPipeError(errno.EPIPE, "the writing side of the stream was ended here"))
        await self._sender.drain(deadline)
        await self._notify_close(deadline)
        self._is_shut_down = True
        if self.handle.kind is Kind.PIPE:
            self.handle.close()
        else:
            await Shutdown(self.handle)

    async def _notify_close(self, deadline: float | None) -> None:
        if self._engine is not None:
            self._engine.shut_down()
            self._sender.add_records(self._engine)
            await self._sender.drain(deadline)

    # TLS

    async def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        suppress_ragged_eofs: bool = False,
        timeout: float | None = HANDSHAKE_SECONDS,
    ) -> None:
        """Go on in TLS: what was written before leaves as it is, and then comes the handshake.

        *server_side* and *server_hostname* are those of :meth:`ssl.SSLContext.wrap_socket`. What has come already and
        was not read belongs to the handshake, so that nothing of it is ever taken for something that came encrypted.
        Let no other task read or write meanwhile.

        The stream ends with the peer's close_notify. A connection that ends without raises :class:`ssl.SSLEOFError`,
        since anybody on the way could have cut it off, unless *suppress_ragged_eofs* says that it may.

        Raises what the handshake does: :class:`ssl.SSLCertVerificationError`, :class:`ssl.SSLError`, errors of the
        connection, and :class:`TimeoutError`. The stream is of no use then but to be aborted.
        """
        from unio.streams.tls import TlsEngine  # noqa: PLC0415 - only who uses TLS needs it

        if self._engine is not None:
            raise RuntimeError("the stream is in TLS already")
        engine = TlsEngine(
            context, server_side=server_side, server_hostname=server_hostname, suppress_ragged_eofs=suppress_ragged_eofs
        )
        self._begin_reading()
        try:
            await self._shake_hands(engine, deadline_of(timeout))
        finally:
            self._reader.release()

    async def _shake_hands(self, engine: TlsEngine, deadline: float | None) -> None:
        self._sender.refuse(InFlight("the stream is in a TLS handshake: write when start_tls has returned"))
        try:
            await self._sender.drain(deadline)
            if begun := self._received.read_some(len(self._received) or 1):
                engine.feed(begun)
            self._recv = Recv(self.handle)
            while not await self._handshake_step(engine, deadline):
                limits = time_for(deadline, self._idle_timeout)
                await (self._recv if limits is None else self._recv.within(limits[0]))
                engine.feed(self._recv.data)
        except BaseException as error:
            self._read_failure = again(error) if isinstance(error, OSError) else closed()
            self._sender.fail(self._read_failure)
            if isinstance(error, OSError) and is_timed_out(error):
                raise TimeoutError(errno.ETIMEDOUT, "the TLS handshake took too long") from None
            raise
        self._engine, self.tls = engine, engine.info
        self._decrypt(engine)  # before others may write, and end, for which OpenSSL reads
        self._sender.encrypt_with(engine)
        self._answer(engine)

    async def _handshake_step(self, engine: TlsEngine, deadline: float | None) -> bool:
        try:
            is_done = engine.handshake()
        except OSError:
            self._sender.add_records(engine)  # by which the peer is told why
            with contextlib.suppress(OSError):
                await self._sender.drain(deadline)
            raise
        self._sender.add_records(engine)
        await self._sender.drain(deadline)
        return is_done

    # The end

    async def close(self, *, timeout: float | None = None, linger: float = 0.0) -> None:
        """Close the stream, and the handle with what is behind it, when all that was written has left.

        A socket that is closed while it holds something that was not read resets the connection, which takes from the
        peer what it has not read yet. Who closes while the peer may still be sending waits with *linger*, so many
        seconds at most, until it has ended its side too; what it sends until then is dropped.

        With TLS the peer gets a close_notify; its own is not waited for. Raises what sending what was written raises.
        The handle is closed in any case.
        """
        try:
            if self.handle.closed:
                return
            deadline = deadline_of(timeout)
            await self._sender.drain(deadline)
            with contextlib.suppress(OSError):  # all that is of interest to the peer has left
                if linger:
                    await self._linger(linger)
                elif not self._is_shut_down:
                    await self._notify_close(deadline)
        finally:
            self.abort()

    async def _linger(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        await self.write_end(timeout=timeout)
        while await self.read_some(timeout=time_left(end)):
            pass

    def abort(self) -> None:
        """Close the stream at once, and the handle with what is behind it. What was not sent yet is dropped.

        What others are doing on the stream ends with :class:`unio.Cancelled`. Any thread may call this.
        """
        self._sender.fail(closed())
        self.handle.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            self.abort()

    def __repr__(self) -> str:
        return f"<unio.Stream {'TLS ' if self.tls else ''}of {self.handle!r}>"


def closed() -> Cancelled:
    return cancelled("the stream was closed here")

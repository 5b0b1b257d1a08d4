"""Readers and writers of streams: asyncio's, for who calls them, and quicker inside.

A task that waits for data goes on as soon as that is there, straight from the transport that has received it: there is
no future and no further turn of the loop in between. Who reads a number of bytes is woken when so many are there, and
not for each piece of them. What is received stays in the pieces in which it came, so that a piece which is read as a
whole is never copied; asyncio's reader copies each byte into one buffer, out of it again, and what is behind it to the
front.
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError, IncompleteReadError, LimitOverrunError
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from contextvars import Context

LIMIT_DEFAULT = 64 * 1024
"""The longest line in bytes, and half of what a reader takes before it has the transport pause; as asyncio has it."""


class Wait:
    """What a task sleeps on that waits for data: as much of a future as it makes use of. A reader has one for all."""

    __slots__ = ("_asyncio_future_blocking", "_cancel_arguments", "_context", "_loop", "_pending", "_wake", "wanted")

    wanted: int
    """How many bytes it takes to wake it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pending = False
        self._wake: Callable[[Any], object] | None = None
        self._context: Context | None = None
        self._cancel_arguments: tuple[object, ...] | None = None
        self._asyncio_future_blocking = False
        self.wanted = 0

    def __await__(self) -> Generator[Wait, None, None]:
        self._pending = True
        self._cancel_arguments = None
        self._asyncio_future_blocking = True  # what a task looks for in a thing that is awaited
        try:
            yield self
        finally:
            self._pending = False

    def wake(self) -> None:
        """Have the task go on: at once, unless another one is at work, in the middle of which it can't."""
        wake, context = self._wake, self._context
        self._pending = False
        if wake is None or context is None:
            return
        self._wake = self._context = None
        if asyncio.current_task(self._loop) is None:
            context.run(wake, self)
        else:
            self._loop.call_soon(wake, self, context=context)

    def wake_later(self) -> None:
        """Have the task go on in a turn of its own."""
        wake, context = self._wake, self._context
        self._pending = False
        if wake is not None:
            self._wake = self._context = None
            self._loop.call_soon(wake, self, context=context)

    # What a task asks of a future

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, wake: Callable[[Any], object], *, context: Context) -> None:
        self._wake, self._context = wake, context

    def cancel(self, msg: object = None) -> bool:
        if not self._pending:
            return False
        self._cancel_arguments = () if msg is None else (msg,)
        self.wake_later()
        return True

    def done(self) -> bool:
        return not self._pending

    def cancelled(self) -> bool:
        return self._cancel_arguments is not None

    def result(self) -> None:
        if self._cancel_arguments is not None:
            raise CancelledError(*self._cancel_arguments)


class StreamReader(asyncio.StreamReader):
    """A reader as asyncio's, with all that that does."""

    _waiter: Wait | None
    _exception: BaseException | None
    _transport: Any

    if TYPE_CHECKING:  # of the base class
        _eof: bool
        _limit: int
        _loop: asyncio.AbstractEventLoop
        _paused: bool

    def __init__(self, limit: int = LIMIT_DEFAULT, loop: asyncio.AbstractEventLoop | None = None) -> None:
        super().__init__(limit, loop)
        self._chunks: deque[bytes | bytearray] = deque()
        self._size = 0  # of what is in them and was not read
        self._start = 0  # so much of the first one was
        self._wait = Wait(self._loop)

    # What comes

    def feed_data(self, data: Any) -> None:
        assert not self._eof, "feed_data after feed_eof"
        if not data:
            return
        self._chunks.append(data if type(data) is bytes else bytes(data))
        self._size += len(self._chunks[-1])
        waiter = self._waiter
        if waiter is not None:
            if self._size < waiter.wanted:
                return
            waiter.wake()
        if self._size > 2 * self._limit and self._transport is not None and not self._paused:
            self._pause()

    def _pause(self) -> None:
        try:
            self._transport.pause_reading()
        except NotImplementedError:  # it can't; and will not be asked again
            self._transport = None
        else:
            self._paused = True

    def _resume(self) -> None:
        self._paused = False
        self._transport.resume_reading()

    def feed_eof(self) -> None:
        self._eof = True
        self._wakeup_waiter()

    def set_exception(self, exc: Exception) -> None:
        self._exception = exc
        self._wakeup_waiter()

    def _wakeup_waiter(self) -> None:
        if self._waiter is not None:
            self._waiter.wake_later()

    def at_eof(self) -> bool:
        return self._eof and not self._size

    async def _wait_for_data(self, func_name: str, wanted: int = 1) -> None:
        if self._waiter is not None:
            raise RuntimeError(f"{func_name}() called while another coroutine is already waiting for incoming data")
        if self._paused:
            self._resume()
        self._waiter = waiter = self._wait
        waiter.wanted = wanted
        try:
            await waiter
        finally:
            self._waiter = None
        if self._exception is not None:
            raise self._exception

    # What is read

    async def read(self, n: int = -1) -> bytes:
        if self._exception is not None:
            raise self._exception
        if n == 0:
            return b""
        if n < 0:
            while not self._eof:
                await self._wait_for_data("read", self._size + 1)
            return self._take(self._size)
        if not self._size and not self._eof:
            await self._wait_for_data("read")
        return self._take(min(n, self._size))

    async def readexactly(self, n: int) -> bytes:
        if n < 0:
            raise ValueError("readexactly size can not be less than zero")
        if self._exception is not None:
            raise self._exception
        while self._size < n:
            if self._eof:
                raise IncompleteReadError(self._take(self._size), n)
            await self._wait_for_data("readexactly", n)
        return self._take(n)

    async def readline(self) -> bytes:
        try:
            return await self.readuntil(b"\n")
        except IncompleteReadError as error:
            return error.partial
        except LimitOverrunError as error:
            first = self._chunks[0]
            if first.startswith(b"\n", self._start + error.consumed):
                self._take(error.consumed + 1)
            else:
                self._take(self._size)
            raise ValueError(error.args[0]) from None

    async def readuntil(self, separator: Any = b"\n") -> bytes:
        separators = [separator] if not isinstance(separator, tuple) else sorted(separator, key=len)
        if not separators:
            raise ValueError("Separator should contain at least one element")
        if not separators[0]:
            raise ValueError("Separator should be at least one-byte string")
        if self._exception is not None:
            raise self._exception
        searched = 0
        while True:
            if self._size - searched >= len(separators[0]):
                found = self._find(separators, searched)
                if found is not None:
                    break
                searched = max(0, self._size + 1 - len(separators[-1]))
                if searched > self._limit:
                    raise LimitOverrunError("Separator is not found, and chunk exceed the limit", searched)
            if self._eof:
                raise IncompleteReadError(self._take(self._size), None)
            await self._wait_for_data("readuntil", self._size + 1)
        start, end = found
        if start > self._limit:
            raise LimitOverrunError("Separator is found, but chunk is longer than limit", start)
        return self._take(end)

    def _find(self, separators: Sequence[bytes], searched: int) -> tuple[int, int] | None:
        """Where the first of the separators to end begins and ends, counted from what is to be read next."""
        if len(self._chunks) > 1:
            self._join()
        first, start = self._chunks[0], self._start
        found = None
        for separator in separators:
            at = first.find(separator, start + searched)
            if at >= 0 and (found is None or at + len(separator) - start < found[1]):
                found = at - start, at + len(separator) - start
        return found

    def _join(self) -> None:
        """Have all that was not read in one piece: memory that grows, so that a line may come byte by byte."""
        first = self._chunks.popleft()
        if not isinstance(first, bytearray) or self._start > len(first) // 2:
            first = bytearray(memoryview(first)[self._start :])
            self._start = 0
        for chunk in self._chunks:
            first += chunk
        self._chunks.clear()
        self._chunks.append(first)

    def _take(self, size: int) -> bytes:
        """Read so many of the bytes that are there."""
        if not size:
            return b""
        first, start = self._chunks[0], self._start
        end = start + size
        if end < len(first):
            self._start = end
            taken: Any = first[start:end]
        elif end == len(first):
            self._chunks.popleft()
            self._start = 0
            taken = first[start:] if start else first
        else:
            taken = self._take_pieces(size)
        self._size -= size
        if self._paused and self._size <= self._limit:
            self._resume()
        return taken if type(taken) is bytes else bytes(taken)

    def _take_pieces(self, size: int) -> bytes:
        pieces: list[Any] = []
        while size:
            chunk, start = self._chunks[0], self._start
            if start or size < len(chunk):
                piece: Any = memoryview(chunk)[start : start + size]
            else:
                piece = chunk
            size -= len(piece)
            pieces.append(piece)
            if start + len(piece) == len(chunk):
                self._chunks.popleft()
                self._start = 0
            else:
                self._start = start + len(piece)
        return b"".join(pieces)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]} {self._size} bytes>" if self._size else super().__repr__()


class StreamWriter(asyncio.StreamWriter):
    """A writer as asyncio's, with all that that does."""

    if TYPE_CHECKING:  # of the base class
        _protocol: Any
        _reader: Any
        _transport: Any

    async def drain(self) -> None:
        reader, protocol = self._reader, self._protocol
        if reader is not None and reader._exception is not None:
            raise reader._exception
        if self._transport.is_closing():
            await asyncio.sleep(0)  # for what has closed it to be heard of
        if protocol._paused or protocol._connection_lost:
            await protocol._drain_helper()


def _with_our_writer(handler: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """What is called with the writer that asyncio's protocol has made, and calls the handler with one of ours."""

    def connected(reader: Any, writer: Any) -> Any:
        writer.__class__ = StreamWriter
        return handler(reader, writer)

    return connected


async def open_connection(
    host: str | None = None, port: int | str | None = None, *, limit: int = LIMIT_DEFAULT, **options: Any
) -> tuple[StreamReader, StreamWriter]:
    """Connect, and return a reader and a writer: :func:`asyncio.open_connection`, whose arguments and errors it has."""
    loop: Any = asyncio.get_running_loop()
    reader = StreamReader(limit, loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.create_connection(lambda: protocol, host, port, **options)
    return reader, StreamWriter(transport, protocol, reader, loop)


async def start_server(
    client_connected_cb: Callable[[StreamReader, StreamWriter], Any],
    host: Any = None,
    port: int | str | None = None,
    *,
    limit: int = LIMIT_DEFAULT,
    **options: Any,
) -> asyncio.Server:
    """Serve, calling that function for each client: :func:`asyncio.start_server`, whose arguments and errors it has."""
    loop: Any = asyncio.get_running_loop()
    handler = _with_our_writer(client_connected_cb)

    def factory() -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(StreamReader(limit, loop), handler, loop=loop)

    server: asyncio.Server = await loop.create_server(factory, host, port, **options)
    return server

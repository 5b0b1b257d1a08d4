"""Files that tasks read and write: through the port, so that no disk holds up the loop.

What is read in order is read ahead of the program by one piece, and what is written leaves behind it, in pieces and
several at once; both within bounds. What a task has been given, or has given away, is done when its await is over: one
that is cancelled has moved nothing, and what was written before goes its way.
"""

from __future__ import annotations

import asyncio
import codecs
import io
import os
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import unio.files
from unio.operations import Flush, Read, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from types import TracebackType

    from typing_extensions import Buffer

    from unio.asyncio.loop import EventLoop

PIECE = 256 * 1024
"""How many bytes are read ahead, and how many are written at once."""

BEHIND_MAX = 4
"""How many pieces may be on their way to the file."""

File = TypeVar("File", bound="BinaryFile | TextFile")


class BinaryFile:
    """A file of bytes; :func:`open` makes it. Its methods are for the tasks of one loop, which take turns in them.

    What the system says of the reading and writing is raised as :class:`OSError`; for what was written behind the
    program's back, by the next call that writes, seeks, flushes or closes.
    """

    def __init__(self, loop: EventLoop, file: io.FileIO) -> None:
        self._loop = loop
        self._file = file
        self._handle = loop.join(file)
        self._turn = asyncio.Lock()
        self._appends = "a" in file.mode
        self._position = self._length() if self._appends else 0
        self._buffer = b""  # what was read ahead
        self._begin = 0  # where in the file that begins
        self._ahead: asyncio.Task[Read] | None = None  # the read of what comes after that
        self._pending: list[bytes] = []  # what was written and not submitted; it ends at the position
        self._size = 0  # of that
        self._behind: list[asyncio.Task[Write]] = []
        self._closed = False

    # Reading

    async def read(self, size: int = -1) -> bytes:
        """Read *size* bytes; fewer where the file ends before, and all up to its end without a size."""
        async with self._turn:
            await self._settle()
            if size < 0:
                size = max(0, self._length() - self._position)
            data = bytearray(size)
            with memoryview(data) as view:
                count = await self._read_into(view)
            del data[count:]
            return bytes(data)

    async def readinto(self, buffer: Buffer) -> int:
        """Read into a buffer; fewer bytes than it takes where the file ends before. Returns how many."""
        async with self._turn:
            await self._settle()
            with memoryview(buffer) as given, given.cast("B") as view:
                return await self._read_into(view)

    async def _read_into(self, view: memoryview) -> int:
        """Fill the view from the position on, and move that."""
        count = self._take(view)
        while count < len(view) and await self._fetch(self._position + count):
            count += self._copy(view[count:], self._position + count)
        self._position += count
        return count

    def _take(self, view: memoryview) -> int:
        return self._copy(view, self._position)

    def _copy(self, view: memoryview, position: int) -> int:
        """Copy what was read ahead of what is at this position. Returns how much that was."""
        start = position - self._begin
        if not 0 <= start < len(self._buffer):
            return 0
        piece = memoryview(self._buffer)[start : start + len(view)]
        view[: len(piece)] = piece
        return len(piece)

    async def _fetch(self, position: int) -> bool:
        """Have the piece at this position in the buffer, and the next on its way. Returns whether there is any."""
        ahead = self._ahead
        if ahead is None or self._begin + len(self._buffer) != position:
            await self._drop_ahead()
            self._begin, self._buffer = position, b""
            ahead = self._ahead = self._start_read(position)
        read = await asyncio.shield(ahead)  # who is cancelled leaves it to the next
        self._ahead = None
        buffer: Any = read.buffer
        self._begin, self._buffer = position, bytes(memoryview(buffer)[: read.transferred])
        if len(self._buffer) == PIECE:
            self._ahead = self._start_read(position + PIECE)
        return bool(self._buffer)

    def _start_read(self, position: int) -> asyncio.Task[Read]:
        return self._start(self._loop.complete(Read(self._handle, bytearray(PIECE), position)))

    def _start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.Task(coroutine, loop=self._loop)
        task.add_done_callback(_heard)
        return task

    async def _drop_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        self._buffer = b""
        if ahead is not None:
            ahead.cancel()
            await asyncio.wait([ahead])

    async def readline(self, limit: int = -1) -> bytes:
        r"""Read a line with its end, ``b"\n"``, which the last may lack; of *limit* bytes at most, if that is given.

        ``b""`` is the end of the file.
        """
        async with self._turn:
            await self._settle()
            pieces: list[bytes] = []
            position, found = self._position, False
            while not found and limit:
                start = position - self._begin
                if not 0 <= start < len(self._buffer):
                    if not await self._fetch(position):
                        break
                    start = 0
                stop = len(self._buffer) if limit < 0 else min(len(self._buffer), start + limit)
                end = self._buffer.find(b"\n", start, stop) + 1
                found = end > 0
                pieces.append(self._buffer[start : end or stop])
                position += len(pieces[-1])
                limit = limit if limit < 0 else limit - len(pieces[-1])
            self._position = position
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    # Writing

    async def write(self, data: Buffer) -> int:
        """Write all of the data, which may be changed at once. Returns how many bytes that are.

        They leave for the file in time: :meth:`flush` and :meth:`close` wait for that. This waits only where much is on
        its way already; a task that is cancelled meanwhile has written the data all the same.
        """
        async with self._turn:
            self._must_be_open()
            if not self._pending:
                await self._drop_ahead()
            copied = bytes(data)
            self._pending.append(copied)
            self._size += len(copied)
            self._position += len(copied)
            if self._size >= PIECE:
                await self._leave()
            return len(copied)

    async def _leave(self) -> None:
        """Have what is pending on its way to the file."""
        while len(self._behind) >= (1 if self._appends else BEHIND_MAX):  # appends have no offset but their order
            await self._end_first()
        if not self._pending:
            return
        data = b"".join(self._pending)
        self._pending.clear()
        self._size = 0
        write = Write(self._handle, data, 0 if self._appends else self._position - len(data))
        self._behind.append(self._start(self._loop.complete(write)))

    async def _end_first(self) -> None:
        first = self._behind[0]
        await asyncio.wait([first])
        self._behind.remove(first)
        first.result()

    async def _settle(self) -> None:
        """Have all that was written in the file."""
        self._must_be_open()
        if self._pending:
            await self._leave()
        while self._behind:
            await self._end_first()

    async def flush(self) -> None:
        """Have all that was written handed to the system, which others that read the file see then."""
        async with self._turn:
            await self._settle()

    async def sync(self) -> None:
        """Have all that was written on the disk: what :func:`os.fsync` does."""
        async with self._turn:
            await self._settle()
            await self._loop.complete(Flush(self._handle))

    async def truncate(self, size: int | None = None) -> int:
        """Make the file so many bytes long, or as long as the position is. Returns that."""
        async with self._turn:
            await self._settle()
            await self._drop_ahead()
            size = self._position if size is None else size
            return await self._loop.run_in_executor(None, self._file.truncate, size)

    # The position

    def tell(self) -> int:
        """Where in the file the next byte is read or written."""
        self._must_be_open()
        return self._position

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go on elsewhere, counted from the start, the position or the end, as for any file. Returns where."""
        async with self._turn:
            await self._settle()
            base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
            if base is None:
                base = self._length()
            if base + offset < 0:
                raise ValueError(f"there is nothing before the start of a file, at {base + offset}")
            self._position = base + offset
            return self._position

    def _length(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    # The end

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def fileno(self) -> int:
        """The number of the file: for :class:`unio.SendFile`, for instance. Flush before."""
        return self._file.fileno()

    def _must_be_open(self) -> None:
        if self._closed:
            raise ValueError("I/O operation on closed file")

    async def close(self) -> None:
        """Have all that was written handed to the system, and close the file; it is closed whatever is raised."""
        async with self._turn:
            if self._closed:
                return
            try:
                await self._settle()
                await self._drop_ahead()
            finally:
                self._closed = True
                self._handle.close()
                self._loop.part(self._handle)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self, warn: Any = warnings.warn) -> None:
        if not getattr(self, "_closed", True):
            warn(f"unclosed file {self!r}", ResourceWarning, source=self)
            self._handle.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self._closed else self._file.name!r}>"


def _heard(task: asyncio.Task[Any]) -> None:
    """Take note of what became of a task, as who cares for its error may never ask."""
    if not task.cancelled():
        task.exception()


class TextFile:
    """A file of text; :func:`open` makes it. It reads lines, pieces and all, and writes, in one encoding."""

    def __init__(
        self, file: BinaryFile, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> None:
        if newline not in (None, "", "\n", "\r", "\r\n"):
            raise ValueError(f"illegal newline value: {newline!r}")
        self._file = file
        self._encoding = "utf-8" if encoding is None else codecs.lookup(encoding).name
        self._errors = errors or "strict"
        self._newline = newline
        self._text = ""  # what was decoded and not read
        self._begin_again()

    def _begin_again(self) -> None:
        decoder = codecs.getincrementaldecoder(self._encoding)(self._errors)
        self._decoder: Any = decoder
        if self._newline is None or not self._newline:
            self._decoder = io.IncrementalNewlineDecoder(decoder, translate=self._newline is None)
        self._encoder = codecs.getincrementalencoder(self._encoding)(self._errors)
        if self._file.tell():  # in the middle of a file, there is no mark of the byte order to be written
            self._encoder.setstate(0)
        self._text, self._ended = "", False

    async def _decode_more(self) -> bool:
        """Have more text. Returns whether there is any more in the file."""
        if self._ended:
            return False
        data = await self._file.read(PIECE)
        self._ended = not data
        self._text += self._decoder.decode(data, not data)
        return not self._ended

    async def read(self, size: int = -1) -> str:
        """Read *size* characters; fewer where the file ends before, and all up to its end without a size."""
        while (size < 0 or len(self._text) < size) and await self._decode_more():
            pass
        size = len(self._text) if size < 0 else size
        taken, self._text = self._text[:size], self._text[size:]
        return taken

    async def readline(self) -> str:
        """Read a line with its end, which the last one may lack; the empty text is the end of the file."""
        while not (end := self._line_end()) and await self._decode_more():
            pass
        end = end or len(self._text)
        taken, self._text = self._text[:end], self._text[end:]
        return taken

    def _line_end(self) -> int:
        """Where the first line of the text ends; 0 if that is not there yet."""
        if self._newline:
            at = self._text.find(self._newline)
            return at + len(self._newline) if at >= 0 else 0
        ends = [at for at in (self._text.find("\n"), self._text.find("\r")) if at >= 0]
        if self._newline is None or not ends:
            return self._text.find("\n") + 1
        at = min(ends)
        return at + (2 if self._text.startswith("\r\n", at) else 1)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def write(self, text: str) -> int:
        """Write the text, as :meth:`BinaryFile.write` does. Returns how many characters that are.

        Where text was read and not given yet, it goes to where the file was read up to, as with any other file.
        """
        end = os.linesep if self._newline is None else self._newline
        given = text.replace("\n", end) if end and end != "\n" else text
        await self._file.write(self._encoder.encode(given))
        return len(text)

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to the start, ``seek(0)``, or to the end, ``seek(0, os.SEEK_END)``: text has no other places."""
        if offset or whence == os.SEEK_CUR:
            raise io.UnsupportedOperation("a file of text can go to its start and to its end only")
        position = await self._file.seek(offset, whence)
        self._begin_again()
        return position

    async def flush(self) -> None:
        """As :meth:`BinaryFile.flush`."""
        await self._file.flush()

    async def sync(self) -> None:
        """As :meth:`BinaryFile.sync`."""
        await self._file.sync()

    async def truncate(self, size: int) -> int:
        """Make the file so many bytes long. Returns that."""
        return await self._file.truncate(size)

    async def close(self) -> None:
        """As :meth:`BinaryFile.close`."""
        await self._file.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._file.closed

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class Opening(Generic[File]):
    """A file that is about to be opened: ``await`` it, or ``async with`` it."""

    def __init__(self, opens: Callable[[], Coroutine[Any, Any, File]]) -> None:
        self._opens = opens
        self._file: File | None = None

    def __await__(self) -> Generator[Any, None, File]:
        return self._opens().__await__()

    async def __aenter__(self) -> File:
        self._file = await self._opens()
        return self._file

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._file is not None
        await self._file.close()


def open(  # noqa: A001 - it is what it does, as in unio
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    mode: str = "r",
    *,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> Opening[Any]:
    """Open a file for the tasks of the loop that runs, which is one of this package's.

    ::

        async with unio.asyncio.open("log.txt") as lines:
            async for line in lines:
                ...

        file = await unio.asyncio.open("data", "r+b")

    *mode* and the rest are those of the built-in ``open``. With a ``b`` it is a :class:`BinaryFile`, else a
    :class:`TextFile`, in UTF-8 unless told otherwise. A thread opens it, as no system can do that without waiting.

    Raises :class:`ValueError` for a wrong mode, and from the ``await`` what opening a file does; and
    :class:`RuntimeError` where another kind of loop runs.
    """
    binary = "b" in mode
    kind = mode.replace("b", "", 1) if binary else mode.replace("t", "", 1)
    if kind.replace("+", "", 1) not in ("r", "w", "x", "a"):
        raise ValueError(f"invalid mode: {mode!r}")
    if binary and (encoding, errors, newline) != (None, None, None):
        raise ValueError("binary mode takes no encoding, errors and newline")
    return Opening(partial(_open, path, f"{kind[0]}b{kind[1:]}", None if binary else (encoding, errors, newline)))


async def _open(path: Any, mode: str, text: tuple[str | None, str | None, str | None] | None) -> Any:
    from unio.asyncio.loop import EventLoop  # noqa: PLC0415 - which may import this

    loop = asyncio.get_running_loop()
    if not isinstance(loop, EventLoop):
        raise RuntimeError(f"unio.asyncio.open needs a loop of unio's, and {loop!r} is none")  # noqa: TRY004 - no argument
    opening = loop.run_in_executor(None, unio.files.open, path, mode)
    try:
        opened = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise
    file = BinaryFile(loop, opened)
    try:
        return file if text is None else TextFile(file, *text)
    except BaseException:
        await file.close()
        raise


def _close_unwanted(opening: asyncio.Future[io.FileIO]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()

"""Transports of one direction: a pipe, a socket that serves as one, what a child writes and reads.

One that reads has one receive in flight. What is written is sent at once, in the order in which it was written, as far
as a few sends go; what comes while all of them are in flight leaves together. One that writes also waits for the reader
to go away.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import sys
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

from unio.asyncio.base_transport import BaseTransport
from unio.asyncio.turns import Turns
from unio.errors import anew
from unio.handle import Kind
from unio.operations import Poll, Readiness, Recv, Send

if TYPE_CHECKING:
    from unio.completion import Completion
SENDS_MAX = 4
"""How many sends are in flight at most. A program may write, and read the other end itself before the loop's next turn.
"""


class Pipes(Turns):
    """A loop that makes transports of pipes."""

    def _make_read_pipe_transport(
        self,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> ReadPipe:
        return ReadPipe(self, _checked(pipe), protocol, waiter, extra)

    def _make_write_pipe_transport(
        self,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> WritePipe:
        return WritePipe(self, _checked(pipe), protocol, waiter, extra)


def _checked(pipe: Any) -> Any:
    """The pipe, unless it is a file, which has no end that somebody waits for."""
    if sys.platform != "win32" and stat.S_ISREG(os.fstat(pipe.fileno()).st_mode):
        raise ValueError("Pipe transport is for pipes, sockets and character devices only.")
    return pipe


class ReadPipe(BaseTransport, asyncio.ReadTransport):
    """The transport of what is read from a pipe."""

    def __init__(
        self,
        loop: Turns,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(loop, pipe, protocol, waiter, extra)
        self._extra["pipe"] = pipe
        self._recv = Recv(self._handle, state=self._received)
        self._receiving = False  # until its completion has been delivered, which is later than that it was taken
        self._paused = False
        self._held: bytes | None = None  # what came while reading was paused

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def pause_reading(self) -> None:
        if not self._closing:
            self._paused = True

    def resume_reading(self) -> None:
        if self._closing or not self._paused:
            return
        self._paused = False
        if self._held is not None:
            self._loop.call_soon(self._deliver_held, context=self._context)
        else:
            self._start()

    def _start(self) -> None:
        if self._paused or self._receiving or self._held is not None:
            return
        try:
            self._loop.port.submit(self._recv)
            self._receiving = True
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing more can come
            self._fail(error, "Fatal read error")

    def _received(self, completion: Completion) -> None:
        self._receiving = False
        if self._closing:
            return
        if completion.error is not None:
            self._fail(anew(completion.error), "Fatal read error")
            return
        self._held = bytes(self._recv.data)
        if not self._paused:
            self._context.run(self._deliver_held)

    def _deliver_held(self) -> None:
        if self._held is None or self._paused or self._closing:
            return
        data, self._held = self._held, None
        try:
            if data:
                self._protocol.data_received(data)
            else:
                self._closing = True
                self._protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - the protocol's
            self._fail(error, "Fatal error: the protocol failed")
            return
        if not data:
            self._end(None)
        elif not self._closing:
            self._start()


class WritePipe(BaseTransport, asyncio.WriteTransport):
    """The transport of what is written to a pipe."""

    def __init__(
        self,
        loop: Turns,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(loop, pipe, protocol, waiter, extra)
        self._extra["pipe"] = pipe
        self._written: list[bytes] = []  # and not submitted
        self._idle: list[Send] = []  # sends that are in flight no more
        self._sending = 0  # in flight

    def _start(self) -> None:
        """Wait for the reader to go away."""
        try:
            if sys.platform == "win32" and self._handle.kind is Kind.PIPE:
                self._loop.port.submit(Recv(self._handle, bytearray(1), state=self._reader_left))
            else:
                self._loop.port.submit(Poll(self._handle, Readiness.READABLE, state=self._reader_left))
        except Exception as error:  # noqa: BLE001 - whatever it is, the pipe can't be used
            self._fail(error, "Fatal error")

    def _reader_left(self, completion: Completion) -> None:
        error = completion.error
        if self._lost or (error is not None and error.errno == errno.EBADF):  # on Windows, of an end that only writes
            return
        if self._loop.get_debug():
            logger.info("%r was closed by peer", self)
        self._end(BrokenPipeError() if self._size else None)

    def write(self, data: Any) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if not data:
            return
        if self._lost or self._closing:
            self._write_in_vain()
            return
        data = data if type(data) is bytes else bytes(data)
        self._size += len(data)
        if self._sending < SENDS_MAX:
            self._submit(data)
        else:
            self._written.append(data)
        self._maybe_pause_protocol()

    def _submit(self, data: bytes) -> None:
        try:
            send = self._idle.pop() if self._idle else Send(self._handle, b"", state=self._sent)
            send.buffer = data
            self._loop.port.submit(send)
            self._sending += 1
            self._loop.port.start_gathered()
        except Exception as error:  # noqa: BLE001 - whatever it is, the pipe can't be used
            self._fail(error, "Fatal write error")

    def _sent(self, completion: Completion) -> None:
        self._sending -= 1
        if self._lost:
            return
        if completion.error is not None:
            self._fail(anew(completion.error), "Fatal write error")
            return
        self._size -= completion.transferred
        send = completion.operation
        send.buffer = b""
        self._idle.append(send)
        if self._written:
            written, self._written = self._written, []
            self._submit(b"".join(written))
        self._context.run(self._maybe_resume_protocol)
        if self._closing and not self._size:
            self._end(None)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.close()

    def _end(self, error: BaseException | None) -> None:
        super()._end(error)
        self._written.clear()

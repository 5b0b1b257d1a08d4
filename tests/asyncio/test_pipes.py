"""Transports of pipes: what is read, what is written, and who hears of the other end's going."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from typing import Any

import pytest
import support
from awaits import settled, until

import unio
import unio.asyncio

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")


class Reader(asyncio.Protocol):
    """A protocol that notes what it reads."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.told: list[str] = []
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.told.append("end")
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        self.told.append("lost")
        self.lost.set_result(exc)


class Writer(asyncio.BaseProtocol):
    """A protocol that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


async def reading(pipe: Any, factory: Any = Reader) -> tuple[asyncio.ReadTransport, Reader]:
    return await asyncio.get_running_loop().connect_read_pipe(factory, pipe)


async def writing(pipe: Any) -> tuple[asyncio.WriteTransport, Writer]:
    return await asyncio.get_running_loop().connect_write_pipe(Writer, pipe)


@pytest.fixture
def pipe(resources) -> tuple[Any, ...]:
    """The two ends of a pipe."""
    return tuple(map(resources.enter_context, unio.pipe()))


def test_what_is_written_is_read_up_to_the_end(run, pipe) -> None:
    async def main() -> None:
        reader, protocol = await reading(pipe[0])
        writer, its = await writing(pipe[1])
        assert (reader.get_extra_info("pipe"), writer.get_extra_info("pipe")) == pipe
        data = bytes(range(256)) * 4096
        writer.write(data[:10])
        writer.write(bytearray(data[10:]))
        writer.close()
        assert writer.is_closing()
        assert await its.lost is None
        assert await protocol.lost is None
        assert protocol.data == data
        assert protocol.told == ["made", "end", "lost"]
        assert pipe[0].closed
        assert pipe[1].closed

    run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="an end that is overlapped there can only be read through a port")
def test_a_write_has_reached_the_pipe_when_it_returns(run, pipe) -> None:
    async def main() -> None:
        writer, _ = await writing(pipe[1])
        for part in (b"one", b"two", b"three"):
            writer.write(part)
            assert support.Background(pipe[0].read, 5).result() == part
        writer.close()

    run(main())


def test_a_reader_that_pauses_is_told_nothing_and_loses_nothing(run, pipe) -> None:
    async def main() -> None:
        reader, protocol = await reading(pipe[0])
        reader.pause_reading()
        reader.pause_reading()
        assert not reader.is_reading()
        pipe[1].write(b"hello")
        await settled()
        assert protocol.data == b""
        reader.resume_reading()
        await until(lambda: protocol.data == b"hello")
        reader.pause_reading()
        pipe[1].close()
        await settled()
        assert protocol.told == ["made"]
        reader.resume_reading()
        reader.resume_reading()
        assert await protocol.lost is None

    run(main())


def test_a_reader_may_pause_and_go_on_within_what_it_is_told(run, pipe) -> None:
    class Careful(Reader):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            transport.pause_reading()
            loop.call_soon(transport.resume_reading)

    async def main() -> None:
        nonlocal transport, loop
        loop = asyncio.get_running_loop()
        transport, protocol = await reading(pipe[0], Careful)
        writer, _ = await writing(pipe[1])
        writer.write(bytes(300_000))
        writer.close()
        await protocol.lost
        assert protocol.data == bytes(300_000)

    transport: Any = None
    loop: Any = None
    run(main())


def test_a_writer_pauses_its_protocol_while_nobody_reads(run, pipe) -> None:
    async def main() -> None:
        writer, protocol = await writing(pipe[1])
        data = os.urandom(1 << 20)
        writer.write(data[:700_000])
        assert protocol.told == ["pause"]
        writer.write(data[700_000:])
        reader, its = await reading(pipe[0])
        await until(lambda: len(its.data) == len(data))
        assert its.data == data
        await until(lambda: protocol.told == ["pause", "resume"])
        assert writer.get_write_buffer_size() == 0
        writer.close()
        reader.close()
        assert await protocol.lost is None

    run(main())


def test_writes_that_wait_leave_in_their_order(run, pipe) -> None:
    async def main() -> None:
        writer, _ = await writing(pipe[1])
        parts = [b"%d" % number * 1000 for number in range(300)]
        for part in parts:
            writer.write(part)
        writer.close()
        _, its = await reading(pipe[0])
        await its.lost
        assert its.data == b"".join(parts)

    run(main())


@pytest.mark.parametrize(
    "is_writing",
    [
        pytest.param(
            False,
            marks=pytest.mark.skipif(sys.platform == "win32", reason="an end that only writes hears as it does"),
            id="idle",
        ),
        pytest.param(True, id="writing"),
    ],
)
def test_a_writer_hears_that_its_reader_has_gone(run, pipe, is_writing: bool) -> None:
    async def main() -> None:
        writer, protocol = await writing(pipe[1])
        if is_writing:
            writer.write(bytes(1 << 20))
        pipe[0].close()
        error = await protocol.lost
        assert isinstance(error, BrokenPipeError) if is_writing else error is None
        for _ in range(10):
            writer.write(b"in vain")
        assert writer.get_write_buffer_size() == 0

    run(main())


def test_an_abort_ends_at_once_and_drops_what_was_not_written(run, pipe) -> None:
    async def main() -> None:
        writer, protocol = await writing(pipe[1])
        assert writer.can_write_eof()
        writer.write(bytes(1 << 20))
        writer.abort()
        writer.abort()
        assert await protocol.lost is None
        assert pipe[1].closed
        assert "closed" in repr(writer)

    run(main())


def test_the_end_that_was_written_is_the_end_that_is_read(run, pipe) -> None:
    async def main() -> None:
        writer, _ = await writing(pipe[1])
        _, its = await reading(pipe[0])
        writer.write(b"last")
        writer.write_eof()
        writer.write(b"too late")
        await its.lost
        assert its.data == b"last"

    run(main())


def test_a_reader_that_closes_reads_nothing_more(run, pipe) -> None:
    async def main() -> None:
        reader, protocol = await reading(pipe[0])
        reader.close()
        reader.close()
        reader.resume_reading()
        assert await protocol.lost is None
        assert protocol.told == ["made", "lost"]
        assert pipe[0].closed

    run(main())


def test_a_protocol_that_raises_is_reported_and_its_pipe_closed(run, pipe) -> None:
    class Fails(Reader):
        def data_received(self, data: bytes) -> None:
            raise ArithmeticError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reported: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: reported.append(context))
        reader, protocol = await reading(pipe[0], Fails)
        pipe[1].write(b"x")
        assert isinstance(await protocol.lost, ArithmeticError)
        assert [each["transport"] for each in reported] == [reader]

    run(main())


@posix
def test_a_socket_serves_as_a_pipe(run, resources) -> None:
    near, far = map(resources.enter_context, socket.socketpair())

    async def main() -> None:
        _, protocol = await reading(near)
        writer, its = await writing(far)
        writer.write(b"hello")
        await until(lambda: protocol.data == b"hello")
        writer.close()
        await its.lost
        assert await protocol.lost is None

    run(main())


@posix
def test_buffered_and_text_files_of_pipes_serve_as_well(run, resources) -> None:
    reader, writer = os.pipe()
    first = resources.enter_context(os.fdopen(reader, "rb", 1024))
    second = resources.enter_context(os.fdopen(writer, "w", 1024, encoding="utf-8"))

    async def main() -> None:
        _, protocol = await reading(first)
        transport, _ = await writing(second)
        transport.write(b"hello")
        transport.close()
        await protocol.lost
        assert protocol.data == b"hello"
        assert first.closed
        assert second.closed

    run(main())


@posix
def test_a_named_pipe_is_a_pipe(run, resources, tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read = resources.enter_context(open(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK), "rb", 0))
    write = resources.enter_context(open(tmp_path / "pipe", "wb", 0))

    async def main() -> None:
        _, protocol = await reading(read)
        transport, _ = await writing(write)
        transport.write(b"hello")
        transport.close()
        await protocol.lost
        assert protocol.data == b"hello"

    run(main())


@posix
def test_a_file_is_no_pipe(run, tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"content")

    async def main() -> None:
        with (tmp_path / "file").open("rb") as file:
            for connect in (reading, writing):
                with pytest.raises(ValueError, match="Pipe transport is for"):
                    await connect(file)

    run(main())


def test_streams_go_through_pipes(run, pipe) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe[0])
        thread = threading.Thread(target=lambda: pipe[1].write(b"one\ntwo\n"))
        thread.start()
        assert [await reader.readline() for _ in range(2)] == [b"one\n", b"two\n"]
        thread.join()
        transport.close()

    run(main())


def test_pipes_that_are_open_when_the_loop_ends_say_so_and_are_closed(backend, monkeypatch, pipe) -> None:
    monkeypatch.setenv(unio.backends.VARIABLE, backend)
    loop = unio.asyncio.new_event_loop()

    async def main() -> list[Any]:
        return [(await reading(pipe[0]))[0], (await writing(pipe[1]))[0]]

    transports = loop.run_until_complete(main())
    loop.close()
    for transport in transports:
        assert "open" in repr(transport)
        transport.close()
    assert pipe[0].closed
    assert pipe[1].closed

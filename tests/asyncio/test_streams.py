"""Readers and writers: what asyncio's do, and that a cancel loses nothing, whatever the pieces that a peer sends."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from certificates import client_context, server_context
from encrypted import until

import unio.asyncio

MIB = 1 << 20


@contextlib.asynccontextmanager
async def connection(limit: int = 65536, **options: Any) -> AsyncIterator[tuple[Any, Any, Any, Any]]:
    """A client's reader and writer, and the server's."""
    met = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def serve(reader: unio.asyncio.StreamReader, writer: unio.asyncio.StreamWriter) -> None:
        met.set_result((reader, writer))
        await done.wait()
        writer.close()

    async with await unio.asyncio.start_server(serve, "127.0.0.1", 0, limit=limit) as server:
        reader, writer = await unio.asyncio.open_connection(*server.sockets[0].getsockname(), limit=limit)
        yield reader, writer, *(await met)
        writer.close()
        done.set()


def fed(*pieces: bytes, limit: int = 65536) -> unio.asyncio.StreamReader:
    """A reader that these pieces have come to, and the end."""
    reader = unio.asyncio.StreamReader(limit, asyncio.get_running_loop())
    for piece in pieces:
        reader.feed_data(piece)
    reader.feed_eof()
    return reader


def test_they_are_asyncios_to_whom_it_matters(run) -> None:
    async def main() -> None:
        async with connection() as (reader, writer, there, back):
            for each in (reader, there):
                assert isinstance(each, asyncio.StreamReader)
            for each in (writer, back):
                assert isinstance(each, asyncio.StreamWriter)
                assert isinstance(each, unio.asyncio.StreamWriter)
                assert each.get_extra_info("socket") is not None

    run(main())


@pytest.mark.parametrize("size", [1, 1000, 65536, 3 * MIB])
def test_bytes_come_back_as_they_went(run, size: int) -> None:
    message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

    async def main() -> None:
        async with connection() as (reader, writer, there, back):

            async def echo() -> None:
                back.write(await there.readexactly(size))
                await back.drain()

            echoing = asyncio.ensure_future(echo())
            for _ in range(2):
                writer.write(message)
                await writer.drain()
                assert await reader.readexactly(size) == message
                await echoing
                echoing = asyncio.ensure_future(echo())
            echoing.cancel()

    run(main())


PIECES = [
    (b"one\ntwo\nthree",),
    (b"one\n", b"two\n", b"three"),
    (b"on", b"e", b"\n", b"t", b"wo\nth", b"ree"),
    tuple(bytes([byte]) for byte in b"one\ntwo\nthree"),
]


@pytest.mark.parametrize("pieces", PIECES, ids=len)
def test_all_ways_to_read_give_the_same_whatever_the_pieces(run, pieces: tuple[bytes, ...]) -> None:
    async def main() -> None:
        assert await fed(*pieces).read() == b"one\ntwo\nthree"
        lines = fed(*pieces)
        assert [line async for line in lines] == [b"one\n", b"two\n", b"three"]
        assert lines.at_eof()
        assert await lines.read(5) == b""
        assert await lines.readline() == b""
        exact = fed(*pieces)
        assert [await exact.readexactly(size) for size in (0, 1, 4, 8)] == [b"", b"o", b"ne\nt", b"wo\nthree"]
        mixed = fed(*pieces)
        assert await mixed.readuntil(b"o\n") == b"one\ntwo\n"
        assert not mixed.at_eof()
        with pytest.raises(asyncio.IncompleteReadError) as raised:
            await mixed.readuntil(b"zz")
        assert (raised.value.partial, raised.value.expected) == (b"three", None)
        some = fed(*pieces)
        data = b""
        while part := await some.read(3):
            assert len(part) <= 3
            data += part
        assert data == b"one\ntwo\nthree"

    run(main())


def test_an_end_that_comes_too_soon_gives_what_there_was(run) -> None:
    async def main() -> None:
        reader = fed(b"ab", b"c")
        with pytest.raises(asyncio.IncompleteReadError) as raised:
            await reader.readexactly(4)
        assert (raised.value.partial, raised.value.expected) == (b"abc", 4)
        assert reader.at_eof()

    run(main())


@pytest.mark.parametrize("pieces", [(b"x" * 20 + b"\n!",), (b"x" * 10, b"x" * 10, b"\n!")], ids=["one", "several"])
def test_a_line_that_is_too_long_is_refused(run, pieces: tuple[bytes, ...]) -> None:
    async def main() -> None:
        reader = fed(*pieces, limit=10)
        with pytest.raises(asyncio.LimitOverrunError, match="Separator is found") as raised:
            await reader.readuntil()
        assert raised.value.consumed == 20
        assert await reader.readexactly(20) == b"x" * 20  # it stays to be read
        with pytest.raises(ValueError, match="Separator is found"):
            await fed(*pieces, limit=10).readline()
        without = fed(b"x" * 20, limit=10)
        with pytest.raises(asyncio.LimitOverrunError, match="not found"):
            await without.readuntil()
        with pytest.raises(ValueError, match="not found"):
            await without.readline()
        assert without.at_eof()
        rest = fed(*pieces, limit=10)
        with pytest.raises(ValueError, match="Separator"):
            await rest.readline()
        assert await rest.read() == b"!"  # what was too long is gone, with its end

    run(main())


def test_arguments_are_checked_as_asyncio_does(run) -> None:
    async def main() -> None:
        reader = fed(b"x")
        with pytest.raises(ValueError, match="less than zero"):
            await reader.readexactly(-1)
        with pytest.raises(ValueError, match="one-byte"):
            await reader.readuntil(b"")
        with pytest.raises(ValueError, match="Limit"):
            unio.asyncio.StreamReader(0, asyncio.get_running_loop())

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="asyncio itself takes several separators from 3.13 on")
def test_the_first_of_several_separators_ends_what_is_read(run) -> None:
    async def main() -> None:
        reader = fed(b"a", b"b-c", b"+d-")
        assert [await reader.readuntil((b"-", b"c+")) for _ in range(3)] == [b"ab-", b"c+", b"d-"]

    run(main())


READS: list[Callable[[Any], Awaitable[bytes]]] = [
    lambda reader: reader.read(100),
    lambda reader: reader.readexactly(5),
    lambda reader: reader.readline(),
]


@pytest.mark.parametrize("moment", ["before", "between", "after"])
@pytest.mark.parametrize("read", READS, ids=["read", "readexactly", "readline"])
def test_a_cancelled_read_leaves_what_has_come_to_the_next(
    run, read: Callable[[Any], Awaitable[bytes]], moment: str
) -> None:
    async def main() -> None:
        async with connection() as (_, writer, there, _):
            task = asyncio.ensure_future(read(there))
            await asyncio.sleep(0)
            if moment == "before":
                task.cancel()
                writer.write(b"hell\n")
            elif moment == "between":
                writer.write(b"hel")
                await until(lambda: there._size == 3 or task.done())
                task.cancel()
                writer.write(b"l\n")
            else:
                writer.write(b"hell\n")
                await until(lambda: there._size or task.done())
                task.cancel()
            data = b""
            with contextlib.suppress(asyncio.CancelledError):
                data = await task
            while len(data) < 5:
                data += await there.read(100)
            assert data == b"hell\n"

    run(main())


def test_a_reader_that_is_cancelled_and_fed_in_one_turn_keeps_the_data(run) -> None:
    async def main() -> None:
        reader = unio.asyncio.StreamReader(100, asyncio.get_running_loop())
        task = asyncio.ensure_future(reader.read(10))
        await asyncio.sleep(0)
        task.cancel("why")
        reader.feed_data(b"data")
        with pytest.raises(RuntimeError, match="already waiting"):  # it has not heard of its end yet
            await reader._wait_for_data("read")
        with pytest.raises(asyncio.CancelledError, match="why"):
            await task
        assert await reader.read(10) == b"data"

    run(main())


def test_one_task_at_a_time_waits(run) -> None:
    async def main() -> None:
        async with connection() as (reader, writer, there, back):
            first = asyncio.ensure_future(reader.read(10))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="already waiting"):
                await reader.readline()
            back.write(b"x")
            assert await first == b"x"

    run(main())


def test_a_time_out_of_asyncios_ends_a_read(run) -> None:
    async def main() -> None:
        async with connection() as (reader, writer, there, back):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.readexactly(10), 0.01)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await reader.readline()
            back.write(b"0123456789")
            assert await reader.readexactly(10) == b"0123456789"

    run(main())


def test_the_peer_is_held_up_by_a_reader_that_reads_nothing(run) -> None:
    size = 64 * MIB

    async def main() -> None:
        async with connection(1000) as (reader, writer, there, back):
            writer.write(bytes(size))
            draining = asyncio.ensure_future(writer.drain())
            for _ in range(500):
                await asyncio.sleep(0)
            assert there._size < 8 * MIB
            count = 0
            while count < size:
                count += len(await there.read(MIB))
            await draining

    run(main())


def test_a_lost_connection_is_told_to_reader_and_writer(run) -> None:
    async def main() -> None:
        async with connection() as (reader, writer, there, back):
            reading = asyncio.ensure_future(reader.read(10))
            await asyncio.sleep(0)
            back.write(b"")
            back.transport.abort()
            with contextlib.suppress(ConnectionResetError):
                assert await reading == b""
            writer.transport.abort()
            await until(lambda: writer.transport.is_closing() and writer._protocol._connection_lost)
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                await writer.drain()
            with contextlib.suppress(ConnectionResetError):
                await writer.wait_closed()

    run(main())


def test_a_task_is_woken_in_its_own_context_and_may_wake_another(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, second = (unio.asyncio.StreamReader(100, loop) for _ in range(2))

        async def pass_on() -> str:
            data = await first.read(10)
            task = asyncio.current_task()
            second.feed_data(data)  # in the middle of this task, which goes on before the other one
            assert asyncio.current_task() is task
            return "passed on"

        async def take() -> bytes:
            return await second.read(10)

        tasks = [asyncio.ensure_future(pass_on()), asyncio.ensure_future(take())]
        await asyncio.sleep(0)
        loop.call_soon(first.feed_data, b"data")
        assert await asyncio.gather(*tasks) == ["passed on", b"data"]

    run(main())


def test_the_streams_speak_tls(run) -> None:
    async def main() -> None:
        async def serve(reader: unio.asyncio.StreamReader, writer: unio.asyncio.StreamWriter) -> None:
            async for line in reader:
                writer.write(line.upper())
                await writer.drain()
            writer.close()

        async with await unio.asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context()) as server:
            reader, writer = await unio.asyncio.open_connection(
                *server.sockets[0].getsockname(), ssl=client_context(), server_hostname="localhost"
            )
            writer.write(b"hello\nthere\n")
            assert await reader.readline() == b"HELLO\n"
            assert await reader.readline() == b"THERE\n"
            writer.close()
            await writer.wait_closed()

    run(main())


def test_a_handler_that_raises_is_reported_and_its_connection_closed(run) -> None:
    async def main() -> None:
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

        async def serve(reader: unio.asyncio.StreamReader, writer: unio.asyncio.StreamWriter) -> None:
            raise ArithmeticError

        async with await unio.asyncio.start_server(serve, "127.0.0.1", 0) as server:
            reader, writer = await unio.asyncio.open_connection(*server.sockets[0].getsockname())
            if sys.version_info >= (3, 12):
                assert await reader.read() == b""
            await until(lambda: reported or sys.version_info < (3, 12))
            writer.close()
        del serve

    run(main())

"""Streams, plain and in TLS alike: what is read is what was written."""

from __future__ import annotations

import contextlib
import random
import re

import pytest
from running import Streams, run_all

import unio

Pair = tuple[unio.Stream, unio.Stream]

MIB = 1 << 20


async def everything(stream: unio.Stream) -> bytes:
    found = []
    while piece := await stream.read_some():
        found.append(piece)
    return b"".join(found)


async def write_all(stream: unio.Stream, *pieces: bytes, end: bool = True) -> None:
    for piece in pieces:
        await stream.write(piece)
    if end:
        await stream.write_end()


def test_each_portion_is_what_was_written(port: unio.Port, streams: Pair) -> None:
    client, server = streams
    body = random.Random(1).randbytes(3 * MIB)

    async def read() -> list[bytes]:
        return [
            await server.read_line(),
            await server.read_until(b"\r\n\r\n"),
            await server.peek(4),
            await server.read_exactly(len(body)),
            await server.peek(1000),
            await server.read_line(),
            await server.read_line(),
            await server.read_some(),
        ]

    _, found = run_all(port, write_all(client, b"first\n", b"a\r\nb\r\n\r\n", body, b"without an end"), read())
    assert found == [
        *(b"first\n", b"a\r\nb\r\n\r\n", body[:4], body),
        *(b"without an end", b"without an end", b"", b""),
    ]


def test_both_directions_at_once_by_several_threads(port: unio.Port, streams: Pair) -> None:
    texts = [random.Random(number).randbytes(5 * MIB) for number in range(2)]

    def pieces(text: bytes) -> list[bytes]:
        sizes = random.Random(3)
        found = []
        while text:
            size = sizes.choice([1, 10, 1000, 20_000, 200_000])
            found.append(text[:size])
            text = text[size:]
        return found

    writers = [write_all(stream, *pieces(text)) for stream, text in zip(streams, texts, strict=True)]
    found = run_all(port, *writers, *map(everything, streams), threads=4)
    assert found[2:] == texts[::-1]


def test_several_tasks_may_write_and_no_piece_is_torn(port: unio.Port, make_streams: Streams) -> None:
    client, server = make_streams(write_limit=1000)
    count = 400

    async def write(letter: bytes) -> None:
        for _ in range(count):
            await client.write(letter * 99 + b"\n")

    async def read() -> list[bytes]:
        return [await server.read_line() for _ in range(5 * count)]

    *_, lines = run_all(port, *[write(letter) for letter in (b"a", b"b", b"c", b"d", b"e")], read(), threads=3)
    assert sorted(lines) == sorted(letter * 99 + b"\n" for letter in (b"a", b"b", b"c", b"d", b"e") * count)


def test_a_stream_can_be_read_by_lines(port: unio.Port, streams: Pair) -> None:
    client, server = streams

    async def read() -> list[bytes]:
        return [line async for line in server]

    _, lines = run_all(port, write_all(client, b"one\ntwo\n", b"\nthr", b"ee"), read())
    assert lines == [b"one\n", b"two\n", b"\n", b"three"]


def test_what_was_refused_or_incomplete_stays_to_be_read(port: unio.Port, streams: Pair) -> None:
    client, server = streams

    async def read() -> bytes:
        with pytest.raises(unio.LimitExceeded, match=re.escape("no b'\\n' is in the next 5 bytes")):
            await server.read_line(5)
        with pytest.raises(unio.LimitExceeded):
            await server.read_until(b"6", 5)
        assert await server.read_exactly(6) == b"123456"
        with pytest.raises(unio.StreamEnded, match="after 2 of the 3 bytes"):
            await server.read_exactly(3)
        with pytest.raises(unio.StreamEnded, match="after 2 bytes without b';'"):
            await server.read_until(b";")
        return await server.read_some()

    assert run_all(port, write_all(client, b"12345678"), read())[1] == b"78"


def test_a_peer_whose_line_never_ends_takes_no_memory(port: unio.Port, streams: Pair) -> None:
    client, server = streams

    async def flood() -> None:
        with pytest.raises(ConnectionError):
            await write_all(client, *[bytes(100_000)] * 10_000)

    async def read() -> None:
        with pytest.raises(unio.LimitExceeded):
            await server.read_line()
        server.abort()

    run_all(port, flood(), read())


def test_an_ended_direction_leaves_the_other_one_open(port: unio.Port, streams: Pair) -> None:
    client, server = streams

    async def ask() -> bytes:
        await client.write(b"question")
        await client.write_end()
        await client.write_end()  # which it is already
        with pytest.raises(BrokenPipeError, match="ended here"):
            await client.write(b"more")
        return await everything(client)

    async def answer() -> None:
        assert await everything(server) == b"question"
        for _ in range(30):
            await server.write(bytes(100_000))
        await server.close()

    assert run_all(port, ask(), answer())[0] == bytes(3_000_000)


def test_a_second_reader_is_told_so(port: unio.Port, streams: Pair) -> None:
    client, server = streams

    async def second() -> None:
        for read in (server.read_line, server.read_some, server.peek):
            with pytest.raises(unio.InFlight, match="another task is reading"):
                await read()
        await client.write(b"for the first\n")

    assert run_all(port, server.read_line(), second())[0] == b"for the first\n"


def test_a_peer_that_does_not_read_holds_up_who_writes_more_than_the_limit(
    port: unio.Port, make_streams: Streams
) -> None:
    client, server = make_streams(write_limit=50_000)
    written = 0

    async def write() -> None:
        nonlocal written
        while written < 50 * MIB:
            await client.write(bytes(MIB), timeout=0.2)
            written += MIB

    with pytest.raises(TimeoutError, match="time-out of the call"):
        run_all(port, write())
    assert written < 50 * MIB
    # What was written stays, also what the last call had to wait for.
    server_reads = server.read_exactly(written + MIB)
    assert run_all(port, server_reads, client.drain())[0] == bytes(written + MIB)


def test_below_the_limit_a_write_returns_whether_the_peer_reads_or_not(port: unio.Port, make_streams: Streams) -> None:
    client, server = make_streams(write_limit=50 * MIB)

    async def write() -> None:
        for _ in range(40):
            await client.write(bytes(MIB))

    run_all(port, write())
    with pytest.raises(TimeoutError):
        run_all(port, client.drain(timeout=0.05))
    assert run_all(port, server.read_exactly(40 * MIB), client.drain()) == [bytes(40 * MIB), None]


def test_several_who_wait_for_the_peer_all_go_on(port: unio.Port, make_streams: Streams) -> None:
    client, server = make_streams(write_limit=1000)
    going = 0

    async def write() -> None:
        nonlocal going
        going += 1
        await client.write(bytes(5 * MIB))

    async def read() -> int:
        while going < 4:
            await unio.Timer(0)
        return len(await server.read_exactly(20 * MIB))

    run_all(port, *[write() for _ in range(4)], client.drain(), read(), threads=2)


def test_who_waits_for_another_sender_has_a_time_out_too(port: unio.Port, make_streams: Streams) -> None:
    client, _server = make_streams(write_limit=1000)

    async def write_without_end() -> None:
        await client.write(bytes(50 * MIB))

    async def write() -> None:
        await unio.Timer(0)
        with pytest.raises(TimeoutError, match="time-out of the call"):
            await client.write(b"behind that", timeout=0.05)
        with pytest.raises(TimeoutError, match="time-out of the call"):
            await client.drain(timeout=0)
        client.abort()

    with pytest.raises(unio.Cancelled):
        run_all(port, write_without_end(), write())


def test_a_read_that_took_too_long_leaves_what_came(port: unio.Port, streams: Pair) -> None:
    client, server = streams

    async def read() -> None:
        await client.write(b"12345")
        with pytest.raises(TimeoutError, match="time-out of the call"):
            await server.read_exactly(10, timeout=0.05)
        await client.write(b"67890")
        assert await server.read_exactly(10) == b"1234567890"
        with pytest.raises(TimeoutError):
            await server.read_some(timeout=0)
        await client.write(b"x")
        assert await server.read_some() == b"x"

    run_all(port, read())


def test_a_time_out_is_for_the_whole_call_and_not_for_each_byte(port: unio.Port, streams: Pair) -> None:
    client, server = streams
    is_over = False

    async def trickle() -> None:
        while not is_over:
            await client.write(b"x")
            await unio.Timer(0.005)

    async def read() -> None:
        nonlocal is_over
        with pytest.raises(TimeoutError, match="time-out of the call"):
            await server.read_line(timeout=0.2)
        is_over = True

    run_all(port, trickle(), read())


def test_a_peer_that_sends_nothing_is_waited_for_so_long(port: unio.Port, make_streams: Streams) -> None:
    client, server = make_streams(idle_timeout=0.05)

    async def read() -> None:
        with pytest.raises(TimeoutError, match=re.escape("the peer has sent nothing for 0.05 seconds")):
            await client.read_some(timeout=60)
        await server.write(b"late")  # of which it may make something
        assert await client.read_exactly(4) == b"late"

    run_all(port, read())


def test_a_peer_that_takes_nothing_is_waited_for_so_long(port: unio.Port, make_streams: Streams) -> None:
    client, _server = make_streams(idle_timeout=0.05)
    late = re.escape("the peer has taken nothing for 0.05 seconds")

    async def write() -> None:
        with pytest.raises(TimeoutError, match=late):
            await client.write(bytes(50 * MIB), timeout=60)
        for again in (client.drain(), client.write(b"more"), client.write_end(), client.close()):
            with pytest.raises(TimeoutError, match=late):
                await again

    run_all(port, write())


def test_a_peer_that_takes_something_now_and_then_is_waited_for(port: unio.Port, make_streams: Streams) -> None:
    client, server = make_streams(idle_timeout=0.2)

    async def read() -> int:
        size = 0
        while size < 40 * MIB:
            size += len(await server.read_some(MIB))
            if size % 50 == 0:
                await unio.Timer(0.001)
        return size

    assert run_all(port, write_all(client, bytes(40 * MIB), end=False), read())[1] == 40 * MIB


def test_what_was_written_leaves_before_a_stream_is_closed(port: unio.Port, streams: Pair) -> None:
    client, server = streams

    async def write() -> None:
        async with client:
            for number in range(2000):
                await client.write(b"%d\n" % number)

    _, found = run_all(port, write(), everything(server))
    assert found == b"".join(b"%d\n" % number for number in range(2000))
    assert client.handle.closed


def test_a_block_that_an_exception_ends_aborts_the_stream(port: unio.Port, streams: Pair) -> None:
    client, _server = streams

    async def write() -> None:
        with contextlib.suppress(ZeroDivisionError):
            async with client:
                await client.write(bytes(50_000))
                _ = 1 / 0
        assert client.handle.closed
        for call in (client.write(b""), client.drain(), client.write_end()):
            with pytest.raises(unio.Cancelled, match="closed here"):
                await call
        with pytest.raises(unio.Cancelled):
            await client.read_some()
        await client.close()  # which it is

    run_all(port, write())


def test_an_abort_ends_what_others_do_on_the_stream(port: unio.Port, streams: Pair) -> None:
    client, _server = streams

    async def read() -> None:
        with pytest.raises(unio.Cancelled):
            await client.read_some()

    async def write() -> None:
        with pytest.raises(unio.Cancelled):
            await client.write(bytes(50 * MIB))

    async def abort() -> None:
        await unio.Timer(0.01)
        client.abort()

    run_all(port, read(), write(), abort(), threads=2)


def test_a_cancelled_write_leaves_what_was_written_whole(port: unio.Port, streams: Pair) -> None:
    client, server = streams
    seen: list[object] = []

    async def write() -> None:
        with pytest.raises(unio.Cancelled):
            await client.write(bytes(20 * MIB))
        seen.append("cancelled")
        await client.write(b"and this")

    async def cancel() -> bytes:
        task = port.start(write())
        await unio.Timer(0.02)
        task.cancel()
        while not seen:
            await unio.Timer(0.001)
        return await server.read_exactly(20 * MIB + 8)

    assert run_all(port, cancel()) == [bytes(20 * MIB) + b"and this"]


def test_a_cancelled_read_loses_nothing(port: unio.Port, streams: Pair) -> None:
    client, server = streams
    seen: list[object] = []

    async def read() -> None:
        with pytest.raises(unio.Cancelled):
            await server.read_exactly(10)
        seen.append(await server.read_exactly(10))
        port.stop()

    async def cancel() -> None:
        task = port.start(read())
        await client.write(b"12345")
        await unio.Timer(0.02)
        task.cancel()
        await client.write(b"67890")

    port.start(cancel())
    port.run()
    assert seen == [b"1234567890"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"write_limit": -1}, ValueError),
        ({"write_limit": 1.5}, TypeError),
        ({"idle_timeout": -1}, ValueError),
        ({"idle_timeout": "5"}, TypeError),
    ],
)
def test_wrong_arguments_are_refused_before_the_handle_joins(
    port: unio.Port, make_pair, options: dict, error: type[Exception]
) -> None:
    near, _far = make_pair()
    with pytest.raises(error):
        unio.Stream(port, near, **options)
    port.associate(near)


def test_wrong_arguments_of_calls_are_refused(port: unio.Port, streams: Pair) -> None:
    client, server = streams

    async def call() -> None:
        with pytest.raises(TypeError):
            await client.write("text")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="time-out"):
            await client.read_some(timeout=-1)
        with pytest.raises(ValueError, match="size"):
            await client.read_exactly(-1)
        await server.write(b"fine\n")
        assert await client.read_line() == b"fine\n"

    run_all(port, call())

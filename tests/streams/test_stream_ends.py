"""How streams meet with what their handles are and do: turns, resets, pipes, ends."""

from __future__ import annotations

import gc
import socket
import sys
import weakref

import pytest
import support
from running import run_all

import unio

MIB = 1 << 20


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="it has no local sockets that keep sends apart")
def test_the_writes_of_one_turn_are_one_send(port: unio.Port, resources) -> None:
    near, far = map(resources.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    far.settimeout(support.PATIENCE)
    stream, large = unio.Stream(port, near), b"x" * 30_000

    async def write() -> None:
        for piece in (b"head", b"er", large, b"a", bytearray(b"b"), memoryview(b"c")):
            await stream.write(piece)
        await unio.Timer(0)
        await stream.write(b"of the next turn")
        await stream.drain()

    run_all(port, write())
    assert far.recv(MIB) == b"header" + large + b"abc"
    assert far.recv(MIB) == b"of the next turn"


def test_what_was_written_leaves_before_its_writer_waits_for_an_answer(port: unio.Port, make_pair) -> None:
    near, far = make_pair()
    client, server = unio.Stream(port, near), unio.Stream(port, far)

    async def ask() -> bytes:
        await client.write(b"question\n")
        return await client.read_line()

    async def answer() -> None:
        assert await server.read_line() == b"question\n"
        await server.write(b"answer\n")

    for _ in range(3):
        assert run_all(port, ask(), answer())[0] == b"answer\n"


def test_what_was_written_leaves_also_if_nobody_waits_on_the_stream_any_more(port: unio.Port, make_pair) -> None:
    near, far = make_pair()
    stream, other = unio.Stream(port, near), unio.Stream(port, far)

    async def write() -> None:
        await stream.write(b"good bye")

    assert run_all(port, write(), other.read_exactly(8))[1] == b"good bye"


def test_a_reset_is_never_taken_for_an_end(port: unio.Port, make_pair) -> None:
    near, far = make_pair()
    stream = unio.Stream(port, near)
    far.sendall(b"before")
    support.arrived(near)

    async def read() -> None:
        assert await stream.read_exactly(6) == b"before"
        support.reset(far)
        for _ in range(3):
            with pytest.raises(ConnectionError):
                await stream.read_line()

    run_all(port, read())


def test_an_error_of_the_background_is_raised_by_what_is_called_next(port: unio.Port, make_pair) -> None:
    near, far = make_pair()
    stream = unio.Stream(port, near)
    support.reset(far)

    async def write_on() -> None:
        while True:
            await stream.write(b"x")
            await unio.Timer(0)

    async def write() -> None:
        with pytest.raises(ConnectionError):
            await write_on()
        with pytest.raises(ConnectionError):
            await stream.drain()
        with pytest.raises(ConnectionError):
            await stream.close()
        assert stream.handle.closed

    run_all(port, write())


def test_pipes_have_streams_too(port: unio.Port, resources) -> None:
    source, target = unio.pipe()
    resources.callback(source.close)
    resources.callback(target.close)
    reader, writer = unio.Stream(port, source), unio.Stream(port, target)

    async def write() -> None:
        await writer.write(b"a line\n")
        await writer.write(bytes(MIB))
        await writer.write_end()

    async def read() -> bytes:
        assert await reader.read_line() == b"a line\n"
        assert await reader.read_exactly(MIB) == bytes(MIB)
        found = await reader.read_some()
        await reader.close()
        return found

    assert run_all(port, write(), read())[1] == b""
    assert writer.handle.closed


def test_who_lingers_does_not_take_its_answer_away_from_a_peer_that_still_sends(port: unio.Port, make_pair) -> None:
    near, far = make_pair()
    stream = unio.Stream(port, near)

    async def refuse() -> None:
        await stream.read_exactly(10)
        await stream.write(b"too large\n")
        await stream.close(linger=support.PATIENCE)

    def ask() -> bytes:
        far.sendall(bytes(8 * MIB))
        answer = support.recv_exactly(far, 10)
        far.shutdown(socket.SHUT_WR)
        return answer + support.recv_to_end(far)

    asking = support.Background(ask)
    run_all(port, refuse())
    assert asking.result() == b"too large\n"


def test_who_lingers_does_not_wait_for_ever(port: unio.Port, make_pair) -> None:
    near, far = make_pair()
    stream = unio.Stream(port, near)
    run_all(port, stream.close(linger=0.05))
    assert stream.handle.closed
    assert far.recv(1) == b""


def test_a_handle_that_skips_its_packets_will_do(port: unio.Port, make_pair) -> None:
    near, far = make_pair()
    stream = unio.Stream(port, port.associate(near, skip_on_success=True))
    other = unio.Stream(port, far)

    async def write() -> None:
        for number in range(1000):
            await stream.write(b"%d\n" % number)
            if number % 10 == 0:
                await unio.Timer(0)
        await stream.write_end()

    async def read() -> list[bytes]:
        return [line async for line in other]

    assert run_all(port, write(), read())[1] == [b"%d\n" % number for number in range(1000)]


def test_a_closed_port_ends_what_waits_on_a_stream(make_port, make_pair) -> None:
    port = make_port()
    near, _far = make_pair()
    stream = unio.Stream(port, near)
    ended: list[str] = []

    async def wait(name: str, call) -> None:
        try:
            await call
        finally:
            ended.append(name)

    async def close() -> None:
        await unio.Timer(0.01)
        port.stop()

    for name, call in (("read", stream.read_some()), ("write", stream.write(bytes(50 * MIB)))):
        port.start(wait(name, call))
    port.start(close())
    port.run()
    port.close()
    assert sorted(ended) == ["read", "write"]


def test_a_stream_that_is_dropped_is_gone_at_once(port: unio.Port, make_pair) -> None:
    near, far = make_pair()
    gc.collect()
    gc.disable()
    try:

        async def use() -> list[weakref.ref]:
            stream = unio.Stream(port, near)
            await stream.write(b"hello\n")
            await stream.drain()
            await stream.write(b"hello\n")
            await unio.Timer(0.01)
            far.sendall(b"x\n")
            assert await stream.read_line() == b"x\n"
            stream.abort()
            return [weakref.ref(stream), weakref.ref(stream.handle)]

        [found] = run_all(port, use())
        assert [each() for each in found] == [None, None]
    finally:
        gc.enable()


def test_what_a_stream_is_shows_in_its_repr(port: unio.Port, make_pair) -> None:
    near, _far = make_pair()
    stream = unio.Stream(port, near)
    assert repr(stream) == f"<unio.Stream of {stream.handle!r}>"

"""Descriptors whose bytes somebody else moves: who is called when they are ready, and for how long."""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
import sys
from pathlib import Path

import pytest
import support
from awaits import settled, until
from wine import wine_row

import unio
import unio.asyncio

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell whether a socket blocks")


def watched(loop: asyncio.AbstractEventLoop, sock: socket.socket | int) -> asyncio.Future[None]:
    """A future that is done when a socket is readable."""
    future = loop.create_future()
    loop.add_reader(sock, lambda: future.done() or future.set_result(None))
    return future


def test_a_reader_is_called_for_as_long_as_there_is_something_to_read(run, pair) -> None:
    near, far = pair

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        read = bytearray()
        loop.add_reader(near, lambda: read.extend(near.recv(1)))
        far.sendall(b"hello")
        await until(lambda: len(read) == 5)
        await settled()
        far.sendall(b"!")
        await until(lambda: len(read) == 6)
        assert loop.remove_reader(near)
        return bytes(read)

    assert run(main()) == b"hello!"


def test_a_writer_is_called_while_there_is_room_and_no_longer(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls = []
        near.setblocking(False)
        loop.add_writer(near, lambda: calls.append(None))
        await until(lambda: len(calls) > 3)
        assert loop.remove_writer(near)
        support.fill(near)
        room = loop.create_future()
        loop.add_writer(near, lambda: room.done() or room.set_result(None))
        await settled()
        assert not room.done()
        far.settimeout(None)
        reading = loop.run_in_executor(None, support.recv_to_end, far)
        await room
        loop.remove_writer(near)
        near.shutdown(socket.SHUT_WR)
        await reading

    run(main())


def test_the_directions_of_a_descriptor_are_watched_apart(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        loop = asyncio.get_running_loop()
        read = watched(loop, near)
        written = loop.create_future()
        loop.add_writer(near, lambda: written.done() or written.set_result(None))
        await written
        assert not read.done()
        assert loop.remove_writer(near)
        assert not loop.remove_writer(near)
        far.sendall(b"x")
        await read
        assert loop.remove_reader(near)
        assert not loop.remove_reader(near)

    run(main())


def test_an_object_and_its_number_are_the_same_descriptor(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        loop = asyncio.get_running_loop()
        read = loop.create_future()
        loop.add_reader(near.fileno(), lambda: read.done() or read.set_result(None))
        far.sendall(b"x")
        await read
        assert loop.remove_reader(near)
        assert not loop.remove_reader(near.fileno())

    run(main())


def test_whoever_watches_later_takes_the_place_of_the_one_before(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, second = watched(loop, near), watched(loop, near)
        far.sendall(b"x")
        await second
        await settled()
        assert not first.done()
        loop.remove_reader(near)

    run(main())


def test_a_callback_that_is_removed_by_another_is_not_called_any_more(run, resources) -> None:
    pairs = [tuple(map(resources.enter_context, support.tcp_pair())) for _ in range(2)]
    nears = [near for near, _ in pairs]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        called = []

        def call(near: socket.socket) -> None:
            called.append(near)
            for each in nears:
                loop.remove_reader(each)

        for near, far in pairs:
            far.sendall(b"x")
            support.arrived(near)
        for near in nears:
            loop.add_reader(near, call, near)
        await settled()
        assert len(called) == 1

    run(main())


def test_a_callback_that_raises_is_reported_and_called_again(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reported = []
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))

        def read() -> None:
            near.recv(1)
            raise ArithmeticError

        loop.add_reader(near, read)
        far.sendall(b"12")
        await until(lambda: len(reported) == 2)
        loop.remove_reader(near)
        assert {type(each) for each in reported} == {ArithmeticError}

    run(main())


def test_a_callback_runs_in_the_context_that_it_was_added_in(run, pair) -> None:
    near, far = pair
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        said = loop.create_future()
        name.set("before")
        loop.add_reader(near, lambda: said.done() or said.set_result(name.get()))
        name.set("after")
        far.sendall(b"x")
        assert await said == "before"
        loop.remove_reader(near)

    run(main())


def test_the_end_of_the_peer_is_something_to_read(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        loop = asyncio.get_running_loop()
        read = watched(loop, near)
        far.close()
        await read
        assert near.recv(1) == b""
        loop.remove_reader(near)

    run(main())


@posix
def test_watching_leaves_whether_a_descriptor_blocks_as_it_was(run, pair) -> None:
    near, far = pair
    near.settimeout(None)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        read = watched(loop, near)
        assert os.get_blocking(near.fileno())
        far.sendall(b"x")
        await read
        loop.remove_reader(near)
        await settled()
        assert os.get_blocking(near.fileno())
        assert near.gettimeout() is None

    run(main())


@wine_row("leave-port")
def test_a_descriptor_that_nobody_watches_any_more_is_free_for_another_loop(run, pair) -> None:
    near, far = pair
    far.sendall(b"x")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await watched(loop, near)
        loop.remove_reader(near)

        def elsewhere() -> None:
            async def again() -> None:
                here = asyncio.get_running_loop()
                await watched(here, near)
                here.remove_reader(near)

            unio.asyncio.run(again())

        await settled()
        await loop.run_in_executor(None, elsewhere)
        await watched(loop, near)
        loop.remove_reader(near)

    run(main())


@wine_row("leave-port")
def test_a_watched_descriptor_is_free_when_its_loop_has_ended(run, pair) -> None:
    near, far = pair
    far.sendall(b"x")

    async def main() -> None:
        await watched(asyncio.get_running_loop(), near)

    run(main())
    run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows gives no number that one asks for")
def test_a_number_that_was_closed_and_is_another_descriptors_is_watched_as_that(run, resources) -> None:
    near, far = map(resources.enter_context, support.tcp_pair())

    async def main() -> None:
        loop = asyncio.get_running_loop()
        first = watched(loop, near)
        number = near.fileno()
        near.close()
        again, peer = support.reuse(number, resources)
        second = watched(loop, again)
        far.sendall(b"x")
        await settled()
        assert not first.done()
        assert not second.done()
        peer.sendall(b"x")
        await second
        loop.remove_reader(again)

    run(main())


@wine_row("leave-port")
def test_a_watched_socket_may_be_received_from_as_well(run, pair) -> None:
    near, far = pair
    near.setblocking(False)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        read = watched(loop, near.fileno())
        receiving = asyncio.ensure_future(loop.sock_recv(near, 8))
        await settled()
        far.sendall(b"x")
        assert await receiving == b"x"
        await read
        loop.remove_reader(near)
        await settled()
        receiving = asyncio.ensure_future(loop.sock_recv(near, 8))
        await settled()
        far.sendall(b"y")
        assert await receiving == b"y"

    run(main())


@wine_row("leave-port")
def test_a_socket_that_was_watched_by_its_number_is_closed_once_with_its_transport(run, resources) -> None:
    near, far = map(resources.enter_context, support.tcp_pair())

    async def main() -> None:
        loop = asyncio.get_running_loop()
        far.sendall(b"x")
        await watched(loop, near.fileno())
        loop.remove_reader(near.fileno())
        reader, writer = await asyncio.open_connection(sock=near)
        assert await reader.read(1) == b"x"
        writer.close()
        await writer.wait_closed()
        assert near.fileno() == -1

    run(main())


def test_the_descriptor_of_a_transport_is_not_watched(run, pair) -> None:
    near, _ = pair

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
        for watch in (loop.add_reader, loop.add_writer):
            with pytest.raises(RuntimeError, match="is used by transport"):
                watch(near, print)
        for leave in (loop.remove_reader, loop.remove_writer):
            with pytest.raises(RuntimeError, match="is used by transport"):
                leave(near)
        transport.abort()

    run(main())


def test_what_is_no_descriptor_is_refused(run, resources, tmp_path: Path) -> None:
    near, far = map(resources.enter_context, support.tcp_pair())
    near.close()
    (tmp_path / "file").write_bytes(b"content")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for wrong in ("no descriptor", None, -1, near):
            with pytest.raises(ValueError, match="Invalid file"):
                loop.add_reader(wrong, print)
            with pytest.raises(ValueError, match="Invalid file"):
                loop.remove_writer(wrong)
        with (tmp_path / "file").open("rb") as file, pytest.raises((ValueError, TypeError, OSError)):
            loop.add_reader(file, print)
        assert not loop.remove_reader(far)

    run(main())


def test_a_loop_that_is_closed_watches_nothing(run, pair, backend, monkeypatch) -> None:
    near, _ = pair
    monkeypatch.setenv(unio.backends.VARIABLE, backend)
    loop = unio.asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.add_reader(near, print)
    assert not loop.remove_reader(near)

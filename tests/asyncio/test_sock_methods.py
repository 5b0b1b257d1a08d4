"""The ``sock_*`` methods of the loop, and its sendfile."""

from __future__ import annotations

import asyncio
import gc
import io
import socket
import warnings
import weakref

import pytest
import support
from patience import PATIENCE
from waiting import elsewhere
from wine import has_row

from unio.asyncio import sockets


@pytest.fixture
def ends(pair):
    """Two connected sockets, of which the first does not block."""
    near, far = pair
    near.setblocking(False)
    return near, far


async def begun(coroutine) -> asyncio.Task:
    """A task that waits for something by now."""
    task = asyncio.ensure_future(coroutine)
    await asyncio.sleep(0.01)
    assert not task.done()
    return task


async def cancelled(task: asyncio.Task) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_what_is_there_and_what_comes_later_is_received(run, ends) -> None:
    near, far = ends

    async def main() -> None:
        loop = asyncio.get_running_loop()
        far.sendall(b"here")
        support.arrived(near)
        assert await loop.sock_recv(near, 100) == b"here"
        waiting = await begun(loop.sock_recv(near, 2))
        far.sendall(b"later")
        assert await waiting == b"la"
        buffer = bytearray(10)
        assert await loop.sock_recv_into(near, buffer) == 3
        assert buffer[:3] == b"ter"
        waiting = await begun(loop.sock_recv_into(near, buffer))
        buffer.extend(b"longer")  # nobody holds it meanwhile
        far.sendall(b"x")
        assert await waiting == 1
        far.close()
        assert await loop.sock_recv(near, 100) == b""

    run(main())


def test_a_cancelled_receive_takes_nothing_out_of_the_socket(run, ends) -> None:
    near, far = ends

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in range(50):
            waiting = (
                await begun(loop.sock_recv(near, 100)) if number % 2 else asyncio.ensure_future(loop.sock_recv(near, 9))
            )
            far.sendall(b"%d" % number)
            for _ in range(number % 4):
                await asyncio.sleep(0)
            waiting.cancel()
            try:
                received = await waiting
            except asyncio.CancelledError:
                support.arrived(near)
                received = await loop.sock_recv(near, 100) if number % 3 else near.recv(100)
            assert received == b"%d" % number

    run(main())


def test_of_several_that_receive_each_gets_what_no_other_one_has(run, ends) -> None:
    near, far = ends

    async def main() -> None:
        loop = asyncio.get_running_loop()
        waiting = [await begun(loop.sock_recv(near, 1)) for _ in range(3)]
        far.sendall(b"abc")
        assert sorted(await asyncio.gather(*waiting)) == [b"a", b"b", b"c"]

    run(main())


def test_a_cancelled_accept_leaves_the_connection_to_the_next_one(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with support.listener() as listening:
            listening.setblocking(False)
            for _ in range(10):
                waiting = await begun(loop.sock_accept(listening))
                with support.connect(listening) as client:
                    await asyncio.sleep(0)
                    waiting.cancel()
                    try:
                        accepted, address = await waiting
                    except asyncio.CancelledError:
                        accepted, address = await loop.sock_accept(listening)
                    with accepted:
                        assert address == client.getsockname()
                        assert accepted.gettimeout() == 0
                        await loop.sock_sendall(accepted, b"hello")
                        assert support.recv_exactly(client, 5) == b"hello"

    run(main())


def test_all_is_sent_also_where_the_connection_is_full_and_in_order(run, ends) -> None:
    near, far = ends
    pieces = [bytes([number]) * 3_000_000 for number in range(3)]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        sending = [asyncio.ensure_future(loop.sock_sendall(near, piece)) for piece in pieces]
        assert await elsewhere(support.recv_exactly, far, 9_000_000) == b"".join(pieces)
        await asyncio.gather(*sending)
        await loop.sock_sendall(near, b"")
        await loop.sock_sendall(near, memoryview(b"small"))
        assert support.recv_exactly(far, 5) == b"small"

    run(main())


def test_a_connection_is_made_or_its_refusal_raised(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with support.listener() as listening, socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, listening.getsockname())
            assert client.getpeername() == listening.getsockname()
        with socket.socket() as bound, socket.socket() as client:
            bound.bind(("127.0.0.1", 0))
            client.setblocking(False)
            with pytest.raises(ConnectionRefusedError):
                await loop.sock_connect(client, bound.getsockname())

    run(main())


def test_datagrams_come_with_their_senders(run, resources) -> None:
    near, far = (resources.enter_context(support.datagram_socket()) for _ in range(2))
    near.setblocking(False)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        waiting = await begun(loop.sock_recvfrom(near, 100))
        far.sendto(b"hello", near.getsockname())
        assert await waiting == (b"hello", far.getsockname())
        buffer = bytearray(10)
        waiting = await begun(loop.sock_recvfrom_into(near, buffer))
        far.sendto(b"again", near.getsockname())
        assert await waiting == (5, far.getsockname())
        waiting = await begun(loop.sock_recvfrom_into(near, buffer, 2))
        far.sendto(b"cut", near.getsockname())
        count, _ = await asyncio.gather(waiting, asyncio.sleep(0), return_exceptions=True)
        assert isinstance(count, OSError) or count == (2, far.getsockname())
        assert await loop.sock_sendto(near, b"answer", far.getsockname()) == 6
        assert far.recvfrom(100) == (b"answer", near.getsockname())
        await loop.sock_connect(near, far.getsockname())
        assert near.getpeername() == far.getsockname()

    run(main())


def test_in_debug_mode_a_socket_that_blocks_is_refused(run, pair) -> None:
    near, _ = pair
    near.settimeout(1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        for call in (
            loop.sock_recv(near, 1),
            loop.sock_recv_into(near, bytearray(1)),
            loop.sock_recvfrom(near, 1),
            loop.sock_recvfrom_into(near, bytearray(1)),
            loop.sock_sendall(near, b"x"),
            loop.sock_sendto(near, b"x", ("127.0.0.1", 1)),
            loop.sock_connect(near, ("127.0.0.1", 1)),
            loop.sock_accept(near),
        ):
            with pytest.raises(ValueError, match="the socket must be non-blocking"):
                await call
        loop.set_debug(False)

    run(main())


def test_a_socket_that_the_program_closes_while_one_receives_raises_there(run, ends) -> None:
    near, _ = ends

    async def main() -> None:
        loop = asyncio.get_running_loop()
        waiting = await begun(loop.sock_recv(near, 100))
        near.close()
        with pytest.raises(OSError, match=r"descriptor|socket|handle|10038"):
            await asyncio.wait_for(waiting, PATIENCE)

    run(main())


def test_a_number_that_another_socket_has_by_now_is_that_ones(run, resources) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for said in (b"one", b"two", b"three"):
            near, far = support.tcp_pair()
            near.setblocking(False)
            waiting = await begun(loop.sock_recv(near, 100))
            far.sendall(said)
            assert await waiting == said
            near.close()
            far.close()

    run(main())


@pytest.mark.skipif(has_row("leave-port"), reason="nothing leaves its port there, and to wait for that is in vain")
def test_a_socket_that_is_dropped_without_a_close_is_collected(run, monkeypatch) -> None:
    monkeypatch.setattr(sockets, "IDLE_SECONDS", 0.02)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        near, far = support.tcp_pair()
        near.setblocking(False)
        waiting = await begun(loop.sock_recv(near, 100))
        far.sendall(b"x")
        assert await waiting == b"x"
        reference = weakref.ref(near)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del near, waiting
            while reference() is not None:
                gc.collect()
                await asyncio.sleep(0.01)
        assert far.recv(1) == b""  # the peer hears of it
        far.close()

    run(main())


def test_a_socket_that_calls_have_waited_on_may_become_a_transports(run, ends) -> None:
    near, far = ends

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await cancelled(await begun(loop.sock_recv(near, 100)))
        reader, writer = await asyncio.open_connection(sock=near)
        far.sendall(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await writer.wait_closed()

    run(main())


# Files


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 8000)
    with path.open("rb") as file:
        yield file


CONTENT = bytes(range(256)) * 8000


@pytest.mark.parametrize(("offset", "count"), [(0, None), (1000, 500_000), (len(CONTENT) - 10, 100), (0, 1)])
def test_a_part_of_a_file_is_sent_and_its_position_is_behind_that(
    run, ends, file, offset: int, count: int | None
) -> None:
    near, far = ends
    expected = CONTENT[offset:][:count]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        receiving = asyncio.ensure_future(elsewhere(support.recv_exactly, far, len(expected)))
        assert await loop.sock_sendfile(near, file, offset, count) == len(expected)
        assert await receiving == expected
        assert file.tell() == offset + len(expected)

    run(main())


def test_a_transport_sends_a_file_between_what_is_written(run, pair, file) -> None:
    near, far = pair

    async def main() -> None:
        loop = asyncio.get_running_loop()
        _, writer = await asyncio.open_connection(sock=near)
        receiving = asyncio.ensure_future(elsewhere(support.recv_exactly, far, len(CONTENT) + 8))
        writer.write(b"head")
        sending = asyncio.ensure_future(loop.sendfile(writer.transport, file, fallback=False))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="sendfile"):
            writer.write(b"not now")
        assert await sending == len(CONTENT)
        writer.write(b"tail")
        assert await receiving == b"head" + CONTENT + b"tail"
        writer.close()
        await writer.wait_closed()
        with pytest.raises(RuntimeError, match="clos"):
            await loop.sendfile(writer.transport, file)

    run(main())


def test_a_file_of_which_the_system_knows_nothing_is_sent_all_the_same(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        loop = asyncio.get_running_loop()
        _, writer = await asyncio.open_connection(sock=near)
        assert await loop.sendfile(writer.transport, io.BytesIO(b"content")) == 7
        assert await elsewhere(support.recv_exactly, far, 7) == b"content"
        with pytest.raises(asyncio.SendfileNotAvailableError):
            await loop.sendfile(writer.transport, io.BytesIO(b"content"), fallback=False)
        writer.close()
        await writer.wait_closed()

    run(main())


def test_a_peer_that_leaves_in_the_middle_of_a_file_is_an_error(run, pair, file) -> None:
    near, far = pair

    async def main() -> None:
        loop = asyncio.get_running_loop()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        _, writer = await asyncio.open_connection(sock=near)
        sending = asyncio.ensure_future(loop.sendfile(writer.transport, file))
        await asyncio.sleep(0.01)
        support.reset(far)
        with pytest.raises(ConnectionError):
            await sending
        writer.close()

    run(main())

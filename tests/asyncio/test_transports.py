"""Transports of streams, over real sockets: what a protocol hears, in which order, and what is written."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import socket
import weakref

import pytest
import support
from patience import PATIENCE
from waiting import elsewhere, happens

PIECE = bytes(range(256)) * 256


class Heard(asyncio.Protocol):
    """Notes all that it hears."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.received = bytearray()
        self.transport: asyncio.Transport
        self.error: BaseException | None = None
        self._more = asyncio.Event()
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.events.append("made")

    def data_received(self, data) -> None:
        assert type(data) is bytes
        self.received += data
        self._more.set()

    def eof_received(self) -> bool | None:
        self.events.append("eof")
        self._more.set()
        return None

    def pause_writing(self) -> None:
        self.events.append("paused")

    def resume_writing(self) -> None:
        self.events.append("resumed")

    def connection_lost(self, error) -> None:
        self.events.append("lost")
        self.error = error
        self.lost.set_result(None)

    async def until(self, count: int) -> bytes:
        """What was received, as soon as it is so many bytes."""
        while len(self.received) < count:
            self._more.clear()
            await self._more.wait()
        return bytes(self.received)


class Buffered(Heard, asyncio.BufferedProtocol):
    """The same with a buffer of its own."""

    def __init__(self, size: int = 1 << 16) -> None:
        super().__init__()
        self.buffer = bytearray(size)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes) -> None:
        self.received += self.buffer[:nbytes]
        self._more.set()


async def connected(sock: socket.socket, make=Heard):
    """A protocol on a socket that is connected."""
    transport, protocol = await asyncio.get_running_loop().create_connection(make, sock=sock)
    assert isinstance(transport, asyncio.Transport)
    return transport, protocol


every_kind = pytest.mark.parametrize(
    "make", [Heard, Buffered, lambda: Buffered(1000)], ids=["bytes", "buffer", "small"]
)


@every_kind
@pytest.mark.parametrize("size", [1, 4096, 1_000_000])
def test_all_bytes_come_in_their_order_and_the_end_behind_them(run, pair, make, size: int) -> None:
    near, far = pair
    sent = (PIECE * (size // len(PIECE) + 1))[:size]

    async def main() -> None:
        _, protocol = await connected(near, make)
        await elsewhere(lambda: (support.send_all(far, sent), far.shutdown(socket.SHUT_WR)))
        assert await protocol.until(size) == sent
        await protocol.lost
        assert protocol.events == ["made", "eof", "lost"]
        assert protocol.error is None

    run(main())


def test_a_transport_tells_of_its_socket(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        transport, protocol = await connected(near)
        sock = transport.get_extra_info("socket")
        assert sock.fileno() == near.fileno()
        assert transport.get_extra_info("peername") == far.getsockname()
        assert transport.get_extra_info("sockname") == near.getsockname()
        assert transport.get_extra_info("nothing", 7) == 7
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert "open" in repr(transport)
        assert transport.get_protocol() is protocol
        assert transport.is_reading()
        transport.close()
        assert transport.is_closing()
        await protocol.lost
        assert sock.fileno() == -1

    run(main())


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_all_that_is_written_leaves_in_its_order_whatever_becomes_of_its_buffer(run, pair, kind) -> None:
    near, far = pair

    async def main() -> None:
        transport, _ = await connected(near)
        for number in range(10):
            data = bytearray(b"%d," % number)
            transport.write(kind(data))
            if kind is bytearray:
                data.clear()
        transport.write(b"")
        transport.writelines([b"a", bytearray(b"b"), memoryview(b"c")])
        transport.write_eof()
        assert await elsewhere(support.recv_to_end, far) == b"0,1,2,3,4,5,6,7,8,9,abc"
        transport.close()

    run(main())


def test_what_is_wrong_to_write_raises(run, pair) -> None:
    near, _ = pair

    async def main() -> None:
        transport, protocol = await connected(near)
        for wrong in ("text", 7, None):
            with pytest.raises(TypeError):
                transport.write(wrong)
        assert transport.can_write_eof()
        transport.write_eof()
        transport.write_eof()
        with pytest.raises(RuntimeError, match="write_eof"):
            transport.write(b"x")
        with pytest.raises(ValueError, match="low"):
            transport.set_write_buffer_limits(1, 2)
        transport.close()
        await protocol.lost

    run(main())


def test_after_its_own_end_a_transport_goes_on_receiving(run, pair) -> None:
    near, far = pair

    class Open(Heard):
        def eof_received(self) -> bool:
            super().eof_received()
            return True

    async def main() -> None:
        transport, protocol = await connected(near, Open)
        transport.write(b"x" * 300_000)
        transport.write_eof()
        assert len(await elsewhere(support.recv_to_end, far)) == 300_000
        await elsewhere(support.send_all, far, b"answer")
        await protocol.until(6)
        far.shutdown(socket.SHUT_WR)
        await happens(lambda: "eof" in protocol.events)
        assert not transport.is_closing()
        transport.close()
        await protocol.lost

    run(main())


def test_a_protocol_that_answers_the_peer_after_its_end_may_do_so(run, pair) -> None:
    near, far = pair

    class Open(Heard):
        def eof_received(self) -> bool:
            self.transport.write(b"answer")
            self.transport.write_eof()
            return True

    async def main() -> None:
        transport, protocol = await connected(near, Open)
        far.shutdown(socket.SHUT_WR)
        assert await elsewhere(support.recv_to_end, far) == b"answer"
        transport.close()
        await protocol.lost

    run(main())


@every_kind
def test_a_protocol_that_pauses_reading_is_given_nothing_until_it_resumes_and_loses_nothing(run, pair, make) -> None:
    near, far = pair

    async def main() -> None:
        transport, protocol = await connected(near, make)
        support.send_all(far, b"one")
        await protocol.until(3)
        for _ in range(3):
            transport.pause_reading()
            transport.pause_reading()
            assert not transport.is_reading()
            before = len(protocol.received)
            support.send_all(far, b"more")
            await asyncio.sleep(0.02)
            assert len(protocol.received) == before
            transport.resume_reading()
            transport.resume_reading()
            await protocol.until(before + 4)
        transport.pause_reading()
        support.send_all(far, b"last")
        far.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.02)
        assert "eof" not in protocol.events
        transport.resume_reading()
        await protocol.lost
        assert protocol.received == b"one" + 3 * b"more" + b"last"

    run(main())


def test_pausing_and_resuming_in_the_middle_of_what_came_keeps_its_order(run, pair) -> None:
    near, far = pair
    sent = PIECE * 8

    class Halting(Buffered):
        def buffer_updated(self, nbytes) -> None:
            super().buffer_updated(nbytes)
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self.transport.resume_reading)

    async def main() -> None:
        transport, protocol = await connected(near, lambda: Halting(5000))
        sending = asyncio.ensure_future(elsewhere(support.send_all, far, sent))
        assert await protocol.until(len(sent)) == sent
        await sending
        transport.close()

    run(main())


def test_another_protocol_gets_all_that_the_first_one_has_not_had(run, pair) -> None:
    near, far = pair

    class First(Heard):
        def __init__(self, follower) -> None:
            super().__init__()
            self.follower = follower

        def data_received(self, data) -> None:
            super().data_received(data)
            self.transport.set_protocol(self.follower)

    async def main() -> None:
        follower = Buffered(10)
        transport, first = await connected(near, lambda: First(follower))
        support.send_all(far, b"hello")
        await first.until(5)
        assert transport.get_protocol() is follower
        support.send_all(far, b"to the follower")
        await follower.until(15)
        third = Heard()
        transport.pause_reading()
        support.send_all(far, b"third")
        await asyncio.sleep(0.02)
        transport.set_protocol(third)
        transport.resume_reading()
        assert await third.until(5) == b"third"
        transport.close()
        await third.lost
        assert (first.received, follower.received) == (b"hello", b"to the follower")

    run(main())


MUCH = 2 * support.BIG
"""More than a system takes. Windows takes all of a call that finds room, however much it is, and then no more."""


def write_much(transport: asyncio.WriteTransport) -> None:
    for _ in range(2):
        transport.write(bytes(support.BIG))


def test_a_protocol_that_writes_too_much_is_paused_and_resumed(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        transport, protocol = await connected(near)
        transport.set_write_buffer_limits(high=1000, low=100)
        assert transport.get_write_buffer_limits() == (100, 1000)
        write_much(transport)
        assert transport.get_write_buffer_size() > 1000
        assert protocol.events == ["made", "paused"]
        reading = asyncio.ensure_future(elsewhere(support.recv_exactly, far, MUCH))
        await happens(lambda: "resumed" in protocol.events)
        assert transport.get_write_buffer_size() <= 100
        await reading
        transport.close()
        await protocol.lost
        assert protocol.events == ["made", "paused", "resumed", "lost"]

    run(main())


def test_close_sends_what_was_written_and_abort_lets_it_go(run, make_pair) -> None:
    async def main() -> None:
        for end, sends_all in (("close", True), ("abort", False)):
            near, far = make_pair()
            transport, protocol = await connected(near)
            write_much(transport)
            getattr(transport, end)()
            assert transport.is_closing()
            received = await elsewhere(lambda far=far: len(until_end_or_reset(far)))
            await protocol.lost
            assert protocol.error is None
            assert (received == MUCH) is sends_all
            transport.close()
            transport.abort()

    run(main())


def until_end_or_reset(sock: socket.socket) -> bytes:
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while chunk := sock.recv(1 << 20):
            received += chunk
    return bytes(received)


def test_a_close_while_the_peer_sends_hears_no_more_of_it(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        transport, protocol = await connected(near)
        transport.close()
        with contextlib.suppress(ConnectionError):
            support.send_all(far, b"late")
        await protocol.lost
        assert not protocol.received
        assert protocol.events == ["made", "lost"]

    run(main())


def test_writes_to_a_connection_that_is_lost_go_and_are_told_of_after_some(run, pair, caplog) -> None:
    near, far = pair

    async def main() -> None:
        transport, protocol = await connected(near)
        support.reset(far)
        await protocol.lost
        with caplog.at_level(logging.WARNING, "asyncio"):
            for _ in range(10):
                transport.write(b"x")
        assert "socket.send() raised exception" in caplog.text
        assert transport.get_write_buffer_size() == 0

    run(main())


def test_a_peer_that_resets_is_told_to_the_protocol_as_an_error(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        _, protocol = await connected(near)
        support.reset(far)
        await protocol.lost
        assert isinstance(protocol.error, ConnectionResetError)

    run(main())


def test_a_peer_that_resets_in_the_middle_of_a_write_ends_the_connection(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        transport, protocol = await connected(near)
        transport.write(bytes(support.BIG))
        await asyncio.sleep(0.01)
        support.reset(far)
        await protocol.lost
        assert isinstance(protocol.error, ConnectionError)

    run(main())


@pytest.mark.parametrize("method", ["data_received", "eof_received", "buffer_updated", "get_buffer"])
def test_a_protocol_that_raises_is_reported_and_its_connection_is_lost(run, pair, method: str) -> None:
    near, far = pair
    found: list[dict] = []

    def fail(*_) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
        _, protocol = await connected(near, Buffered if "buffer" in method else Heard)
        setattr(protocol, method, fail)
        support.send_all(far, b"x")
        far.shutdown(socket.SHUT_WR)
        await protocol.lost
        assert isinstance(protocol.error, ZeroDivisionError)

    run(main())
    assert [type(each["exception"]) for each in found] == [ZeroDivisionError]


@pytest.mark.parametrize("method", ["pause_writing", "resume_writing"])
def test_flow_control_that_raises_is_reported_and_the_connection_goes_on(run, pair, method: str) -> None:
    near, far = pair
    found: list[dict] = []

    def fail() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
        transport, protocol = await connected(near)
        setattr(protocol, method, fail)
        write_much(transport)
        assert len(await elsewhere(support.recv_exactly, far, MUCH)) == MUCH
        await happens(lambda: found)
        transport.close()
        await protocol.lost

    run(main())
    assert [type(each["exception"]) for each in found] == [ZeroDivisionError]


def test_a_connection_made_that_raises_is_reported_and_the_connection_goes_on(run, pair) -> None:
    near, far = pair
    found: list[dict] = []

    class Failing(Heard):
        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            raise ZeroDivisionError

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
        transport, protocol = await connected(near, Failing)
        support.send_all(far, b"hello")
        await protocol.until(5)
        transport.close()

    run(main())
    assert [type(each["exception"]) for each in found] == [ZeroDivisionError]


def test_a_protocol_is_called_in_the_context_in_which_its_connection_was_made(run, pair) -> None:
    near, far = pair
    variable = contextvars.ContextVar("variable", default="none")
    heard: list[tuple[str, str]] = []

    class Noting(asyncio.Protocol):
        def __getattribute__(self, name: str):
            if name in {"connection_made", "data_received", "eof_received", "connection_lost", "pause_writing"}:
                heard.append((name, variable.get()))
            return super().__getattribute__(name)

    async def main() -> None:
        variable.set("made here")
        transport, _ = await connected(near, Noting)
        variable.set("changed")
        support.send_all(far, b"x")
        far.shutdown(socket.SHUT_WR)
        await happens(lambda: ("connection_lost", "made here") in heard)
        transport.close()

    run(main())
    assert {context for _, context in heard} == {"made here"}
    assert [name for name, _ in heard] == ["connection_made", "data_received", "eof_received", "connection_lost"]


def test_a_write_of_one_turn_leaves_as_one_send(run, pair) -> None:
    near, far = pair

    async def main() -> None:
        transport, protocol = await connected(near)
        for _ in range(100):
            transport.write(b"x")
        assert transport.get_write_buffer_size() == 100
        await elsewhere(support.arrived, far)
        assert len(far.recv(1000)) == 100
        transport.close()
        await protocol.lost

    run(main())


def test_a_transport_and_its_protocol_are_gone_when_the_connection_is(run, pair) -> None:
    near, far = pair

    async def main() -> list[weakref.ref]:
        transport, protocol = await connected(near)
        support.send_all(far, b"x")
        await protocol.until(1)
        transport.write(b"answer")
        transport.close()
        await protocol.lost
        return [weakref.ref(transport), weakref.ref(protocol)]

    gc.disable()
    try:
        references = run(main())
        gone = [reference() is None for reference in references]
    finally:
        gc.enable()
    assert gone == [True, True]


def test_a_transport_that_nobody_closes_warns_when_its_loop_is_gone(run, pair) -> None:
    near, _ = pair

    async def main() -> None:
        await connected(near)

    def end() -> None:
        run(main())
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed transport"):
        end()
    assert near.fileno() == -1


def test_an_echo_of_many_connections_loses_nothing(run) -> None:
    class Echo(asyncio.Protocol):
        def connection_made(self, transport) -> None:
            self.transport = transport

        def data_received(self, data) -> None:
            self.transport.write(data)

    async def speak(address, number: int) -> None:
        reader, writer = await asyncio.open_connection(*address)
        for size in (1, 1000, 70_000, 3):
            said = bytes([number]) * size
            writer.write(said[: size // 2])
            writer.write(said[size // 2 :])
            assert await asyncio.wait_for(reader.readexactly(size), PATIENCE) == said
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
        async with server:
            await asyncio.gather(*(speak(server.sockets[0].getsockname(), number) for number in range(100)))

    run(main())

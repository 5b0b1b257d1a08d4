"""Datagram endpoints: what comes, what leaves, and that what becomes of one datagram ends nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support
from awaits import until

HERE = ("127.0.0.1", 0)

local = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this Python has no AF_UNIX")


class Endpoint(asyncio.DatagramProtocol):
    """A protocol that notes what it is told."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()
        self.errors: asyncio.Queue[Exception] = asyncio.Queue()
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self.told: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.told.append("made")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.put_nowait((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.errors.put_nowait(exc)

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


async def endpoint(**options: Any) -> tuple[asyncio.DatagramTransport, Endpoint]:
    return await asyncio.get_running_loop().create_datagram_endpoint(Endpoint, **options)


async def bound() -> tuple[asyncio.DatagramTransport, Endpoint, Any]:
    transport, protocol = await endpoint(local_addr=HERE)
    return transport, protocol, transport.get_extra_info("sockname")


def test_datagrams_come_whole_with_their_senders(run) -> None:
    async def main() -> None:
        transport, protocol, address = await bound()
        other, answers, sender = await bound()
        for data in (b"one", b"", bytes(60_000)):
            other.sendto(data, address)
            assert await protocol.received.get() == (data, sender)
        transport.sendto(b"answer", sender)
        assert await answers.received.get() == (b"answer", address)
        assert transport.get_extra_info("peername") is None
        transport.close()
        other.close()
        assert await protocol.lost is None

    run(main())


def test_a_connected_endpoint_sends_to_its_peer_and_to_nobody_else(run) -> None:
    async def main() -> None:
        transport, protocol, address = await bound()
        other, answers = await endpoint(remote_addr=address)
        other.sendto(b"one")
        data, sender = await protocol.received.get()
        assert (data, other.get_extra_info("peername")) == (b"one", address)
        with pytest.raises(ValueError, match="Invalid address"):
            other.sendto(b"two", ("127.0.0.1", 9))
        other.sendto(b"")
        assert (await protocol.received.get())[0] == b""
        transport.sendto(b"answer", sender)
        assert await answers.received.get() == (b"answer", address)
        transport.close()
        other.close()

    run(main())


def test_an_endpoint_that_may_broadcast_has_an_address_and_no_peer(run) -> None:
    async def main() -> None:
        transport, protocol, address = await bound()
        other, _ = await endpoint(remote_addr=address, allow_broadcast=True)
        assert other.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
        assert other.get_extra_info("peername") is None
        other.sendto(b"one")
        assert (await protocol.received.get())[0] == b"one"
        transport.close()
        other.close()

    run(main())


def test_many_datagrams_of_one_turn_leave_in_their_order(run) -> None:
    async def main() -> None:
        transport, protocol, address = await bound()
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        other, _ = await endpoint(remote_addr=address)
        for number in range(200):
            other.sendto(b"%d" % number)
        assert [int((await protocol.received.get())[0]) for _ in range(200)] == list(range(200))
        transport.close()
        other.close()

    run(main())


def test_what_was_sent_before_a_close_leaves(run) -> None:
    async def main() -> None:
        transport, protocol, address = await bound()
        other, its = await endpoint(remote_addr=address)
        for number in range(100):
            other.sendto(b"%d" % number)
        other.close()
        other.close()
        assert other.is_closing()
        assert await its.lost is None
        assert [int((await protocol.received.get())[0]) for _ in range(100)] == list(range(100))
        transport.close()

    run(main())


def test_an_abort_tells_of_the_end_once_and_sends_in_vain_are_let_be(run) -> None:
    async def main() -> None:
        transport, protocol, address = await bound()
        transport.abort()
        transport.abort()
        transport.close()
        transport.sendto(b"late", address)
        assert await protocol.lost is None
        assert "closed" in repr(transport)

    run(main())


def test_a_peer_that_is_not_there_is_told_of_and_breaks_nothing(run) -> None:
    with support.datagram_socket() as free:
        nobody = free.getsockname()

    async def main() -> None:
        transport, protocol, address = await bound()
        for _ in range(3):
            transport.sendto(b"anyone?", nobody)
        other, _, sender = await bound()
        await asyncio.sleep(0.01)
        other.sendto(b"me", address)
        assert await protocol.received.get() == (b"me", sender)
        transport.sendto(b"you", sender)
        transport.close()
        other.close()

    run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows, or Wine, may be late with the error")
def test_a_connected_peer_that_is_not_there_is_an_error_of_the_protocol(run) -> None:
    with support.datagram_socket() as free:
        nobody = free.getsockname()

    async def main() -> None:
        transport, protocol = await endpoint(remote_addr=nobody)
        for _ in range(10):
            transport.sendto(b"anyone?")
            assert isinstance(await protocol.errors.get(), ConnectionRefusedError)
        with socket.socket(type=socket.SOCK_DGRAM) as late:
            late.bind(nobody)
            late.sendto(b"I am", transport.get_extra_info("sockname"))
            assert await protocol.received.get() == (b"I am", nobody)
            late.setblocking(False)
            transport.sendto(b"now?")
            assert await asyncio.get_running_loop().sock_recv(late, 16) == b"now?"
        transport.close()
        assert await protocol.lost is None

    run(main())


def test_a_datagram_that_is_too_large_fails_alone(run) -> None:
    async def main() -> None:
        transport, protocol, address = await bound()
        other, its = await endpoint(remote_addr=address)
        other.sendto(bytes(70_000))
        assert isinstance(await its.errors.get(), OSError)
        other.sendto(b"small")
        assert (await protocol.received.get())[0] == b"small"
        transport.close()
        other.close()

    run(main())


def test_names_are_looked_up_and_those_that_come_later_wait_for_them(run) -> None:
    async def main() -> None:
        transport, protocol, address = await bound()
        other, its, _ = await bound()
        other.sendto(b"one", ("localhost", address[1]))
        other.sendto(b"two", address)
        assert [(await protocol.received.get())[0] for _ in range(2)] == [b"one", b"two"]
        other.sendto(b"lost", ("no.such.name.invalid", address[1]))
        other.sendto(b"three", address)
        assert isinstance(await its.errors.get(), socket.gaierror)
        assert (await protocol.received.get())[0] == b"three"
        transport.close()
        other.close()

    run(main())


def test_what_is_wrong_is_refused_and_changes_nothing(run) -> None:
    async def main() -> None:
        transport, protocol, address = await bound()
        with pytest.raises(TypeError, match="bytes-like"):
            transport.sendto("text", address)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="no address"):
            transport.sendto(b"to nobody")
        with pytest.raises(TypeError):
            transport.sendto(b"to a number", 7)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="port number"):
            transport.sendto(b"to no port", ("127.0.0.1", 70_000))
        assert transport.get_write_buffer_size() == 0  # type: ignore[attr-defined]
        transport.sendto(bytearray(b"to me"), address)
        assert await protocol.received.get() == (b"to me", address)
        transport.close()

    run(main())


def test_a_protocol_that_raises_is_reported_and_hears_of_the_next(run) -> None:
    class Fails(Endpoint):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            raise ArithmeticError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reported: list[Exception] = []
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
        transport, protocol = await loop.create_datagram_endpoint(Fails, local_addr=HERE)
        for _ in range(3):
            transport.sendto(b"x", transport.get_extra_info("sockname"))
            await protocol.received.get()
        await asyncio.sleep(0)
        assert [type(each) for each in reported] == [ArithmeticError] * 3
        transport.close()

    run(main())


def test_a_socket_of_the_programs_becomes_an_endpoint(run, resources) -> None:
    sock = resources.enter_context(support.datagram_socket())

    async def main() -> None:
        transport, protocol = await endpoint(sock=sock)
        with support.datagram_socket() as other:
            other.sendto(b"hello", sock.getsockname())
            assert await protocol.received.get() == (b"hello", other.getsockname())
        transport.close()
        await protocol.lost
        assert sock.fileno() == -1

    run(main())


def test_an_endpoint_that_is_dropped_open_is_warned_of(run) -> None:
    async def main() -> None:
        transport, protocol, _ = await bound()
        with pytest.warns(ResourceWarning, match="unclosed transport"):
            transport.__del__()  # type: ignore[attr-defined]
        transport.abort()
        await protocol.lost

    run(main())


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_ipv6_is_no_different(run) -> None:
    try:
        with contextlib.closing(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as sock:
            sock.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")

    async def main() -> None:
        transport, protocol = await endpoint(local_addr=("::1", 0))
        other, _ = await endpoint(remote_addr=transport.get_extra_info("sockname")[:2])
        other.sendto(b"six")
        data, sender = await protocol.received.get()
        assert (data, sender) == (b"six", other.get_extra_info("sockname"))
        transport.close()
        other.close()

    run(main())


@local
def test_local_datagrams_go_to_paths(run, short_path: Callable[[str], Path]) -> None:
    async def main() -> None:
        here, there = str(short_path("a")), str(short_path("b"))
        transport, protocol = await endpoint(family=socket.AF_UNIX, local_addr=here)
        other, its = await endpoint(family=socket.AF_UNIX, local_addr=there, remote_addr=here)
        other.sendto(b"one")
        assert await protocol.received.get() == (b"one", there)
        transport.sendto(b"two", there)
        assert await its.received.get() == (b"two", here)
        transport.sendto(bytes(100_000), there)
        assert await its.received.get() == (bytes(100_000), here)
        transport.close()
        other.close()

    run(main())


@local
def test_a_pair_of_local_sockets_needs_no_paths(run, resources) -> None:
    near, far = map(resources.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))

    async def main() -> None:
        transport, _ = await endpoint(sock=near)
        other, its = await endpoint(sock=far)
        transport.sendto(b"one")
        assert (await its.received.get())[0] == b"one"
        transport.close()
        other.close()

    run(main())


@local
def test_a_full_peer_pauses_the_protocol_until_it_has_read(run, resources) -> None:
    near, far = map(resources.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))

    async def main() -> None:
        transport, protocol = await endpoint(sock=near)
        far.setblocking(False)
        loop = asyncio.get_running_loop()
        sent = 0
        while protocol.told[-1] != "pause":
            transport.sendto(b"%d" % sent + bytes(4096))
            sent += 1
        for number in range(sent):
            assert (await loop.sock_recv(far, 8192)).rstrip(b"\0") == b"%d" % number
        await until(lambda: protocol.told == ["made", "pause", "resume"])
        assert transport.get_write_buffer_size() == 0  # type: ignore[attr-defined]
        transport.close()
        assert await protocol.lost is None

    run(main())


@local
def test_sends_that_fail_while_the_protocol_pauses_have_it_go_on(run, resources) -> None:
    near, far = map(resources.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))

    async def main() -> None:
        transport, protocol = await endpoint(sock=near)
        while protocol.told[-1] != "pause":
            transport.sendto(bytes(4096))
        far.close()
        assert isinstance(await protocol.errors.get(), ConnectionError)
        await until(lambda: protocol.told == ["made", "pause", "resume"])
        assert transport.get_write_buffer_size() == 0  # type: ignore[attr-defined]
        transport.close()
        assert await protocol.lost is None

    run(main())


@local
def test_a_close_waits_for_what_a_full_peer_has_to_read_first(run, resources) -> None:
    near, far = map(resources.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))

    async def main() -> None:
        transport, protocol = await endpoint(sock=near)
        far.setblocking(False)
        loop = asyncio.get_running_loop()
        sent = 0
        while not transport.get_write_buffer_size():  # type: ignore[attr-defined]
            transport.sendto(bytes(4096))
            sent += 1
        transport.sendto(b"last")
        transport.close()
        assert transport.is_closing()
        for _ in range(sent):
            assert await loop.sock_recv(far, 8192) == bytes(4096)
        assert await loop.sock_recv(far, 8192) == b"last"
        assert await protocol.lost is None

    run(main())

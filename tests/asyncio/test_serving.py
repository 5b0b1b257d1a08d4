"""Servers: connections that are accepted, and what goes wrong with some of them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import socket
import sys

import pytest
import support
from patience import PATIENCE
from waiting import elsewhere, happens

from unio.asyncio import serving


class Answering(asyncio.Protocol):
    """Says hello."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport

    def connection_made(self, transport) -> None:
        self.transport = transport
        transport.write(b"hello")


def greeted(address) -> bytes:
    with socket.create_connection(address, PATIENCE) as client:
        return support.recv_exactly(client, 5)


async def served(make=Answering):
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()


def test_many_connections_at_once_are_all_served(run) -> None:
    async def main() -> None:
        server, address = await served()
        clients = [socket.create_connection(address, PATIENCE) for _ in range(60)]
        for client in clients:
            assert await elsewhere(support.recv_exactly, client, 5) == b"hello"
            client.close()
        server.close()
        await server.wait_closed()

    run(main())


def test_a_server_that_is_closed_accepts_no_more_and_its_port_is_free(run) -> None:
    async def main() -> None:
        for _ in range(2):
            server, address = await served()
            assert await elsewhere(greeted, address) == b"hello"
            server.close()
            server.close()
            await server.wait_closed()
            with pytest.raises(ConnectionError):
                await elsewhere(greeted, address)
            again = socket.socket()
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(address)
            again.close()

    run(main())


@pytest.mark.parametrize("step", ["factory", "made"])
def test_a_connection_that_cannot_be_served_is_reported_and_the_next_ones_are(run, step: str) -> None:
    found: list[dict] = []
    left = [True]

    class Failing(Answering):
        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            if step == "made" and left:
                left.clear()
                raise ZeroDivisionError

    def make() -> asyncio.Protocol:
        if step == "factory" and left:
            left.clear()
            raise ZeroDivisionError
        return Failing()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
        server, address = await served(make)
        with contextlib.suppress(AssertionError, ConnectionError):
            await elsewhere(greeted, address)
        assert await elsewhere(greeted, address) == b"hello"
        server.close()

    run(main())
    assert [type(each["exception"]) for each in found] == [ZeroDivisionError]


def test_protocols_are_made_in_the_context_of_who_has_asked_for_the_server(run) -> None:
    variable = contextvars.ContextVar("variable", default="none")
    seen: list[str] = []

    def make() -> asyncio.Protocol:
        seen.append(variable.get())
        return Answering()

    async def main() -> None:
        variable.set("asked here")
        server, address = await served(make)
        variable.set("changed")
        assert await elsewhere(greeted, address) == b"hello"
        server.close()

    run(main())
    assert seen == ["asked here"]


def test_a_client_that_leaves_before_it_is_served_ends_nothing(run) -> None:
    async def main() -> None:
        server, address = await served()
        for _ in range(20):
            support.reset(socket.create_connection(address, PATIENCE))
        assert await elsewhere(greeted, address) == b"hello"
        server.close()

    run(main())


@pytest.mark.process_wide
def test_a_listener_for_which_no_descriptor_is_left_rests_and_goes_on(run, monkeypatch) -> None:
    resource = pytest.importorskip("resource", reason="descriptors have no such limit on Windows")
    monkeypatch.setattr(serving, "REST_SECONDS", 0.05)
    found: list[dict] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
        server, address = await served()
        assert await elsewhere(greeted, address) == b"hello"
        # More than there are accepts that wait: for these, io_uring goes by the limit that there was as they began.
        clients = [socket.socket() for _ in range(serving.ACCEPTS + 2)]
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(each.fileno() for each in clients) + 8, before[1]))
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(socket.socket())
            for client in clients:
                client.settimeout(PATIENCE)
                client.connect(address)
            await happens(lambda: found)
        finally:
            for each in taken:
                each.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for client in clients:
            assert await elsewhere(support.recv_exactly, client, 5) == b"hello"
            client.close()
        server.close()

    run(main())
    assert {each["exception"].errno for each in found} <= {errno.EMFILE, errno.ENFILE}


def test_a_listening_socket_that_the_program_closes_itself_is_forgotten(run) -> None:
    async def main() -> None:
        listening = support.listener()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Answering, sock=listening)
        assert await elsewhere(greeted, listening.getsockname()) == b"hello"
        listening.close()
        await asyncio.sleep(0.1)
        server.close()

    run(main())


def test_a_server_that_does_not_start_serving_at_once_does_so_when_asked(run) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, start_serving=False)
        assert not server.is_serving()
        await server.start_serving()
        assert server.is_serving()
        assert await elsewhere(greeted, server.sockets[0].getsockname()) == b"hello"
        forever = asyncio.ensure_future(server.serve_forever())
        await asyncio.sleep(0)
        forever.cancel()
        with pytest.raises(asyncio.CancelledError):
            await forever
        assert not server.is_serving()

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="servers close their clients from Python 3.13 on")
@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
def test_a_server_closes_its_clients_where_it_is_asked_to(run, how: str) -> None:
    async def main() -> None:
        server, address = await served()
        client = socket.create_connection(address, PATIENCE)
        assert await elsewhere(support.recv_exactly, client, 5) == b"hello"
        server.close()
        getattr(server, how)()
        await server.wait_closed()
        with contextlib.suppress(ConnectionError):
            assert await elsewhere(client.recv, 1) == b""
        client.close()

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="before Python 3.12 a server did not wait for its connections")
def test_a_server_has_closed_when_its_last_connection_has(run) -> None:
    async def main() -> None:
        server, address = await served()
        client = socket.create_connection(address, PATIENCE)
        assert await elsewhere(support.recv_exactly, client, 5) == b"hello"
        server.close()
        closed = asyncio.ensure_future(server.wait_closed())
        await asyncio.sleep(0.02)
        assert not closed.done()
        client.close()
        await closed

    run(main())


def test_a_connection_that_cannot_be_made_leaves_no_descriptor(run) -> None:
    async def main() -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*bound.getsockname())

    run(main())


def test_a_connect_that_is_cancelled_leaves_no_descriptor(run, resources) -> None:
    address = support.full_listener(resources)

    async def main() -> None:
        connecting = asyncio.ensure_future(asyncio.open_connection(*address))
        await asyncio.sleep(0.05)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting

    run(main())

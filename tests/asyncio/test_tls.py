"""TLS on the loop's transports: bytes, what is known of a connection, flow, and TLS that begins later."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import weakref
from typing import Any

import pytest
from certificates import CLIENT, VERSIONS, client_context, server_context
from encrypted import Buffered, Echo, Noted, connected, in_ssl, received, serving, shake_hands, until
from patience import PATIENCE

MIB = 1 << 20


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    return request.param


# Bytes


@pytest.mark.parametrize("size", [1, 256, 16384, 16385, 3 * MIB])
def test_bytes_come_back_as_they_went(run, version: ssl.TLSVersion, size: int) -> None:
    message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

    async def main() -> None:
        async with serving(Echo, server_context(version)) as (address, _):
            transport, protocol = await connected(Noted, address)
            transport.write(message)
            assert await protocol.has(size) == message
            transport.close()
            await protocol.lost
            assert [each for each in protocol.events if each not in {"pause", "resume"}] == ["made", "eof", "lost"]
            assert protocol.error is None

    run(main())


def test_a_client_of_pythons_own_is_served(run, version: ssl.TLSVersion) -> None:
    def talk(sock: ssl.SSLSocket) -> bytes:
        sock.sendall(b"x" * MIB)
        data = received(sock, MIB)
        sock.unwrap()
        return data

    async def main() -> None:
        async with serving(Echo, server_context(version)) as (address, made):
            assert await in_ssl(address, talk) == b"x" * MIB
            await made[0].lost
            assert made[0].error is None
            assert [each for each in made[0].events if each not in {"pause", "resume"}] == ["made", "eof", "lost"]

    run(main())


def test_what_one_turn_writes_leaves_as_one_record(run, version: ssl.TLSVersion) -> None:
    # TLS 1.2 and 1.3 both have a record of its own for each call of SSL_write.
    async def main() -> None:
        async with serving(Noted, server_context(version)) as (address, made):
            with socket.create_connection(address, PATIENCE) as sock:
                loop = asyncio.get_running_loop()
                tls, incoming, outgoing = await shake_hands(sock, client_context(version))
                tls.write(b"go")
                await loop.sock_sendall(sock, outgoing.read())
                await until(lambda: made)
                assert await made[0].has(2) == b"go"
                for part in (b"head", bytearray(b"er"), memoryview(b"body")):
                    made[0].transport.write(part)
                data = b""
                while not data:
                    incoming.write(await loop.sock_recv(sock, 65536))
                    with contextlib.suppress(ssl.SSLWantReadError):
                        data = tls.read(100)  # not more than one record
                assert data == b"headerbody"
                made[0].transport.abort()

    run(main())


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_a_buffer_of_the_protocols_own_is_filled(run, size: int) -> None:
    message = bytes(range(250)) * 1000

    async def main() -> None:
        async with serving(lambda: Buffered(size)) as (address, made):
            transport, protocol = await connected(Noted, address)
            transport.write(message)
            assert await protocol.has(len(message)) == message
            assert bytes(made[0].data) == message
            transport.close()
            await protocol.lost

    run(main())


def test_an_object_that_is_written_may_change_afterwards(run) -> None:
    async def main() -> None:
        async with serving(Echo) as (address, _):
            transport, protocol = await connected(Noted, address)
            data = bytearray(b"before")
            transport.write(data)
            data[:] = b"behind"
            transport.write(memoryview(data))
            assert await protocol.has(12) == b"beforebehind"
            with pytest.raises(TypeError):
                transport.write("text")
            transport.close()
            await protocol.lost

    run(main())


# What is known of a connection


def test_what_the_handshake_has_agreed_on_is_told(run, version: ssl.TLSVersion) -> None:
    server, client = server_context(version, wants_certificate=True), client_context(version)
    client.load_cert_chain(*CLIENT)
    for context in (server, client):
        context.set_alpn_protocols(["h2", "http/1.1"])

    async def main() -> None:
        async with serving(Noted, server) as (address, made):
            transport, protocol = await connected(Noted, address, client)
            transport.write(b"!")
            await until(lambda: made and made[0].data)
            for each, context in ((transport, client), (made[0].transport, server)):
                tls = each.get_extra_info("ssl_object")
                assert tls.version() == version.name.replace("_", ".")
                assert tls.selected_alpn_protocol() == "h2"
                assert each.get_extra_info("cipher") == tls.cipher()
                assert each.get_extra_info("compression") is None
                assert each.get_extra_info("sslcontext") is context
                assert each.get_extra_info("peercert")["subject"]
                assert each.get_extra_info("socket").getsockname() == each.get_extra_info("sockname")
                assert each.get_extra_info("nothing", 5) == 5
            transport.close()
            await protocol.lost
            assert transport.get_extra_info("peername") == address  # also when it is over

    run(main())


def test_the_name_that_the_client_asks_for_chooses_the_context(run) -> None:
    asked, other = [], server_context()
    context = server_context()

    def choose(tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        asked.append(name)
        tls.context = other

    context.sni_callback = choose  # type: ignore[assignment]

    async def main() -> None:
        async with serving(Echo, context) as (address, made):
            transport, protocol = await connected(Noted, address)
            transport.write(b"x")
            await protocol.has(1)
            assert asked == ["localhost"]
            assert made[0].transport.get_extra_info("ssl_object").context is other
            transport.close()
            await protocol.lost

    run(main())


# Flow


def test_a_protocol_that_pauses_is_handed_nothing_until_it_resumes(run) -> None:
    size = 4 * MIB

    async def main() -> None:
        async with serving(Noted) as (address, made):
            transport, protocol = await connected(Noted, address)
            transport.write(b"x")
            await until(lambda: made and made[0].data)
            made[0].transport.pause_reading()
            assert not made[0].transport.is_reading()
            transport.write(bytes(size))
            for _ in range(200):
                await asyncio.sleep(0)
            assert len(made[0].data) == 1
            made[0].transport.resume_reading()
            assert len(await made[0].has(1 + size)) == 1 + size
            transport.close()
            await protocol.lost
            assert [each for each in protocol.events if each != "made"][-2:] == ["eof", "lost"]

    run(main())


@pytest.mark.parametrize(
    ("limits", "size"), [((None, None), 8 * MIB), ((0, 0), 8 * MIB), ((0, 0), 1), ((1000, 10), 200_000)]
)
def test_a_protocol_that_writes_too_much_is_asked_to_pause_and_to_go_on(run, limits: tuple, size: int) -> None:
    async def main() -> None:
        async with serving(Noted) as (address, made):
            transport, protocol = await connected(Noted, address)
            transport.set_write_buffer_limits(*limits)
            low, high = transport.get_write_buffer_limits()
            assert limits in ((None, None), (high, low))
            transport.write(b"x" * size)
            assert protocol.events == ["made", "pause"]
            assert transport.get_write_buffer_size() >= size
            assert len(await made[0].has(size)) == size
            await until(lambda: "resume" in protocol.events)
            assert transport.get_write_buffer_size() <= low
            assert protocol.events == ["made", "pause", "resume"]
            transport.close()
            await protocol.lost

    run(main())


def test_a_protocol_that_resumes_and_closes_at_once_hears_of_the_peers_end(run) -> None:
    async def main() -> None:
        async with serving(Noted) as (address, made):
            transport, protocol = await connected(Noted, address)
            transport.write(b"x")
            await until(lambda: made and made[0].data)
            made[0].transport.pause_reading()
            await asyncio.sleep(0)
            made[0].transport.resume_reading()
            made[0].transport.close()
            await made[0].lost
            assert made[0].error is None
            assert made[0].events == ["made", "eof", "lost"]
            await protocol.lost

    run(main())


# start_tls


@pytest.mark.parametrize("layers", [1, 2])
def test_a_connection_is_encrypted_later_and_once_more_in_itself(run, layers: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ends: list[Any] = []

        class Upgrades(Echo):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                ends.append(asyncio.ensure_future(upgrade(transport, self)))

        async def upgrade(transport: Any, protocol: Noted) -> None:
            for _ in range(layers):
                transport = await loop.start_tls(transport, protocol, server_context(), server_side=True)
            protocol.transport = transport

        server = await loop.create_server(Upgrades, "127.0.0.1", 0)
        async with server:
            transport, protocol = await loop.create_connection(Noted, *server.sockets[0].getsockname())
            plain = transport
            for _ in range(layers):
                transport = await loop.start_tls(transport, protocol, client_context(), server_hostname="localhost")
            assert transport is not plain
            assert transport.get_protocol() is protocol
            transport.write(b"x" * MIB)
            assert await protocol.has(MIB) == b"x" * MIB
            transport.close()
            await protocol.lost
            assert protocol.events.count("made") == 1
            await asyncio.gather(*ends)

    run(main())


def test_what_can_not_be_encrypted_is_refused(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(TypeError, match="SSLContext"):
            await loop.start_tls(asyncio.Transport(), Noted(), None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="not supported"):
            await loop.start_tls(asyncio.Transport(), Noted(), client_context())  # type: ignore[arg-type]

    run(main())


def test_asyncios_streams_start_tls(run) -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.readline() == b"STARTTLS\n"
            writer.write(b"go\n")
            await writer.start_tls(server_context())
            writer.write(await reader.readline())
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"STARTTLS\n")
            assert await reader.readline() == b"go\n"
            await writer.start_tls(client_context(), server_hostname="localhost")
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    run(main())


# Memory


def test_a_connection_that_is_over_keeps_nothing(run) -> None:
    async def main() -> None:
        context = client_context()
        known = weakref.ref(context)
        async with serving(Noted) as (address, _):
            transport, protocol = await connected(Noted, address, context)
            transport.close()
            await protocol.lost
            await asyncio.sleep(0)
            gc.disable()
            try:
                del transport, protocol, context
                await asyncio.sleep(0)
                assert known() is None
            finally:
                gc.enable()

    run(main())

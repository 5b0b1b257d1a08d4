"""TLS on the loop's transports: handshakes that fail, and how connections end, in order and otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from typing import Any

import pytest
from certificates import VERSIONS, client_context, server_context
from encrypted import Buffered, Echo, Noted, connected, in_ssl, received, serving, shake_hands, until
from patience import PATIENCE

MIB = 1 << 20


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    return request.param


# Handshakes that fail


def test_a_certificate_that_nobody_has_signed_is_refused_and_the_peer_is_told(run, version: ssl.TLSVersion) -> None:
    async def main() -> None:
        async with serving(Noted, server_context(version)) as (address, made):
            with pytest.raises(ssl.SSLCertVerificationError):
                await connected(Noted, address, client_context(version, trusts=False))
            assert made == [] or made[0].events == []

    run(main())


def test_a_name_that_is_not_the_servers_is_refused(run) -> None:
    async def main() -> None:
        async with serving(Noted) as (address, made):
            with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
                await connected(Noted, address, server_hostname="elsewhere.example")
            assert made[0].events == []

    run(main())


def test_the_peer_of_a_refused_certificate_hears_an_alert(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        listening = socket.create_server(("127.0.0.1", 0))

        def serve() -> str:
            with listening:
                sock, _ = listening.accept()
            sock.settimeout(PATIENCE)
            with sock, pytest.raises(ssl.SSLError) as raised:
                server_context(ssl.TLSVersion.TLSv1_2).wrap_socket(sock, server_side=True)
            return str(raised.value)

        said = loop.run_in_executor(None, serve)
        with pytest.raises(ssl.SSLCertVerificationError):
            await connected(Noted, listening.getsockname(), client_context(trusts=False))
        assert "alert" in (await said).lower()

    run(main())


def test_a_client_that_speaks_no_tls_hurts_nobody(run) -> None:
    async def main() -> None:
        async with serving(Echo) as (address, made):
            with socket.create_connection(address, PATIENCE) as plain:
                plain.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
                await asyncio.get_running_loop().run_in_executor(None, plain.recv, 100)
            transport, protocol = await connected(Noted, address)
            transport.write(b"x")
            await protocol.has(1)
            assert made[0].events == []
            transport.close()
            await protocol.lost

    run(main())


@pytest.mark.parametrize("resets", [False, True], ids=["ends", "resets"])
def test_a_peer_that_leaves_in_the_handshake_is_an_error_of_the_waiter(run, resets: bool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def serve() -> None:
                sock, _ = listening.accept()
                sock.recv(1000)
                if resets:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()

            serving = loop.run_in_executor(None, serve)
            made = []

            def make() -> Noted:
                made.append(Noted())
                return made[-1]

            with pytest.raises(ConnectionResetError):
                await connected(make, listening.getsockname())
            await serving
            assert made[0].events == []

    run(main())


def test_a_handshake_that_takes_too_long_is_given_up_at_both_ends(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            began = loop.time()
            with pytest.raises(ConnectionAbortedError, match="longer than"):
                await connected(Noted, listening.getsockname(), ssl_handshake_timeout=0.05)
            assert loop.time() - began >= 0.05
        async with serving(Noted, ssl_handshake_timeout=0.05) as (address, made):
            with socket.create_connection(address, PATIENCE) as silent:
                assert await loop.run_in_executor(None, silent.recv, 100) == b""
            assert made[0].events == []

    run(main())


def test_a_cancelled_connect_closes_the_connection(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            task = asyncio.ensure_future(connected(Noted, listening.getsockname()))
            sock, _ = await loop.run_in_executor(None, listening.accept)
            with sock:
                sock.settimeout(PATIENCE)
                assert await loop.run_in_executor(None, sock.recv, 10)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

                def rest() -> bytes:
                    with contextlib.suppress(ConnectionResetError):
                        while sock.recv(1000):
                            pass
                    return b""

                assert await loop.run_in_executor(None, rest) == b""

    run(main())


@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
def test_a_time_out_that_is_none_is_refused(run, name: str) -> None:
    async def main() -> None:
        async with serving(Noted) as (address, _):
            with pytest.raises(ValueError, match=name):
                await connected(Noted, address, **{name: 0})

    run(main())


# The end


def test_all_that_was_written_is_sent_before_the_end(run) -> None:
    size = 8 * MIB

    async def main() -> None:
        async with serving(Noted) as (address, made):

            def read(sock: ssl.SSLSocket) -> bytes:
                data = received(sock, size)
                assert sock.recv(1) == b""  # a close_notify, or else it would raise
                return data

            reading = asyncio.ensure_future(in_ssl(address, read))
            await until(lambda: made and made[0].events)
            made[0].transport.write(b"x" * size)
            made[0].transport.close()
            made[0].transport.write(b"too late")
            assert made[0].transport.is_closing()
            assert len(await reading) == size
            await made[0].lost
            assert made[0].error is None

    run(main())


def test_what_was_written_is_sent_though_the_peer_has_said_that_it_sends_no_more(run) -> None:
    size = 8 * MIB

    class Floods(Noted):
        def data_received(self, data: bytes) -> None:
            self.transport.write(b"x" * size)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with serving(Floods) as (address, made):
            with socket.create_connection(address, PATIENCE) as sock:
                tls, incoming, outgoing = await shake_hands(sock)
                tls.write(b"go")
                with pytest.raises(ssl.SSLError):
                    tls.unwrap()
                await loop.sock_sendall(sock, outgoing.read())
                count = 0
                while True:
                    try:
                        part = len(tls.read(65536))
                    except ssl.SSLWantReadError:
                        incoming.write(await loop.sock_recv(sock, 65536))
                        continue
                    except ssl.SSLZeroReturnError:
                        break
                    count += part
                assert count == size
            await made[0].lost

    run(main())


def test_a_connection_that_ends_without_a_close_notify_has_ended(run) -> None:
    async def main() -> None:
        async with serving(Noted) as (address, made):

            def talk(sock: ssl.SSLSocket) -> None:
                sock.sendall(b"the last words")
                sock.shutdown(socket.SHUT_WR)  # from now on it speaks no TLS
                while sock.recv(1000):
                    pass

            await in_ssl(address, talk)
            await made[0].lost
            assert made[0].data == b"the last words"
            assert made[0].events == ["made", "eof", "lost"]
            assert made[0].error is None

    run(main())


def test_a_reset_is_the_error_that_the_connection_was_lost_with(run) -> None:
    async def main() -> None:
        async with serving(Noted) as (address, made):

            def talk(sock: ssl.SSLSocket) -> None:
                sock.sendall(b"x")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

            await in_ssl(address, talk)
            await made[0].lost
            assert isinstance(made[0].error, ConnectionResetError)
            assert made[0].events == ["made", "lost"]

    run(main())


def test_a_peer_that_never_says_good_bye_is_waited_for_in_bounds(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        done = asyncio.Event()
        async with serving(Noted, ssl_shutdown_timeout=0.05) as (address, made):

            def silent(sock: ssl.SSLSocket) -> None:
                sock.sendall(b"x")
                loop.call_soon_threadsafe(ready.set)
                asyncio.run_coroutine_threadsafe(done.wait(), loop).result(PATIENCE)

            talking = asyncio.ensure_future(in_ssl(address, silent))
            await ready.wait()
            await made[0].has(1)
            began = loop.time()
            made[0].transport.close()
            await made[0].lost
            assert loop.time() - began >= 0.05
            assert isinstance(made[0].error, TimeoutError)
            done.set()
            await talking

    run(main())


def test_an_abort_drops_what_was_written(run) -> None:
    async def main() -> None:
        async with serving(Noted) as (address, made):
            transport, protocol = await connected(Noted, address)
            transport.write(b"x")
            transport.abort()
            await protocol.lost
            assert protocol.events == ["made", "lost"]
            assert transport.get_write_buffer_size() == 0
            transport.close()
            transport.abort()
            transport.pause_reading()
            transport.resume_reading()

    run(main())


@pytest.mark.parametrize("factory", [Noted, lambda: Buffered(100)], ids=["data", "buffer"])
def test_records_that_were_changed_on_the_way_end_the_connection_behind_those_that_were_not(run, factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with serving(factory) as (address, made):
            with socket.create_connection(address, PATIENCE) as sock:
                tls, _, outgoing = await shake_hands(sock)
                tls.write(b"x")
                await loop.sock_sendall(sock, outgoing.read() + b"\x17\x03\x03\x00\x20" + bytes(32))
                with contextlib.suppress(ConnectionError):
                    while await loop.sock_recv(sock, 1000):
                        pass
            await made[0].lost
            assert made[0].data == b"x"
            assert isinstance(made[0].error, ssl.SSLError)

    run(main())


def test_a_protocol_that_raises_loses_its_connection_once_and_is_reported(run) -> None:
    class Raises(Noted):
        def data_received(self, data: bytes) -> None:
            raise ArithmeticError

    async def main() -> None:
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        async with serving(Raises) as (address, made):
            transport, protocol = await connected(Noted, address)
            transport.write(b"x")
            await protocol.lost
            await made[0].lost
            assert made[0].events == ["made", "lost"]
            assert isinstance(made[0].error, ArithmeticError)
            assert [type(context["exception"]) for context in reported] == [ArithmeticError]

    run(main())

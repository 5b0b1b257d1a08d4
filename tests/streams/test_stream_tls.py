"""TLS on streams: with Python's own TLS and with openssl's programs at the other end, and with peers that break it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable

import pytest
import support
from certificates import AUTHORITY, CLIENT, SERVER, VERSIONS, client_context, server_context
from running import run_all, shake_hands

import unio

MIB = 1 << 20


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    return request.param


@pytest.fixture
def streams(port: unio.Port, make_pair: Callable[..., tuple]) -> tuple[unio.Stream, unio.Stream]:
    """Two ends that have not spoken yet."""
    near, far = make_pair()
    return unio.Stream(port, near), unio.Stream(port, far)


async def serve(stream: unio.Stream, context: ssl.SSLContext | None = None, **options: object) -> None:
    """Answer each line with it."""
    await stream.start_tls(context or server_context(), server_side=True, **options)  # type: ignore[arg-type]
    async with stream:
        async for line in stream:
            await stream.write(b"you said " + line)


def in_ssl(sock: socket.socket, context: ssl.SSLContext, work: Callable[[ssl.SSLSocket], object], **options: object):
    """Have a thread do something with Python's own TLS on this socket."""

    def run() -> object:
        with context.wrap_socket(sock, suppress_ragged_eofs=False, **options) as wrapped:  # type: ignore[call-overload]
            return work(wrapped)

    return support.Background(run)


# With others


def test_a_client_of_pythons_own(port: unio.Port, make_pair, version: ssl.TLSVersion) -> None:
    near, far = make_pair()
    stream = unio.Stream(port, near)

    def talk(wrapped: ssl.SSLSocket) -> bytes:
        wrapped.sendall(b"hello\n")
        assert wrapped.recv(100) == b"you said hello\n"
        wrapped.sendall(b"x" * 60_000 + b"\n")
        found = b""
        while len(found) < 60_010:
            found += wrapped.recv(1 << 16)
        wrapped.unwrap()  # which waits for the peer's close_notify
        return found

    talking = in_ssl(far, client_context(version), talk, server_hostname="localhost")
    run_all(port, serve(stream))
    assert talking.result() == b"you said " + b"x" * 60_000 + b"\n"
    assert stream.tls is not None
    assert stream.tls.version == version.name.replace("_", ".")


def test_a_server_of_pythons_own(port: unio.Port, make_pair, version: ssl.TLSVersion) -> None:
    near, far = make_pair()
    stream = unio.Stream(port, near)

    def answer(wrapped: ssl.SSLSocket) -> bytes:
        found = b""
        while piece := wrapped.recv(1 << 16):
            found += piece
        wrapped.sendall(b"%d bytes" % len(found))
        wrapped.unwrap()
        return found

    async def ask() -> bytes:
        await stream.start_tls(client_context(version), server_hostname="localhost")
        for _ in range(10):
            await stream.write(bytes(MIB))
        await stream.write_end()
        return await stream.read_line()

    answering = in_ssl(far, server_context(version), answer, server_side=True)
    assert run_all(port, ask()) == [b"10485760 bytes"]
    assert answering.result() == bytes(10 * MIB)


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")


@needs_openssl
def test_openssl_as_the_client(port: unio.Port, make_listener, resources) -> None:
    listener = make_listener()
    options = ["-quiet", "-no_ign_eof", "-verify_return_error", "-verify_hostname", "localhost"]
    where = ["-connect", f"127.0.0.1:{listener.getsockname()[1]}"]
    command = ["openssl", "s_client", *options, "-CAfile", str(AUTHORITY), *where]

    async def accept() -> None:
        accept = await unio.Accept(port.associate(listener))
        resources.callback(accept.socket.close)
        await serve(unio.Stream(port, accept.socket))

    def talk() -> bytes:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
            assert client.stdin
            assert client.stdout
            client.stdin.write(b"hello\n")
            client.stdin.flush()
            found = client.stdout.readline()
            client.stdin.close()
            client.wait(support.PATIENCE)
        return found

    talking = support.Background(talk)
    with contextlib.suppress(OSError):  # it says no close_notify
        run_all(port, accept())
    assert talking.result() == b"you said hello\n"


@needs_openssl
def test_openssl_as_the_server(port: unio.Port, resources) -> None:
    command = ["openssl", "s_server", "-rev", "-accept", "127.0.0.1:0", "-cert", str(SERVER[0]), "-key", str(SERVER[1])]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    resources.callback(server.communicate)
    resources.callback(server.kill)
    assert server.stdout
    line = next(line for line in iter(server.stdout.readline, b"") if line.startswith(b"ACCEPT"))
    address = ("127.0.0.1", int(line.rpartition(b":")[2]))
    sock = resources.enter_context(socket.socket())

    async def ask() -> bytes:
        handle = port.associate(sock)
        await unio.Connect(handle, address)
        async with unio.Stream(port, handle) as stream:
            await stream.start_tls(client_context(), server_hostname="localhost")
            await stream.write(b"hello\n")
            return await stream.read_line()

    assert run_all(port, ask()) == [b"olleh\n"]


# Agreeing


def test_what_was_agreed_on_is_told(port: unio.Port, streams) -> None:
    near, far = streams
    client, server = client_context(), server_context(wants_certificate=True)
    client.load_cert_chain(*CLIENT)
    client.set_alpn_protocols(["http/1.1"])
    server.set_alpn_protocols(["h2", "http/1.1"])
    assert near.tls is None
    run_all(port, near.start_tls(client, server_hostname="localhost"), far.start_tls(server, server_side=True))
    assert near.tls.alpn == far.tls.alpn == "http/1.1"
    assert far.tls.certificate["subject"] == ((("commonName", "a client"),),)
    assert near.tls.certificate_der == ssl.PEM_cert_to_DER_cert(SERVER[0].read_text())
    assert repr(near) == f"<unio.Stream TLS of {near.handle!r}>"


def test_tls_begins_behind_what_was_said_in_plain_text(port: unio.Port, streams, version: ssl.TLSVersion) -> None:
    client, server = streams

    async def ask() -> bytes:
        await client.write(b"STARTTLS\n")
        assert await client.read_line() == b"go ahead\n"
        await client.start_tls(client_context(version), server_hostname="localhost")
        await client.write(b"secret\n")
        return await client.read_line()

    async def answer() -> None:
        assert await server.read_line() == b"STARTTLS\n"
        await server.write(b"go ahead\n")
        await server.start_tls(server_context(version), server_side=True)
        await server.write(b"you said " + await server.read_line())

    assert run_all(port, ask(), answer())[0] == b"you said secret\n"


def test_what_came_in_plain_text_is_never_taken_for_something_that_came_encrypted(port: unio.Port, make_pair) -> None:
    near, far = make_pair()
    stream = unio.Stream(port, near)
    far.sendall(b"STARTTLS\nDELETE everything\n")

    async def answer() -> None:
        assert await stream.read_line() == b"STARTTLS\n"
        with pytest.raises(ssl.SSLError):
            await stream.start_tls(server_context(), server_side=True)
        for call in (stream.read_line(), stream.write(b"done\n")):
            with pytest.raises(ssl.SSLError):
                await call
        stream.abort()

    run_all(port, answer())
    with contextlib.suppress(ConnectionError):
        assert b"done" not in support.recv_to_end(far)


def test_a_hello_that_has_come_already_is_not_lost(port: unio.Port, make_pair) -> None:
    near, far = make_pair()
    stream = unio.Stream(port, near)

    def talk(wrapped: ssl.SSLSocket) -> bytes:
        wrapped.sendall(b"hello\n")
        return wrapped.recv(100)

    far.sendall(b"PROXY\n")
    talking = in_ssl(far, client_context(), talk, server_hostname="localhost")

    async def answer() -> None:
        assert (await stream.peek(7))[:6] == b"PROXY\n"  # the hello is behind it
        await stream.read_line()
        with contextlib.suppress(ssl.SSLEOFError):
            await serve(stream)

    run_all(port, answer())
    assert talking.result() == b"you said hello\n"


# Peers that break it


@pytest.mark.parametrize("hostname", ["localhost", "another.example"])
def test_a_certificate_that_does_not_fit_ends_both_sides(port: unio.Port, streams, hostname: str) -> None:
    client, server = streams

    async def ask() -> None:
        context = client_context(trusts=hostname != "localhost")
        with pytest.raises(ssl.SSLCertVerificationError) as raised:
            await client.start_tls(context, server_hostname=hostname)
        assert raised.value.verify_message
        with pytest.raises(ssl.SSLCertVerificationError):
            await client.write(b"secret")
        client.abort()

    async def answer() -> None:
        with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
            await serve(server)

    run_all(port, ask(), answer())


def test_a_client_without_the_certificate_that_is_wanted_is_told_so(port: unio.Port, streams) -> None:
    client, server = streams

    async def shake_and_read() -> None:
        await client.start_tls(client_context(), server_hostname="localhost")
        await client.read_line()  # in TLS 1.3 the client is told by now only

    async def ask() -> None:
        with pytest.raises(ssl.SSLError, match=r"(?i)alert.*certificate"):
            await shake_and_read()

    async def answer() -> None:
        with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN"):
            await server.start_tls(server_context(wants_certificate=True), server_side=True)
        server.abort()

    run_all(port, ask(), answer())


def test_who_speaks_no_tls_is_refused(port: unio.Port, make_pair) -> None:
    near, far = make_pair()
    far.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
    with pytest.raises(ssl.SSLError, match="HTTP_REQUEST"):
        run_all(port, serve(unio.Stream(port, near)))


def test_a_client_that_breaks_off_in_the_handshake(port: unio.Port, make_pair) -> None:
    near, far = make_pair()
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(ssl.SSLEOFError, match="in the middle of the TLS handshake"):
        run_all(port, serve(unio.Stream(port, near)))
    near, far = make_pair()
    support.reset(far)
    with pytest.raises(ConnectionError):
        run_all(port, serve(unio.Stream(port, near)))


def test_a_client_that_says_nothing_is_not_waited_for_without_bound(port: unio.Port, make_pair) -> None:
    near, _far = make_pair()
    with pytest.raises(TimeoutError, match="handshake"):
        run_all(port, serve(unio.Stream(port, near), timeout=0.05))


def test_nobody_writes_or_reads_in_the_middle_of_a_handshake(port: unio.Port, streams) -> None:
    client, server = streams

    async def interfere() -> None:
        with pytest.raises(unio.InFlight, match="TLS handshake"):
            await client.write(b"in plain text")
        with pytest.raises(unio.InFlight, match="another task is reading"):
            await client.read_some()
        await server.start_tls(server_context(), server_side=True)
        await server.write(b"fine\n")

    handshake = client.start_tls(client_context(), server_hostname="localhost")
    run_all(port, handshake, interfere())
    assert run_all(port, client.read_line()) == [b"fine\n"]


def test_tls_begins_once(port: unio.Port, streams) -> None:
    client, server = streams
    shake_hands(client, server)
    with pytest.raises(RuntimeError, match="in TLS already"):
        run_all(port, client.start_tls(client_context(), server_hostname="localhost"))


def test_an_end_without_close_notify_is_an_error_behind_what_came(port: unio.Port, streams, version) -> None:
    client, server = streams
    shake_hands(client, server, version)

    async def cut_off() -> None:
        await server.write(b"a line\nand half a")
        await server.drain()
        server.abort()

    async def read() -> None:
        assert await client.read_line() == b"a line\n"
        for _ in range(2):
            with pytest.raises(ssl.SSLEOFError, match="without a close_notify"):
                await client.read_line()
        assert await client.read_exactly(10) == b"and half a"
        with pytest.raises(ssl.SSLEOFError):
            await client.read_some()

    run_all(port, cut_off(), read())


def test_such_an_end_can_be_allowed(port: unio.Port, streams, version: ssl.TLSVersion) -> None:
    client, server = streams

    async def cut_off() -> None:
        await server.start_tls(server_context(version), server_side=True)
        await server.write(b"all of it")
        await server.drain()
        server.abort()

    async def read() -> bytes:
        context = client_context(version)
        await client.start_tls(context, server_hostname="localhost", suppress_ragged_eofs=True)
        return await client.read_line()

    assert run_all(port, cut_off(), read())[1] == b"all of it"


def test_a_record_that_was_changed_on_the_way_is_an_error(port: unio.Port, make_pair, version) -> None:
    """Between the two ends is one who changes a byte."""
    (near, wire), (other_wire, far) = make_pair(), make_pair()
    client, server = unio.Stream(port, near), unio.Stream(port, far)
    left, right = unio.Stream(port, wire), unio.Stream(port, other_wire)
    changing = False

    async def pass_on(source: unio.Stream, target: unio.Stream) -> None:
        while piece := await source.read_some():
            await target.write(piece[:-1] + bytes([piece[-1] ^ 1]) if changing else piece)

    async def talk() -> None:
        nonlocal changing
        task = port.start(shake())
        await client.start_tls(client_context(version), server_hostname="localhost")
        assert await client.read_line() == b"ready\n"
        assert task.done
        changing = True
        await server.write(b"fifty pounds\n")
        with pytest.raises(ssl.SSLError, match=r"BAD_RECORD_MAC|BAD_DECRYPT|RECORD_LAYER_FAILURE|bad record mac"):
            await client.read_line()
        port.stop()

    async def shake() -> None:
        await server.start_tls(server_context(version), server_side=True)
        await server.write(b"ready\n")

    port.start(pass_on(left, right))
    port.start(pass_on(right, left))
    run_all(port, talk())


def test_the_end_is_told_both_ways(port: unio.Port, make_pair, version: ssl.TLSVersion) -> None:
    near, far = make_pair()
    stream = unio.Stream(port, near)

    def talk(wrapped: ssl.SSLSocket) -> bytes:
        first = wrapped.recv(100)
        second = wrapped.recv(100)  # it would raise if the end were not told
        return first + second

    async def answer() -> None:
        await stream.start_tls(server_context(version), server_side=True)
        await stream.write(b"bye\n")
        await stream.close()

    talking = in_ssl(far, client_context(version), talk, server_hostname="localhost")
    run_all(port, answer())
    assert talking.result() == b"bye\n"

"""TLS without a connection: two engines, between which the test carries the records."""

from __future__ import annotations

import ssl

import pytest
from certificates import CLIENT, VERSIONS, client_context, server_context
from hypothesis import given, settings
from hypothesis import strategies as st

from unio.streams.receive_buffer import ReceiveBuffer
from unio.streams.tls import TlsEngine

MIB = 1 << 20


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    return request.param


class End:
    """An engine and what it has received."""

    def __init__(self, engine: TlsEngine) -> None:
        self.engine = engine
        self.received = ReceiveBuffer()

    def take(self, records: bytes) -> bytes:
        """Be given records, and return what is new."""
        if records:
            self.engine.receive(records, self.received)
        return self.received.read_some(1 << 30) or b""


def ends(
    version: ssl.TLSVersion | None = None, client: ssl.SSLContext | None = None, server: ssl.SSLContext | None = None,
    hostname: str = "localhost", **options: bool,
) -> tuple[End, End]:  # fmt: skip
    """A client and a server that have not spoken yet."""
    client, server = client or client_context(version), server or server_context(version)
    return (
        End(TlsEngine(client, server_hostname=hostname, **options)),
        End(TlsEngine(server, server_side=True, **options)),
    )


def shake_hands(client: End, server: End, step: int = 1 << 30) -> None:
    """Carry records to and fro, *step* bytes at a time, until both ends are through."""
    left = {client: (server, bytearray()), server: (client, bytearray())}
    through: set[End] = set()
    for _ in range(100_000):
        for end, (peer, records) in left.items():
            if end not in through and end.engine.handshake():
                through.add(end)
            records.extend(end.engine.records())
            if records:
                peer.engine.feed(records[:step])
                del records[:step]
        if len(through) == 2 and not any(records for _, records in left.values()):
            break
    for end in (client, server):
        end.engine.decrypt(end.received)


@pytest.fixture
def connected(version: ssl.TLSVersion) -> tuple[End, End]:
    client, server = ends(version)
    shake_hands(client, server)
    return client, server


@pytest.mark.parametrize("step", [1, 7, 1000, 1 << 20])
def test_a_handshake_goes_on_with_whatever_has_come(version: ssl.TLSVersion, step: int) -> None:
    client, server = ends(version)
    shake_hands(client, server, step)
    assert client.engine.info.version == server.engine.info.version == version.name.replace("_", ".")
    client.engine.encrypt([b"hello"])
    assert server.take(client.engine.records()) == b"hello"


@given(data=st.lists(st.binary(max_size=100)), cuts=st.lists(st.integers(1, 60), min_size=1))
@settings(deadline=None, max_examples=30)
def test_what_is_read_is_what_was_written_whatever_the_pieces(data: list[bytes], cuts: list[int]) -> None:
    client, server = ends()
    shake_hands(client, server)
    for sender, receiver in ((client, server), (server, client)):
        sender.engine.encrypt(data)
        records, found = sender.engine.records(), b""
        for size in cuts * len(records):
            found += receiver.take(records[:size])
            records = records[size:]
            if not records:
                break
        assert found == b"".join(data)


def test_one_step_takes_as_many_records_as_there_are(connected: tuple[End, End]) -> None:
    client, server = connected
    client.engine.encrypt([bytes(MIB), b"and", b"more"])
    records = client.engine.records()  # one send for all of them
    assert client.engine.pending == 0
    assert len(records) > MIB + 64 * 20
    server.engine.feed(records)
    server.engine.decrypt(server.received)
    assert server.received.read_exactly(MIB + 7) == bytes(MIB) + b"andmore"


def test_what_was_agreed_on_is_told(version: ssl.TLSVersion) -> None:
    client_side, server_side = client_context(version), server_context(version, wants_certificate=True)
    client_side.load_cert_chain(*CLIENT)
    client_side.set_alpn_protocols(["h2", "http/1.1"])
    server_side.set_alpn_protocols(["http/1.1"])
    client, server = ends(client=client_side, server=server_side)
    shake_hands(client, server)
    told, heard = client.engine.info, server.engine.info
    assert told.alpn == heard.alpn == "http/1.1"
    assert told.cipher == heard.cipher
    assert told.certificate
    assert ("DNS", "localhost") in told.certificate["subjectAltName"]
    assert heard.certificate
    assert heard.certificate["subject"] == ((("commonName", "a client"),),)
    assert heard.certificate_der == ssl.PEM_cert_to_DER_cert(CLIENT[0].read_text())


def test_without_alpn_and_certificate_there_are_none(connected: tuple[End, End]) -> None:
    _, server = connected
    assert server.engine.info.alpn is None
    assert server.engine.info.certificate is None
    assert server.engine.info.certificate_der is None


def test_the_server_learns_the_name_that_is_asked_for() -> None:
    asked: list[object] = []
    context = server_context()
    context.sni_callback = lambda _ssl, name, _context: asked.append(name)
    shake_hands(*ends(server=context))
    assert asked == ["localhost"]


@pytest.mark.parametrize("hostname", ["localhost", "another.example"])
def test_a_certificate_that_does_not_fit_is_refused_and_the_server_is_told(
    version: ssl.TLSVersion, hostname: str
) -> None:
    client, server = ends(client=client_context(version, trusts=hostname != "localhost"), hostname=hostname)
    with pytest.raises(ssl.SSLCertVerificationError) as raised:
        shake_hands(client, server)
    assert raised.value.verify_message
    alert = client.engine.records()
    assert alert
    server.engine.feed(alert)
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        server.engine.handshake()  # in TLS 1.3 the server isn't through either


def test_what_is_no_tls_is_refused() -> None:
    _, server = ends()
    server.engine.feed(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
    with pytest.raises(ssl.SSLError, match="HTTP_REQUEST"):
        server.engine.handshake()
    server = ends()[1]
    server.engine.feed(bytes(100))
    with pytest.raises(ssl.SSLError, match=r"WRONG_VERSION|RECORD"):
        server.engine.handshake()


@pytest.mark.parametrize("size", [0, 5, 100])
def test_a_client_that_breaks_off_in_the_handshake_is_told_from_others(size: int) -> None:
    client, server = ends()
    client.engine.handshake()
    if size:
        server.engine.feed(client.engine.records()[:size])
        assert not server.engine.handshake()
    server.engine.feed(b"")
    with pytest.raises(ssl.SSLEOFError, match="in the middle of the TLS handshake"):
        server.engine.handshake()


def test_the_end_is_told_and_the_other_direction_stays_open(connected: tuple[End, End]) -> None:
    client, server = connected
    client.engine.encrypt([b"question"])
    client.engine.shut_down()
    client.engine.shut_down()  # which says it once
    assert server.take(client.engine.records()) == b"question"
    assert server.engine.ended
    assert server.received.ended
    for number in range(3):  # half-closed: all that the server says is still heard
        server.engine.encrypt([b"answer %d" % number, bytes(MIB)])
        assert client.take(server.engine.records()) == b"answer %d" % number + bytes(MIB)
    assert not client.engine.ended
    server.engine.shut_down()
    assert client.take(server.engine.records()) == b""
    assert client.engine.ended
    client.engine.feed(b"")  # and the connection may end
    client.engine.decrypt(client.received)


def test_half_a_record_that_has_come_before_the_end_is_told_is_not_lost(connected: tuple[End, End]) -> None:
    client, server = connected
    server.engine.encrypt([b"first", b"second"])
    records = server.engine.records()
    found = client.take(records[:-10])
    client.engine.shut_down()  # for which OpenSSL reads
    assert found + client.take(records[-10:]) == b"firstsecond"


def test_an_end_that_was_not_told_is_an_error_behind_what_came(connected: tuple[End, End]) -> None:
    client, server = connected
    server.engine.encrypt([b"all of it?"])
    client.engine.feed(server.engine.records())
    client.engine.feed(b"")
    with pytest.raises(ssl.SSLEOFError, match="without a close_notify"):
        client.engine.decrypt(client.received)
    assert client.received.read_line(100) is None
    assert client.received.read_some() == b"all of it?"
    assert not client.received.ended


def test_such_an_end_can_be_allowed(version: ssl.TLSVersion) -> None:
    client, server = ends(version, suppress_ragged_eofs=True)
    shake_hands(client, server)
    server.engine.encrypt([b"all of it"])
    client.engine.feed(server.engine.records())
    client.engine.feed(b"")
    client.engine.decrypt(client.received)
    assert client.received.ended
    assert client.received.read_some() == b"all of it"


def test_a_record_that_was_changed_on_the_way_is_an_error_and_the_peer_is_told(connected: tuple[End, End]) -> None:
    client, server = connected
    server.engine.encrypt([b"fifty pounds"])
    records = bytearray(server.engine.records())
    records[-1] ^= 1
    with pytest.raises(ssl.SSLError, match=r"BAD_RECORD_MAC|BAD_RECORD|RECORD_LAYER_FAILURE"):
        client.take(bytes(records))
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        server.take(client.engine.records())


def test_renegotiation_is_refused() -> None:
    context = client_context()
    ends(client=context)
    assert context.options & ssl.OP_NO_RENEGOTIATION

"""``python -m unio serve files`` delivers a directory over HTTP/1.1, whole, and nothing outside it."""

from __future__ import annotations

import contextlib
import hashlib
import html
import http.client
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import threading
import urllib.parse
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import PATIENCE, UNPRIVILEGED, Served, everything, received, step
from patience import PROGRAM
from platforms import WINDOWS, needs_names_of_bytes, needs_rlimit, needs_signals, needs_to_lose_rights
from web import get, raw, request
from wine import wine_row

import unio
from unio.cli import files

SMALL = b"0123456789"
LARGE = random.Random(3).randbytes(3_000_000)
SECRET = b"not for anybody"

MARKUP = "&b&name" if WINDOWS else "<b>&name"
"""A file's name that would be something else in HTML; Windows has no angle brackets in names."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    base = tmp_path_factory.mktemp("files")
    (base / "secret").write_bytes(SECRET)
    (base / "public-not").mkdir()
    (base / "public-not" / "secret").write_bytes(SECRET)
    root = base / "public"
    (root / "site" / "deep").mkdir(parents=True)
    (root / "plain").mkdir()
    (root / "small.txt").write_bytes(SMALL)
    (root / "empty").write_bytes(b"")
    (root / "large.bin").write_bytes(LARGE)
    (root / "a b+%25é.html").write_bytes(SMALL)
    (root / "archive.tar.gz").write_bytes(SMALL)
    (root / "site" / "index.html").write_bytes(b"<p>the index")
    (root / "plain" / MARKUP).write_bytes(SMALL)
    (root / "plain" / "below").mkdir()
    (root / "inside").symlink_to(root / "small.txt")
    (root / "outside").symlink_to(base / "secret")
    (root / "above").symlink_to(base)
    (root / "beside").symlink_to("../public-not")
    (root / "circle").symlink_to("circle")
    (root / "site" / "deep" / "index.html").symlink_to("../../../secret")
    if not WINDOWS:
        os.mkfifo(root / "fifo")
    return root


@pytest.fixture(scope="module", params=["1", "2"], ids=["one thread", "two threads"])
def served(request, directory):
    # Most tests of this module share it, so that the time for one of them is not enough.
    with Served("files", str(directory), "--threads", request.param, seconds=20 * PROGRAM) as server:
        yield server
        server.ends_in_order()


# What is served


@pytest.mark.parametrize(("name", "content"), [("small.txt", SMALL), ("empty", b""), ("large.bin", LARGE)])
def test_a_file_is_delivered_whole(served, name, content):
    response, body = get(served, f"/{name}")
    assert response.status == 200
    assert response.headers["Content-Length"] == str(len(content))
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["Date"]
    assert body == content


@pytest.mark.parametrize(
    ("name", "kind"),
    [("small.txt", "text/plain"), ("large.bin", "application/octet-stream"), ("site/", "text/html")],
)
def test_the_type_follows_from_the_name(served, name, kind):
    assert get(served, f"/{name}")[0].headers.get_content_type() == kind


def test_a_compressed_file_is_not_declared_to_be_what_is_inside(served):
    response, body = get(served, "/archive.tar.gz")
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["Content-Encoding"] is None
    assert body == SMALL


@pytest.mark.parametrize("name", ["small.txt", "large.bin", "empty", "site/", "plain/", "missing"])
def test_head_says_what_get_would(served, name):
    wanted, body = get(served, f"/{name}")
    response, nothing = get(served, f"/{name}", "HEAD")
    assert response.status == wanted.status
    assert response.headers["Content-Length"] == str(len(body))
    assert response.headers["Content-Type"] == wanted.headers["Content-Type"]
    assert nothing == b""


@pytest.mark.parametrize(
    "target",
    [
        "/a%20b+%2525%C3%A9.html",
        "/%61%20b%2B%2525%c3%a9.html?query=/../x",
        "//./a%20b+%2525%C3%A9.html",
        "http://example.invalid/a%20b+%2525%C3%A9.html",
    ],
)
def test_a_target_is_decoded_once(served, target):
    assert get(served, target)[1] == SMALL


def test_a_directory_stands_for_its_index(served):
    assert get(served, "/site/")[1] == b"<p>the index"


@pytest.mark.parametrize("target", ["/site", "//site", "/./site?query"])
def test_a_directory_without_its_slash_is_redirected_on_this_host(served, target):
    response, _ = get(served, target)
    assert (response.status, response.headers["Location"]) == (301, "/site/")


def test_a_directory_without_an_index_is_listed(served):
    response, page = get(served, "/plain/")
    assert response.status == 200
    quoted = urllib.parse.quote(MARKUP)
    assert f'<a href="{quoted}">{html.escape(MARKUP)}</a>'.encode() in page
    assert b'<a href="below/">below/</a>' in page
    assert get(served, f"/plain/{quoted}")[1] == SMALL


@needs_names_of_bytes
def test_a_name_that_is_no_unicode_is_served(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    (tmp_path / name).write_bytes(SMALL)
    with Served("files", str(tmp_path)) as served:
        assert b'href="caf%E9"' in get(served, "/")[1]
        assert get(served, "/caf%E9")[1] == SMALL


# Ranges and conditions


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=2-5", 2, 5),
        ("bytes=5-", 5, 9),
        ("bytes=9-", 9, 9),
        ("bytes=0-1000", 0, 9),
        (f"bytes=3-{10**30}", 3, 9),
        ("bytes=-3", 7, 9),
        ("bytes=-1000", 0, 9),
        ("Bytes=2-5", 2, 5),
    ],
)
def test_a_range_is_delivered(served, wanted, first, last):
    response, body = get(served, "/small.txt", Range=wanted)
    assert response.status == 206
    assert response.headers["Content-Range"] == f"bytes {first}-{last}/10"
    assert response.headers["Content-Length"] == str(last - first + 1)
    assert body == SMALL[first : last + 1]


def test_a_range_of_a_large_file_is_delivered(served):
    assert get(served, "/large.bin", Range="bytes=1000001-2999998")[1] == LARGE[1_000_001:2_999_999]


@pytest.mark.parametrize("wanted", ["bytes=10-", "bytes=10-20", f"bytes={10**30}-", "bytes=-0"])
def test_a_range_past_the_end_is_refused(served, wanted):
    response, _ = get(served, "/small.txt", Range=wanted)
    assert response.status == 416
    assert response.headers["Content-Range"] == "bytes */10"


@pytest.mark.parametrize(
    "wanted",
    ["bytes=5-2", "bytes=-", "bytes=0-1,4-5", "lines=1-2", "bytes", "bytes=a-b", "bytes=+1-2", "bytes=1--2", ""],
)
def test_what_is_not_one_range_is_ignored(served, wanted):
    response, body = get(served, "/small.txt", Range=wanted)
    assert (response.status, body) == (200, SMALL)


def test_a_range_is_ignored_for_head(served):
    response, _ = get(served, "/small.txt", "HEAD", Range="bytes=0-1")
    assert (response.status, response.headers["Content-Length"]) == (200, "10")


def test_a_file_that_the_client_has_is_not_sent_again(served):
    known = get(served, "/small.txt")[0].headers
    tag, date = known["ETag"], known["Last-Modified"]
    for condition in (
        {"If_None_Match": tag},
        {"If_None_Match": f'"other", W/{tag}'},
        {"If_None_Match": "*"},
        {"If_Modified_Since": date},
        {"If_Modified_Since": "Fri, 01 Jan 2100 00:00:00 GMT"},
        {"If_None_Match": tag, "Range": "bytes=0-1"},
    ):
        response, body = get(served, "/small.txt", **condition)
        assert (response.status, body) == (304, b""), condition
        assert response.headers["ETag"] == tag


def test_a_file_that_the_client_has_not_is_sent(served):
    known = get(served, "/small.txt")[0].headers
    for condition in (
        {"If_None_Match": '"other"'},
        {"If_None_Match": '"other"', "If_Modified_Since": known["Last-Modified"]},
        {"If_Modified_Since": "Mon, 01 Jan 1990 00:00:00 GMT"},
        {"If_Modified_Since": "yesterday"},
        {"If_Modified_Since": "Mon, 99 Jan 99999 00:00:00 GMT"},
        {"If_Match": known["ETag"]},
        {"If_Unmodified_Since": known["Last-Modified"]},
    ):
        response, body = get(served, "/small.txt", **condition)
        assert (response.status, body) == (200, SMALL), condition


@pytest.mark.parametrize(
    "condition", [{"If_Match": '"other"'}, {"If_Unmodified_Since": "Mon, 01 Jan 1990 00:00:00 GMT"}]
)
def test_a_file_that_is_not_the_wanted_one_is_refused(served, condition):
    assert get(served, "/small.txt", **condition)[0].status == 412


def test_a_range_of_an_older_file_is_not_mixed_with_this_one(served):
    known = get(served, "/small.txt")[0].headers
    for validator in (known["ETag"], known["Last-Modified"]):
        assert get(served, "/small.txt", Range="bytes=0-1", If_Range=validator)[0].status == 206
    for validator in ('"other"', f"W/{known['ETag']}", "Mon, 01 Jan 1990 00:00:00 GMT"):
        response, body = get(served, "/small.txt", Range="bytes=0-1", If_Range=validator)
        assert (response.status, body) == (200, SMALL)


# What is not served


@pytest.mark.parametrize(
    "target",
    [
        "/../secret",
        "/..",
        "/site/../../secret",
        "/%2e%2e/secret",
        "/%2E./secret",
        "/.%2e%2fsecret",
        "/..%2fsecret",
        "/..%5csecret",
        "/..\\secret",
        "/%2fetc/passwd",
        "/site%2findex.html",
        "/small.txt%00",
        "/%00",
        "/%",
        "/%zz",
        "/%2",
        "small.txt",
        "*",
        "ftp://127.0.0.1/small.txt",
    ],
)
def test_a_target_that_is_no_path_below_is_refused(served, target):
    status, answer = raw(served, request(target))
    assert status == 400
    assert SECRET not in answer


@pytest.mark.parametrize(
    "target",
    [
        "/missing",
        "/small.txt/",
        "/small.txt/below",
        "/outside",
        "/above/secret",
        "/above/",
        "/beside/secret",
        pytest.param("/site/deep/", marks=wine_row("no-symbolic-links")),
        "/circle",
        "/fifo",
        "/%252e%252e/secret",
        "/...",
        "/small.txt.",
        "/small.txt%20",
        "/" + "x" * 300,
    ],
)
def test_what_is_not_there_or_leads_outside_is_not_found(served, target):
    status, answer = raw(served, request(target))
    assert status == 404
    assert SECRET not in answer


@pytest.mark.parametrize(("target", "status"), [("/public/../secret%20", 400), ("/C:/secret", 400 if WINDOWS else 404)])
def test_what_another_system_may_take_for_a_way_outside_leads_nowhere(served, target, status):
    found, answer = raw(served, request(target))
    assert found == status
    assert SECRET not in answer


@wine_row("no-symbolic-links")
def test_a_link_to_something_inside_is_followed(served):
    assert get(served, "/inside")[1] == SMALL
    assert get(served, "/above/public/small.txt")[1] == SMALL


@wine_row("no-symbolic-links")
def test_a_directory_that_is_served_through_a_link_is_served(directory):
    with Served("files", str(directory / "above" / "public")) as served:
        assert get(served, "/small.txt")[1] == SMALL


@needs_to_lose_rights
def test_a_file_that_may_not_be_read_is_forbidden(tmp_path):
    (tmp_path / "private").write_bytes(SECRET)
    (tmp_path / "private").chmod(0)
    with Served("files", str(tmp_path), before=UNPRIVILEGED) as served:
        assert get(served, "/private")[0].status == 403


# The protocol


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"])
def test_another_method_is_not_allowed(served, method):
    status, answer = raw(served, request("/small.txt", method=method))
    assert status == 405
    assert b"\r\nAllow: GET, HEAD\r\n" in answer


def test_an_unknown_method_is_not_implemented(served):
    assert get(served, "/small.txt", "BREW")[0].status == 501


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /small.txt HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /small.txt HTTP/1.1\r\nHost: here\r\nbad header\r\n\r\n", 400),
        (b"GET /small.txt HTTP/1.1\r\nHost: here\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET /small.txt HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: rot13\r\n\r\n", 501),
        (b"GET /small.txt HTTP/2.0\r\nHost: here\r\nConnection: close\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # a client that wants TLS
        (b"GET / HTTP/1.1\r\nHost: here\r\nX: " + b"x" * 30_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 1_000_000, 431),
    ],
)
def test_what_is_no_request_is_refused_and_ends_the_connection(served, request_bytes, status):
    found, answer = raw(served, request_bytes)
    assert found == status
    assert b"\r\nConnection: close\r\n" in answer


def test_a_request_of_http_1_0_ends_the_connection(served):
    status, answer = raw(served, b"GET /small.txt HTTP/1.0\r\n\r\n")
    assert status == 200
    assert answer.endswith(SMALL)


def test_a_body_is_not_read_past(served):
    # Were it read as a request, there would be a second answer.
    body = b"GET /small.txt HTTP/1.1\r\nHost: here\r\n\r\n"
    for method, wanted in ((b"GET", 200), (b"POST", 405)):
        head = b"%b /small.txt HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % (method, len(body))
        status, answer = raw(served, head + body)
        assert status == wanted
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"\r\nConnection: close\r\n" in answer


def test_a_connection_serves_many_requests(served):
    connection = http.client.HTTPConnection(served.host, served.port, timeout=PATIENCE)
    connection.connect()
    sock = connection.sock
    for name, content in [("small.txt", SMALL), ("missing", None), ("large.bin", LARGE), ("empty", b"")] * 3:
        connection.request("GET", f"/{name}")
        response = connection.getresponse()
        body = response.read()
        assert content is None or body == content
        assert connection.sock is sock
    connection.request("HEAD", "/large.bin")
    assert connection.getresponse().read() == b""
    connection.request("GET", "/small.txt", headers={"Connection": "close"})
    assert connection.getresponse().read() == SMALL
    assert connection.sock is None
    sock.close()


def test_requests_sent_ahead_are_answered_in_order(served):
    wanted = [(b"small.txt", SMALL), (b"large.bin", LARGE), (b"empty", b""), (b"site/", b"<p>the index")] * 10
    requests = b"".join(b"GET /%b HTTP/1.1\r\nHost: here\r\n\r\n" % name for name, _ in wanted)
    with served.connect() as client:
        sender = threading.Thread(target=client.sendall, args=(requests,))
        sender.start()
        with client.makefile("rb") as stream:
            for _, content in wanted:
                length = None
                while (line := stream.readline()) != b"\r\n":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                assert stream.read(length) == content
        sender.join(PATIENCE)
        assert not sender.is_alive()


def test_a_request_may_arrive_in_pieces(served):
    with served.connect() as client:
        for byte in b"GET /small.txt HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n":
            client.sendall(bytes([byte]))
        assert everything(client).endswith(SMALL)


def test_a_client_that_has_said_all_still_gets_its_answer(served):
    with served.connect() as client:
        client.sendall(b"GET /large.bin HTTP/1.1\r\nHost: here\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        assert everything(client).endswith(LARGE)


# What clients and the system do to it


def test_many_downloads_at_once(served):
    wanted = hashlib.sha256(LARGE).digest()
    found = []

    def download():
        found.append(hashlib.sha256(get(served, "/large.bin")[1]).digest())

    clients = [threading.Thread(target=download) for _ in range(10)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(PATIENCE)
    assert found == [wanted] * 10


def test_a_client_that_is_killed_in_the_middle_harms_nobody(served):
    for _ in range(10):
        with served.connect(receive_buffer=4096) as client:
            client.sendall(b"GET /large.bin HTTP/1.1\r\nHost: here\r\n\r\n")
            received(client, 1000)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert get(served, "/large.bin")[1] == LARGE


def test_a_client_that_does_not_read_holds_up_nobody(served):
    with served.connect(receive_buffer=4096) as client:
        client.sendall(b"GET /large.bin HTTP/1.1\r\nHost: here\r\n\r\n" * 100)
        assert get(served, "/large.bin")[1] == LARGE


def test_a_file_that_becomes_shorter_ends_the_connection(tmp_path):
    with (tmp_path / "shrinking").open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    with Served("files", str(tmp_path)) as served, served.connect(receive_buffer=4096) as client:
        client.sendall(b"GET /shrinking HTTP/1.1\r\nHost: here\r\n\r\n")
        assert received(client, 12) == b"HTTP/1.1 200"
        os.truncate(tmp_path / "shrinking", 1000)
        with contextlib.suppress(ConnectionResetError):  # which says as well that this was not all
            assert len(everything(client)) < 64 * 1024 * 1024


@needs_rlimit
def test_running_out_of_descriptors_is_survived(directory):
    limit = 40
    before = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
        "import unio.cli.server as server; server.ACCEPTS = 1"  # so that none may be lost
    )
    with Served("files", str(directory), before=before) as served:
        clients = [served.connect() for _ in range(limit * 2)]
        assert served.process.stderr is not None
        assert "can't accept" in served.process.stderr.readline()
        clients[0].sendall(b"GET /small.txt HTTP/1.1\r\nHost: here\r\n\r\n")
        assert received(clients[0], 12) == b"HTTP/1.1 503"
        for client in clients:
            client.close()
        assert get(served, "/small.txt")[1] == SMALL
        served.signal(signal.SIGTERM)
        assert served.exit_status() == 0


def test_a_client_that_sends_nothing_is_let_go(directory):
    with Served("files", str(directory), before="import unio.cli.files as f; f.REQUEST_SECONDS = 0.1") as served:
        with served.connect() as client:
            assert everything(client) == b""
        with served.connect() as client:
            client.sendall(b"GET /small.txt HTTP/1.1\r\n")
            assert everything(client).startswith(b"HTTP/1.1 408 ")


@needs_signals
def test_a_client_that_takes_nothing_is_let_go(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    # The only client never reads and never leaves, so that the server can end in order only if it lets it go.
    before = "import unio.cli.files as f; f.STALL_SECONDS = 0.1"
    with Served("files", str(tmp_path), "--grace", "1000", before=before) as served, served.connect() as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n")
        assert received(client, 12) == b"HTTP/1.1 200"
        served.signal(signal.SIGTERM)
        assert served.exit_status() == 0


@pytest.mark.parametrize(
    ("target", "given_first"),
    [
        pytest.param("/large", [unio.Send], id="file"),
        pytest.param(
            "/crowd/",
            [],
            id="page",
            marks=pytest.mark.skipif(WINDOWS, reason="needs a send that stalls; Windows takes all of it at once"),
        ),
    ],
)
def test_a_client_that_is_slow_but_takes_something_is_kept(tmp_path, monkeypatch, target, given_first):
    content = random.Random(5).randbytes(16 * 1024 * 1024)
    (tmp_path / "large").write_bytes(content)
    (tmp_path / "crowd").mkdir()
    for number in range(1000):
        (tmp_path / "crowd" / f"{number:0200}").touch()
    near, client = socket.socketpair()
    with unio.Port() as port, near, client:
        monkeypatch.setattr(files, "STALL_SECONDS", 0.05)
        server = SimpleNamespace(port=port, context=None, stopping=False, remove=lambda connection: None)
        connection = files.FilesConnection(tmp_path, server, near)
        port.start(connection.run())
        step(port)
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        for expected in [unio.Recv, *given_first]:
            assert isinstance(step(port).operation, expected)
        monkeypatch.setattr(files, "STALL_SECONDS", PATIENCE)
        connection.stream._sender._idle_timeout = PATIENCE
        stalled = step(port)  # nobody reads, but the first bytes fit into the socket
        assert isinstance(stalled.error, TimeoutError)
        assert stalled.transferred > 0

        found = []
        reader = threading.Thread(target=lambda: found.append(everything(client)))
        reader.start()
        assert step(port).error is None  # the rest of it
        client.shutdown(socket.SHUT_WR)
        while not connection.stream.handle.closed:
            step(port)
        reader.join(PATIENCE)
    head, _, body = found[0].partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}\r\n".encode() in head + b"\r\n"
    assert body == content if target == "/large" else body.endswith(b"</ul>")


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_curl_gets_the_same_bytes_whole_and_in_parts(served, tmp_path):
    url = f"http://{served.host}:{served.port}/large.bin"
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    rest.write_bytes(LARGE[:1_234_567])
    for options in (["-o", whole], ["-C", "-", "-o", rest]):
        subprocess.run(["curl", "-sSf", *options, url], check=True, timeout=PROGRAM)
    assert Path(whole).read_bytes() == Path(rest).read_bytes() == LARGE

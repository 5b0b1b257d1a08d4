"""How ``python -m unio serve files`` reads requests: where one ends, how long it may be, what its headers add up to."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest
from command import PATIENCE, Served, everything, step
from patience import PROGRAM
from web import get, raw, request

import unio
from unio.cli import files
from unio.cli.heads import HEAD_SIZE_MAX

SMALL = b"0123456789"

GET = b"GET /small.txt HTTP/1.1\r\nHost: here\r\n"
LAST = GET + b"Connection: close\r\n\r\n"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    (directory / "small.txt").write_bytes(SMALL)
    return directory


@pytest.fixture(scope="module")
def served(directory):
    with Served("files", str(directory), seconds=20 * PROGRAM) as server:
        yield server
        server.ends_in_order()


def answer_to_pieces(directory, pieces):
    """What a connection says to a client whose bytes arrive in just these pieces, each in a receive of its own."""
    near, client = socket.socketpair()
    with unio.Port() as port, near, client:
        client.settimeout(PATIENCE)
        server = SimpleNamespace(port=port, context=None, stopping=False, remove=lambda connection: None)
        connection = files.FilesConnection(directory, server, near)
        port.start(connection.run())
        step(port)
        for piece in pieces:
            client.sendall(piece)
            received = step(port).operation
            assert isinstance(received, unio.Recv)
            if not received.in_flight:  # it answers
                break
        client.shutdown(socket.SHUT_WR)
        while not connection.stream.handle.closed:
            step(port)
        return everything(client)


def answers(served, requests):
    """How many answers these bytes get until the connection ends."""
    return raw(served, requests)[1].count(b"HTTP/1.1 ")


# How long it may be


def head(size, *, end=b"\r\n"):
    """A request of so many bytes, after which the connection ends."""
    begin = GET.replace(b"\r\n", end) + b"Connection: close" + end + b"X: "
    return begin + b"x" * (size - len(begin) - 2 * len(end)) + 2 * end


@pytest.mark.parametrize("before", [b"", b"\r\n", GET + b"\r\n"], ids=["alone", "after an empty line", "after another"])
@pytest.mark.parametrize("end", [b"\r\n", b"\n"], ids=["CRLF", "LF"])
def test_the_longest_head_is_answered_and_a_longer_one_is_not(served, before, end):
    longest = HEAD_SIZE_MAX - (before == b"\r\n") * 2
    for size, status in ((longest, 200), (longest + 1, 431), (longest + 3000, 431)):
        found, answer = raw(served, before + head(size, end=end))
        if before.startswith(b"GET"):
            assert (found, answer.count(b"HTTP/1.1 ")) == (200, 2)
            answer = answer[answer.index(b"HTTP/1.1 ", 1) :]
        assert answer.startswith(b"HTTP/1.1 %d " % status), size
        assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 4095, 4096])
def test_the_pieces_that_a_head_comes_in_make_no_difference(directory, size):
    for length, status in ((HEAD_SIZE_MAX, 200), (HEAD_SIZE_MAX + 1, 431)):
        request = head(length)
        pieces = [request[at : at + size] for at in range(0, length, size)]
        assert answer_to_pieces(directory, pieces).startswith(b"HTTP/1.1 %d " % status)


def test_a_head_that_never_ends_is_refused_when_it_is_too_long(served):
    for begin in (GET + b"X: ", b"\r\n" * 1000 + GET):
        assert raw(served, begin.ljust(HEAD_SIZE_MAX, b"x"))[0] == 431
    assert raw(served, b"\r\n" * (HEAD_SIZE_MAX // 2))[0] == 431


def test_the_head_of_one_request_makes_no_difference_to_the_next(served, directory):
    first, second = GET + b"X: " + b"x" * 3000 + b"\r\n\r\n", head(HEAD_SIZE_MAX)
    assert raw(served, b"\r\n" * 1000 + first + second)[1].count(SMALL) == 2
    assert answer_to_pieces(directory, [first[:-1], first[-1:] + LAST]).count(SMALL) == 2


# Where it begins


@pytest.mark.parametrize("empty", [b"\r\n", b"\n", b"\r\n\r\n", b"\r\n\n\r\n"])
def test_empty_lines_before_a_request_are_ignored(served, directory, empty):
    status, answer = raw(served, empty + LAST)
    assert (status, answer.endswith(SMALL)) == (200, True)
    status, answer = raw(served, GET + b"\r\n" + empty + LAST)
    assert (status, answer.count(SMALL)) == (200, 2)
    for pieces in ([bytes([byte]) for byte in empty + LAST], [empty, LAST]):
        assert answer_to_pieces(directory, pieces).endswith(SMALL)


@pytest.mark.parametrize("begin", [b"\x16\x03\x01", b" GET", b"\r\r\n", b"\rG", b"\r\n\x16", b"\x80"])
def test_what_no_request_begins_with_is_refused_at_once(served, begin):
    with served.connect() as client:  # which goes on to wait
        client.sendall(begin)
        assert client.recv(12) == b"HTTP/1.1 400"


# Where it ends


SMUGGLED = b"0\r\n\r\n" + LAST


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: %d" % len(SMUGGLED)],
        [b"Transfer-Encoding: chunked", b"Content-Length: 0"],
        [b"Transfer-Encoding: CHUNKED"],
        [b"Transfer-Encoding: chunked"],
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
def test_a_request_in_chunks_is_the_last_one(served, method, lines):
    # Were it not, there would be a second answer.
    begin = b"\r\n".join([GET.rstrip().replace(b"GET", method), *lines])
    status, answer = raw(served, begin + b"\r\n\r\n" + SMUGGLED)
    assert status == (405 if method == b"POST" else 200)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_chunks_that_are_none_are_not_even_looked_at(served, method):
    status, _ = raw(served, GET.replace(b"GET", method) + b"Transfer-Encoding: chunked\r\n\r\nno chunk\r\n")
    assert status == 200


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Content-Length: 0", "Content-Length: 0"], 200),
        (["Content-Length: 0, 0"], 200),
        (["Content-Length: 0", "Content-Length: 1"], 400),
        (["Content-Length: 0, 1"], 400),
        (["Content-Length: -1"], 400),
        (["Content-Length: +1"], 400),
        (["Content-Length: 0x1"], 400),
        (["Content-Length: " + "9" * 100], 400),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], 501),
        (["Transfer-Encoding: chunked, chunked"], 501),
        (["Transfer-Encoding: identity"], 501),
    ],
)
def test_a_length_is_one_or_the_request_is_refused(served, lines, status):
    assert raw(served, request("/small.txt", *lines))[0] == status


# What several lines add up to


@pytest.fixture(scope="module")
def tag(served):
    return get(served, "/small.txt")[0].headers["ETag"]


@pytest.fixture(scope="module")
def date(served):
    return get(served, "/small.txt")[0].headers["Last-Modified"]


@pytest.mark.parametrize("place", range(3))
def test_tags_may_come_on_several_lines(served, tag, place):
    tags = ['"one"', '"two"', '"three"']
    others = [f"If-Match: {each}" for each in tags]
    assert raw(served, request("/small.txt", *others))[0] == 412
    tags[place] = tag
    assert raw(served, request("/small.txt", *(f"If-Match: {each}" for each in tags)))[0] == 200
    assert raw(served, request("/small.txt", *(f"If-None-Match: {each}" for each in tags)))[0] == 304
    assert raw(served, request("/small.txt", *(f"If-Match: W/{each}" for each in tags)))[0] == 412
    assert raw(served, request("/small.txt", *(f"if-none-MATCH: W/{each}, " for each in tags)))[0] == 304


@pytest.mark.parametrize("wanted", ['"a, {}"', '"W/{}"', '"{}', "{}", '"W/" {}'])
def test_what_is_no_tag_but_holds_one_is_not_it(served, tag, wanted):
    assert raw(served, request("/small.txt", "If-None-Match: " + wanted.format(tag.strip('"'))))[0] == 200


@pytest.mark.parametrize("more", ["{}", "Fri, 01 Jan 2100 00:00:00 GMT", "yesterday"])
def test_a_date_on_several_lines_is_none(served, date, more):
    """And what is no date is ignored."""
    more = more.format(date)
    assert raw(served, request("/small.txt", f"If-Modified-Since: {date}"))[0] == 304
    for lines in ([date, more], [more, date]):
        assert raw(served, request("/small.txt", *(f"If-Modified-Since: {line}" for line in lines)))[0] == 200
    old = "Mon, 01 Jan 1990 00:00:00 GMT"
    assert raw(served, request("/small.txt", f"If-Unmodified-Since: {old}"))[0] == 412
    assert raw(served, request("/small.txt", f"If-Unmodified-Since: {old}", f"If-Unmodified-Since: {more}"))[0] == 200


@pytest.mark.parametrize("date", ["Monday, 01-Jan-90 00:00:00 GMT", "Mon Jan  1 00:00:00 1990"])
def test_dates_of_old_are_understood(served, date):
    assert raw(served, request("/small.txt", f"If-Unmodified-Since: {date}"))[0] == 412


def test_one_range_on_several_lines_is_none(served, tag):
    for more in ("bytes=0-1", "bytes=4-5", "4-5", ""):
        status, answer = raw(served, request("/small.txt", "Range: bytes=0-1", f"Range: {more}"))
        assert (status, answer.endswith(SMALL)) == (200, True)
    assert raw(served, request("/small.txt", "Range: bytes=0-1", f"If-Range: {tag}"))[0] == 206
    assert raw(served, request("/small.txt", "Range: bytes=0-1", *[f"If-Range: {tag}"] * 2))[0] == 200


def test_an_end_of_the_connection_may_be_asked_for_on_any_line(served):
    lines = b"Connection: close\r\nConnection: keep-alive\r\n\r\n"
    assert answers(served, GET + lines + LAST) == 1
    assert answers(served, GET + b"Connection: x\r\n\r\n" + LAST) == 2


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Host: here"], 200),
        (["Host:"], 200),
        (["Host: here:8000"], 200),
        (["Host: [::1]:8000"], 200),
        (["Host: my_host.example."], 200),
        ([], 400),
        (["Host: here", "Host: here"], 400),
        (["Host: here, there"], 400),
        (["Host: here there"], 400),
        (["Host: here/there"], 400),
        (["Host: here:http"], 400),
        (["Host: someone@here"], 400),
        (["Host: [::1"], 400),
        (["Host: h\xe9re"], 400),
    ],
)
def test_a_request_names_one_host(served, lines, status):
    head = "\r\n".join(["GET /small.txt HTTP/1.1", "Connection: close", *lines])
    assert raw(served, f"{head}\r\n\r\n".encode("latin-1"))[0] == status

"""What ``python -m unio serve files`` makes of odd times, odd lengths, crowds, and links that lead nowhere."""

from __future__ import annotations

import calendar
import contextlib
import math
import os
import subprocess
import sys
import tempfile
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import PATIENCE, UNPRIVILEGED, Served
from platforms import LINUX, needs_pollable_pipes, needs_to_lose_rights
from web import get, raw, request
from wine import wine_row

import unio
from unio.cli.bodies import PIECE_SIZE, made_up

SMALL = b"0123456789"

needs_proc = pytest.mark.skipif(not LINUX, reason="needs files that the kernel makes up as they are read")


@pytest.fixture
def served(tmp_path):
    with Served("files", str(tmp_path)) as server:
        yield server
        server.ends_in_order()


# Times

YEAR_1 = calendar.timegm((1, 1, 1, 0, 0, 0))
YEAR_10000 = calendar.timegm((9999, 12, 31, 23, 59, 60))


@contextlib.contextmanager
def file_of(moment, tmp_path):
    """A file that was modified then, in a directory whose file system can say so."""
    for place in (str(tmp_path), "/dev/shm"):
        if os.path.isdir(place):
            with tempfile.TemporaryDirectory(dir=place) as directory:
                path = Path(directory) / "file"
                path.write_bytes(SMALL)
                with contextlib.suppress(OSError, OverflowError):
                    os.utime(path, (moment, moment))
                if path.stat().st_mtime == moment:
                    yield path
                    return
    pytest.skip("needs a file system that has such times")


@pytest.mark.parametrize(
    "moment", [YEAR_1 - 1, YEAR_10000, YEAR_10000 * 10, pytest.param(int(time.time()) + 86400, id="tomorrow")]
)
def test_a_file_of_a_time_that_no_date_can_say_has_none(tmp_path, moment):
    """Or must not say, as it is yet to come."""
    with file_of(moment, tmp_path) as path, Served("files", str(path.parent)) as served:
        response, body = get(served, "/file")
        assert (response.status, body, response.headers["Last-Modified"]) == (200, SMALL, None)
        assert get(served, "/file", "HEAD")[0].status == 200
        assert get(served, "/file", Range="bytes=1-2")[1] == b"12"
        tag = response.headers["ETag"]
        assert get(served, "/file", Range="bytes=1-2", If_Range=tag)[0].status == 206
        assert get(served, "/file", If_None_Match=tag)[0].status == 304
        for name in ("If_Modified_Since", "If_Unmodified_Since"):
            assert get(served, "/file", **{name: "Mon, 01 Jan 1990 00:00:00 GMT"})[0].status == 200


@pytest.mark.parametrize("moment", [0, 1, 1.75, -1, -1.75, -86400 * 365 * 5])
def test_a_file_of_any_other_time_has_its_date(tmp_path, moment):
    with file_of(moment, tmp_path) as path, Served("files", str(path.parent)) as served:
        date = get(served, "/file")[0].headers["Last-Modified"]
        assert parsedate_to_datetime(date).timestamp() == math.floor(moment)
        assert get(served, "/file", If_Modified_Since=date)[0].status == 304


# Ranges of nothing


@pytest.mark.parametrize(
    ("wanted", "status"),
    [("bytes=-1", 200), ("bytes=-1000", 200), ("bytes=-0", 416), ("bytes=0-", 416), ("bytes=0-0", 416)],
)
def test_the_end_of_an_empty_file_is_all_of_it(tmp_path, served, wanted, status):
    (tmp_path / "empty").touch()
    response, body = get(served, "/empty", Range=wanted)
    assert response.status == status
    assert response.headers["Content-Range"] == ("bytes */0" if status == 416 else None)
    if status == 200:
        assert (response.headers["Content-Length"], body) == ("0", b"")


# Types


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.html", "text/html; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.png", "image/png"),
        ("a.json", "application/json"),
        ("a.unheard-of", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
def test_text_is_said_to_be_utf_8(tmp_path, served, name, wanted):
    (tmp_path / name).write_bytes("é".encode())
    assert get(served, f"/{name}")[0].headers["Content-Type"] == wanted


# Listings


def links(page):
    return [line.partition('href="')[2].partition('"')[0] for line in page.decode().splitlines() if "<li>" in line]


@pytest.mark.parametrize("count", [999, 1000, 1001, 1100])
def test_a_listing_has_the_first_entries_by_name_and_says_when_there_are_more(tmp_path, served, count):
    names = [f"{number * 7919 % count:04}" for number in range(count)]
    for name in names:
        (tmp_path / name).touch()
    page = get(served, "/")[1]
    assert links(page) == ["../", *sorted(names)[:1000]]
    assert (b"There are more" in page) is (count > 1000)


@wine_row("no-symbolic-links")
def test_a_link_that_leads_nowhere_hides_nothing(tmp_path, served):
    (tmp_path / "file").write_bytes(SMALL)
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "one").symlink_to("other")
    (tmp_path / "other").symlink_to("one")
    (tmp_path / "through").symlink_to("circle/below")
    (tmp_path / "below a file").symlink_to("file/below")
    (tmp_path / "nothing").symlink_to("missing")
    (tmp_path / "long").symlink_to("x" * 300)
    (tmp_path / "directory").mkdir()
    (tmp_path / "inside").symlink_to("directory")
    bad = ["below%20a%20file", "circle", "long", "nothing", "one", "other", "through"]
    response, page = get(served, "/")
    assert response.status == 200
    assert links(page) == sorted([*bad, "file", "directory/", "inside/", "../"], key=lambda name: name.rstrip("/"))
    for name in bad:
        for target in (f"/{name}", f"/{name}/", f"/{name}/below"):
            assert raw(served, request(target))[0] == 404
    assert get(served, "/file")[1] == SMALL


@pytest.mark.parametrize("target", ["index.html", "missing", "index.html/below", "file/below", "x" * 300])
def test_an_index_that_leads_nowhere_is_none(tmp_path, served, target):
    (tmp_path / "file").write_bytes(SMALL)
    (tmp_path / "index.html").symlink_to(target)
    response, page = get(served, "/")
    assert response.status == 200
    assert "file" in links(page)
    assert get(served, "/index.html")[0].status == 404


def test_a_chain_of_links_of_any_length_gets_an_answer(tmp_path, served):
    (tmp_path / "link0").write_bytes(SMALL)
    for number in range(1, 1500):
        (tmp_path / f"link{number}").symlink_to(f"link{number - 1}")
    (tmp_path / "index.html").symlink_to("link1499")
    for target in ("/", "/link1499", "/link1499/"):
        status, answer = raw(served, request(target))
        assert status == 404 or answer.endswith(SMALL) or b"<li>" in answer  # as far as this Python follows them


@needs_to_lose_rights
def test_a_link_into_what_may_not_be_entered_hides_nothing(tmp_path):
    (tmp_path / "public").mkdir()
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "directory").mkdir()
    (tmp_path / "public" / "link").symlink_to("../private/directory")
    (tmp_path / "private").chmod(0)
    with Served("files", str(tmp_path), before=UNPRIVILEGED) as served:
        assert links(get(served, "/public/")[1]) == ["../", "link"]
        assert get(served, "/public/link")[0].status == 403


# Files that are made up as they are read


@needs_proc
@pytest.mark.parametrize("name", ["ostype", "osrelease", "version"])
def test_a_file_that_is_longer_than_it_says_is_delivered_whole(name):
    with Served("files", "/proc/sys/kernel") as served:
        wanted = Path("/proc/sys/kernel", name).read_bytes()
        for version in ("1.0", "1.1"):
            head = f"GET /{name} HTTP/{version}\r\nHost: here\r\nConnection: close\r\nRange: bytes=0-1\r\n\r\n"
            status, answer = raw(served, head.encode())
            assert (status, answer.partition(b"\r\n\r\n")[2]) == (200, wanted)
        response, _ = get(served, f"/{name}", "HEAD")
        assert response.headers["Content-Length"] == str(len(wanted))
        assert response.headers["Last-Modified"] is response.headers["ETag"] is None  # it changes without a trace
        assert get(served, f"/{name}", If_Modified_Since="Fri, 01 Jan 2100 00:00:00 GMT")[0].status == 200
        assert get(served, f"/{name}", If_Match="*")[0].status == 200
        assert get(served, f"/{name}", If_Match='"a"')[0].status == 412


SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(not LINUX or not SETTING.exists(), reason=f"needs Linux with {SETTING}")
def test_a_file_that_is_shorter_than_it_says_is_delivered_whole():
    assert SETTING.stat().st_size > len(SETTING.read_bytes())
    with Served("files", str(SETTING.parent)) as served:
        response, body = get(served, f"/{SETTING.name}")
        assert body == SETTING.read_bytes()
        assert response.headers["Content-Length"] == str(len(body))


@pytest.fixture
def maps():
    """The maps of a process that has many and keeps still: a file that is made up anew with each read."""
    program = "import mmap, sys\nkept = [mmap.mmap(-1, 1) for _ in range(4000)]\nprint(flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"\n"
        yield Path("/proc", str(process.pid), "maps")
        process.stdin.close()
        process.wait(PATIENCE)


@needs_proc
def test_a_long_file_that_says_nothing_of_its_length_is_delivered_whole(maps):
    with Served("files", str(maps.parent)) as served:
        wanted = maps.read_bytes()
        assert len(wanted) > 2 * PIECE_SIZE
        response, body = get(served, "/maps")
        assert (response.status, response.headers["Content-Length"], body) == (200, None, wanted)
        response, body = get(served, "/maps", "HEAD")
        assert (response.status, response.headers["Content-Length"], body) == (200, None, b"")
        status, answer = raw(served, b"GET /maps HTTP/1.0\r\n\r\n")  # which knows of no chunks
        head, _, body = answer.partition(b"\r\n\r\n")
        assert (status, body) == (200, wanted)
        assert b"Transfer-Encoding" not in head
        # And whoever goes on may, though the length was not known before.
        requests = b"GET /maps HTTP/1.1\r\nHost: here\r\n\r\n" + request("/maps")
        assert raw(served, requests)[1].count(b"HTTP/1.1 200 ") == 2
        served.ends_in_order()


@needs_pollable_pipes
def test_a_file_that_would_wait_for_more_holds_nobody_up():
    """As /proc/kmsg does, which is no file for a test to read from; a pipe waits as well."""
    reader, writer = unio.pipe()
    with reader, writer:
        found = SimpleNamespace(st_size=0, st_blocks=0)
        assert made_up(reader, found) is None
        writer.write(SMALL)
        assert made_up(reader, found) == SMALL

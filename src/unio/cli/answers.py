"""What the file server answers: which status, which headers, which range of which file. No bytes are moved here."""

from __future__ import annotations

import calendar
import errno
import html
import itertools
import mimetypes
import os
import re
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

import unio
from unio.cli.resources import Refused, escape, find

if TYPE_CHECKING:
    from collections.abc import Mapping
    from io import FileIO
    from pathlib import Path

METHODS = ("GET", "HEAD")

METHODS_KNOWN = ("CONNECT", "DELETE", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
"""Methods that others answer (405); what is not among them is not known at all (501)."""

ENTRIES_MAX = 1000
"""How many entries of a directory a listing has: one that could be of any length would take any amount of memory."""

# What the system says of a path, as HTTP says it; whatever is not here means that there is nothing to be had.
_STATUS = {errno.EACCES: 403, errno.EPERM: 403, errno.EMFILE: 503, errno.ENFILE: 503, errno.ENOMEM: 503}

_RANGE = re.compile(r"bytes=\s*(?P<first>\d{0,99})-(?P<last>\d{0,99})\s*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FileRange:
    """Bytes of a file that the kernel will send; whoever has it closes the file."""

    file: FileIO
    offset: int
    count: int

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True, slots=True)
class Answer:
    """A response apart from the headers that every response has."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | FileRange = b""


def answer(root: Path, method: str, target: str, headers: Mapping[str, str]) -> Answer:
    """Answer a request for something below the directory *root*. The names in *headers* are in lower case."""
    try:
        check_method(method)
        path = find(root, target)
        return answer_with_listing(path) if path.is_dir() else answer_with_file(path, method, headers)
    except Refused as refusal:
        return refuse(refusal.status, refusal.headers)
    except OSError as error:
        return refuse(_STATUS.get(error.errno or 0, 404))


def check_method(method: str) -> None:
    if method not in METHODS:
        raise Refused(405 if method in METHODS_KNOWN else 501, {"Allow": ", ".join(METHODS)})


def refuse(status: int, headers: dict[str, str] | None = None) -> Answer:
    """An answer that only says why there is no other."""
    if status == HTTPStatus.NOT_MODIFIED:  # it stands for a file, so it has no body of its own
        return Answer(status, headers or {})
    text = f"{status} {HTTPStatus(status).phrase}\n".encode()
    about = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(text))}
    return Answer(status, {**about, **(headers or {})}, text)


def answer_with_listing(path: Path) -> Answer:
    """A page with a link to each entry of a directory."""
    with os.scandir(path) as entries:
        names = sorted(entry.name + "/" * entry.is_dir() for entry in itertools.islice(entries, ENTRIES_MAX))
    title = html.escape(printable(path.name))
    lines = ["<!doctype html>", '<meta charset="utf-8">', f"<title>{title}</title>", f"<h1>{title}</h1>", "<ul>"]
    for name in ["../", *names]:
        link = escape(name.rstrip("/")) + "/" * name.endswith("/")
        lines.append(f'<li><a href="{link}">{html.escape(printable(name))}</a>')
    lines.append("</ul>" if len(names) < ENTRIES_MAX else "</ul><p>There may be more.")
    page = "\n".join(lines).encode()
    return Answer(200, {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(page))}, page)


def printable(name: str) -> str:
    """A file's name without what no encoding has: the stand-ins for bytes that are not UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def answer_with_file(path: Path, method: str, headers: Mapping[str, str]) -> Answer:
    """The whole file or a range of it, unless the conditions of the request stand against both."""
    file = unio.open(path)
    try:
        found = os.fstat(file.fileno())
        size, modified = found.st_size, int(found.st_mtime)
        tag, date = f'"{found.st_mtime_ns:x}-{size:x}"', formatdate(modified, usegmt=True)
        validators = {"ETag": tag, "Last-Modified": date}
        check_conditions(headers, tag, modified, validators)
        span = None
        if method == "GET" and "range" in headers and headers.get("if-range", tag) in (tag, date):
            span = parse_range(headers["range"], size)
    except BaseException:
        file.close()
        raise
    about = {**validators, "Accept-Ranges": "bytes", "Content-Type": content_type(path)}
    if span is None:
        return Answer(200, {**about, "Content-Length": str(size)}, FileRange(file, 0, size))
    about["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size}"
    return Answer(206, {**about, "Content-Length": str(len(span))}, FileRange(file, span.start, len(span)))


def check_conditions(headers: Mapping[str, str], tag: str, modified: int, validators: dict[str, str]) -> None:
    """Raise Refused with 412 or 304 where the request's conditions say so, in the order of RFC 9110, section 13.2.2."""
    if (wanted := headers.get("if-match")) is not None:
        if not matches(wanted, tag):
            raise Refused(412)
    elif (moment := parse_date(headers.get("if-unmodified-since"))) is not None and modified > moment:
        raise Refused(412)

    if (wanted := headers.get("if-none-match")) is not None:
        if matches(wanted.replace("W/", ""), tag):  # here a weak tag is as good as a strong one
            raise Refused(304, validators)
    elif (moment := parse_date(headers.get("if-modified-since"))) is not None and modified <= moment:
        raise Refused(304, validators)


def matches(wanted: str, tag: str) -> bool:
    return wanted.strip() == "*" or tag in (each.strip() for each in wanted.split(","))


def parse_date(text: str | None) -> int | None:
    """Seconds since the epoch; None for what is no date, which is to be ignored."""
    try:
        return None if text is None else calendar.timegm(parsedate_to_datetime(text).utctimetuple())
    except (ValueError, OverflowError):
        return None


def parse_range(text: str, size: int) -> range | None:
    """The bytes that a Range header asks for; None for all of them.

    That is also the answer to several ranges at once, which a server need not support, and to what is no range.
    Raises Refused when the file has none of the bytes.
    """
    match = _RANGE.fullmatch(text)
    if match is None or not (match["first"] or match["last"]):
        return None
    if not match["first"]:
        first, last = max(0, size - int(match["last"])), size - 1
    else:
        first, last = int(match["first"]), int(match["last"] or size)
        if match["last"] and last < first:
            return None
    if first >= size:
        raise Refused(416, {"Content-Range": f"bytes */{size}"})
    return range(first, min(last, size - 1) + 1)


def content_type(path: Path) -> str:
    # A compressed file is delivered as it is, so what is inside is not its type.
    kind, compression = mimetypes.guess_type("_" + path.suffix)
    return "application/octet-stream" if kind is None or compression is not None else kind

"""What the file server answers: which status, which headers, which range of which file. No bytes are moved here."""

from __future__ import annotations

import calendar
import mimetypes
import os
import re
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from unio.cli.resources import Refused, open_resource

if TYPE_CHECKING:
    from collections.abc import Mapping
    from io import FileIO

METHODS = ("GET", "HEAD")

METHODS_KNOWN = ("CONNECT", "DELETE", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
"""Methods that others answer (405); what is not among them is not known at all (501)."""

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
        file = open_resource(root, target)
        try:
            return answer_with_file(file, method, headers)
        except BaseException:
            file.close()
            raise
    except Refused as refusal:
        return refuse(refusal.status, refusal.headers)


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


def answer_with_file(file: FileIO, method: str, headers: Mapping[str, str]) -> Answer:
    """The whole file or a range of it, unless the conditions of the request stand against both."""
    found = os.fstat(file.fileno())
    size, modified = found.st_size, int(found.st_mtime)
    tag, date = f'"{found.st_mtime_ns:x}-{size:x}"', formatdate(modified, usegmt=True)
    validators = {"ETag": tag, "Last-Modified": date}
    check_conditions(headers, tag, modified, validators)

    wanted = headers.get("range")
    span = None
    if wanted is not None and method == "GET" and headers.get("if-range", tag) in (tag, date):
        span = parse_range(wanted, size)
    about = {**validators, "Accept-Ranges": "bytes", "Content-Type": content_type(os.fsdecode(file.name))}
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


def content_type(path: str) -> str:
    # A compressed file is delivered as it is, so what is inside is not its type.
    kind, compression = mimetypes.guess_type("_" + Path(path).suffix)
    if kind is None or compression is not None:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind

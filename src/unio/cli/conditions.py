"""What the headers of a request say of the file that it is for: when it is wanted, and which part of it."""

from __future__ import annotations

import calendar
import contextlib
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

from unio.cli.resources import Refused

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# The dates that HTTP has: the one to be written, and two to be understood as well (RFC 9110, section 5.6.7).
_DATES = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")

_RANGE = re.compile(r"bytes=\s*(?P<first>\d{0,99})-(?P<last>\d{0,99})\s*", re.ASCII | re.IGNORECASE)
_TAG = re.compile(r'(W/)?("[^"]*")')


def combine(lines: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers by name: several lines of one name are one list, as RFC 9110, section 5.3, has it.

    What is no list gets a value in this way that it can't have, and is then treated as that is.
    """
    headers: dict[str, str] = {}
    for name, value in ((name.decode("latin-1"), value.decode("latin-1")) for name, value in lines):
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


@dataclass(frozen=True, slots=True)
class Version:
    """What tells one state of a file from another."""

    tag: str | None = None
    modified: int | None = None
    """In seconds since the epoch."""
    date: str | None = None
    """When it was modified, as HTTP writes it."""

    def headers(self) -> dict[str, str]:
        named = {"ETag": self.tag, "Last-Modified": self.date}
        return {name: value for name, value in named.items() if value is not None}


def version_of(found: os.stat_result) -> Version:
    tag = f'"{found.st_mtime_ns:x}-{found.st_size:x}"'
    modified = found.st_mtime_ns // 1_000_000_000
    # A server may not claim a time in the future (RFC 9110, section 8.8.2.1), and there is no date for some.
    date = http_date(modified) if modified <= time.time() else None
    return Version(tag) if date is None else Version(tag, modified, date)


def http_date(moment: int) -> str | None:
    """Seconds since the epoch as a date; None for years before 1 and after 9999, which can't be written."""
    try:
        return format_datetime(_EPOCH + timedelta(seconds=moment), usegmt=True)
    except OverflowError:
        return None


def parse_date(text: str) -> int | None:
    """Seconds since the epoch; None for what is no date, which is to be ignored."""
    for form in _DATES:
        with contextlib.suppress(ValueError):
            return calendar.timegm(time.strptime(text, form))
    return None


def check_conditions(headers: Mapping[str, str], version: Version) -> None:
    """Raise Refused with 412 or 304 where the request's conditions say so, in the order of RFC 9110, section 13.2.2."""
    if (wanted := headers.get("if-match")) is not None:
        if not matches(wanted, version.tag, weakly=False):
            raise Refused(412)
    elif is_newer(version, headers.get("if-unmodified-since")) is True:
        raise Refused(412)

    if (wanted := headers.get("if-none-match")) is not None:
        if matches(wanted, version.tag, weakly=True):
            raise Refused(304, version.headers())
    elif is_newer(version, headers.get("if-modified-since")) is False:
        raise Refused(304, version.headers())


def matches(wanted: str, tag: str | None, *, weakly: bool) -> bool:
    """Whether *tag* is in a list of tags; a weak one in it counts only where *weakly* says so."""
    if wanted == "*":
        return True
    return any(found == tag and (weakly or not weak) for weak, found in _TAG.findall(wanted))


def is_newer(version: Version, date: str | None) -> bool | None:
    """Whether the file was modified after *date*; None if one of both has no date."""
    if date is None or version.modified is None or (moment := parse_date(date)) is None:
        return None
    return version.modified > moment


def wanted_part(method: str, headers: Mapping[str, str], version: Version, size: int) -> range | None:
    """The bytes that are wanted of a file; None for all of them. Raises Refused when it has none of those wanted."""
    if method != "GET" or "range" not in headers:
        return None
    if "if-range" in headers and headers["if-range"] not in (version.tag, version.date):
        return None
    return parse_range(headers["range"], size)


def parse_range(text: str, size: int) -> range | None:
    """The bytes that a Range header asks for; None for all of them.

    That is also the answer to several ranges at once, which a server need not support, and to what is no range.
    """
    match = _RANGE.fullmatch(text)
    if match is None or not (match["first"] or match["last"]):
        return None
    if not match["first"]:
        length = int(match["last"])
        if length and not size:  # the last bytes of none are none, of which no Content-Range could tell
            return None
        first, last = max(0, size - length), size - 1
    else:
        first, last = int(match["first"]), int(match["last"] or size)
        if match["last"] and last < first:
            return None
    if first >= size:
        raise Refused(416, {"Content-Range": f"bytes */{size}"})
    return range(first, min(last, size - 1) + 1)

"""What the file server answers: which status, which headers, which body. No bytes are moved here."""

from __future__ import annotations

import mimetypes
import os
import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

import unio
from unio.cli.bodies import FileRange, FileStream, made_up
from unio.cli.conditions import Version, check_conditions, version_of, wanted_part
from unio.cli.listing import listing
from unio.cli.resources import Refused, find, status_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from io import FileIO
    from pathlib import Path

METHODS = ("GET", "HEAD")

METHODS_KNOWN = ("CONNECT", "DELETE", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
"""Methods that others answer (405); what is not among them is not known at all (501)."""

# A name or an address, and a port. It makes no difference here, but a server has to refuse what is neither.
_HOST = re.compile(r"(\[[0-9A-Za-z:.%~_-]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(:[0-9]*)?")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response apart from the headers that every response has."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | FileRange | FileStream = b""


def answer(root: Path, method: str, target: str, headers: Mapping[str, str]) -> Answer:
    """Answer a request for something below the directory *root*. The names in *headers* are in lower case."""
    try:
        check_request(method, headers)
        path = find(root, target)
        return answer_with_listing(path, headers) if path.is_dir() else answer_with_file(path, method, headers)
    except Refused as refusal:
        return refuse(refusal.status, refusal.headers)
    except OSError as error:
        return refuse(status_of(error))


def check_request(method: str, headers: Mapping[str, str]) -> None:
    if not _HOST.fullmatch(headers.get("host", "")):
        raise Refused(400)
    if method not in METHODS:
        raise Refused(405 if method in METHODS_KNOWN else 501, {"Allow": ", ".join(METHODS)})


def refuse(status: int, headers: dict[str, str] | None = None) -> Answer:
    """An answer that only says why there is no other."""
    if status == HTTPStatus.NOT_MODIFIED:  # it stands for a file, so it has no body of its own
        return Answer(status, headers or {})
    text = f"{status} {HTTPStatus(status).phrase}\n".encode()
    return in_memory(status, {"Content-Type": "text/plain; charset=utf-8", **(headers or {})}, text)


def in_memory(status: int, headers: dict[str, str], body: bytes) -> Answer:
    return Answer(status, {**headers, "Content-Length": str(len(body))}, body)


def answer_with_listing(path: Path, headers: Mapping[str, str]) -> Answer:
    check_conditions(headers, Version())
    return in_memory(200, {"Content-Type": "text/html; charset=utf-8"}, listing(path))


def answer_with_file(path: Path, method: str, headers: Mapping[str, str]) -> Answer:
    """The whole file or a part of it, unless the conditions of the request stand against both."""
    file = unio.open(path)
    try:
        answer = answer_with_open(file, content_type(path), method, headers)
    except BaseException:
        file.close()
        raise
    if isinstance(answer.body, bytes):  # else whoever sends it closes it
        file.close()
    return answer


def answer_with_open(file: FileIO, kind: str, method: str, headers: Mapping[str, str]) -> Answer:
    found = os.fstat(file.fileno())
    content = made_up(file, found)
    version = version_of(found) if content is None else Version()  # nothing tells when what is made up changes
    check_conditions(headers, version)
    about = {"Content-Type": kind, **version.headers()}
    if isinstance(content, bytes):
        return in_memory(200, about, content)
    if content is not None:
        return Answer(200, about, content)

    size = found.st_size
    part = wanted_part(method, headers, version, size)
    about["Accept-Ranges"] = "bytes"
    if part is None:
        return Answer(200, {**about, "Content-Length": str(size)}, FileRange(file, 0, size))
    about["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    return Answer(206, {**about, "Content-Length": str(len(part))}, FileRange(file, part.start, len(part)))


def content_type(path: Path) -> str:
    # A compressed file is delivered as it is, so what is inside is not its type.
    kind, compression = mimetypes.guess_type("_" + path.suffix)
    if kind is None or compression is not None:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind

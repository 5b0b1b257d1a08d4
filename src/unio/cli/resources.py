"""From the target of a request to a path, and never to one outside the directory that is served."""

from __future__ import annotations

import errno
import os
import re
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

INDEX = "index.html"
"""What stands for the directory that holds it."""

# Windows takes a backslash for a separator, and what a colon follows for a drive or what it precedes for a stream.
# POSIX has files with such names; colons are common in them, so only what is no separator anywhere is let through.
_FORBIDDEN = ("\0", "/", "\\", ":") if os.name == "nt" else ("\0", "/", "\\")

# Windows drops these from the end of a name, so that a name which ends in them would stand for another name's file.
_DROPPED = ". " if os.name == "nt" else ""

# What the system says of a path, as HTTP says it; whatever is not here means that there is nothing to be had.
_STATUS = {errno.EACCES: 403, errno.EPERM: 403, errno.EMFILE: 503, errno.ENFILE: 503, errno.ENOMEM: 503}

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Refused(Exception):
    """There is nothing to serve; *status* is HTTP's word for why, and *headers* say more."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers or {}


def status_of(error: OSError) -> int:
    return _STATUS.get(error.errno or 0, 404)


def find(root: Path, target: str) -> Path:
    """The real path of the file that the target of a request names, or of the directory if that has no index.

    *root* is a real path too. Whoever may rename what is below it while requests run can still lead one astray: a path
    is checked first and opened then.

    Raises :class:`Refused`, and :class:`OSError` when nothing is there.
    """
    names, is_directory = parse(target)
    path = resolve(root, names)
    if not path.is_dir():
        # Only a regular file will do: a FIFO would wait for its writer, and a device could do anything.
        if is_directory or not path.is_file():
            raise Refused(404)
        return path
    if not is_directory:  # relative links in it would go wrong without the slash at the end
        raise Refused(301, {"Location": location(names)})
    try:
        index = resolve(root, [*names, INDEX])
    except OSError as error:
        if status_of(error) != HTTPStatus.NOT_FOUND:
            raise
        return path  # it has none, or a link in the place of one that leads nowhere
    return index if index.is_file() else path


def parse(target: str) -> tuple[list[str], bool]:
    """The names that a target is made of, and whether it ends as a directory's does."""
    match = re.match(r"(?:https?://[^/?]*)?(/[^?]*|(?=\?|$))", target, re.IGNORECASE)
    if match is None or not target or _BAD_ESCAPE.search(match[1]):
        raise Refused(400)
    names = [decode(part) for part in match[1].split("/")]
    return [name for name in names if name not in ("", ".")], names[-1] in ("", ".")


def decode(part: str) -> str:
    try:
        name = os.fsdecode(unquote_to_bytes(part))
    except UnicodeDecodeError as error:
        raise Refused(400) from error
    if name == ".." or any(character in name for character in _FORBIDDEN):
        raise Refused(400)
    if name not in ("", ".") and name.rstrip(_DROPPED) != name:
        raise Refused(404)
    return name


def resolve(root: Path, names: list[str]) -> Path:
    """The real path of what is there, which links may have led anywhere. Raises OSError when nothing is."""
    path = real(root.joinpath(*names))
    if not path.is_relative_to(root):
        raise Refused(404)  # what is outside is not even said to exist
    return path


def real(path: str | Path) -> Path:
    """The path without links. Raises OSError when nothing is there."""
    # Not Path.resolve, which says RuntimeError of links that go round in a circle.
    try:
        return Path(os.path.realpath(path, strict=True))
    except RecursionError as error:  # more links in a row than Python can follow, let alone the system
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error


def location(names: list[str]) -> str:
    """A directory's path from its names, which can't be taken for another host's as that of the request could."""
    return "".join(f"/{escape(name)}" for name in names) + "/"


def escape(name: str) -> str:
    """A name as a part of a URL."""
    return quote(os.fsencode(name), safe="")

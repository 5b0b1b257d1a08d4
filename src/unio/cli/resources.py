"""From the target of a request to an open file, and never to one outside the directory that is served."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

import unio

if TYPE_CHECKING:
    from io import FileIO

INDEX = "index.html"
"""What stands for the directory that holds it."""

# Windows takes a backslash for a separator, and what a colon follows for a drive or what it precedes for a stream.
# POSIX has files with such names; colons are common in them, so only what is no separator anywhere is let through.
_FORBIDDEN = ("\0", "/", "\\", ":") if os.name == "nt" else ("\0", "/", "\\")

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

_STATUS = {
    errno.EACCES: 403,
    errno.EPERM: 403,
    errno.EMFILE: 503,
    errno.ENFILE: 503,
    errno.ENOMEM: 503,
}


class Refused(Exception):
    """There is nothing to serve; *status* is HTTP's word for why, and *headers* say more."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers or {}


def open_resource(root: Path, target: str) -> FileIO:
    """Open the regular file below the real path *root* that the target of a request names.

    Whoever may rename directories below *root* while requests run can still lead one astray: the path is checked
    first and opened then.

    Raises :class:`Refused`.
    """
    names, is_directory = parse(target)
    try:
        path = resolve(root, names)
        if path.is_dir():
            if not is_directory:  # relative links in the index would go wrong without the slash at the end
                raise Refused(301, {"Location": location(names)})
            path = resolve(root, [*names, INDEX])
        elif is_directory:
            raise Refused(404)
        # Before opening: a FIFO would wait for its writer, and a device could do anything.
        if not path.is_file():
            raise Refused(404)
        return unio.open(path)
    except OSError as error:
        raise Refused(_STATUS.get(error.errno or 0, 404)) from error


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
    return name


def resolve(root: Path, names: list[str]) -> Path:
    """The real path of what is there, which links may have led anywhere. Raises OSError when nothing is."""
    # Not Path.resolve, which says RuntimeError of links that go round in a circle.
    path = Path(os.path.realpath(root.joinpath(*names), strict=True))
    if not path.is_relative_to(root):
        raise Refused(404)  # what is outside is not even said to exist
    return path


def location(names: list[str]) -> str:
    """A directory's path from the names, which can't be taken for another host's as that of the request could."""
    return "".join(f"/{quote(os.fsencode(name), safe='')}" for name in names) + "/"

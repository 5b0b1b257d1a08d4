"""Where the head of a request ends, whatever the pieces are that it comes in."""

from __future__ import annotations

import re

from unio.cli.resources import Refused

HEAD_SIZE_MAX = 16 * 1024
"""How large a request's line and headers may be, in bytes, with the empty line that ends them and those before."""

# Old clients send an empty line too many after a request, which RFC 9112, section 2.2, has a server ignore.
_EMPTY_LINES = re.compile(rb"(?:\r?\n)*")

# What a head begins with, or may still be about to. Of anything else, such as what wants TLS, nothing will come.
_BEGIN = re.compile(rb"[!-~]|\r?\Z")

_END = re.compile(rb"\n\r?\n")


class Heads:
    """Takes what a client sends and gives the heads of the requests in it, one by one.

    It holds at most the largest head and one piece more, if nothing is added while there is a head to be had.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._room = HEAD_SIZE_MAX
        self._searched = 0  # what was searched in vain is not searched again, so that many pieces cost as little as one

    def __bool__(self) -> bool:
        """Whether a client has begun to send what was not given yet."""
        return bool(self._data)

    def add(self, piece: bytes | memoryview) -> None:
        self._data += piece

    def next(self) -> bytes | None:
        """The next head, without the empty lines before it; None while it is incomplete.

        Raises Refused for one that is too large, and for what can't become one.
        """
        self._drop_empty_lines()
        if not _BEGIN.match(self._data):
            raise Refused(400)
        end = _END.search(self._data, self._searched, self._room)
        if end is None:
            if len(self._data) >= self._room:
                raise Refused(431)
            self._searched = max(0, len(self._data) - 2)
            return None
        head = bytes(self._data[: end.end()])
        del self._data[: end.end()]
        self._room, self._searched = HEAD_SIZE_MAX, 0
        return head

    def _drop_empty_lines(self) -> None:
        match = _EMPTY_LINES.match(self._data)
        assert match is not None
        del self._data[: match.end()]
        self._room -= match.end()

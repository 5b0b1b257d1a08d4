"""Which address of several is tried next, and what it means that one has failed: RFC 8305, "Happy Eyeballs Version 2".

It makes no input or output and knows no clock: who uses it says what has happened.
"""

from __future__ import annotations

import errno
from itertools import chain, zip_longest
from typing import Any, Final, TypeAlias

from unio.errors import shown

DELAY_SECONDS: Final = 0.25
"""How long an attempt is alone before the next one begins beside it: RFC 8305's "Connection Attempt Delay"."""

Found: TypeAlias = tuple[Any, ...]
"""An address as socket.getaddrinfo gives it: family, type, protocol, canonical name, address."""


def interleaved(found: list[Found]) -> list[Found]:
    """The addresses in the order in which they are tried: the families in turns, and each in the order given.

    The family of the first address is the first: the system has chosen it (RFC 8305, section 4, with its "First Address
    Family Count" of 1). An address that is there twice is tried once.
    """
    families: dict[int, list[Found]] = {}
    for each in found:
        same = families.setdefault(each[0], [])
        if each not in same:
            same.append(each)
    return [each for each in chain.from_iterable(zip_longest(*families.values())) if each is not None]


class Race:
    """Attempts to connect to the addresses of one name."""

    def __init__(self, name: str, found: list[Found]) -> None:
        self._name = name
        self._left = interleaved(found)
        self._under_way = 0
        self._failures: list[tuple[Found, OSError]] = []

    @property
    def has_more(self) -> bool:
        """Whether there is an address that was not tried yet."""
        return bool(self._left)

    @property
    def is_lost(self) -> bool:
        """Whether all addresses were tried, and no attempt is under way any more."""
        return not self._left and not self._under_way

    def begin(self) -> Found | None:
        """The address of the next attempt, which begins with this; None if there is none left.

        It is called at the beginning, DELAY_SECONDS after the last attempt has begun, and when one has failed.
        """
        if not self._left:
            return None
        self._under_way += 1
        return self._left.pop(0)

    def failed(self, address: Found, error: OSError) -> None:
        """An attempt has failed."""
        self._under_way -= 1
        self._failures.append((address, error))

    def error(self) -> OSError:
        """The one error of a race that is lost."""
        if not self._failures:
            return OSError(errno.EADDRNOTAVAIL, f"{self._name} has no address")
        said = "; ".join([f"{shown(where[4])}: {error.strerror or error}" for where, error in self._failures])
        number = self._failures[-1][1].errno or errno.ECONNREFUSED
        return OSError(number, f"{self._name} can't be connected to: {said}")

"""Bytes that are coded by their position, and the buffers that carry them."""

from __future__ import annotations

import itertools
import random
from typing import Any

PERIOD = 1_048_573
"""After how many bytes the pattern repeats: a prime, so that no buffer's size divides it."""

_twice = memoryview(random.Random(1).randbytes(PERIOD) * 2)

Sizes = tuple[int, ...]
"""The sizes of an operation's buffers; one for a plain operation, several for a vectored one."""


def pattern(position: int, size: int) -> memoryview:
    """The bytes of the pattern from a position on."""
    start = position % PERIOD
    return _twice[start : start + size]


def split(data: memoryview, sizes: Sizes) -> list[memoryview]:
    ends = list(itertools.accumulate(sizes))
    return [data[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def one_or_many(buffers: list[Any]) -> Any:
    """What an operation takes: a buffer, or several as a list."""
    return buffers[0] if len(buffers) == 1 else buffers


def taken(buffer: Any, size: int) -> bytes:
    """The first bytes of a buffer or of a list of them."""
    if not isinstance(buffer, list):
        return bytes(memoryview(buffer)[:size])
    return b"".join(buffer)[:size]

"""What an answer gives of a file: a part of one that is stored, or what the kernel makes up as one is read."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import FileIO

PIECE_SIZE = 64 * 1024
"""How many bytes of what is made up are held at once."""


@dataclass(frozen=True, slots=True)
class FileRange:
    """Bytes of a file that the kernel will send; whoever has it closes the file."""

    file: FileIO
    offset: int
    count: int

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True, slots=True)
class FileStream:
    """A file that is as long as it turns out to be, of which a piece has been read; whoever has it closes the file."""

    file: FileIO
    begin: bytes


def made_up(file: FileIO, found: os.stat_result) -> bytes | FileStream | None:
    """What the kernel makes up as a file is read whose size says nothing: that is 0 in /proc, and a page in sysfs.

    None for a file that is as long as it says, which is every one that is stored somewhere. Raises OSError.
    """
    if getattr(found, "st_blocks", 1) or found.st_size > mmap.PAGESIZE:  # Windows has neither the count nor such files
        return None
    os.set_blocking(file.fileno(), False)  # a few would wait for what happens next, as /proc/kmsg does
    begin = b""
    while len(begin) < PIECE_SIZE and (piece := file.read(PIECE_SIZE)):
        begin += piece
    if len(begin) == found.st_size:
        return None
    return begin if len(begin) < PIECE_SIZE else FileStream(file, begin)

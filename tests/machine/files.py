"""Files."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

from machine.pattern import Sizes, one_or_many, pattern, split, taken
from machine.subject import Subject, Submission, check
from platforms import WINDOWS

import unio

if TYPE_CHECKING:
    from collections.abc import Iterable

    from machine.world import World


class File(Subject):
    """A file, of which the model knows each byte: no two operations meet where one of them writes."""

    BLOCK = 4096
    BLOCKS = 32

    def __init__(self, world: World) -> None:
        self.content = bytearray(self.BLOCK * self.BLOCKS)
        self.readers: collections.Counter[int] = collections.Counter()
        self.writers: collections.Counter[int] = collections.Counter()
        path = world.directory / f"file-{world.next_start()}"
        path.write_bytes(self.content)
        self.check_file = path.open("rb", buffering=0)
        thing = unio.open(path, "rb+")
        if not WINDOWS:  # where the name of an open file stays taken
            path.unlink()
        super().__init__(world, thing)

    def _blocks(self, submission: Submission) -> Iterable[int]:
        return range(submission.start // self.BLOCK, -(-(submission.start + submission.size) // self.BLOCK))

    def _is_free(self, offset: int, size: int, *users: collections.Counter[int]) -> bool:
        blocks = range(offset // self.BLOCK, -(-(offset + size) // self.BLOCK))
        return not any(used[block] for block in blocks for used in users)

    def read(self, offset: int, sizes: Sizes, timeout: float | None = None) -> None:
        with self.lock:
            if not self._is_free(offset, sum(sizes), self.writers):
                return
            buffer = one_or_many([bytearray(size) for size in sizes])
            operation = self.again(unio.Read)
            if operation is None:
                operation = unio.Read(self.handle, buffer, offset)
            else:
                operation.buffer, operation.offset = buffer, offset
            self.submit(operation, timeout, sizes, offset)

    def write(self, offset: int, sizes: Sizes, timeout: float | None = None) -> None:
        size = sum(sizes)
        with self.lock:
            offset = min(offset, len(self.content) - size)
            if not self._is_free(offset, size, self.writers, self.readers):
                return
            buffer = one_or_many(split(pattern(self.world.next_start(), size), sizes))
            operation = self.again(unio.Write)
            if operation is None:
                operation = unio.Write(self.handle, buffer, offset)
            else:
                operation.buffer, operation.offset = buffer, offset
            self.submit(operation, timeout, sizes, offset)

    def flush(self, timeout: float | None = None) -> None:
        with self.lock:
            self.submit(self.again(unio.Flush) or unio.Flush(self.handle), timeout)

    def submitted(self, submission: Submission) -> None:
        self._users(submission).update(self._blocks(submission))

    def _users(self, submission: Submission) -> collections.Counter[int]:
        return self.writers if isinstance(submission.operation, unio.Write) else self.readers

    def completed(self, submission: Submission) -> None:
        self._users(submission).subtract(self._blocks(submission))
        count, buffer = submission.transferred, getattr(submission.operation, "buffer", [])
        there = self.content[submission.start : submission.start + submission.size]
        if isinstance(submission.operation, unio.Write):
            check(submission.error is not None or count == submission.size, "wrote less, with no error:", submission)
            self.content[submission.start : submission.start + count] = taken(buffer, count)
        elif isinstance(submission.operation, unio.Read):
            # One that was ended here may have come as far as this: not every system fills several buffers in one go.
            check(submission.error is not None or count == len(there), "read another count than there was:", submission)
            check(taken(buffer, count) == there[:count], "read other bytes than were written:", submission)
        else:
            check(count == 0, "transferred, though there was nothing to transfer:", submission)

    def owes(self) -> list[Submission]:
        with self.lock:
            return list(self.pending)

    def finish(self) -> None:
        with self.check_file as file:
            check(file.read() == self.content, "the file has other bytes than were written")

    def things(self) -> list[Any]:
        return [self.thing, self.check_file]

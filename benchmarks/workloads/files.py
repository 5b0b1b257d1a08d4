"""Reads 4 KiB at random offsets of a file, DEPTH of them at a time: ``files.py HOW``.

HOW is unio, threads (a concurrent.futures pool that calls os.preadv), asyncio or trio (tasks that call it through
to_thread), or loop (one thread that calls os.preadv, one read after the other: what the others have to beat when the
file is in memory).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import random
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from protocol import serve

if TYPE_CHECKING:
    from collections.abc import Callable

READ_SIZE = 4096
FILE_SIZE = 64 * 1024 * 1024
DEPTH = 32


def offset() -> int:
    return random.randrange(FILE_SIZE // READ_SIZE) * READ_SIZE  # noqa: S311 - no secret


def over_unio(path: str) -> Callable[[float], int]:
    import unio  # noqa: PLC0415 - each way imports what it needs alone

    port = unio.Port()
    handle = port.associate(unio.open(path))
    reads = [unio.Read(handle, bytearray(READ_SIZE), 0) for _ in range(DEPTH)]

    def work(seconds: float) -> int:
        end = time.monotonic() + seconds
        done = in_flight = 0
        idle = list(reads)
        while idle or in_flight:
            for operation in idle:
                operation.offset = offset()
                port.submit(operation)
            in_flight += len(idle)
            batch = port.wait()
            in_flight -= len(batch)
            done += len(batch)
            idle = [] if time.monotonic() >= end else [completion.operation for completion in batch]
        return done

    return work


def over_threads(path: str) -> Callable[[float], int]:
    file = os.open(path, os.O_RDONLY)
    pool = concurrent.futures.ThreadPoolExecutor(DEPTH)

    def read(buffer: bytearray) -> bytearray:
        os.preadv(file, [buffer], offset())
        return buffer

    def work(seconds: float) -> int:
        end = time.monotonic() + seconds
        done = 0
        pending = {pool.submit(read, bytearray(READ_SIZE)) for _ in range(DEPTH)}
        while pending:
            ready, pending = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
            done += len(ready)
            if time.monotonic() < end:
                pending |= {pool.submit(read, future.result()) for future in ready}
        return done

    return work


def over_asyncio(path: str) -> Callable[[float], int]:
    file = os.open(path, os.O_RDONLY)
    runner = asyncio.Runner()

    async def read_on(end: float) -> int:
        buffer = bytearray(READ_SIZE)
        done = 0
        while time.monotonic() < end:
            await asyncio.to_thread(os.preadv, file, [buffer], offset())
            done += 1
        return done

    async def read_all(seconds: float) -> int:
        end = time.monotonic() + seconds
        return sum(await asyncio.gather(*(read_on(end) for _ in range(DEPTH))))

    return lambda seconds: runner.run(read_all(seconds))


def over_trio(path: str) -> Callable[[float], int]:
    import trio  # noqa: PLC0415 - each way imports what it needs alone

    file = os.open(path, os.O_RDONLY)

    async def read_on(end: float, done: list[int]) -> None:
        buffer = bytearray(READ_SIZE)
        while time.monotonic() < end:
            await trio.to_thread.run_sync(os.preadv, file, [buffer], offset())
            done[0] += 1

    async def read_all(seconds: float) -> int:
        end = time.monotonic() + seconds
        done = [0]
        async with trio.open_nursery() as nursery:
            for _ in range(DEPTH):
                nursery.start_soon(read_on, end, done)
        return done[0]

    return lambda seconds: trio.run(read_all, seconds)


def over_loop(path: str) -> Callable[[float], int]:
    file = os.open(path, os.O_RDONLY)
    buffer = bytearray(READ_SIZE)

    def work(seconds: float) -> int:
        end = time.monotonic() + seconds
        done = 0
        while time.monotonic() < end:
            for _ in range(DEPTH):
                os.preadv(file, [buffer], offset())
            done += DEPTH
        return done

    return work


WAYS = {
    "unio": over_unio,
    "threads": over_threads,
    "asyncio": over_asyncio,
    "trio": over_trio,
    "loop": over_loop,
}


def main() -> None:
    with tempfile.NamedTemporaryFile() as content:
        content.write(os.urandom(FILE_SIZE))
        content.flush()
        serve(WAYS[sys.argv[1]](content.name))


if __name__ == "__main__":
    main()

"""Files that tasks read and write: what is in them, in any order and size, and what cancels and errors leave."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import random
from pathlib import Path
from typing import Any

import pytest

import unio.asyncio
from unio.asyncio.files import PIECE

CONTENT = b"".join(b"%d\n" % number * (number % 5) for number in range(200_000))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize("size", [1000, PIECE, PIECE + 1, 3 * PIECE, -1])
def test_a_file_is_read_in_portions_of_any_size(run, path: Path, size: int) -> None:
    async def main() -> None:
        data = bytearray()
        async with unio.asyncio.open(path, "rb") as file:
            while part := await file.read(size):
                data += part
                assert len(part) == size or len(data) == len(CONTENT)
                assert file.tell() == len(data)
            assert await file.read(1) == b""
        assert data == CONTENT
        assert file.closed

    run(main())


def test_lines_come_one_by_one(run, path: Path) -> None:
    async def main() -> None:
        async with unio.asyncio.open(path, "rb") as file:
            lines = [line async for line in file]
            assert b"".join(lines) == CONTENT
            assert lines[:1000] == CONTENT.splitlines(keepends=True)[:1000]
            assert len(lines) == CONTENT.count(b"\n")
            await file.seek(0)
            assert await file.readline(1) == b"1"
            assert await file.readline(0) == b""
            assert await file.readline(100) == b"\n"

    run(main())


def test_a_line_may_be_longer_than_what_is_read_at_once_and_lack_its_end(run, tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"x" * (2 * PIECE + 5) + b"\n" + b"y" * PIECE)

    async def main() -> None:
        async with unio.asyncio.open(path, "rb") as file:
            assert await file.readline() == b"x" * (2 * PIECE + 5) + b"\n"
            assert await file.readline() == b"y" * PIECE
            assert await file.readline() == b""

    run(main())


def test_what_is_written_in_any_pieces_is_in_the_file(run, tmp_path: Path) -> None:
    path = tmp_path / "new"

    async def main() -> None:
        async with unio.asyncio.open(path, "xb") as file:
            at, size = 0, 1
            while at < len(CONTENT):
                data = bytearray(CONTENT[at : at + size])
                assert await file.write(data) == len(data)
                data[:] = bytes(len(data))
                at, size = at + size, size * 2 % 700_001
            assert file.tell() == len(CONTENT)
        with pytest.raises(FileExistsError):
            await unio.asyncio.open(path, "xb")

    run(main())
    assert path.read_bytes() == CONTENT


def test_a_file_reads_and_writes_as_one_in_memory_does(run, path: Path) -> None:
    chance = random.Random(7)
    model = io.BytesIO(CONTENT)

    async def main() -> None:
        async with unio.asyncio.open(path, "r+b") as file:
            for _ in range(400):
                size = chance.choice([0, 1, 100, 5000, PIECE - 1, PIECE, PIECE + 1])
                match chance.randrange(7):
                    case 0 | 1:
                        assert await file.read(size) == model.read(size)
                    case 2:
                        assert await file.readline() == model.readline()
                    case 3 | 4:
                        data = chance.randbytes(size)
                        assert await file.write(data) == model.write(data)
                    case 5:
                        to = chance.choice([chance.randrange(len(CONTENT) * 2), chance.randrange(2000)])
                        assert await file.seek(to) == model.seek(to)
                    case _:
                        buffer, expected = bytearray(size), bytearray(size)
                        assert await file.readinto(buffer) == model.readinto(expected)
                        assert buffer == expected
                assert file.tell() == model.tell()

    run(main())
    assert path.read_bytes() == model.getvalue()


def test_what_was_read_ahead_is_not_what_was_written_since(run, path: Path) -> None:
    async def main() -> None:
        async with unio.asyncio.open(path, "r+b") as file:
            assert await file.read(10) == CONTENT[:10]
            await file.seek(0)
            await file.write(b"0123456789")
            await file.seek(0)
            assert await file.read(12) == b"0123456789" + CONTENT[10:12]

    run(main())


def test_what_is_appended_comes_in_its_order_behind_what_is_there(run, path: Path) -> None:
    async def main() -> None:
        async with unio.asyncio.open(path, "ab") as file:
            assert file.tell() == len(CONTENT)
            for number in range(6):
                await file.write(bytes([number]) * PIECE)
            assert file.tell() == len(CONTENT) + 6 * PIECE

    run(main())
    assert path.read_bytes() == CONTENT + b"".join(bytes([number]) * PIECE for number in range(6))


def test_a_flush_shows_others_what_was_written(run, path: Path) -> None:
    def content() -> bytes:
        return path.read_bytes()

    async def main() -> None:
        async with unio.asyncio.open(path, "wb") as file:
            await file.write(b"hello")
            await file.flush()
            assert content() == b"hello"
            await file.write(b" there")
            await file.sync()
            assert content() == b"hello there"
            assert await file.truncate(4) == 4
            assert content() == b"hell"
            await file.seek(-1, os.SEEK_END)
            assert file.tell() == 3
            await file.seek(-1, os.SEEK_CUR)
            assert await file.truncate() == 2
            with pytest.raises(ValueError, match="before the start"):
                await file.seek(-1)

    run(main())
    assert path.read_bytes() == b"he"


def test_a_cancelled_read_has_moved_nothing(run, path: Path) -> None:
    async def main() -> None:
        async with unio.asyncio.open(path, "rb") as file:
            for turns in range(8):
                before = file.tell()
                reading = asyncio.ensure_future(file.read(PIECE + 7))
                for _ in range(turns):
                    await asyncio.sleep(0)
                reading.cancel()
                await asyncio.wait([reading])
                if reading.cancelled():
                    assert file.tell() == before
                    assert await file.read(5) == CONTENT[before : before + 5]
                else:
                    assert reading.result() == CONTENT[before : before + PIECE + 7]

    run(main())


def test_a_cancelled_write_has_been_written_or_not_begun(run, tmp_path: Path) -> None:
    async def main() -> bytes:
        expected = b""
        async with unio.asyncio.open(tmp_path / "file", "wb") as file:
            for number in range(20):
                before = file.tell()
                data = bytes([number]) * (2 * PIECE)
                writing = asyncio.ensure_future(file.write(data))
                for _ in range(number % 4):
                    await asyncio.sleep(0)
                writing.cancel()
                await asyncio.wait([writing])
                assert file.tell() in {before, before + len(data)}
                if file.tell() > before:
                    expected += data
        return expected

    expected = run(main())
    assert (tmp_path / "file").read_bytes() == expected


def test_tasks_take_turns(run, path: Path) -> None:
    async def main() -> None:
        async with unio.asyncio.open(path, "rb") as file:
            parts = await asyncio.gather(*(file.read(10_000) for _ in range(20)))
            assert b"".join(parts) == CONTENT[:200_000]

    run(main())


def test_what_fails_behind_the_programs_back_is_raised_by_a_later_call(run, tmp_path: Path) -> None:
    refused = rf"{os.strerror(errno.EBADF)}|WinError \d"  # as the file is open for reading

    async def main() -> None:
        await (await unio.asyncio.open(tmp_path / "file", "wb")).close()
        reading = await unio.asyncio.open(tmp_path / "file", "rb")
        await reading.write(b"x")
        with pytest.raises(OSError, match=refused):
            await reading.flush()
        await reading.write(b"x")
        with pytest.raises(OSError, match=refused):
            await reading.close()
        assert reading.closed
        with pytest.raises(ValueError, match="closed file"):
            await reading.read()
        await reading.close()

    run(main())


def test_errors_of_opening_are_the_systems(run, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(FileNotFoundError):
            await unio.asyncio.open(tmp_path / "missing")
        for mode in ("", "rw", "rbt+", "q"):
            with pytest.raises(ValueError, match="mode"):
                unio.asyncio.open(tmp_path, mode)
        with pytest.raises(ValueError, match="encoding"):
            unio.asyncio.open(tmp_path, "rb", encoding="utf-8")

    run(main())


def test_another_kind_of_loop_is_refused(path: Path) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="loop of unio's"):
            await unio.asyncio.open(path)

    asyncio.run(main())


def test_a_cancelled_open_leaves_nothing_open(run, path: Path) -> None:
    async def main() -> None:
        for turns in range(3):
            opening = asyncio.ensure_future(wait_for(path))
            for _ in range(turns):
                await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait([opening])
            if not opening.cancelled():
                await opening.result().close()
        await asyncio.get_running_loop().shutdown_default_executor()

    async def wait_for(path: Path) -> unio.asyncio.BinaryFile:
        return await unio.asyncio.open(path, "rb")

    run(main())


TEXT = "Grüße\r\nan alle\n\rund — so 😀\n" * 3


@pytest.mark.parametrize("newline", [None, "", "\n", "\r", "\r\n"], ids=repr)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_text_is_what_the_built_in_open_has_it_be(run, tmp_path: Path, encoding: str, newline: str | None) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    text = TEXT.encode("latin-1", "ignore").decode("latin-1") if encoding == "latin-1" else TEXT

    def opened(mode: str) -> Any:
        return open(theirs, mode, encoding=encoding, newline=newline)

    async def main() -> None:
        async with unio.asyncio.open(ours, "w", encoding=encoding, newline=newline) as file:
            for part in (text[:10], text[10:]):
                assert await file.write(part) == len(part)
        with opened("w") as file:
            file.write(text)
        assert ours.read_bytes() == theirs.read_bytes()
        async with unio.asyncio.open(ours, encoding=encoding, newline=newline) as file:
            lines = [line async for line in file]
            await file.seek(0)
            start, rest = await file.read(7), await file.read()
        with opened("r") as file:
            assert lines == list(file)
            file.seek(0)
            assert (start, rest) == (file.read(7), file.read())

    run(main())


def test_text_that_can_not_be_decoded_is_an_error_or_replaced(run, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a\xffb")

    async def main() -> None:
        async with unio.asyncio.open(tmp_path / "file") as file:
            with pytest.raises(UnicodeDecodeError):
                await file.read()
            with pytest.raises(io.UnsupportedOperation):
                await file.seek(3)
        async with unio.asyncio.open(tmp_path / "file", errors="replace") as file:
            assert await file.read() == "a\N{REPLACEMENT CHARACTER}b"

    run(main())

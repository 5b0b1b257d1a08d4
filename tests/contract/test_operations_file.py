"""Reading and writing files."""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import channels
import pytest
import support
from platforms import needs_crt_files, needs_rlimit

import unio

MIB = 1 << 20


@pytest.fixture
def open_file(port, resources, tmp_path):
    """Opens a file with some content and lets it join the port."""

    def open_file(content=b"0123456789", mode="rb+", name="file", key=None):
        path = tmp_path / name
        path.write_bytes(content)
        return port.associate(resources.enter_context(unio.open(path, mode)), key)

    return open_file


def content(handle):
    """What is in a file, read behind the port's back."""
    return Path(handle.object.name).read_bytes()


# Reading


@pytest.mark.clause("O8", "C1")
def test_a_read_delivers_the_bytes_at_its_offset(port: unio.Port, open_file: Any) -> None:
    key = object()
    handle = open_file(key=key)
    buffer = bytearray(4)
    read = unio.Read(handle, buffer, 3)
    assert support.run(port, read) == (key, read, 4, None)
    assert buffer == b"3456"
    assert (read.transferred, read.error) == (4, None)


@pytest.mark.clause("O8")
def test_a_read_neither_uses_nor_moves_the_position_of_the_file(port: unio.Port, open_file: Any) -> None:
    handle = open_file()
    handle.object.seek(5)
    read = unio.Read(handle, bytearray(3), 0)
    support.succeed(port, read)
    assert read.buffer == b"012"
    assert handle.object.tell() == 5
    support.succeed(port, unio.Write(handle, b"x", 9))
    assert handle.object.tell() == 5


@pytest.mark.clause("O8")
@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [(6, 100, b"6789"), (9, 1, b"9"), (10, 5, b""), (11, 5, b""), (2**62, 5, b""), (2**63 - 1, 5, b"")],
)
def test_the_end_of_the_file_is_a_success_with_fewer_bytes_or_none(
    port: unio.Port, open_file: Any, offset: Any, size: Any, expected: Any
) -> None:
    handle = open_file()
    read = unio.Read(handle, bytearray(size), offset)
    for _ in range(3):
        assert support.run(port, read) == (None, read, len(expected), None)
        assert read.buffer[: len(expected)] == expected


@pytest.mark.clause("O8")
def test_reading_an_empty_file_delivers_nothing(port: unio.Port, open_file: Any) -> None:
    read = unio.Read(open_file(b""), bytearray(10), 0)
    assert support.run(port, read) == (None, read, 0, None)


@pytest.mark.clause("O8")
def test_a_read_without_room_succeeds_with_no_bytes(port: unio.Port, open_file: Any) -> None:
    handle = open_file()
    for buffer in (bytearray(), [], [bytearray(), bytearray()]):
        read = unio.Read(handle, buffer, 5)
        assert support.run(port, read) == (None, read, 0, None)


@pytest.mark.clause("O8", "O6")
def test_a_vectored_read_fills_its_buffers_one_after_the_other(port: unio.Port, open_file: Any) -> None:
    buffers = [bytearray(2), bytearray(), bytearray(3), bytearray(b"........")]
    read = unio.Read(open_file(), buffers, 1)
    assert support.run(port, read) == (None, read, 9, None)
    assert buffers == [b"12", b"", b"345", b"6789...."]


@pytest.mark.clause("O8", "O6", "L4")
def test_a_vectored_read_of_more_buffers_than_the_system_takes_at_once_fills_them_all(
    port: unio.Port, open_file: Any
) -> None:
    data = channels.pattern(21_000)
    buffers = [bytearray(7) for _ in range(3000)]
    read = unio.Read(open_file(data), buffers, 0)
    assert support.run(port, read) == (None, read, 21_000, None)
    assert b"".join(buffers) == data


@pytest.mark.clause("O8")
def test_a_large_read_fills_its_buffer(port: unio.Port, open_file: Any) -> None:
    data = channels.pattern(32 * MIB)
    read = unio.Read(open_file(data), bytearray(32 * MIB + 1), 0)
    assert support.run(port, read) == (None, read, 32 * MIB, None)
    assert memoryview(read.buffer)[:-1] == data


@pytest.mark.clause("O8")
def test_a_read_fills_any_writable_buffer(port: unio.Port, open_file: Any) -> None:
    numbers = array.array("q", range(50))
    read = unio.Read(open_file(numbers.tobytes()), array.array("q", bytes(400)), 0)
    assert support.run(port, read).transferred == 400
    assert read.buffer == numbers


@pytest.mark.clause("O8", "S6")
def test_a_read_is_submitted_again_at_another_offset(port: unio.Port, open_file: Any) -> None:
    read = unio.Read(open_file(), bytearray(1), 0)
    found = []
    for offset in range(10):
        read.offset = offset
        support.succeed(port, read)
        found.append(bytes(read.buffer))
    assert b"".join(found) == b"0123456789"


# Writing


@pytest.mark.clause("O8", "C1")
def test_a_write_puts_its_bytes_at_its_offset(port: unio.Port, open_file: Any) -> None:
    key = object()
    handle = open_file(key=key)
    write = unio.Write(handle, b"abc", 4)
    assert support.run(port, write) == (key, write, 3, None)
    assert content(handle) == b"0123abc789"


@pytest.mark.clause("O8")
def test_a_write_at_or_past_the_end_makes_the_file_longer(port: unio.Port, open_file: Any) -> None:
    handle = open_file()
    assert support.run(port, unio.Write(handle, b"abc", 9)).transferred == 3
    assert content(handle) == b"012345678abc"
    assert support.run(port, unio.Write(handle, b"far", 5 * MIB)).transferred == 3
    assert content(handle) == b"012345678abc" + bytes(5 * MIB - 12) + b"far"
    read = unio.Read(handle, bytearray(b"....."), 11)
    support.succeed(port, read)
    assert read.buffer == b"c\0\0\0\0"


@pytest.mark.clause("O8")
def test_offsets_beyond_32_bits_are_exact(port: unio.Port, open_file: Any) -> None:
    handle = open_file(b"")
    offset = 5 * 2**30 + 1
    support.succeed(port, unio.Write(handle, b"far out", offset))
    assert Path(handle.object.name).stat().st_size == offset + 7
    read = unio.Read(handle, bytearray(100), offset - 2)
    assert support.run(port, read).transferred == 9
    assert read.buffer[:9] == b"\0\0far out"


@pytest.mark.clause("O8")
def test_a_write_of_nothing_succeeds_and_writes_nothing(port: unio.Port, open_file: Any) -> None:
    handle = open_file()
    for empty in (b"", [], [b"", b""]):
        write = unio.Write(handle, empty, 100)
        assert support.run(port, write) == (None, write, 0, None)
    assert content(handle) == b"0123456789"


@pytest.mark.clause("O8", "O6")
def test_a_vectored_write_puts_its_buffers_one_after_the_other(port: unio.Port, open_file: Any) -> None:
    handle = open_file()
    write = unio.Write(handle, [b"ab", b"", bytearray(b"c"), memoryview(b"-def-")[1:4]], 2)
    assert support.run(port, write) == (None, write, 6, None)
    assert content(handle) == b"01abcdef89"


@pytest.mark.clause("O8", "O6", "L4")
def test_a_vectored_write_of_more_buffers_than_the_system_takes_at_once_writes_them_all(
    port: unio.Port, open_file: Any
) -> None:
    data = channels.pattern(21_000)
    handle = open_file(b"")
    write = unio.Write(handle, [data[start : start + 7] for start in range(0, len(data), 7)], 0)
    assert support.run(port, write) == (None, write, 21_000, None)
    assert content(handle) == data


@pytest.mark.clause("O8")
def test_a_large_write_is_written_whole(port: unio.Port, open_file: Any) -> None:
    data = channels.pattern(32 * MIB)
    handle = open_file(b"")
    write = unio.Write(handle, data, 0)
    assert support.run(port, write) == (None, write, len(data), None)
    assert content(handle) == data


@pytest.mark.clause("O8")
def test_a_file_opened_for_appending_is_written_at_its_end_whatever_the_offset(port: unio.Port, open_file: Any) -> None:
    handle = open_file(mode="ab")
    for offset, data in ((0, b"first"), (3, b" second"), (2**40, b" third")):
        assert support.run(port, unio.Write(handle, data, offset)).transferred == len(data)
    assert content(handle) == b"0123456789first second third"


@pytest.mark.clause("O8")
def test_writes_in_flight_on_one_handle_are_independent_and_all_done(port: unio.Port, open_file: Any) -> None:
    handle = open_file(b"")
    blocks = [channels.pattern(5000 + number) for number in range(200)]
    offsets = [sum(map(len, blocks[:number])) for number in range(200)]
    for block, offset in zip(blocks, offsets, strict=True):
        port.submit(unio.Write(handle, block, offset, state=len(block)))
    for completion in support.completions(port, 200):
        assert completion.error is None
        assert completion.transferred == completion.operation.state
    assert content(handle) == b"".join(blocks)


@pytest.mark.clause("O8")
def test_files_of_every_mode_do_what_their_mode_says(
    port: unio.Port, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    path = tmp_path / "new"
    handle = port.associate(resources.enter_context(unio.open(path, "xb+")))
    support.succeed(port, unio.Write(handle, b"written", 0))
    read = unio.Read(handle, bytearray(10), 0)
    assert support.run(port, read).transferred == 7
    handle = port.associate(resources.enter_context(unio.open(os.fsencode(path), "rb")))
    assert support.run(port, unio.Read(handle, bytearray(10), 0)).transferred == 7
    handle = port.associate(resources.enter_context(unio.open(str(path), "wb")))
    assert content(handle) == b""
    with pytest.raises(ValueError, match="mode"):
        unio.open(path, "r")


@pytest.mark.clause("O8")
@needs_crt_files
def test_a_file_joins_by_its_number_and_by_any_object_that_has_one(
    port: unio.Port, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    number = os.open(path, os.O_RDONLY)
    resources.callback(os.close, number)
    for file in (number, resources.enter_context(path.open("rb"))):
        read = unio.Read(port.associate(file), bytearray(10), 0)
        assert support.run(port, read) == (None, read, 7, None)


# Errors


@pytest.mark.clause("O8", "C2", "S3")
@pytest.mark.parametrize(("mode", "make"), [("rb", unio.Write), ("wb", unio.Read), ("ab", unio.Read)])
def test_what_the_mode_does_not_permit_is_an_error_of_the_completion(
    port: unio.Port, open_file: Any, mode: Any, make: Any
) -> None:
    handle = open_file(mode=mode)
    for operation in (make(handle, bytearray(5), 0), make(handle, [bytearray(5), bytearray(5)], 0)):
        completion = support.run(port, operation)
        assert completion.error.errno == errno.EBADF
        assert completion.transferred == 0


@pytest.mark.clause("O8", "C2")
def test_a_write_that_the_file_system_has_no_offset_for_is_an_error_of_the_completion(
    port: unio.Port, open_file: Any
) -> None:
    handle = open_file()
    completion = support.run(port, unio.Write(handle, b"data", 2**63 - 1))
    assert completion.error.errno in (errno.EFBIG, errno.EINVAL)
    assert completion.transferred == 0
    assert content(handle) == b"0123456789"


@pytest.mark.clause("O8")
@pytest.mark.parametrize("offset", [-1, 2**63])
def test_an_impossible_offset_is_refused_where_it_is_given(port: unio.Port, open_file: Any, offset: Any) -> None:
    handle = open_file()
    with pytest.raises(ValueError, match="offset"):
        unio.Read(handle, bytearray(1), offset)
    write = unio.Write(handle, b"x", 0)
    with pytest.raises(ValueError, match="offset"):
        write.offset = offset


LIMITED = """
import json, os, resource, sys, tempfile
import unio

resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
with unio.Port(backend=sys.argv[1]) as port, tempfile.TemporaryDirectory() as directory:
    with unio.open(os.path.join(directory, "file"), "xb") as file:
        handle = port.associate(file)
        results = []
        for buffer, offset in ((bytes(25_000), 0), ([bytes(4000)] * 5, 2000), (b"x", 10_000), (b"x", 9_999)):
            port.submit(unio.Write(handle, buffer, offset))
            [completion] = port.wait(60)
            results.append([completion.transferred, completion.error and completion.error.errno])
print(json.dumps(results))
"""


@pytest.mark.clause("O8", "C2")
@needs_rlimit
def test_a_write_that_the_system_stops_is_an_error_with_the_count_so_far(backend: str) -> None:
    results = json.loads(channels.run_script(LIMITED, backend))
    assert results == [[10_000, errno.EFBIG], [8_000, errno.EFBIG], [0, errno.EFBIG], [1, None]]


# Flushing


@pytest.mark.clause("O8")
def test_a_flush_completes_with_no_bytes_and_changes_nothing(port: unio.Port, open_file: Any) -> None:
    handle = open_file(key="file")
    flush = unio.Flush(handle)
    assert support.run(port, flush) == ("file", flush, 0, None)
    support.succeed(port, unio.Write(handle, b"abc", 0))
    assert support.run(port, flush) == ("file", flush, 0, None)
    assert content(handle) == b"abc3456789"


@pytest.mark.clause("A2")
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="null"):
        unio.open(f"{tmp_path / 'file'}\0", "rb")


@pytest.mark.clause("O8")
def test_flushes_go_on_among_reads_and_writes(port: unio.Port, open_file: Any) -> None:
    handle = open_file(b"")
    operations = []
    for number in range(30):
        operations += [
            unio.Write(handle, bytes([number]) * 100, number * 100),
            unio.Flush(handle),
            unio.Read(handle, bytearray(100), 0),
        ]
    for operation in operations:
        port.submit(operation)
    found = support.completions(port, len(operations))
    assert {completion.operation for completion in found} == set(operations)
    assert {completion.error for completion in found} == {None}
    assert content(handle) == b"".join(bytes([number]) * 100 for number in range(30))


# Whose thread does the work

THREAD_IO = Path("/proc/thread-self/io")
accounted = pytest.mark.skipif(not THREAD_IO.exists(), reason="the system does not count each thread's I/O")


def moved_by_this_thread():
    """How many bytes this thread has read and written itself so far, as the system counts them."""
    counts = dict(line.split(": ") for line in THREAD_IO.read_text().splitlines())
    return int(counts["rchar"]) + int(counts["wchar"])


@pytest.mark.clause("O8")
@accounted
@pytest.mark.parametrize("make", [unio.Read, unio.Write])
@pytest.mark.parametrize("vectored", [False, True])
def test_file_operations_are_never_done_by_the_submitting_thread(
    port: unio.Port, open_file: Any, make: Any, vectored: Any
) -> None:
    handle = open_file(bytes(4 * MIB))
    buffer = [bytearray(2 * MIB), bytearray(2 * MIB)] if vectored else bytearray(4 * MIB)
    operations = [make(handle, buffer, 0) for _ in range(4)]
    before = moved_by_this_thread()
    for operation in operations:
        port.submit(operation)
    for completion in support.completions(port, 4):
        assert (completion.transferred, completion.error) == (4 * MIB, None)
    assert moved_by_this_thread() - before < MIB


@pytest.mark.clause("O8")
def test_many_file_operations_need_few_threads(port: unio.Port, open_file: Any) -> None:
    handle = open_file(bytes(MIB))
    threads = threading.active_count()
    reads = [unio.Read(handle, bytearray(100_000), number * 1000) for number in range(900)]
    most = threads
    for read in reads:
        port.submit(read)
        most = max(most, threading.active_count())
    found = support.completions(port, len(reads))
    assert {(completion.transferred, completion.error) for completion in found} == {(100_000, None)}
    assert most - threads <= 64


@pytest.mark.clause("O8", "P7")
def test_closed_ports_leave_no_threads_behind(make_port: Any, resources: contextlib.ExitStack, tmp_path: Path) -> None:
    threads = threading.active_count()
    (tmp_path / "file").write_bytes(bytes(1000))
    for _ in range(20):
        port = make_port()
        handle = port.associate(resources.enter_context(unio.open(tmp_path / "file")))
        for _ in range(10):
            port.submit(unio.Read(handle, bytearray(1000), 0))
        port.close()
    support.until(lambda: threading.active_count() <= threads + 64)


# Without threads


ON_THREADS = {"epoll": {"read", "write", "flush"}, "kqueue": {"read", "write", "flush"}, "iocp": {"flush"}}
"""What a backend has threads for; elsewhere the kernel does it."""


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has the system start no thread, while within it."""

    @contextlib.contextmanager
    def no_threads() -> Any:
        def start(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            yield

    return no_threads


@pytest.mark.clause("O8", "S1", "S3", "S6")
@pytest.mark.parametrize(
    "make",
    [
        lambda handle: unio.Read(handle, bytearray(4), 0),
        lambda handle: unio.Write(handle, b"data", 0),
        unio.Flush,
    ],
    ids=["read", "write", "flush"],
)
def test_a_file_operation_that_no_thread_can_be_started_for_fails_and_later_ones_are_done(
    port: unio.Port, open_file: Any, no_threads: Any, make: Any
) -> None:
    handle = open_file()
    operations = [make(handle) for _ in range(100)]
    expected = errno.EAGAIN if operations[0].name in ON_THREADS.get(port.backend, ()) else None
    with no_threads():
        for operation in operations:  # more than there may be threads
            found = support.run(port, operation)
            assert (found.error and found.error.errno) == expected
    for operation in operations:
        port.submit(operation)
    for found in support.completions(port, len(operations)):
        assert found.error is None


@pytest.mark.clause("O8", "S1")
def test_file_operations_wait_for_the_threads_that_there_are_where_no_more_can_be_started(
    port: unio.Port, open_file: Any, no_threads: Any
) -> None:
    handle = open_file(bytes(MIB))
    reads = [unio.Read(handle, bytearray(MIB), 0) for _ in range(100)]
    support.succeed(port, reads[0])
    with no_threads():
        for read in reads:
            port.submit(read)
        found = support.completions(port, len(reads))
    assert {(completion.transferred, completion.error) for completion in found} == {(MIB, None)}


# Along with other work


@pytest.mark.clause("O8", "L1")
def test_sockets_and_files_share_a_port(port: unio.Port, resources: contextlib.ExitStack, open_file: Any) -> None:
    near, far = channels.incoming(resources, "tcp")
    stream, file = port.associate(near, "socket"), open_file(bytes(MIB), key="file")
    recv, read = unio.Recv(stream, bytearray(10)), unio.Read(file, bytearray(MIB), 0)
    seen = {"socket": 0, "file": 0}
    port.submit(recv)
    port.submit(read)
    far.send(b"x")
    while min(seen.values()) < 50:
        for key, operation, transferred, error in support.batch(port):
            assert error is None
            assert transferred == (1 if key == "socket" else MIB)
            seen[key] += 1
            port.submit(operation)
            if key == "socket":
                far.send(b"x")

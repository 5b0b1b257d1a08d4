"""Sending a range of a file."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import channels
import pytest
import support
from platforms import WINDOWS
from wine import wine_row

import unio

MIB = 1 << 20

PROC = Path("/proc")

posix_only = pytest.mark.skipif(WINDOWS, reason="descriptors are POSIX's")


@pytest.fixture
def make_file(resources, tmp_path):
    """Makes files and opens them; they do not join a port."""

    def make_file(content=b"0123456789", mode="rb"):
        path = tmp_path / "file"
        path.write_bytes(content)
        return resources.enter_context(unio.open(path, mode))

    return make_file


def deliver(port, near, far, operation, expected):
    """Run the operation and compare all that the peer receives."""
    port.submit(operation)
    drained = channels.drain(port, far, 1)
    near.close()
    assert bytes(drained.data) + far.recv_to_end() == expected
    return drained.completions[0]


@pytest.mark.clause("O9", "C1")
@pytest.mark.parametrize(
    ("offset", "count", "expected"),
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (0, 4, b"0123"),
        (3, 4, b"3456"),
        (8, 2, b"89"),
        (8, 100, b"89"),  # more than there is
        (0, 2**63 - 1, b"0123456789"),
        (0, 0, b""),
        (5, 0, b""),
        (10, None, b""),
        (10, 5, b""),
        (1000, None, b""),
        (2**62, 5, b""),
        (2**62, None, b""),
        (2**63 - 1, 5, b""),
        (2**63 - 1, None, b""),
    ],
)
@channels.every_socket
def test_a_range_of_a_file_is_sent(
    port: unio.Port,
    resources: contextlib.ExitStack,
    make_file: Any,
    transport: str,
    offset: Any,
    count: Any,
    expected: Any,
) -> None:
    near, far = channels.outgoing(resources, transport)
    key = object()
    send = unio.SendFile(port.associate(near, key), make_file(), offset, count)
    assert deliver(port, near, far, send, expected) == (key, send, len(expected), None)
    assert (send.transferred, send.error) == (len(expected), None)


@pytest.mark.clause("O9")
def test_an_empty_file_is_sent_as_nothing(port: unio.Port, resources: contextlib.ExitStack, make_file: Any) -> None:
    near, far = channels.outgoing(resources, "tcp")
    send = unio.SendFile(port.associate(near), make_file(b""))
    assert deliver(port, near, far, send, b"") == (None, send, 0, None)


@pytest.mark.clause("O9")
def test_the_position_of_the_file_is_neither_used_nor_moved(
    port: unio.Port, resources: contextlib.ExitStack, make_file: Any
) -> None:
    near, far = channels.outgoing(resources, "tcp")
    file = make_file()
    file.seek(7)
    send = unio.SendFile(port.associate(near), file)
    assert deliver(port, near, far, send, b"0123456789").transferred == 10
    assert file.tell() == 7


@pytest.mark.clause("O9")
def test_the_file_is_named_by_an_object_or_its_number_and_may_have_joined_a_port(
    port: unio.Port, resources: contextlib.ExitStack, make_file: Any
) -> None:
    near, far = channels.outgoing(resources, "tcp")
    handle, file = port.associate(near), make_file()
    port.associate(file)
    for each in (file, channels.system_number(file), file):
        support.succeed(port, unio.SendFile(handle, each, 2, 3))
    near.close()
    assert far.recv_to_end() == b"234" * 3


@pytest.mark.clause("O9")
@channels.every_socket
def test_a_large_file_to_a_slow_reader_completes_only_when_all_of_it_was_taken(
    port: unio.Port, resources: contextlib.ExitStack, make_file: Any, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    data = channels.pattern(64 * MIB)
    send = unio.SendFile(port.associate(near), make_file(data))
    port.submit(send)
    support.assert_idle(port)
    drained = channels.drain(port, far, 1)
    assert drained.completions == [(None, send, len(data), None)]
    assert drained.read_before[0] > 48 * MIB  # all but what the system itself keeps for the reader
    near.close()
    assert bytes(drained.data) + far.recv_to_end() == data


@pytest.mark.clause("O9")
def test_offsets_beyond_32_bits_are_exact(port: unio.Port, resources: contextlib.ExitStack, make_file: Any) -> None:
    near, far = channels.outgoing(resources, "tcp")
    file = make_file(mode="rb+")
    offset = 5 * 2**30
    with Path(file.name).open("rb+") as writing:
        writing.seek(offset)
        writing.write(b"the very end")
    send = unio.SendFile(port.associate(near), file, offset - 3)
    assert deliver(port, near, far, send, b"\0\0\0the very end").transferred == 15


@pytest.mark.clause("O9", "O5")
@channels.every_socket
def test_a_file_keeps_its_place_among_the_sends_around_it(
    port: unio.Port, resources: contextlib.ExitStack, make_file: Any, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle, data = port.associate(near), channels.pattern(8 * MIB)
    file = make_file(data)
    header, trailer = channels.pattern(300_000), channels.pattern(200_000)
    operations = [
        unio.Send(handle, header),
        unio.SendFile(handle, file),
        unio.Send(handle, trailer),
        unio.SendFile(handle, file, 5, 10),
        unio.SendFile(handle, file, 0, 0),
        unio.Shutdown(handle),
    ]
    for operation in operations:
        port.submit(operation)
    drained = channels.drain(port, far, len(operations))
    assert [completion.operation for completion in drained.completions] == operations
    assert {completion.error for completion in drained.completions} == {None}
    sizes = [len(header), len(data), len(trailer), 10, 0, 0]
    assert [completion.transferred for completion in drained.completions] == sizes
    assert bytes(drained.data) + far.recv_to_end() == header + data + trailer + data[5:15]


@pytest.mark.clause("O9", "S6")
@channels.every_socket
def test_a_file_that_was_taken_in_pieces_is_sent_whole_again_and_in_another_range(
    port: unio.Port, resources: contextlib.ExitStack, make_file: Any, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    data = channels.pattern(3 * MIB)
    send = unio.SendFile(port.associate(near), make_file(data), MIB // 2)
    received = b""
    for _ in range(2):
        port.submit(send)
        drained = channels.drain(port, far, 1)
        assert drained.completions == [(None, send, len(data) - MIB // 2, None)]
        received += drained.data
    assert (send.offset, send.count) == (MIB // 2, None)
    send.set_range(10, 2 * MIB)
    assert (send.offset, send.count) == (10, 2 * MIB)
    completion = deliver(port, near, far, send, received_rest(received, data) + data[10 : 10 + 2 * MIB])
    assert completion.transferred == 2 * MIB


def received_rest(received, data):
    """What of the first two rounds has not been read yet."""
    both = data[MIB // 2 :] * 2
    assert both.startswith(received)
    return both[len(received) :]


@pytest.mark.clause("O9")
def test_a_file_that_gets_shorter_meanwhile_completes_with_what_there_was(
    port: unio.Port, resources: contextlib.ExitStack, make_file: Any
) -> None:
    near, far = channels.outgoing(resources, "tcp")
    send = unio.SendFile(port.associate(near), make_file(bytes(64 * MIB)))
    port.submit(send)
    support.assert_idle(port)
    os.truncate(send.file.name, 32 * MIB)
    drained = channels.drain(port, far, 1)
    [completion] = drained.completions
    assert completion.error is None
    assert completion.transferred <= 32 * MIB
    near.close()
    assert len(drained.data) + len(far.recv_to_end()) == completion.transferred


@pytest.mark.clause("O9", "C2", "O4")
@wine_row("send-after-reset")
def test_a_peer_that_resets_in_the_middle_is_an_error_with_the_count_so_far(
    port: unio.Port, resources: contextlib.ExitStack, make_file: Any
) -> None:
    near, far = channels.outgoing(resources, "tcp")
    send = unio.SendFile(port.associate(near), make_file(bytes(64 * MIB)))
    port.submit(send)
    read = channels.read(port, far, MIB)
    far.reset()
    completion = support.completion(port)
    assert completion.operation is send
    assert type(completion.error) is ConnectionResetError
    assert read <= completion.transferred < 64 * MIB
    completion = support.run(port, send)
    assert type(completion.error) is ConnectionResetError
    assert completion.transferred == 0


@pytest.mark.clause("O9", "C2", "O10")
@channels.every_socket
def test_a_file_after_a_half_close_is_a_broken_pipe(
    port: unio.Port, resources: contextlib.ExitStack, make_file: Any, transport: str
) -> None:
    near, _ = channels.outgoing(resources, transport)
    handle = port.associate(near)
    support.succeed(port, unio.Shutdown(handle))
    completion = support.run(port, unio.SendFile(handle, make_file()))
    assert type(completion.error) is BrokenPipeError
    assert completion.transferred == 0


# Files that the system does not send by itself


@pytest.mark.clause("O9")
@pytest.mark.skipif(WINDOWS or not (PROC / "version").exists(), reason="no files are made up as they are read")
@pytest.mark.parametrize("count", [None, 2**40])
@channels.every_socket
def test_a_file_whose_size_is_not_known_beforehand_is_sent_to_its_end(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, count: Any
) -> None:
    near, far = channels.outgoing(resources, transport)
    # The environment of a process that sleeps: it takes several pieces, stays the same, and has 0 as its size.
    command = [sys.executable, "-S", "-E", "-c", "import sys; print(flush=True); sys.stdin.read()"]
    variables = {f"VARIABLE_{number}": channels.pattern(25_000).hex() for number in range(8)}
    child = resources.enter_context(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables)
    )
    child.stdout.readline()  # it has its environment now
    path = PROC / str(child.pid) / "environ"
    expected = path.read_bytes()
    assert len(expected) > 400_000
    file = resources.enter_context(unio.open(path))
    send = unio.SendFile(port.associate(near), file, 0, count)
    assert deliver(port, near, far, send, expected) == (None, send, len(expected), None)


@pytest.mark.clause("O9")
@pytest.mark.skipif(WINDOWS or not (PROC / "version").exists(), reason="no files are made up as they are read")
def test_a_range_of_a_file_whose_size_is_not_known_beforehand_is_sent_between_sends(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    near, far = channels.outgoing(resources, "tcp")
    handle = port.associate(near)
    file = resources.enter_context(unio.open(PROC / "version"))
    expected = b"<" + os.pread(file.fileno(), 7, 2) + b">"
    for operation in (unio.Send(handle, b"<"), unio.SendFile(handle, file, 2, 7), unio.Send(handle, b">")):
        port.submit(operation)
    assert [completion.transferred for completion in support.completions(port, 3)] == [1, 7, 1]
    near.close()
    assert far.recv_to_end() == expected


class Asked:
    """A file of the program's that does something when it is asked for its number, the nth time."""

    def __init__(self, file: io.FileIO, times: int, action: Callable[[], object]) -> None:
        self.file, self.times, self.action = file, times, action

    def fileno(self) -> int:
        self.times -= 1
        if self.times == 0:
            self.action()
        return self.file.fileno()


@pytest.mark.process_wide
@pytest.mark.clause("A3", "O9", "X3")
@pytest.mark.parametrize("source", ["file", "made up as it is read"])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("form", ["socket", pytest.param("number", marks=posix_only)])
def test_a_file_that_has_the_socket_closed_when_it_is_asked_for_its_number_goes_to_nobody_else(
    port: unio.Port, resources: contextlib.ExitStack, make_file: Any, form: str, times: int, source: str
) -> None:
    near, far = channels.outgoing(resources, channels.NEAR_BY)
    listening = channels.listener(resources, "tcp")
    number = near.fileno()
    handle = port.associate(near if form == "socket" else near.detach())
    others: list[tuple[socket.socket, socket.socket]] = []

    def close_and_reuse() -> None:
        near.close() if form == "socket" else os.close(number)
        for _ in range(4):
            client = resources.enter_context(support.connect(listening))
            others.append((client, resources.enter_context(listening.accept()[0])))

    support.succeed(port, unio.SendFile(handle, make_file()))  # what is looked up for the first one is there
    environment = PROC / "self" / "environ"
    made_up = source != "file" and environment.exists()
    file = resources.enter_context(unio.open(environment)) if made_up else make_file()
    found = support.run(port, unio.SendFile(handle, Asked(file, times, close_and_reuse)))
    assert found.error is None or others
    for client, server in others:
        for sender, receiver in ((client, server), (server, client)):
            sender.send(b"its own")
            sender.shutdown(socket.SHUT_WR)
            assert support.recv_to_end(receiver) == b"its own"
    if form == "number" and not others:
        os.close(number)


# Errors


class ForeignFile:
    """A file of a library's that is closed, as it says in its own way."""

    def fileno(self) -> int:
        raise ZeroDivisionError


@pytest.mark.clause("O9", "C2", "S3")
@wine_row("unreadable-file")
@channels.every_socket
def test_what_is_no_open_file_is_an_error_of_the_completion_and_the_stream_goes_on(
    port: unio.Port, resources: contextlib.ExitStack, make_file: Any, tmp_path: Path, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    closed, writable = make_file(), make_file(mode="ab")
    closed.close()
    wrong: list[tuple[Any, list[int]]] = [(closed, [errno.EBADF]), (1 << 30, [errno.EBADF]), (writable, [errno.EBADF])]
    wrong.append((ForeignFile(), [errno.EBADF]))
    if not WINDOWS:  # which opens no directory that way
        directory = os.open(tmp_path, os.O_RDONLY)
        resources.callback(os.close, directory)
        wrong.append((directory, [errno.EISDIR, errno.EINVAL]))
    for file, errors in wrong:
        send = unio.SendFile(handle, file, 0, 10)
        port.submit(send)
        port.submit(unio.Send(handle, b"."))
        failed, sent = support.completions(port, 2)
        assert failed.operation is send
        assert failed.error.errno in errors
        assert failed.transferred == 0
        assert sent.error is None
    near.close()
    assert far.recv_to_end() == b"." * len(wrong)


@pytest.mark.clause("O9", "C2")
def test_a_file_sent_on_a_socket_that_is_not_connected_is_an_error_of_the_completion(
    port: unio.Port, resources: contextlib.ExitStack, make_file: Any
) -> None:
    handle = port.associate(channels.client(resources, "tcp"))
    completion = support.run(port, unio.SendFile(handle, make_file()))
    assert completion.error.errno == errno.ENOTCONN


@pytest.mark.clause("O9", "X1", "S8")
def test_a_file_that_waits_for_the_reader_is_cancelled_with_the_count_so_far(
    port: unio.Port, resources: contextlib.ExitStack, make_file: Any
) -> None:
    near, far = channels.outgoing(resources, "tcp")
    send = unio.SendFile(port.associate(near), make_file(bytes(64 * MIB)))
    port.submit(send)
    support.assert_idle(port)
    assert port.cancel(send)
    completion = support.completion(port)
    support.assert_cancelled(completion)
    assert 0 < completion.transferred < 64 * MIB
    near.close()
    assert len(far.recv_to_end()) == completion.transferred


@pytest.mark.clause("O9")
@pytest.mark.parametrize(("offset", "count"), [(-1, None), (2**63, None), (0, -1)])
def test_an_impossible_range_is_refused_where_it_is_given(
    port: unio.Port, resources: contextlib.ExitStack, make_file: Any, offset: Any, count: Any
) -> None:
    handle = port.associate(channels.outgoing(resources, "tcp")[0])
    send = unio.SendFile(handle, make_file())
    with pytest.raises(ValueError, match=r"offset|count"):
        send.set_range(offset, count)
    with pytest.raises(ValueError, match=r"offset|count"):
        unio.SendFile(handle, make_file(), offset, count)

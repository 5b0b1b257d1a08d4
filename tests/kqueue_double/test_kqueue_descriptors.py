"""What kqueue(2) says of EVFILT_READ and EVFILT_WRITE.

The sentences are FreeBSD's manual page's, each in the test's own words; a few prove what the page leaves to the
kernel's source, and say so. UNIO_KQUEUE_LIBRARY names another library to hold to the same.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct

import pytest
import support
from double import (
    ADD,
    CLEAR,
    DELETE,
    EOF,
    LOWAT,
    NEEDED,
    ONESHOT,
    PATIENCE,
    READ,
    WRITE,
    close_quietly,
    failure,
)

pytestmark = NEEDED


# EVFILT_READ


def test_a_listener_returns_while_a_connection_is_pending(kq, stack) -> None:
    listener = stack.enter_context(support.listener())
    kq.change(listener.fileno(), READ, ADD)
    kq.change(listener.fileno(), WRITE, ADD)  # never
    assert kq.events() == []
    for _ in range(2):
        stack.enter_context(socket.create_connection(listener.getsockname()))
    [event] = kq.events()
    assert (event.filter, event.data) == (READ, 2)
    for _ in range(2):
        stack.enter_context(listener.accept()[0])
    assert kq.events() == []


def test_a_sockets_data_is_the_number_of_bytes(kq, tcp) -> None:
    near, far = tcp
    kq.change(near.fileno(), READ, ADD)
    assert kq.events() == []
    far.send(b"abc")
    event = kq.event()
    assert (event.ident, event.filter, event.flags, event.fflags, event.data) == (near.fileno(), READ, 0, 0, 3)


def test_a_low_water_mark_of_the_socket_is_heeded(kq, tcp) -> None:
    near, far = tcp
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4)
    kq.change(near.fileno(), READ, ADD)
    far.send(b"abc")
    assert kq.kevent(timeout=0.05) == []
    far.send(b"d")
    assert kq.event().data == 4


def test_a_low_water_mark_of_the_filter_is_heeded(kq, tcp) -> None:
    near, far = tcp
    kq.change(near.fileno(), READ, ADD, LOWAT, 4)
    far.send(b"abc")
    assert kq.kevent(timeout=0.05) == []
    far.send(b"d")
    assert kq.event().data == 4


@pytest.mark.parametrize("end", [lambda far: far.close(), lambda far: far.shutdown(socket.SHUT_WR)])
@pytest.mark.parametrize("kind", ["pair", "tcp"])
def test_the_end_may_be_told_while_data_is_pending(kq, kind, end, request) -> None:
    near, far = request.getfixturevalue(kind)
    far.send(b"abc")
    end(far)
    kq.change(near.fileno(), READ, ADD)
    event = kq.event()
    while not event.flags & EOF:  # over TCP the end comes after the bytes
        event = kq.event()
    assert (event.flags, event.fflags, event.data) == (EOF, 0, 3)
    near.recv(3)
    event = kq.event()
    assert (event.flags, event.fflags, event.data) == (EOF, 0, 0)


def test_a_shut_down_read_direction_is_an_end(kq, tcp) -> None:
    near, _ = tcp
    kq.change(near.fileno(), READ, ADD)
    near.shutdown(socket.SHUT_RD)
    assert kq.event().flags == EOF


def test_a_connection_that_was_reset_says_so_in_fflags_and_the_error_stays(kq, tcp) -> None:
    near, far = tcp
    kq.change(near.fileno(), READ, ADD)
    kq.change(near.fileno(), WRITE, ADD | CLEAR)
    assert kq.event().filter == WRITE
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    events = kq.kevent(timeout=PATIENCE)
    assert {(event.filter, event.flags & EOF, event.fflags) for event in events} == {
        (READ, EOF, errno.ECONNRESET),
        (WRITE, EOF, errno.ECONNRESET),
    }
    with pytest.raises(ConnectionResetError):
        near.recv(1)


def test_datagrams_are_read_events_and_what_came_back_is_no_end(kq, stack) -> None:
    receiver, sender = (stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(2))
    receiver.bind(("127.0.0.1", 0))
    kq.change(receiver.fileno(), READ, ADD)
    sender.sendto(b"abc", receiver.getsockname())
    assert kq.event().data == 3
    receiver.recv(10)
    sender.sendto(b"", receiver.getsockname())
    assert (kq.event().data, receiver.recv(10)) == (0, b"")
    kq.change(sender.fileno(), READ, ADD)
    sender.connect(receiver.getsockname())
    receiver.close()
    sender.send(b"x")
    event = kq.event()
    assert (event.ident, event.flags) == (sender.fileno(), 0)
    with pytest.raises(ConnectionRefusedError):
        sender.recv(1)


def test_a_file_returns_while_its_pointer_is_not_at_its_end(kq, tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with path.open("rb", buffering=0) as file:
        kq.change(file.fileno(), READ, ADD)
        assert kq.event().data == 3
        file.read(1)
        assert kq.event().data == 2
        file.seek(5)
        assert kq.event().data == -2
        file.seek(3)
        with path.open("ab", buffering=0) as writer:
            for _ in range(3):
                assert kq.events() == []
                writer.write(b"d")
                assert kq.event().data == 1
                file.read(1)
        kq.change(file.fileno(), READ, DELETE)
        assert failure(kq.change, file.fileno(), WRITE, ADD) == errno.EINVAL


def test_a_pipes_data_is_the_number_of_bytes_and_its_end_comes_with_the_last_writer(kq, pipe) -> None:
    reader, writer = pipe
    kq.change(reader, READ, ADD)
    assert kq.events() == []
    os.write(writer, b"abc")
    assert (kq.event().data, kq.event().flags) == (3, 0)
    os.close(writer)
    assert (kq.event().data, kq.event().flags) == (3, EOF)
    os.read(reader, 3)
    assert (kq.event().data, kq.event().flags) == (0, EOF)


def test_a_fifos_end_is_cleared_by_the_next_writer(kq, tmp_path, stack) -> None:
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    stack.callback(os.close, reader)
    kq.change(reader, READ, ADD)
    assert kq.events() == []
    os.close(os.open(path, os.O_WRONLY))
    assert kq.event().flags == EOF
    with open(path, "wb", buffering=0) as writer:
        assert kq.events() == []
        writer.write(b"x")
        event = kq.event()
        assert (event.flags, event.data) == (0, 1)


def test_a_terminal_returns_with_its_line_and_its_end(kq, stack) -> None:
    master, slave = os.openpty()
    stack.callback(close_quietly, master)
    stack.callback(os.close, slave)
    kq.change(slave, READ, ADD)
    kq.change(slave, WRITE, ADD | CLEAR)
    assert kq.event().filter == WRITE
    os.write(master, b"abc")
    assert kq.kevent(timeout=0.05) == []
    os.write(master, b"\n")
    assert [(event.filter, event.data) for event in kq.kevent(timeout=PATIENCE) if event.filter == READ] == [(READ, 4)]
    os.close(master)
    assert all(event.flags & EOF for event in kq.kevent(timeout=PATIENCE))


# EVFILT_WRITE


@pytest.mark.parametrize("kind", ["pair", "tcp"])
def test_a_socket_returns_while_it_can_be_written_to(kq, kind, request) -> None:
    near, far = request.getfixturevalue(kind)
    near.setblocking(False)
    kq.change(near.fileno(), WRITE, ADD)
    event = kq.event()
    assert (event.flags, event.fflags) == (0, 0)
    assert event.data > 0
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += near.send(bytes(1 << 20))
    assert kq.events() == []
    while sent:
        sent -= len(far.recv(1 << 20))
    assert kq.event().filter == WRITE


def test_a_socket_that_is_not_connected_can_not_be_written_to(kq, stack) -> None:  # the kernel's source: filt_sowrite
    for family in (socket.AF_INET, socket.AF_UNIX):
        sock = stack.enter_context(socket.socket(family))
        kq.change(sock.fileno(), WRITE, ADD)
        kq.change(sock.fileno(), READ, ADD)
    assert kq.events() == []


def test_a_connection_that_came_about_is_a_write_event(kq, stack) -> None:
    listener = stack.enter_context(support.listener())
    sock = stack.enter_context(socket.socket())
    kq.change(sock.fileno(), WRITE, ADD)
    sock.setblocking(False)
    sock.connect_ex(listener.getsockname())
    assert (kq.event().flags, kq.event().fflags) == (0, 0)


def test_a_connection_that_failed_says_why_in_fflags(kq, stack) -> None:
    with support.listener() as listener:
        address = listener.getsockname()
    for filters, late in (((WRITE,), True), ((READ,), True), ((READ, WRITE), True), ((READ, WRITE), False)):
        sock = stack.enter_context(socket.socket())
        sock.setblocking(False)
        if late:
            sock.connect_ex(address)
        for which in filters:
            kq.change(sock.fileno(), which, ADD | ONESHOT)
        if not late:
            sock.connect_ex(address)
        events = []
        while len(events) < len(filters):
            events += kq.kevent(timeout=PATIENCE)
        assert {event.filter for event in events} == set(filters)
        assert {(event.flags & EOF, event.fflags) for event in events} == {(EOF, errno.ECONNREFUSED)}


@pytest.mark.parametrize("kind", ["pair", "tcp"])
def test_a_shut_down_write_direction_is_an_end(kq, kind, request) -> None:
    near, _ = request.getfixturevalue(kind)
    kq.change(near.fileno(), WRITE, ADD | CLEAR)
    assert kq.event().flags == CLEAR
    near.shutdown(socket.SHUT_WR)
    assert kq.event().flags == EOF | CLEAR


def test_a_pipe_whose_reader_left_is_at_its_end(kq, pipe) -> None:
    reader, writer = pipe
    kq.change(writer, WRITE, ADD)
    event = kq.event()
    assert (event.flags, event.data > 0) == (0, True)
    os.close(reader)
    assert kq.event().flags == EOF
    kq.change(writer, WRITE, DELETE)
    assert failure(kq.change, writer, WRITE, ADD) == errno.EPIPE  # the kernel's source: pipe_kqfilter


def test_the_wrong_direction_of_a_pipe_never_happens(kq, pipe) -> None:  # the kernel's source: pipe_nfiltops
    reader, writer = pipe
    kq.change(reader, WRITE, ADD)
    kq.change(writer, READ, ADD)
    os.write(writer, b"x")
    assert kq.events() == []


def test_a_fifos_end_is_cleared_by_the_next_reader(kq, tmp_path, stack) -> None:
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    first = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    stack.callback(os.close, writer)
    os.close(first)
    kq.change(writer, WRITE, ADD)
    assert kq.event().flags == EOF
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0):
        assert kq.event().flags == 0

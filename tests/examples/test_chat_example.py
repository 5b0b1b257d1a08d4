"""examples/chat.py"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import support

Serve = Callable[..., Any]
Join = Callable[..., socket.socket]


@pytest.fixture
def join() -> Iterator[Join]:
    """Connects a member and returns when the others have heard of it, so that it will hear what they say."""
    with contextlib.ExitStack() as stack:

        def join(server: Any, *others: socket.socket) -> socket.socket:
            member: socket.socket = stack.enter_context(server.connect())
            if others:  # what the first one said might come when the second one has joined
                member.sendall(b"hello\n")
            for other in others:
                assert support.recv_exactly(other, 6) == b"hello\n"
            return member

        yield join


def test_every_line_goes_to_all_the_others(serve: Serve, join: Join) -> None:
    server = serve("chat")
    one = join(server)
    two = join(server, one)
    three = join(server, one, two)
    two.sendall(b"good morning\n")
    assert support.recv_exactly(one, 13) == support.recv_exactly(three, 13) == b"good morning\n"
    one.sendall(b"welcome\n")
    assert support.recv_exactly(two, 8) == support.recv_exactly(three, 8) == b"welcome\n"


def test_a_line_goes_out_whole_however_it_came_in(serve: Serve, join: Join) -> None:
    server = serve("chat")
    one = join(server)
    two = join(server, one)
    three = join(server, one, two)
    one.sendall(b"half a li")
    two.sendall(b"all of it\n")
    assert support.recv_exactly(three, 10) == support.recv_exactly(one, 10) == b"all of it\n"
    one.sendall(b"ne\nand the start of")
    assert support.recv_exactly(three, 12) == b"half a line\n"
    one.sendall(b" another\n")
    assert support.recv_exactly(three, 25) == b"and the start of another\n"


def test_a_line_without_end_goes_out_in_pieces(serve: Serve, join: Join) -> None:
    server = serve("chat")
    one = join(server)
    two = join(server, one)
    two.sendall(b"a" * 100_000 + b"\n")
    assert support.recv_exactly(one, 100_001) == b"a" * 100_000 + b"\n"


def test_some_leave_and_the_others_talk_on(serve: Serve, join: Join) -> None:
    server = serve("chat")
    one = join(server)
    two = join(server, one)
    three = join(server, one, two)
    two.shutdown(socket.SHUT_WR)
    assert support.recv_to_end(two) == b""
    one.sendall(b"who is left?\n")
    assert support.recv_exactly(three, 13) == b"who is left?\n"
    support.reset(one)
    four = join(server, three)
    three.sendall(b"we two\n")
    assert support.recv_exactly(four, 7) == b"we two\n"


def test_one_that_never_reads_is_dropped_and_the_others_get_everything(serve: Serve, join: Join) -> None:
    server = serve("chat")
    silent = join(server)
    talker = join(server, silent)
    listener = join(server, silent, talker)
    at_first = server.peak_memory() if sys.platform == "linux" else 0
    block = (b"x" * 1023 + b"\n") * 64
    blocks = 512  # 32 MiB: far more than the backlog and the connection can hold
    for _ in range(blocks):  # each one only when the one before has arrived, so that the listener never lags
        talker.sendall(block)
        assert support.recv_exactly(listener, len(block)) == block
    if sys.platform == "linux":
        assert server.peak_memory() - at_first < 8 << 20
    missed = blocks * len(block)
    with contextlib.suppress(ConnectionResetError):
        while data := silent.recv(1 << 20):
            missed -= len(data)
    assert missed > 0


def test_one_that_is_dropped_while_it_talks_takes_nobody_along(serve: Serve, join: Join) -> None:
    server = serve("chat")
    deaf = join(server)
    talker = join(server, deaf)
    listener = join(server, deaf, talker)
    heard = support.Background(support.recv_to_end, talker)
    block = (b"x" * 1023 + b"\n") * 64
    for number in range(256):
        with contextlib.suppress(ConnectionError):
            deaf.sendall(block)
        end = b"end of block %d\n" % number
        talker.sendall(block + end)
        received = b""
        while end not in received[-2 * len(block) :]:
            data = listener.recv(1 << 20)
            assert data
            received += data
    talker.shutdown(socket.SHUT_WR)
    heard.result()

"""What has come and was not read yet: the same portions whatever the pieces in which it comes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unio
from unio.streams import receive_buffer
from unio.streams.receive_buffer import SIZE_MAX, SIZE_MIN, ReceiveBuffer

PARTS = st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"bc", b"--", b"-", bytes(300)])
TEXTS = st.lists(PARTS, max_size=60).map(b"".join)
SEPARATORS = st.sampled_from([b"\n", b"\r\n", b"--", b"\r\n--", b"a"])
READS = st.one_of(
    st.tuples(st.just("read_some"), st.integers(1, 700)),
    st.tuples(st.just("read_exactly"), st.integers(0, 700)),
    st.tuples(st.just("read_line"), st.integers(1, 700)),
    st.tuples(st.just("peek"), st.integers(0, 700)),
    st.tuples(st.just("read_until"), SEPARATORS, st.integers(1, 700)),
)


def buffer_of(*pieces: bytes, ended: bool = False) -> ReceiveBuffer:
    buffer = ReceiveBuffer()
    for piece in pieces:
        buffer.add(piece)
    buffer.ended = ended
    return buffer


class Model:
    """The same in the plainest way."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = False

    def take(self, size: int) -> bytes:
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def read_some(self, limit: int) -> bytes | None:
        return self.take(limit) if self.data or self.ended else None

    def read_exactly(self, size: int) -> bytes | None:
        if len(self.data) >= size:
            return self.take(size)
        return self._at_the_end()

    def read_until(self, separator: bytes, limit: int) -> bytes | None:
        end = self.data.find(separator) + len(separator)
        if separator in self.data and end <= limit:
            return self.take(end)
        if len(self.data) >= limit:
            raise unio.LimitExceeded
        return self._at_the_end()

    def read_line(self, limit: int) -> bytes | None:
        try:
            return self.read_until(b"\n", limit)
        except unio.StreamEnded:
            return self.take(len(self.data))

    def peek(self, size: int) -> bytes | None:
        return self.data[:size] if len(self.data) >= size or self.ended else None

    def _at_the_end(self) -> None:
        if self.ended:
            raise unio.StreamEnded


def outcome(subject: object, name: str, *arguments: object) -> object:
    try:
        return getattr(subject, name)(*arguments)
    except (unio.LimitExceeded, unio.StreamEnded) as error:
        return type(error)


@settings(deadline=None)
@given(st.lists(st.one_of(TEXTS, READS, st.just(None)), max_size=60), st.booleans())
def test_each_read_gives_what_the_plainest_buffer_gives(steps: list, direct: bool) -> None:
    buffer, model = ReceiveBuffer(), Model()
    for step in steps:
        if step is None:
            buffer.ended = model.ended = True
        elif isinstance(step, tuple):
            assert outcome(buffer, *step) == outcome(model, *step)
        elif not model.ended:
            model.data += step
            if direct:
                fill(buffer, step)
            else:
                buffer.add(step)
        assert len(buffer) == len(model.data)


def fill(buffer: ReceiveBuffer, data: bytes) -> None:
    """As a receive does it."""
    while data:
        space = buffer.space()
        size = min(len(space), len(data), 100)
        space[:size] = data[:size]
        buffer.received(size)
        data = data[size:]


@settings(deadline=None)
@given(st.binary(max_size=3 * SIZE_MIN), st.lists(st.integers(1, SIZE_MIN), min_size=1))
def test_what_was_read_is_what_came(data: bytes, sizes: list[int]) -> None:
    buffer, found = buffer_of(data), b""
    while buffer:
        for size in sizes:
            found += buffer.read_some(size) or b""
    assert found == data


def test_a_line_of_just_the_limit_is_given_and_a_longer_one_is_not() -> None:
    buffer = buffer_of(b"12345\n123456\n")
    assert buffer.read_line(6) == b"12345\n"
    with pytest.raises(unio.LimitExceeded, match=re.escape(r"no b'\n' is in the next 6 bytes")):
        buffer.read_line(6)
    assert buffer.read_line(7) == b"123456\n"


def test_the_limit_depends_on_no_pieces() -> None:
    for pieces in ([b"12345", b"6\n"], [b"123456", b"\n"], [b"123456\n"]):
        buffer = ReceiveBuffer()
        found: list[object] = []
        for piece in pieces:
            buffer.add(piece)
            found.append(outcome(buffer, "read_line", 6))
        assert found[-1] is unio.LimitExceeded


def test_what_was_searched_is_not_taken_for_searched_once_it_was_read() -> None:
    buffer = buffer_of(b"1234")
    assert buffer.read_line() is None
    assert buffer.read_exactly(4) == b"1234"
    buffer.add(b"5\n6")
    assert buffer.read_line() == b"5\n"


def test_a_line_without_end_is_refused_at_the_bound() -> None:
    buffer = ReceiveBuffer()
    for _ in range(15):
        buffer.add(b"x" * 4096)
        assert buffer.read_line() is None
    buffer.add(b"x" * 4096)
    with pytest.raises(unio.LimitExceeded):
        buffer.read_line()
    assert buffer.read_exactly(65536) == b"x" * 65536  # what was refused stays


def test_what_ended_too_soon_stays_to_be_read() -> None:
    buffer = buffer_of(b"abc", ended=True)
    with pytest.raises(unio.StreamEnded, match="after 3 of the 4 bytes"):
        buffer.read_exactly(4)
    with pytest.raises(unio.StreamEnded, match="after 3 bytes without b';'"):
        buffer.read_until(b";")
    assert buffer.peek(10) == b"abc"
    assert buffer.read_line() == b"abc"
    assert buffer.read_line() == buffer.read_some() == buffer.peek() == buffer.read_exactly(0) == b""


class Watched(bytearray):
    """Counts the bytes that are searched."""

    searched = 0

    def find(self, separator: bytes, start: int, stop: int) -> int:
        Watched.searched += max(0, stop - start)
        return bytearray.find(self, separator, start, stop)


def test_single_bytes_cost_no_more_than_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive_buffer, "bytearray", Watched, raising=False)
    Watched.searched = 0
    count = 20_000
    buffer = ReceiveBuffer()
    for _ in range(count):
        buffer.add(b"x")
        assert buffer.read_until(b"\r\n") is None
    assert Watched.searched < 3 * count


def test_memory_is_moved_no_more_often_than_the_bytes_come() -> None:
    moved = 0

    class Counting(ReceiveBuffer):
        def _make_room(self) -> None:
            nonlocal moved
            before = self._start, self._whole
            super()._make_room()
            if before != (self._start, self._whole):
                moved += len(self)

    buffer, total = Counting(), 0
    for number in range(3000):
        buffer.add(bytes(number % 700))
        total += number % 700
        while len(buffer) > 2000:
            assert buffer.read_exactly(50)
    assert moved < total


def test_the_memory_grows_as_receives_fill_it_and_with_what_is_wanted() -> None:
    buffer, sizes = ReceiveBuffer(), []
    for _ in range(10):
        space = buffer.space()
        sizes.append(len(space))
        buffer.received(len(space))
        buffer.read_some()
    assert sizes == [SIZE_MIN << min(step, 6) for step in range(10)]
    assert sizes[-1] == SIZE_MAX

    buffer.add(bytes(10 * SIZE_MAX))
    assert buffer.read_exactly(10 * SIZE_MAX) == bytes(10 * SIZE_MAX)
    assert len(buffer.space()) == SIZE_MAX  # and what took more is given back


def test_memory_follows_what_has_come_and_not_what_is_wanted() -> None:
    buffer = buffer_of(b"few")
    assert buffer.read_exactly(1 << 60) is None
    assert buffer.peek(1 << 60) is None
    assert len(buffer.space()) <= SIZE_MIN


def test_an_empty_buffer_gives_the_same_memory_each_time() -> None:
    buffer = ReceiveBuffer()
    space = buffer.space()
    space[:5] = b"first"
    buffer.received(5)
    assert buffer.read_some() == b"first"
    assert buffer.space() is space


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("read_exactly", (-1,)),
        ("peek", (-1,)),
        ("read_line", (0,)),
        ("read_until", (b"x", -1)),
        ("read_until", (b"", 5)),
        ("read_some", (0,)),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, arguments: tuple) -> None:
    buffer = buffer_of(b"there is something")
    with pytest.raises(ValueError, match="must"):
        getattr(buffer, name)(*arguments)
    assert len(buffer) == 18

"""What is to be sent and was not yet: whole, in order, and copied only where that is due."""

from __future__ import annotations

import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unio.streams.write_queue import PIECES_MAX, SMALL, WriteQueue

NO_LIMIT = 1 << 30


def queue_of(*pieces: object) -> WriteQueue:
    queue = WriteQueue()
    for piece in pieces:
        queue.add(piece)  # type: ignore[arg-type]
    return queue


PIECES = st.one_of(st.binary(max_size=50), st.integers(SMALL - 1, SMALL + 1).map(bytes))


@settings(deadline=None)
@given(st.lists(PIECES), st.lists(st.tuples(st.integers(1, 3 * SMALL), st.floats(0, 1)), min_size=1))
def test_what_leaves_is_what_was_added(pieces: list[bytes], turns: list[tuple[int, float]]) -> None:
    queue, left = queue_of(*pieces), b""
    assert queue.size == len(b"".join(pieces))
    for limit, part in turns * 100:
        taken = b"".join(queue.take(limit))
        assert len(taken) <= limit
        size = round(len(taken) * part)
        left += taken[:size]
        queue.sent(size)
        assert queue.size == len(b"".join(pieces)) - len(left)
    left += drained(queue)
    assert left == b"".join(pieces)


def drained(queue: WriteQueue) -> bytes:
    found = b""
    while taken := queue.take(NO_LIMIT):
        found += b"".join(taken)
        queue.sent(sum(map(len, taken)))
    assert queue.size == 0
    assert not queue
    return found


def test_small_pieces_are_one_buffer_and_large_ones_are_not_copied() -> None:
    large, larger = bytes(SMALL), bytes(100 * SMALL)
    taken = queue_of(b"a", b"b", large, b"c", larger, b"d", b"e").take(NO_LIMIT)
    assert taken == [b"ab", large, b"c", larger, b"de"]
    assert taken[1] is large
    assert taken[3] is larger


def test_a_single_piece_is_the_one_that_was_added() -> None:
    piece = b"a small one"
    [taken] = queue_of(piece).take(NO_LIMIT)
    assert taken is piece


def test_a_view_of_bytes_is_not_copied() -> None:
    whole = bytes(2 * SMALL)
    [taken] = queue_of(memoryview(whole)[SMALL:]).take(NO_LIMIT)
    assert isinstance(taken, memoryview)
    assert taken.obj is whole


@pytest.mark.parametrize("make", [bytearray, lambda data: memoryview(bytearray(data)).toreadonly()])
def test_what_may_change_is_copied(make) -> None:
    memory = bytearray(b"before")
    given = memory if make is bytearray else memoryview(memory).toreadonly()
    queue = queue_of(given)
    memory[:] = b"behind"
    assert drained(queue) == b"before"


def test_any_shape_of_bytes_leaves_in_one_row() -> None:
    numbers = array.array("I", [1, 2, 3])
    every_second = memoryview(b"abcdef")[::2]
    assert drained(queue_of(numbers, every_second, memoryview(b"").cast("I"))) == numbers.tobytes() + b"ace"


def test_a_send_has_no_more_buffers_than_a_system_takes() -> None:
    queue = queue_of(*[bytes(SMALL)] * (3 * PIECES_MAX))
    assert len(queue.take(NO_LIMIT)) == PIECES_MAX


def test_a_piece_beyond_the_limit_leaves_in_parts_that_are_not_copied() -> None:
    piece = bytes(5 * SMALL)
    queue = queue_of(piece)
    sizes = []
    while taken := queue.take(2 * SMALL):
        assert all(memoryview(part).obj is piece for part in taken)
        sizes.append([len(part) for part in taken])
        queue.sent(sum(sizes[-1]))
    assert sizes == [[2 * SMALL], [2 * SMALL], [SMALL]]


def test_what_has_no_bytes_is_refused_and_changes_nothing() -> None:
    queue = queue_of(b"there")
    with pytest.raises(TypeError):
        queue.add("text")  # type: ignore[arg-type]
    assert drained(queue) == b"there"


def test_nothing_is_left_of_what_was_dropped() -> None:
    queue = queue_of(b"one", bytes(SMALL))
    queue.take(2)
    queue.clear()
    assert queue.size == 0
    assert drained(queue) == b""

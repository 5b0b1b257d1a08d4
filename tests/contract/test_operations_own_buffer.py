"""A receive that has a buffer of its own, which grows as it is filled."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from channels import pattern
from support import Background, completion, run, succeed

import unio

FIRST = 4096
LAST = 256 * 1024


def fed(far: socket.socket, data: bytes) -> Background[None]:
    return Background(far.sendall, data)


@pytest.mark.clause("O3")
def test_a_receive_without_a_buffer_shows_what_came(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    recv = unio.Recv(port.associate(near))
    assert bytes(recv.data) == b""
    for words in (b"hello", b"and", b"again"):
        far.sendall(words)
        assert succeed(port, recv).transferred == len(words)
        assert bytes(recv.data) == words
    far.close()
    assert succeed(port, recv).transferred == 0
    assert bytes(recv.data) == b""


@pytest.mark.clause("O3", "S6")
def test_the_buffer_grows_only_when_it_was_filled_and_up_to_a_limit(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    recv = unio.Recv(port.associate(near))
    expected = FIRST
    sent = pattern(3 * LAST)
    feeding = fed(far, sent)
    got = bytearray()
    while len(got) < len(sent):
        succeed(port, recv)
        assert len(recv.buffer) == expected
        if recv.transferred == expected:
            expected = min(2 * expected, LAST)
        got += recv.data
    feeding.result()
    assert got == sent


@pytest.mark.clause("O3", "S5")
@pytest.mark.parametrize("when", ["before", "in flight", "after"])
@pytest.mark.parametrize("look", ["buffer", "data"])
def test_a_buffer_of_its_own_keeps_its_size_for_who_has_it(
    port: unio.Port, make_pair: Any, when: str, look: str
) -> None:
    near, far = make_pair()
    recv = unio.Recv(port.associate(near))
    shown = getattr(recv, look) if when == "before" else None
    port.submit(recv)
    if when == "in flight":
        shown = getattr(recv, look)
    with pytest.raises(BufferError):
        recv.buffer.extend(b"more")
    far.sendall(b"hello")
    assert completion(port).operation is recv
    shown = getattr(recv, look) if when == "after" else shown
    memory = shown if look == "buffer" else shown.obj
    assert memory is recv.buffer
    assert memory[:5] == b"hello"
    with pytest.raises(BufferError):
        memory.clear()
    assert recv.data == b"hello"


@pytest.mark.clause("S6")
def test_a_receive_that_is_not_filled_keeps_its_buffer(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    recv = unio.Recv(port.associate(near))
    buffer = recv.buffer
    for _ in range(20):
        far.sendall(b"x" * (FIRST - 1))
        left = FIRST - 1
        while left:
            left -= succeed(port, recv).transferred
        assert recv.buffer is buffer


@pytest.mark.clause("O3", "S5")
def test_what_was_received_stays_readable_for_who_holds_it_when_the_buffer_grows(
    port: unio.Port, make_pair: Any
) -> None:
    near, far = make_pair(local=True)
    recv = unio.Recv(port.associate(near))
    far.sendall(b"a" * FIRST)
    succeed(port, recv)
    held = recv.data
    port.submit(recv)
    far.sendall(b"b" * 10)
    completion(port)
    assert bytes(held) == b"a" * FIRST
    assert bytes(recv.data) == b"b" * 10


@pytest.mark.clause("S6")
def test_a_buffer_of_the_callers_does_not_grow(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    given, assigned = unio.Recv(handle, bytearray(4)), unio.Recv(handle)
    for buffer in (bytearray(4), memoryview(bytearray(4)), [bytearray(4)]):
        assigned.buffer = buffer
        far.sendall(b"x" * 16)
        for recv in (given, assigned, given, assigned):
            assert succeed(port, recv).transferred == 4
        assert assigned.buffer is buffer
        assert len(given.buffer) == 4


@pytest.mark.clause("O7")
def test_a_datagram_is_never_too_large_for_a_buffer_of_its_own(port: unio.Port, resources: Any) -> None:
    near, far = (resources.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(2))
    near.bind(("127.0.0.1", 0))
    far.connect(near.getsockname())
    recv = unio.Recv(port.associate(near))
    for size in (1, 65507, 3):
        far.send(b"d" * size)
        assert succeed(port, recv).transferred == size
        assert bytes(recv.data) == b"d" * size


@pytest.mark.clause("O3")
def test_the_data_of_several_buffers_are_not_one_view(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    far.sendall(b"abc")
    recv = unio.Recv(port.associate(near), [bytearray(2), bytearray(2)])
    run(port, recv)
    with pytest.raises(TypeError, match="several buffers"):
        _ = recv.data

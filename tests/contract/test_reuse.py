"""What is used again and again: operations with parts of one buffer, and the completions that a program drops."""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import weakref
from typing import Any

import channels
import pytest
import support

import unio


class Tally(unio.Completion):
    """A completion with something of the program's own."""

    @property
    def doubled(self) -> int:
        return 2 * self.transferred


@pytest.mark.clause("S5", "S6")
@channels.every_stream
def test_one_send_sends_one_part_of_a_buffer_after_the_other(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    near, far = channels.outgoing(resources, transport)
    whole = bytearray(range(256))
    send = unio.Send(port.associate(near), b"")
    for start, end in itertools.pairwise((0, 1, 100, 101, 255, 256)):
        send.buffer = memoryview(whole)[start:end]
        assert support.succeed(port, send).transferred == end - start
        assert send.buffer.tobytes() == whole[start:end]
    send.buffer = memoryview(whole)[40:20]
    assert support.succeed(port, send).transferred == 0
    near.close()
    assert far.recv_to_end() == whole


@pytest.mark.clause("S5")
def test_the_operation_keeps_the_memory_whatever_becomes_of_the_callers_views(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    near, far = channels.outgoing(resources, "tcp")
    whole = bytearray(b"first second")
    send = unio.Send(port.associate(near), b"")
    for part in (slice(0, 6), slice(6, None)):
        with memoryview(whole) as view, view[part] as given:
            send.buffer = given
        support.succeed(port, send)
        with pytest.raises(BufferError):
            whole.clear()
    with memoryview(whole) as view:
        gone = view[:3]
    gone.release()
    with pytest.raises(ValueError, match="released"):
        send.buffer = gone
    assert support.succeed(port, send).transferred == 6, "it has kept what it had"
    near.close()
    assert far.recv_to_end() == b"first secondsecond"
    other = bytearray(whole)
    with memoryview(other) as view:
        send.buffer = view
    whole.clear()
    with pytest.raises(BufferError):
        other.clear()
    send.buffer = b""
    other.clear()


@pytest.mark.clause("S3", "S5")
def test_a_part_of_the_same_buffer_is_checked_like_any_other(port: unio.Port, resources: contextlib.ExitStack) -> None:
    near, far = channels.incoming(resources, "tcp")
    whole = bytearray(8)
    recv = unio.Recv(port.associate(near), memoryview(whole)[:4])
    with pytest.raises(TypeError, match="read-only"):
        recv.buffer = memoryview(whole).toreadonly()[2:]
    with pytest.raises(ValueError, match="contiguous"):
        recv.buffer = memoryview(whole)[::2]
    recv.buffer = memoryview(whole)[6:]
    port.submit(recv)
    with pytest.raises(unio.InFlight):
        recv.buffer = memoryview(whole)[:2]
    far.send(b"data")
    assert support.completion(port).transferred == 2
    assert (whole, recv.data.tobytes()) == (b"\0\0\0\0\0\0da", b"da")
    recv.buffer = memoryview(whole).cast("H")[:1]
    assert support.succeed(port, recv).transferred == 2
    assert (whole, recv.data.tobytes()) == (b"ta\0\0\0\0da", b"ta")


@pytest.mark.clause("S5")
def test_a_part_after_one_byte_of_a_buffer_with_steps_has_none(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    near, far = channels.incoming(resources, "tcp")
    whole = bytearray(16)
    recv = unio.Recv(port.associate(near), memoryview(whole)[0:2:2])
    recv.buffer = memoryview(whole)[:8]
    far.send(b"abcdefgh")
    assert support.succeed(port, recv).transferred == 8
    assert recv.data.tobytes() == b"abcdefgh"


@pytest.mark.clause("S5")
def test_what_goes_with_the_former_buffer_may_set_another(port: unio.Port, resources: contextlib.ExitStack) -> None:
    class Owner(bytearray):
        def __del__(self) -> None:
            send.buffer = []

    near, _ = channels.outgoing(resources, "tcp")
    send = unio.Send(port.associate(near), b"")
    with memoryview(Owner(b"former")) as view:
        send.buffer = view
    del view
    send.buffer = b"latter"
    assert send.buffer == []
    assert support.succeed(port, send).transferred == 0


@pytest.mark.clause("S5")
def test_an_operation_in_flight_sends_its_buffer_whatever_a_program_tries_to_write_into_it(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    near, far = channels.outgoing(resources, "tcp")
    send = unio.Send(port.associate(near), b"abc")
    support.assert_idle(port)
    near.setblocking(False)
    left = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            left += near.send(bytes(1 << 16))
    port.submit(send)
    support.assert_idle(port)
    with pytest.raises(unio.InFlight):
        send.transferred = 1 << 12
    while left:
        left -= len(far.recv(left) or b"")
    found = port.wait(0)
    if not found:
        port.cancel(send)
        found = support.completions(port, 1)
    assert found[0].operation is send
    near.close()
    assert far.recv_to_end() in (b"", b"abc"), "all of it, if it was not cancelled"


@pytest.mark.clause("S6", "C1")
def test_receives_that_end_together_have_each_what_is_theirs_again_and_again(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    ends = [channels.incoming(resources, channels.NEAR_BY) for _ in range(20)]
    receives = [unio.Recv(port.associate(near)) for near, _ in ends]
    support.assert_idle(port)
    for number in range(5):
        for recv in receives:
            port.submit(recv)
        support.assert_idle(port)
        for place, (_, far) in enumerate(ends):
            far.send(bytes([number, place]))
        found = support.completions(port, len(ends))
        assert {each.operation for each in found} == set(receives)
        assert [recv.data.tobytes() for recv in receives] == [bytes([number, place]) for place in range(len(ends))]


@pytest.mark.clause("C1")
def test_completions_with_anything_twice_come_and_go(port: unio.Port) -> None:
    references = sys.getrefcount(unio.Completion)
    made = [unio.Completion._make([number] * 4) for number in range(1000)]
    del made[::2]
    with pytest.raises(TypeError):
        unio.Completion._make(["one"])
    inner: Any = None
    for _ in range(100_000):
        port.post(inner, inner)
        inner = support.completion(port)
    del inner
    for _ in range(3000):
        port.post(port)
        support.completion(port)
    for number in range(1000):
        port.post(number)
    kept = support.completions(port, 1000)
    assert sys.getrefcount(unio.Completion) < references + 2000
    assert [hash(found) for found in kept] == [hash((number, None, 0, None)) for number in range(1000)]


@pytest.mark.clause("C1")
def test_a_completion_that_the_program_keeps_never_changes(port: unio.Port, resources: contextlib.ExitStack) -> None:
    near, far = channels.incoming(resources, "tcp")
    recv = unio.Recv(port.associate(near, "key"), bytearray(100))
    kept = []
    for count in range(1, 20):
        far.send(bytes(count))
        kept.append(support.succeed(port, recv))
        port.post(count)
        assert hash(support.completion(port)) == hash((count, None, 0, None))
    assert [found.transferred for found in kept] == list(range(1, 20))
    assert {found[:2] + found[3:] for found in kept} == {("key", recv, None)}


@pytest.mark.clause("P8", "P9")
def test_completions_within_completions_are_dropped_however_deep(port: unio.Port) -> None:
    inner: Any = None
    for _ in range(100_000):
        port.post(inner)
        inner = support.completion(port)
    depth = 0
    look = inner
    while look is not None:
        look, depth = look.key, depth + 1
    assert depth == 100_000
    del inner, look


@pytest.mark.clause("P8")
def test_a_posted_object_goes_with_its_completion(port: unio.Port) -> None:
    dropped = []

    class Key:
        def __del__(self) -> None:
            port.post("from its finalizer")
            dropped.append(self)

    port.post(Key(), Key(), 7)
    found = support.completion(port)
    assert found.transferred == 7
    assert not dropped
    del found
    assert len(dropped) == 2
    assert [support.completion(port).key for _ in range(2)] == ["from its finalizer"] * 2


@pytest.mark.clause("C1")
def test_a_completion_can_have_subclasses(port: unio.Port) -> None:
    made = [Tally(["nobody else's"], None, number, None) for number in range(1000)]
    assert made[21].doubled == 42
    del made
    port.post("key", transferred=4)
    found = support.completion(port)
    assert (type(found), found.transferred) == (unio.Completion, 4)


@pytest.mark.clause("S6")
def test_what_goes_with_the_socket_that_was_accepted_before_may_cancel(
    port: unio.Port, make_listener: Any, resources: contextlib.ExitStack
) -> None:
    listener = make_listener()
    handle = port.associate(listener)
    accept = unio.Accept(handle)
    asked = []
    support.assert_idle(port)
    for number in range(2):
        port.submit(accept)
        resources.enter_context(socket.create_connection(listener.getsockname()))
        assert support.completion(port).error is None
        accept.socket.close()
        if number == 0:
            weakref.finalize(accept.socket, lambda: asked.append(handle.cancel()))
    assert asked in ([0], [1]), "the accept has ended by then, or is just about to"


LEFT = """
import socket, sys, weakref
import unio

class Left:
    pass

port = unio.Port(backend=sys.argv[1])
near, far = socket.socketpair()
listener = socket.create_server(("127.0.0.1", 0))
make = {
    "accept": lambda: unio.Accept(port.associate(listener)),
    "poll": lambda: unio.Poll(port.associate(near), unio.Readiness.READABLE),
    "receive": lambda: unio.Recv(port.associate(near), bytearray(1)),
    "timer": lambda: unio.Timer(3600),
}
operation = make[sys.argv[2]]()
said = []

def fly():
    port.submit(operation)
    port.cancel(operation)
    [found] = port.wait(60)
    assert type(found.error) is unio.Cancelled
    return found.error

left = Left()
weakref.finalize(left, lambda: said.append(port.cancel(operation)))
fly().left = left
del left
assert not said
fly()
assert len(said) == 1
port.close()
near.close(), far.close(), listener.close()
"""


@pytest.mark.clause("S6")
@pytest.mark.parametrize("kind", ["accept", "poll", "receive", "timer"])
def test_what_goes_with_the_former_error_may_cancel(backend: str, kind: str) -> None:
    assert channels.run_script(LEFT, backend, kind) == ""  # a script of its own, as a lock may be left held

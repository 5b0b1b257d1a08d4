"""Datagrams."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Any

import channels
import pytest
import support
from platforms import WINDOWS, needs_af_unix
from wine import wine_row

import unio

UDP = ["udp", "udp6"]
every_family = pytest.mark.parametrize("family", UDP if WINDOWS else [*UDP, "local"])
every_udp = pytest.mark.parametrize("family", UDP)


def datagram(resources, family):
    """A datagram socket with an address of its own."""
    kind = {"udp": socket.AF_INET, "udp6": socket.AF_INET6}.get(family) or socket.AF_UNIX
    sock = resources.enter_context(socket.socket(kind, socket.SOCK_DGRAM))
    sock.settimeout(support.PATIENCE)
    sock.bind({"udp": ("127.0.0.1", 0), "udp6": ("::1", 0)}.get(family) or channels.path(resources, "socket"))
    return sock


# Receiving


@pytest.mark.clause("O7", "C1", "C3")
@every_family
def test_a_datagram_arrives_with_the_address_of_its_sender(
    port: unio.Port, resources: contextlib.ExitStack, family: Any
) -> None:
    near, far = datagram(resources, family), datagram(resources, family)
    key = object()
    buffer = bytearray(b"." * 10)
    recv = unio.RecvFrom(port.associate(near, key), buffer)
    port.submit(recv)
    support.assert_idle(port)
    far.sendto(b"hello", near.getsockname())
    assert support.completion(port) == (key, recv, 5, None)
    assert buffer == b"hello....."
    assert recv.address == far.getsockname()


@pytest.mark.clause("O7", "O5")
@every_family
def test_each_receive_takes_one_datagram_in_order(
    port: unio.Port, resources: contextlib.ExitStack, family: Any
) -> None:
    near = datagram(resources, family)
    peers = [datagram(resources, family) for _ in range(3)]
    handle = port.associate(near)
    receives = [unio.RecvFrom(handle, bytearray(100)) for _ in range(9)]
    for recv in receives[:6]:
        port.submit(recv)
    support.assert_idle(port)
    for number in range(9):
        peers[number % 3].sendto(bytes([number]) * (number + 1), near.getsockname())
    for recv in receives[6:]:
        port.submit(recv)
    found = support.completions(port, 9)
    assert [completion.operation for completion in found] == receives
    for number, recv in enumerate(receives):
        assert recv.buffer[: recv.transferred] == bytes([number]) * (number + 1)
        assert recv.address == peers[number % 3].getsockname()


@pytest.mark.clause("O7")
@pytest.mark.parametrize("make", [unio.RecvFrom, unio.Recv])
@every_family
def test_a_datagram_that_is_too_large_fills_the_buffer_and_completes_with_emsgsize(
    port: unio.Port, resources: contextlib.ExitStack, family: Any, make: Any
) -> None:
    near, far = datagram(resources, family), datagram(resources, family)
    recv = make(port.associate(near), bytearray(4))
    for data in (b"too large", b"fits", b"12345", b"end"):
        far.sendto(data, near.getsockname())
    completion = support.run(port, recv)
    assert completion.error.errno == errno.EMSGSIZE
    assert completion.transferred == 4
    assert recv.buffer == b"too "
    if make is unio.RecvFrom:
        assert recv.address == far.getsockname()
    completion = support.run(port, recv)  # the rest is lost, and the next one is the next one
    assert (completion.transferred, completion.error) == (4, None)
    assert recv.buffer == b"fits"
    completion = support.run(port, recv)
    assert (completion.transferred, completion.error.errno) == (4, errno.EMSGSIZE)
    completion = support.run(port, recv)
    assert (completion.transferred, completion.error) == (3, None)
    assert recv.buffer == b"end4"


@pytest.mark.clause("O7", "O6")
@every_family
def test_a_datagram_is_scattered_over_several_buffers(
    port: unio.Port, resources: contextlib.ExitStack, family: Any
) -> None:
    near, far = datagram(resources, family), datagram(resources, family)
    recv = unio.RecvFrom(port.associate(near), [bytearray(3), bytearray(), bytearray(4)])
    far.sendto(b"abcdef", near.getsockname())
    far.sendto(b"12345678", near.getsockname())
    assert support.run(port, recv) == (None, recv, 6, None)
    assert recv.buffer[0] + recv.buffer[2][:3] == b"abcdef"
    completion = support.run(port, recv)
    assert (completion.transferred, completion.error.errno) == (7, errno.EMSGSIZE)
    assert recv.buffer == [b"123", b"", b"4567"]


@pytest.mark.clause("O7")
@pytest.mark.parametrize("make", [unio.RecvFrom, unio.Recv])
@every_family
def test_an_empty_datagram_is_received_like_any_other(
    port: unio.Port, resources: contextlib.ExitStack, family: Any, make: Any
) -> None:
    near, far = datagram(resources, family), datagram(resources, family)
    recv = make(port.associate(near), bytearray(4))
    port.submit(recv)
    support.assert_idle(port)
    far.sendto(b"", near.getsockname())
    assert support.completion(port) == (None, recv, 0, None)
    if make is unio.RecvFrom:
        assert recv.address == far.getsockname()
    port.submit(recv)
    support.assert_idle(port)  # an empty datagram is no end
    far.sendto(b"next", near.getsockname())
    assert support.completion(port) == (None, recv, 4, None)


@pytest.mark.clause("O7", "O3")
@pytest.mark.parametrize("make", [unio.RecvFrom, unio.Recv])
@pytest.mark.parametrize("data", [b"data", b""], ids=["data", "empty"])
@every_family
def test_a_receive_without_room_waits_for_a_datagram_and_takes_none(
    port: unio.Port, resources: contextlib.ExitStack, family: Any, make: Any, data: Any
) -> None:
    near, far = datagram(resources, family), datagram(resources, family)
    handle = port.associate(near)
    empty = make(handle, bytearray())
    port.submit(empty)
    support.assert_idle(port)
    far.sendto(data, near.getsockname())
    assert support.completion(port) == (None, empty, 0, None)
    assert support.run(port, empty) == (None, empty, 0, None)
    recv = unio.RecvFrom(handle, bytearray(10))
    assert support.run(port, recv) == (None, recv, len(data), None)
    assert recv.address == far.getsockname()
    port.submit(recv)
    support.assert_idle(port)


# Sending


@pytest.mark.clause("O7", "C1")
@every_family
def test_a_datagram_is_sent_whole_to_its_address(port: unio.Port, resources: contextlib.ExitStack, family: Any) -> None:
    near, peers = datagram(resources, family), [datagram(resources, family) for _ in range(2)]
    key = object()
    handle = port.associate(near, key)
    for number, peer in enumerate(peers):
        send = unio.SendTo(handle, b"hello" * (number + 1), peer.getsockname())
        assert support.run(port, send) == (key, send, 5 * (number + 1), None)
    assert peers[0].recvfrom(100) == (b"hello", near.getsockname())
    assert peers[1].recvfrom(100) == (b"hellohello", near.getsockname())


@pytest.mark.clause("O7", "S6")
@every_family
def test_a_send_goes_to_another_address_when_it_is_submitted_again(
    port: unio.Port, resources: contextlib.ExitStack, family: Any
) -> None:
    near, peers = datagram(resources, family), [datagram(resources, family) for _ in range(3)]
    send = unio.SendTo(port.associate(near), b"hello", peers[0].getsockname())
    for peer in peers:
        send.address = peer.getsockname()
        support.succeed(port, send)
    assert [peer.recv(10) for peer in peers] == [b"hello"] * 3


@pytest.mark.clause("O7", "O6")
@every_family
def test_several_buffers_leave_as_one_datagram(port: unio.Port, resources: contextlib.ExitStack, family: Any) -> None:
    near, far = datagram(resources, family), datagram(resources, family)
    handle = port.associate(near)
    support.succeed(port, unio.SendTo(handle, [b"one", b"", b" datagram"], far.getsockname()))
    support.succeed(port, unio.SendTo(handle, [b"", b""], far.getsockname()))
    support.succeed(port, unio.SendTo(handle, [], far.getsockname()))
    assert [far.recv(100) for _ in range(3)] == [b"one datagram", b"", b""]


@pytest.mark.clause("O7", "O6", "L4")
@every_family
def test_more_buffers_than_the_system_takes_at_once_are_one_datagram(
    port: unio.Port, resources: contextlib.ExitStack, family: str
) -> None:
    near, far = datagram(resources, family), datagram(resources, family)
    handle = port.associate(near)
    data = channels.pattern(3000)
    send = unio.SendTo(handle, [data[start : start + 1] for start in range(3000)], far.getsockname())
    assert support.run(port, send) == (None, send, 3000, None)
    assert far.recv(5000) == data
    recv = unio.RecvFrom(handle, [bytearray(1) for _ in range(3000)])
    far.sendto(data, near.getsockname())
    assert support.run(port, recv) == (None, recv, 3000, None)
    assert b"".join(recv.buffer) == data
    assert recv.address == far.getsockname()
    far.sendto(data + b"!", near.getsockname())
    completion = support.run(port, recv)
    assert (completion.transferred, completion.error.errno) == (3000, errno.EMSGSIZE)


@pytest.mark.clause("O7")
@every_family
def test_an_empty_datagram_is_sent(port: unio.Port, resources: contextlib.ExitStack, family: Any) -> None:
    near, far = datagram(resources, family), datagram(resources, family)
    handle = port.associate(near)
    for data in (b"", b"x"):
        assert support.run(port, unio.SendTo(handle, data, far.getsockname())).transferred == len(data)
    assert [far.recvfrom(10) for _ in range(2)] == [(b"", near.getsockname()), (b"x", near.getsockname())]


@pytest.mark.clause("O7", "C2")
@every_udp
def test_a_datagram_that_is_too_large_for_the_protocol_is_not_sent(
    port: unio.Port, resources: contextlib.ExitStack, family: Any
) -> None:
    near, far = datagram(resources, family), datagram(resources, family)
    handle = port.associate(near)
    completion = support.run(port, unio.SendTo(handle, bytes(70_000), far.getsockname()))
    assert completion.error.errno == errno.EMSGSIZE
    assert completion.transferred == 0
    support.succeed(port, unio.SendTo(handle, b"small", far.getsockname()))
    assert far.recv(100) == b"small"


@pytest.mark.clause("O7", "C2")
def test_what_the_system_does_not_permit_is_an_error_of_the_completion(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    handle = port.associate(datagram(resources, "udp"))
    completion = support.run(port, unio.SendTo(handle, b"data", ("255.255.255.255", 9)))
    assert isinstance(completion.error, OSError)
    assert completion.error.errno in (errno.EACCES, errno.ENETUNREACH)


@pytest.mark.clause("O7")
@pytest.mark.parametrize("address", [("localhost", 9), ("127.0.0.1", 70_000)])
def test_an_address_that_is_not_numeric_is_refused_where_it_is_given(
    port: unio.Port, resources: contextlib.ExitStack, address: Any
) -> None:
    handle = port.associate(datagram(resources, "udp"))
    with pytest.raises(ValueError, match=r"numeric|port number"):
        unio.SendTo(handle, b"data", address)


# Peers that are not there


def silent(resources, family, sock):
    """A socket that holds its port and is none of the others' peer: what they send to it is refused."""
    other = datagram(resources, family)
    sock.connect(other.getsockname())


@pytest.mark.clause("O7")
@every_udp
def test_an_unreachable_peer_never_breaks_a_socket_that_is_not_connected(
    port: unio.Port, resources: contextlib.ExitStack, family: Any
) -> None:
    near, far, gone = (datagram(resources, family) for _ in range(3))
    silent(resources, family, gone)
    handle = port.associate(near)
    recv = unio.RecvFrom(handle, bytearray(10))
    port.submit(recv)
    for number in range(10):
        send = unio.SendTo(handle, b"anybody?", gone.getsockname())
        assert support.run(port, send) == (None, send, 8, None)
        far.sendto(bytes([number]), near.getsockname())
        assert support.completion(port) == (None, recv, 1, None)
        assert recv.buffer[0] == number
        assert recv.address == far.getsockname()
        port.submit(recv)
    support.assert_idle(port)


@pytest.mark.clause("O7", "O2", "C2")
@wine_row("refused-once")
@every_udp
def test_a_refusal_is_an_error_of_a_connected_socket_which_then_works_on(
    port: unio.Port, resources: contextlib.ExitStack, patience: float, family: Any
) -> None:
    near, far = datagram(resources, family), datagram(resources, family)
    silent(resources, family, far)
    handle = port.associate(near)
    support.succeed(port, unio.Connect(handle, far.getsockname()))
    assert near.getpeername() == far.getsockname()
    recv = unio.Recv(handle, bytearray(10))
    for _ in range(3):
        port.submit(recv)
        support.assert_idle(port)
        port.submit(unio.Send(handle, b"anybody?"))
        found = {each.operation: each for each in support.completions(port, 2, patience)}
        assert type(found[recv].error) is ConnectionRefusedError
        assert found[recv].transferred == 0
    far.connect(near.getsockname())
    port.submit(recv)
    assert support.run(port, unio.Send(handle, b"hello?")).transferred == 6
    assert far.recv(10) == b"hello?"
    far.send(b"hello!")
    assert support.completion(port) == (None, recv, 6, None)
    assert recv.buffer[:6] == b"hello!"


@pytest.mark.clause("O7", "O2")
@every_family
def test_a_connected_socket_sends_and_receives_one_datagram_each(
    port: unio.Port, resources: contextlib.ExitStack, family: Any
) -> None:
    near, far = datagram(resources, family), datagram(resources, family)
    handle = port.associate(near)
    support.succeed(port, unio.Connect(handle, far.getsockname()))
    sends = [unio.Send(handle, data) for data in (b"one", b"", [b"thr", b"ee"])]
    for send in sends:
        port.submit(send)
    assert [completion.transferred for completion in support.completions(port, 3)] == [3, 0, 5]
    assert [far.recv(10) for _ in range(3)] == [b"one", b"", b"three"]
    far.sendto(b"answer", near.getsockname())
    recv = unio.RecvFrom(handle, bytearray(10))
    assert support.run(port, recv) == (None, recv, 6, None)
    assert recv.address == far.getsockname()


@pytest.mark.clause("O2", "O7")
@needs_af_unix
def test_an_address_may_be_an_object_that_stands_for_a_path(port: unio.Port, resources: contextlib.ExitStack) -> None:
    class Named:
        def __init__(self, path: str) -> None:
            self.path = path

        def __fspath__(self) -> str:
            support.assert_idle(port)
            return self.path

    near, far = datagram(resources, "local"), datagram(resources, "local")
    send = unio.SendTo(port.associate(near), b"to a path", Named(far.getsockname()))
    assert support.succeed(port, send).transferred == 9
    assert far.recvfrom(100) == (b"to a path", near.getsockname())
    listening, client = channels.listener(resources, "local"), channels.client(resources, "local")
    support.succeed(port, unio.Connect(port.associate(client), Named(listening.getsockname())))
    resources.enter_context(listening.accept()[0])


@pytest.mark.clause("O7", "C2")
@needs_af_unix
def test_sending_to_a_path_that_is_not_there_breaks_nothing(port: unio.Port, resources: contextlib.ExitStack) -> None:
    near, far = datagram(resources, "local"), datagram(resources, "local")
    handle = port.associate(near)
    completion = support.run(port, unio.SendTo(handle, b"data", channels.path(resources, "missing")))
    assert type(completion.error) is FileNotFoundError
    gone = far.getsockname()
    far.close()
    completion = support.run(port, unio.SendTo(handle, b"data", gone))
    assert type(completion.error) is ConnectionRefusedError
    other = datagram(resources, "local")
    support.succeed(port, unio.SendTo(handle, b"data", other.getsockname()))
    assert other.recv(10) == b"data"


# A receiver that is full


def fill(sock, address):
    """Send until the receiver takes nothing more; returns how many datagrams it took."""
    sock.setblocking(False)
    count = 0
    try:
        while True:
            sock.sendto(b"filler", address)
            count += 1
    except BlockingIOError:
        return count


@pytest.mark.clause("O7", "L4")
@needs_af_unix
@pytest.mark.parametrize("filled_by", ["itself", "another"])
@pytest.mark.parametrize("connected", [False, True])
def test_a_datagram_to_a_full_receiver_waits_until_there_is_room(
    port: unio.Port, resources: contextlib.ExitStack, connected: bool, filled_by: str
) -> None:
    near, far = datagram(resources, "local"), datagram(resources, "local")
    filled = fill(near if filled_by == "itself" else datagram(resources, "local"), far.getsockname())
    handle = port.associate(near)
    if connected:
        support.succeed(port, unio.Connect(handle, far.getsockname()))
        sends = [unio.Send(handle, b"late %d" % number) for number in range(5)]
    else:
        sends = [unio.SendTo(handle, b"late %d" % number, far.getsockname()) for number in range(5)]
    for send in sends:
        port.submit(send)
    support.assert_idle(port)
    received = [far.recv(100) for _ in range(filled)]
    found = support.completions(port, 5)
    assert [completion.operation for completion in found] == sends
    assert [(completion.transferred, completion.error) for completion in found] == [(6, None)] * 5
    received += [far.recv(100) for _ in range(5)]
    assert received == [b"filler"] * filled + [b"late %d" % number for number in range(5)]


@pytest.mark.clause("O7", "S8", "X1")
@needs_af_unix
def test_a_datagram_that_waits_for_room_can_be_cancelled_or_time_out(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    near, far = datagram(resources, "local"), datagram(resources, "local")
    filled = fill(near, far.getsockname())
    send = unio.SendTo(port.associate(near), b"never", far.getsockname())
    completion = support.run(port, send, timeout=0.02)
    assert (type(completion.error), completion.transferred) == (TimeoutError, 0)
    port.submit(send)
    support.assert_idle(port)
    assert port.cancel(send)
    support.assert_cancelled(support.completion(port))
    assert [far.recv(100) for _ in range(filled)] == [b"filler"] * filled
    support.assert_idle(port)
    far.setblocking(False)
    with pytest.raises(BlockingIOError):
        far.recv(100)


@pytest.mark.clause("O7", "X1", "S8")
@needs_af_unix
@pytest.mark.parametrize("ended", ["cancelled", "timed out"])
def test_a_datagram_behind_one_that_waits_for_another_receiver_leaves_when_that_one_has_ended(
    port: unio.Port, resources: contextlib.ExitStack, ended: str
) -> None:
    near, full, empty = (datagram(resources, "local") for _ in range(3))
    fill(datagram(resources, "local"), full.getsockname())
    handle = port.associate(near)
    waits = unio.SendTo(handle, b"waits", full.getsockname())
    follows = unio.SendTo(handle, b"follows", empty.getsockname())
    port.submit(waits, None if ended == "cancelled" else 0.02)
    port.submit(follows)
    if ended == "cancelled":
        support.assert_idle(port)
        assert port.cancel(waits)
    found = support.completions(port, 2)
    assert [completion.operation for completion in found] == [waits, follows]
    assert type(found[0].error) is (unio.Cancelled if ended == "cancelled" else TimeoutError)
    assert found[1].error is None
    assert empty.recv(100) == b"follows"


@pytest.mark.clause("O7", "L4", "L2")
@needs_af_unix
@pytest.mark.parametrize("connected", [False, True])
def test_a_datagram_that_waits_for_room_lets_the_port_sleep(
    port: unio.Port, resources: contextlib.ExitStack, connected: bool
) -> None:
    near, far = datagram(resources, "local"), datagram(resources, "local")
    fill(datagram(resources, "local"), far.getsockname())
    handle = port.associate(near)
    if connected:
        support.succeed(port, unio.Connect(handle, far.getsockname()))
    port.submit(unio.Send(handle, b"x") if connected else unio.SendTo(handle, b"x", far.getsockname()))
    channels.assert_sleeps(port)


@pytest.mark.clause("O7", "L4")
@every_udp
def test_many_datagrams_sent_at_once_are_all_taken(
    port: unio.Port, resources: contextlib.ExitStack, family: Any
) -> None:
    near, far = datagram(resources, family), datagram(resources, family)
    handle = port.associate(near)
    for _ in range(500):
        port.submit(unio.SendTo(handle, bytes(1000), far.getsockname()))
    found = support.completions(port, 500)
    assert {(completion.transferred, completion.error) for completion in found} == {(1000, None)}


# Pairs that keep the boundaries of messages


@pytest.mark.clause("O7", "O3")
@needs_af_unix
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET], ids=["datagrams", "packets"])
def test_a_local_pair_keeps_the_boundaries_of_messages(
    port: unio.Port, resources: contextlib.ExitStack, kind: str
) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, kind)
    resources.enter_context(near)
    resources.enter_context(far)
    far.settimeout(support.PATIENCE)
    handle = port.associate(near)
    recv = unio.Recv(handle, bytearray(4))
    far.send(b"large one")
    far.send(b"fits")
    completion = support.run(port, recv)
    assert (completion.transferred, completion.error.errno) == (4, errno.EMSGSIZE)
    assert support.run(port, recv) == (None, recv, 4, None)
    assert recv.buffer == b"fits"
    support.succeed(port, unio.Send(handle, [b"a ", b"message"]))
    assert far.recv(100) == b"a message"

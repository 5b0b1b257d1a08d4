"""Datagrams where several operations of one socket are in flight at once, and what becomes of those if one ends."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Any

import channels
import pytest
import support
from platforms import WINDOWS, needs_af_unix
from scarcity import ALLOCATIONS, WHY_NOT, lacking
from wine import wine_row

import unio

MANY = 50
"""More than one direction is attempted in one go."""

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
every_family = pytest.mark.parametrize("family", LOOPBACK, ids=["udp", "udp6"])


def bound(resources: contextlib.ExitStack, family: Any = socket.AF_INET) -> socket.socket:
    sock = resources.enter_context(socket.socket(family, socket.SOCK_DGRAM))
    sock.settimeout(support.PATIENCE)
    sock.bind((LOOPBACK[family], 0))
    return sock


def refuser(resources: contextlib.ExitStack) -> Any:
    """An address at which nobody is, for as long as no socket is bound to it by chance."""
    with bound(resources) as sock:
        return sock.getsockname()


def receives(handle: unio.Handle, count: int, size: int = 10) -> list[unio.RecvFrom]:
    return [unio.RecvFrom(handle, bytearray(size)) for _ in range(count)]


def submit_all(port: unio.Port, operations: Any) -> None:
    for operation in operations:
        port.submit(operation)


@pytest.mark.clause("O7", "O5", "L1")
@every_family
@pytest.mark.parametrize("waits", [True, False], ids=["by who waits", "by who does not"])
def test_many_datagrams_are_echoed_each_to_its_sender(
    port: unio.Port, resources: contextlib.ExitStack, family: Any, waits: bool
) -> None:
    server = bound(resources, family)
    peers = [bound(resources, family) for _ in range(5)]
    handle = port.associate(server)
    if waits:
        support.assert_idle(port)
    found: list[unio.RecvFrom] = receives(handle, MANY)
    submit_all(port, found)
    for number in range(MANY):
        peers[number % 5].sendto(b"%d" % number, server.getsockname())
    assert [each.operation for each in support.completions(port, MANY)] == found
    for number, recv in enumerate(found):
        assert recv.buffer[: recv.transferred] == b"%d" % number
        assert recv.address == peers[number % 5].getsockname()
    sends = [unio.SendTo(handle, memoryview(each.buffer)[: each.transferred], each.address) for each in found]
    submit_all(port, sends)
    assert [each.operation for each in support.completions(port, MANY)] == sends
    for number in range(MANY):
        assert peers[number % 5].recvfrom(10) == (b"%d" % number, server.getsockname())


@pytest.mark.clause("O7", "X1", "O5")
@pytest.mark.parametrize("ended", ["cancelled", "timed out"])
def test_a_receive_that_is_ended_among_others_takes_no_datagram(
    port: unio.Port, resources: contextlib.ExitStack, ended: str
) -> None:
    near, far = bound(resources), bound(resources)
    found = receives(port.associate(near), 6)
    support.assert_idle(port)
    for number, recv in enumerate(found):
        port.submit(recv, 0 if ended == "timed out" and number in (0, 3) else None)
    if ended == "cancelled":
        assert [port.cancel(found[number]) for number in (0, 3)] == [True, True]
    errors = {each.operation: type(each.error) for each in support.completions(port, 2)}
    wanted = unio.Cancelled if ended == "cancelled" else TimeoutError
    assert errors == {found[0]: wanted, found[3]: wanted}
    for data in (b"1", b"2", b"4", b"5"):
        far.sendto(data, near.getsockname())
    assert [each.operation for each in support.completions(port, 4)] == [found[number] for number in (1, 2, 4, 5)]
    assert [bytes(found[number].buffer[:1]) for number in (1, 2, 4, 5)] == [b"1", b"2", b"4", b"5"]
    port.submit(found[0])
    far.sendto(b"0", near.getsockname())
    assert support.completion(port) == (None, found[0], 1, None)


@pytest.mark.clause("O7", "X3")
@pytest.mark.parametrize("how", ["handle", "plain"])
def test_a_close_among_datagrams_ends_the_receives_that_are_left_in_order(
    port: unio.Port, resources: contextlib.ExitStack, how: str
) -> None:
    near, far = bound(resources), bound(resources)
    handle = port.associate(near)
    found = receives(handle, MANY)
    support.assert_idle(port)
    submit_all(port, found)
    for _ in range(MANY // 2):
        far.sendto(b"data", near.getsockname())
    came = support.completions(port, MANY // 2)
    (handle if how == "handle" else near).close()
    came += support.completions(port, MANY - MANY // 2)
    assert [each.operation for each in came] == found
    assert [each.transferred for each in came] == [4] * (MANY // 2) + [0] * (MANY - MANY // 2)
    for each in came[MANY // 2 :]:
        support.assert_cancelled(each)


@pytest.mark.clause("O7", "C2")
@pytest.mark.parametrize("make", [unio.RecvFrom, unio.Recv])
def test_a_datagram_that_is_too_large_among_others_is_the_error_of_its_receive_alone(
    port: unio.Port, resources: contextlib.ExitStack, make: Any
) -> None:
    near, far = bound(resources), bound(resources)
    handle = port.associate(near)
    found = [make(handle, bytearray(4)) for _ in range(6)]
    support.assert_idle(port)
    submit_all(port, found)
    sent = [b"1", b"22222", b"333", b"", b"55555", b"6666"]
    for data in sent:
        far.sendto(data, near.getsockname())
    came = support.completions(port, 6)
    assert [each.operation for each in came] == found
    assert [each.transferred for each in came] == [1, 4, 3, 0, 4, 4]
    errors = [each.error and each.error.errno for each in came]
    assert errors == [None, errno.EMSGSIZE, None, None, errno.EMSGSIZE, None]
    for recv, data in zip(found, sent, strict=True):
        assert recv.buffer[: recv.transferred] == data[:4]
        assert make is unio.Recv or recv.address == far.getsockname()


@wine_row("refused-once")
@pytest.mark.clause("O7", "C2")
def test_a_refusal_among_receives_is_the_error_of_the_first_alone(
    port: unio.Port, resources: contextlib.ExitStack, patience: float
) -> None:
    near = bound(resources)
    handle = port.associate(near)
    support.succeed(port, unio.Connect(handle, refuser(resources)))
    found = [unio.Recv(handle, bytearray(4)), *receives(handle, 3)]
    submit_all(port, found)
    support.assert_idle(port)
    send = unio.Send(handle, b"anybody?")
    port.submit(send)
    errors = {each.operation: type(each.error) for each in support.completions(port, 2, patience)}
    assert errors == {send: type(None), found[0]: ConnectionRefusedError}
    support.assert_idle(port)
    assert [each.in_flight for each in found] == [False, True, True, True]


@pytest.mark.clause("O7", "L4")
@needs_af_unix
def test_local_datagrams_to_a_full_receiver_wait_until_there_is_room(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    near, far = (resources.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) for _ in range(2))
    address = channels.path(resources, "socket")
    far.bind(address)
    handle = port.associate(near)
    support.assert_idle(port)
    sends = [unio.SendTo(handle, b"%d" % number, address) for number in range(5000)]
    submit_all(port, sends)
    received: list[bytes] = []
    came: list[unio.Completion] = []

    def have_come() -> bool:
        came.extend(port.wait(0))
        with contextlib.suppress(BlockingIOError):
            while True:
                received.append(far.recv(10, socket.MSG_DONTWAIT))
        return len(received) == len(sends)

    support.until(have_come)
    came.extend(support.completions(port, len(sends) - len(came)) if len(came) < len(sends) else [])
    assert received == [b"%d" % number for number in range(5000)]
    assert [(each.operation, each.error) for each in came] == [(each, None) for each in sends]


@pytest.mark.clause("O7", "S4")
def test_what_succeeds_within_submit_is_skipped_for_datagrams_too(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    near, far = bound(resources), bound(resources)
    handle = port.associate(near, skip_on_success=True)
    support.assert_idle(port)
    send, recv = unio.SendTo(handle, b"there", far.getsockname()), unio.RecvFrom(handle, bytearray(10))
    if port.submit(send) is False:
        assert support.completion(port).operation is send
    assert far.recvfrom(10) == (b"there", near.getsockname())
    assert port.submit(recv) is False
    far.sendto(b"and back", near.getsockname())
    assert support.completion(port) == (None, recv, 8, None)
    assert recv.address == far.getsockname()


@pytest.mark.clause("O7", "S5")
def test_the_address_of_a_send_is_kept_when_another_one_is_refused(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    near, far = bound(resources), bound(resources)
    send = unio.SendTo(port.associate(near), b"data", far.getsockname())
    wrong: list[tuple[Any, type[Exception]]] = [
        (("localhost", 9), ValueError),
        (("127.0.0.01", 9), ValueError),
        (("127.0.0.1\0", 9), ValueError),
        (("127.0.0.1", 65536), ValueError),
        (("127.0.0.1", -1), ValueError),
        (("127.0.0.1", 2**80), ValueError),
        (("127.0.0.1", True), TypeError),
        (("127.0.0.1", "9"), TypeError),
        (("127.0.0.1",), TypeError),
        (("127.0.0.1", 9, 0), TypeError),
        ((b"127.0.0.1", 9), TypeError),
        (["127.0.0.1", 9], TypeError),
        (("::1", 9), ValueError),
        (None, TypeError),
    ]
    for address, error in wrong:
        with pytest.raises(error):
            send.address = address
        with pytest.raises(error):
            unio.SendTo(send.handle, b"data", address)
        assert send.address == far.getsockname()
    with pytest.raises(AttributeError):
        del send.address
    assert support.run(port, send) == (None, send, 4, None)
    assert far.recvfrom(10) == (b"data", near.getsockname())


class Text(str):
    """A host of the program's own class, with its own idea of what is equal."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise AssertionError("nobody compares it")

    __hash__ = str.__hash__


@pytest.mark.clause("O7", "P9")
def test_an_address_is_read_in_each_form_that_python_has(port: unio.Port, resources: contextlib.ExitStack) -> None:
    near, far = bound(resources, socket.AF_INET6), bound(resources, socket.AF_INET6)
    number = far.getsockname()[1]
    send = unio.SendTo(port.associate(near), b"data", ("::1", number))
    support.assert_idle(port)
    for address in (("::1", number), ("::1", number, 0), ("0:0::1", number, 0, 0), (Text("::1"), number, 5)):
        send.address = address
        assert send.address[1] == number
        assert support.run(port, send) == (None, send, 4, None)
        assert far.recvfrom(10) == (b"data", near.getsockname())


@pytest.mark.clause("S11", "O7")
@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
@pytest.mark.skipif(WINDOWS, reason="needs looking into: there a wait without memory has lost what it had taken")
def test_datagrams_that_come_where_memory_is_lacking_end_their_operations_once(
    backend: str, resources: contextlib.ExitStack
) -> None:
    for number in range(ALLOCATIONS):
        with unio.Port(backend=backend) as port, bound(resources) as near, bound(resources) as far:
            port.wait(0)
            handle = port.associate(near)
            found: list[unio.Operation] = [*receives(handle, 2), unio.SendTo(handle, b"sent", far.getsockname())]
            submit_all(port, found[:2])
            raised = lacking(number, port.submit, found[2])
            if isinstance(raised, MemoryError) and not found[2].in_flight:
                port.submit(found[2])
            far.sendto(b"one", near.getsockname())
            far.sendto(b"two", near.getsockname())
            came = lacking(number, support.bare_wait(port), 0)
            came = [] if isinstance(came, MemoryError) else came
            # Of a datagram that came without memory Python's own call knows no more.
            handle.close()
            while any(each.in_flight for each in found):
                came += support.batch(port)
            assert sorted(map(id, found)) == sorted(id(each.operation) for each in came)

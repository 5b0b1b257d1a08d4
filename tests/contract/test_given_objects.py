"""What a program gives is never compared, asked for its truth or shown: that would be the program's own code."""

from __future__ import annotations

import array
import contextlib
import ctypes
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support

import unio

COMPARISONS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")
SHOWN = ("__repr__", "__str__", "__format__")


def hostile(name: str, *bases: type, methods: tuple[str, ...] = (*COMPARISONS, *SHOWN, "__bool__")) -> Any:
    """A class whose objects can be neither compared nor shown, have no truth value and no hash."""

    def fail(*_: object) -> Any:
        raise AssertionError("this is the program's own")

    return type(name, bases, {**dict.fromkeys(methods, fail), "__hash__": None})


Bytes: type[bytes] = hostile("Bytes", bytes)
ByteArray: type[bytearray] = hostile("ByteArray", bytearray)
Array: type[array.array[int]] = hostile("Array", array.array)
Units: type[Any] = hostile("Units", ctypes.c_ubyte * 8)
Text: type[str] = hostile("Text", str)
Number: type[int] = hostile(
    "Number", int, methods=(*COMPARISONS, *SHOWN, "__bool__", "__index__", "__int__", "__float__")
)
Fraction: type[float] = hostile("Fraction", float, methods=(*COMPARISONS, *SHOWN, "__bool__", "__float__"))
Pair: type[tuple[Any, ...]] = hostile("Pair", tuple, methods=(*COMPARISONS, *SHOWN, "__bool__", "__iter__", "__len__"))
Key: type[Any] = hostile("Key", object)

BUFFERS: dict[str, Callable[[], Any]] = {
    "bytearray": lambda: ByteArray(8),
    "array": lambda: Array("B", bytes(8)),
    "ctypes": Units,
    "several": lambda: [ByteArray(3), Units.from_buffer(ByteArray(8))],
}


@pytest.mark.clause("S5", "S3")
@pytest.mark.parametrize("kind", BUFFERS)
def test_a_buffer_is_never_compared_whatever_its_class(port: unio.Port, make_pair: Any, kind: str) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near)
    recv, send = unio.Recv(handle, BUFFERS[kind]()), unio.Send(handle, BUFFERS[kind]())
    for _ in range(2):
        size = support.succeed(port, send).transferred
        assert size == (11 if kind == "several" else 8)
        far.sendall(support.recv_exactly(far, size))
        assert support.succeed(port, recv).transferred == size
        recv.buffer, send.buffer = BUFFERS[kind](), BUFFERS[kind]()


@pytest.mark.clause("S5", "S3")
def test_bytes_of_a_class_of_their_own_are_sent_as_they_are(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near)
    assert support.succeed(port, unio.Send(handle, Bytes())).transferred == 0
    assert support.succeed(port, unio.Send(handle, Bytes(b"data"))).transferred == 4
    assert far.recv(8) == b"data"


@pytest.mark.clause("S5", "S3", "O7")
def test_nor_is_the_buffer_of_a_datagram(port: unio.Port, resources: contextlib.ExitStack) -> None:
    sock = resources.enter_context(support.datagram_socket())
    handle = port.associate(sock)
    for make in BUFFERS.values():
        sent = support.succeed(port, unio.SendTo(handle, make(), sock.getsockname())).transferred
        assert support.succeed(port, unio.RecvFrom(handle, make())).transferred == sent


@pytest.mark.clause("S5", "S3", "O8")
def test_nor_is_the_buffer_of_a_file_operation(
    port: unio.Port, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    handle = port.associate(resources.enter_context(unio.open(tmp_path / "file", "wb+")))
    for make in BUFFERS.values():
        written = support.succeed(port, unio.Write(handle, make(), Number(0))).transferred
        assert support.succeed(port, unio.Read(handle, make(), Number(0))).transferred == written


# Operations of a class of the program's own


def falsy(kind: type[unio.Operation]) -> Any:
    """A kind of operation that compares as it likes, and is false."""
    named = hostile(f"Own{kind.__name__}", kind, methods=(*COMPARISONS, *SHOWN))
    named.__len__ = lambda _: 0
    return named


@pytest.mark.clause("S7", "S1")
@pytest.mark.parametrize("end", ["cancel", "handle.cancel", "handle.close", "time-out", "port.close"])
def test_an_operation_may_compare_as_it_likes_and_be_false(
    make_port: Callable[[], unio.Port], make_pair: Any, end: str
) -> None:
    port = make_port()
    near, _ = make_pair()
    handle = port.associate(near)
    operations = [
        falsy(unio.Recv)(handle, bytearray(8)),
        falsy(unio.Recv)(handle, bytearray(8)),
        falsy(unio.Poll)(handle, unio.Readiness.READABLE),
        falsy(unio.Timer)(3600),
    ]
    for operation in operations:
        port.submit(operation, 0.01 if end == "time-out" else None)
    if end == "cancel":
        assert [port.cancel(operation) for operation in reversed(operations)] == [True] * 4
    elif end == "port.close":
        port.close()
        assert [operation.in_flight for operation in operations] == [False] * 4
        return
    elif end.startswith("handle"):
        assert port.cancel(operations.pop())
        handle.cancel() if end == "handle.cancel" else handle.close()
    found = support.completions(port, 4)
    assert len({id(each.operation) for each in found}) == 4
    assert not [each for each in found if each.error is None]


@pytest.mark.clause("O13", "S7")
def test_the_exit_of_a_process_may_compare_as_it_likes(
    port: unio.Port, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    observed: Any = support.pending("process_exit", port, resources, tmp_path)
    child = observed.process
    exits = [falsy(unio.ProcessExit)(child) for _ in range(3)]
    for each in exits:
        port.submit(each)
    assert port.cancel(exits[1])
    support.assert_cancelled(support.completion(port))
    child.kill()
    ended = {id(each.operation) for each in support.completions(port, 2)}
    assert ended == {id(exits[0]), id(exits[2])}


# Numbers, addresses and names


@pytest.mark.clause("S3", "P6", "S8", "O11")
def test_numbers_of_a_class_of_their_own_are_taken_as_the_numbers_that_they_are(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    for zero in (Number(0), Fraction(0)):
        assert port.wait(zero, Number(5)) == []
        for number in range(3):
            port.post(number)
        assert [found.key for found in port.wait(zero, Number(2))] == [0, 1]
        assert support.completion(port).key == 2
        timer = unio.Timer(zero)
        assert support.succeed(port, timer).operation is timer
        port.submit(unio.Timer(3600), zero)
        assert type(support.completion(port).error) is TimeoutError
    for wrong in (Number(-1), Fraction(-1), Fraction("nan")):
        with pytest.raises(ValueError, match="negative or NaN"):
            port.wait(wrong)
    with pytest.raises(ValueError, match="limit"):
        port.wait(0, Number(0))
    assert resources.enter_context(unio.Port(backend=port.backend, concurrency=Number(3))).concurrency == 3


@pytest.mark.clause("S3", "O2", "O7")
def test_an_address_of_classes_of_its_own_is_taken_as_it_is(port: unio.Port, resources: contextlib.ExitStack) -> None:
    listening = resources.enter_context(support.listener())
    host, number = listening.getsockname()
    client = resources.enter_context(socket.socket())
    connect = unio.Connect(port.associate(client), Pair((Text(host), Number(number))))
    assert connect.address == (host, number)
    assert [type(part) for part in (connect.address, *connect.address)] == [tuple, str, int]
    support.succeed(port, connect)
    assert client.getpeername() == listening.getsockname()
    receiver = resources.enter_context(support.datagram_socket())
    sender = port.associate(resources.enter_context(support.datagram_socket()))
    host, number = receiver.getsockname()
    support.succeed(port, unio.SendTo(sender, b"x", Pair((Text(host), Number(number)))))
    assert receiver.recv(8) == b"x"


# What messages show


@pytest.mark.clause("S3", "S5", "P9")
def test_no_message_asks_a_key_or_an_operation_to_show_itself(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    key = Key()
    handle = port.associate(near, key)
    recv = falsy(unio.Recv)(handle, bytearray(8))
    port.submit(recv)
    for change in (lambda: port.submit(recv), lambda: setattr(recv, "buffer", bytearray(1))):
        with pytest.raises(unio.InFlight, match="pending key=<Key>"):
            change()
    assert "key=<Key>" in repr(handle)
    with pytest.raises(unio.AssociationError, match="has joined a port already"):
        port.associate(handle)  # type: ignore[arg-type]
    far.send(b"x")
    support.completion(port)
    handle.close()
    support.assert_cancelled(support.run(port, recv))
    assert "closed key=<Key>" in repr(handle)
    assert repr(unio.Timer(1, key)) == "<unio.Timer idle key=<Key>>"


@pytest.mark.clause("A1", "A2", "S3")
def test_nor_does_one_ask_what_is_no_handle_address_or_number(port: unio.Port, resources: contextlib.ExitStack) -> None:
    class Wrong(Key):
        def fileno(self) -> Any:
            return Wrong()

    handle = port.associate(resources.enter_context(socket.socket()))
    poll: Any = unio.Poll
    calls: list[Callable[[], object]] = [
        lambda: port.associate(Wrong()),
        lambda: unio.Connect(handle, Wrong()),
        lambda: unio.Connect(handle, ("127.0.0.1", Wrong())),
        lambda: unio.ProcessExit(Wrong()),
        lambda: poll(handle, Wrong()),
        lambda: unio.Timer(Wrong()),
        lambda: port.wait(Wrong()),
        lambda: unio.Pool(Wrong(), print),
        lambda: unio.Port(backend=Wrong()),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="Wrong"):
            call()


@pytest.mark.clause("S3")
def test_a_message_stays_short_however_long_what_it_shows(port: unio.Port, resources: contextlib.ExitStack) -> None:
    handle = port.associate(resources.enter_context(socket.socket()), "k" * 10**6)
    sent = unio.SendFile(handle, 0)
    calls: list[Callable[[], object]] = [
        lambda: unio.Connect(handle, ("h" * 10**6, 80)),
        lambda: unio.Connect(handle, ("127.0.0.1", 10**5000)),  # Python refuses to write down so many digits
        lambda: unio.Connect(handle, (0,) * 10**6),
        lambda: sent.set_range(-(10**5000)),
        lambda: port.wait(0, -(10**5000)),
        lambda: unio.Port(concurrency=10**5000),
        lambda: unio.ProcessExit(-(10**5000)),
        lambda: port.associate(10**5000),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        assert len(str(caught.value)) < 1000
        assert "digits" not in str(caught.value)
    assert len(repr(handle)) < 1000

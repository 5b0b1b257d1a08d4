"""Clause A5: an object leaves its port unharmed, and joins another one, or is somebody else's."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE
from platforms import WINDOWS
from support import (
    Background,
    Stepped,
    arrived,
    assert_cancelled,
    assert_idle,
    assert_nothing_comes,
    completion,
    completions,
    connect,
    datagram_socket,
    in_threads,
    recv_exactly,
    run,
    succeed,
)
from wine import has_row, wine_row

import unio

leaves_port = wine_row("leave-port")

posix_only = pytest.mark.skipif(WINDOWS, reason="Windows has no descriptors")


class Wrapper:
    """An object of a library's, with a descriptor."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()


# To another port


@leaves_port
@pytest.mark.clause("A5", "A1")
@pytest.mark.parametrize("form", ["blocking", "not blocking", "object", "number", "with skip_on_success"])
@pytest.mark.parametrize("local", [False, True])
def test_what_is_detached_joins_another_port_with_all_that_has_arrived(
    port: unio.Port, make_port: Any, make_pair: Any, form: str, *, local: bool
) -> None:
    near, far = make_pair(local=local)
    if form == "not blocking":
        near.setblocking(False)
    given: Any = {"object": Wrapper(near), "number": near.fileno()}.get(form, near)
    handle = port.associate(given, "old", skip_on_success="skip" in form)
    recv = unio.Recv(handle, bytearray(4))
    port.submit(recv)
    far.sendall(b"old new ")
    assert completion(port).operation is recv
    assert bytes(recv.data) == b"old "
    assert handle.detach() is given
    far.sendall(b"more")
    other = make_port()
    moved = other.associate(given, "new")
    received = b""
    while len(received) < 8:
        again = unio.Recv(moved, bytearray(8))
        assert run(other, again).key == "new"
        received += again.data
    assert received == b"new more"
    other.submit(again)
    assert run(other, unio.Send(moved, b"back")).transferred == 4
    assert recv_exactly(far, 4) == b"back"
    far.sendall(b"last")
    assert completion(other).operation is again
    assert_nothing_comes(port, 0.02)
    moved.detach()
    assert_idle(other)


@leaves_port
@pytest.mark.clause("A5")
def test_it_may_come_back_to_the_same_port(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    for number in range(20):
        handle = port.associate(near, number)
        recv = unio.Recv(handle, bytearray(8))
        port.submit(recv)
        far.send(b"data")
        assert completion(port)[:3] == (number, recv, 4)
        if number % 2:  # something the old handle's port is about to be told of
            far.send(b"more")
            arrived(near)
        handle.detach()
        if number % 2:
            near.setblocking(True)
            assert recv_exactly(near, 4) == b"more"
    assert_idle(port)


@leaves_port
@pytest.mark.clause("A5", "O5")
def test_a_stream_that_is_handed_on_while_its_peer_sends_loses_no_byte(make_port: Any, make_pair: Any) -> None:
    near, far = make_pair()
    ports = [make_port() for _ in range(3)]
    sent = random.Random(3).randbytes(300_000)
    sending = Background(far.sendall, sent)
    received = bytearray()
    turn = 0
    while len(received) < len(sent):
        port = ports[turn % len(ports)]
        turn += 1
        handle = port.associate(near)
        recv = unio.Recv(handle, bytearray(3_000))
        for _ in range(turn % 4):
            succeed(port, recv)
            received += recv.data
            if len(received) == len(sent):
                break
        if len(received) < len(sent):
            port.submit(recv)
            with pytest.raises(unio.InFlight):
                handle.detach()
            received += end_of(port, recv)
        assert handle.detach() is near
    sending.result()
    assert bytes(received) == sent


def end_of(port: unio.Port, recv: unio.Recv) -> bytes:
    """What a receive has brought that is cancelled, unless that comes too late."""
    port.cancel(recv)
    assert completion(port).operation is recv
    return b"" if recv.error is not None else bytes(recv.data)


@leaves_port
@pytest.mark.clause("A5")
def test_a_listener_takes_its_backlog_along(port: unio.Port, make_port: Any, make_listener: Any) -> None:
    listening = make_listener()
    handle = port.associate(listening)
    with connect(listening), connect(listening):
        succeed(port, accept := unio.Accept(handle))
        accept.socket.close()
        handle.detach()
        other = make_port()
        succeed(other, accept := unio.Accept(other.associate(listening)))
        accept.socket.close()


@leaves_port
@pytest.mark.clause("A5", "O7")
def test_a_datagram_socket_keeps_what_has_come(
    port: unio.Port, make_port: Any, resources: contextlib.ExitStack
) -> None:
    near, far = (resources.enter_context(datagram_socket()) for _ in range(2))
    handle = port.associate(near)
    far.sendto(b"datagram", near.getsockname())
    assert handle.detach() is near
    other = make_port()
    recv = unio.RecvFrom(other.associate(near), bytearray(20))
    assert run(other, recv).transferred == 8
    assert recv.address == far.getsockname()


@leaves_port
@pytest.mark.clause("A5", "O12")
def test_a_pipe_keeps_what_is_in_it(port: unio.Port, make_port: Any, resources: contextlib.ExitStack) -> None:
    reader, writer = map(resources.enter_context, unio.pipe())
    handles = [port.associate(each) for each in (reader, writer)]
    succeed(port, unio.Send(handles[1], b"in the pipe"))
    assert [each.detach() for each in handles] == [reader, writer]
    other = make_port()
    recv = unio.Recv(other.associate(reader), bytearray(20))
    assert run(other, recv).transferred == 11
    succeed(other, unio.Send(other.associate(writer), b"more"))
    assert run(other, recv).transferred == 4


@leaves_port
@pytest.mark.clause("A5", "O8")
def test_a_file_can_be_read_by_others_and_by_another_port(
    port: unio.Port, make_port: Any, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    file = resources.enter_context(unio.open(tmp_path / "file", "w+b"))
    handle = port.associate(file)
    succeed(port, unio.Write(handle, b"content", 0))
    assert handle.detach() is file
    assert_cancelled(run(port, unio.Write(handle, b"lost", 0)))
    other = make_port()
    moved = other.associate(file)
    read = unio.Read(moved, bytearray(7), 0)
    succeed(other, read)
    assert bytes(read.buffer) == b"content"
    moved.detach()
    if not WINDOWS:  # there, a file that was opened for overlapped work takes no plain reads
        assert file.read() == b"content"


# To others


@leaves_port
@pytest.mark.clause("A5", "A2")
@pytest.mark.parametrize("timeout", [None, 0.0, 7.5])
def test_a_socket_blocks_as_it_did_before_it_joined(port: unio.Port, make_pair: Any, timeout: float | None) -> None:
    near, far = make_pair()
    near.settimeout(timeout)
    before = flags(near)
    handle = port.associate(near)
    recv = unio.Recv(handle, bytearray(4))
    port.submit(recv)
    far.sendall(b"datamore")
    completion(port)
    handle.detach()
    assert flags(near) == before
    assert near.gettimeout() == timeout
    if timeout != 0:
        assert recv_exactly(near, 4) == b"more"


def flags(sock: socket.socket) -> tuple[Any, ...]:
    """What associating could change."""
    blocking = None if WINDOWS else os.get_blocking(sock.fileno())
    mark = None if WINDOWS else sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)
    return sock.gettimeout(), blocking, mark, sock.get_inheritable()


@posix_only
@pytest.mark.clause("A5", "A2")
@pytest.mark.parametrize("given", ["socket", "object", "number", "pipe", "inheritable"])
def test_it_keeps_no_flag_that_it_had_not_before(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack, given: str
) -> None:
    near, _ = make_pair(local=True)
    near.setblocking(True)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 5)
    if given == "inheritable":
        near.set_inheritable(True)
    reader, _writer = map(resources.enter_context, unio.pipe())
    os.set_blocking(reader.fileno(), True)
    before = flags(near), os.get_blocking(reader.fileno())
    made: dict[str, Any] = {"object": Wrapper(near), "number": near.fileno(), "pipe": reader}
    handle = port.associate(made.get(given, near))
    assert (flags(near), os.get_blocking(reader.fileno())) != before
    handle.detach()
    assert (flags(near), os.get_blocking(reader.fileno())) == before


@posix_only
@pytest.mark.clause("A5", "S10")
def test_what_the_program_has_changed_since_stays(port: unio.Port, make_pair: Any) -> None:
    near, _ = make_pair(local=True)
    near.settimeout(None)
    handle = port.associate(near)
    near.settimeout(4.5)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 3)
    handle.detach()
    assert flags(near)[:3] == (4.5, False, 3)
    fit, _ = make_pair(local=True)
    fit.setblocking(False)
    handle = port.associate(fit)
    fit.settimeout(None)
    os.set_blocking(fit.fileno(), False)  # as unio itself has it before some calls
    handle.detach()
    assert flags(fit)[:2] == (None, True)


@leaves_port
@pytest.mark.clause("A5")
def test_a_library_may_use_it_with_a_time_out_of_its_own(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    far.sendall(b"line\nrest")
    arrived(near)
    library: Any = handle.detach()
    library.settimeout(PATIENCE)
    with library.makefile("rwb") as file:
        assert file.readline() == b"line\n"
        file.write(b"answer")
        file.flush()
        assert recv_exactly(far, 6) == b"answer"
        far.close()
        assert file.read() == b"rest"


@posix_only
@pytest.mark.clause("A5")
def test_a_child_may_have_it(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near)
    far.sendall(b"for the child")
    arrived(near)
    handle.detach()
    command = "import socket; s = socket.socket(fileno=0); s.settimeout(60); s.sendall(s.recv(100).upper())"
    subprocess.run([sys.executable, "-S", "-E", "-c", command], stdin=near, check=True, timeout=PATIENCE)
    assert recv_exactly(far, 13) == b"FOR THE CHILD"


# What is left behind


@leaves_port
@pytest.mark.clause("A5", "S3")
def test_to_the_port_the_handle_is_closed_and_the_object_is_not(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near, "key")
    handle.detach()
    assert handle.closed
    assert handle.fileno() == -1
    assert handle.cancel() == 0
    assert "closed" in repr(handle)
    for make in (unio.Recv, lambda each: unio.Send(each, b"x"), lambda each: unio.Poll(each, unio.Readiness.READABLE)):
        operation: Any = make(handle)
        assert_cancelled(run(port, operation))
        assert_cancelled(run(port, operation, 3600))
    handle.close()
    far.sendall(b"still open")
    near.settimeout(PATIENCE)
    assert recv_exactly(near, 10) == b"still open"
    with pytest.raises(unio.NotAssociated):
        handle.detach()
    assert handle.object is near
    port.close()
    with pytest.raises(unio.PortClosed):
        handle.detach()


@leaves_port
@pytest.mark.clause("A5", "P7", "A1")
def test_a_close_of_its_former_port_does_not_keep_it_from_joining_another(
    backend: str, make_port: Any, make_pair: Any
) -> None:
    near, far = make_pair()
    with unio.Port(backend=backend) as port:
        kept = port.associate(far)
        port.associate(near).detach()
    other = make_port()
    recv = unio.Recv(other.associate(near), bytearray(4))
    with pytest.raises(unio.PortClosed):
        kept.detach()
    with pytest.raises(unio.AssociationError):
        other.associate(far)
    far.setblocking(True)
    far.sendall(b"data")
    assert run(other, recv).transferred == 4


@pytest.mark.clause("A5")
@pytest.mark.parametrize("form", ["through unio", "plain"])
def test_of_a_closed_handle_nothing_is_detached(port: unio.Port, make_pair: Any, form: str) -> None:
    near, _ = make_pair()
    handle = port.associate(near)
    handle.close() if form == "through unio" else near.close()
    for _ in range(2):
        with pytest.raises(unio.NotAssociated):
            handle.detach()
    assert_idle(port)


# Operations in flight


@leaves_port
@pytest.mark.clause("A5", "X1")
@pytest.mark.parametrize("kind", ["recv", "send", "poll"])
def test_what_is_in_flight_keeps_it_in_its_port_until_its_end_was_taken(
    port: unio.Port, make_pair: Any, kind: str
) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    made: dict[str, unio.Operation] = {
        "recv": unio.Recv(handle, bytearray(8)),
        "send": unio.Send(handle, bytes(1 << 26)),
        "poll": unio.Poll(handle, unio.Readiness.READABLE),
    }
    operation = made[kind]
    port.submit(operation)
    with pytest.raises(unio.InFlight):
        handle.detach()
    assert handle.cancel() == 1
    with pytest.raises(unio.InFlight):  # the end of it has still to be taken
        handle.detach()
    found = completion(port)
    assert found.operation is operation
    assert_cancelled(found)
    assert handle.detach() is near
    far.close()


@leaves_port
@pytest.mark.clause("A5", "S9")
def test_so_does_what_a_thread_that_waits_has_gathered(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    assert_idle(port)
    send = unio.Send(handle, b"data")
    port.submit(send)
    with pytest.raises(unio.InFlight):
        handle.detach()
    assert completion(port).transferred == 4
    handle.detach()
    assert recv_exactly(far, 4) == b"data"


@leaves_port
@pytest.mark.clause("A5")
def test_what_has_arrived_for_a_receive_that_was_not_taken_yet_is_not_lost(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    recv = unio.Recv(handle, bytearray(4))
    port.submit(recv)
    far.sendall(b"datarest")
    arrived(near)
    with pytest.raises(unio.InFlight):
        handle.detach()
    assert completion(port).transferred == 4
    handle.detach()
    near.settimeout(PATIENCE)
    assert bytes(recv.data) + recv_exactly(near, 4) == b"datarest"


# Several threads


@leaves_port
@pytest.mark.clause("A5", "P2")
def test_of_two_threads_that_detach_one_gets_the_object(port: unio.Port, make_pair: Any) -> None:
    near, _ = make_pair()
    for _ in range(50):
        handle = port.associate(near)

        def detach(_: int, handle: unio.Handle = handle) -> int:
            try:
                return int(handle.detach() is near)
            except unio.NotAssociated:
                return 0

        assert sum(in_threads(2, detach)) == 1


@wine_row("leave-port", always=False)
@pytest.mark.clause("A5", "P2", "X3")
def test_of_a_close_and_a_detach_at_the_same_time_one_has_its_way(port: unio.Port) -> None:
    for _ in range(50):
        near, far = socket.socketpair()
        with near, far:
            handle = port.associate(near)
            closing = Background(handle.close)
            try:
                handle.detach()
                detached = True
            except unio.NotAssociated:
                detached = False
            closing.result()
            assert (near.fileno() >= 0) is detached
    assert_idle(port)


@leaves_port
@pytest.mark.clause("A5", "S1", "S3", "P2")
def test_submits_that_a_detach_races_complete_once_each_and_no_byte_is_lost(port: unio.Port, make_pair: Any) -> None:
    for _ in range(30):
        near, far = make_pair(local=True)
        handle = port.associate(near)
        far.sendall(b"0123456789")

        def submit(handle: unio.Handle = handle) -> list[unio.Recv]:
            receives = [unio.Recv(handle, bytearray(1)) for _ in range(5)]
            for each in receives:
                port.submit(each)
            return receives

        submitting = Background(submit)
        tries = 0
        taken: list[unio.Completion] = []
        while not handle.closed:
            try:
                handle.detach()
            except unio.InFlight:
                tries += 1
                taken += port.wait(0)
        receives = submitting.result()
        taken += completions(port, len(receives) - len(taken))
        assert {id(each.operation) for each in taken} == {id(each) for each in receives}
        data = b"".join(bytes(each.data) for each in receives if each.error is None)
        near.settimeout(PATIENCE)
        assert data + recv_exactly(near, 10 - len(data)) == b"0123456789"


@wine_row("leave-port", always=False)
@pytest.mark.process_wide
@pytest.mark.clause("A5", "P7", "P2")
def test_where_the_port_is_closed_at_any_line_of_it_the_object_is_free_or_stays(backend: str, make_port: Any) -> None:
    other = make_port()
    for line in itertools.count(1):
        near, far = socket.socketpair()
        with near, far, unio.Port(backend=backend) as port:
            handle = port.associate(near)
            detaching = Stepped(line, handle.detach)
            reached = detaching.reached()
            closing = Background(port.close)
            closing.join(0.02)  # unless it waits for what the other one has
            detaching.go()
            closing.result()
            try:
                assert detaching.result() is near
            except unio.PortClosed:
                with pytest.raises(unio.AssociationError):
                    other.associate(near)
            else:
                other.associate(near).detach()
        if not reached:
            break
    assert line > 5


@pytest.mark.skipif(not has_row("leave-port"), reason="what can't be done there is done here")
@pytest.mark.clause("A5")
def test_where_the_system_cant_it_says_so_and_the_handle_stays(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    with pytest.raises(OSError, match="completion port") as said:
        handle.detach()
    assert said.value.errno == errno.ENOTSUP
    assert not handle.closed
    recv = unio.Recv(handle, bytearray(4))
    port.submit(recv)
    far.sendall(b"data")
    assert completion(port).transferred == 4

"""What only the io_uring backend has: when it can't run, its limits, and what the kernel still has to do."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest
from descriptors import no_more_descriptors_than, open_descriptors
from sandbox import FORBID, ended_script, script
from support import (
    PATIENCE,
    PENDING,
    Background,
    Stepped,
    asleep,
    assert_cancelled,
    assert_idle,
    assert_nothing_comes,
    completion,
    completions,
    datagram_socket,
    in_child,
    pending,
    recv_exactly,
    recv_to_end,
    succeed,
    tcp_pair,
    until,
)

import unio

resource = pytest.importorskip("resource", reason="io_uring is Linux', and this system has no resource limits")
io_uring = pytest.importorskip("unio.backends.io_uring", reason="its module in C is not there")
ring = pytest.importorskip("unio.backends.kernel.ring")

# The numbers of the system calls, on every architecture.
IO_URING_SETUP, IO_URING_ENTER, IO_URING_REGISTER = 425, 426, 427

DOCTOR = "import runpy; runpy.run_module('unio', run_name='__main__')"

FALL_BACK = """
import unio
found = {each.name: each for each in unio.backends.candidates()}
print(found["io_uring"].available, found["io_uring"].reason)
with unio.Port() as port:
    print(port.backend)
try:
    unio.Port(backend="io_uring")
except unio.BackendUnavailable as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("call", "number", "words"),
    [
        (IO_URING_SETUP, 1, "io_uring_setup fails: Operation not permitted"),
        (IO_URING_SETUP, 38, "io_uring_setup fails: Function not implemented"),
        (IO_URING_ENTER, 1, "io_uring_enter fails: Operation not permitted"),
        (IO_URING_REGISTER, 13, "io_uring_register(IORING_REGISTER_PROBE) fails: Permission denied"),
    ],
)
def test_where_the_kernel_forbids_io_uring_epoll_serves_and_doctor_says_why(call: int, number: int, words: str) -> None:
    first, second, *message = script(FORBID + FALL_BACK, str(call), str(number)).splitlines()
    assert first == f"False {words}"
    assert second == "epoll"
    assert f"  io_uring: {words}" in message
    assert words in script(FORBID + DOCTOR, str(call), str(number), "doctor")


def test_without_the_compiled_module_epoll_serves_and_doctor_says_why() -> None:
    hide = "import sys; sys.modules['unio._core'] = None\n"
    first, second, *_ = script(hide + FALL_BACK).splitlines()
    assert first.startswith("False it needs unio._core, the part of unio that is C, which is absent: ")
    assert second == "epoll"
    assert "it needs unio._core" in script(hide + DOCTOR, "doctor")


# Lets this process have so many KiB of locked memory, as a user whom no other process has: root may have any number.
# What the program needs is imported before, since that user may not be able to read it.
LOCKED = """
import errno, os, resource, sys
import unio, unio.backends.io_uring
from unio.backends.kernel.ring import ENTRIES, RING_KIB
from unio._core import Ring
from unio.cli.doctor import examine, report
examine()
def limit(kib):
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (kib * 1024, kib * 1024))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(20000 + os.getpid() % 40000)
def is_counted():
    try:
        Ring(ENTRIES).close()
    except OSError as error:
        assert error.errno == errno.ENOMEM
        return True
    return False
"""

TOO_LITTLE = """
limit(64)
if not is_counted():
    sys.exit("it is not counted")
found = {each.name: each for each in unio.backends.candidates()}
print(found["io_uring"].available, found["io_uring"].reason)
try:
    unio.Port(backend="io_uring")
except unio.BackendUnavailable as error:
    print(error)
try:
    unio.backends.io_uring.PORT()
except OSError as error:
    print(error)
print(unio.Port().backend)
print(*[each for each in report(examine()).splitlines() if "io_uring: " in each])
"""

ENOUGH = """
limit(RING_KIB * 3 // 2)
for _ in range(5):  # the memory of one is given back a little after it was closed
    with unio.Port(backend="io_uring") as port:
        port.post("key")
        assert port.wait(30)[0].key == "key"
print("served")
"""


def test_where_too_little_memory_may_be_locked_it_says_how_much_may_and_what_to_do() -> None:
    ended = ended_script(LOCKED + TOO_LITTLE)
    if ended.stderr == "it is not counted\n":
        pytest.skip("this kernel does not count a ring as locked memory")
    assert (ended.returncode, ended.stderr) == (0, "")
    candidate, *unavailable, raised, default, doctor = ended.stdout.splitlines()
    words = "io_uring_setup fails: Cannot allocate memory; the rings of a user count as locked memory, of which "
    words += "RLIMIT_MEMLOCK allows 64 KiB here, and one takes 136 KiB: raise that limit (ulimit -l), or choose epoll"
    assert candidate == f"False {words}"
    assert f"  io_uring: {words}" in unavailable
    assert raised == f"[Errno 12] {words}"
    assert default == "epoll"
    assert doctor == f"  io_uring: not available: {words}"


@pytest.mark.skipif(os.geteuid() != 0, reason="the rings of a user count together: it needs a user of its own")
def test_where_there_is_memory_for_one_ring_one_port_after_the_other_serves() -> None:
    assert script(LOCKED + ENOUGH) == "served\n"


@pytest.fixture
def port(resources: contextlib.ExitStack) -> unio.Port:
    if problem := io_uring.unavailable():
        pytest.skip(problem)
    return resources.enter_context(unio.Port(backend="io_uring"))


def test_more_requests_than_the_ring_has_entries_and_more_results_than_it_has_room_for(
    port: unio.Port, make_pair: Any
) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near)
    polls = [unio.Poll(handle, unio.Readiness.READABLE, state=number) for number in range(ring.ENTRIES * 6)]
    for poll in polls:
        port.submit(poll)
    assert_idle(port)
    far.send(b"x")  # and each of them has a result
    found = completions(port, len(polls))
    assert sorted(each.operation.state for each in found) == list(range(len(polls)))
    assert {(each.error, each.operation.found) for each in found} == {(None, unio.Readiness.READABLE)}
    for poll in polls:
        port.submit(poll)
    assert len(completions(port, len(polls))) == len(polls)
    assert_idle(port)


def test_gathered_requests_that_fill_the_ring_are_all_started(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near)
    far.send(b"x")
    polls = [unio.Poll(handle, unio.Readiness.READABLE) for _ in range(ring.ENTRIES * 3)]
    port.post("this thread waits")
    completion(port)
    for poll in polls:
        port.submit(poll)
    assert len(completions(port, len(polls))) == len(polls)
    assert_idle(port)


def test_what_a_thread_has_submitted_goes_on_when_it_has_ended(
    port: unio.Port, make_pair: Any, make_listener: Any, resources: contextlib.ExitStack
) -> None:
    near, far = make_pair()
    polled, sending = make_pair()
    listening = make_listener()
    reader, writer = map(resources.enter_context, unio.pipe())
    handle = port.associate(near)
    operations = {
        "recv": unio.Recv(handle, bytearray(8)),
        "poll": unio.Poll(port.associate(polled), unio.Readiness.READABLE),
        "accept": unio.Accept(port.associate(listening)),
        "pipe": unio.Recv(port.associate(reader), bytearray(8)),
        "cancelled": unio.Recv(port.associate(make_pair()[0]), bytearray(8)),
    }
    Background(lambda: [port.submit(operation) for operation in operations.values()]).result()
    port.cancel(operations["cancelled"])
    assert_cancelled(completion(port))
    client = resources.enter_context(socket.create_connection(listening.getsockname(), PATIENCE))
    writer.write(b"pipe")
    far.send(b"recv")
    sending.send(b"poll")
    found = {id(each.operation): each for each in completions(port, 4)}
    assert len(found) == 4
    assert {each.error for each in found.values()} == {None}
    assert found[id(operations["recv"])].transferred == found[id(operations["pipe"])].transferred == 4
    with operations["accept"].socket as accepted:
        assert accepted.getpeername() == client.getsockname() == operations["accept"].address


def test_connects_that_threads_which_have_ended_have_submitted_are_not_taken_for_second_ones(
    port: unio.Port, make_listener: Any, resources: contextlib.ExitStack
) -> None:
    listening = make_listener(0)
    waiting = [resources.enter_context(socket.socket()) for _ in range(4)]
    for each in waiting:  # the next connects wait
        each.setblocking(False)
        each.connect_ex(listening.getsockname())
    clients = [resources.enter_context(socket.socket()) for _ in range(10)]
    for client in clients:
        connect = unio.Connect(port.associate(client), listening.getsockname())
        Background(port.submit, connect).result()
    assert_idle(port)
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)  # room to send is an event, though none for it
    assert_nothing_comes(port)
    listening.listen(128)  # now there is room for all of them
    for found in completions(port, len(clients)):
        assert found.error is None
    assert {client.getpeername() for client in clients} == {listening.getsockname()}


def test_a_process_that_a_thread_which_has_ended_watches_is_still_watched(port: unio.Port) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        operation = unio.ProcessExit(child)
        Background(port.submit, operation).result()
        Background(port.wait, 0).result()  # the thread that gives it to the kernel has ended too
        child.communicate(b"\n")
        assert completion(port)[1:] == (operation, 0, None)
        assert operation.status == 0


def test_a_buffer_that_the_caller_drops_is_there_until_the_result(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    port.submit(unio.Recv(handle, [bytearray(3), bytearray(70_000)]))
    gc.collect()
    others = [bytearray(70_000) for _ in range(50)]  # would lie where a buffer was freed
    far.sendall(b"abcdefg")
    found = completion(port)
    assert (bytes(found.operation.buffer[0]), bytes(found.operation.buffer[1][:4])) == (b"abc", b"defg")
    assert not any(map(any, others))


def test_a_closed_port_has_let_go_of_its_buffers_and_nothing_is_written_any_more(
    make_pair: Any, port: unio.Port
) -> None:
    near, far = make_pair()
    buffer = bytearray(1000)
    port.submit(unio.Recv(port.associate(near), buffer))
    port.close()
    gc.collect()
    buffer += b"it can be resized"
    far.send(b"data")
    assert near.recv(8) == b"data"
    assert not any(buffer[:1000])


def test_closing_with_everything_in_flight_leaves_nothing_behind(
    port: unio.Port, make_pair: Any, make_listener: Any, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    file = resources.enter_context(unio.open(tmp_path / "file", "w+b"))
    stored = port.associate(file)
    size = 1 << 25
    operations: list[unio.Operation] = [unio.Write(stored, bytes(size), size * number) for number in range(4)]
    operations += [unio.Flush(stored), unio.Accept(port.associate(make_listener()))]
    operations += [unio.Recv(port.associate(make_pair()[0]), bytearray(100)) for _ in range(20)]
    for operation in operations:
        port.submit(operation)
    port.close()
    until(lambda: not drains())
    assert not any(operation.in_flight for operation in operations)


def test_a_port_that_no_thread_can_be_started_to_drain_leaves_nothing_behind_either(
    resources: contextlib.ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    file = resources.enter_context(unio.open(tmp_path / "file", "w+b"))
    before = open_descriptors()
    port = unio.Port(backend="io_uring")
    stored = port.associate(file)
    succeed(port, unio.Write(stored, bytes(1 << 26), 0))
    operation = unio.Flush(stored)
    port.submit(operation)
    port.wait(0.005)  # a thread of the kernel's begins with it, and can't be kept from that any more
    with monkeypatch.context() as patch:
        patch.setattr(io_uring, "DRAIN_SECONDS", 0)
        patch.setattr(threading.Thread, "start", start)
        port.close()
    no_more_descriptors_than(before)
    assert not operation.in_flight


@pytest.fixture
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour passes between any two looks at the clock, as if the thread were kept off the processor."""
    clock = types.SimpleNamespace(monotonic=itertools.count(0, 3600).__next__)
    monkeypatch.setattr(io_uring, "time", clock)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread can be started, as at the end of a program."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(io_uring, "start_thread", refuse)


def drains() -> bool:
    return any(thread.name == "unio-drain" for thread in threading.enumerate())


@pytest.mark.usefixtures("slow_machine", "no_threads")
@pytest.mark.parametrize("leads", [False, True])
def test_closing_ends_all_that_can_be_revoked_however_long_that_takes(
    port: unio.Port, resources: contextlib.ExitStack, tmp_path: Path, *, leads: bool
) -> None:
    operations = [pending(kind, port, resources, tmp_path) for kind in PENDING]
    submitted, over = threading.Event(), threading.Event()

    def submit() -> None:  # what the end of a request takes is done by the thread that submitted it
        for operation in operations:
            port.submit(operation)
        submitted.set()
        over.wait(PATIENCE)

    submitter = Background(submit)
    submitted.wait(PATIENCE)
    leader = Background(port.wait, None) if leads else None
    if leader is not None:
        asleep(leader)
    port.close()
    if leader is not None:
        with pytest.raises(unio.PortClosed):
            leader.result()
    assert not any(operation.in_flight for operation in operations)
    over.set()
    submitter.result()


@pytest.mark.usefixtures("slow_machine")
def test_what_the_kernel_does_to_a_file_is_waited_for_by_a_thread(
    port: unio.Port, make_pair: Any, tmp_path: Path
) -> None:
    size = 1 << 25
    with unio.open(tmp_path / "file", "w+b") as file:
        stored = port.associate(file)
        writes = [unio.Write(stored, bytes(size), size * number) for number in range(4)]
        receive = unio.Recv(port.associate(make_pair()[0]), bytearray(8))
        for operation in (*writes, receive):
            port.submit(operation)
        port.close()
        assert not receive.in_flight
        until(lambda: not drains())
        assert not any(write.in_flight for write in writes)


def test_a_port_that_is_closed_while_another_thread_waits_in_its_ring(port: unio.Port, make_pair: Any) -> None:
    operation = unio.Recv(port.associate(make_pair()[0]), bytearray(8))
    waiting = Background(port.wait, None)
    port.submit(operation)
    port.close()
    with pytest.raises(unio.PortClosed):
        waiting.result()


def test_a_forked_child_lets_its_copy_go_and_the_parents_goes_on(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    operation = unio.Recv(port.associate(near), bytearray(8))
    port.submit(operation)

    def child() -> None:
        with pytest.raises(RuntimeError):
            port.submit(unio.Timer(0))
        port.close()
        with unio.Port(backend="io_uring") as own:
            own.post("the child's own")
            assert completion(own).key == "the child's own"

    in_child(child)
    far.send(b"data")
    assert completion(port)[1:] == (operation, 4, None)


def test_a_sender_whose_peer_has_ended_its_side_waits_without_spinning(port: unio.Port, make_pair: Any) -> None:
    """The kernel reports the end of the peer's side at each poll, asked for or not."""
    near, far = make_pair(local=True)
    handle = port.associate(near)
    far.shutdown(socket.SHUT_WR)
    received = unio.Recv(handle, bytearray(8))
    port.submit(received)
    assert completion(port).transferred == 0
    size = 1 << 22
    sent = unio.Send(handle, bytes(size))
    port.submit(sent)
    before = time.thread_time()
    assert port.wait(0.2) == []
    assert time.thread_time() - before < 0.02
    reader = Background(recv_exactly, far, size)
    assert completion(port)[1:] == (sent, size, None)
    assert reader.result() == bytes(size)


def test_thousands_of_receives_that_wait_take_little_memory(port: unio.Port, resources: contextlib.ExitStack) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(500, soft // 4)
    operations = []
    for _ in range(count):
        near, far = map(resources.enter_context, tcp_pair())
        operations.append((unio.Recv(port.associate(near), bytearray(8)), far))
    for operation, _ in operations:
        port.submit(operation)
    for _, far in operations:
        far.close()
    assert [each.transferred for each in completions(port, count)] == [0] * count


def test_a_connection_closed_behind_the_ports_back_ends_for_its_peer(port: unio.Port, make_pair: Any) -> None:
    """A request keeps the connection open until the port has noticed, which it does when it waits."""
    near, far = make_pair()
    operation = unio.Recv(port.associate(near), bytearray(8))
    port.submit(operation)
    near.close()
    found = completion(port)
    assert found.operation is operation
    assert_cancelled(found)
    assert recv_to_end(far) == b""


def keeping_an_error(resources: contextlib.ExitStack) -> socket.socket:
    """A socket that polls find readable and writable for ever, as it keeps an error for who asks for it."""
    sock = resources.enter_context(datagram_socket())
    sock.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
    with datagram_socket() as gone:
        nobody = gone.getsockname()
    sock.sendto(b"x", nobody)
    until(lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED)
    return sock


@pytest.mark.parametrize("what", ["data", "cancel", "close"])
def test_nothing_is_lost_that_comes_amid_an_attempt_beside_a_poll_that_goes_on(
    port: unio.Port, resources: contextlib.ExitStack, what: str
) -> None:
    """A thread that tries what waits is stopped before each of its lines, and something else happens then."""
    far = resources.enter_context(datagram_socket())

    def change(recv: unio.RecvFrom, near: socket.socket) -> None:
        if what == "data":
            far.sendto(b"data", near.getsockname())
            port.start_gathered()
        elif what == "cancel":
            port.cancel(recv)
        else:
            recv.handle.close()

    reached = True
    for line in itertools.count(1):
        near = keeping_an_error(resources)
        recv = unio.RecvFrom(port.associate(near), bytearray(8))
        port.submit(recv)
        assert_nothing_comes(port, 0.02)
        far.sendto(b"stolen", near.getsockname())
        assert near.recv(8) == b"stolen"
        first = Stepped(line, port.wait, 0)
        reached = first.reached()
        second = Background(change, recv, near)
        second.join(0.003)  # a lock that the first one holds may keep it
        first.go()
        [found] = first.result() or completions(port, 1)
        second.result()
        if what == "data":
            assert found == (None, recv, 4, None)
        else:
            assert_cancelled(found)
        recv.handle.close()
        if not reached:
            break

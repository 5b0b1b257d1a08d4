"""Where emulations of completion over readiness have gone wrong before.

Each test says in its docstring what went wrong elsewhere. What only another kernel can get wrong is tested with that
kernel's backend; the other failures are everybody's to avoid, and are tested here over every backend. A listener that
runs out of descriptors is tested with the accepts.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import channels
import pytest
import support
from platforms import needs_af_unix
from wine import wine_row

import unio

MIB = 1 << 20

READABLE, WRITABLE = unio.Readiness.READABLE, unio.Readiness.WRITABLE

try:
    import resource

    RUSAGE_THREAD = resource.RUSAGE_THREAD
except (ImportError, AttributeError):
    RUSAGE_THREAD = None

posix_only = pytest.mark.skipif(os.name != "posix", reason="descriptor numbers are reused and duplicated on POSIX")


# Identity


@posix_only
@pytest.mark.clause("A3", "X3")
@pytest.mark.parametrize("through", ["the handle", "the object"])
def test_a_number_that_is_reused_within_a_batch_gets_nothing_of_its_predecessor(
    port: unio.Port, resources: contextlib.ExitStack, through: Any
) -> None:
    """The events of one call were kept by number: after a close in the middle they went to whoever came next."""
    pairs = [support.local_pair() for _ in range(10)]
    handles = []
    for number, (near, far) in enumerate(pairs):
        resources.enter_context(near)
        resources.enter_context(far)
        handles.append(port.associate(near, number))
        port.submit(unio.Recv(handles[-1], bytearray(10)))
    for _, far in pairs:
        far.send(b"old")
    [first] = port.wait(support.PATIENCE, limit=1)
    for old, (near, _) in zip(handles, pairs, strict=True):
        if old.key == first.key:
            continue
        number = near.fileno()
        old.close() if through == "the handle" else near.close()
        successor, _ = support.reuse(number, resources)
        port.submit(unio.Recv(port.associate(successor, "new"), bytearray(10)))
    found = support.completions(port, 9)
    assert sorted(completion.key for completion in found) == sorted(set(range(10)) - {first.key})
    assert all(completion.transferred == 3 or type(completion.error) is unio.Cancelled for completion in found)
    assert port.wait(0.02) == []


@posix_only
@pytest.mark.clause("A3")
@pytest.mark.parametrize("through", ["the handle", "the object"])
@pytest.mark.parametrize("transport", ["tcp", "local", "pipe"])
def test_a_duplicate_never_keeps_a_closed_handle_firing(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, through: Any
) -> None:
    """The kernel watches the open file and not its number: with a duplicate alive, events went on for ever."""
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    recv = unio.Recv(handle, bytearray(10))
    port.submit(recv)
    resources.callback(os.close, os.dup(near.fileno()))
    handle.close() if through == "the handle" else near.close()
    support.assert_cancelled(support.completion(port))
    for _ in range(5):
        far.send(b"data")
        assert port.wait(0.01) == []
    channels.assert_sleeps(port)
    far.close()
    channels.assert_sleeps(port)


@pytest.mark.clause("A3", "X3", "L2")
@pytest.mark.skipif(RUSAGE_THREAD is None, reason="the system does not count how often a thread sleeps")
@pytest.mark.parametrize("through", ["the handle", "the object"])
def test_what_a_duplicate_receives_does_not_wake_the_port_again_and_again(
    port: unio.Port, resources: contextlib.ExitStack, through: str
) -> None:
    """Each byte for the duplicate woke the loop that had closed its own descriptor long before."""
    near, far = support.local_pair()
    resources.enter_context(far)
    handle = port.associate(near)
    duplicate = resources.enter_context(near.dup())
    handle.close() if through == "the handle" else near.close()

    def wait() -> int:
        before = resource.getrusage(RUSAGE_THREAD).ru_nvcsw
        assert [completion.key for completion in port.wait(support.PATIENCE)] == ["done"]
        return resource.getrusage(RUSAGE_THREAD).ru_nvcsw - before

    waiter = support.Background(wait)
    support.inside_wait(waiter)
    for _ in range(300):
        far.send(b"x")
        assert duplicate.recv(10) == b"x"
        time.sleep(0.0005)  # so that a thread that is woken has the time to sleep again
    port.post("done")
    assert waiter.result() < 100


@posix_only
@pytest.mark.clause("A3", "X3")
def test_operations_in_flight_keep_no_duplicate_of_the_descriptor(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    """One duplicate for each operation used up the descriptors, and a closed handle's peer stayed connected."""
    near, far = channels.incoming(resources, "tcp")
    handle = port.associate(near)
    before = len(support.open_descriptors())
    operations = [unio.Recv(handle, bytearray(10)), unio.Poll(handle, READABLE), unio.Send(handle, bytes(16 * MIB))]
    for operation in operations:
        port.submit(operation)
    assert len(support.open_descriptors()) == before
    handle.close()
    found = support.completions(port, 3)
    assert [completion.operation for completion in found] == operations
    assert {type(completion.error) for completion in found} == {unio.Cancelled}
    assert len(far.recv_to_end()) == found[2].transferred  # the peer sees the end


@pytest.mark.clause("S1")
@channels.every_pollable
def test_what_has_ended_is_never_completed_by_a_later_event(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    """An operation that had been cancelled was found again by the event that came after, and was completed twice."""
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    ended = [unio.Recv(handle, bytearray(10)), unio.Poll(handle, READABLE), unio.Recv(handle, bytearray())]
    for operation in ended:
        port.submit(operation)
    assert handle.cancel() == 3
    for completion in support.completions(port, 3):
        support.assert_cancelled(completion)
    far.send(b"data")
    far.close()
    assert port.wait(0.01) == []
    assert not any(operation.in_flight for operation in ended)
    assert channels.receive_all(port, handle) == b"data"


# Hang-ups and errors


@pytest.mark.clause("O4", "O14")
@channels.every_socket
def test_the_end_of_what_the_peer_sends_does_not_end_what_it_receives(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    """A half-close was taken for a hang-up: writes were tried again and again, or were given up."""
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    far.end.shutdown(socket.SHUT_WR)
    data = channels.pattern(8 * MIB)
    send = unio.Send(handle, data)
    port.submit(send)
    channels.assert_sleeps(port)
    drained = channels.drain(port, far, 1)
    assert drained.completions == [(None, send, len(data), None)]
    near.close()
    assert bytes(drained.data) + far.recv_to_end() == data


@pytest.mark.clause("O14")
@needs_af_unix
def test_a_full_socket_whose_peer_has_ended_its_side_is_not_writable(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    """A half-close was taken for a hang-up, which counts as writable."""
    near, far = channels.outgoing(resources, "local")
    handle = port.associate(near)
    far.end.shutdown(socket.SHUT_WR)
    filled = channels.fill_descriptor(near)
    poll = unio.Poll(handle, WRITABLE)
    port.submit(poll)
    channels.assert_sleeps(port)
    assert channels.take(far, filled) == bytes(filled)
    assert support.completion(port) == (None, poll, 0, None)


HANG_UPS = {
    "never connected": lambda near, far: None,
    "reset": lambda near, far: far.reset(),
    "ended": lambda near, far: far.close(),
    "half-closed by both": lambda near, far: (near.shutdown(socket.SHUT_WR), far.end.shutdown(socket.SHUT_WR)),
    "local": lambda near, far: far.close(),
    "pipe": lambda near, far: far.close(),
}


@pytest.mark.clause("L2")
@pytest.mark.parametrize("kind", HANG_UPS)
@pytest.mark.parametrize("joined", ["before", "after"])
def test_a_hang_up_that_concerns_no_operation_lets_the_port_sleep(
    port: unio.Port, resources: contextlib.ExitStack, kind: str, joined: str
) -> None:
    """Hang-ups and errors are reported whether they were asked for or not, and kept the program spinning."""
    near, far = channels.outgoing(resources, kind if kind in channels.TRANSPORTS else "tcp")
    if kind == "never connected":
        near = channels.client(resources, "tcp")
    if joined == "before":
        port.associate(near)
    HANG_UPS[kind](near, far)
    if joined == "after":
        port.associate(near)
    assert port.wait(0) == []
    channels.assert_sleeps(port)


@pytest.mark.clause("L2")
@pytest.mark.parametrize("kind", support.PENDING)
def test_an_operation_that_pends_lets_the_port_sleep(
    port: unio.Port, resources: contextlib.ExitStack, tmp_path: Path, kind: str
) -> None:
    """What could not be done yet was tried again and again, or made the events that led to its own next try."""
    operation = support.pending(kind, port, resources, tmp_path)
    port.submit(operation)
    assert port.wait(0.02) == []
    channels.assert_sleeps(port)
    assert operation.in_flight


@pytest.mark.clause("O3")
@channels.every_stream
def test_the_end_of_the_stream_never_overtakes_the_data_before_it(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    """The end was reported together with the last data, and the data was thrown away."""
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    data = channels.pattern(50_000)
    buffer = bytearray(999)
    recv = unio.Recv(handle, buffer)
    port.submit(recv)
    support.assert_idle(port)
    peer = support.Background(lambda: (far.send(data), far.close()))
    received = bytearray()
    while count := support.completion(port).transferred:
        received += buffer[:count]
        port.submit(recv)
    peer.result()
    assert received == data


@pytest.mark.clause("O10", "O3", "O14")
@pytest.mark.parametrize("waiting", ["receive", "poll"])
@channels.every_socket
def test_the_end_of_what_is_sent_here_is_not_taken_for_the_end_of_what_is_received(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, waiting: str
) -> None:
    """The event of one's own half-close was read as the peer's."""
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    operation = unio.Recv(handle, bytearray(10)) if waiting == "receive" else unio.Poll(handle, READABLE)
    port.submit(operation)
    support.succeed(port, unio.Shutdown(handle))
    channels.assert_sleeps(port)
    far.send(b"data")
    assert support.completion(port) == (None, operation, 4 if waiting == "receive" else 0, None)


@pytest.mark.clause("O3", "C2")
@pytest.mark.parametrize("pending", [pytest.param(False, marks=wine_row("receive-after-reset")), True])
def test_a_reset_and_an_end_are_told_apart(port: unio.Port, resources: contextlib.ExitStack, pending: bool) -> None:
    """Both were reported as 0 bytes, so that a broken transfer looked like a finished one."""
    for leave, expected in (("close", type(None)), ("reset", ConnectionResetError)):
        near, far = channels.incoming(resources, "tcp")
        recv = unio.Recv(port.associate(near), bytearray(10))
        if pending:
            port.submit(recv)
            support.assert_idle(port)
        getattr(far, leave)()
        if not pending:
            port.wait(0)
            port.submit(recv)
        completion = support.completion(port)
        assert (completion.transferred, type(completion.error)) == (0, expected)


# Connecting


@pytest.mark.clause("O2")
@pytest.mark.parametrize("joined", ["long before", "just before"])
def test_an_event_from_before_is_never_taken_for_a_connection(
    port: unio.Port, resources: contextlib.ExitStack, joined: str
) -> None:
    """A socket reports that it is writable before it connects at all, and that was read as success."""
    full = support.full_listener(resources)
    client = channels.client(resources, "tcp")
    handle = port.associate(client)
    if joined == "long before":
        assert port.wait(0.01) == []  # whatever events there are have been fetched
    connect = unio.Connect(handle, full)
    port.submit(connect)
    assert port.wait(0.1) == []
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is looked at below
        client.getpeername()
    assert caught.value.errno == errno.ENOTCONN
    assert port.cancel(connect)
    support.assert_cancelled(support.completion(port))


@pytest.mark.clause("O2", "C2")
@pytest.mark.parametrize("company", ["alone", "with a poll"])
def test_a_refusal_always_reaches_the_connect(port: unio.Port, resources: contextlib.ExitStack, company: Any) -> None:
    """The system tells an error once, and whoever looked first left the connect with a success or nothing at all."""
    bound = channels.client(resources, "tcp")
    bound.bind(("127.0.0.1", 0))
    for number in range(50):
        client = channels.client(resources, "tcp")
        handle = port.associate(client, number)
        if company == "with a poll":
            port.submit(unio.Poll(handle, READABLE))
        connect = unio.Connect(handle, bound.getsockname())
        port.submit(connect)
        found = support.completions(port, 2 if company == "with a poll" else 1)
        [error] = [completion.error for completion in found if completion.operation is connect]
        assert type(error) is ConnectionRefusedError
        handle.close()


# Cancelling


@pytest.mark.clause("X1", "S1")
def test_a_cancel_that_races_an_immediate_completion_leaves_one_completion(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    """A cancel found an operation that was completing in its own submit, and it ended twice or not at all."""
    near, far = channels.incoming(resources, channels.NEAR_BY)
    handle = port.associate(near)
    recv = unio.Recv(handle, bytearray(1))
    done = threading.Event()

    def cancel():
        while not done.is_set():
            port.cancel(recv)

    with contextlib.ExitStack() as stack:
        canceller = support.Background(cancel)
        stack.callback(canceller.result)
        stack.callback(done.set)
        received = 0
        for _ in range(3000):
            far.send(b"x")
            port.submit(recv)
            completion = support.completion(port)
            assert completion.operation is recv
            if completion.error is None:
                assert completion.transferred == 1
                received += 1
            else:
                support.assert_cancelled(completion)
                assert completion.transferred == 0
    support.assert_idle(port)
    rest = 0
    near.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            rest += len(near.recv(100_000))
    assert received + rest == 3000


@pytest.mark.clause("X4")
@channels.every_stream
def test_a_cancel_that_comes_too_late_is_forgotten(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    """A mark that the cancel had left behind ended the next operation."""
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    recv = unio.Recv(handle, bytearray(1))
    for _ in range(20):
        far.send(b"x")
        port.submit(recv)
        port.cancel(recv)  # it has its result already
        assert support.completion(port) == (None, recv, 1, None)
        assert not port.cancel(recv)
        assert handle.cancel() == 0
        port.submit(recv)
        support.assert_idle(port)
        far.send(b"y")
        assert support.completion(port) == (None, recv, 1, None)


@pytest.mark.clause("X1", "O1")
def test_a_connection_is_never_lost_to_the_cancel_of_its_accept(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    """An accept that won against its cancel was reported as cancelled, and its socket was leaked."""
    listening = channels.listener(resources, "tcp", 500)
    accept = unio.Accept(port.associate(listening))
    rounds = 300

    def connect():
        for _ in range(rounds):
            support.connect(listening).close()

    peer = support.Background(connect)
    accepted = 0
    while accepted < rounds:
        port.submit(accept)
        port.cancel(accept)
        completion = support.completion(port)
        if completion.error is None:
            accept.socket.close()
            accepted += 1
        else:
            support.assert_cancelled(completion)
    peer.result()
    port.submit(accept)
    support.assert_idle(port)


@pytest.mark.clause("S5")
def test_what_is_in_flight_outlives_the_interest_of_its_caller(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    """The caller dropped operation and buffer, and the system wrote into memory that was another's by then."""
    near, far = channels.incoming(resources, "tcp")
    handle = port.associate(near)
    for number in range(100):
        port.submit(unio.Recv(handle, bytearray(8), state=number))
    gc.collect()
    far.send(b"12345678" * 100)
    found = support.completions(port, 100)
    assert [completion.operation.state for completion in found] == list(range(100))
    assert {bytes(completion.operation.buffer) for completion in found} == {b"12345678"}


@pytest.mark.clause("X2", "S1")
def test_cancelling_among_thousands_of_operations_ends_each_once(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    """Cancels looked through all that was in flight, and some were missed or met twice."""
    near, _ = channels.incoming(resources, "tcp")
    handle = port.associate(near)
    receives = [unio.Recv(handle, bytearray(1), state=number) for number in range(5000)]
    for recv in receives:
        port.submit(recv)
    single = receives[::2]
    assert all(port.cancel(recv) for recv in single)
    assert handle.cancel() == 2500
    found = [completion.operation for completion in support.completions(port, 5000)]
    assert found[:2500] == single
    assert found[2500:] == receives[1::2]
    support.assert_idle(port)


# Waking up


@pytest.mark.clause("P2", "P8")
def test_no_wake_up_is_ever_missed(make_port: Any) -> None:
    """A wake-up that came just before the sleep, or a second one right after the first, was swallowed."""
    here, there = make_port(), make_port()
    rounds = 3000

    def answer():
        for number in range(rounds):
            assert support.completion(there).key == number
            here.post(number)

    other = support.Background(answer)
    for number in range(rounds):
        there.post(number)
        assert support.completion(here).key == number
    other.result()


@pytest.mark.clause("P2", "S1")
def test_one_packet_is_given_to_one_of_many_threads(port: unio.Port, resources: contextlib.ExitStack) -> None:
    """One event woke every thread that waited, and more than one of them took it."""
    near, far = channels.incoming(resources, "tcp")
    handle = port.associate(near, "data")
    seen = []

    def wait(number):
        while (completion := support.completion(port)).key != "exit":
            seen.append(completion.key)
            if completion.key == "data":
                port.submit(completion.operation)
                far.send(b"x") if len(seen) < 1000 else port.post("done")

    threads = [support.Background(wait, number) for number in range(8)]
    port.submit(unio.Recv(handle, bytearray(1)))
    far.send(b"x")
    support.until(lambda: "done" in seen)
    for _ in threads:
        port.post("exit")
    for thread in threads:
        thread.result()
    assert seen.count("done") == 1
    assert seen.count("data") == len(seen) - 1 == 1000


@pytest.mark.clause("P8")
def test_posts_that_nobody_takes_never_block(port: unio.Port) -> None:
    """The pipe that woke the waiting thread was full, and the post blocked or was lost."""
    for number in range(100_000):
        port.post(number)
    found = []
    while len(found) < 100_000:
        found += [completion.key for completion in port.wait(support.PATIENCE, limit=10_000)]
    assert found == list(range(100_000))


@pytest.mark.clause("P7", "P2")
def test_closing_the_port_amid_all_its_work_blocks_nobody(
    make_port: Any, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    """The close waited for threads that waited for the close."""
    path = tmp_path / "file"
    path.write_bytes(bytes(MIB))
    for _ in range(10):
        port = make_port()
        near, far = support.local_pair()
        with near, far, unio.open(path) as file:
            stream, stored = port.associate(near), port.associate(file)

            def work(number, port=port, stream=stream, stored=stored):
                while True:
                    operation = [
                        unio.Recv(stream, bytearray(1)),
                        unio.Read(stored, bytearray(1000), 0),
                        unio.Timer(0.0001),
                    ][number % 3]
                    port.submit(operation, 1)
                    port.post(number)
                    if number % 2:
                        port.cancel(operation)
                    port.wait(support.PATIENCE)

            threads = [support.Background(work, number) for number in range(6)]
            for _ in range(20):
                far.send(b"xxxxxxxx")
                port.post("more")
            port.close()
            for thread in threads:
                with pytest.raises(unio.PortClosed):
                    thread.result()


@pytest.mark.clause("S1", "P1")
def test_thousands_of_results_that_nobody_takes_are_all_kept(port: unio.Port, resources: contextlib.ExitStack) -> None:
    """The kernel's queue of results had a size, and what came on top was dropped."""
    near, far = channels.incoming(resources, channels.NEAR_BY)
    handle = port.associate(near, "data")
    for _ in range(10_000):
        far.send(b"x")
        for operation in (unio.Timer(0, "timer"), unio.Recv(handle, bytearray(1))):
            port.submit(operation)
        port.post("post")
    keys = [completion.key for completion in support.completions(port, 30_000)]
    assert [keys.count(key) for key in ("timer", "data", "post")] == [10_000] * 3
    support.assert_idle(port)


# Resources and fairness

EXHAUSTED = """
import errno, json, os, resource, socket, subprocess, sys, tempfile
import unio

port = unio.Port(backend=sys.argv[1])
near, far = socket.socketpair()
handle = port.associate(near)
file = tempfile.TemporaryFile()
child = subprocess.Popen([sys.executable, "-S", "-E", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
hoard = []
try:
    while True:
        hoard.append(os.open(os.devnull, os.O_RDONLY))
except OSError as error:
    assert error.errno == errno.EMFILE, error

def exhausted(call):
    try:
        return call() is None and "nothing"
    except OSError as error:
        return errno.errorcode[error.errno]

results = [exhausted(lambda: unio.Port(backend=sys.argv[1])), exhausted(unio.pipe)]
exit_ = unio.ProcessExit(child)
port.submit(exit_)
[completion] = port.wait(30)
results.append(completion.error and errno.errorcode[completion.error.errno])
port.submit(unio.Recv(handle, bytearray(4)))
port.submit(unio.Send(handle, b"pong"))
far.send(b"ping")
port.submit(unio.Timer(0.01))
found = []
while len(found) < 3:
    found += port.wait(30)
results.append([str(completion.error) for completion in found if completion.error])
try:  # a file may need a descriptor of the port's own; if there is none, it can still join later
    stored = port.associate(file)
except OSError as error:
    assert error.errno == errno.EMFILE, error
    stored = None
for number in hoard:
    os.close(number)
stored = stored or port.associate(file)
port.submit(unio.Write(stored, b"data", 0))
child.stdin.close()
port.submit(exit_)
found = []
while len(found) < 2:
    found += port.wait(30)
results.append([str(completion.error) for completion in found if completion.error])
print(json.dumps([*results, exit_.status]))
child.wait()
with unio.Port(backend=sys.argv[1]):
    pass
port.close()
for each in (near, far, file):
    each.close()
"""


@pytest.mark.clause("C2", "L4")
def test_a_lack_of_descriptors_fails_what_needs_one_and_nothing_else(backend: str) -> None:
    """Running out of descriptors broke what had its descriptors already, or left operations that never ended."""
    pytest.importorskip("resource")
    results = json.loads(channels.run_script(EXHAUSTED, backend))
    assert results == ["EMFILE", "EMFILE", "EMFILE", [], [], 0]


@pytest.mark.clause("L1")
@pytest.mark.parametrize("busy", ["receives", "sends"])
def test_a_handle_that_is_always_ready_leaves_the_others_their_turn(
    port: unio.Port, resources: contextlib.ExitStack, busy: Any
) -> None:
    """Trying again for as long as it works kept the loop at one connection for ever."""
    near, far = support.local_pair()
    resources.enter_context(near)
    resources.enter_context(far)
    handle = port.associate(near, "busy")
    ended = threading.Event()

    def peer():
        with contextlib.suppress(OSError):
            while not ended.is_set():
                far.send(bytes(100)) if busy == "receives" else far.recv(1 << 16)

    other_near, other_far = support.local_pair()
    resources.enter_context(other_near)
    resources.enter_context(other_far)
    other = port.associate(other_near, "other")
    operations = [
        unio.Recv(handle, bytearray(100)) if busy == "receives" else unio.Send(handle, bytes(100)) for _ in range(50)
    ]
    for operation in operations:
        port.submit(operation)
    thread = support.Background(peer)
    try:
        for _ in range(20):
            port.submit(unio.Recv(other, bytearray(1)))
            port.submit(unio.Timer(0, "timer"))
            other_far.send(b"x")
            waiting, counted = {"other", "timer"}, 0
            while waiting:
                for key, operation, _, error in port.wait(support.PATIENCE):
                    assert error is None
                    if key == "busy":
                        counted += 1
                        port.submit(operation)
                    else:
                        waiting.remove(key)
                assert counted < 5000
    finally:
        ended.set()
        near.close()
        thread.result()


@pytest.mark.clause("L1", "O3")
def test_a_long_row_of_operations_on_one_handle_leaves_the_others_their_turn(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    """All operations of a handle for which there was data were done before anybody else's."""
    near, far = channels.incoming(resources, channels.NEAR_BY)
    handle, data = port.associate(near, "row"), bytes(50_000)
    other_near, other_far = channels.incoming(resources, channels.NEAR_BY)
    other = port.associate(other_near, "other")
    for _ in range(5000):
        port.submit(unio.Recv(handle, bytearray(10)))
    port.submit(unio.Recv(other, bytearray(10)))
    support.assert_idle(port)
    far.send(data)
    other_far.send(b"x")
    keys = [completion.key for completion in support.completions(port, 5001)]
    assert keys.index("other") < 2500


@pytest.mark.clause("O8", "A2")
def test_a_regular_file_joins_although_nothing_can_poll_it(
    port: unio.Port, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    """The kernel refuses to watch regular files, or calls them always ready."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    handle = port.associate(resources.enter_context(unio.open(path)))
    read = unio.Read(handle, bytearray(10), 0)
    assert support.run(port, read) == (None, read, 7, None)
    channels.assert_sleeps(port)
    with Path(os.devnull).open("rb") as null, pytest.raises(unio.AssociationError):
        port.associate(null)
    with pytest.raises(TypeError, match="ready"):
        unio.Poll(handle, READABLE)


FORKED = """
import os, socket, sys, warnings
import unio

port = unio.Port(backend=sys.argv[1])
near, far = socket.socketpair()
handle = port.associate(near, "kept")
recv = unio.Recv(handle, bytearray(10))
port.submit(recv)
for _ in range(3):
    child = os.fork()
    if child == 0:
        # All that a child may do to what it has inherited: close it, drop it, make descriptors of the same numbers.
        handle.close()
        near.close()
        far.close()
        port.close()
        spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
        with unio.Port(backend=sys.argv[1]) as own:
            own.post("child")
            own.wait(30)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert port.wait(0.01) == []
    far.send(b"hello")
    [completion] = port.wait(30)
    assert completion == ("kept", recv, 5, None), completion
    port.submit(recv)
port.close()
near.close()
far.close()
"""


@pytest.mark.clause("P10")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_never_takes_the_handles_of_its_parent_away(backend: str) -> None:
    """The child shares the parent's set of descriptors, and closing its own copies changed the parent's."""
    channels.run_script(FORKED, backend)


@pytest.mark.clause("L4", "P6")
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signal can be sent to one thread")
def test_signals_neither_break_a_wait_nor_reach_an_operation(
    port: unio.Port, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    """A signal interrupted the wait, which failed or returned early, or an operation, which failed."""
    handled = []
    resources.callback(signal.signal, signal.SIGUSR1, signal.signal(signal.SIGUSR1, lambda *_: handled.append(1)))
    ended = threading.Event()
    main = threading.get_ident()

    def disturb():
        while not ended.wait(0.0005):
            signal.pthread_kill(main, signal.SIGUSR1)

    near, far = channels.incoming(resources, "tcp")
    (tmp_path / "file").write_bytes(bytes(MIB))
    file = port.associate(resources.enter_context(unio.open(tmp_path / "file")))
    handle = port.associate(near)
    disturber = support.Background(disturb)
    try:
        for _ in range(100):
            recv, read = unio.Recv(handle, bytearray(1)), unio.Read(file, bytearray(MIB), 0)
            for operation in (recv, read, unio.Timer(0.001), unio.Send(handle, b"x")):
                port.submit(operation)
            far.send(b"x")
            assert {completion.error for completion in support.completions(port, 4)} == {None}
            assert (recv.transferred, read.transferred) == (1, MIB)
        start = time.monotonic()
        assert port.wait(0.1) == []
        assert time.monotonic() >= start + 0.1
    finally:
        ended.set()
        disturber.result()
    assert handled


# What went wrong on other kernels, and is the same promise here


@pytest.mark.clause("S4", "S1")
@channels.every_stream
def test_success_at_once_is_told_once_whether_it_is_skipped_or_queued(
    port: unio.Port, resources: contextlib.ExitStack, transport: str
) -> None:
    """Which of the two a handle had been set to was assumed and not known, and results came twice or never."""
    for skip in (True, False):
        near, far = channels.incoming(resources, transport)
        handle = port.associate(near, skip, skip_on_success=skip)
        recv = unio.Recv(handle, bytearray(1))
        told = 0
        for number in range(40):
            early = number % 2 == 0
            if early:
                far.send(b"x")
            if port.submit(recv):
                assert skip
                assert early
                assert not recv.in_flight
                assert (recv.transferred, recv.error) == (1, None)
                told += 1
                support.assert_idle(port)
                continue
            if not early:
                far.send(b"x")
            assert support.completion(port) == (skip, recv, 1, None)
            told += 1
        assert told == 40
        support.assert_idle(port)
        handle.close()


@pytest.mark.clause("O1")
def test_a_listener_outlives_peers_that_are_gone_before_they_are_accepted(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    """An accept failed because its peer had reset the connection, and the server closed its listener for good."""
    listening = channels.listener(resources, "tcp", 200)
    handle = port.associate(listening)
    staying = set()
    for number in range(90):
        client = support.connect(listening)
        if number % 3 == 0:
            support.reset(client)
        elif number % 3 == 1:
            client.close()
        else:
            staying.add(resources.enter_context(client).getsockname())
    accepts = [unio.Accept(handle) for _ in range(90)]
    for accept in accepts:
        port.submit(accept)
    while staying:  # those that were reset may be accepted, or passed over
        completion = support.completion(port)
        assert completion.error is None
        staying.discard(completion.operation.address)
        completion.operation.socket.close()


@pytest.mark.clause("O7")
def test_a_datagram_socket_outlives_peers_that_are_gone(port: unio.Port, resources: contextlib.ExitStack) -> None:
    """The system's word that nobody listens there came out of a later receive, and the server stopped receiving."""
    near, far, gone = (resources.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(3))
    for sock in (near, far, gone):
        sock.bind(("127.0.0.1", 0))
    gone.connect(far.getsockname())  # so that it takes nothing from anybody else
    handle = port.associate(near)
    recv = unio.RecvFrom(handle, bytearray(10))
    port.submit(recv)
    for _ in range(50):
        support.succeed(port, unio.SendTo(handle, b"x", gone.getsockname()))
    support.assert_idle(port)
    far.sendto(b"hello", near.getsockname())
    assert support.completion(port) == (None, recv, 5, None)


@pytest.mark.clause("P6", "O11")
@pytest.mark.parametrize("seconds", [0.0001, 0.0004, 0.001, 0.0011, 0.0019, 0.0051, 0.0157, 0.0301])
def test_waits_and_timers_never_end_early(port: unio.Port, seconds: Any) -> None:
    """Times were rounded down to the kernel's unit, and waits returned before their time with nothing."""
    for _ in range(5):
        start = time.monotonic()
        assert port.wait(seconds) == []
        assert time.monotonic() >= start + seconds
        start = time.monotonic()
        support.succeed(port, unio.Timer(seconds))
        assert time.monotonic() >= start + seconds


@pytest.mark.clause("P7", "S5")
def test_nothing_is_written_into_a_buffer_after_the_port_was_closed(
    make_port: Any, resources: contextlib.ExitStack
) -> None:
    """Buffers went back to their owner while the kernel could still fill them."""
    near, far = channels.incoming(resources, "tcp")
    port = make_port()
    handle = port.associate(near)
    buffers = [bytearray(b"....") for _ in range(5)]
    for buffer in buffers:
        port.submit(unio.Recv(handle, buffer))
    port.close()
    far.send(b"data")
    near.settimeout(support.PATIENCE)
    assert near.recv(10) == b"data"
    assert buffers == [b"...."] * 5


# What programs were missing


@pytest.mark.clause("O14")
def test_another_librarys_socket_is_waited_for_without_being_read(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    """There was no way to learn that a socket is ready for code that reads it by itself."""
    near, far = channels.incoming(resources, "tcp")
    poll = unio.Poll(port.associate(near), READABLE)
    for number in range(100):
        port.submit(poll)
        far.send(bytes([number]) * 3)
        assert support.completion(port) == (None, poll, 0, None)
        assert near.recv(100) == bytes([number]) * 3


@pytest.mark.clause("P2", "O3", "O4")
def test_several_threads_drain_one_port(port: unio.Port, resources: contextlib.ExitStack) -> None:
    """Only one thread could wait, so that one processor did all the work."""
    peers = []
    for number in range(20):
        near, far = support.local_pair()
        resources.enter_context(near)
        peers.append(resources.enter_context(far))
        port.submit(unio.Recv(port.associate(near, number), bytearray(1000)))

    def echo(_):
        while (completion := support.completion(port)).key != "exit":
            operation = completion.operation
            assert completion.error is None
            if isinstance(operation, unio.Recv):
                received = bytes(operation.buffer[: completion.transferred])
                port.submit(unio.Send(operation.handle, received, state=operation))
            else:
                port.submit(operation.state)

    threads = [support.Background(echo, number) for number in range(4)]
    for round_ in range(50):
        for number, peer in enumerate(peers):
            peer.send(b"%d-%d." % (round_, number))
        for number, peer in enumerate(peers):
            expected = b"%d-%d." % (round_, number)
            assert support.recv_exactly(peer, len(expected)) == expected
    for _ in threads:
        port.post("exit")
    for thread in threads:
        thread.result()


@pytest.mark.clause("A3", "O12")
@pytest.mark.skipif(os.name != "posix", reason="descriptors are inherited by number on POSIX")
def test_a_child_that_inherited_a_descriptor_neither_keeps_it_firing_nor_is_disturbed(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    """The child's copy kept the registration alive after the parent had closed its own."""
    near, far = support.local_pair()
    resources.enter_context(far)
    number = near.fileno()
    code = f"import os, sys; sys.stdin.read(); os.write(1, os.read({number}, 100))"
    child = resources.enter_context(
        subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[number],
        )
    )
    resources.callback(child.kill)
    handle = port.associate(near)
    port.submit(unio.Recv(handle, bytearray(10)))
    handle.close()
    support.assert_cancelled(support.completion(port))
    far.send(b"for the child")
    channels.assert_sleeps(port)
    successor, _ = support.reuse(number, resources)
    port.submit(unio.Recv(port.associate(successor), bytearray(10)))
    far.send(b"!")
    channels.assert_sleeps(port)
    far.setblocking(True)
    output, _ = support.Background(child.communicate).result()
    assert output.startswith(b"for the child")

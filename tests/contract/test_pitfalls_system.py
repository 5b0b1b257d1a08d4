"""Where emulations have gone wrong before, by what the system, other programs or other libraries did.

Each test says in its docstring what went wrong elsewhere. A listener that runs out of descriptors is tested with the
accepts.
"""

from __future__ import annotations

import contextlib
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

import unio

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
[completion] = port.wait(60)
results.append(completion.error and errno.errorcode[completion.error.errno])
port.submit(unio.Recv(handle, bytearray(4)))
port.submit(unio.Send(handle, b"pong"))
far.send(b"ping")
port.submit(unio.Timer(0.01))
found = []
while len(found) < 3:
    found += port.wait(60)
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
    found += port.wait(60)
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


DUPLICATE = """
import errno, json, os, resource, socket, subprocess, sys
import unio

port = unio.Port(backend=sys.argv[1])
child = subprocess.Popen([sys.executable, "-S", "-E", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
port.submit(unio.ProcessExit(child, "child"))
near, far = socket.socketpair()
other, other_far = socket.socketpair()
left = port.associate(near)
received = unio.Recv(port.associate(other), bytearray(4))
port.submit(received)
duplicate = near.dup()
near.close()
while not left.closed or port.wait(0.05):
    pass
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
hoard = []
try:
    while True:
        hoard.append(os.open(os.devnull, os.O_RDONLY))
except OSError as error:
    assert error.errno == errno.EMFILE, error

def disturb():
    found = []
    for _ in range(5):  # each is an event of the duplicate's, which no handle has any more
        far.send(b"x")
        found += port.wait(0.01)
    other_far.send(b"data")
    found += port.wait(30)
    port.submit(received)
    return [(each.operation is received, each.transferred, str(each.error)) for each in found]

results = [disturb()]
for number in hoard:
    os.close(number)
results.append(disturb())
late, late_far = socket.socketpair()
joined = port.associate(late)
port.submit(unio.Recv(joined, bytearray(4)))
late_far.send(b"late")
[completion] = port.wait(30)
results.append((completion.key, completion.transferred))
results += [disturb(), len(duplicate.recv(100))]
child.stdin.close()
[completion] = port.wait(30)
results.append((completion.key, completion.operation.status))
child.wait()
print(json.dumps(results))
port.close()
for each in (far, other, other_far, duplicate, late, late_far):
    each.close()
"""


@pytest.mark.clause("A3", "P6")
def test_events_of_a_duplicate_do_no_harm_where_there_is_no_descriptor_to_be_rid_of_them(backend: str) -> None:
    """To have the kernel forget a registration takes a new set of them, and so a descriptor; the wait raised EMFILE."""
    pytest.importorskip("resource")
    undisturbed = [[True, 4, "None"]]
    results = json.loads(channels.run_script(DUPLICATE, backend))
    assert results == [undisturbed, undisturbed, [None, 4], undisturbed, 15, ["child", 0]]


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
                for key, operation, _, error in support.batch(port):
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
    # Where the kernel itself receives what comes, it does so as it comes.
    assert keys.index("other") < 2500 or port.backend == "iocp"


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
        unio.Poll(handle, unio.Readiness.READABLE)


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
            own.wait(60)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert port.wait(0.01) == []
    far.send(b"hello")
    [completion] = port.wait(60)
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
    (tmp_path / "file").write_bytes(bytes(support.MIB))
    file = port.associate(resources.enter_context(unio.open(tmp_path / "file")))
    handle = port.associate(near)
    disturber = support.Background(disturb)
    try:
        for _ in range(100):
            recv, read = unio.Recv(handle, bytearray(1)), unio.Read(file, bytearray(support.MIB), 0)
            for operation in (recv, read, unio.Timer(0.001), unio.Send(handle, b"x")):
                port.submit(operation)
            far.send(b"x")
            assert {completion.error for completion in support.completions(port, 4)} == {None}
            assert (recv.transferred, read.transferred) == (1, support.MIB)
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
    poll = unio.Poll(port.associate(near), unio.Readiness.READABLE)
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

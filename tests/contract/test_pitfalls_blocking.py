"""Descriptors that somebody made blocking again after they had joined, and a SIGPIPE that nobody turned off.

The flag that keeps a call from waiting belongs to the open file, which a child or a duplicate has as well; a time-out
belongs to the socket object. Neither may hold up a submit, nor a wait, and with it all timers.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import channels
import pytest
import support
from platforms import needs_non_blocking_mode

import unio

pytestmark = needs_non_blocking_mode


def shared(end: channels.End, resources: contextlib.ExitStack) -> None:
    """Make it block through a duplicate, as a child that inherited it may."""
    copy = os.dup(end.fileno())
    resources.callback(os.close, copy)
    os.set_blocking(copy, True)


def without_time_out(end: channels.End, _: contextlib.ExitStack) -> None:
    assert isinstance(end, socket.socket)
    end.settimeout(None)


def with_time_out(end: channels.End, _: contextlib.ExitStack) -> None:
    """Python then waits by itself before each call."""
    assert isinstance(end, socket.socket)
    end.settimeout(3)


Block = Callable[[channels.End, contextlib.ExitStack], None]

WAYS: dict[str, Block] = {"shared": shared, "object": without_time_out, "time-out": with_time_out}

every_way = pytest.mark.parametrize("block", WAYS.values(), ids=WAYS)
every_stream_and_way = pytest.mark.parametrize(
    ("transport", "block"),
    [
        pytest.param(transport, block, id=f"{transport}-{name}")
        for transport in channels.TRANSPORTS
        for name, block in WAYS.items()
        if name == "shared" or transport in channels.SOCKETS
    ],
)


def start(port: unio.Port, operation: unio.Operation) -> None:
    support.assert_idle(port)  # so that this thread is one that waits
    port.submit(operation)
    port.start_gathered()


def assert_pends(port: unio.Port, operation: unio.Operation) -> None:
    """Submitting it returns though there is nothing for it, and the port goes on meanwhile."""
    support.Background(start, port, operation).result()
    timer = unio.Timer(0.001)
    assert support.run(port, timer) == (None, timer, 0, None)
    assert operation.in_flight


def assert_has_time_out(end: channels.End, block: Block) -> None:
    """What the program has given its object is still there."""
    if isinstance(end, socket.socket) and block is with_time_out:
        assert end.gettimeout() == 3


@pytest.mark.clause("S10", "O3")
@every_stream_and_way
@pytest.mark.parametrize("sizes", [[8], [4, 4], [0]], ids=["one", "several", "none"])
def test_a_receive_holds_nothing_up(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, block: Block, sizes: list[int]
) -> None:
    near, far = channels.incoming(resources, transport)
    handle = port.associate(near)
    for _ in range(2):
        block(near, resources)
        recv = unio.Recv(handle, [bytearray(size) for size in sizes])
        assert_pends(port, recv)
        assert port.cancel(recv)
        support.assert_cancelled(support.completion(port))
        assert_pends(port, recv)
        far.send(b"data")
        assert support.completion(port) == (None, recv, min(sum(sizes), 4), None)
        assert channels.receive_exactly(port, handle, 4 - recv.transferred) == b"data"[recv.transferred :]
    assert_has_time_out(near, block)


@pytest.mark.clause("S10", "O4")
@every_stream_and_way
@pytest.mark.parametrize("parts", [1, 2], ids=["one", "several"])
def test_a_send_holds_nothing_up(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, block: Block, parts: int
) -> None:
    near, far = channels.outgoing(resources, transport)
    handle = port.associate(near)
    block(near, resources)
    data = channels.pattern(1 << 20)
    send = unio.Send(handle, [data[: len(data) // parts], data[len(data) // parts :]][:parts])
    assert_pends(port, send)
    drained = channels.drain(port, far, 1)
    assert drained.completions == [(None, send, len(data), None)]
    assert_has_time_out(near, block)
    assert bytes(drained.data) + channels.take(far, len(data) - len(drained.data)) == data


@pytest.mark.clause("S10", "O9")
@pytest.mark.parametrize("transport", channels.SOCKETS)
@every_way
def test_sending_a_file_holds_nothing_up(
    port: unio.Port, resources: contextlib.ExitStack, tmp_path: Path, transport: str, block: Block
) -> None:
    near, far = channels.outgoing(resources, transport)
    data = channels.pattern(1 << 20)
    (tmp_path / "file").write_bytes(data)
    file = resources.enter_context(unio.open(tmp_path / "file"))
    handle = port.associate(near)
    block(near, resources)
    send = unio.SendFile(handle, file)
    assert_pends(port, send)
    drained = channels.drain(port, far, 1)
    assert drained.completions == [(None, send, len(data), None)]
    assert bytes(drained.data) + channels.take(far, len(data) - len(drained.data)) == data


@pytest.mark.clause("S10", "O1")
@channels.every_socket
@every_way
def test_an_accept_holds_nothing_up(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, block: Block
) -> None:
    listening = channels.listener(resources, transport)
    accept = unio.Accept(port.associate(listening))
    for _ in range(2):
        block(listening, resources)
        assert_pends(port, accept)
        client = channels.client(resources, transport)
        client.connect(listening.getsockname())
        assert support.completion(port) == (None, accept, 0, None)
        assert not resources.enter_context(accept.socket).getblocking()
    assert_has_time_out(listening, block)


@pytest.mark.clause("S10", "O2")
@pytest.mark.parametrize("transport", ["tcp", "local"])
@every_way
def test_a_connect_holds_nothing_up(
    port: unio.Port, resources: contextlib.ExitStack, transport: str, block: Block
) -> None:
    if transport == "tcp":
        address = support.full_listener(resources)
    else:
        listening = channels.listener(resources, "local", 0)
        address = listening.getsockname()
        for _ in range(2):
            waiting = channels.client(resources, "local")
            waiting.setblocking(False)
            waiting.connect_ex(address)
    sock = channels.client(resources, transport)
    handle = port.associate(sock)
    block(sock, resources)
    connect = unio.Connect(handle, address)
    assert_pends(port, connect)
    assert port.cancel(connect)
    support.assert_cancelled(support.completion(port))


@pytest.mark.clause("S10", "O7")
@every_way
@pytest.mark.parametrize("size", [8, 0])
def test_a_receive_of_a_datagram_holds_nothing_up(
    port: unio.Port, resources: contextlib.ExitStack, block: Block, size: int
) -> None:
    near, far = (resources.enter_context(support.datagram_socket()) for _ in range(2))
    handle = port.associate(near)
    block(near, resources)
    recv = unio.RecvFrom(handle, bytearray(size))
    assert_pends(port, recv)
    far.sendto(b"data", near.getsockname())
    assert support.completion(port) == (None, recv, min(size, 4), None)


@pytest.mark.clause("S10", "O7")
@every_way
def test_a_datagram_for_a_full_receiver_holds_nothing_up(
    port: unio.Port, resources: contextlib.ExitStack, block: Block
) -> None:
    near, far = map(resources.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
    handle = port.associate(near)
    with contextlib.suppress(BlockingIOError):
        while True:
            near.send(bytes(1000))
    block(near, resources)
    send = unio.Send(handle, b"the last")
    assert_pends(port, send)
    far.recv(1000)
    assert support.completion(port) == (None, send, 8, None)


# Signals

GONE = """
import errno, os, signal, socket, sys, tempfile, threading
from pathlib import Path
import unio
from unio.backends.engine import syscalls

backend, pipes, known = sys.argv[1:]
if pipes == "old":  # as a kernel that can't be asked for more
    syscalls.PIPES = syscalls._Pipes(None, take_no_signal=False)
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
if known == "blocked":  # and one is waiting, which is the program's own
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
    signal.pthread_kill(threading.get_ident(), signal.SIGPIPE)
masked, waiting = signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.sigpending()
folder = Path(tempfile.mkdtemp())
(folder / "file").write_bytes(bytes(1000))
port = unio.Port(backend=backend)
keep = []

def pair():
    near, far = socket.socketpair()
    far.close()
    return port.associate(near)

def tcp():
    listener = socket.create_server(("127.0.0.1", 0))
    near = socket.create_connection(listener.getsockname())
    listener.accept()[0].close()
    listener.close()
    handle = port.associate(near)
    port.submit(unio.Shutdown(handle))
    assert port.wait(30)[0].error is None
    return handle

def pipe():
    reader, writer = unio.pipe()
    reader.close()
    return port.associate(writer)

def fifo():
    os.mkfifo(folder / "fifo")
    reader = os.open(folder / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = open(folder / "fifo", "wb", buffering=0)
    os.close(reader)
    (folder / "fifo").unlink()
    return port.associate(writer)

def try_all():
    for make in (pair, tcp, pipe, fifo):
        handle = make()
        sends = [unio.Send(handle, b"data"), unio.Send(handle, [b"da", b"ta"])]
        if make in (pair, tcp):
            file = open(folder / "file", "rb")
            keep.append(file)
            sends.append(unio.SendFile(handle, file))
        for send in sends:
            port.submit(send)
            [completion] = port.wait(30)
            assert isinstance(completion.error, (BrokenPipeError, ConnectionResetError)), completion
            assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == masked
            assert signal.sigpending() == waiting
        handle.close()

try_all()
if known == "blocked":
    signal.sigwait([signal.SIGPIPE])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPIPE])
    masked, waiting = set(), set()
told = []
signal.signal(signal.SIGPIPE, lambda *_: told.append(1))
try_all()
assert not told
for file in keep:
    file.close()
port.close()
print("alive")
"""


@pytest.mark.clause("C2", "O4", "O9", "O12")
@pytest.mark.parametrize("pipes", ["of this kernel", "old"])
@pytest.mark.parametrize("signals", ["free", "blocked"])
def test_a_peer_that_is_gone_is_an_error_and_no_signal(backend: str, pipes: str, signals: str) -> None:
    """A program that had SIGPIPE at its default, as for its children or a pager, was ended by it."""
    assert channels.run_script(GONE, backend, pipes, signals) == "alive\n"

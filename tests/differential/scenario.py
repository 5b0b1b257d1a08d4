"""One scenario, told step by step, that gives the same trace of completions on every backend.

``python tests/differential/scenario.py --backend NAME`` prints the trace. Each step brings about one event after the
other and waits for what it leads to, so that nothing depends on time: what is submitted pends or does not, and then the
one thing happens that ends it. A line has the step, the handle's key, the operation, the number transferred, and the
error as its class and the name of its errno; what an operation found beyond that follows. Completions of one handle
stand in the order in which they came; where two handles complete in one step, no order between them is promised, and
the lines are sorted by handle.
"""

# ruff: noqa: T201 - a script speaks to whoever runs it

from __future__ import annotations

import argparse
import contextlib
import errno
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import unio

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 30.0
"""Seconds after which what a step waits for has failed to happen."""

MORE_THAN_FITS = 1 << 26
"""More bytes than a connection takes while its peer does not read."""

STEPS: dict[str, Callable[[Scene], None]] = {}


def step(function: Callable[[Scene], None]) -> Callable[[Scene], None]:
    """Make it a step of the scenario; its name is the function's."""
    STEPS[function.__name__.replace("_", "-")] = function
    return function


class Scene:
    """What one step is played with: a port of its own, and what it writes down."""

    def __init__(self, backend: str | None, name: str, resources: contextlib.ExitStack) -> None:
        self.name = name
        self.resources = resources
        self.port = resources.enter_context(unio.Port(backend=backend))
        self.trace: list[str] = []

    # Materials

    def listener(self) -> socket.socket:
        listener: socket.socket = self.resources.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        return listener

    def pair(self, *, skip: bool = False) -> tuple[unio.Handle, socket.socket]:
        """A handle called near and, blocking and with a time-out, its peer."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            far = self.resources.enter_context(socket.create_connection(listener.getsockname(), PATIENCE))
            near = self.resources.enter_context(listener.accept()[0])
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.port.associate(near, "near", skip_on_success=skip), far

    def datagram_sockets(self) -> tuple[unio.Handle, socket.socket]:
        near, far = (self.resources.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(2))
        for sock in near, far:
            sock.bind(("127.0.0.1", 0))
        far.settimeout(PATIENCE)
        return self.port.associate(near, "near"), far

    def file(self, content: bytes = b"") -> unio.Handle:
        return self.port.associate(self.opened(content), "file")

    def opened(self, content: bytes = b"") -> object:
        directory = self.resources.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        path = Path(directory) / "file"
        path.write_bytes(content)
        return self.resources.enter_context(unio.open(path, "rb+"))

    # What happens

    def submit(self, operation: unio.Operation, timeout: float | None = None) -> None:
        if self.port.submit(operation, timeout):
            self.write(operation, "skipped", operation.transferred, None)

    def pend(self, *operations: unio.Operation, timeout: float | None = None) -> None:
        """Submit what can't end yet, and see that it does not."""
        for operation in operations:
            self.submit(operation, timeout)
        self.nothing()

    def nothing(self) -> None:
        found = self.port.wait(0)
        self.trace += [f"{self.name:28} unexpected: {each!r}" for each in found]

    def end(self, count: int = 1) -> list[unio.Completion]:
        """Wait for completions and write them down."""
        found: list[unio.Completion] = []
        deadline = time.monotonic() + PATIENCE
        while len(found) < count and time.monotonic() < deadline:
            found += self.port.wait(max(0.0, deadline - time.monotonic()), limit=count - len(found))
        for each in sorted(found, key=lambda each: str(each.key)):  # stable, so that each handle keeps its order
            self.write(each.operation, str(each.key), each.transferred, each.error)
        if len(found) < count:
            self.note(f"{count - len(found)} completions did not come")
        self.nothing()
        return found

    def run(self, operation: unio.Operation, timeout: float | None = None) -> unio.Completion:
        self.submit(operation, timeout)
        found = self.end()
        return found[0] if found else unio.Completion(None, operation, 0, None)

    def write(self, operation: unio.Operation | None, where: str, transferred: int, error: OSError | None) -> None:
        what = operation.name if isinstance(operation, unio.Operation) else "post"
        ended = (
            "ok" if error is None else f"{type(error).__name__} {errno.errorcode.get(error.errno or 0, error.errno)}"
        )
        ended = ended.replace("WSAE", "E")  # Windows' Python has two names for some numbers
        self.trace.append(f"{self.name:28} {where:9} {what:12} {transferred:9} {ended}")

    def note(self, text: object) -> None:
        self.trace.append(f"{self.name:28} : {text}")


def reset(sock: socket.socket) -> None:
    """Close a socket so that its peer gets a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def exactly(sock: socket.socket, count: int) -> bytes:
    """That many bytes, or those up to the end of the stream."""
    data = bytearray()
    while len(data) < count and (chunk := sock.recv(count - len(data))):
        data += chunk
    return bytes(data)


# Connections


@step
def connect(scene: Scene) -> None:
    listener = scene.listener()
    sock = scene.resources.enter_context(socket.socket())
    handle = scene.port.associate(sock, "near")
    scene.run(unio.Connect(handle, listener.getsockname()))
    scene.note(f"the peer is the listener: {sock.getpeername() == listener.getsockname()}")


@step
def connect_refused(scene: Scene) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening
        sock = scene.resources.enter_context(socket.socket())
        scene.run(unio.Connect(scene.port.associate(sock, "near"), nobody.getsockname()))


@step
def accept(scene: Scene) -> None:
    listener = scene.listener()
    operation = unio.Accept(scene.port.associate(listener, "listener"))
    scene.pend(operation)
    with socket.create_connection(listener.getsockname(), PATIENCE) as client:
        scene.end()
        scene.note(f"the address is the client's: {operation.address == client.getsockname()}")
        scene.note(f"inheritable: {operation.socket.get_inheritable()}, time-out: {operation.socket.gettimeout()}")
        operation.socket.close()


@step
def accept_again(scene: Scene) -> None:
    listener = scene.listener()
    operation = unio.Accept(scene.port.associate(listener, "listener"))
    for _ in range(3):
        with socket.create_connection(listener.getsockname(), PATIENCE):
            scene.run(operation)
            operation.socket.close()


@step
def accept_peer_left(scene: Scene) -> None:
    listener = scene.listener()
    handle = scene.port.associate(listener, "listener")
    with socket.create_connection(listener.getsockname(), PATIENCE) as client:
        client.sendall(b"bye")
    operation = unio.Accept(handle)
    scene.run(operation)
    scene.resources.enter_context(operation.socket)
    near = scene.port.associate(operation.socket, "near")
    buffer = bytearray(10)
    scene.run(unio.Recv(near, buffer))
    scene.note(bytes(buffer[:3]))
    scene.run(unio.Recv(near, buffer))


@step
def accept_cancelled(scene: Scene) -> None:
    operation = unio.Accept(scene.port.associate(scene.listener(), "listener"))
    scene.pend(operation)
    scene.note(f"cancel: {scene.port.cancel(operation)}")
    scene.end()
    scene.note(f"cancel: {scene.port.cancel(operation)}")


# Streams


@step
def echo(scene: Scene) -> None:
    near, far = scene.pair()
    buffer = bytearray(100)
    receive = unio.Recv(near, buffer)
    scene.pend(receive)
    far.sendall(b"hello")
    found = scene.end()[0]
    scene.run(unio.Send(near, buffer[: found.transferred]))
    scene.note(far.recv(100))


@step
def receive_what_is_there(scene: Scene) -> None:
    near, far = scene.pair()
    far.sendall(b"0123456789")
    scene.run(unio.Poll(near, unio.Readiness.READABLE))
    buffer = bytearray(4)
    for _ in range(3):
        found = scene.run(unio.Recv(near, buffer))
        scene.note(bytes(buffer[: found.transferred]))


@step
def receives_in_order(scene: Scene) -> None:
    near, far = scene.pair()
    buffers = [bytearray(2) for _ in range(4)]
    scene.pend(*[unio.Recv(near, buffer) for buffer in buffers])
    for index, buffer in enumerate(buffers):
        far.sendall(bytes([65 + index]) * 2)
        scene.end()
        scene.note(bytes(buffer))


@step
def sends_in_order(scene: Scene) -> None:
    near, far = scene.pair()
    for part in b"first ", b"second ", b"third":
        scene.submit(unio.Send(near, part))
    scene.end(3)
    expected = b"first second third"
    scene.note(exactly(far, len(expected)))


@step
def vectored(scene: Scene) -> None:
    near, far = scene.pair()
    scene.run(unio.Send(near, [b"ab", b"", bytearray(b"cde")]))
    scene.note(exactly(far, 5))
    buffers = [bytearray(2), bytearray(0), bytearray(5)]
    receive = unio.Recv(near, buffers)
    scene.pend(receive)
    far.sendall(b"1234")
    scene.end()
    scene.note([bytes(buffer) for buffer in buffers])


@step
def send_of_nothing(scene: Scene) -> None:
    near, _ = scene.pair()
    scene.run(unio.Send(near, b""))
    scene.run(unio.Send(near, []))


@step
def large_send(scene: Scene) -> None:
    near, far = scene.pair()
    scene.pend(unio.Send(near, bytes(MORE_THAN_FITS)))
    reader = threading.Thread(target=exactly, args=(far, MORE_THAN_FITS))
    reader.start()
    scene.end()
    reader.join(PATIENCE)
    scene.note(f"all of it was read: {not reader.is_alive()}")


@step
def zero_length_receive(scene: Scene) -> None:
    near, far = scene.pair()
    scene.pend(unio.Recv(near, bytearray()))
    far.sendall(b"data")
    scene.end()
    buffer = bytearray(10)
    scene.run(unio.Recv(near, buffer))
    scene.note(bytes(buffer[:4]))
    scene.pend(unio.Recv(near, bytearray()))
    far.close()
    scene.end()


@step
def end_of_stream(scene: Scene) -> None:
    near, far = scene.pair()
    scene.pend(unio.Recv(near, bytearray(10)))
    far.close()
    scene.end()
    scene.run(unio.Recv(near, bytearray(10)))


@step
def data_before_the_end(scene: Scene) -> None:
    near, far = scene.pair()
    far.sendall(b"last words")
    far.close()
    for _ in range(2):
        scene.run(unio.Recv(near, bytearray(100)))


@step
def half_close(scene: Scene) -> None:
    near, far = scene.pair()
    scene.submit(unio.Send(near, b"question"))
    scene.submit(unio.Shutdown(near))
    scene.end(2)
    scene.note(exactly(far, 100))
    buffer = bytearray(10)
    scene.pend(unio.Recv(near, buffer))
    far.sendall(b"answer")
    scene.end()
    scene.run(unio.Send(near, b"too late"))


@step
def half_close_by_peer(scene: Scene) -> None:
    near, far = scene.pair()
    scene.pend(unio.Recv(near, bytearray(10)))
    far.shutdown(socket.SHUT_WR)
    scene.end()
    scene.run(unio.Send(near, b"still"))
    scene.note(exactly(far, 5))


@step
def disconnect(scene: Scene) -> None:
    near, far = scene.pair()
    scene.run(unio.Send(near, b"bye"))
    scene.run(unio.Disconnect(near))
    scene.note(exactly(far, 100))
    scene.run(unio.Recv(near, bytearray(10)))


@step
def shutdown_unconnected(scene: Scene) -> None:
    sock = scene.resources.enter_context(socket.socket())
    scene.run(unio.Shutdown(scene.port.associate(sock, "near")))


@step
def reset_by_peer(scene: Scene) -> None:
    near, far = scene.pair()
    scene.pend(unio.Recv(near, bytearray(10)))
    reset(far)
    scene.end()


@step
def reset_with_receives(scene: Scene) -> None:
    near, far = scene.pair()
    receives = [unio.Recv(near, bytearray(10)) for _ in range(2)]
    scene.pend(*receives)
    far.sendall(b"x")
    scene.end()
    reset(far)
    scene.end()


@step
def reset_with_send(scene: Scene) -> None:
    near, far = scene.pair()
    sending = unio.Send(near, bytes(MORE_THAN_FITS))
    scene.pend(sending)
    reset(far)
    (found,) = scene.port.wait(PATIENCE)
    scene.note(f"in part: {0 < found.transferred < MORE_THAN_FITS}")  # how much is the system's affair
    scene.write(found.operation, "near", 0, found.error)


# Cancel and close


@step
def cancel(scene: Scene) -> None:
    near, far = scene.pair()
    receive = unio.Recv(near, bytearray(10))
    scene.pend(receive)
    scene.note(f"cancel: {scene.port.cancel(receive)}")
    scene.end()
    scene.note(f"cancel: {scene.port.cancel(receive)}")
    scene.pend(receive)
    far.sendall(b"again")
    scene.end()


@step
def cancel_one_of_many(scene: Scene) -> None:
    near, far = scene.pair()
    receives = [unio.Recv(near, bytearray(3)) for _ in range(3)]
    scene.pend(*receives)
    scene.port.cancel(receives[1])
    scene.end()
    far.sendall(b"abc")
    scene.end()
    far.sendall(b"def")
    scene.end()
    scene.note([bytes(receive.buffer) for receive in receives])


@step
def cancel_all(scene: Scene) -> None:
    near, _ = scene.pair()
    scene.pend(unio.Recv(near, bytearray(3)), unio.Recv(near, bytearray(3)))
    scene.note(f"cancel: {near.cancel()}")
    scene.end(2)
    scene.note(f"cancel: {near.cancel()}")


@step
def close_with_pending(scene: Scene) -> None:
    near, far = scene.pair()
    scene.pend(*[unio.Recv(near, bytearray(size)) for size in (1, 2, 3)])
    near.close()
    found = scene.end(3)
    scene.note([len(each.operation.buffer) for each in found])
    scene.note(exactly(far, 1))


@step
def close_idle(scene: Scene) -> None:
    near, _ = scene.pair()
    near.close()
    scene.nothing()
    try:
        scene.port.submit(unio.Recv(near, bytearray(1)))
    except unio.NotAssociated as error:
        scene.note(type(error).__name__)


@step
def close_behind(scene: Scene) -> None:
    near, _ = scene.pair()
    scene.pend(unio.Recv(near, bytearray(10)))
    assert near.socket is not None
    near.socket.close()
    scene.end()


@step
def time_out(scene: Scene) -> None:
    near, far = scene.pair()
    receive = unio.Recv(near, bytearray(10))
    scene.run(receive, timeout=0.05)
    scene.submit(receive, timeout=3600)
    far.sendall(b"in time")
    scene.end()


@step
def accept_times_out(scene: Scene) -> None:
    scene.run(unio.Accept(scene.port.associate(scene.listener(), "listener")), timeout=0.05)


# Datagrams


@step
def datagram(scene: Scene) -> None:
    near, far = scene.datagram_sockets()
    receive = unio.RecvFrom(near, bytearray(100))
    scene.pend(receive)
    far.sendto(b"hello", near.object.getsockname())  # type: ignore[union-attr]
    scene.end()
    scene.note(f"the address is the sender's: {receive.address == far.getsockname()}")
    scene.run(unio.SendTo(near, b"back", receive.address))
    scene.note(far.recv(100))


@step
def empty_datagram(scene: Scene) -> None:
    near, far = scene.datagram_sockets()
    scene.pend(unio.RecvFrom(near, bytearray(100)))
    far.sendto(b"", near.object.getsockname())  # type: ignore[union-attr]
    scene.end()
    scene.run(unio.SendTo(near, b"", far.getsockname()))
    scene.note(far.recv(100))


@step
def oversize_datagram(scene: Scene) -> None:
    near, far = scene.datagram_sockets()
    address = near.object.getsockname()  # type: ignore[union-attr]
    receive = unio.RecvFrom(near, bytearray(3))
    scene.pend(receive)
    far.sendto(b"longer", address)
    scene.end()
    scene.note(bytes(receive.buffer))
    far.sendto(b"another one", address)  # this one is there before the receive
    scene.run(unio.Poll(near, unio.Readiness.READABLE))
    scene.run(receive)
    scene.note(bytes(receive.buffer))
    far.sendto(b"fit", address)
    scene.run(receive)


@step
def datagram_too_large_to_send(scene: Scene) -> None:
    near, far = scene.datagram_sockets()
    scene.run(unio.SendTo(near, bytes(70_000), far.getsockname()))


@step
def datagram_zero_length_receive(scene: Scene) -> None:
    near, far = scene.datagram_sockets()
    scene.pend(unio.RecvFrom(near, bytearray()))
    far.sendto(b"kept", near.object.getsockname())  # type: ignore[union-attr]
    scene.end()
    receive = unio.RecvFrom(near, bytearray(10))
    scene.run(receive)
    scene.note(bytes(receive.buffer[:4]))


@step
def datagram_to_nobody(scene: Scene) -> None:
    near, far = scene.datagram_sockets()
    with socket.socket(type=socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = nobody.getsockname()
    scene.run(unio.SendTo(near, b"anybody?", address))
    scene.pend(unio.RecvFrom(near, bytearray(10)))
    far.sendto(b"yes", near.object.getsockname())  # type: ignore[union-attr]
    scene.end()


# Files


@step
def file_read_and_write(scene: Scene) -> None:
    handle = scene.file(b"0123456789")
    scene.run(unio.Write(handle, b"abc", 4))
    buffer = bytearray(10)
    scene.run(unio.Read(handle, buffer, 0))
    scene.note(bytes(buffer))
    scene.run(unio.Flush(handle))
    scene.run(unio.Write(handle, [b"x", b"", b"yz"], 20))
    buffers = [bytearray(4), bytearray(20)]
    scene.run(unio.Read(handle, buffers, 6))
    scene.note([bytes(each) for each in buffers])


@step
def end_of_file(scene: Scene) -> None:
    handle = scene.file(b"0123456789")
    for offset in 5, 10, 1000:
        scene.run(unio.Read(handle, bytearray(10), offset))
    scene.run(unio.Read(handle, bytearray(), 0))


@step
def read_of_a_file_for_writing(scene: Scene) -> None:
    directory = scene.resources.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
    file = scene.resources.enter_context(unio.open(Path(directory) / "file", "wb"))
    scene.run(unio.Read(scene.port.associate(file, "file"), bytearray(10), 0))


@step
def send_file(scene: Scene) -> None:
    near, far = scene.pair()
    file = scene.opened(b"0123456789")
    for offset, count in ((0, None), (2, 5), (5, 100), (10, None), (1000, 5), (3, 0)):
        found = scene.run(unio.SendFile(near, file, offset, count))  # type: ignore[arg-type]
        scene.note(exactly(far, found.transferred))


# Pipes


@step
def pipe(scene: Scene) -> None:
    reader, writer = map(scene.resources.enter_context, unio.pipe())
    receiving, sending = scene.port.associate(reader, "reader"), scene.port.associate(writer, "writer")
    buffer = bytearray(10)
    scene.pend(unio.Recv(receiving, buffer))
    scene.submit(unio.Send(sending, b"hello"))
    scene.end(2)
    scene.note(bytes(buffer[:5]))
    sending.close()
    scene.run(unio.Recv(receiving, buffer))


@step
def pipe_closed_by_writer(scene: Scene) -> None:
    reader, writer = map(scene.resources.enter_context, unio.pipe())
    scene.pend(unio.Recv(scene.port.associate(reader, "reader"), bytearray(10)))
    writer.close()
    scene.end()


@step
def pipe_closed_by_reader(scene: Scene) -> None:
    reader, writer = map(scene.resources.enter_context, unio.pipe())
    sending = scene.port.associate(writer, "writer")
    reader.close()
    scene.run(unio.Send(sending, b"nobody reads"))


@step
def pipe_closed_here(scene: Scene) -> None:
    reader, _ = map(scene.resources.enter_context, unio.pipe())
    receiving = scene.port.associate(reader, "reader")
    scene.pend(unio.Recv(receiving, bytearray(10)))
    receiving.close()
    scene.end()


# Readiness, time, processes


@step
def poll(scene: Scene) -> None:
    near, far = scene.pair()
    both = unio.Poll(near, unio.Readiness.READABLE | unio.Readiness.WRITABLE)
    scene.run(both)
    scene.note(both.found.name)
    readable = unio.Poll(near, unio.Readiness.READABLE)
    scene.pend(readable)
    far.sendall(b"x")
    scene.end()
    scene.note(readable.found.name)
    scene.run(unio.Recv(near, bytearray(10)))
    scene.pend(readable)
    scene.port.cancel(readable)
    scene.end()


@step
def timer(scene: Scene) -> None:
    start = time.monotonic()
    scene.run(unio.Timer(0.05, "timer"))
    scene.note(f"early: {time.monotonic() - start < 0.05}")
    late = unio.Timer(3600, "timer")
    scene.pend(late)
    scene.port.cancel(late)
    scene.end()


@step
def timers_in_order(scene: Scene) -> None:
    for delay in (0.15, 0.05, 0.1):
        scene.submit(unio.Timer(delay, f"{delay * 100:02.0f}"))
    found: list[unio.Completion] = []
    while len(found) < 3:
        found += scene.port.wait(PATIENCE)
    scene.note([each.key for each in found])


@step
def process_exit(scene: Scene) -> None:
    command = [sys.executable, "-S", "-E", "-c", "import sys; sys.stdin.read(); sys.exit(7)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        operation = unio.ProcessExit(process, "process")
        scene.pend(operation)
        assert process.stdin is not None
        process.stdin.close()
        scene.end()
        scene.note(f"status: {operation.status}, and its owner's: {process.wait(PATIENCE)}")
    scene.run(operation)


@step
def process_exit_cancelled(scene: Scene) -> None:
    command = [sys.executable, "-S", "-E", "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        operation = unio.ProcessExit(process, "process")
        scene.pend(operation)
        scene.port.cancel(operation)
        scene.end()


# The port


@step
def skip_on_success(scene: Scene) -> None:
    near, far = scene.pair(skip=True)
    far.sendall(b"there")
    scene.run(unio.Poll(near, unio.Readiness.READABLE))
    scene.submit(unio.Recv(near, bytearray(10)))
    scene.nothing()
    scene.submit(unio.Send(near, b"small"))
    scene.nothing()
    scene.pend(unio.Recv(near, bytearray(10)))  # and what pends is queued
    far.sendall(b"later")
    scene.end()
    scene.submit(unio.Shutdown(near))
    scene.nothing()
    scene.run(unio.Send(near, b"too late"))  # and so is what fails


@step
def posts_in_order(scene: Scene) -> None:
    for number in range(5):
        scene.port.post("posted", None, number)
    scene.end(5)
    given = object()
    scene.port.post(None, given)
    (found,) = scene.port.wait(PATIENCE)
    scene.note(f"verbatim: {found == (None, given, 0, None)}")


@step
def close_of_the_port(scene: Scene) -> None:
    near, far = scene.pair()
    receive = unio.Recv(near, bytearray(10))
    scene.pend(receive)
    scene.port.close()
    scene.note(f"in flight: {receive.in_flight}")
    for call in (scene.port.wait, lambda: scene.port.post(1), lambda: scene.port.submit(receive)):
        try:
            call()
        except unio.PortClosed as error:
            scene.note(type(error).__name__)
    assert near.socket is not None
    near.socket.settimeout(PATIENCE)
    near.socket.sendall(b"the socket is open")
    scene.note(exactly(far, 18))


def play(backend: str | None = None, names: list[str] | None = None) -> list[str]:
    """Play the scenario, or some steps of it, and return its trace."""
    trace: list[str] = []
    for name in names or STEPS:
        with contextlib.ExitStack() as resources:
            scene = Scene(backend, name, resources)
            STEPS[name](scene)
            trace += scene.trace
    return trace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", default=None, help="the backend (default: the one that a port gets)")
    parser.add_argument("step", nargs="*", help="the steps to play (default: all)")
    options = parser.parse_args()
    for line in play(options.backend, options.step):
        print(line, flush=True)


if __name__ == "__main__":
    main()

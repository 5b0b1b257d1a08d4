"""The steps of the scenario about datagrams, files, pipes, readiness, time, processes, and the port itself."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scene import PATIENCE, Scene, Steps, exactly

import unio

STEPS = Steps()


# Datagrams


@STEPS.step
def datagram(scene: Scene) -> None:
    near, far = scene.datagram_sockets()
    receive = unio.RecvFrom(near, bytearray(100))
    scene.pend(receive)
    far.sendto(b"hello", near.object.getsockname())  # type: ignore[union-attr]
    scene.end()
    scene.note(f"the address is the sender's: {receive.address == far.getsockname()}")
    scene.run(unio.SendTo(near, b"back", receive.address))
    scene.note(far.recv(100))


@STEPS.step
def empty_datagram(scene: Scene) -> None:
    near, far = scene.datagram_sockets()
    scene.pend(unio.RecvFrom(near, bytearray(100)))
    far.sendto(b"", near.object.getsockname())  # type: ignore[union-attr]
    scene.end()
    scene.run(unio.SendTo(near, b"", far.getsockname()))
    scene.note(far.recv(100))


@STEPS.step
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


@STEPS.step
def datagram_too_large_to_send(scene: Scene) -> None:
    near, far = scene.datagram_sockets()
    scene.run(unio.SendTo(near, bytes(70_000), far.getsockname()))


@STEPS.step
def datagram_zero_length_receive(scene: Scene) -> None:
    near, far = scene.datagram_sockets()
    scene.pend(unio.RecvFrom(near, bytearray()))
    far.sendto(b"kept", near.object.getsockname())  # type: ignore[union-attr]
    scene.end()
    receive = unio.RecvFrom(near, bytearray(10))
    scene.run(receive)
    scene.note(bytes(receive.buffer[:4]))


@STEPS.step
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


@STEPS.step
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


@STEPS.step
def end_of_file(scene: Scene) -> None:
    handle = scene.file(b"0123456789")
    for offset in 5, 10, 1000:
        scene.run(unio.Read(handle, bytearray(10), offset))
    scene.run(unio.Read(handle, bytearray(), 0))


@STEPS.step
def read_of_a_file_for_writing(scene: Scene) -> None:
    directory = scene.resources.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
    file = scene.resources.enter_context(unio.open(Path(directory) / "file", "wb"))
    scene.run(unio.Read(scene.port.associate(file, "file"), bytearray(10), 0))


@STEPS.step
def send_file(scene: Scene) -> None:
    near, far = scene.pair()
    file = scene.opened(b"0123456789")
    for offset, count in ((0, None), (2, 5), (5, 100), (10, None), (1000, 5), (3, 0)):
        found = scene.run(unio.SendFile(near, file, offset, count))  # type: ignore[arg-type]
        scene.note(exactly(far, found.transferred))


# Pipes


@STEPS.step
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


@STEPS.step
def pipe_closed_by_writer(scene: Scene) -> None:
    reader, writer = map(scene.resources.enter_context, unio.pipe())
    scene.pend(unio.Recv(scene.port.associate(reader, "reader"), bytearray(10)))
    writer.close()
    scene.end()


@STEPS.step
def pipe_closed_by_reader(scene: Scene) -> None:
    reader, writer = map(scene.resources.enter_context, unio.pipe())
    sending = scene.port.associate(writer, "writer")
    reader.close()
    scene.run(unio.Send(sending, b"nobody reads"))


@STEPS.step
def pipe_closed_here(scene: Scene) -> None:
    reader, _ = map(scene.resources.enter_context, unio.pipe())
    receiving = scene.port.associate(reader, "reader")
    scene.pend(unio.Recv(receiving, bytearray(10)))
    receiving.close()
    scene.end()


# Readiness, time, processes


@STEPS.step
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


@STEPS.step
def timer(scene: Scene) -> None:
    start = time.monotonic()
    scene.run(unio.Timer(0.05, "timer"))
    scene.note(f"early: {time.monotonic() - start < 0.05}")
    late = unio.Timer(3600, "timer")
    scene.pend(late)
    scene.port.cancel(late)
    scene.end()


@STEPS.step
def timers_in_order(scene: Scene) -> None:
    for delay in (0.15, 0.05, 0.1):
        scene.submit(unio.Timer(delay, f"{delay * 100:02.0f}"))
    found: list[unio.Completion] = []
    while len(found) < 3:
        found += scene.wait()
    scene.note([each.key for each in found])


@STEPS.step
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


@STEPS.step
def process_exit_cancelled(scene: Scene) -> None:
    command = [sys.executable, "-S", "-E", "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        operation = unio.ProcessExit(process, "process")
        scene.pend(operation)
        scene.port.cancel(operation)
        scene.end()


@STEPS.step
def signals(scene: Scene) -> None:
    operation = unio.Signal(signal.SIGTERM, "signal")
    scene.pend(operation)
    signal.raise_signal(signal.SIGTERM)
    scene.end()
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    scene.run(operation)  # both are one
    scene.pend(operation)
    scene.submit(unio.Signal(signal.SIGTERM, "another"))
    scene.end()
    scene.port.cancel(operation)
    scene.end()


# The port


@STEPS.step
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


@STEPS.step
def posts_in_order(scene: Scene) -> None:
    for number in range(5):
        scene.port.post("posted", None, number)
    scene.end(5)
    given = object()
    scene.port.post(None, given)
    (found,) = scene.wait()
    scene.note(f"verbatim: {found == (None, given, 0, None)}")


@STEPS.step
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

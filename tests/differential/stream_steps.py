"""The steps of the scenario about connections and streams, and how their operations end before their time."""

from __future__ import annotations

import socket
import threading

from scene import MORE_THAN_FITS, PATIENCE, Scene, Steps, exactly, reset

import unio

STEPS = Steps()


# Connections


@STEPS.step
def connect(scene: Scene) -> None:
    listener = scene.listener()
    sock = scene.resources.enter_context(socket.socket())
    handle = scene.port.associate(sock, "near")
    scene.run(unio.Connect(handle, listener.getsockname()))
    scene.note(f"the peer is the listener: {sock.getpeername() == listener.getsockname()}")


@STEPS.step
def connect_refused(scene: Scene) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening
        sock = scene.resources.enter_context(socket.socket())
        scene.run(unio.Connect(scene.port.associate(sock, "near"), nobody.getsockname()))


@STEPS.step
def accept(scene: Scene) -> None:
    listener = scene.listener()
    operation = unio.Accept(scene.port.associate(listener, "listener"))
    scene.pend(operation)
    with socket.create_connection(listener.getsockname(), PATIENCE) as client:
        scene.end()
        scene.note(f"the address is the client's: {operation.address == client.getsockname()}")
        scene.note(f"inheritable: {operation.socket.get_inheritable()}, time-out: {operation.socket.gettimeout()}")
        operation.socket.close()


@STEPS.step
def accept_again(scene: Scene) -> None:
    listener = scene.listener()
    operation = unio.Accept(scene.port.associate(listener, "listener"))
    for _ in range(3):
        with socket.create_connection(listener.getsockname(), PATIENCE):
            scene.run(operation)
            operation.socket.close()


@STEPS.step
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


@STEPS.step
def accept_cancelled(scene: Scene) -> None:
    operation = unio.Accept(scene.port.associate(scene.listener(), "listener"))
    scene.pend(operation)
    scene.note(f"cancel: {scene.port.cancel(operation)}")
    scene.end()
    scene.note(f"cancel: {scene.port.cancel(operation)}")


# Streams


@STEPS.step
def echo(scene: Scene) -> None:
    near, far = scene.pair()
    buffer = bytearray(100)
    receive = unio.Recv(near, buffer)
    scene.pend(receive)
    far.sendall(b"hello")
    found = scene.end()[0]
    scene.run(unio.Send(near, buffer[: found.transferred]))
    scene.note(far.recv(100))


@STEPS.step
def receive_what_is_there(scene: Scene) -> None:
    near, far = scene.pair()
    far.sendall(b"0123456789")
    scene.run(unio.Poll(near, unio.Readiness.READABLE))
    buffer = bytearray(4)
    for _ in range(3):
        found = scene.run(unio.Recv(near, buffer))
        scene.note(bytes(buffer[: found.transferred]))


@STEPS.step
def receives_in_order(scene: Scene) -> None:
    near, far = scene.pair()
    buffers = [bytearray(2) for _ in range(4)]
    scene.pend(*[unio.Recv(near, buffer) for buffer in buffers])
    for index, buffer in enumerate(buffers):
        far.sendall(bytes([65 + index]) * 2)
        scene.end()
        scene.note(bytes(buffer))


@STEPS.step
def sends_in_order(scene: Scene) -> None:
    near, far = scene.pair()
    for part in b"first ", b"second ", b"third":
        scene.submit(unio.Send(near, part))
    scene.end(3)
    expected = b"first second third"
    scene.note(exactly(far, len(expected)))


@STEPS.step
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


@STEPS.step
def send_of_nothing(scene: Scene) -> None:
    near, _ = scene.pair()
    scene.run(unio.Send(near, b""))
    scene.run(unio.Send(near, []))


@STEPS.step
def large_send(scene: Scene) -> None:
    near, far = scene.pair()
    scene.pend(unio.Send(near, bytes(MORE_THAN_FITS)))
    reader = threading.Thread(target=exactly, args=(far, MORE_THAN_FITS))
    reader.start()
    scene.end()
    reader.join(PATIENCE)
    scene.note(f"all of it was read: {not reader.is_alive()}")


@STEPS.step
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


@STEPS.step
def end_of_stream(scene: Scene) -> None:
    near, far = scene.pair()
    scene.pend(unio.Recv(near, bytearray(10)))
    far.close()
    scene.end()
    scene.run(unio.Recv(near, bytearray(10)))


@STEPS.step
def data_before_the_end(scene: Scene) -> None:
    near, far = scene.pair()
    far.sendall(b"last words")
    far.close()
    for _ in range(2):
        scene.run(unio.Recv(near, bytearray(100)))


@STEPS.step
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


@STEPS.step
def half_close_by_peer(scene: Scene) -> None:
    near, far = scene.pair()
    scene.pend(unio.Recv(near, bytearray(10)))
    far.shutdown(socket.SHUT_WR)
    scene.end()
    scene.run(unio.Send(near, b"still"))
    scene.note(exactly(far, 5))


@STEPS.step
def disconnect(scene: Scene) -> None:
    near, far = scene.pair()
    scene.run(unio.Send(near, b"bye"))
    scene.run(unio.Disconnect(near))
    scene.note(exactly(far, 100))
    scene.run(unio.Recv(near, bytearray(10)))


@STEPS.step
def shutdown_unconnected(scene: Scene) -> None:
    sock = scene.resources.enter_context(socket.socket())
    scene.run(unio.Shutdown(scene.port.associate(sock, "near")))


@STEPS.step
def reset_by_peer(scene: Scene) -> None:
    near, far = scene.pair()
    scene.pend(unio.Recv(near, bytearray(10)))
    reset(far)
    scene.end()


@STEPS.step
def reset_with_receives(scene: Scene) -> None:
    near, far = scene.pair()
    receives = [unio.Recv(near, bytearray(10)) for _ in range(2)]
    scene.pend(*receives)
    far.sendall(b"x")
    scene.end()
    reset(far)
    scene.end()


@STEPS.step
def reset_with_send(scene: Scene) -> None:
    near, far = scene.pair()
    sending = unio.Send(near, bytes(MORE_THAN_FITS))
    scene.pend(sending)
    reset(far)
    (found,) = scene.wait()
    scene.note(f"in part: {0 < found.transferred < MORE_THAN_FITS}")  # how much is the system's affair
    scene.write(found.operation, "near", 0, found.error)


# Cancel and close


@STEPS.step
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


@STEPS.step
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


@STEPS.step
def cancel_all(scene: Scene) -> None:
    near, _ = scene.pair()
    scene.pend(unio.Recv(near, bytearray(3)), unio.Recv(near, bytearray(3)))
    scene.note(f"cancel: {near.cancel()}")
    scene.end(2)
    scene.note(f"cancel: {near.cancel()}")


@STEPS.step
def close_with_pending(scene: Scene) -> None:
    near, far = scene.pair()
    scene.pend(*[unio.Recv(near, bytearray(size)) for size in (1, 2, 3)])
    near.close()
    found = scene.end(3)
    scene.note([len(each.operation.buffer) for each in found])
    scene.note(exactly(far, 1))


@STEPS.step
def close_idle(scene: Scene) -> None:
    near, _ = scene.pair()
    near.close()
    scene.nothing()
    scene.run(unio.Recv(near, bytearray(1)))


@STEPS.step
def close_behind(scene: Scene) -> None:
    near, _ = scene.pair()
    scene.pend(unio.Recv(near, bytearray(10)))
    assert near.socket is not None
    near.socket.close()
    scene.end()


@STEPS.step
def time_out(scene: Scene) -> None:
    near, far = scene.pair()
    receive = unio.Recv(near, bytearray(10))
    scene.run(receive, timeout=0.05)
    scene.submit(receive, timeout=3600)
    far.sendall(b"in time")
    scene.end()


@STEPS.step
def accept_times_out(scene: Scene) -> None:
    scene.run(unio.Accept(scene.port.associate(scene.listener(), "listener")), timeout=0.05)

"""What is ended, or left alone, at the moment at which its data move: it completes once, and touches nothing else.

A system may have the thread go on with an operation that has started it. So that thread is not the one that ends it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from support import (
    BIG,
    PATIENCE,
    Background,
    assert_cancelled,
    completion,
    completions,
    local_pair,
    recv_exactly,
)
from wine import wine_row

import unio

ROUNDS = 30
"""So many that what goes wrong now and then is likely to do so here."""


@contextlib.contextmanager
def done_by_another(function: Callable[[], None]) -> Iterator[None]:
    """Something that a thread has done that is still there."""
    done, over = threading.Event(), threading.Event()

    def run() -> None:
        function()
        done.set()
        over.wait(PATIENCE)

    thread = Background(run)
    try:
        assert done.wait(PATIENCE)
        yield
    finally:
        over.set()
        thread.result()


@wine_row("cancel-amid-retry", always=False)
@pytest.mark.clause("X1", "S1")
def test_a_cancel_is_heard_while_the_peer_makes_room(port: unio.Port, patience: float) -> None:
    data = bytes(BIG)

    def read(sock: socket.socket, amount: list[int], stop: threading.Event) -> None:
        while not stop.is_set():
            with contextlib.suppress(BlockingIOError):
                amount.append(len(sock.recv(1 << 16)))

    for _ in range(ROUNDS):
        near, far = local_pair()
        with near, far:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            far.setblocking(False)
            send = unio.Send(port.associate(near), data)
            with done_by_another(lambda send=send: port.submit(send)):
                amount: list[int] = []
                stop = threading.Event()
                reader = Background(read, far, amount, stop)
                while not amount:
                    reader.join(0.001)
                asked = port.cancel(send)
                stop.set()
                reader.result()
                found = completion(port, patience)
            assert found.operation is send
            if asked:
                assert_cancelled(found)
            assert sum(amount) <= found.transferred <= len(data)


@wine_row("close-amid-retry", always=False)
@pytest.mark.clause("X3", "S1", "O5")
def test_a_close_beside_data_leaves_the_next_socket_alone(port: unio.Port, patience: float) -> None:
    data = b"first" * 20

    def submit(receives: list[unio.Recv]) -> None:
        for receive in receives:
            port.submit(receive)

    for _ in range(ROUNDS):
        near, far = local_pair()
        number = near.fileno()
        handle = port.associate(near)
        receives = [unio.Recv(handle, bytearray(1)) for _ in data]
        with done_by_another(lambda receives=receives: submit(receives)):
            far.send(data)
            handle.close()
            after = sorted(local_pair(), key=lambda sock: sock.fileno() != number)  # the lowest free number comes first
            with far, after[0], after[1]:
                after[1].send(b"second")
                found = completions(port, len(data), patience)
                assert [each.operation for each in found] == receives
                received = b"".join([each.operation.buffer for each in found if each.error is None])
                assert received == data[: len(received)]
                for each in found[len(received) :]:
                    assert_cancelled(each)
                assert after[0].recv(10) == b"second"


@wine_row("thread-ends-amid-retry", always=False)
@pytest.mark.clause("S1", "O4")
def test_a_send_goes_on_without_its_thread_while_the_peer_reads(port: unio.Port) -> None:
    data = bytes(200_000)
    for _ in range(ROUNDS):
        near, far = local_pair()
        with near, far:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader = Background(recv_exactly, far, len(data))
            send = unio.Send(port.associate(near), data)
            Background(port.submit, send).result()
            found = completion(port)
            assert (found.operation, found.transferred, str(found.error)) == (send, len(data), "None")
            assert reader.result() == data

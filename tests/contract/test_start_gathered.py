"""The clauses S of the contract: when what a thread has submitted is started, by its next wait or by start_gathered."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from support import (
    PATIENCE,
    Background,
    assert_idle,
    completion,
    completions,
    fill,
    recv_exactly,
    until,
)

import unio

# Clause S9: started at once, or at the next wait


@pytest.mark.clause("S9")
def test_what_a_thread_that_does_not_wait_submits_is_started_at_once(
    port: unio.Port, make_pair: Any, make_listener: Any, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    pairs = [make_pair() for _ in range(3)]
    sender, file_sender, ender = [port.associate(near) for near, _ in pairs]
    path = tmp_path / "file"
    file = resources.enter_context(unio.open(path, "w+b"))
    listening = make_listener()
    client = resources.enter_context(socket.socket())
    operations = [
        unio.Send(sender, b"sent"),
        unio.SendFile(file_sender, resources.enter_context(unio.open(__file__)), 0, 3),
        unio.Shutdown(ender),
        unio.Connect(port.associate(client), listening.getsockname()),
        unio.Write(port.associate(file), b"written", 0),
    ]
    for operation in operations:
        port.submit(operation)
    assert recv_exactly(pairs[0][1], 4) == b"sent"
    assert recv_exactly(pairs[1][1], 3) == b'"""'
    assert pairs[2][1].recv(1) == b""
    listening.settimeout(PATIENCE)
    accepted, address = listening.accept()
    accepted.close()
    assert address == client.getsockname()
    until(lambda: path.read_bytes() == b"written")
    assert all(operation.in_flight for operation in operations)
    found = completions(port, 5)
    assert [each.error for each in found] == [None] * 5
    assert sorted(id(each.operation) for each in found) == sorted(id(operation) for operation in operations)


@pytest.mark.clause("S9")
def test_start_gathered_starts_what_a_thread_that_waits_has_submitted(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    port.start_gathered()
    for number in range(5):
        port.post("this thread waits")
        completion(port)
        operation = unio.Send(handle, bytes([number]))
        port.submit(operation)
        port.start_gathered()
        assert far.recv(1) == bytes([number])
        assert completion(port).operation is operation
    port.start_gathered()
    assert_idle(port)


@pytest.mark.clause("S9")
def test_what_a_thread_that_waits_has_submitted_is_started_at_its_next_wait(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    assert_idle(port)
    port.submit(unio.Send(handle, b"data"))
    port.wait(0)
    assert recv_exactly(far, 4) == b"data"


@pytest.mark.clause("S9")
def test_a_thread_may_end_after_its_submit(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near)
    assert fill(near) > 0
    received, sent = unio.Recv(handle, bytearray(8)), unio.Send(handle, b"end")
    Background(lambda: (port.submit(received), port.submit(sent))).result()
    far.send(b"data")
    assert completion(port).operation is received
    reader = Background(recv_until, far, b"end")
    assert completion(port)[1:] == (sent, 3, None)
    reader.result()


def recv_until(sock: socket.socket, end: bytes) -> None:
    tail = b""
    while not tail.endswith(end):
        tail = (tail + sock.recv(1 << 16))[-len(end) :]


@pytest.mark.skipif(not hasattr(os, "sched_yield"), reason="POSIX only")
@pytest.mark.clause("S9", "P7")
def test_start_gathered_of_a_closed_port_is_refused(port: unio.Port) -> None:
    port.close()
    with pytest.raises(unio.PortClosed):
        port.start_gathered()

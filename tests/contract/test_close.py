"""The clauses X of the contract: closing a handle ends its operations, and leaves alone who has its number next."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from support import (
    BIG,
    PATIENCE,
    PENDING,
    Background,
    asleep,
    assert_cancelled,
    assert_idle,
    assert_nothing_comes,
    batch,
    completion,
    completions,
    connect,
    fill,
    in_threads,
    inside_wait,
    listener,
    pending,
    recv_exactly,
    recv_to_end,
    reuse,
    run,
    until,
)
from wine import wine_row

import unio

LINGER = struct.Struct("HH" if sys.platform == "win32" else "ii")

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="descriptors are POSIX's")

# Clause X3: closing


@pytest.mark.process_wide
@pytest.mark.clause("X3")
@pytest.mark.parametrize(
    "form",
    [
        "through unio",
        pytest.param("socket", marks=wine_row("close-with-send-pending")),
        pytest.param("number", marks=posix_only),
    ],
)
def test_closing_completes_everything_as_cancelled_in_order(
    port: unio.Port, make_pair: Any, patience: float, form: str
) -> None:
    near, far = make_pair()
    number = near.fileno()
    handle = port.associate(near.detach() if form == "number" else near, "key")
    operations: list[unio.Operation] = []
    for _ in range(4):
        operations.append(unio.Recv(handle, bytearray(1)))
        operations.append(unio.Poll(handle, unio.Readiness.READABLE))
        operations.append(unio.Send(handle, bytes(BIG)))
    for operation in operations:
        port.submit(operation)
    if form == "through unio":
        handle.close()
    elif form == "socket":
        near.close()
    else:
        os.close(number)
    found = completions(port, len(operations), patience)
    for each in found:
        assert_cancelled(each)
    assert [each.operation for each in found] == operations
    assert {each.key for each in found} == {"key"}
    assert handle.closed
    assert handle.fileno() == -1
    assert_nothing_comes(port, 0.02)
    assert_cancelled(run(port, unio.Recv(handle, bytearray(1))))
    del far


WITH_A_HANDLE = [kind for kind in PENDING if kind not in ("timer", "process_exit")]


@pytest.mark.clause("X3")
@pytest.mark.parametrize(
    ("form", "kind"),
    [
        *[("through unio", kind) for kind in WITH_A_HANDLE],
        *[("plain", kind) for kind in WITH_A_HANDLE if kind != "send"],
        pytest.param("plain", "send", marks=wine_row("close-with-send-pending")),
    ],
)
def test_closing_completes_a_pending_operation_of_every_kind(
    port: unio.Port, resources: contextlib.ExitStack, tmp_path: Path, patience: float, kind: str, form: str
) -> None:
    operation = pending(kind, port, resources, tmp_path)
    handle = operation.handle
    assert handle is not None
    port.submit(operation)
    if form == "through unio":
        handle.close()
    else:
        handle.object.close()  # type: ignore[union-attr]
    found = completion(port, patience)
    assert found.operation is operation
    assert_cancelled(found)
    assert handle.closed
    assert_nothing_comes(port, 0.02)


@pytest.mark.clause("X3", "P2")
def test_closing_a_handle_wakes_the_thread_that_waits(port: unio.Port, make_pair: Any) -> None:
    near, _ = make_pair()
    handle = port.associate(near)
    port.submit(unio.Recv(handle, bytearray(8)))
    waiter = Background(completion, port)
    inside_wait(waiter)
    handle.close()
    assert_cancelled(waiter.result())


@pytest.mark.clause("X3")
def test_the_peer_learns_of_the_close_though_operations_were_in_flight(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    port.submit(unio.Recv(handle, bytearray(8)))
    port.submit(unio.Poll(handle, unio.Readiness.READABLE))
    handle.close()
    assert far.recv(1) == b""
    assert near.fileno() == -1
    for found in completions(port, 2):
        assert_cancelled(found)


@pytest.mark.clause("X3")
def test_what_has_completed_before_the_close_keeps_its_result(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair(local=True)
    handle = port.associate(near)
    far.send(b"data")
    received, left = unio.Recv(handle, bytearray(8)), unio.Recv(handle, bytearray(8))
    port.submit(received)
    port.submit(left)
    handle.close()
    first, second = completions(port, 2)
    assert first[1:] == (received, 4, None)
    assert second.operation is left
    assert_cancelled(second)


@pytest.mark.clause("X3")
def test_a_plain_close_is_noticed_among_many_handles_and_by_a_wait_that_has_other_work(
    port: unio.Port, make_pair: Any
) -> None:
    pairs = [make_pair(local=True) for _ in range(100)]
    for number, (near, _) in enumerate(pairs):
        port.submit(unio.Recv(port.associate(near, number), bytearray(1)))
    for number in range(0, 100, 10):
        pairs[number][0].close()
    seen = set()
    while len(seen) < 10:
        for found in batch(port):
            assert_cancelled(found)
            seen.add(found.key)
    assert seen == set(range(0, 100, 10))
    pairs[99][1].send(b"x")
    assert completion(port).key == 99


@posix_only
@pytest.mark.process_wide
@pytest.mark.clause("X3", "A3")
@pytest.mark.parametrize("form", ["object", "number"])
@pytest.mark.parametrize("end", ["wait", "handle", "cancel", "port", "nothing"])
def test_what_follows_a_plain_close_never_touches_the_reused_number(
    make_port: Any, make_pair: Any, resources: contextlib.ExitStack, form: str, end: str
) -> None:
    port = make_port()
    near, _far = make_pair()
    number = near.fileno()
    handle = port.associate(near if form == "object" else near.detach())
    operations = [unio.Send(handle, bytes(BIG)), unio.Recv(handle, bytearray(100))]
    for operation in operations:
        port.submit(operation)
    if form == "object":
        near.close()
    else:
        os.close(number)
    new_near, new_far = reuse(number, resources)
    new_far.send(b"for the new one")
    if end == "handle":
        handle.close()
    elif end == "cancel":
        handle.cancel()
    elif end == "port":
        port.close()
    if end in ("wait", "handle", "cancel"):
        for found in completions(port, 2):
            assert_cancelled(found)
        assert_nothing_comes(port, 0.02)
        assert handle.closed
    del handle, operations, operation
    assert recv_exactly(new_near, 15) == b"for the new one"
    assert new_near.gettimeout() == PATIENCE
    new_near.send(b"and only this")
    new_near.shutdown(socket.SHUT_WR)
    assert recv_exactly(new_far, 13) == b"and only this"
    assert new_far.recv(1) == b"", "no byte of the old send came this way"


@posix_only
@pytest.mark.process_wide
@pytest.mark.clause("X3", "A3")
def test_a_listener_closed_plainly_accepts_nothing_of_its_successor(
    port: unio.Port, make_listener: Any, resources: contextlib.ExitStack
) -> None:
    old = make_listener()
    number = old.fileno()
    operation = unio.Accept(port.associate(old, "old"))
    port.submit(operation)
    with listener() as other:
        old.close()
        os.dup2(other.fileno(), number, inheritable=False)
    new = resources.enter_context(socket.socket(fileno=number))
    new.settimeout(PATIENCE)
    client = resources.enter_context(connect(new))
    assert_cancelled(completion(port))
    assert operation.socket is None
    accepted, address = new.accept()
    with accepted:
        assert address == client.getsockname()


@pytest.mark.clause("X3", "S1", "P2")
@pytest.mark.parametrize("form", ["through unio", "plain"])
def test_of_submits_that_a_close_races_each_completes_once(port: unio.Port, form: str) -> None:
    for _ in range(40):
        near, far = socket.socketpair()
        with far:
            handle = port.associate(near)
            submitted: list[list[unio.Operation]] = [[], []]

            def submit(thread: int, handle: Any = handle, submitted: Any = submitted) -> None:
                while True:
                    operation: unio.Operation = (
                        unio.Recv(handle, bytearray(1)) if thread else unio.Send(handle, bytes(100_000))
                    )
                    port.submit(operation)
                    submitted[thread].append(operation)
                    if len(submitted[thread]) >= 50:
                        return

            threads = [Background(submit, number) for number in range(2)]
            handle.close() if form == "through unio" else near.close()
            for thread in threads:
                thread.result()
            handle.close()
            reader = Background(recv_to_end, far)  # a system may go on with a send whose socket was closed
            found = completions(port, sum(map(len, submitted)))
            reader.result()
            assert {id(each.operation) for each in found} == {id(each) for share in submitted for each in share}
            for each in found:
                assert each.error is None or type(each.error) is unio.Cancelled
            assert not any(each.in_flight for share in submitted for each in share)
    assert_nothing_comes(port, 0.02)


@pytest.mark.clause("X3", "O8")
@pytest.mark.parametrize("form", ["through unio", "plain"])
def test_closing_a_file_completes_each_of_its_operations_once(port: unio.Port, tmp_path: Path, form: str) -> None:
    path = tmp_path / "file"
    content = bytes(range(250)) * 400
    path.write_bytes(content)
    for _ in range(10):
        file = unio.open(path, "rb")
        handle = port.associate(file)
        operations = [unio.Read(handle, bytearray(len(content)), 0) for _ in range(30)]
        for operation in operations:
            port.submit(operation)
        handle.close() if form == "through unio" else file.close()
        with path.with_name("other").open("w+b") as other:  # likely to get the number
            found = completions(port, 30)
            assert other.read() == b""
        assert {id(each.operation) for each in found} == {id(operation) for operation in operations}
        for each in found:
            if each.error is None:
                assert each.operation.buffer == content
            else:
                assert_cancelled(each)
                assert each.transferred == 0
        until(lambda file=file: file.closed)  # the last thread that reads from it closes it, after the completions
        handle.close()
    assert_idle(port)


class Wrapped:
    """An object of the program's own, with a socket in it."""

    def __init__(self, sock: socket.socket) -> None:
        self.fileno, self.close = sock.fileno, sock.close


@pytest.mark.clause("X3", "L1", "L3")
@pytest.mark.parametrize("form", ["socket", "object", pytest.param("number", marks=posix_only)])
def test_a_close_that_waits_for_unsent_bytes_holds_up_no_other_thread(
    port: unio.Port, make_pair: Any, form: str
) -> None:
    near, far = make_pair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER.pack(1, 2 * int(PATIENCE)))
    unsent = fill(near)
    forms = {"socket": lambda: near, "object": lambda: Wrapped(near), "number": near.detach}
    handle = port.associate(forms[form]())  # type: ignore[operator]
    received, timer = unio.Recv(handle, bytearray(8)), unio.Timer(0.1)

    def serve() -> list[Any]:
        port.submit(received)
        found = completions(port, 1)
        port.submit(timer)
        return found + completions(port, 1)

    server = Background(serve)
    asleep(server)
    closer = Background(handle.close)
    found, ended = server.result()
    assert found.operation is received
    assert_cancelled(found)
    assert ended[1:] == (timer, 0, None)
    assert len(recv_to_end(far)) == unsent  # now the close has nothing to wait for any more
    closer.result()


@pytest.mark.clause("X3", "P2")
def test_many_threads_close_one_handle(port: unio.Port, make_pair: Any) -> None:
    for _ in range(20):
        near, far = make_pair(local=True)
        handle = port.associate(near)
        port.submit(unio.Recv(handle, bytearray(1)))
        in_threads(4, lambda _, handle=handle: handle.close())
        assert_cancelled(completion(port))
        assert far.recv(1) == b""
    assert_idle(port)

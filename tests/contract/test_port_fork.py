"""The clauses P of the contract: a port in a forked child."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
from collections.abc import Callable
from typing import Any

import channels
import pytest
from support import (
    Background,
    completion,
    completions,
    connect,
    in_child,
    needs_fork,
    succeed,
)

import unio

# Clause P10: fork


def every_method_raises(port: unio.Port, handle: unio.Handle, operation: unio.Operation) -> None:
    near, _far = socket.socketpair()
    calls: list[Callable[[], object]] = [
        port.wait,
        lambda: port.wait(0),
        lambda: port.post("child"),
        lambda: port.submit(unio.Timer(0)),
        lambda: port.submit(operation),
        lambda: port.cancel(operation),
        lambda: port.associate(near),
        port.start_gathered,
        handle.cancel,
    ]
    for call in calls:
        with pytest.raises(RuntimeError) as caught:
            call()
        assert type(caught.value) is RuntimeError, caught.value
        assert "fork" in str(caught.value)
    assert port.closed


@needs_fork
@pytest.mark.clause("P10")
def test_in_a_forked_child_every_method_raises(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    operation = unio.Recv(handle, bytearray(8))
    port.submit(operation)
    in_child(lambda: every_method_raises(port, handle, operation))
    far.send(b"data")
    assert completion(port).transferred == 4


@needs_fork
@pytest.mark.clause("P10")
def test_what_a_forked_child_closes_and_drops_leaves_the_port_of_the_parent_untouched(
    port: unio.Port, make_pair: Any, make_listener: Any, resources: contextlib.ExitStack
) -> None:
    near, far = make_pair()
    listening = make_listener()
    handle = port.associate(near, "socket")
    port.submit(unio.Recv(handle, bytearray(8)))
    accept = unio.Accept(port.associate(listening, "listener"))
    port.submit(accept)
    port.submit(unio.Timer(0.01, "timer"))

    def child() -> None:
        port.close()
        port.close()
        handle.close()
        near.close()
        listening.close()
        gc.collect()

    in_child(child)
    client = resources.enter_context(connect(listening))
    far.send(b"data")
    port.post("post")
    assert sorted(found.key for found in completions(port, 4)) == ["listener", "post", "socket", "timer"]
    assert accept.socket is not None
    with accept.socket:
        assert accept.address == client.getsockname()
    assert succeed(port, unio.Send(handle, b"data")).transferred == 4


@needs_fork
@pytest.mark.clause("P10")
def test_a_fork_while_threads_are_busy_with_the_port_blocks_no_one(port: unio.Port, make_pair: Any) -> None:
    # The child gets a copy of the locks at an arbitrary moment, held by threads that it does not have.
    near, far = make_pair()
    handle = port.associate(near)
    operation = unio.Recv(handle, bytearray(8))
    port.submit(operation)
    stop = threading.Event()

    def work(_: int) -> int:
        seen = 0
        while not stop.is_set():
            port.post("work")
            port.submit(unio.Timer(0, "work"))
            seen += len(completions(port, 2))
        return seen

    workers = [Background(work, number) for number in range(3)]
    try:
        for _ in range(10):
            in_child(lambda: (every_method_raises(port, handle, operation), port.close()))
    finally:
        stop.set()
    assert all(worker.result() % 2 == 0 for worker in workers)
    far.send(b"data")
    assert completion(port).operation is operation


@needs_fork
@pytest.mark.clause("P10", "A1")
@pytest.mark.process_wide
def test_a_forked_child_makes_a_port_of_its_own_for_what_it_inherited(
    port: unio.Port, backend: str, make_listener: Any, resources: contextlib.ExitStack
) -> None:
    listening = make_listener()
    handle = port.associate(listening, "parent's")

    def child() -> None:
        with unio.Port(backend=backend) as own, connect(listening) as client:
            accept = unio.Accept(own.associate(listening, "child's"))
            own.submit(accept)
            assert completion(own).key == "child's"
            assert accept.address == client.getsockname()

    in_child(child)
    accept = unio.Accept(handle)
    port.submit(accept)
    client = resources.enter_context(connect(listening))
    assert completion(port).key == "parent's"
    assert accept.socket is not None
    with accept.socket:
        assert accept.address == client.getsockname()


@needs_fork
@pytest.mark.clause("P10")
def test_a_forked_child_that_exits_in_the_ordinary_way_leaves_the_port_of_the_parent_untouched(backend: str) -> None:
    program = """
import os, socket, sys, warnings, unio
warnings.simplefilter("ignore", DeprecationWarning)
port = unio.Port(backend=sys.argv[1])
near, far = socket.socketpair()
handle = port.associate(near, "socket")
port.submit(unio.Recv(handle, bytearray(8)))
port.submit(unio.Timer(0.01, "timer"))
pid = os.fork()
if pid:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    far.send(b"data")
    found = []
    while len(found) < 2:
        found += [completion.key for completion in port.wait(60) or sys.exit("nothing came")]
    assert sorted(found) == ["socket", "timer"], found
    port.close()
    print("parent")
else:
    print("child", flush=True)
"""
    done = channels.run_program(program, backend)
    assert done.stdout.split() == ["child", "parent"]

"""Threads whose stack is the smallest that Python allows, the program's and unio's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE

import unio

# From 3.14 on Python takes 52 KiB at least. But it keeps 32 of a stack in reserve, puts the end of an object off where
# less than 32 more are left, and makes up for it where 64 are: in a smaller stack what a thread drops may never end.
SMALLEST = (32 if sys.version_info < (3, 14) else 128) * 1024
"""In bytes; what threading.stack_size takes at least, and a thread of Python's can live with."""

# A process of its own, since a stack that is too small ends it. What is imported later needs more stack than there is.
BEGINNING = """
import concurrent.futures, faulthandler, os, socket, subprocess, sys, threading, warnings
import unio
faulthandler.enable()
backend, size, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
warnings.simplefilter("error")
def wait_for(port, count):
    found = []
    while len(found) < count:
        batch = port.wait(30)
        assert batch, "nothing came"
        found += batch
    assert [each.error for each in found] == [None] * count, found
    return found
def run(port, operation):
    port.submit(operation)
    [found] = wait_for(port, 1)
    assert found.operation is operation
    return found
def in_a_thread(work):
    threading.stack_size(size)
    future = concurrent.futures.Future()
    def begin():
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
    threading.Thread(target=begin).start()
    future.result(60)
"""

STREAMS = """
def work():
    with unio.Port(backend=backend) as port:
        pairs = [socket.socketpair() for _ in range(100)]
        handles = [port.associate(near) for near, _ in pairs]
        for _ in range(3):
            port.post("key")
            assert wait_for(port, 1)[0].key == "key"
            receives = [unio.Recv(handle) for handle in handles]
            sends = [unio.Send(handle, b"from here") for handle in handles]
            for operation in (*receives, *sends):  # more than are gathered at once
                port.submit(operation)
            wait_for(port, len(sends))
            for _, far in pairs:
                far.sendall(b"from there")
            for found in wait_for(port, len(receives)):
                assert found.operation.data == b"from there"
            for _, far in pairs:
                assert far.recv(100) == b"from here"
        for handle in handles:
            handle.close()
        for _, far in pairs:
            far.close()
"""

MANY_BUFFERS = """
def work():
    near, far = socket.socketpair()
    with unio.Port(backend=backend) as port, near, far:
        handle = port.associate(near)
        run(port, unio.Send(handle, [b"part"] * 1024))
        received = 0
        while received < 4096:
            received += len(far.recv(4096))
        far.sendall(b"part" * 1000)
        buffers = [bytearray(1) for _ in range(1024)]
        assert run(port, unio.Recv(handle, buffers)).transferred > 0
        with socket.socket(type=socket.SOCK_DGRAM) as one:
            one.bind(("127.0.0.1", 0))
            joined = port.associate(one)
            run(port, unio.SendTo(joined, [b"part"] * 100, one.getsockname()))
            assert run(port, unio.RecvFrom(joined, buffers)).transferred == 400
"""

OTHERS = """
def work():
    with unio.Port(backend=backend) as port, socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        accept = unio.Accept(port.associate(listening))
        port.submit(accept)
        client = socket.socket()
        connected = port.associate(client)
        port.submit(unio.Connect(connected, listening.getsockname()))
        wait_for(port, 2)
        near = port.associate(accept.socket)
        recv = unio.Recv(near)
        port.submit(recv, 0.001)
        assert type(port.wait(30)[0].error) is TimeoutError
        port.submit(recv)
        assert port.cancel(recv)
        assert type(port.wait(30)[0].error) is unio.Cancelled
        poll = unio.Poll(connected, unio.Readiness.WRITABLE)
        run(port, poll)
        run(port, unio.Timer(0.001))
        run(port, unio.Disconnect(connected))
        near.close()
        connected.close()
"""

FILES = """
def work():
    child = subprocess.Popen([sys.executable, "-S", "-E", "-c", "input()"], stdin=subprocess.PIPE)
    with child, unio.Port(backend=backend) as port, unio.open(path, "w+b") as file:
        handle = port.associate(file)
        writes = [unio.Write(handle, [bytes(100)] * 10, number * 1000) for number in range(20)]
        port.submit(unio.ProcessExit(child))
        for operation in writes:
            port.submit(operation)
        child.communicate(b"x\\n")
        wait_for(port, 21)
        run(port, unio.Flush(handle))
        assert run(port, unio.Read(handle, bytearray(20000), 0)).transferred == 20000
        near, far = socket.socketpair()
        with near, far:
            run(port, unio.SendFile(port.associate(near), file, 0, 100))
            assert len(far.recv(100)) == 100
"""

POOL = """
def work():
    done = []
    with unio.Port(backend=backend) as port, unio.Pool(port, done.append, threads=3) as pool:
        for number in range(100):
            port.post(number)
        assert pool.submit(sum, [1, 2]).result(30) == 3
        pool.shutdown()
        assert sorted(each.key for each in done) == list(range(100))
"""

PROGRAMS = {
    "streams": STREAMS,
    "many buffers": MANY_BUFFERS,
    "other operations": OTHERS,
    "files and processes": FILES,
    "a pool": POOL,
}


@pytest.mark.clause("P2")
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_smallest_stack_will_do(backend: str, tmp_path: Path, name: str) -> None:
    # Once with the usual stack first, which imports all that it needs.
    program = f"{BEGINNING}{PROGRAMS[name]}\nwork()\nin_a_thread(work)\nprint('done')"
    source = str(Path(unio.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-c", program, backend, str(SMALLEST), str(tmp_path / "file")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2 * PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr

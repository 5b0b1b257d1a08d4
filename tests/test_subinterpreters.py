"""Subinterpreters: those that share the main one's lock, and the isolated ones, which since 3.12 have their own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PROGRAM

import unio
from unio.backends.common import accelerator

HAS_THEM = any(importlib.util.find_spec(name) for name in ("_interpreters", "_xxsubinterpreters"))

pytestmark = pytest.mark.skipif(not HAS_THEM, reason="this implementation of Python has no subinterpreters")

linux = pytest.mark.skipif(sys.platform != "linux", reason="which backend needs what is different on each system")

SOURCE = str(Path(unio.__file__).parent.parent)

# Runs a program in so many subinterpreters, each of which ends before the next one is made.
RUN = """
import faulthandler, sys
faulthandler.enable()
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
def run(kind, program):
    if kind == "public":
        from concurrent.interpreters import create
        interpreter = create()
        interpreter.exec(program)
        interpreter.close()
        return
    if sys.version_info < (3, 13):
        number = interpreters.create(isolated=kind == "isolated")
        failed = interpreters.run_string(number, program)  # or else it raises
    else:
        number = interpreters.create(kind)
        failed = interpreters.run_string(number, program)
    interpreters.destroy(number)
    if failed:
        sys.exit(failed.errdisplay)
if __name__ == "__main__":
    for _ in range(int(sys.argv[3])):
        run(sys.argv[1], sys.argv[2])
"""

KINDS = ["legacy", "isolated"]

has_public = pytest.mark.skipif(sys.version_info < (3, 14), reason="concurrent.interpreters came with Python 3.14")

ALL_KINDS = [*KINDS, pytest.param("public", marks=has_public)]

has_threads = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="until Python 3.12 one has no threads, or can't be ended while one is ending"
)


def run(main: str, kind: str, program: str = "", times: int = 2) -> str:
    """What a process prints that runs subinterpreters; it must end well, and say nothing else."""
    environment = {name: value for name, value in os.environ.items() if name != unio.backends.VARIABLE}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [SOURCE, environment.get("PYTHONPATH")]))
    command = [sys.executable, "-c", main, kind, program, str(times)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PROGRAM, check=False)
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    return ended.stdout


SERVES = """
import socket, unio
def serve(name):
    near, far = socket.socketpair()
    with near, far, unio.Port(backend=name) as port:
        handle = port.associate(near)
        recv, send = unio.Recv(handle), unio.Send(handle, b"from here")
        for _ in range(3):
            port.submit(recv)
            port.submit(send)
            far.sendall(b"from there")
            found = []
            while len(found) < 2:
                found += port.wait(30)
            assert {each.error for each in found} == {None}, found
            assert recv.data == b"from there"
            assert far.recv(100) == b"from here"
    return port.backend
served = 0
for candidate in unio.backends.candidates():
    if candidate.available:
        assert serve(candidate.name) == candidate.name
        served += 1
        continue
    try:
        unio.Port(backend=candidate.name)
    except unio.BackendUnavailable as error:
        assert candidate.reason in str(error)
if served:
    serve(None)
print("served" if served else "none")
"""


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_each_backend_serves_in_a_subinterpreter_or_says_why_it_can_not(kind: str) -> None:
    words = set(run(RUN, kind, SERVES).split())
    assert len(words) == 1
    if sys.platform == "linux":
        assert words == {"served"}


@linux
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_doctor_says_what_is_lacking_in_a_subinterpreter(kind: str) -> None:
    # Once: the second isolated one of Python 3.12 that imports datetime, as importlib.metadata does, ends the process.
    found = json.loads(run(RUN, kind, "from unio.cli import main\nmain(['doctor', '--json'])", times=1))
    assert found["backend"] == "epoll"
    lacking = {each["name"]: each["reason"] for each in found["candidates"] if not each["available"]}
    if accelerator.core is None:
        assert found["c_part"] == f"absent: {accelerator.no_fast_path}"
    elif kind != "legacy" and sys.version_info >= (3, 12):
        assert "unio._core does not support loading in subinterpreters" in found["c_part"]
        assert "unio._core does not support loading in subinterpreters" in lacking["io_uring"]
    else:
        assert found["c_part"].startswith("there, without the fast path: ")


FILES = """
import sys, unio
port = unio.Port()
with unio.open(path, "w+b") as file:
    handle = port.associate(file)
    for operation in (unio.Write(handle, b"data", 0), unio.Flush(handle), unio.Read(handle, buffer := bytearray(4), 0)):
        for _ in range(20):
            port.submit(operation)
            [found] = port.wait(30)
            assert found.operation is operation and found.error is None, found
    many = [unio.Write(handle, bytes([number]), number) for number in range(100)]
    for operation in many:
        port.submit(operation)
    found = []
    while len(found) < len(many):
        found += port.wait(30)
    assert {each.error for each in found} == {None}
assert buffer == b"data"
assert open(path, "rb").read() == bytes(range(100))
"""


@linux
@has_threads
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["", "port.close()"])
def test_files_are_read_and_written_in_a_subinterpreter_and_no_thread_is_left(
    kind: str, end: str, tmp_path: Path
) -> None:
    run(RUN, kind, f"path = {str(tmp_path / 'file')!r}\n{FILES}{end}")


POOL = """
import threading, unio
done = []
port = unio.Port()
pool = unio.Pool(port, lambda found: done.append(found.key), threads=3)
for number in range(20):
    port.post(number)
assert pool.submit(threading.get_ident).result(30) != threading.get_ident()
"""


@linux
@has_threads
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["", "pool.shutdown()\nassert sorted(done) == list(range(20))\n"])
def test_a_pool_works_in_a_subinterpreter_and_ends_with_it(kind: str, end: str) -> None:
    run(RUN, kind, POOL + end)


BEGINNING = """
import socket, sys, threading, warnings
import unio
warnings.simplefilter("ignore", ResourceWarning)  # of the sockets
near, far = socket.socketpair()
port = unio.Port(backend=name)
handle = port.associate(near)
port.post("this thread waits")
port.wait()
"""

ENDINGS = {
    "in flight": "port.submit(unio.Recv(handle)); port.submit(unio.Timer(3600)); port.wait(0)",
    "gathered": "port.submit(unio.Recv(handle)); port.submit(unio.Send(handle, b'data'))",
    "of a function": "def kept(): return port, handle, near, far\nsys.kept = kept",
    "in a cycle": "handle.key = port; port.submit(unio.Recv(handle)); del port, handle",
    "of a thread": "local = threading.local(); local.port, local.handle = port, handle; del port, handle",
    "dropped": "port.submit(unio.Recv(handle)); port.wait(0); del port, handle",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_subinterpreter_ends_without_a_word(kind: str, ending: str) -> None:
    program = f"""
import unio
for name in [each.name for each in unio.backends.candidates() if each.available]:
    exec({BEGINNING + ENDINGS[ending]!r})
"""
    assert run(RUN, kind, program) == ""


@linux
def test_the_part_in_c_stays_with_the_main_interpreter() -> None:
    program = f"""
import sys
exec({RUN.partition("if __name__")[0]!r})
SERVES = {SERVES!r}
run("legacy", SERVES)
from unio.backends.common import accelerator
exec(SERVES)
run("legacy", SERVES)
exec(SERVES)
assert accelerator.has_fast_path == (accelerator.core is not None), accelerator.no_fast_path
"""
    assert run(program, "legacy").split() == ["served"] * 4


AT_ONCE = """
import sys, threading
from concurrent import interpreters
several = [interpreters.create() for _ in range(3)]
threads = [threading.Thread(target=each.exec, args=[sys.argv[2]]) for each in several]
for each in threads:
    each.start()
exec(sys.argv[2])
for each in threads:
    each.join()
for each in several:
    each.close()
"""


@linux
@has_public
def test_interpreters_serve_at_the_same_time() -> None:
    assert run(AT_ONCE, "public", SERVES).split() == ["served"] * 4


GIVEN = """
import socket, unio
from concurrent import interpreters
near, far = socket.socketpair()
queue = interpreters.create_queue()
with near, far, unio.Port() as port:
    handle = port.associate(near)
    for own in (port, handle, unio.Recv(handle), unio.Timer(0)):
        try:
            queue.put(own)
        except interpreters.NotShareableError:
            continue
        raise AssertionError(own)
"""


@has_public
def test_what_belongs_to_one_interpreter_is_not_given_to_another() -> None:
    assert run(GIVEN, "public") == ""


SHARED = """
import socket
from concurrent import interpreters
near, far = socket.socketpair()
buffer = bytearray(4)
interpreter = interpreters.create()
with near, far, memoryview(buffer) as shared:
    far.sendall(b"data")
    interpreter.prepare_main(buffer=shared, number=near.fileno())
    interpreter.exec('''if True:
        import unio
        with unio.Port() as port:
            recv = unio.Recv(port.associate(number), buffer)
            port.submit(recv)
            [found] = port.wait(30)
            assert found.error is None and found.transferred == 4, found
        del recv, found
        buffer.release()
    ''')
    interpreter.close()
assert buffer == b"data"
"""


@linux
@has_public
def test_a_buffer_of_another_interpreter_is_filled_in_place() -> None:
    assert run(SHARED, "public") == ""

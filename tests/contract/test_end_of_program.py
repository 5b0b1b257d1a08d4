"""A program that ends with ports open, threads in their waits and packets on their way ends without a word."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import channels
import pytest
import support

BEGINNING = """
import gc, socket, subprocess, sys, threading, warnings
import unio
warnings.simplefilter("ignore", ResourceWarning)  # of the sockets
near, far = socket.socketpair()
port = unio.Port(backend=sys.argv[1])
handle = port.associate(near)
def kept():
    return port, handle, near, far
"""

IDLE = ""

WAITING = """
for _ in range(3):
    threading.Thread(target=port.wait, daemon=True).start()
"""

PASSING_ON = """
def pass_on():
    while True:
        for packet in port.wait():
            port.post(packet.key)
for number in range(3):
    threading.Thread(target=pass_on, daemon=True).start()
    port.post(number)
"""

HAS_WAITED = """
port.post("key")
port.wait()
threading.Thread(target=port.wait, args=(0,)).start()
"""


@pytest.mark.clause("P11")
@pytest.mark.parametrize("program", [IDLE, WAITING, PASSING_ON, HAS_WAITED])
def test_a_program_ends_without_a_word(backend: str, program: str) -> None:
    for _ in range(5):
        assert channels.run_script(BEGINNING + program, backend) == ""


IN_FLIGHT = """
port.wait(0)
operations = [unio.Recv(handle), unio.Poll(handle, unio.Readiness.READABLE), unio.Timer(3600)]
for operation in operations:
    port.submit(operation, 3600)
port.wait(0)
"""

GATHERED = """
port.post("key")
port.wait()
operations = [unio.Recv(handle), unio.Send(handle, b"data")]
for operation in operations:
    port.submit(operation)
"""

OF_A_FILE = """
file = unio.open(sys.argv[2], "w+b")
operation = unio.Write(port.associate(file), bytes(1_000_000), 0)
port.submit(operation)
port.wait(0)
"""

OF_A_PROCESS = """
process = subprocess.Popen([sys.executable, "-S", "-E", "-c", "input()"], stdin=subprocess.PIPE)
operation = unio.ProcessExit(process)
port.submit(operation)
port.wait(0)
process.kill()
process.wait()
"""

OF_A_PIPE = """
reader, writer = unio.pipe()
piped = port.associate(reader)
operation = unio.Recv(piped)
port.submit(operation)
port.wait(0)
"""

BLOCKED = """
port.post("key")
port.wait()
blocked = port.blocking()
blocked.__enter__()
"""

BLOCKED_IN_A_GENERATOR = """
def blocks():
    with port.blocking():
        yield
port.post("key")
port.wait()
generator = blocks()
next(generator)
"""

OF_TWO_PORTS = """
other = unio.Port(backend=sys.argv[1])
for each in (port, other, port):
    each.post("key")
    each.wait()
"""

DROPPED = """
port.submit(unio.Recv(handle))
port.wait(0)
del port, handle
"""

STATES = {
    "in flight": IN_FLIGHT,
    "gathered": GATHERED,
    "of a file": OF_A_FILE,
    "of a pipe": OF_A_PIPE,
    "of a process": OF_A_PROCESS,
    "blocked": BLOCKED,
    "blocked in a generator": BLOCKED_IN_A_GENERATOR,
    "of two ports": OF_TWO_PORTS,
}

HOLDERS = {
    "its module": "",
    "a function": "sys.kept = kept",
    "a cycle": "handle.key = port; del port",
    "a thread-local": "local = threading.local(); local.kept = port, handle; del port, handle",
}

PAIRS = [(state, list(HOLDERS)[number % len(HOLDERS)]) for number, state in enumerate(STATES)]
PAIRS += [("in flight", holder) for holder in HOLDERS if ("in flight", holder) not in PAIRS]


@pytest.mark.clause("P11")
@pytest.mark.parametrize(("state", "holder"), PAIRS)
def test_whatever_is_in_flight_and_whoever_holds_the_port_nothing_is_said(
    backend: str, tmp_path: Path, state: str, holder: str
) -> None:
    program = BEGINNING + STATES[state] + HOLDERS[holder]
    assert channels.run_script(program, backend, str(tmp_path / "file")) == ""


@pytest.mark.clause("P11")
@pytest.mark.parametrize("state", ["in flight", "blocked", "blocked in a generator"])
@pytest.mark.parametrize("end", ["sys.exit()", "threading.Thread(target=gc.collect).start()", DROPPED])
def test_however_a_program_ends_nothing_is_said(backend: str, state: str, end: str) -> None:
    assert channels.run_script(BEGINNING + STATES[state] + end, backend) == ""


@pytest.mark.clause("P11")
def test_a_program_that_ends_with_an_error_says_nothing_else(backend: str) -> None:
    program = f"{BEGINNING}{IN_FLIGHT}{WAITING}raise LookupError('the end')"
    ended = channels.ended_script(program, backend)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "LookupError: the end"
    assert "Exception ignored" not in ended.stderr
    assert ended.stderr.count("Traceback") == 1


@pytest.mark.clause("S9")
def test_what_the_main_thread_has_submitted_at_the_end_of_the_program_is_started(
    backend: str, resources: contextlib.ExitStack, make_listener: Any
) -> None:
    listening = make_listener()
    program = """
import socket, sys, unio, warnings
warnings.simplefilter("ignore", ResourceWarning)  # of the socket
sock = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
port = unio.Port(backend=sys.argv[1])
handle = port.associate(sock)
port.post("this thread waits")
port.wait()
port.submit(unio.Send(handle, b"the end"))
"""
    channels.run_script(program, backend, str(listening.getsockname()[1]))
    accepted = resources.enter_context(listening.accept()[0])
    accepted.settimeout(support.PATIENCE)
    assert support.recv_to_end(accepted) == b"the end"

"""The command says what it has to say to whatever is left to say it to, and serves on where nothing is."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command import FAULTY, PATIENCE, command, environment, everything, received, run
from platforms import LINUX, WINDOWS, needs_rlimit, needs_signals

STDIN, STDOUT, STDERR = range(3)

BAD = [
    pytest.param("closed", marks=pytest.mark.skipif(WINDOWS, reason="needs streams that a process can start without")),
    "broken",
    pytest.param("full", marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")),
]
"""What a standard stream may be like."""

CLOSING = "import os, sys\nfor each in sys.argv.pop(1): os.close(int(each))\nos.execv(sys.executable, sys.argv[1:])"
"""Python that becomes another program which starts without some standard streams."""

COMMANDS = [["doctor"], ["doctor", "--json"], ["--help"], ["serve", "echo", "--help"], ["--version"]]


@contextlib.contextmanager
def started(arguments, bad, like, before="", unbuffered=""):
    """The command as a process whose streams *bad* are *like* that; the others are pipes."""
    with contextlib.ExitStack() as stack:
        streams = dict.fromkeys((STDOUT, STDERR), subprocess.PIPE)
        program = command(*arguments, before=before)
        if like == "closed":
            closed = "".join(map(str, bad))
            program = [sys.executable, "-c", CLOSING, closed, *program]
        else:
            streams |= dict.fromkeys(bad, stack.enter_context(taking_nothing(like)))
        process = subprocess.Popen(
            program,
            env=environment(PYTHONUNBUFFERED=unbuffered),
            stdout=streams[STDOUT],
            stderr=streams[STDERR],
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def taking_nothing(like):
    """A descriptor that can't be written to."""
    if like == "full":
        with open("/dev/full", "wb") as full:
            yield full.fileno()
        return
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def outcome(arguments, bad, like, unbuffered=""):
    """The status, and what was said to the streams that are left."""
    with started(arguments, bad, like, unbuffered=unbuffered) as process:
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out or "", err or ""


@pytest.mark.parametrize("like", BAD)
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_what_cannot_be_printed_is_said_in_one_line(arguments, unbuffered, like):
    status, _, err = outcome(arguments, [STDOUT], like, unbuffered)
    assert status == 2
    assert err.startswith("python -m unio: can't write to standard output: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("like", BAD)
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_without_standard_error_all_is_printed(arguments, like):
    status, out, _ = outcome(arguments, [STDERR], like)
    assert (status, out) == (0, run(*arguments).stdout)


@pytest.mark.parametrize("like", BAD)
@pytest.mark.parametrize("arguments", [*COMMANDS, [], ["serve", "echo", "--port", "http"]], ids=" ".join)
def test_without_both_the_status_still_tells(arguments, like):
    assert outcome(arguments, [STDOUT, STDERR], like)[0] == 2


@pytest.mark.parametrize("like", BAD)
@pytest.mark.parametrize("arguments", [[], ["serve", "echo", "--port", "http"]], ids=" ".join)
def test_a_problem_that_cannot_be_said_still_has_its_status(arguments, like):
    assert outcome(arguments, [STDERR], like)[0] == 2


def test_what_the_encoding_of_the_output_lacks_is_escaped():
    done = run("doctor", UNIO_BACKEND="\u20ac", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (1, "")
    assert "\\u20ac" in done.stdout


# Servers


@pytest.fixture(params=["echo", "files"])
def server(request, tmp_path):
    return ["serve", request.param, str(tmp_path)] if request.param == "files" else ["serve", request.param]


@needs_signals
@pytest.mark.parametrize("like", BAD)
def test_a_server_without_standard_output_says_on_the_other_where_it_listens(server, like):
    with started([*server, "--port", "0"], [STDOUT], like) as process:
        line = process.stderr.readline()
        assert line.startswith("listening on 127.0.0.1:")
        socket.create_connection(("127.0.0.1", int(line.split()[2].split(":")[1])), PATIENCE).close()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")


@contextlib.contextmanager
def reserved_port():
    """A number that nobody else gets meanwhile, and a server can listen on: neither socket insists on being alone."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def connected(process, port):
    """A client of the server that the process is about to be."""
    while True:
        assert process.poll() is None
        try:
            return socket.create_connection(("127.0.0.1", port), PATIENCE)
        except ConnectionRefusedError:
            continue


@pytest.mark.skipif(not LINUX, reason="needs a port that two sockets have of which one does not listen")
@pytest.mark.parametrize("like", BAD)
def test_a_server_without_any_stream_serves_and_ends_in_order(like):
    bad = [STDIN, STDOUT, STDERR] if like == "closed" else [STDOUT, STDERR]
    with reserved_port() as port, started(["serve", "echo", "--port", str(port)], bad, like) as process:
        with connected(process, port) as client:
            client.sendall(b"to nobody else")
            assert received(client, 14) == b"to nobody else"
            for stream in bad:  # none has become a socket, which would be given what is meant for it
                assert not os.readlink(f"/proc/{process.pid}/fd/{stream}").startswith("socket:")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


@needs_signals
@pytest.mark.parametrize("like", BAD)
def test_a_fault_that_cannot_be_said_harms_no_other_client(like):
    with started(["serve", "echo", "--port", "0"], [STDERR], like, before=FAULTY) as process:
        port = int(process.stdout.readline().split()[2].split(":")[1])
        with connected(process, port) as other:
            for _ in range(2):
                with connected(process, port) as client:
                    client.sendall(b"thirteen byte")
                    assert everything(client) == b"thirteen byte"
            other.sendall(b"still here")
            assert received(other, 10) == b"still here"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


@needs_rlimit
@pytest.mark.parametrize("like", BAD)
def test_a_lack_of_descriptors_that_cannot_be_said_is_survived(like):
    limit = 40
    before = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
        "import unio.cli.server as server; server.ACCEPTS = 1"  # so that none may be lost
    )
    with started(["serve", "echo", "--port", "0"], [STDERR], like, before=before) as process:
        port = int(process.stdout.readline().split()[2].split(":")[1])
        clients = [connected(process, port) for _ in range(limit * 2)]
        last = clients.pop()
        last.sendall(b"last")
        for client in clients:
            client.close()
        assert received(last, 4) == b"last"
        last.close()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0

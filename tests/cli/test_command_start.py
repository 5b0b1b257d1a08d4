"""What keeps a server of ``python -m unio serve`` from starting is said in a line or a few, never in a traceback."""

from __future__ import annotations

import errno
import os
import signal
import socket

import pytest
from command import UNPRIVILEGED, DidNotStart, Served, run
from platforms import needs_rlimit, needs_signals, needs_to_lose_rights
from web import get

import unio


@pytest.fixture(params=["echo", "files"])
def server(request, tmp_path):
    return [request.param, str(tmp_path)] if request.param == "files" else [request.param]


def refused(*arguments, **changes):
    """The one line that the command says instead of starting."""
    done = run("serve", *arguments, **changes)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_port_in_use_is_refused(server):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        said = refused(*server, "--port", port)
    assert port in said
    assert "in use" in said


def test_an_address_of_another_machine_is_refused(server):
    assert "192.0.2.1" in refused(*server, "--host", "192.0.2.1")


def test_what_is_no_host_name_is_refused(server):
    assert "a..b" in refused(*server, "--host", "a..b")


@pytest.mark.parametrize("port", ["-1", "65536", "http", "1.5", "²"])
def test_what_is_no_port_number_is_refused(server, port):
    assert port in refused(*server, f"--port={port}")


@pytest.mark.parametrize("threads", ["0", "many", "1000000"])
def test_what_is_no_number_of_threads_is_refused(server, threads):
    assert threads in refused(*server, "--threads", threads)


@pytest.mark.parametrize("grace", ["-1", "inf", "nan", "soon"])
def test_what_is_no_time_limit_is_refused(server, grace):
    assert grace in refused(*server, f"--grace={grace}")


@pytest.mark.parametrize(("arguments", "source"), [(["--backend", "abacus"], "--backend"), ([], "UNIO_BACKEND")])
def test_an_unknown_backend_is_refused_in_lines_that_can_be_read(server, arguments, source):
    done = run("serve", *server, "--port", "0", *arguments, UNIO_BACKEND="abacus")
    assert (done.returncode, done.stdout) == (2, "")
    first, *others = done.stderr.splitlines()
    assert "'abacus'" in first
    assert source in first
    for candidate in unio.backends.candidates():
        assert any(line.startswith(f"  {candidate.name}: ") for line in others)
    assert max(map(len, done.stderr.splitlines())) <= 100


def test_a_directory_that_is_missing_is_refused(tmp_path):
    assert "missing" in refused("files", str(tmp_path / "missing"))
    (tmp_path / "file").write_bytes(b"")
    assert "file" in refused("files", str(tmp_path / "file"))


def test_without_h11_the_extra_is_named(tmp_path):
    (tmp_path / "h11.py").write_text("raise ModuleNotFoundError('No module named h11', name='h11')")
    assert "pip install unio[http]" in refused("files", str(tmp_path), PYTHONPATH=str(tmp_path))


def test_without_a_command_the_help_is_named():
    done = run()
    assert done.returncode == 2
    assert "--help" in done.stderr
    assert run("serve").returncode == 2
    assert run("--help").returncode == 0


# The directory


@needs_to_lose_rights
@pytest.mark.parametrize("mode", [0o000, 0o100, 0o300, 0o400, 0o600])
def test_a_directory_that_may_not_be_read_is_refused(tmp_path, mode):
    directory = tmp_path / "private"
    directory.mkdir()
    directory.chmod(mode)
    said = refused("files", str(directory), "--port", "0", before=UNPRIVILEGED)
    assert "private" in said
    assert os.strerror(errno.EACCES) in said


@needs_to_lose_rights
def test_a_directory_that_may_only_be_read_is_served(tmp_path):
    tmp_path.chmod(0o500)
    with Served("files", str(tmp_path), before=UNPRIVILEGED) as served:
        assert get(served, "/")[0].status == 200


# The system


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE, errno.EPERM])
def test_a_port_that_the_system_refuses_is_said_why(server, number):
    before = f"import unio\ndef fail(*_, **__): raise OSError({number}, 'some_call fails')\nunio.Port.__new__ = fail"
    assert os.strerror(number) in refused(*server, "--port", "0", before=before)


def test_a_library_that_a_port_cannot_use_is_named(server):
    before = "import unio\ndef fail(*_, **__): raise ImportError('libwrong is of 1999')\nunio.Port.__new__ = fail"
    assert "libwrong" in refused(*server, "--port", "0", before=before)


@needs_rlimit
def test_with_too_few_descriptors_it_says_so(server):
    # What is imported takes descriptors too, and is not what this is about.
    before = (
        "import os, resource, encodings.idna, unio, unio.cli, unio.cli.echo, unio.cli.files\n"
        "unio.Port().close()\n"
        "main = unio.cli.main\n"
        "def limited():\n"
        "    free = os.dup(2); os.close(free)\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (free + {0}, free + {0}))\n"
        "    return main()\n"
        "unio.cli.main = limited"
    )
    refusals = [refusal(*server, before=before.format(spare)) for spare in range(10)]
    assert all(refusals[:3])  # the listener and the port take as many
    assert not refusals[-1]
    for said in filter(None, refusals):
        assert said.status == 2
        assert said.stderr.count("\n") == 1, said.stderr
        assert os.strerror(errno.EMFILE) in said.stderr


def refusal(*arguments, before):
    """How the server refuses to start, or None."""
    try:
        with Served(*arguments, before=before):
            return None
    except DidNotStart as refusal:
        return refusal


@pytest.mark.parametrize("had", [0, 3])
def test_threads_that_cannot_be_had_are_said_to_be_too_many(server, had):
    before = (
        "import threading\n"
        f"start, left = threading.Thread.start, [None] * {had}\n"
        "def fail(thread):\n"
        "    if not left: raise RuntimeError('no thread')\n"
        "    left.pop(); start(thread)\n"
        "threading.Thread.start = fail"
    )
    assert "threads: no thread" in refused(*server, "--port", "0", "--threads", "8", before=before)


# Ctrl-C, which arrives while a module is imported: one that says when that is


@pytest.fixture
def interrupted(tmp_path):
    """Makes a module that interrupts whoever imports it, and ends those that go on; gives the way to it."""

    def make(name):
        program = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(77)"
        (tmp_path / f"{name}.py").write_text(program)
        return {"PYTHONPATH": str(tmp_path)}

    return make


def signals(handler):
    """Python that makes sure how Ctrl-C was handled before, as the process may have inherited something."""
    return f"import signal; signal.signal(signal.SIGINT, signal.{handler})"


@needs_signals
@pytest.mark.parametrize(
    ("arguments", "module"),
    [(["doctor"], "argparse"), (["serve", "echo"], "argparse"), (["serve", "files", "."], "h11")],
)
def test_ctrl_c_before_the_start_ends_it_without_a_word(interrupted, arguments, module):
    done = run(*arguments, before=signals("default_int_handler"), **interrupted(module))
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@needs_signals
def test_ctrl_c_that_whoever_started_it_ignores_stays_ignored(interrupted):
    done = run("doctor", before=signals("SIG_IGN"), **interrupted("argparse"))
    assert (done.returncode, done.stdout, done.stderr) == (77, "", "")


@needs_signals
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_that_comes_before_the_server_says_that_it_listens_ends_it_in_order(server, name):
    before = (
        "import signal\n"
        "import unio.cli.starting as starting\n"
        "begin = starting.stop_on_signals\n"
        "def interrupted(server):\n"
        "    begin(server)\n"
        f"    signal.raise_signal(signal.{name})\n"
        "starting.stop_on_signals = interrupted"
    )
    done = run("serve", *server, "--port", "0", before=before)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("listening on ")

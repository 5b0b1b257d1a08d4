"""Child processes: their pipes, their ends, and that nobody has to watch them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
import support
from awaits import until

PIPE = subprocess.PIPE

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such thing")

COPY = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"


def python(code: str) -> list[str]:
    """The command line of a program."""
    return [sys.executable, "-S", "-E", "-c", code]


async def start(code: str, **options: Any) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(*python(code), **options)


def test_a_child_reads_what_it_is_written_and_writes_what_is_read(run) -> None:
    async def main() -> None:
        process = await start(COPY, stdin=PIPE, stdout=PIPE)
        data = os.urandom(300_000)
        assert await process.communicate(data) == (data, None)
        assert process.returncode == 0

    run(main())


def test_the_outputs_are_apart_unless_they_are_one(run) -> None:
    code = "import sys; sys.stdout.write('out'); sys.stdout.flush(); sys.stderr.write('err')"

    async def main() -> None:
        process = await start(code, stdout=PIPE, stderr=PIPE)
        assert await process.communicate() == (b"out", b"err")
        process = await start(code, stdout=PIPE, stderr=subprocess.STDOUT)
        assert await process.communicate() == (b"outerr", None)

    run(main())


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_a_wait_tells_the_exit_status(run, status: int) -> None:
    async def main() -> None:
        process = await start(f"raise SystemExit({status})")
        assert await asyncio.gather(process.wait(), process.wait()) == [status] * 2
        assert await process.wait() == process.returncode == status

    run(main())


def test_a_shell_runs_a_command(run) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_shell("exit 3")
        assert await process.wait() == 3
        process = await asyncio.create_subprocess_shell("echo hello", stdout=PIPE)
        assert (await process.communicate())[0].strip() == b"hello"

    run(main())


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_a_child_is_ended(run, how: str) -> None:
    async def main() -> None:
        process = await start("import time; print('ready', flush=True); time.sleep(3600)", stdout=PIPE)
        assert process.stdout is not None
        assert (await process.stdout.readline()).strip() == b"ready"
        getattr(process, how)()
        status = await process.wait()
        if sys.platform == "win32":
            assert status == 1
        else:
            assert status == -{"kill": signal.SIGKILL, "terminate": signal.SIGTERM}[how]
        with contextlib.suppress(ProcessLookupError):  # unless its pipes are there still
            process.kill()

    run(main())


@posix
def test_a_child_is_sent_signals(run) -> None:
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(9))\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()"
    )

    async def main() -> None:
        process = await start(code, stdout=PIPE)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGUSR1)
        assert await process.wait() == 9

    run(main())


@posix
def test_a_signal_to_a_child_that_has_ended_and_was_waited_for_goes_to_nobody(run) -> None:
    sent = []

    async def main() -> None:
        process = await start("print('bye')", stdout=PIPE)
        transport = process._transport  # type: ignore[attr-defined]
        transport.get_pipe_transport(1).pause_reading()
        # Its output is not read, so that the transport is still there when it has ended.
        await until(lambda: transport.get_returncode() is not None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "kill", lambda *arguments: sent.append(arguments))
            transport.send_signal(signal.SIGTERM)
            transport.kill()
        assert sent == []
        transport.get_pipe_transport(1).resume_reading()
        await process.wait()

    run(main())


def test_a_child_that_reads_no_more_breaks_its_pipe_and_nothing_else(run) -> None:
    async def main() -> None:
        process = await start("import sys; sys.stdin.close(); print('closed', flush=True); input and None", stdin=PIPE)
        assert process.stdin is not None
        process.stdin.write(bytes(1 << 20))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await process.stdin.drain()  # which waits until there is room
        assert await process.wait() == 0

    run(main())


def test_what_a_child_writes_is_read_line_by_line_as_it_comes(run) -> None:
    code = "import sys\nfor line in sys.stdin: print(line.strip().upper(), flush=True)"

    async def main() -> None:
        process = await start(code, stdin=PIPE, stdout=PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        for word in (b"one", b"two", b"three"):
            process.stdin.write(word + b"\n")
            assert (await process.stdout.readline()).strip() == word.upper()
        process.stdin.close()
        assert await process.wait() == 0

    run(main())


def test_many_children_end_in_any_order(run) -> None:
    async def main() -> None:
        children = [await start(f"raise SystemExit({number})") for number in range(8)]
        assert await asyncio.gather(*(child.wait() for child in children)) == list(range(8))

    run(main())


def test_what_can_not_be_started_is_an_error(run, tmp_path) -> None:
    async def main() -> None:
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec(str(tmp_path / "nothing"), stdin=PIPE, stdout=PIPE)
        with pytest.raises(ValueError, match="bufsize"):
            await asyncio.get_running_loop().subprocess_exec(asyncio.SubprocessProtocol, "x", bufsize=1)

    run(main())


def test_a_protocol_is_told_of_each_thing(run) -> None:
    told: list[Any] = []

    class Child(asyncio.SubprocessProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            told.append("made")

        def pipe_data_received(self, fd: int, data: bytes) -> None:
            told.append((fd, data.strip()))

        def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
            told.append((fd, exc))

        def process_exited(self) -> None:
            told.append("exited")

        def connection_lost(self, exc: Exception | None) -> None:
            ended.set_result(exc)

    async def main() -> None:
        nonlocal ended
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        transport, _ = await loop.subprocess_exec(Child, *python("print('hello')"), stdin=None, stderr=None)
        assert transport.get_pid() == transport.get_extra_info("subprocess").pid
        assert transport.get_pipe_transport(0) is None
        assert await ended is None
        assert transport.get_returncode() == 0
        assert sorted(map(str, told)) == sorted(["made", "(1, b'hello')", "(1, None)", "exited"])
        assert told[0] == "made"
        transport.close()

    ended: Any = None
    run(main())


def test_a_transport_that_is_closed_ends_its_child(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.subprocess_exec(asyncio.SubprocessProtocol, *python("input()"))
        process = transport.get_extra_info("subprocess")
        transport.close()
        transport.close()
        assert transport.is_closing()
        await until(lambda: process.returncode is not None)
        assert process.returncode != 0

    run(main())


def test_a_cancelled_wait_leaves_the_child_and_another_wait_alone(run) -> None:
    async def main() -> None:
        process = await start("input()", stdin=PIPE)
        waits = [asyncio.ensure_future(process.wait()) for _ in range(2)]
        await asyncio.sleep(0)
        waits[0].cancel()
        assert process.stdin is not None
        process.stdin.write(b"\n")
        assert await waits[1] == 0
        assert waits[0].cancelled()

    run(main())


def test_a_loop_in_another_thread_has_children_too(run, backend) -> None:
    async def main() -> int:
        process = await start("raise SystemExit(5)")
        return await process.wait()

    assert support.Background(run, main()).result() == 5
    assert threading.active_count() < 20


@posix
def test_no_child_is_left_as_a_zombie(run) -> None:
    async def main() -> int:
        process = await start("pass")
        await process.wait()
        return process.pid

    pid = run(main())
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


@posix
def test_a_child_that_somebody_else_has_waited_for_has_ended_all_the_same(run, caplog) -> None:
    async def main() -> int:
        process = await start("input()", stdin=PIPE)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        os.waitpid(process.pid, 0)  # noqa: ASYNC222 - the loop is not to see it first
        return await process.wait()

    assert run(main()) in (0, 255)


@posix
def test_a_pipe_of_a_child_may_be_held_open_by_a_grandchild(run) -> None:
    async def main() -> None:
        code = "import subprocess, sys; subprocess.Popen(['sleep', '3600']); print('started', flush=True)"
        process = await start(code, stdout=PIPE, start_new_session=True)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"started\n"
        await until(lambda: process._transport.get_returncode() is not None)  # type: ignore[attr-defined]
        assert process.returncode == 0
        os.killpg(process.pid, signal.SIGKILL)
        assert await process.stdout.read() == b""
        assert await process.wait() == 0

    run(main())

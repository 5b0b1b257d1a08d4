"""Subprocesses: their pipes are transports, and their exit is a completion, so that nobody has to watch children."""

from __future__ import annotations

import subprocess
import sys
from asyncio.base_subprocess import BaseSubprocessTransport
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

from unio.asyncio.pipes import Pipes
from unio.operations import ProcessExit

if TYPE_CHECKING:
    import asyncio

    from unio.completion import Completion

UNKNOWN = 255
"""The exit status of a child that somebody else has waited for."""


class Subprocesses(Pipes):
    """A loop that starts processes."""

    async def _make_subprocess_transport(
        self,
        protocol: asyncio.SubprocessProtocol,
        args: Any,
        shell: Any,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> SubprocessTransport:
        waiter = self.create_future()
        transport = SubprocessTransport(
            self, protocol, args, shell, stdin, stdout, stderr, bufsize, waiter=waiter, extra=extra, **kwargs
        )
        try:
            self.port.submit(ProcessExit(transport._proc, state=transport._exited))
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await transport._wait()
            raise
        return transport


class SubprocessTransport(BaseSubprocessTransport):
    """The transport of a child process."""

    if TYPE_CHECKING:  # of the base class
        _proc: Any

        def _check_proc(self) -> None: ...
        def _process_exited(self, returncode: int) -> None: ...
        async def _wait(self) -> int: ...

    def _start(self, args: Any, shell: Any, stdin: Any, stdout: Any, stderr: Any, bufsize: int, **kwargs: Any) -> None:
        self._proc = _popen(
            args,
            shell=shell,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            universal_newlines=False,
            bufsize=bufsize,
            **kwargs,
        )

    def _exited(self, completion: Completion) -> None:
        self._proc.poll()  # so that the child is no zombie
        status = completion.operation.status
        if completion.error is not None:
            logger.warning("Unknown child process pid %d, will report returncode 255", self._proc.pid)
            status = UNKNOWN
        self._process_exited(status)

    # The base class sends signals to a number, which may be another process's once this one was waited for.

    def send_signal(self, signal: int) -> None:
        self._check_proc()
        self._proc.send_signal(signal)

    def terminate(self) -> None:
        self._check_proc()
        self._proc.terminate()

    def kill(self) -> None:
        self._check_proc()
        self._proc.kill()


if sys.platform == "win32":
    import io
    import msvcrt
    import os
    from asyncio import windows_utils

    def _popen(args: Any, *, stdin: Any, stdout: Any, stderr: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        """Start a process whose pipes can join a port: those of :class:`subprocess.Popen` can't."""
        ours: dict[str, io.FileIO] = {}
        theirs: dict[str, int] = {}
        given = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        try:
            for name, value in given.items():
                if value == subprocess.PIPE:
                    ours[name], theirs[name] = _pipe(is_input=name == "stdin")
            process = subprocess.Popen(args, **(given | theirs), **kwargs)  # noqa: S603 - the caller's to choose
        except BaseException:
            for file in ours.values():
                file.close()
            raise
        finally:
            for number in theirs.values():
                os.close(number)
        for name, file in ours.items():
            setattr(process, name, file)
        return process

    def _pipe(*, is_input: bool) -> tuple[io.FileIO, int]:
        """Our end, which is overlapped, and the child's, which is not, as few programs know that."""
        near, far = windows_utils.pipe(overlapped=(True, False), duplex=is_input)  # what we write to tells of its end
        mode, flags, others = ("wb", os.O_WRONLY, os.O_RDONLY) if is_input else ("rb", os.O_RDONLY, os.O_WRONLY)
        return io.FileIO(msvcrt.open_osfhandle(near, flags), mode), msvcrt.open_osfhandle(far, others)

else:

    def _popen(args: Any, **kwargs: Any) -> subprocess.Popen[Any]:
        return subprocess.Popen(args, **kwargs)  # noqa: S603 - it is the caller's to choose

"""What a ring watches besides handles: the pipe of the signals, and processes that are to end.

It knows the ring's type in C and the port below (port), and no handle. Each watch is a poll that goes on until it is
cancelled, or the thread that has begun it ends.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

from unio.backends.engine.port import EnginePort
from unio.backends.engine.ring_requests import NOTHING, Request
from unio.backends.kernel.processes import exit_status, open_pidfd
from unio.errors import as_oserror

if TYPE_CHECKING:
    from unio._core import Ring
    from unio.backends.engine.ring_requests import Result
    from unio.operations import Operation, ProcessExit


class Watch:
    """What the exit of a process is noticed by, during one flight."""

    __slots__ = ("pidfd", "request")

    def __init__(self, pidfd: int) -> None:
        self.pidfd = pidfd
        self.request = NOTHING


class WatchingPort(EnginePort):
    """A port whose ring watches what is no handle's."""

    _ring: Ring

    # The pipe of the signals

    def _poll_signals(self) -> None:
        """Have the ring tell when something is to be read from the pipe of the signals."""
        request = Request(WatchingPort._take_over_signals, None, None)
        with self._lock:
            if self._unusable is None:  # or else the number may be another's
                self._ring.poll(request, self._signal_pipe.reader, select.POLLIN, True)
        self._ring.submit()

    def _take_over_signals(self, _whose: None, _operation: None, result: Result, _skipping: Operation | None) -> bool:
        """Act on that poll."""
        self._hear()
        if not result.detail:  # the thread that polled has ended
            self._poll_signals()
        return False

    # Processes

    def _watch_process(self, operation: ProcessExit) -> None:
        operation._native = watch = Watch(open_pidfd(operation.pid))
        self._poll_process(operation, watch)

    def _poll_process(self, operation: ProcessExit, watch: Watch) -> None:
        request = Request(WatchingPort._take_over_process, operation, watch)
        with self._lock:
            if watch.pidfd >= 0 and self._unusable is None:  # or else the number may be another's
                # One that goes on: a process that is being traced may be found to have ended long before it can be
                # waited for, and another poll would tell the same at once.
                watch.request = self._ring.poll(request, watch.pidfd, select.POLLIN, True)
        self._ring.submit()

    def _unwatch_process(self, operation: ProcessExit) -> None:
        watch = operation._native
        with self._lock:
            self._ring.cancel(watch.request)
            pidfd, watch.pidfd = watch.pidfd, -1
        self._ring.submit()  # also the poll, if another thread has just prepared it: then the number may be another's
        os.close(pidfd)

    def _take_over_process(
        self, watch: Watch, operation: ProcessExit, result: Result, _skipping: Operation | None
    ) -> bool:
        """Act on a poll of a pidfd."""
        status, error = None, None
        try:
            status = exit_status(os.P_PIDFD, watch.pidfd, os.WNOHANG)
        except OSError as failure:  # it was waited for already, or is no child
            error = as_oserror(failure) if result.number >= 0 else None
        if status is None and error is None:
            if not result.detail:  # the thread that polled has ended
                self._poll_process(operation, watch)
        elif operation._native is watch and watch.pidfd >= 0:  # else it was cancelled meanwhile
            self._detached.exited(self, operation, status, error)
        return False

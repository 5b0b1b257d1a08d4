"""The threads that do file operations, since no readiness call can say when a regular file would not block."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from unio.backends.locks import Lock
from unio.backends.processors import usable_processors

if TYPE_CHECKING:
    from collections.abc import Callable


class FilePool:
    """A bounded number of threads, started as they are needed, that call what they are given.

    A job must not raise. A thread keeps nothing alive but the job that it is doing, so that a port can be dropped
    while its pool is idle.
    """

    def __init__(self) -> None:
        self._most = min(32, usable_processors() + 4)  # these threads wait for disks much more than they compute
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = Lock()
        self._threads = 0
        self._waiting = 0  # threads that are free, less the jobs that nobody has taken yet

    def put(self, job: Callable[[], None]) -> None:
        """Have a thread call *job*, as soon as one is free."""
        with self._lock:
            start = self._waiting <= 0 and self._threads < self._most
            if start:
                self._threads += 1
            self._waiting -= 1
        self._jobs.put(job)
        if start:
            threading.Thread(target=self._work, name="unio-file", daemon=True).start()

    def close(self) -> None:
        """Let the threads end once they have done what they are doing."""
        with self._lock:
            threads = self._threads
        for _ in range(threads):
            self._jobs.put(None)

    def _work(self) -> None:
        while True:
            with self._lock:
                self._waiting += 1
            job = self._jobs.get()
            if job is None:
                return
            job()
            del job

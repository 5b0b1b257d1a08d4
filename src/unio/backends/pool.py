"""The threads that do file operations, since no readiness call can say when a regular file would not block."""

from __future__ import annotations

import functools
import importlib
import queue
import threading
from typing import TYPE_CHECKING, Any

from unio.backends.locks import Lock
from unio.backends.processors import usable_processors

if TYPE_CHECKING:
    from collections.abc import Callable


@functools.cache
def in_main_interpreter() -> bool:
    """Whether this is the interpreter that the process has begun with, and no subinterpreter."""
    for name in ("_interpreters", "_xxsubinterpreters"):  # until Python 3.13 it had the longer name
        try:
            interpreters: Any = importlib.import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() == interpreters.get_main())
    return True  # there are no others


def start_thread(work: Callable[[], None], name: str) -> None:
    """Start a thread that the end of the program need not wait for.

    That of a subinterpreter does: Python has no daemon threads there, or ends the process over one that is left.
    """
    threading.Thread(target=work, name=name, daemon=in_main_interpreter()).start()


class FilePool:
    """A bounded number of threads, started as they are needed, that call what they are given.

    A job must not raise. A thread keeps nothing alive but the job that it is doing, so that a port can be dropped
    while its pool is idle. In a subinterpreter, whose end waits for its threads, one ends when there is no job.
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
            start_thread(self._work, "unio-file")

    def close(self) -> None:
        """Let the threads end once they have done what they are doing."""
        with self._lock:
            threads = self._threads
        for _ in range(threads):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            job()
            del job

    def _next_job(self) -> Callable[[], None] | None:
        """The next job, or None for the thread to end."""
        with self._lock:
            self._waiting += 1
            if not in_main_interpreter():
                try:
                    return self._jobs.get_nowait()
                except queue.Empty:  # which the lock keeps true until this thread is not counted any more
                    self._waiting -= 1
                    self._threads -= 1
                    return None
        return self._jobs.get()

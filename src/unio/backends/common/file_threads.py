"""Threads for what only a call that blocks can do.

That is an operation of a file, as no readiness call can say when a regular file would not block, and looking up a name.

It calls what it is given, and knows neither files nor operations.
"""

from __future__ import annotations

import errno
import functools
import importlib
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from unio.backends.common.locks import Lock
from unio.backends.common.processors import usable_processors

Job: TypeAlias = Callable[[OSError | None], None]
"""What a thread of the pool calls with None. Where there is none, another calls it with the error that says so.

If there is no memory for it, the thread calls it again: it goes on where it was broken off.
"""

PAUSE_SECONDS = 0.01
"""How long a thread waits for others to give memory back."""


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

    The system may let no thread start. Then a job waits for one of those that there are; if there is none at all, it is
    refused: called with EAGAIN, by the thread that has found that out. The next job tries again to start one.

    A job raises nothing but MemoryError. A thread keeps nothing alive but the job that it is doing, so that a port can
    be dropped while its pool is idle. In a subinterpreter, whose end waits for its threads, one ends when there is no
    job.
    """

    def __init__(self, most: int | None = None, name: str = "unio-file") -> None:
        self._most = most or min(
            32, usable_processors() + 4
        )  # these threads wait for disks much more than they compute
        self._name = name
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = Lock()
        self._threads = 0
        self._waiting = 0  # threads that are free, less the jobs that nobody has taken yet

    def put(self, job: Job) -> None:
        """Have a thread call *job*, as soon as one is free."""
        with self._lock:  # also over the put: who finds that there is no thread finds all jobs that rely on one
            self._jobs.put(job)  # first, as there may be no memory for it
            start = self._waiting <= 0 and self._threads < self._most
            self._threads += start
            self._waiting -= 1
        if start:
            self._start()

    def close(self) -> None:
        """Let the threads end once they have done what they are doing."""
        self._jobs.put(None)  # each passes it on

    def _start(self) -> None:
        try:
            start_thread(self._work, self._name)
        except BaseException as error:
            refusal = OSError(errno.EAGAIN, str(error) or os.strerror(errno.EAGAIN))
            for job in self._lose_thread():
                job(refusal)
            if not isinstance(error, Exception):  # a signal handler's; the thread may have started after all
                raise

    def _lose_thread(self) -> list[Job]:
        """Count one thread less. Returns the jobs that are left without any."""
        left: list[Job] = []
        with self._lock:
            self._threads -= 1
            while not self._threads and not self._jobs.empty():
                job = self._jobs.get()
                if job is None:
                    self._jobs.put(None)
                    break
                left.append(job)
            self._waiting += len(left)
        return left

    def _work(self) -> None:
        job: Job | None = None
        while True:
            try:
                if job is None and (job := self._next_job()) is None:
                    return
                job(None)
                job = None
            except MemoryError:
                time.sleep(PAUSE_SECONDS)

    def _next_job(self) -> Job | None:
        """The next job, or None for the thread to end."""
        with self._lock:
            self._waiting += 1
            if not in_main_interpreter():
                if not self._jobs.empty():
                    return self._jobs.get()  # at once: nobody takes one there without the lock
                self._waiting -= 1
                self._threads -= 1
                return None
        job = self._jobs.get()
        if job is None:
            self._jobs.put(None)  # for the next one
        return job

"""The kqueue backend: macOS and the BSDs.

What kqueue(2) is, what that means here, and what was chosen:

- A registration (a knote) is for one descriptor and one direction, and ends with the descriptor, also if a duplicate
  of it lives on. So a handle has two of them, made in one call; and nothing stale is left when the program closes a
  descriptor itself. A handle that is closed through unio is deleted first all the same.
- An event can have been fetched when its handle is closed and the number gets another one. Each knote carries the
  serial number of its handle, and what comes with another is dropped. It matters, since an event is not only a hint:
- The error of a connect comes with ``EV_EOF``, in ``fflags``, and some kernels think that they have told it then. It
  is kept for the attempt that asks how the connect went.
- ``EV_CLEAR`` is the edge: a knote is reported once for each time that something arrives. ``EV_EOF`` only says that no
  more will come; what came before it is still there to be read, and it is the reading that finds the end. On the write
  side it can as well be this side's own doing. ``data`` is not looked at: what it counts differs among systems and
  kinds of descriptors.
- Nothing tells of urgent data, which makes receives short with more behind them. So a short receive doesn't show that
  the socket is empty, and the lane is tried until it would block.
- A process has one knote in a kqueue, however many operations wait for it.
- ``EVFILT_USER`` interrupts the leader; where there is none, a pipe does.
- A kqueue is not inherited by a forked child. Files can be registered, but are always ready before their end: they are
  the pool's. Terminals, which macOS' kqueue refuses (EINVAL), can't join a port. What macOS' tells of a FIFO whose
  writers come and go is not what the others tell; it leads to a try like any other event, and reading decides.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from itertools import count
from typing import TYPE_CHECKING

from unio.backends.emulation import EmulatedPort
from unio.backends.interrupt import Interrupt
from unio.backends.kevent import (
    EV_ADD,
    EV_CLEAR,
    EV_DELETE,
    EV_EOF,
    EV_ONESHOT,
    NOTE_EXIT,
    Change,
    Kqueue,
    dialect,
)
from unio.backends.processes import exit_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.backends.kevent import Kevent
    from unio.backends.lanes import EmulatedHandle
    from unio.operations import ProcessExit

HAS_WAITID = hasattr(os, "waitid")
"""Python has it on macOS since 3.13. Before, the event has to tell the status."""

PID_MAX = 2**31 - 1
"""The largest number that a process can have; the kernel would cut off what is beyond."""


def unavailable() -> str | None:
    """Why this backend can't run here, or None."""
    if sys.maxsize < 2**63 - 1:
        return "its layout of struct kevent is that of 64-bit systems"
    try:
        Kqueue().close()
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):  # those pass; the rest is a sandbox, or no kqueue
            return f"kqueue fails: {error}"
    return None


class _Watch:
    """The operations that wait for one process."""

    def __init__(self, serial: int) -> None:
        self.serial = serial
        self.operations: list[ProcessExit] = []


class KqueuePort(EmulatedPort):
    """A port over one kqueue."""

    backend = "kqueue"
    tells_urgent = False

    def _make_interrupt(self) -> Callable[[], None]:
        self._kqueue = Kqueue()
        self._spoken = dialect()
        self._watches: dict[int, _Watch] = {}  # by the number of the process
        self._serials = count(1)
        self._pipe: Interrupt | None = None
        if self._kqueue.change(Change(0, self._spoken.user, EV_ADD | EV_CLEAR)) == [0]:
            return self._kqueue.trigger
        ends = os.pipe()
        for end in ends:
            os.set_blocking(end, False)
        self._pipe = Interrupt(*ends)
        self._kqueue.change(Change(self._pipe.reader, self._spoken.read, EV_ADD))
        return self._pipe

    def _register(self, handle: EmulatedHandle) -> None:
        number, serial = handle.number, handle.serial
        of_reading, of_writing = self._kqueue.change(
            Change(number, self._spoken.read, EV_ADD | EV_CLEAR, udata=serial),
            Change(number, self._spoken.write, EV_ADD | EV_CLEAR, udata=serial),
        )
        # A pipe that nobody reads any more can't be asked about writing (EPIPE, and EBADF on NetBSD). The write that
        # finds it out needs no event.
        error = of_reading or (of_writing if of_writing not in (errno.EPIPE, errno.EBADF) else 0)
        if error:
            raise OSError(error, os.strerror(error))

    def _unregister(self, number: int) -> None:
        # What doesn't succeed has been done: the program or another thread has closed the descriptor.
        self._kqueue.change(Change(number, self._spoken.read, EV_DELETE), Change(number, self._spoken.write, EV_DELETE))

    def _harvest(self, timeout: float | None) -> bool:
        events = self._kqueue.wait(timeout)
        spoken = self._spoken
        for event in events:
            which = event.filter
            if which in (spoken.read, spoken.write):
                self._descriptor_event(event, readable=which == spoken.read)
            elif which == spoken.process:
                self._process_event(event)
        return bool(events)

    def _descriptor_event(self, event: Kevent, *, readable: bool) -> None:
        handle = self._table.get(event.ident)
        if handle is not None and handle.serial == event.udata:
            if event.flags & EV_EOF and event.fflags:
                handle.failure = event.fflags
            self._notice(handle, readable=readable, writable=not readable)
        elif self._pipe is not None and self._pipe.reader == event.ident:
            self._pipe.clear()

    def _watch_process(self, operation: ProcessExit) -> None:
        pid = operation.pid
        watch = self._watches.get(pid)
        if watch is None:
            watch = _Watch(next(self._serials))
            error = self._add_watch(pid, watch)
            if error == errno.ESRCH and self._has_ended(operation):
                self._end_detached(operation, None)
                return
            if error:
                raise OSError(error, os.strerror(error))
            self._watches[pid] = watch
        watch.operations.append(operation)
        operation._native = watch

    def _add_watch(self, pid: int, watch: _Watch) -> int:
        if pid > PID_MAX:
            return errno.ESRCH
        notes = NOTE_EXIT if HAS_WAITID else self._spoken.exit_notes
        [error] = self._kqueue.change(Change(pid, self._spoken.process, EV_ADD | EV_ONESHOT, notes, udata=watch.serial))
        return errno.ECHILD if error == errno.EACCES else error  # macOS, of the status of a process that is no child

    def _has_ended(self, operation: ProcessExit) -> bool:
        """Whether the process was a child that has ended before it could be watched: then macOS doesn't know it."""
        if HAS_WAITID:
            with contextlib.suppress(ChildProcessError):
                operation.status = exit_status(os.P_PID, operation.pid, os.WNOHANG)
        elif (ask := getattr(operation.process, "poll", None)) is not None:
            operation.status = ask()  # a subprocess.Popen keeps what it is told for its owner
        return operation.status is not None

    def _unwatch_process(self, operation: ProcessExit) -> None:
        watch = operation._native
        watch.operations.remove(operation)
        if not watch.operations:
            del self._watches[operation.pid]
            self._kqueue.change(Change(operation.pid, self._spoken.process, EV_DELETE))

    def _process_event(self, event: Kevent) -> None:
        pid = event.ident
        with self._lock:  # a process that has ended makes an event before who adds the watch can write it down
            watch = self._watches.get(pid)
        if watch is None or watch.serial != event.udata:  # it was cancelled meanwhile
            return
        status, error = None, None
        try:
            # Without WNOHANG: on macOS the event comes a moment before the process can be waited for.
            status = exit_status(os.P_PID, pid) if HAS_WAITID else os.waitstatus_to_exitcode(event.data)
        except OSError as failure:  # it was waited for already, or is no child
            error = failure
        with self._lock:
            for operation in list(watch.operations):
                self._end_process(operation, status, error)
        self._queue.wake()

    def _close_kernel(self) -> None:
        self._kqueue.close()
        if self._pipe is not None:
            self._pipe.close()


PORT = KqueuePort

"""The kqueue backend: macOS and the BSDs.

Here is what only kqueue does; completion over readiness is in engine, and the calls are in kernel, both of which this
may use.

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
  the socket is empty, and its operations are attempted until one would block.
- A process has one knote in a kqueue, however many operations wait for it. One that is ending, or has ended, macOS,
  NetBSD and OpenBSD don't know any more (ESRCH), though its status is there to be asked for, or will be in a moment.
  Knotes are added and deleted in the order of the table of watches: its lock is the only one that is held over a system
  call, which never blocks.
- ``EVFILT_USER`` interrupts the leader; where there is none, a pipe does.
- A FIFO is asked about in the directions that it is open for: OpenBSD refuses the other one (EINVAL). macOS' kqueue
  tells its readers nothing of the end of the last writer, so there FIFOs are looked at from time to time.
- A kqueue is not inherited by a forked child. Files can be registered, but are always ready before their end: they are
  the pool's. Terminals (a pty, /dev/tty), which macOS' kqueue refuses (EINVAL), can't join a port.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import sys
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from unio.backends.common import clock
from unio.backends.common.accelerator import FastPort, has_fast_path
from unio.backends.common.locks import Lock
from unio.backends.engine.handle import Lifecycle
from unio.backends.engine.readiness import ReadinessPort
from unio.backends.kernel.interrupt import Interrupt
from unio.backends.kernel.kevent import (
    EV_ADD,
    EV_CLEAR,
    EV_DELETE,
    EV_EOF,
    EV_ONESHOT,
    NOTE_EXIT,
    Change,
    Kqueue,
    called_in_c,
    dialect,
)
from unio.backends.kernel.processes import exit_status
from unio.errors import as_oserror
from unio.handle import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.backends.engine.handle import EngineHandle
    from unio.operations import ProcessExit

HAS_WAITID = hasattr(os, "waitid")
"""Python has it on macOS since 3.13. Before, the event has to tell the status."""

PID_MAX = 2**31 - 1
"""The largest number that a process can have; the kernel would cut off what is beyond."""

LOOK_SECONDS = 0.05
"""How often FIFOs are looked at where kqueue does not tell all of them."""


def unavailable() -> str | None:
    """Why this backend can't run here, or None."""
    if sys.maxsize < 2**63 - 1:
        return "its layout of struct kevent is that of 64-bit systems"
    try:
        kqueue, pipe = _open()
        (pipe or kqueue.trigger)()
        kqueue.wait(0)
        if pipe is not None:
            pipe.close()
        kqueue.close()
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):  # those pass; the rest is a sandbox, or no kqueue
            return f"kqueue fails: {error}"
    return None


def _open() -> tuple[Kqueue, Interrupt | None]:
    """Make what a port has of the kernel's: a kqueue, and a pipe to interrupt it where it can't interrupt itself."""
    kqueue, spoken = Kqueue(), dialect()
    if kqueue.change(Change(0, spoken.user, EV_ADD | EV_CLEAR)) == [0]:
        return kqueue, None
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    pipe = Interrupt(*ends)
    _add(kqueue, Change(pipe.reader, spoken.read, EV_ADD))
    return kqueue, pipe


def _add(kqueue: Kqueue, *changes: Change) -> None:
    """Make these changes, or raise the error of one."""
    for change, error in zip(changes, kqueue.change(*changes), strict=True):
        # A pipe that nobody reads any more can't be asked about writing (EPIPE, and EBADF on NetBSD). The write that
        # finds it out needs no event.
        if error and not (change.filter == dialect().write and error in (errno.EPIPE, errno.EBADF)):
            raise OSError(error, os.strerror(error))


class _Watch:
    """The operations that wait for one process."""

    def __init__(self, serial: int) -> None:
        self.serial = serial
        self.operations: list[ProcessExit] = []


class KqueuePort(FastPort, ReadinessPort):
    """A port over one kqueue."""

    backend = "kqueue"
    tells_urgent = False
    is_fast = has_fast_path and called_in_c()

    def __init__(self, *, backend: str | None = None, concurrency: int = 0) -> None:
        super().__init__(backend=backend, concurrency=concurrency)
        if self.is_fast:
            self._use_kqueue(self._kqueue.number, self._kqueue.address)
            self._gather(None)

    def _make_interrupt(self) -> Callable[[], None]:
        self._kqueue, self._pipe = _open()
        _add(self._kqueue, Change(self._signal_pipe.reader, dialect().read, EV_ADD))
        self._spoken = dialect()
        self._watches: dict[int, _Watch] = {}  # by the number of the process
        self._watches_lock = Lock()
        self._serials = count(1)
        self._fifos: set[EngineHandle] = set()  # that have to be looked at
        self._next_look = 0.0
        return self._pipe or self._kqueue.trigger

    def _register(self, handle: EngineHandle) -> None:
        number = handle.number
        directions = [self._spoken.read, self._spoken.write]
        if handle.kind is Kind.PIPE:
            mode = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
            directions = {os.O_RDONLY: directions[:1], os.O_WRONLY: directions[1:]}.get(mode, directions)
            has_name = handle.identity is not None and handle.identity[0] != 0  # a pipe without one is on no device
            if has_name and not self._spoken.tells_of_fifos:
                self._fifos.add(handle)
        _add(self._kqueue, *[Change(number, which, EV_ADD | EV_CLEAR, udata=handle.serial) for which in directions])

    def _unregister(self, number: int) -> None:
        # What doesn't succeed has been done: the program or another thread has closed the descriptor.
        self._kqueue.change(Change(number, self._spoken.read, EV_DELETE), Change(number, self._spoken.write, EV_DELETE))

    def _harvest(self, timeout: float | None) -> bool:
        if self._fifos:
            timeout = LOOK_SECONDS if timeout is None else min(timeout, LOOK_SECONDS)
        happened = self._harvest_events(timeout)
        if self._fifos and clock.now() >= self._next_look:
            self._look_at_fifos()
        return happened

    def _harvest_events(self, timeout: float | None) -> bool:
        if self.is_fast:
            return self._harvest_fast(-1 if timeout is None else math.ceil(timeout * 1000))
        events = self._kqueue.wait(timeout)
        self._queue.sleeping = False  # what comes of them, this thread sees without being interrupted
        for event in events:
            self._event(event.ident, event.filter, event.flags, event.fflags, event.data, event.udata)
        return bool(events)

    def _event(self, *fields: int) -> None:
        """Act on what kqueue reports: the fields of a struct kevent, in its order."""
        ident, which, flags, fflags, data, udata = fields
        spoken = self._spoken
        if which == spoken.process:
            self._process_event(ident, udata, data)
        elif which in (spoken.read, spoken.write):
            failure = fflags if flags & EV_EOF else 0
            self._descriptor_event(ident, udata, failure, readable=which == spoken.read)

    def _look_at_fifos(self) -> None:
        for handle in list(self._fifos):
            if handle.lifecycle == Lifecycle.OPEN:
                self._notice(handle, readable=True, writable=True)
            else:
                self._fifos.discard(handle)
        self._next_look = clock.now() + LOOK_SECONDS

    def _descriptor_event(self, number: int, serial: int, failure: int, *, readable: bool) -> None:
        handle = self._table.get(number)
        if handle is not None and handle.serial == serial:
            if failure:
                handle.failure = failure
            self._notice(handle, readable=readable, writable=not readable)
        elif number == self._signal_pipe.reader:
            self._hear()
        elif self._pipe is not None and self._pipe.reader == number:
            self._pipe.clear()

    def _watch_process(self, operation: ProcessExit) -> None:
        pid = operation.pid
        if pid > PID_MAX:
            raise OverflowError
        error = 0
        with self._watches_lock:
            watch = self._watches.get(pid)
            if watch is None:
                watch = _Watch(next(self._serials))
                error = self._add_watch(pid, watch)
            ask = _status_of_ended(operation) if error == errno.ESRCH else None
            if not error or ask is not None:
                self._watches[pid] = watch
                watch.operations.append(operation)
                operation._native = watch
        if ask is not None:
            self._pool.put(partial(self._process_ended, pid, watch.serial, ask))
        elif error:
            raise OSError(error, os.strerror(error))

    def _add_watch(self, pid: int, watch: _Watch) -> int:
        notes = NOTE_EXIT if HAS_WAITID else self._spoken.exit_notes
        [error] = self._kqueue.change(Change(pid, self._spoken.process, EV_ADD | EV_ONESHOT, notes, udata=watch.serial))
        return errno.ECHILD if error == errno.EACCES else error  # macOS, of the status of a process that is no child

    def _unwatch_process(self, operation: ProcessExit) -> None:
        watch = operation._native
        with self._watches_lock:
            watch.operations = [each for each in watch.operations if each is not operation]
            if not watch.operations and self._watches.get(operation.pid) is watch:
                del self._watches[operation.pid]
                self._kqueue.change(Change(operation.pid, self._spoken.process, EV_DELETE))

    def _process_event(self, pid: int, serial: int, told: int) -> None:
        ask = partial(exit_status, os.P_PID, pid) if HAS_WAITID else partial(os.waitstatus_to_exitcode, told)
        if HAS_WAITID and not _can_be_asked(pid):
            self._pool.put(partial(self._process_ended, pid, serial, ask))
        else:
            self._process_ended(pid, serial, ask)

    def _process_ended(
        self, pid: int, serial: int, ask: Callable[[], int | None], refusal: OSError | None = None
    ) -> None:
        """End the operations that wait for a process which has ended, or is about to.

        *ask* waits for its status, unless the pool has refused that.
        """
        with self._watches_lock:  # who adds the watch may not have written it down yet
            watch = self._watches.get(pid)
            if watch is None or watch.serial != serial:  # it was cancelled meanwhile
                return
            del self._watches[pid]  # the event came once, and what is submitted from here on needs another
            operations = list(watch.operations)
        status, error = None, refusal
        try:
            status = ask() if refusal is None else None
        except OSError as failure:  # it was waited for already, or is no child
            error = as_oserror(failure)
        for operation in operations:
            self._detached.exited(self, operation, status, error)

    def _close_kernel(self) -> None:
        self._kqueue.close()
        if self._pipe is not None:
            self._pipe.close()


def _can_be_asked(pid: int) -> bool:
    """Whether to ask for the status of a process that has ended takes no wait.

    On macOS the event comes a moment before there is a status, and who traces the process hears of its end first.
    """
    try:
        return exit_status(os.P_PID, pid, os.WNOHANG) is not None
    except OSError:  # it was waited for already, or is no child
        return True


def _status_of_ended(operation: ProcessExit) -> Callable[[], int | None] | None:
    """What waits for the status of a process that kqueue doesn't know, and returns it; None if nothing can.

    A child that is on its way to its end can be waited for, but only in a moment, and kqueue knows it no more.
    """
    if HAS_WAITID:
        return partial(_status_of_child, operation.pid)
    wait: Callable[[], int | None] | None = getattr(operation.process, "wait", None)  # of a Popen, which remembers it
    return wait


def _status_of_child(pid: int) -> int | None:
    try:
        return exit_status(os.P_PID, pid)
    except ChildProcessError:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None


PORT = KqueuePort

"""The epoll backend: Linux.

Here is what only epoll does; completion over readiness is in engine, which this may use.

What epoll(7) is, what that means here, and what was chosen:

- A registration belongs to the open file *description*, not to the descriptor: it outlives close() as long as a dup
  or a child has another descriptor for it, and then reports events for a number that is closed or reused. So a handle
  is unregistered before it is closed. Where the program closed it itself and a duplicate lives on, the set can't be
  told any more (``EPOLL_CTL_DEL`` wants a number that stands for the file), and it is built anew.
- Level-triggered, a descriptor with unread bytes would be reported at every call, and epoll_ctl would be needed
  around each operation. Edge-triggered, one registration lasts for the handle's life. The price is that every edge
  has to be remembered until somebody acts on it, which is what a handle's directions do.
- ``EPOLLRDHUP`` comes with the peer's end of stream. A receive that comes up short has then not shown that the socket
  is empty: the end is still to be read and no further edge will tell. ``EPOLLPRI`` is the same for urgent data.
  ``EPOLLHUP`` alone does not mean that: a TCP socket that was never connected has it.
- An eventfd interrupts the leader. It is level-triggered, so that an interruption is seen even if it came before the
  call; reading it once clears any number of them.
- A pidfd is readable once the process has ended; waitid with ``WNOWAIT`` reads the status and leaves the process to
  its owner. It is edge-triggered: who traces the process is told first, and until that one has heard of it there is no
  status. Then there is another event.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
from select import EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
from typing import TYPE_CHECKING, TypeVar

from unio.backends.common.accelerator import FastPort, has_fast_path
from unio.backends.engine.readiness import ReadinessPort
from unio.backends.kernel.interrupt import Interrupt
from unio.backends.kernel.processes import exit_status, open_pidfd
from unio.errors import as_oserror
from unio.handle import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.backends.engine.handle import EngineHandle
    from unio.operations import ProcessExit

Made = TypeVar("Made")

EVENTS_MAX = 256
"""How many events one call fetches at most; more of them wait in the kernel for the next."""

MASK = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET
EXIT = EPOLLIN | EPOLLET
READABLE = EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR
WRITABLE = EPOLLOUT | EPOLLHUP | EPOLLERR
ENDED = EPOLLRDHUP | EPOLLPRI


def unavailable() -> str | None:
    """Why this backend can't run here, or None."""
    try:
        epoll, interrupt = _open()
        _call("write", interrupt)
        _call("epoll_wait", epoll.poll, 0)
        _call("read", interrupt.clear)
        epoll.close()
        interrupt.close()
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # those pass; the rest is a sandbox
            return error.strerror
    return None


def _open() -> tuple[select.epoll, Interrupt]:
    """Make what a port has of the kernel's: an epoll instance, and what interrupts it."""
    epoll = _call("epoll_create1", select.epoll)
    eventfd = _call("eventfd", os.eventfd, 0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    interrupt = Interrupt(eventfd, eventfd)
    _call("epoll_ctl", epoll.register, eventfd, EPOLLIN)
    return epoll, interrupt


def _call(name: str, function: Callable[..., Made], *arguments: int) -> Made:
    """Make a system call; the words of its OSError name it."""
    try:
        return function(*arguments)
    except OSError as error:
        raise OSError(error.errno or 0, f"{name} fails: {error.strerror}") from None


class EpollPort(FastPort, ReadinessPort):
    """A port over one epoll instance."""

    backend = "epoll"
    is_fast = has_fast_path

    def __init__(self, *, backend: str | None = None, concurrency: int = 0) -> None:
        super().__init__(backend=backend, concurrency=concurrency)
        if self.is_fast:
            self._use_epoll(self._epoll.fileno(), self._stale)
            self._gather(None)

    def _make_interrupt(self) -> Callable[[], None]:
        self._epoll, self._interrupt = _open()
        _watch(self._epoll, self._signal_pipe.reader, EPOLLIN)
        self._processes: dict[int, tuple[ProcessExit]] = {}  # by pidfd; a new tuple each time
        self._stale: set[int] = set()
        return self._interrupt

    def _register(self, handle: EngineHandle) -> None:
        self._stale.discard(handle.number)
        _watch(self._epoll, handle.number, MASK)

    def _unregister(self, number: int) -> None:
        with contextlib.suppress(OSError, ValueError):  # the program or another thread has closed it
            self._epoll.unregister(number)

    def _harvest(self, timeout: float | None) -> bool:
        if self.is_fast:
            return self._harvest_fast(-1 if timeout is None else math.ceil(timeout * 1000))
        events = self._epoll.poll(timeout, EVENTS_MAX)
        self._queue.sleeping = False  # what comes of them, this thread sees without being interrupted
        for number, mask in events:
            self._event(number, mask)
        return bool(events)

    def _event(self, number: int, mask: int) -> None:
        handle = self._table.get(number)
        if handle is not None:
            readable, writable = bool(mask & READABLE), bool(mask & WRITABLE)
            self._notice(handle, readable=readable, writable=writable, ended=bool(mask & ENDED))
        elif number == self._interrupt.reader:
            self._interrupt.clear()
        elif number == self._signal_pipe.reader:
            self._hear()
        elif number in self._processes:
            self._process_event(number)
        else:
            self._stale_event(number)

    def _stale_event(self, number: int) -> None:
        """Deal with an event for a number that nobody has: a stale descriptor's.

        Once, it is a handle that was closed after the event was fetched. When it comes again, the registration lives
        on in a duplicate of a descriptor that the program closed itself.
        """
        if number not in self._stale:
            self._stale.add(number)
        elif self._rebuild():
            self._stale.clear()

    def _rebuild(self) -> bool:
        """Put a new set in the place of the one in use. Returns whether that could be done.

        The system may lack a descriptor or memory for it. So the set in use is left alone until the new one has all
        that it has; if that can't be, the next stale event is time enough to try again.
        """
        watched = self._watched()
        try:
            fresh = select.epoll()
            for number, mask in watched.items():
                _watch(fresh, number, mask, but=(errno.EBADF, errno.EPERM))  # it was closed, and may be a file's by now
        except OSError:
            return False
        # In one step, under the number that other threads are using: who joins from here on registers with the new one.
        os.dup2(fresh.fileno(), self._epoll.fileno(), inheritable=False)
        for number, mask in self._watched().items():
            if number not in watched:  # it has joined in between
                with contextlib.suppress(OSError):
                    _watch(self._epoll, number, mask)
        fresh.close()
        return True

    def _watched(self) -> dict[int, int]:
        """What the set is to have: the mask of each number."""
        handles = {number: MASK for number, handle in list(self._table.items()) if handle.kind is not Kind.FILE}
        own = dict.fromkeys((self._interrupt.reader, self._signal_pipe.reader), EPOLLIN)
        return handles | own | dict.fromkeys([*self._processes], EXIT)

    def _watch_process(self, operation: ProcessExit) -> None:
        pidfd = open_pidfd(operation.pid)
        operation._native = pidfd
        self._processes[pidfd] = (operation,)
        with contextlib.suppress(ValueError):  # the port was closed meanwhile, which has ended the operation
            _watch(self._epoll, pidfd, EXIT)

    def _unwatch_process(self, operation: ProcessExit) -> None:
        pidfd = operation._native
        del self._processes[pidfd]
        self._unregister(pidfd)
        os.close(pidfd)

    def _process_event(self, pidfd: int) -> None:
        watch = self._processes.get(pidfd)
        if watch is None:  # it was cancelled meanwhile
            return
        status, error = None, None
        try:
            status = exit_status(os.P_PIDFD, pidfd, os.WNOHANG)
            if status is None:
                return  # threads of it are still ending, or it is being traced; there will be another event
        except OSError as failure:  # it was waited for already, or is no child
            error = as_oserror(failure)
        if self._processes.get(pidfd) is watch:  # else the number may have been another's when it was asked
            self._detached.exited(self, watch[0], status, error)

    def _close_kernel(self) -> None:
        self._epoll.close()
        self._interrupt.close()


def _watch(epoll: select.epoll, number: int, mask: int, but: tuple[int, ...] = ()) -> None:
    """Have a set watch a number. Raises OSError, unless it is one of these."""
    try:
        epoll.register(number, mask)
    except FileExistsError:  # the set was rebuilt in between, with this in it
        epoll.modify(number, mask)
    except OSError as error:
        if error.errno not in but:
            raise


PORT = EpollPort

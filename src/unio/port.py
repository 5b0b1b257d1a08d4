"""The port: a queue of completions that any number of threads wait on."""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
import weakref
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from unio import backends
from unio.arguments import seconds, whole_number
from unio.backends.common.accelerator import Completion as Completion  # noqa: PLC0414, TC001 - it is this module's to give
from unio.backends.common.locks import Lock, holds_lock, put_off
from unio.backends.common.processors import usable_processors
from unio.dispatch import dispatch, run, stop
from unio.errors import PortClosed
from unio.finalizers import is_ending
from unio.tasks import Task, checked_coroutine

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractContextManager
    from types import TracebackType

    from unio.dispatch import Run
    from unio.handle import Handle, HasFileno
    from unio.operations import Operation

Result = TypeVar("Result")

LIMIT_DEFAULT = 64
"""How many completions one wait returns at most unless told: enough to spread the cost of the call, few enough that
other threads find something to do."""


GRACE_SECONDS = 5.0
"""How long what is in flight has to end, unless told, when a port is drained."""

QUIET_SECONDS = 1.0
"""How long something has waited for others, unless told, that counts as idle then."""

CONCURRENCY_MAX = 65536
"""More threads than any process has; every backend takes this many."""


class Port:
    """A completion port.

    Operations are submitted to it, and it queues one completion for each as it ends. Threads take completions with
    :meth:`wait`, and put packets of their own into the same queue with :meth:`post`. All methods may be called from
    any thread at any time, also while others wait.

    *concurrency* is how many threads run at once: from when a wait has returned them something until they wait again,
    wait on another port, or end, or within :meth:`blocking`. More may wait; they are released last-in first-out, as
    others stop running. 0 is as many as this process may use processors. Raises :class:`ValueError` below 0 or above
    65,536.

    *backend* names the mechanism below; without it the environment variable ``UNIO_BACKEND`` chooses, else the first
    one that is available here (see :mod:`unio.backends`). Raises :class:`unio.BackendUnavailable`, and
    :class:`OSError` when the system refuses the descriptors that a port needs.

    A port is closed by :meth:`close` or at the end of a ``with`` block. One that is dropped while operations are in
    flight emits :class:`ResourceWarning`. A port belongs to the process that made it: after a fork, the child's use
    of it raises :class:`RuntimeError` and the parent's port is untouched.
    """

    backend: str
    """The name of the backend in use."""

    _unusable: Callable[[], Exception] | None
    """Makes what every method raises once the port is closed, or in the child after a fork.

    A new one each time: what was raised keeps the frames that it has come through, and so the port.
    """

    _forked: bool
    """Whether this process was forked from the port's own."""

    concurrency: int
    """How many threads run at once."""

    def __new__(cls, *, backend: str | None = None, concurrency: int = 0) -> Self:
        checked = whole_number(concurrency, "the concurrency", CONCURRENCY_MAX)
        chosen = backends.load(backend) if cls is Port else cls
        port = object.__new__(chosen)
        port.concurrency = checked or usable_processors()
        return port  # type: ignore[return-value]

    def __init__(self, *, backend: str | None = None, concurrency: int = 0) -> None:
        del backend, concurrency  # the class was chosen with the one, and knows the other
        self._unusable = None
        self._forked = False
        self._tasks: set[Task[Any]] = set()  # those that have not ended
        self._runs_lock = Lock()  # guards the next two
        self._runs: set[Run] = set()
        self._stopping = False  # whether the packet that ends them is in the queue
        self._draining = False
        _ports.add(self)

    def associate(self, handle: HasFileno | int, key: Any = None, *, skip_on_success: bool = False) -> Handle:
        """Let a socket, pipe or file join the port, and return the handle that operations on it name.

        *handle* is an object with a ``fileno()`` or the operating system's own handle. It becomes fit for overlapped
        work: on POSIX, sockets and pipes become non-blocking, and the low-water mark of a socket (``SO_RCVLOWAT``)
        becomes 1. *key* comes back with each of its completions.

        With *skip_on_success* an operation that succeeds within submit queues nothing: submit says so by returning
        True (``FILE_SKIP_COMPLETION_PORT_ON_SUCCESS`` of SetFileCompletionNotificationModes).

        Raises :class:`unio.AssociationError` for a handle that has joined a port already (it can do so once), is
        closed, or is of a kind that can't do overlapped I/O such as a directory or a device; :class:`TypeError` for
        what is no handle, and for what encrypts what it sends, such as an :class:`ssl.SSLSocket`: associate the plain
        socket, and have :meth:`unio.Stream.start_tls` encrypt; :class:`OSError` when the system lacks descriptors or
        memory; :class:`unio.PortClosed`.
        """
        raise _left_to_the_backend()

    def submit(self, operation: Operation, timeout: float | None = None) -> bool:
        """Start an operation. Exactly one completion will follow, also if it ends at once.

        The completion is queued, not delivered here, and no code of the caller's runs inside. Returns False; only
        for a handle associated with *skip_on_success*, True means that the operation has succeeded already, its
        results are on it and no completion follows.

        With *timeout*, a number of seconds, the operation ends with :class:`TimeoutError` if it has not ended
        before. Where it can't be interrupted any more (a file operation that a thread is doing), its own result
        follows instead.

        Raises :class:`unio.InFlight` for an operation in flight, :class:`unio.NotAssociated` for one whose handle is
        another port's, :class:`TypeError` or :class:`ValueError` for wrong arguments, :class:`unio.PortClosed`. What
        the operating system says arrives as the completion's error. So does that the handle was closed, which another
        thread may do at any moment: the operation ends as :class:`unio.Cancelled`.
        """
        raise _left_to_the_backend()

    def start_gathered(self) -> None:
        """Start what this thread has submitted and the port may still be gathering.

        A thread that waits on the port may have its submissions started together at its next wait; every other
        thread's are started at once. Call this before doing something else for long.

        Raises :class:`unio.PortClosed`.
        """
        if self._unusable is not None:  # a backend that gathers nothing has no more to see to
            raise self._unusable()

    def wait(self, timeout: float | None = None, limit: int = LIMIT_DEFAULT) -> list[Completion]:
        """Wait for completions and return from 1 to *limit* of them, first in, first out.

        *timeout* is in seconds: None waits for ever, 0 only looks. An empty list means that it has passed; it never
        returns early with nothing. What is returned has left the queue: a loop over it that an exception ends drops the
        rest, so handle exceptions for each completion, or wait for one at a time.

        Raises :class:`unio.PortClosed` when the port is closed, also during the wait; :class:`ValueError` for a
        negative time-out or a limit below 1. What a signal handler raises (``KeyboardInterrupt``) comes out of the wait
        of the main thread as well. It can strike between any two steps of the port's own, and completions may be lost
        with it: close the port then. A program that wants to go on installs a handler that posts instead.
        """
        raise _left_to_the_backend()

    def run(self) -> None:
        """Take completions and give each to its handler, until :meth:`stop`.

        The handler is the ``state`` of the operation, which is called with the completion; a posted packet that has no
        operation has it as its key. An operation that a coroutine awaits has the coroutine go on, see :meth:`start`.

        Any number of threads may be in this. One alone takes completions in batches, for speed; of several, each takes
        one at a time, so that none waits for the handler of another while a thread is free.

        A handler that raises ends nothing: the exception goes to :func:`threading.excepthook`, with a note that shows
        the completion. Only ``KeyboardInterrupt`` and ``SystemExit`` in the main thread come out of this, once what was
        taken has been handled; then it may be called again.

        Raises :class:`unio.PortClosed` when the port is closed, also in the middle of this.
        """
        run(self, dispatch)

    def stop(self) -> None:
        """End :meth:`run`, in all threads that are in it, once what is in the queue by now has been handled.

        What is in flight stays so, and :meth:`run` may be called again when it has returned everywhere. A run that
        begins before that, or after this was called while there was none, ends where it comes to this in the queue.

        It never blocks and may be called from a handler and from a signal handler too. Raises
        :class:`unio.PortClosed`.
        """
        with self._runs_lock:
            if not self._stopping:
                self.post(stop)
                self._stopping = True

    def start(self, coroutine: Coroutine[Any, Any, Result]) -> Task[Result]:
        """Have the threads that are in :meth:`run` run a coroutine, beginning when it is its turn in the queue.

        In it, ``await operation`` submits an operation and gives it back when it has completed. It runs in a copy of
        the context (:mod:`contextvars`) of this call. What it raises goes to :func:`threading.excepthook`, with a note.

        When the port is closed, a coroutine that awaits something is closed, so that its ``finally`` blocks run; every
        further ``await`` raises :class:`unio.PortClosed` there.

        Raises :class:`TypeError` for what is no coroutine, and :class:`unio.PortClosed`.
        """
        task = Task(self, checked_coroutine(coroutine))
        self._tasks.add(task)
        try:
            self.post(task)
        except BaseException:
            self._tasks.discard(task)
            coroutine.close()
            raise
        return task

    def tasks(self) -> list[Task[Any]]:
        """The tasks that have not ended, in no order."""
        return list(self._tasks)

    async def drain(self, grace: float = GRACE_SECONDS, quiet: float = QUIET_SECONDS) -> list[Operation]:
        """Bring what goes on to a good end: a coroutine for a task, whose last act is often :meth:`stop`.

        From now on :attr:`draining` is True. Accepts are cancelled, and with them any that is submitted anew. So is
        what waits for others and has done so for *quiet* seconds: a receive, a poll, a timer, an exit of a process.
        What is left has *grace* seconds to end, with all that the handlers and the tasks submit meanwhile. Then the
        handles on which something is in flight are closed, and so everything ends with :class:`unio.Cancelled`.

        Returns the operations that were cut off in this way; none if everything has ended in time. So the end of a
        server is ::

            async def end():
                await unio.Signal(signal.SIGTERM)
                cut_off = await port.drain(10)
                port.stop()

        Raises :class:`ValueError` for what is no number of seconds, and :class:`unio.PortClosed`.
        """
        from unio.draining import drain  # noqa: PLC0415 - most programs that use a port need none of it, until they end

        grace, quiet = seconds(grace, "the grace"), seconds(quiet, "the quiet time")
        self._draining = True
        return await drain(self, grace, quiet)

    @property
    def draining(self) -> bool:
        """Whether :meth:`drain` was called: a server that has answered should end, and not wait for another request.

        It is False again when :meth:`run` is called anew after that.
        """
        return self._draining

    def _close_tasks(self) -> None:
        """Close the coroutines that await something; the port is closed."""
        for task in list(self._tasks):
            task._close()

    def _enter_run(self, run: Run) -> None:
        with self._runs_lock:
            if not self._runs:
                self._draining = False
            self._runs.add(run)
        for other in list(self._runs):  # who looks for others after it has taken something, sees this one
            if other is not run:
                other.give_back()

    def _leave_run(self, run: Run, *, stopped: bool) -> None:
        with self._runs_lock:
            self._runs.discard(run)
            if stopped:
                self._stopping = bool(self._runs)
                if self._stopping:
                    self.post(stop)  # for the next

    def blocking(self) -> AbstractContextManager[None]:
        """Declare that this thread is about to block: another is released in its place.

        For a ``with`` block around a call that may take long without computing: a lock, a query, a file that is not
        unio's. At its end the thread goes on at once, so that for a while one more than *concurrency* may run. In a
        thread that isn't running for this port it changes nothing. Raises nothing.

        Windows' kernel sees by itself that a thread blocks ("I/O Completion Ports" on Microsoft's pages). Elsewhere
        one that blocks without saying so loses its place as well, but only after it has stood still for a tenth of a
        second while a completion waits; not on macOS, which can't tell.
        """
        return contextlib.nullcontext()

    def post(self, key: Any, operation: Any = None, transferred: int = 0) -> None:
        """Queue a packet of the caller's own; a wait returns it verbatim, in order, with no error.

        It never blocks, and it is the one method that may be called from a signal handler.

        Raises :class:`unio.PortClosed`.
        """
        raise _left_to_the_backend()

    def cancel(self, operation: Operation) -> bool:
        """Ask that an operation ends. Returns whether it was still in flight, so that there was something to ask.

        It still completes exactly once: with :class:`unio.Cancelled`, or with the result that won the race.

        Raises :class:`TypeError` for what is no operation, :class:`unio.NotAssociated` for one of another port, and
        :class:`unio.PortClosed`.
        """
        raise _left_to_the_backend()

    def close(self) -> None:
        """Close the port. Every waiting thread is woken with :class:`unio.PortClosed`.

        Operations in flight are cancelled and packets that no wait has returned are dropped: drain the port first
        where they matter. The associated sockets and files stay open, theirs is another life. What a system call may
        still write to is kept until it has ended. Closing twice does nothing.
        """
        raise _left_to_the_backend()

    @property
    def closed(self) -> bool:
        """Whether the port is closed, or belongs to the process that this one was forked from."""
        return self._unusable is not None

    def in_flight(self) -> int:
        """How many operations are in flight; it takes the longer the more handles there are.

        Other threads may be at work. An operation that a thread is about to return from its wait may be missed, and
        no other one. Raises :class:`unio.PortClosed`.
        """
        if self._unusable is not None:
            raise self._unusable()
        return len(self._operations())

    def _give_back(self, completion: Completion) -> None:
        """Put a completion back to the head of the queue, from where a wait has taken it."""
        raise _left_to_the_backend()

    def _operations(self) -> list[Operation]:
        """Those that are in flight, in no order."""
        raise _left_to_the_backend()

    def __enter__(self) -> Self:
        if self._unusable is not None:
            raise self._unusable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a port can't be copied or pickled: make another one")

    def __repr__(self) -> str:
        return f"<unio.Port {self.backend} {'closed' if self.closed else 'open'}>"

    def __del__(self, is_ending: Callable[[], bool] = is_ending) -> None:
        if is_ending():  # nothing is lost: the descriptors go with the objects that have them, or with the process
            return
        if getattr(self, "_unusable", self) is not None:  # closed, or its making failed
            if getattr(self, "_forked", False):
                self.close()
            return
        if holds_lock():
            put_off(self._drop)
        else:
            self._drop()

    def _drop(self) -> None:
        if count := len(self._operations()):
            message = f"{self!r} was dropped with {count} operations in flight: close it"
            warnings.warn(message, ResourceWarning, source=self, stacklevel=3)
        self.close()


def _left_to_the_backend() -> TypeError:
    # Not an abstract method: type checkers would then refuse to let a program make a Port.
    return TypeError("a backend implements this method, and this port has none")


def check_limit(limit: int) -> int:
    """Check the limit given to a wait, and return it."""
    return whole_number(limit, "the limit", None, least=1)


def port_closed() -> PortClosed:
    return PortClosed("the port is closed")


_ports: weakref.WeakSet[Port] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # A forked child shares the parent's epoll instance and inherits its memory at an arbitrary moment, with locks
    # that no thread of the child will ever release. So nothing of it is used again; closing drops the child's copies.
    for port in list(_ports):
        if port._unusable is None:
            port._forked = True
            why = f"{port!r} belongs to process {os.getppid()}, from which this one was forked: make a new port here"
            port._unusable = functools.partial(RuntimeError, why)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

"""A pool: threads that take the completions of a port and give each of them to its handler."""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import functools
import os
import threading
import weakref
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from unio.arguments import seconds, whole_number
from unio.backends.common.file_threads import in_main_interpreter
from unio.backends.common.locks import Lock
from unio.backends.common.processors import usable_processors
from unio.dispatch import dispatch, is_coroutine_function, run, stop
from unio.errors import PortClosed
from unio.port import CONCURRENCY_MAX, GRACE_SECONDS, Port
from unio.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.operations import Operation
    from unio.port import Completion

JOIN_SECONDS = 0.5
"""How long the joining thread sleeps in one go. Python runs signal handlers in the main thread only, on Windows not
while that sleeps, and elsewhere not if the signal came just before: so Ctrl-C has to be looked for."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Pool(Executor):
    """Threads that are in :meth:`Port.run`, and an executor besides.

    There are *threads* of them, by default two for each processor that this process may use: one that computes, and
    one that takes its place while it blocks. No more than the port's *concurrency* run at once; a handler or a call
    that is about to block says so with :meth:`Port.blocking`. They take one completion at a time, first in, first out,
    so that none waits for the handler of another while a thread is free. Let no other thread wait on the port
    meanwhile.

    Each completion is given to its operation's ``state``, as :meth:`Port.run` has it; with *handler*, to that one in
    place of all of them, as ``handler(completion)``. Either way, tasks that :meth:`Port.start` has begun go on here. A
    handler that raises ends nothing: the exception goes to :func:`threading.excepthook`, with a note that shows the
    completion, and the thread takes the next one. Each thread runs in a copy of the context (:mod:`contextvars`) in
    which the pool was made.

    It is a :class:`concurrent.futures.Executor` as well: :meth:`submit` and ``map`` give calls to the same threads,
    through the port's own queue.

    The port stays its owner's: the pool never closes it, and a pool whose port is closed is over. At the end of a
    ``with`` block, and at the end of the program, the pool is shut down; *grace* is described there. After a fork, the
    child has no threads of the pool, and its use of the pool raises what the port raises there.

    Raises :class:`TypeError` and :class:`ValueError` for wrong arguments, such as a number of threads below 1 or above
    65,536; :class:`RuntimeError` when the system lets no more threads start; and :class:`unio.PortClosed`.
    """

    cut_off: list[Operation]
    """The operations that the end of the pool has cut off, as :meth:`Port.drain` returns them."""

    def __init__(
        self,
        port: Port,
        handler: Callable[[Completion], object] | None = None,
        threads: int | None = None,
        *,
        grace: float = GRACE_SECONDS,
    ) -> None:
        self._port = _checked_port(port)
        self._handler = _checked_handler(handler)
        self._grace = seconds(grace, "the grace")
        self.cut_off = []
        count = 2 * usable_processors()
        if threads is not None:
            count = whole_number(threads, "the number of threads", CONCURRENCY_MAX, least=1)
        if port._unusable is not None:  # its threads would end at once, and nobody would hear of it
            raise port._unusable()
        # It can be taken again by the thread that has it: a signal handler or a finalizer may shut the pool down in the
        # middle of a submit. What else the program asks for there is put off, as common/locks.py says.
        self._lock = Lock()  # guards what follows
        self._jobs: dict[_Job, Future[Any]] = {}  # what was submitted, and no thread has begun
        self._stopping = False
        self._threads = [
            threading.Thread(
                # Daemons, since the main interpreter waits for others before it says that the program ends.
                target=contextvars.copy_context().run,
                args=(self._work,),
                name=f"unio-{number}",
                daemon=in_main_interpreter(),
            )
            for number in range(count)
        ]
        self._staying = set(self._threads)
        _pools.add(self)
        self._start()

    def _start(self) -> None:
        for number, thread in enumerate(self._threads):
            try:
                thread.start()
            except BaseException as error:
                # An exception of a signal handler's comes while this waits for the thread to say that it has started.
                started = number if isinstance(error, Exception) else number + 1
                with self._lock:
                    self._staying.difference_update(self._threads[started:])
                    del self._threads[started:]
                self.shutdown()
                raise

    def submit(
        self, function: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        """Have a thread of the pool call *function*, in a copy of this thread's context; its result is the future's.

        The call waits in the port's queue for its turn, among the completions. One that waits for another of the same
        pool does so within :meth:`Port.blocking`, and needs a thread that is free to make that one.

        Raises :class:`RuntimeError` when the pool was shut down, and :class:`unio.PortClosed`.
        """
        job = _Job(self, functools.partial(function, *args, **kwargs))
        future: Future[Result] = Future()
        with self._lock:
            if self._stopping and self._port._unusable is None:
                raise RuntimeError("the pool was shut down: it takes no more calls")
            self._jobs[job] = future
            self._port.post(job)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - Executor's
        """End the threads, in order.

        From now on no call is taken any more. What is in the port's queue is still handled, and the calls that were
        submitted are made, unless *cancel_futures* cancels those that no thread has begun. The port is drained, as
        :meth:`Port.drain` says: accepts and idle receives end, and what else is in flight has the pool's *grace*, a
        number of seconds, to end; what has not ended then is cut off, and can be seen in :attr:`cut_off`. Then the
        threads end, each after the handler that it is in.

        With *wait* it returns when the threads have ended. Called from a thread of the pool, as from a handler, it
        never waits. It may be called from any thread and any number of times, and without *wait* from a signal handler
        too.
        """
        with self._lock:
            if not self._stopping:
                if self._staying:
                    with contextlib.suppress(
                        RuntimeError
                    ):  # the port is closed, or the parent's of this forked process
                        self._port.start(self._end())
                self._stopping = True
            unwanted = list(self._jobs.values()) if cancel_futures else []
        for future in unwanted:
            future.cancel()
        if wait and threading.current_thread() not in self._threads:
            self.join()

    async def _end(self) -> None:
        self.cut_off = await self._port.drain(self._grace)
        self._port.stop()

    def join(self) -> None:
        """Wait until the pool is over: it was shut down, by a handler for instance, or its port was closed.

        In the main thread, Ctrl-C raises out of it. Raises :class:`RuntimeError` in a thread of the pool.
        """
        if threading.current_thread() in self._threads:
            raise RuntimeError("a thread of the pool can't wait for the end of the pool")
        for thread in self._threads:
            while thread.is_alive():
                thread.join(JOIN_SECONDS)

    # What the threads do

    def _work(self) -> None:
        try:
            with contextlib.suppress(PortClosed):
                run(self._port, dispatch if self._handler is None else self._dispatch)
        finally:
            with self._lock:
                self._staying.discard(threading.current_thread())
                self._stopping = self._stopping or not self._staying  # as Port.stop, or its close, has ended them
                lost = [] if self._staying else list(self._jobs)
            for job in lost:  # the port was closed, or stopped, with them
                future = self._jobs.pop(job)
                future.cancel()
                future.set_running_or_notify_cancel()  # which tells those who wait for it

    def _dispatch(self, completion: Completion) -> object:
        """Give a completion to the pool's one handler, unless it is unio's own that waits for it."""
        key, operation, _, _ = completion
        waits = key if operation is None else getattr(operation, "state", None)
        if isinstance(waits, (_Job, Task)):
            return waits(completion)
        if waits is stop:
            stop(completion)
        assert self._handler is not None
        return self._handler(completion)


def _checked_port(port: Port) -> Port:
    if not isinstance(port, Port):
        raise TypeError(f"Pool(port, handler, ...) needs a port first, not {type(port).__name__}")
    return port


def _checked_handler(handler: Callable[[Completion], object] | None) -> Callable[[Completion], object] | None:
    if handler is None:
        return None
    if not callable(handler):
        raise TypeError(
            f"Pool(port, handler, ...) calls its handler with each completion, and {type(handler).__name__} can't be "
            "called; without one, the state of each operation is called"
        )
    if is_coroutine_function(handler):
        raise TypeError(
            "Pool(port, handler, ...) calls its handler, and calling a coroutine function only makes a coroutine: make "
            "the pool without a handler, and begin coroutines with port.start(coroutine)"
        )
    return handler


class _Job:
    """A call that was submitted: the key of its packet."""

    def __init__(self, pool: Pool, call: Callable[[], Any]) -> None:
        self._pool = pool
        self._call = call
        self._context = contextvars.copy_context()

    def __call__(self, _: Completion) -> None:
        """Have its turn in the queue."""
        # The traceback of what the call raises holds the frames of all its callers, whose variables hold this job: so
        # it must not have the future, which holds the exception.
        future = self._pool._jobs.pop(self, None)
        if future is None or not future.set_running_or_notify_cancel():
            return
        try:
            result = self._context.run(self._call)
        except BaseException as error:  # noqa: BLE001 - it is the future's, whatever it is
            future.set_exception(error)
            del future
        else:
            future.set_result(result)


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _shut_down_all() -> None:
    for pool in list(_pools):
        pool.shutdown()


if in_main_interpreter():
    atexit.register(_shut_down_all)
else:  # it says so before it waits for threads only where concurrent.futures has it tell its own
    threading._register_atexit(_shut_down_all)  # type: ignore[attr-defined]


def _after_fork_in_child() -> None:
    for pool in list(_pools):
        pool._lock = Lock()  # a thread that the child doesn't have may be holding the former one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

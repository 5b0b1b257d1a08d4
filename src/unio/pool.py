"""A pool: threads that take the completions of a port and give each of them to a handler."""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import functools
import os
import threading
import time
import traceback
import weakref
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from unio.arguments import seconds, whole_number
from unio.backends.common.file_threads import in_main_interpreter
from unio.backends.common.locks import Lock
from unio.backends.common.processors import usable_processors
from unio.errors import PortClosed, shown
from unio.operations import Operation
from unio.port import CONCURRENCY_MAX, Port

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.port import Completion

GRACE_SECONDS = 5.0
"""How long a pool that is shut down waits, unless told, for what is in flight on its port."""

JOIN_SECONDS = 0.5
"""How long the joining thread sleeps in one go. Python runs signal handlers in the main thread only, on Windows not
while that sleeps, and elsewhere not if the signal came just before: so Ctrl-C has to be looked for."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Pool(Executor):
    """Threads that wait on a port and call ``handler(completion)`` for each of its completions.

    There are *threads* of them, by default two for each processor that this process may use: one that computes, and
    one that takes its place while it blocks. No more than the port's *concurrency* run at once; a handler or a call
    that is about to block says so with :meth:`Port.blocking`. They take one completion at a time, first in, first out,
    so that none waits for the handler of another while a thread is free. Let no other thread wait on the port
    meanwhile.

    A handler that raises ends nothing: the exception goes to :func:`threading.excepthook`, with a note that shows the
    completion, and the thread takes the next one. Each thread runs in a copy of the context (:mod:`contextvars`) in
    which the pool was made.

    It is a :class:`concurrent.futures.Executor` as well: :meth:`submit` and ``map`` give calls to the same threads,
    through the port's own queue.

    The port stays its owner's. The pool never closes it, and what is in flight when the threads have ended stays in
    flight; a pool whose port is closed is over. At the end of a ``with`` block, and at the end of the program, the
    pool is shut down; *grace* is described there. After a fork, the child has no threads of the pool, and its use of
    the pool raises what the port raises there.

    Raises :class:`TypeError` and :class:`ValueError` for wrong arguments, such as a number of threads below 1 or above
    65,536; :class:`RuntimeError` when the system lets no more threads start; and :class:`unio.PortClosed`.
    """

    def __init__(
        self,
        port: Port,
        handler: Callable[[Completion], object],
        threads: int | None = None,
        *,
        grace: float = GRACE_SECONDS,
    ) -> None:
        self._port = _checked_port(port)
        self._handler = _checked_handler(handler)
        self._grace = seconds(grace, "the grace")
        count = 2 * usable_processors()
        if threads is not None:
            count = whole_number(threads, "the number of threads", CONCURRENCY_MAX, least=1)
        if port._unusable is not None:  # its threads would end at once, and nobody would hear of it
            raise port._unusable()
        # It can be taken again by the thread that has it: a signal handler or a finalizer may shut the pool down in the
        # middle of a submit. What else the program asks for there is put off, as common/locks.py says.
        self._lock = Lock()  # guards what follows
        self._jobs: set[_Job] = set()  # submitted, and not begun yet
        self._stopping = False
        self._deadline = float("inf")
        self._called = False  # whether the packet by which threads leave is in the queue
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
        job = _Job(functools.partial(function, *args, **kwargs))
        with self._lock:
            if self._stopping:
                raise RuntimeError("the pool was shut down: it takes no more calls")
            self._jobs.add(job)
            self._port.post(self, job)
        return job.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - Executor's
        """End the threads, in order.

        From now on no call is taken any more. What is in the port's queue is still handled, and the calls that were
        submitted are made, unless *cancel_futures* cancels those that no thread has begun. Operations that are in
        flight have the pool's *grace*, a number of seconds, to complete, and the handler gets their completions. When
        there are none, or the time is up, the threads end, each after the handler that it is in. What is still in
        flight then is left to the port.

        An idle connection's receive and a listener's accept do not end by themselves: a server that is not to use up
        its grace closes or cancels them.

        With *wait* it returns when the threads have ended. Called from a thread of the pool, as from a handler, it
        never waits. It may be called from any thread and any number of times, and without *wait* from a signal handler
        too.
        """
        with self._lock:
            if not self._stopping:
                self._deadline = time.monotonic() + self._grace
                self._stopping = True
            unwanted = list(self._jobs) if cancel_futures else []
            with contextlib.suppress(RuntimeError):  # the port is closed, or the parent's of this forked process
                self._call_to_leave()
        for job in unwanted:
            job.future.cancel()
        if wait and threading.current_thread() not in self._threads:
            self.join()

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
    #
    # They leave one after the other, each by taking the one packet that calls to leave and posting it again for the
    # next; so the last one leaves no packet behind. A thread that takes it too early, since something is still in
    # flight, stays, and calls again when it has found that all is done or the time is up.

    def _work(self) -> None:
        try:
            with contextlib.suppress(PortClosed):
                while self._take():
                    pass
        finally:
            with self._lock:
                self._staying.discard(threading.current_thread())
                lost = [] if self._staying else list(self._jobs)
            for job in lost:  # the port was closed with them
                job.future.cancel()
                job.run()  # which only tells those who wait for it

    def _take(self) -> bool:
        """Take one packet and do what it asks for. Returns whether the thread stays."""
        for completion in self._wait():
            mine = completion.key is self
            if not mine:
                self._handle(completion)
            elif completion.operation is None:
                return self._stay()
            else:
                self._jobs.discard(completion.operation)
                completion.operation.run()
            del completion  # the traceback of what a call raised holds this frame, and must not hold its future
        return True

    def _wait(self) -> list[Completion]:
        if not self._stopping or self._called:
            return self._port.wait(None, limit=1)
        # To count what is in flight takes the longer the more handles there are, so it is done when nothing else is.
        batch = self._port.wait(0, limit=1)
        left = self._deadline - time.monotonic()
        if batch and left > 0:
            return batch
        if self._is_over():
            with self._lock:
                self._call_to_leave()
            return batch
        return self._port.wait(max(0.0, left), limit=1)

    def _handle(self, completion: Completion) -> None:
        try:
            self._handler(completion)
        except BaseException as error:  # noqa: BLE001 - whatever it was, it is reported and the thread goes on
            _report(error, completion)

    def _is_over(self) -> bool:
        return time.monotonic() >= self._deadline or (not self._jobs and self._port._in_flight() == 0)

    def _stay(self) -> bool:
        """Decide what to do about the call to leave."""
        over = self._is_over()
        with self._lock:
            self._called = False
            if not over:
                return True
            self._staying.discard(threading.current_thread())
            self._call_to_leave()
        return False

    def _call_to_leave(self) -> None:
        """Post the packet by which threads leave, unless it is there or nobody is; the caller holds the lock."""
        if self._staying and not self._called:
            self._port.post(self)
            self._called = True


def _checked_port(port: Port) -> Port:
    if not isinstance(port, Port):
        raise TypeError(f"Pool(port, handler, ...) needs a port first, not {type(port).__name__}")
    return port


def _checked_handler(handler: Callable[[Completion], object]) -> Callable[[Completion], object]:
    if not callable(handler):
        raise TypeError(
            f"Pool(port, handler, ...) calls its handler with each completion, and {type(handler).__name__} can't be "
            "called; if there is nothing to handle, give it a function that does nothing"
        )
    return handler


class _Job:
    """A call that was submitted, and the future of its result."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self._call = call
        self._context = contextvars.copy_context()

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._context.run(self._call)
        except BaseException as error:  # noqa: BLE001 - it is the future's, whatever it is
            self.future.set_exception(error)
            del self  # as in _take
        else:
            self.future.set_result(result)


def _report(error: BaseException, completion: Completion) -> None:
    """Report what a handler raised the way a thread's own end would be."""
    try:
        error.add_note(f"The handler of a pool raised this for {_described(completion)}")
        if isinstance(error, SystemExit):  # the hook would pass over it without a word
            problem = RuntimeError("SystemExit in a handler ends neither the program nor the pool: shut that down")
            problem.__cause__, error = error, problem
        arguments = (type(error), error, error.__traceback__, threading.current_thread())
        threading.excepthook(threading.ExceptHookArgs(arguments))
    except BaseException:  # noqa: BLE001 - a fault of the hook, or of the error: it must not cost the pool a thread
        traceback.print_exc()


def _described(completion: Completion) -> str:
    """A completion, without the reprs of what is the program's own."""
    key, operation, transferred, error = completion
    what = Operation.__repr__(operation) if isinstance(operation, Operation) else shown(operation)
    return f"Completion(key={shown(key)}, operation={what}, transferred={shown(transferred)}, error={error!r})"


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

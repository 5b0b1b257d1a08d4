"""Any operation of the port, awaited.

A task of asyncio's sleeps on whatever looks like a future to it (:func:`asyncio.isfuture`). What looks so here is the
state of the operation: the loop calls that with the completion, and it has the task go on there and then. No future, no
callback and no further turn of the loop are in between.

A task that is cancelled goes on when its operation has ended, and not before: until then the kernel may still be at its
buffer. What the operation has brought all the same stays with it.
"""

from __future__ import annotations

from asyncio import CancelledError, InvalidStateError, _get_running_loop
from typing import TYPE_CHECKING, Any, TypeVar

from unio.asyncio.turns import Turns
from unio.errors import anew, shown
from unio.operations import Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextvars import Context

    from unio.completion import Completion

Op = TypeVar("Op", bound=Operation)


class Flight:
    """One flight of an operation, as the task that awaits it sees it: as much of a future as a task makes use of."""

    __slots__ = (
        "_asyncio_future_blocking",
        "_cancel_arguments",
        "_context",
        "_done",
        "_loop",
        "_operation",
        "_state",
        "_wake",
    )

    def __init__(self, loop: Bridge, operation: Operation) -> None:
        self._loop = loop
        self._operation = operation
        self._state = operation.state  # the program's own
        self._wake: Callable[[Any], object] | None = None
        self._context: Context | None = None
        self._cancel_arguments: tuple[object, ...] | None = None
        self._done = False
        self._asyncio_future_blocking = True  # what a task looks for in a thing that is awaited

    def __call__(self, completion: Completion) -> None:
        """Have the task go on, as the operation has completed."""
        del completion
        self._end()
        wake, context = self._wake, self._context
        if wake is not None and context is not None:
            self._wake = self._context = None
            context.run(wake, self)

    def _end(self) -> None:
        self._done = True
        self._operation.state = self._state

    def let_go(self) -> None:
        """Keep nothing of the task, as nobody is told of completions any more: its loop is closed."""
        self._end()
        self._wake = self._context = None

    def __await__(self) -> Generator[Flight, None, None]:
        try:
            yield self
        finally:
            if not self._done:  # whoever drives the coroutine has closed it, or thrown something else into it
                self._abandon()

    def _abandon(self) -> None:
        self._wake = self._context = None
        self._loop.port.cancel(self._operation)

    # What a task asks of a future

    def get_loop(self) -> Bridge:
        return self._loop

    def add_done_callback(self, wake: Callable[[Any], object], *, context: Context) -> None:
        if self._done:
            self._loop.call_soon(wake, self, context=context)
        else:
            self._wake, self._context = wake, context

    def cancel(self, msg: object = None) -> bool:
        """Ask that the operation ends; the task hears of its cancellation when it has."""
        if self._done:
            return False
        self._cancel_arguments = () if msg is None else (msg,)
        self._loop.port.cancel(self._operation)
        return True

    def done(self) -> bool:
        return self._done

    def result(self) -> None:
        if not self._done:
            raise InvalidStateError("the operation has not completed")
        if self._cancel_arguments is not None:
            raise CancelledError(*self._cancel_arguments)

    def __repr__(self) -> str:
        return f"<flight of {Operation.__repr__(self._operation)}>"  # not the repr of a program's subclass


class Bridge(Turns):
    """A loop in which operations are awaited."""

    async def complete(self, operation: Op, timeout: float | None = None) -> Op:  # noqa: ASYNC109 - it is the port's
        """Submit an operation, wait until it has completed, and give it back.

        A handle that it works on has joined the loop's port: :meth:`join` gives that of a socket, a pipe or a file of
        :func:`unio.open`. *timeout*, a number of seconds, is that of :meth:`unio.Port.submit`. The operation's state is
        the loop's meanwhile, and then what it was before. ::

            process = subprocess.Popen(...)
            exited = await loop.complete(unio.ProcessExit(process), 60)
            print(exited.status)

        The error of the completion is raised here: :class:`TimeoutError` where the time-out has passed. So is what
        submit raises, such as :class:`unio.InFlight` for an operation that another task awaits. Raises
        :class:`RuntimeError` where another loop runs, or another thread's; that one has
        :func:`asyncio.run_coroutine_threadsafe`.

        Where the task is cancelled the operation is, and the task goes on with :class:`asyncio.CancelledError` when
        that has ended. Its own result may have won, and nothing is lost by that: what was received or accepted is on
        the operation, also when :class:`asyncio.CancelledError` is raised.
        """
        if _get_running_loop() is not self:
            raise _not_here(self)
        if not isinstance(operation, Operation):
            raise TypeError(f"complete takes an operation of unio's, not {shown(operation)}")
        state: object = operation.state
        if operation.in_flight or (type(state) is Flight and not state.done()):  # also one that is to be delivered yet
            operation._refuse_submission()
        operation.state = flight = Flight(self, operation)
        try:
            at_once = self.port.submit(operation, timeout)
        except BaseException:
            if not operation.in_flight:
                operation.state = state
                raise
            at_once = False  # memory was lacking in the middle of it: it completes all the same
        if at_once:
            operation.state = state
        else:
            await flight
        if operation.error is not None:
            raise anew(operation.error)
        return operation

    def close(self) -> None:
        awaited = [] if self.is_running() or self.is_closed() else self._awaited()
        super().close()
        for flight in awaited:
            flight.let_go()

    def _awaited(self) -> list[Flight]:
        operations = [*self.port._operations(), *(completion.operation for completion in self._undelivered())]
        return [operation.state for operation in operations if operation and type(operation.state) is Flight]


def _not_here(loop: Bridge) -> RuntimeError:
    return RuntimeError(
        f"{loop!r} completes operations for its own tasks, in its own thread, while it runs: use the running loop's "
        "complete, or asyncio.run_coroutine_threadsafe(loop.complete(operation), loop)"
    )

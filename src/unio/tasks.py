"""Coroutines that a port runs, and what a thread in :meth:`unio.Port.run` does with the completions that it takes.

A task is a coroutine that :meth:`unio.Port.start` has begun. It has no thread and no queue of its own: ``await
operation`` gives the operation to the task, which makes itself the operation's state and submits it. So its completion
finds the task as it finds any other handler, in whichever thread has taken it.

Two threads never work on one task. From the moment at which an operation is submitted another thread may go on with the
task, so the submit comes last, outside of the coroutine and of its context. What the task waits for is noted until some
thread takes that out to go on, in one step: the one that has its completion, or the one that closes the port.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from unio.awaiting import Within, refuse_await
from unio.backends.common.accelerator import TaskState, in_task
from unio.errors import Cancelled, PortClosed, cancelled, shown
from unio.operations import Operation
from unio.reports import ends_program, report

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from unio.completion import Completion
    from unio.port import Port

Result = TypeVar("Result")

AT_ONCE_MAX = 64
"""How many operations that succeed within submit a task goes on with before others have their turn."""


class Task(TaskState, Generic[Result]):
    """A coroutine that a port runs; :meth:`unio.Port.start` makes it.

    Whichever thread is in :meth:`unio.Port.run` goes on with it, one at a time, always in the context
    (:mod:`contextvars`) that it was started in. All methods may be called from any thread.

    ``await task``, in another task, gives what the coroutine returns, or raises what it raises. If nobody awaits it
    just then, that goes to :func:`threading.excepthook` with a note, as what a thread raises does; but not
    :class:`unio.Cancelled`, nor :class:`unio.PortClosed` of its closed port, which say that it was ended here.
    """

    __slots__ = ("__weakref__", "_done", "_error", "_port", "_result", "_waiting")

    _waiting: list[Task[Any]]
    """The tasks that await it."""

    _result: Result

    def __init__(self, port: Port, coroutine: Coroutine[Any, Any, Result]) -> None:
        super().__init__()
        self._port = port
        self._waiting = []
        self._done = False
        self._error: BaseException | None = None
        self._begin(coroutine, contextvars.copy_context(), port.submit)

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._done

    def cancel(self) -> None:
        """Ask the task to end: :class:`unio.Cancelled` is raised by the ``await`` that it is in, or else by its next.

        The operation is cancelled, as :meth:`unio.Port.cancel` does it; where its own result wins, the next one is. A
        coroutine that goes on all the same was asked, and isn't asked again. Raises :class:`unio.PortClosed`.
        """
        self._cancelled = True  # first: a thread that is about to submit looks at it afterwards
        for awaited in self._awaits():
            if isinstance(awaited, Operation):
                self._port.cancel(awaited)
            elif isinstance(awaited, Task) and awaited._forget(self):
                self._resume()

    def __await__(self) -> Generator[Any, None, Result]:
        if not in_task():
            refuse_await(self)
        if not self._done:
            yield self
        if self._error is not None:
            raise self._error
        return self._result

    # What drives it, beyond what is plain

    def _go_on_cancelled(self, completion: Completion | None, awaited: object) -> None:
        """Go on with a task that was cancelled, as what it awaits has completed: it is told so, unless that says it."""
        if isinstance(awaited, Task) and not awaited._done:
            self._cancelled = False
            self._go_on(self._coroutine.throw, cancelled("cancelled by Task.cancel"))
            return
        if completion is not None and isinstance(completion.error, Cancelled):
            self._cancelled = False
        self._go_on(self._coroutine.send, None)

    def _go_on(self, step: Callable[[Any], Any], value: object) -> None:
        """Have the coroutine run until it awaits something that takes time, or ends; this thread has it for itself."""
        at_once = 0
        while True:
            try:
                request = self._step(step, value)
            except StopIteration as end:
                self._end(end.value, None)
                return
            except BaseException as error:  # noqa: BLE001 - it is looked at there
                if error.__traceback__ is not None:
                    error.__traceback__ = error.__traceback__.tb_next  # without this frame, which has the task
                self._end(None, error)
                return
            try:
                if self._wait_for(request):
                    return
                at_once += 1
                if at_once % AT_ONCE_MAX == 0 and self._give_turn():
                    return
                step, value = self._coroutine.send, None
            except Exception as error:  # noqa: BLE001 - it is the coroutine's, which has asked for this
                step, value = self._coroutine.throw, error

    def _asked(self, request: object) -> None:
        """Go on after the coroutine has asked for something."""
        try:
            if self._wait_for(request):
                return
            step, value = self._coroutine.send, None
        except Exception as error:  # noqa: BLE001 - it is the coroutine's
            step, value = self._coroutine.throw, error
        self._go_on(step, value)

    def _go_on_without_memory(self) -> None:
        """Go on where C found no memory to have somebody see to what has come of a step."""
        self._go_on(self._coroutine.throw, MemoryError())

    def _wait_for(self, request: object) -> bool:
        """Have the task wait for what the coroutine awaits. Returns False if it has that already.

        Where this returns True another thread may be at work on the task by now.
        """
        if isinstance(request, Operation):
            return self._submit_within(request, None)
        if isinstance(request, Within):
            return self._submit_within(request.operation, request.timeout)
        if isinstance(request, Task):
            return self._join(request)
        raise TypeError(
            f"a coroutine that Port.start has begun awaits unio's operations and tasks: {type(request).__name__} is "
            "another library's"
        )

    def _submit_within(self, operation: Operation, timeout: float | None) -> bool:
        if operation.in_flight:
            operation._refuse_submission()
        state, operation.state = operation.state, self
        self._put(operation)
        try:
            at_once = self._port.submit(operation, timeout)
        except Exception:
            if self._is_submitted(operation, state):
                return True
            raise
        self._look_for_cancel()
        return not (at_once and self._take())

    def _submitted(self, at_once: bool) -> None:  # noqa: FBT001 - C calls it
        """See to a submission by C that has succeeded at once, or in a task that was cancelled meanwhile."""
        self._look_for_cancel()
        if at_once and self._take():
            self._go_on(self._coroutine.send, None)

    def _refused(self, operation: Operation, state: object, error: BaseException) -> None:
        """See to a submission by C that has failed."""
        if not isinstance(error, Exception):
            raise error
        if not self._is_submitted(operation, state):
            self._go_on(self._coroutine.throw, error)

    def _is_submitted(self, operation: Operation, state: object) -> bool:
        """Whether an operation is in flight though its submit has raised, as it does where there is no memory."""
        if operation.in_flight or not self._take():
            return True
        operation.state = state
        return False

    def _join(self, other: Task[Any]) -> bool:
        self._put(other)
        other._waiting.append(self)
        if other._done and other._forget(self):  # it has ended meanwhile, and tells nobody any more
            return not self._take()
        self._look_for_cancel()
        return True

    def _look_for_cancel(self) -> None:
        """See to a cancel that came while the task waited for nothing."""
        if self._cancelled:
            try:  # noqa: SIM105 - which would take memory, and here nothing may be raised: another thread may have the task
                self.cancel()
            except Exception:  # noqa: BLE001, S110 - the port is closed; or memory is lacking, and the next await raises
                pass

    def _give_turn(self) -> bool:
        """Let others have their turn. Returns whether this thread has given the task away."""
        self._put(None)
        try:
            self._port.post(self)
        except Exception:  # noqa: BLE001 - whatever it is, it is no matter of the coroutine's
            return not self._take()
        return True

    def _forget(self, waiting: Task[Any]) -> bool:
        """Tell a task nothing of the end of this one. Returns False if that is being done already."""
        try:
            self._waiting.remove(waiting)
        except ValueError:
            return False
        return True

    def _resume(self) -> None:
        """Have it go on, which awaits another task."""
        try:
            self._port.post(self)
        except PortClosed:  # which closes its tasks
            pass
        except Exception:  # noqa: BLE001 - without memory it goes on in this thread, rather than never
            self(None)

    def _has_turn(self) -> bool:
        """Whether it is in the queue, to go on."""
        return self._awaits() == (None,)

    # Its end

    def _end(self, result: Any, error: BaseException | None) -> None:
        if error is not None:
            self._coroutine.close()  # without memory, the step may not have come to it at all
        self._result, self._error = result, error
        self._done = True
        self._port._tasks.discard(self)
        awaited = False
        while self._waiting:
            with contextlib.suppress(IndexError):
                self._waiting.pop()._resume()
                awaited = True
        if error is None or isinstance(error, GeneratorExit):
            return
        if ends_program(error):
            raise error
        if not awaited and not self._was_ended_by(error):
            report(error, f"{self!r} raised this")
        if not awaited:  # it was told, and its frames have the task, which has the error: nothing is to be kept by that
            error.__traceback__ = None

    def _was_ended_by(self, error: BaseException) -> bool:
        return isinstance(error, Cancelled) or (isinstance(error, PortClosed) and self._port.closed)

    def _close(self) -> None:
        """End the coroutine where it is suspended, as its port was closed; one that runs learns of it by itself."""
        if self._take():
            self._go_on(self._coroutine.throw, GeneratorExit())

    def __repr__(self) -> str:
        name = getattr(self._coroutine, "__qualname__", type(self._coroutine).__name__)
        return f"<unio.Task {name} {'done' if self._done else 'waits' if self._awaits() else 'runs'}>"


def checked_coroutine(coroutine: object) -> Coroutine[Any, Any, Any]:
    """What :meth:`unio.Port.start` was given, if it is a coroutine."""
    if isinstance(coroutine, Coroutine):
        return coroutine
    raise TypeError(
        f"start takes a coroutine, which is what calling an async def function returns, and not {shown(coroutine)}"
    )

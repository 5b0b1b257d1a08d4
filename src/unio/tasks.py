"""Coroutines that a port runs, and what a thread in :meth:`unio.Port.run` does with the completions that it takes.

A task is a coroutine that :meth:`unio.Port.start` has begun. It has no thread and no queue of its own: ``await
operation`` gives the operation to the task, which makes itself the operation's state and submits it. So its completion
finds the task as it finds any other handler, in whichever thread has taken it.

Two threads never work on one task. From the moment at which an operation is submitted another thread may go on with the
task, so the submit comes last, outside of the coroutine and of its context. What the task waits for stands in
``_awaited`` until some thread takes it out to go on, in one step: the one that has its completion, or the one that
closes the port.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import threading
import traceback
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from unio.awaiting import Within, current_task
from unio.errors import Cancelled, PortClosed, shown
from unio.operations import Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from unio.completion import Completion
    from unio.port import Port

Result = TypeVar("Result")

AT_ONCE_MAX = 64
"""How many operations that succeed within submit a task goes on with before others have their turn."""


class Task(Generic[Result]):
    """A coroutine that a port runs; :meth:`unio.Port.start` makes it.

    Whichever thread is in :meth:`unio.Port.run` goes on with it, one at a time, always in the context
    (:mod:`contextvars`) that it was started in. All methods may be called from any thread.

    What it raises goes to :func:`threading.excepthook`, with a note, as what a thread raises does.
    """

    __slots__ = ("__weakref__", "_awaited", "_cancelled", "_context", "_coroutine", "_port")

    def __init__(self, port: Port, coroutine: Coroutine[Any, Any, Result]) -> None:
        self._port = port
        self._coroutine = coroutine
        self._context = contextvars.copy_context()
        self._context.run(current_task.set, self)
        self._awaited: list[Operation | None] = [
            None
        ]  # for its turn; the list is empty while a thread is at work on it
        self._cancelled = False

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self not in self._port._tasks

    def cancel(self) -> None:
        """Ask the task to end: :class:`unio.Cancelled` is raised by the ``await`` that it is in, or else by its next.

        The operation is cancelled, as :meth:`unio.Port.cancel` does it; where its own result wins, the next one is. A
        coroutine that goes on all the same was asked, and isn't asked again. Raises :class:`unio.PortClosed`.
        """
        self._cancelled = True  # first: a thread that is just about to submit looks at it afterwards
        for operation in self._awaited[:]:
            if operation is not None:
                self._port.cancel(operation)

    def __call__(self, completion: Completion) -> None:
        """Go on with it, as what it awaits has completed: what the state of an operation is called for."""
        try:
            self._awaited.pop()
        except IndexError:  # the port was closed, and the task with it
            return
        if self._cancelled and isinstance(completion.error, Cancelled):
            self._cancelled = False
        self._go_on(self._coroutine.send, None)

    def _go_on(self, step: Callable[[Any], Any], value: object) -> None:
        """Have the coroutine run until it awaits something that takes time, or ends; this thread has it for itself."""
        run, send = self._context.run, self._coroutine.send
        at_once = 0
        while True:
            try:
                request = run(step, value)
            except BaseException as end:
                self._port._tasks.discard(self)
                if isinstance(end, StopIteration):
                    return
                raise
            try:
                if self._wait_for(request):
                    return
                at_once += 1
                if at_once % AT_ONCE_MAX == 0 and self._give_turn():
                    return
                step, value = send, None
            except Exception as error:  # noqa: BLE001 - it is the coroutine's, which has asked for this
                step, value = self._coroutine.throw, error

    def _wait_for(self, request: object) -> bool:
        """Submit what the coroutine awaits. Returns False if it has succeeded at once.

        Where this returns True another thread may be at work on the task by now.
        """
        operation, timeout = request, None
        if type(request) is Within:
            operation, timeout = request.operation, request.timeout
        if not isinstance(operation, Operation):
            raise TypeError(
                f"a coroutine that Port.start has begun awaits operations of unio's: {type(request).__name__} is "
                "another library's"
            )
        if operation.in_flight:
            operation._refuse_submission()
        operation.state = self
        self._awaited.append(operation)
        try:
            at_once = self._port.submit(operation, timeout)
        except Exception:
            if operation.in_flight or not self._take_back():  # without memory it may be in flight all the same
                return True
            raise
        if self._cancelled:
            with contextlib.suppress(PortClosed):
                self._port.cancel(operation)
        return not (at_once and self._take_back())

    def _give_turn(self) -> bool:
        """Let others have their turn. Returns whether this thread has given the task away."""
        self._awaited.append(None)
        try:
            self._port.post(self)
        except Exception:  # noqa: BLE001 - whatever it is, it is no matter of the coroutine's
            return not self._take_back()
        return True

    def _take_back(self) -> bool:
        """Go on with the task after all, unless another thread does."""
        try:
            self._awaited.pop()
        except IndexError:
            return False
        return True

    def _close(self) -> None:
        """End the coroutine where it is suspended, as its port was closed; one that runs learns of it by itself."""
        if not self._take_back():
            return
        try:
            self._go_on(self._coroutine.throw, GeneratorExit())
        except GeneratorExit:
            pass
        except BaseException as error:  # noqa: BLE001 - it is reported, and others are still to be closed
            report(error, f"{self!r} raised this as its port was closed")

    def __repr__(self) -> str:
        name = getattr(self._coroutine, "__qualname__", type(self._coroutine).__name__)
        return f"<unio.Task {name} {'done' if self.done else 'awaits' if self._awaited else 'runs'}>"


def checked_coroutine(coroutine: object) -> Coroutine[Any, Any, Any]:
    """What :meth:`unio.Port.start` is given, if it is a coroutine that has not begun."""
    if not isinstance(coroutine, CoroutineType):
        hint = "; call the function" if inspect.iscoroutinefunction(coroutine) else ""
        raise TypeError(f"start needs a coroutine, as an async def function returns, not {shown(coroutine)}{hint}")
    return coroutine


# Completions


class Stopped(BaseException):
    """What ends the threads in :meth:`unio.Port.run`: the packet of a stop raises it as it is dispatched."""


def stop(_: Completion) -> NoReturn:
    """What a packet has as its key that ends the threads."""
    raise Stopped


def dispatch(completion: Completion) -> None:
    """Give a completion to its handler: its operation's state or, where a packet has no operation, its key."""
    operation = completion.operation
    result = (completion.key if operation is None else operation.state)(completion)
    if result is not None and isinstance(result, CoroutineType):
        refuse_coroutine(result)


def dispatch_all(batch: Iterable[Completion]) -> BaseException | None:
    """Give each completion to its handler, whatever becomes of the others. Returns what ends the thread's loop, if any.

    What handlers raise is reported, but for what is to end the program, which a thread that is not the main one can't.
    If that comes beside a stop, it is the cause of that.
    """
    end: BaseException | None = None
    rest = iter(batch)
    while True:
        try:
            for completion in rest:
                operation = completion.operation
                result = (completion.key if operation is None else operation.state)(completion)
                if result is not None and isinstance(result, CoroutineType):
                    refuse_coroutine(result)
        except Stopped as stopped:
            stopped.__cause__, end = end, stopped
        except BaseException as error:  # noqa: BLE001 - whatever it is, the next completion has its turn
            if not ends_program(error):
                report(*explained(error, completion))
            elif isinstance(end, Stopped):
                end.__cause__ = error
            else:
                end = error
        else:
            return end


def ends_program(error: BaseException) -> bool:
    return isinstance(error, (KeyboardInterrupt, SystemExit)) and threading.current_thread() is threading.main_thread()


def refuse_coroutine(coroutine: Coroutine[Any, Any, Any]) -> NoReturn:
    coroutine.close()  # or else Python complains that it was never awaited, which is not what is wrong
    raise TypeError(
        f"{coroutine.__qualname__} is a coroutine function, and a handler is called and not awaited: give it a plain "
        "function, which may begin one with port.start(coroutine), or await the operation in a coroutine"
    )


def explained(error: BaseException, completion: Completion) -> tuple[BaseException, str]:
    """What a handler raised, or what is wrong where it is none that could be called, and a note on where that was."""
    operation = completion.operation
    try:
        handler = completion.key if operation is None else operation.state
    except AttributeError:
        handler = None
    if isinstance(handler, Task):
        return error, f"{handler!r} raised this, going on after {described(completion)}"
    if not callable(handler):
        error = TypeError(
            f"Port.run calls the state of an operation with its completion, and the key of a packet: {shown(handler)} "
            "can't be called. Give it one that can, as in unio.Recv(handle, state=function), or await the operation in "
            "a coroutine that Port.start has begun"
        )
    return error, f"A handler raised this for {described(completion)}"


def report(error: BaseException, note: str) -> None:
    """Report what a handler or a task raised, the way that the end of a thread by it would be."""
    try:
        error.add_note(note)
        if isinstance(error, SystemExit):  # the hook would pass over it without a word
            problem = RuntimeError("SystemExit ends the program in the main thread only, and here not even the thread")
            problem.__cause__, error = error, problem
        arguments = (type(error), error, error.__traceback__, threading.current_thread())
        threading.excepthook(threading.ExceptHookArgs(arguments))
    except BaseException:  # noqa: BLE001 - a fault of the hook, or of the error: it must not cost a thread
        traceback.print_exc()


def described(completion: Completion) -> str:
    """A completion, without the reprs of what is the program's own."""
    key, operation, transferred, error = completion
    what = Operation.__repr__(operation) if isinstance(operation, Operation) else shown(operation)
    return f"Completion(key={shown(key)}, operation={what}, transferred={shown(transferred)}, error={error!r})"

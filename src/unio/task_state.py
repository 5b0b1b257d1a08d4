"""What drives a coroutine, as far as it does what is plain: the form in Python.

Where there is the fast path of ``unio._core``, its class of the same name stands in the place of this one
(:mod:`unio.backends.common.accelerator` chooses); ``src/core/task.c`` says what it gains. What is not plain is left to
:class:`unio.Task` by both.
"""

from __future__ import annotations

from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextvars import Context

    from unio.completion import Completion
    from unio.operations import Operation

_current: ContextVar[object] = ContextVar("unio.task", default=None)
"""The task whose context this is. Each has one of its own, so that nothing has to be set whenever one goes on."""


def in_task() -> bool:
    """Whether the calling thread is at work on a task."""
    return _current.get() is not None


class TaskState:
    """What drives a coroutine."""

    __slots__ = ("_awaited", "_cancelled", "_context", "_coroutine", "_submit")

    _cancelled: bool
    """Whether it was cancelled, and no ``await`` has raised that yet."""

    def __init__(self) -> None:
        self._cancelled = False

    if TYPE_CHECKING:  # what Task adds

        def _end(self, result: Any, error: BaseException | None) -> None: ...
        def _asked(self, request: object) -> None: ...
        def _go_on_cancelled(self, completion: Completion | None, awaited: object) -> None: ...

    def _begin(
        self, coroutine: Coroutine[Any, Any, Any], context: Context, submit: Callable[[Operation], bool]
    ) -> None:
        """Begin to wait for its turn."""
        self._coroutine = coroutine
        self._context = context
        self._context.run(_current.set, self)
        self._submit = submit
        self._awaited: deque[object] = deque([None])  # of one, or none: to take it out is a single step

    def __call__(self, completion: Completion | None) -> None:
        try:
            awaited = self._awaited.pop()
        except IndexError:  # the port was closed, and the task with it
            return
        if self._cancelled:
            self._go_on_cancelled(completion, awaited)
            return
        try:
            request = self._context.run(self._coroutine.send, None)
        except StopIteration as end:
            self._end(end.value, None)
        except BaseException as error:  # noqa: BLE001 - it is looked at there
            if error.__traceback__ is not None:
                error.__traceback__ = error.__traceback__.tb_next  # without this frame, which has the task
            self._end(None, error)
        else:
            self._asked(request)

    def _step(self, function: Callable[[Any], Any], value: object) -> Any:
        """Call a function with a value, in the task's context."""
        return self._context.run(function, value)

    def _take(self) -> bool:
        """Have the task for this thread alone. Returns False if another one has it already."""
        try:
            self._awaited.pop()
        except IndexError:
            return False
        return True

    def _put(self, awaited: object) -> None:
        """Say what it waits for: another thread may go on with it from now on."""
        self._awaited.append(awaited)

    def _awaits(self) -> tuple[object, ...]:
        """What it waits for, in a tuple; an empty one for nothing."""
        return tuple(self._awaited)

"""What a thread does with completions: it gives each to its handler, until it is told to stop."""

from __future__ import annotations

import threading
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NoReturn

from unio.errors import shown
from unio.reports import described, ends_program, report
from unio.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.completion import Completion
    from unio.port import Port

LIMIT_ALONE = 64
"""How many completions a thread takes at once that is the only one. Of several, each takes one at a time, so that none
waits for the handler of another while a thread is free."""

CO_COROUTINE = 0x80
"""The flag of the code of an ``async def`` function (:data:`inspect.CO_COROUTINE`)."""


class Stopped(BaseException):
    """What the packet of a stop raises as it is dispatched, so that no other completion has to be looked at for it."""


def stop(_: Completion) -> NoReturn:
    """The key of that packet."""
    raise Stopped


class Run:
    """One call of :meth:`unio.Port.run`, or a thread of a :class:`unio.Pool`."""

    __slots__ = ("_port", "is_busy", "rest", "thread")

    def __init__(self, port: Port) -> None:
        self._port = port
        self.thread = threading.get_ident()
        self.is_busy = False
        """Whether it is handling what it has taken."""
        self.rest: list[Completion] = []
        """What it has taken and not begun, the last first: as it takes each out in one step, others can have it too."""

    def dispatch_all(self, batch: list[Completion], dispatch: Callable[[Completion], object]) -> BaseException | None:
        """Dispatch each completion, whatever becomes of the others. Returns what is to end the loop, if anything.

        What is raised is reported, but for what is to end the program. If that comes beside a stop, it is its cause.
        """
        self.is_busy = True
        end: BaseException | None = None
        completion: Completion | None = None
        batch.reverse()
        self.rest = batch
        if len(batch) > 1 and len(self._port._runs) > 1:  # they have come while this waited
            self.give_back(keep=1)
        while batch:
            try:
                try:
                    completion = batch.pop()
                except IndexError:  # another thread has come, and given it back
                    break
                result = dispatch(completion)
                if result is not None and isinstance(result, CoroutineType):
                    refuse_coroutine(result)
            except Stopped as stopped:
                stopped.__cause__, end = end, stopped
            except BaseException as error:  # noqa: BLE001 - whatever it is, the next completion has its turn
                if not ends_program(error):
                    report(error, note_for(completion))
                elif isinstance(end, Stopped):
                    end.__cause__ = error
                else:
                    end = error
        self.is_busy = False
        return end

    def give_back(self, keep: int = 0) -> None:
        """Put what was taken and not begun back to the head of the queue; any thread may, as soon as there are two."""
        while len(self.rest) > keep:
            try:
                last = self.rest.pop(0)
            except IndexError:
                break
            try:
                self._port._give_back(last)
            except BaseException:
                self.rest.insert(0, last)
                raise


def run(port: Port, dispatch: Callable[[Completion], object]) -> None:
    """Take completions and *dispatch* each, until :meth:`unio.Port.stop`."""
    this = Run(port)
    wait, runs = port.wait, port._runs
    end: BaseException | None = None
    port._enter_run(this)
    try:
        while end is None:
            end = this.dispatch_all(wait(None, LIMIT_ALONE if len(runs) == 1 else 1), dispatch)
    finally:
        this.give_back()  # what an exception of a signal handler's has kept it from
        port._leave_run(this, stopped=isinstance(end, Stopped))
    if isinstance(end, Stopped):
        end = end.__cause__
    if end is not None:
        raise end


def dispatch(completion: Completion) -> object:
    """Call what an operation has as its state or, for a packet without one, the key; with the completion."""
    operation = completion.operation
    handler = completion.key if operation is None else operation.state
    if not callable(handler):
        raise TypeError(
            f"the state of an operation is called with its completion, and the key of a packet, but {shown(handler)} "
            "can't be called: give one that can, as in unio.Recv(handle, state=function), or await the operation in a "
            "coroutine that Port.start has begun"
        )
    return handler(completion)


def note_for(completion: Completion | None) -> str:
    assert completion is not None
    handler = getattr(completion.operation, "state", None) if completion.operation is not None else completion.key
    who = repr(handler) if isinstance(handler, Task) else "A handler"
    return f"{who} raised this for {described(completion)}"


def is_coroutine_function(handler: object) -> bool:
    """Whether calling it would but make a coroutine."""
    return bool(getattr(getattr(handler, "__code__", None), "co_flags", 0) & CO_COROUTINE)


def refuse_coroutine(coroutine: CoroutineType[Any, Any, Any]) -> NoReturn:
    coroutine.close()  # or else Python would complain that it was never awaited, which is not what is wrong
    raise TypeError(
        f"{coroutine.__qualname__} is a coroutine function, and a handler is called, not awaited: give it a plain "
        "function, which may begin a coroutine with port.start(coroutine), or await the operation in a coroutine"
    )

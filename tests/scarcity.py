"""Have an allocation fail: the nth that a call makes.

CPython can be told to do that, where it has its test modules. Windows' has not. There, one of the calls fails which
unio's Python code makes of code that is not in the same files: of C, as of Windows or a container, or of a class. It
fails before it has done anything. That is not all that may fail, but neither can anything fail in between that does
not: unio's own functions take no memory to be called.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import unio

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import _testcapi
except ImportError:
    _testcapi = None

monitoring: Any = getattr(sys, "monitoring", None)

WHY_NOT = (
    ""
    if _testcapi is not None or (monitoring is not None and sys.platform == "win32")
    else "this Python has neither _testcapi, which lets allocations fail, nor sys.monitoring, by which calls can"
)
"""Why nothing can fail here."""

ALLOCATIONS = 45 if _testcapi is not None else 90
"""How many of them fail in turn; no call in a test makes more before its last that matters."""

FOLDER = Path(unio.__file__).parent / "backends"
COMMON = ("common/base_handle.py", "common/base_port.py", "common/timers.py")
FILES = {str(FOLDER / name) for name in ("iocp.py", *COMMON)} | {
    str(path) for path in (FOLDER / "windows").glob("*.py")
}

TAKES_NONE = (
    *(deque.append, deque.appendleft, deque.clear, deque.extendleft, deque.pop, deque.popleft),
    *(dict.clear, dict.get, dict.pop, list.clear, list.remove),
    *(isinstance, len, threading.current_thread, threading.main_thread),
)
"""What finds all that it needs: what takes something out, or puts a few things into a deque."""

TOOL = 4
"""One of the numbers that sys.monitoring has for tools without a purpose of its own."""


def lacking(number: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function whose nth allocation fails. Returns its result, or the MemoryError that it has raised."""
    begin, end = (
        (_fail_allocation, _testcapi.remove_mem_hooks) if _testcapi is not None else (_fail_call, _fail_no_call)
    )
    begin(number)
    try:
        return function(*arguments)
    except MemoryError as error:
        return error
    finally:
        end()


def _fail_allocation(number: int) -> None:
    _testcapi.set_nomemory(number, number + 1)


def _fail_call(number: int) -> None:
    left, thread = number, threading.get_ident()

    def called(code: CodeType, _offset: int, what: Any, _argument: Any) -> None:
        nonlocal left
        if code.co_filename in FILES and _may_fail(what) and threading.get_ident() == thread:
            left -= 1
            if left == -1:
                raise MemoryError

    monitoring.use_tool_id(TOOL, "scarcity")
    monitoring.register_callback(TOOL, monitoring.events.CALL, called)
    monitoring.set_events(TOOL, monitoring.events.CALL)


def _fail_no_call() -> None:
    monitoring.set_events(TOOL, 0)
    monitoring.register_callback(TOOL, monitoring.events.CALL, None)
    monitoring.free_tool_id(TOOL)


def _may_fail(what: Any) -> bool:
    if isinstance(what, MethodType):
        what = what.__func__
    if isinstance(what, FunctionType):  # what gives a lock back takes none
        return what.__code__.co_filename not in FILES and what.__name__ != "__exit__"
    return not any(what is each for each in TAKES_NONE)

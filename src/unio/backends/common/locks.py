"""Locks that are held for moments, and what is put off until they are given back.

It knows nothing of what the locks guard.

Python runs code of the program's between any two steps of unio's own: a finalizer or a weak reference's callback, when
the garbage collector comes or the last reference to something goes, and a signal handler in the main thread. That code
may reach the port while its thread holds a lock of unio's. If it waited for the same lock, it would wait for itself,
for ever; and with another lock in hand, two threads could wait for each other. So:

- A thread that holds one of these locks makes none of the program's calls that take one. Such a call asks
  :func:`holds_lock` first, and has its work :func:`put_off` until the thread has given its locks back, which is
  when the interrupted step is complete.
- The code under a lock is unio's own and short. It may take a second lock, always in the order that docs/threads.md
  gives; it makes no system call.
- A lock can be taken again by the thread that holds it. What can't be put off, as its caller needs the result, is
  written so that it may come in the middle of itself: associating, whose lock is the last of the order.

What was put off raises nothing into the code that happens to give the lock back: as from a finalizer, an exception is
shown by :func:`sys.unraisablehook`. Only one that is to end the program or the thread, such as ``KeyboardInterrupt``,
goes on from there.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING

from unio.backends.common.accelerator import core

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from unio._core import Lock as Lock  # noqa: PLC0414 - so that it counts as this module's


def refuse_within_lock(what: str = "wait for completions") -> None:
    """Raise RuntimeError where the calling thread holds a lock of unio's."""
    if holds_lock():
        raise RuntimeError(
            f"a finalizer or a signal handler can't {what} when it comes in the middle of a step of a port's: let it "
            "post, and do that elsewhere"
        )


if TYPE_CHECKING:

    def holds_lock() -> bool: ...

    def put_off(work: Callable[[], object], /) -> None: ...

elif core is not None:
    from unio._core import Lock, holds_lock, put_off
else:

    class _Mine(threading.local):
        """What is this thread's own."""

        held = 0
        doing = False
        works: deque[Callable[[], object]] | None = None  # made when it is needed first, in one step

    _mine = _Mine()

    class Lock:
        """A lock that the thread which holds it can take again."""

        __slots__ = ("_lock",)

        def __init__(self) -> None:
            self._lock = threading.RLock()

        def __enter__(self) -> bool:
            self._lock.acquire()
            _mine.held += 1
            return True

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
        ) -> None:
            _mine.held -= 1
            self._lock.release()
            if not _mine.held and not _mine.doing and _mine.works:
                _do_put_off(_mine.works)

    def holds_lock() -> bool:
        """Whether the calling thread holds a lock of unio's, so that it must not wait for another."""
        return _mine.held > 0

    def put_off(work: Callable[[], object]) -> None:
        """Have *work* done as soon as the calling thread has given its locks back; it holds one."""
        works: deque[Callable[[], object]] = _mine.__dict__.setdefault("works", deque())
        works.append(work)

    def _do_put_off(works: deque[Callable[[], object]]) -> None:
        """Do what was put off, and what is put off meanwhile; each of it, whatever becomes of the others."""
        kept: BaseException | None = None
        _mine.doing = True
        while works:
            work = works.popleft()
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - see above
                if kept is None and not isinstance(error, Exception):
                    kept = error
                else:
                    _report(error, work)
        _mine.doing = False
        if kept is not None:
            raise kept

    def _report(error: BaseException, work: object) -> None:
        what = {"exc_type": type(error), "exc_value": error, "exc_traceback": error.__traceback__}
        sys.unraisablehook(SimpleNamespace(**what, err_msg=None, object=work))

"""Run slots: the cap on how many threads a port lets run at once.

It knows the queue of a port and the clocks of threads, and neither handles nor operations.

Windows' kernel counts the threads that run for each of its completion ports: those that a wait has returned something
to, until they wait again or end, and not while they are blocked, which a kernel sees. Here a port has as many *run
slots* as threads may run. A thread takes one when a wait is about to return it something. It keeps it while the queue
has more for it, and gives it back when it waits and there is nothing, when it waits on another port, when it ends, and
when it says that it is about to block.

Whoever gives a slot back looks at the queue afterwards, and whoever queues a packet looks for a slot afterwards;
whichever comes second sees the other (completion_queue.py).

A thread may block without saying so. No portable call tells whether a thread is blocked, but its processor clock does,
in time: it stands still. So while packets wait and all slots are taken, the thread that leads looks at the clocks of
those that hold them, every WATCH_SECONDS. One whose clock has stood still for BLOCKED_SECONDS loses its slot. The
clock of a thread that is given no processor stands still as well. Linux tells the two apart by the thread's state,
which is read once the clock has raised the question; elsewhere the time is chosen so that this is rare, and then one
thread more runs for a while. A thread that waits for Python's lock sleeps too, but wakes every few milliseconds to ask
for it, which moves its clock. Nothing of this is done, and nothing is paid, while no packet waits for a slot. macOS
has no clock of another thread that Python could read: there, a thread has to say that it blocks.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unio.backends.common.accelerator import has_fast_path, thread_waits
from unio.finalizers import is_ending

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.backends.engine.completion_queue import CompletionQueue

WATCH_SECONDS = 0.02
"""How often the running threads are looked at while packets wait for a slot."""

BLOCKED_SECONDS = 0.1
"""How long the processor clock of a thread stands still before it counts as blocked."""


def keep(row: list[Any], what: Any) -> None:
    """Append what must not be lost: where a list has to grow and finds no memory, there may be some the next time."""
    try:
        row.append(what)
    except MemoryError:
        row.append(what)


if TYPE_CHECKING or has_fast_path:
    from unio._core import WaiterState
else:

    class WaiterState:
        """What a thread that waits keeps for the queue; Waiter says what each is."""

        __slots__ = (
            *("beyond", "came_at", "gate", "heard", "hears", "pace", "slot", "turn_began", "turn_packets"),
            *("watches", "woken"),
        )


class Waiter(WaiterState):
    """A thread that waits on a port, or did so last. It is made by that thread."""

    __slots__ = ("_clock", "_number", "_process", "_queue", "_since", "_time")

    slot: Any
    """Whether the thread has a slot; true where it has."""
    woken: float
    """When it was last woken for a packet, by the monotonic clock."""

    def __init__(self, queue: CompletionQueue) -> None:
        self._queue = weakref.ref(queue)  # a thread that goes on to other things keeps no port alive
        self.gate = threading.Lock()
        """Held while the thread sleeps; whoever wakes it releases this."""
        self.gate.acquire()
        self.beyond = False
        """Whether it runs without a slot, since it came back from blocking when there was none."""
        self.hears = threading.get_ident() == threading.main_thread().ident
        """Whether it is the main thread, in which Python runs signal handlers, and so has to be woken for one."""
        self.heard = False
        """Whether a signal wakes it just now: it is within a wait."""
        self._clock = _clock_of_this_thread()
        self._number = threading.get_native_id()
        self._time = self._since = -1.0
        self._process = os.getpid()

    def belongs_to(self, queue: CompletionQueue) -> bool:
        return self._queue() is queue

    def enter(self) -> bool:
        """Take a slot unless this thread has one. Returns whether it has one now."""
        queue = self._queue()
        return queue is not None and queue.enter(self)

    def leave(self) -> bool:
        """Give the slot back, if this thread has one, and let another have it. Returns whether it was running."""
        beyond = self.beyond
        queue = self._queue()
        if queue is None or not queue.leave(self):
            return beyond
        if queue.has_packets:
            queue.wake()
        return True

    def resume(self) -> None:
        """Run again after having left to block: at once, as Windows has it, though that may be one too many."""
        if not self.enter():
            self.beyond = True

    def stands_still(self, now: float) -> float:
        """For how many seconds the thread has used no processor time, while this was asked again and again."""
        if self._clock is None:
            return 0.0
        try:
            used = time.clock_gettime(self._clock)
        except OSError:  # it has ended, and is about to give its slot back
            return 0.0
        if used != self._time:
            self._time, self._since = used, now
        return now - self._since

    def may_run(self) -> bool:
        """Whether the thread runs, or would if there were a processor for it, as far as the system tells.

        To fall asleep, a thread must run. So one that sleeps now, and whose clock has stood still, has slept all the
        while.
        """
        try:
            status = Path(f"/proc/self/task/{self._number}/stat").read_bytes()
        except OSError:  # it has ended, or this is not Linux, or there is no descriptor to ask with
            return False
        return status.rpartition(b")")[2].split()[0] == b"R"

    def end(self) -> None:
        """The thread has ended, or has gone to another port."""
        # A forked child has the parent's objects, but none of its threads, and must not touch what they share.
        if self._process == os.getpid():
            if (queue := self._queue()) is not None:
                queue.part(self)
            self.leave()
            if queue is not None:
                queue.pass_on()

    def start_gathered(self) -> None:
        """Start what the thread has submitted and its port may still be gathering."""
        if (queue := self._queue()) is not None:
            queue.start_gathered()


def _clock_of_this_thread() -> int | None:
    if hasattr(time, "pthread_getcpuclockid"):
        with contextlib.suppress(OSError):
            clock: int = time.pthread_getcpuclockid(threading.get_ident())
            return clock
    return None


class _EndsWithThread:
    """Ends the waiter of a thread with that thread: it is held by what is the thread's own, and by nothing else.

    The waiter itself can live on, in the frames of an error that the program keeps.
    """

    __slots__ = ("waiter",)

    def __init__(self) -> None:
        self.waiter: Waiter | None = None

    def __del__(self, tell: Callable[[None], None] = thread_waits, is_ending: Callable[[], bool] = is_ending) -> None:
        tell(None)  # in any case: from here on nothing keeps the waiter alive
        if self.waiter is not None and not is_ending():
            self.waiter.end()


class _Current(threading.local):
    """What is this thread's own."""

    waiter: Waiter | None = None
    """The thread as one that has waited on a port, if it has."""
    at_end: _EndsWithThread | None = None


current = _Current()


class Blocking:
    """A block in which a thread has given its slot back, to run again at the end of it."""

    __slots__ = ("_left", "_queue", "_start_gathered")

    def __init__(self, start_gathered: Callable[[], None], queue: CompletionQueue) -> None:
        self._start_gathered = start_gathered
        self._queue = queue
        self._left: Waiter | None = None

    def __enter__(self) -> None:
        self._start_gathered()
        waiter = current.waiter
        if waiter is not None and waiter.belongs_to(self._queue) and waiter.leave():
            self._left = waiter
            self._queue.pass_on()  # whom the others have left what comes leaves a kernel that nobody asks

    # A generator of the program's may be in the block when it is dropped: at the end of the program, too.
    def __exit__(self, *_: object, current: _Current = current) -> None:
        left, self._left = self._left, None
        if left is not None and left is current.waiter:  # or else it has gone to another port
            left.resume()


def join(queue: CompletionQueue) -> Waiter:
    """Let the thread that calls this belong to the port of *queue*, and to no other any more."""
    if current.waiter is not None:
        thread_waits(None)
        current.waiter.end()
    waiter = Waiter(queue)
    queue.join(waiter)
    # The old one isn't replaced by a new one: a signal that came while its __del__ ran would raise nothing.
    at_end = current.at_end = current.at_end or _EndsWithThread()
    at_end.waiter = current.waiter = waiter
    thread_waits(waiter)
    return waiter


@atexit.register
def _before_the_end() -> None:
    # The main thread ends with the program, and no finalizer does anything then.
    if current.waiter is not None:
        current.waiter.start_gathered()


def _after_fork_in_child() -> None:
    current.waiter = current.at_end = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

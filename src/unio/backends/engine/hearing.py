"""Hearing of signals: how one ends the sleep of the main thread. C has the same, in ``core/hearing.c``.

Python's main thread alone runs the handlers of signals. It looks whether a signal has come, and then goes to sleep in
some system call: one that comes in between would be handled when that call ends. So for as long as the sleep takes,
Python writes the numbers of signals to the port's pipe, which the kernel watches for the leader. Where the program has
a descriptor of its own for them, the port tells that one.

This knows the pipe, the queue with the threads that sleep, and neither handles nor operations.
"""

from __future__ import annotations

import contextlib
import os
import signal
from abc import abstractmethod
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, ClassVar, TypeVar

from unio.backends.common.base_port import BasePort
from unio.backends.common.descriptor_guard import DescriptorGuard

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.backends.engine.completion_queue import CompletionQueue
    from unio.backends.engine.run_slots import Waiter
    from unio.backends.kernel.interrupt import SignalPipe

Slept = TypeVar("Slept")

UNTOLD_MAX = 64
"""Reads of the signal pipe that wait for the program's own descriptor, which may be a moment."""

write_signals_to = partial(signal.set_wakeup_fd, warn_on_full_buffer=False)
"""Has Python write the number of each signal to a descriptor, at once, and returns the one before; -1 is none."""

programs_own: list[int] = []
"""The program's own descriptor, or -1, while the main thread waits and another one is in its place."""


class HearingPort(BasePort):
    """A port whose main thread hears of signals while it sleeps."""

    is_fast: ClassVar[bool] = False
    """Whether C does the plain operations of such a port; see native.FastPort, which its class begins with then."""

    _queue: CompletionQueue
    _signal_pipe: SignalPipe

    def __init__(self, *, backend: str | None = None, concurrency: int = 0) -> None:
        self._forwards_to: tuple[int, DescriptorGuard] | None = None  # see _forward_to
        self._untold: deque[bytes] = deque(maxlen=UNTOLD_MAX)  # of signals, for the program's own descriptor
        self._tells = False  # whether the program is to be told, as far as is known
        super().__init__(backend=backend, concurrency=concurrency)

    if TYPE_CHECKING:  # what FastPort adds in C

        def _is_heard(self) -> bool: ...
        def _tells_program(self) -> bool: ...

    @abstractmethod
    def _complete_signals(self) -> None:
        """Complete the operations that wait for signals which have come."""

    def _sleep(self, waiter: Waiter, sleep: Callable[[float | None], Slept], timeout: float | None) -> Slept:
        """Call what sleeps for up to *timeout* seconds; in the main thread, a signal ends it. C has the same."""
        if timeout == 0 or not waiter.hears or waiter.heard:
            return sleep(timeout)
        before: list[int] = []
        pipe = self._signal_pipe
        with pipe.guard as is_open:
            try:
                if is_open:
                    waiter.heard = True
                    self._begin_hearing(waiter, before)
                return sleep(timeout)
            finally:
                waiter.heard = False
                if before:
                    try:
                        now = write_signals_to(before[0])
                    except (OSError, ValueError):  # it was closed meanwhile
                        now = write_signals_to(-1)
                    if now != pipe.writer:  # a handler has set another
                        write_signals_to(now)
                    if programs_own and programs_own[0] is before[0]:
                        programs_own.clear()
                    if before[0] >= 0:
                        self._forward_no_more()

    def _begin_hearing(self, waiter: Waiter, before: list[int]) -> None:
        self._tells = True
        try:
            # One step, in the middle of which no handler comes: else nobody would know what to set again.
            before.extend(map(write_signals_to, (self._signal_pipe.writer,)))
        except ValueError:  # of a subinterpreter, in which no handler runs
            waiter.hears = False
        else:
            if not programs_own:
                programs_own.extend(before)
            if before[0] >= 0:
                self._forward_to(before[0])
        finally:
            self._tells = False

    def _hear(self) -> None:
        """Signals have come: complete the operations that wait for them, and let the main thread run handlers."""
        try:
            told = self._signal_pipe.read()
            if told and (self._tells or self._forwards_to is not None or (self.is_fast and self._tells_program())):
                self._untold.append(told)
                self._forward()
            self._complete_signals()
            self._queue.rouse()
        except BaseException:  # somebody else shall hear of them
            self._signal_pipe()
            raise
        if self._queue.has_packets:
            self._queue.wake()

    def _forward_to(self, descriptor: int) -> None:
        """Let the program's own descriptor be told of what this port is told in its place: by a duplicate of it.

        The thread that leads does so, also when the program has closed its own by then. It may have read the pipe
        before it can know where to, or come to that when this has ended: so what is untold is told as soon as there is
        somebody.
        """
        try:
            number = os.dup(descriptor)
        except OSError:  # it is closed, or there is none to be had
            return
        self._forwards_to = number, DescriptorGuard(number)
        self._forward()

    def _forward(self) -> None:
        forwards_to = self._forwards_to
        if forwards_to is None:
            return
        number, guard = forwards_to
        with guard as is_open, contextlib.suppress(IndexError, OSError):  # all is told; it is full, or nobody reads it
            while is_open:
                os.write(number, self._untold.popleft())

    def _forward_no_more(self) -> None:
        self._hear()
        forwards_to, self._forwards_to = self._forwards_to, None
        if forwards_to is not None:
            forwards_to[1].close()

    def _close_signal_pipe(self) -> None:
        """Close it, unless Python writes to it for the main thread: that one does it when its wait ends."""
        if not self.is_fast or not self._is_heard():
            self._signal_pipe.close()


def _after_fork_in_child() -> None:
    if programs_own:
        write_signals_to(programs_own.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

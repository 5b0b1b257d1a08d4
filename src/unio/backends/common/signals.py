"""Signals that ports have taken from the program, and who waits for them.

It knows operations by their numbers, and of a port its lock and what wakes its leader; neither kernels nor handles.

A signal belongs to the process, and one port of it has it at a time: from the first Signal that is submitted until one
of that number is cancelled, or the port is closed. Meanwhile it is noted as it comes, whether a Signal waits for it or
not, so that a program which submits again for each completion hears of all.

How the system is had to tell of a signal is in three forms. In C a handler of the kernel's own is set, in any thread,
which runs at once, in any thread (src/core/signals.c says why not otherwise). On Windows that is one of the C runtime's
(windows/signals.py). Where there is no C, here, it is one of Python's: only its main thread can set it, and has to run
it.
"""

from __future__ import annotations

import errno
import os
import signal
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from unio.backends.common.accelerator import core, has_fast_path
from unio.backends.common.locks import Lock, holds_lock, put_off
from unio.errors import as_oserror

if TYPE_CHECKING:
    from collections.abc import Callable

    from unio.operations import Operation, Signal


class Waker(Protocol):
    """Wakes the leader of a port; callable in a signal handler, and keeping no port alive."""

    writer: int
    """The end of a pipe to which a byte is written for that, where it has one."""

    def __call__(self) -> None: ...


class Catcher(Protocol):
    """How the system is had to tell of signals: the three forms. A lock is held over each call."""

    def take(self, number: int, waker: Waker) -> None:
        """Have a signal noted and the waker called; anew, if another handler was set meanwhile. Raises OSError."""

    def give_back(self, number: int) -> None:
        """Have the system do again what it did before; on return the waker is not used any more."""

    def came(self, number: int) -> bool:
        """Whether it has come since this was asked last. It takes no memory."""
        ...

    def note(self, number: int) -> None:
        """Have that be so."""


_owners_lock = Lock()
"""Guards the owners. It is held over the calls that set a handler, which never block: two of them must not cross."""

_owners: dict[int, Any] = {}
"""The waker of the port that has a signal, by its number: no port, which this would keep alive."""


class Signals:
    """The signals that a port has, and the operations in flight that wait for them."""

    def __init__(self, lock: Lock, waker: Waker, catcher: Catcher) -> None:
        self._lock = lock  # the port's, which guards the operations
        self._waker = waker
        self._catcher = catcher
        self._waiting: dict[int, Signal] = {}  # by the number of the signal

    def begin(self, operation: Signal, in_flight: dict[int, Operation]) -> OSError | None:
        """Have an operation wait for its signal, unless it was ended meanwhile. Returns why that can't be, or None."""
        number = operation.number
        with _owners_lock:
            with self._lock:
                if id(operation) not in in_flight:
                    return None
            if _owners.setdefault(number, self._waker) is not self._waker:
                return _taken(number, "another port has it")
            try:
                self._catcher.take(number, self._waker)
            except OSError as error:
                self._catcher.give_back(number)
                del _owners[number]
                return as_oserror(error)
            with self._lock:
                if id(operation) in in_flight and self._waiting.setdefault(number, operation) is not operation:
                    return _taken(number, "another Signal of this port waits for it")
        return None

    def complete(
        self, operation: Signal, error: OSError | None, complete: Callable[[Operation, OSError | None], Any]
    ) -> Any:
        """Complete an operation, without the *error* if its signal has come; the caller holds the port's lock."""
        number = operation._number
        if self._waiting.get(number) is not operation:
            return complete(operation, error)
        came = self._catcher.came(number)  # first: one that comes from here on is the next
        try:
            result = complete(operation, None if came else error)
        except BaseException:
            if came:
                self._catcher.note(number)
            raise
        del self._waiting[number]
        return result

    def come(self) -> list[Signal]:
        """The operations whose signal has come; the caller holds the port's lock."""
        found = []
        for number, operation in self._waiting.items():
            if self._catcher.came(number):
                self._catcher.note(number)  # it is for who completes it
                found.append(operation)
        return found

    def give_back(self, number: int) -> None:
        """Let the program have a signal again, if this port has it and nothing waits for it."""
        if holds_lock():
            put_off(partial(self.give_back, number))
            return
        with _owners_lock:
            with self._lock:
                waited_for = number in self._waiting
            if not waited_for and _owners.get(number) is self._waker:
                self._catcher.give_back(number)
                del _owners[number]

    def give_all_back(self) -> None:
        """The same for all; the port is closed, and nothing is in flight any more."""
        for number in [*_owners]:
            self.give_back(number)


def _taken(number: int, why: str) -> OSError:
    name = signal.Signals(number).name if number in {*signal.Signals} else f"signal {number}"  # those of real time
    return OSError(errno.EBUSY, f"{name} is taken: {why}")


class _PythonsCatcher:
    """What takes signals by Python's own handlers."""

    def __init__(self) -> None:
        self._handler = self._handle  # one object, by which it is known again
        # The handler before, and whom to wake: nobody, once the signal was given back in a thread that can't do that.
        self._taken: dict[int, tuple[Any, Waker | None]] = {}
        self._come: set[int] = set()

    def take(self, number: int, waker: Waker) -> None:
        before = signal.getsignal(number)
        if before is self._handler:
            self._taken[number] = self._taken[number][0], waker
            return
        if before is None:
            raise OSError(errno.ENOTSUP, "its handler is not Python's, and could not be set again by Python")
        self._taken[number] = before, waker
        try:
            signal.signal(number, self._handler)
        except ValueError as error:
            del self._taken[number]
            why = f"without the part of unio that is C, a signal is taken in the program's main thread: {error}"
            raise OSError(errno.ENOTSUP, why) from None

    def give_back(self, number: int) -> None:
        self._come.discard(number)
        if number not in self._taken:
            return
        before, _ = self._taken[number]
        if signal.getsignal(number) is self._handler:
            self._taken[number] = before, None
            try:
                signal.signal(number, before)
            except ValueError:  # this is not the main thread; that does it when the signal comes
                return
        del self._taken[number]

    def came(self, number: int) -> bool:
        try:
            self._come.remove(number)
        except KeyError:
            return False
        return True

    def note(self, number: int) -> None:
        self._come.add(number)

    def _handle(self, number: int, _frame: object) -> None:
        before, waker = self._taken[number]
        if waker is not None:
            self._come.add(number)
            waker()
        else:
            signal.signal(number, before)
            self._taken.pop(number, None)
            signal.raise_signal(number)

    def forked(self) -> None:
        for number in [*self._taken]:
            self.give_back(number)


class _CatcherInC:
    """What takes signals by a handler of the kernel's own."""

    def take(self, number: int, waker: Waker) -> None:
        core.take_signal(number, waker.writer)

    def give_back(self, number: int) -> None:
        core.give_back_signal(number)

    def came(self, number: int) -> bool:
        return core.signal_came(number)

    def note(self, number: int) -> None:
        core.note_signal(number)


def _after_fork_in_child() -> None:
    global _owners_lock  # noqa: PLW0603 - a thread of the parent's may hold the other for ever
    _owners_lock = Lock()
    _owners.clear()
    _pythons.forked()


_pythons = _PythonsCatcher()

POSIX: Catcher = _CatcherInC() if has_fast_path else _pythons
"""How it is done everywhere but on Windows."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

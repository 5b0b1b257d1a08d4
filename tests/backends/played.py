"""A kqueue whose calls are the tests' own, which play what a real one may do."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest

from unio import backends
from unio.backends.kernel import kevent
from unio.backends.kernel.kqueue_api import ffi

EV_ERROR = 0x4000

Fetch: TypeAlias = "Callable[[], list[kevent.Change]]"
Wait: TypeAlias = "Callable[[Fetch, float | None], list[kevent.Change]]"
Answer: TypeAlias = "Callable[[kevent.Change], int]"


def as_it_is(fetch: Fetch, _timeout: float | None) -> list[kevent.Change]:
    return fetch()


def succeeds(_change: kevent.Change) -> int:
    return 0


def play(monkeypatch: pytest.MonkeyPatch, wait: Wait = as_it_is, answer: Answer = succeeds) -> None:
    """Have each port that is made from now on wait through *wait*, and have its changes refused by *answer*.

    *wait* is given the call and its time-out, in seconds, and returns the events. *answer* returns the errno that a
    change fails with, or 0. On Linux they stand behind the library's call, so that C comes there as well; elsewhere C,
    which calls the system's own, has no part in this.
    """
    if sys.platform == "linux":
        opened = kevent.library(os.environ[backends.KQUEUE_LIBRARY], "kevent")
        library = SimpleNamespace(kqueue=opened.kqueue, kevent=_call(opened.kevent, wait, answer))
        monkeypatch.setattr(kevent, "library", lambda *_: library)
        return
    fetch, change = kevent.Kqueue.wait, kevent.Kqueue.change

    def wait_here(kqueue: kevent.Kqueue, timeout: float | None) -> list[kevent.Change]:
        return wait(lambda: [_copy(event) for event in fetch(kqueue, timeout)], timeout)

    def change_here(kqueue: kevent.Kqueue, *changes: kevent.Change) -> list[int]:
        return [answer(each) or change(kqueue, each)[0] for each in changes]

    monkeypatch.setattr(backends.kqueue.KqueuePort, "is_fast", False)
    monkeypatch.setattr(kevent.Kqueue, "wait", wait_here)
    monkeypatch.setattr(kevent.Kqueue, "change", change_here)


def _copy(event: kevent.Kevent) -> kevent.Change:
    return kevent.Change(*[getattr(event, field) for field in kevent.Change._fields])


def _call(real: Any, wait: Wait, answer: Answer) -> Any:
    """A kevent that C can call, too."""

    def fetch(number: int, events: Any, most: int, timeout: Any) -> list[kevent.Change]:
        found = real(number, ffi.NULL, 0, events, most, timeout)
        if found < 0:
            raise OSError(ffi.errno, os.strerror(ffi.errno))
        return [_copy(events[index]) for index in range(found)]

    def change(number: int, changes: Any, count: int, answers: Any) -> int:
        at_once = ffi.new("struct timespec *")
        for index in range(count):
            error = answer(_copy(changes[index]))
            if error:
                answers[index].flags |= EV_ERROR
                answers[index].data = error
            elif answers:
                real(number, changes + index, 1, answers + index, 1, at_once)
            else:
                real(number, changes + index, 1, answers, 0, at_once)
        return count if answers else 0

    @ffi.callback("int(int, struct kevent *, int, struct kevent *, int, struct timespec *)")
    def call(number: int, changes: Any, count: int, events: Any, most: int, timeout: Any) -> int:
        if count:
            return change(number, changes, count, events)
        seconds = timeout.tv_sec + timeout.tv_nsec / kevent.NANOSECONDS if timeout else None
        try:
            told = wait(partial(fetch, number, events, most, timeout), seconds)
        except OSError as error:
            ffi.errno = error.errno
            return -1
        for index, event in enumerate(told):
            for field, value in event._asdict().items():
                setattr(events[index], field, value)
        return len(told)

    return call

"""How the tests of others come to run on a loop that is none of theirs: one hook for each kind of suite."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import logging
import os
import unittest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

# Classes of CPython's tests for each selector, and for each watcher of child processes, of which some reap those of
# everybody: on a loop that has neither, one of them is enough.
ONE_IS_ENOUGH = {
    *("KqueueEventLoopTests", "PollEventLoopTests", "SelectEventLoopTests"),
    *("SubprocessFastWatcherTests", "SubprocessSafeWatcherTests"),
}
WITH_SELECTOR = "EPollEventLoopTests"


def set_default(loop: type[asyncio.AbstractEventLoop]) -> None:
    """Have asyncio make this loop where a program asks for none by name, and where it asks for the usual one."""
    from asyncio import unix_events

    for name in ("_UnixDefaultEventLoopPolicy", "_DefaultEventLoopPolicy"):
        with contextlib.suppress(AttributeError):
            getattr(unix_events, name)._loop_factory = loop
    for name in ("SelectorEventLoop", "EventLoop"):
        if hasattr(asyncio, name):
            setattr(asyncio, name, loop)


def chosen(ids: list[str]) -> set[str]:
    """Those of the ids that UNIO_JUDGES_ONLY wants, a line for each: one as a whole, else all with that in them."""
    patterns = os.environ.get("UNIO_JUDGES_ONLY", "").splitlines()
    whole = set(patterns).intersection(ids)
    if whole or not patterns:
        return whole or set(ids)
    return {each for each in ids if any(part in each or fnmatch.fnmatch(each, f"*{part}*") for part in patterns)}


class Hook:
    """What is done before the modules of a suite are imported, and to each of them after that."""

    def __init__(self, name: str, loop: type[asyncio.AbstractEventLoop]) -> None:
        self.name = name
        self.loop = loop

    def before(self) -> None:
        """Change what the modules will import."""

    def after(self, module: ModuleType) -> None:
        """Change a module."""

    def wants(self, test: Any) -> bool:
        """Whether a test, or for pytest the id of one, is for this loop."""
        return True


class CPython(Hook):
    """CPython's own test_asyncio: what it makes by asyncio's names, and in its mixins' create_event_loop."""

    def before(self) -> None:
        if self.name != "stock":
            set_default(self.loop)

    def after(self, module: ModuleType) -> None:
        case: Any = getattr(module, WITH_SELECTOR, None)
        if case is not None and self.name != "stock":
            case.create_event_loop = lambda _: self.loop()

    def wants(self, test: unittest.TestCase) -> bool:
        return type(test).__name__ not in ONE_IS_ENOUGH


class Uvloop(Hook):
    """uvloop's tests: those that it runs on asyncio's loop too, and that say what they expect of which loop."""

    def before(self) -> None:
        from uvloop import _testbase

        if self.name == "stock":
            return
        _testbase.AIOTestCase.implementation = self.name
        _testbase.AIOTestCase.new_loop = lambda _: self.loop()
        _testbase.AIOTestCase.setUp = _testbase.BaseTestCase.setUp  # without asyncio's watcher of child processes
        set_default(self.loop)

    def after(self, module: ModuleType) -> None:
        for case in vars(module).values():  # programs of some tests make their loop by this expression
            if getattr(case, "NEW_LOOP", None) == "asyncio.new_event_loop()" and self.name == "unio":
                case.NEW_LOOP = "__import__('unio.asyncio').asyncio.new_event_loop()"

    def wants(self, test: unittest.TestCase) -> bool:
        from uvloop import _testbase

        return isinstance(test, _testbase.AIOTestCase) or not isinstance(test, _testbase.BaseTestCase)


class Default(Hook):
    """A suite that takes the loop that asyncio makes by itself."""

    def before(self) -> None:
        if self.name != "stock":
            set_default(self.loop)


class Anyio(Default):
    """anyio's tests, of which those remain that it runs on asyncio's own loop."""

    def wants(self, test: str) -> bool:
        return not any(name in test for name in ("[trio", "-trio", "+uvloop"))


class Uvicorn(Default):
    """uvicorn's tests: what it prefers to asyncio's own loop is not asked for."""

    def before(self) -> None:
        super().before()
        from uvicorn import config

        config.LOOP_FACTORIES["auto"] = config.LOOP_FACTORIES["asyncio"]


class Tornado(Default):
    """tornado's tests, with the setting of its own way to run them: they don't expect to hear of each request."""

    def before(self) -> None:
        super().before()
        logging.getLogger("tornado.access").setLevel(logging.CRITICAL)


HOOKS: dict[str, type[Hook]] = {
    "cpython": CPython,
    "uvloop": Uvloop,
    "anyio": Anyio,
    "uvicorn": Uvicorn,
    "tornado": Tornado,
    **dict.fromkeys(("aiohttp", "websockets", "asyncpg", "redis", "aiosmtpd"), Default),
}

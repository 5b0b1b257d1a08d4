"""What is compared: the groups of the benchmark, and in each the entries that run against each other."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path

import unio.backends

HERE = Path(__file__).parent
KIB = 1024


@dataclass(frozen=True)
class Contestant:
    """A program, and what it needs to run."""

    name: str
    program: str
    """Relative to this folder; one that ends in .c is compiled."""
    arguments: tuple[str, ...] = ()
    needs: str | None = None
    """The module that must be there."""
    backend: str | None = None
    """The backend of unio."""

    def problem(self) -> str | None:
        """Why it can't run here, or None."""
        if self.needs is not None and importlib.util.find_spec(self.needs) is None:
            return f"{self.needs} is not installed for Python {sys.version_info[0]}.{sys.version_info[1]}"
        if self.backend is not None:
            for candidate in unio.backends.candidates():
                if candidate.name == self.backend:
                    return None if candidate.available else candidate.reason
            return "there is no such backend"
        return None


@dataclass(frozen=True)
class Exchange:
    """What the load generator sends and expects."""

    connections: int
    request: int = KIB
    response: int = KIB
    idle: int = 0
    connect: bool = False
    """Whether each exchange has a connection of its own."""


@dataclass(frozen=True)
class Entry:
    """One line of a group's table."""

    label: str
    contestant: Contestant
    exchange: Exchange | None = None
    """None for a workload, which needs no load from outside."""
    arguments: tuple[str, ...] = ()
    buffer_bytes: int = 0
    """What of its memory for a connection is the buffer that a pending receive owns."""


@dataclass(frozen=True)
class Group:
    """Entries that are run in turns, so that they can be compared."""

    name: str
    title: str
    baseline: str
    """The label of the entry that the others are compared with."""
    entries: list[Entry] = field(default_factory=list)


def _on_unio(program: str) -> list[Contestant]:
    backends = [candidate.name for candidate in unio.backends.candidates() if sys.platform == "linux"]
    return [Contestant(f"unio {name}", program, backend=name) for name in backends if name not in ("iocp", "kqueue")]


def _on_loop(name: str, style: str) -> Contestant:
    needs = None if name == "asyncio" else name
    return Contestant(f"{name} {style}", "servers/asyncio_echo.py", (name, style), needs=needs)


UVLOOP = _on_loop("uvloop", "protocol")
LIMITS = [
    Contestant("C io_uring", "servers/io_uring_limit.c"),
    Contestant("C epoll", "servers/epoll_limit.c"),
]
ECHO = [
    *_on_unio("servers/unio_echo.py"),
    UVLOOP,
    *(_on_loop(name, "protocol") for name in ("blazio", "zloop", "rloop", "asyncio")),
    *(_on_loop(name, "streams") for name in ("uvloop", "asyncio")),
    Contestant("select.epoll by hand", "servers/epoll_echo.py"),
    Contestant("gevent", "servers/gevent_echo.py", needs="gevent"),
    Contestant("trio", "servers/trio_echo.py", needs="trio"),
    *LIMITS,
]


def _exchanges(name: str, title: str, exchange: Exchange, contestants: list[Contestant] = ECHO) -> Group:
    # A receive that is pending owns a buffer; it is large enough for most of a message, as a server would choose it.
    buffer = str(64 * KIB if exchange.request <= 64 * KIB else 256 * KIB)
    entries = [Entry(each.name, each, exchange, (buffer, *each.arguments)) for each in contestants]
    return Group(name, title, UVLOOP.name, entries)


def _idle() -> Group:
    entries = []
    size = 4 * KIB
    for contestant in [*_on_unio("servers/unio_echo.py"), UVLOOP, *LIMITS]:
        owned = 0 if contestant is UVLOOP or contestant.name == "C epoll" else size
        for count in (0, 5000):
            label, exchange = f"{contestant.name}, {count:,} idle", Exchange(64, idle=count)
            entries.append(Entry(label, contestant, exchange, (str(size), *contestant.arguments), owned))
    return Group("idle", "Echo of 1 KiB on 64 connections beside 5,000 idle ones", f"{UVLOOP.name}, 0 idle", entries)


def _sendfile() -> Group:
    size = 1024 * KIB
    contestants = [
        *_on_unio("servers/unio_sendfile.py"),
        Contestant("asyncio", "servers/asyncio_sendfile.py"),
        Contestant("a thread for each connection", "servers/threads_sendfile.py"),
    ]
    exchange = Exchange(16, request=1, response=size)
    entries = [Entry(each.name, each, exchange, (str(size),)) for each in contestants]
    return Group("sendfile", "1 MiB of a file for each byte received, on 16 connections", "asyncio", entries)


def _workload(name: str, title: str, baseline: str, others: list[Contestant]) -> Group:
    contestants = [*(_on_unio(f"workloads/{name}.py")), *others]
    entries = [Entry(each.name, each, None, each.arguments or ("unio",)) for each in contestants]
    return Group(name, title, baseline, entries)


def _posts() -> Group:
    program = "workloads/posts.py"
    loops = [
        Contestant(f"{name} call_soon_threadsafe", program, (name,), needs=None if name == "asyncio" else name)
        for name in ("asyncio", "uvloop", "blazio", "zloop")
    ]
    others = [Contestant("queue.SimpleQueue", program, ("queue",)), *loops]
    return _workload("posts", "Packets from one thread to another", "uvloop call_soon_threadsafe", others)


def _files() -> Group:
    program = "workloads/files.py"
    others = [
        Contestant("a pool of threads", program, ("threads",)),
        Contestant("one read after the other", program, ("loop",)),
    ]
    return _workload("files", "Reads of 4 KiB at random offsets, 32 at a time", "a pool of threads", others)


def groups() -> list[Group]:
    """All groups, in the order of the report."""
    return [
        _exchanges("echo-1k-64", "Echo of 1 KiB on 64 connections", Exchange(64)),
        _exchanges("echo-1k-512", "Echo of 1 KiB on 512 connections", Exchange(512)),
        _exchanges("echo-1k-1", "Echo of 1 KiB on one connection", Exchange(1)),
        _exchanges("echo-64", "Echo of 64 bytes on 64 connections", Exchange(64, 64, 64)),
        _exchanges("echo-10k", "Echo of 10 KiB on 64 connections", Exchange(64, 10 * KIB, 10 * KIB)),
        _exchanges("echo-100k", "Echo of 100 KiB on 16 connections", Exchange(16, 100 * KIB, 100 * KIB)),
        _exchanges("connect", "Connect, echo 1 KiB, close; 16 at a time", Exchange(16, connect=True)),
        _idle(),
        _posts(),
        _files(),
        _sendfile(),
    ]

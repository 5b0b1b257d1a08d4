"""What is compared: the rows of the benchmark, and the contestants that run against each other in each."""

from __future__ import annotations

import importlib.util
import platform
from dataclasses import dataclass, replace
from pathlib import Path

import unio.backends

HERE = Path(__file__).parent
KIB = 1024
BUFFER = 64 * KIB
"""What a connection has for its receives, where it is for the program to say."""

HEAD = 64
"""The bytes that are sent before others, from a buffer of their own."""

LOOPS = ("uvloop", "asyncio")

IDLE = 5000
IDLE_BUFFER = 4 * KIB
"""What a connection has for its receives where most are idle."""


@dataclass(frozen=True)
class Contestant:
    """A program, and what it needs to run."""

    name: str
    program: str
    """Relative to this folder; one that ends in .c is compiled."""
    arguments: tuple[str, ...] = ()
    kind: str = "peer"
    """unio; a peer, which is a library that lives; or a limit, which is a program with nothing around it."""
    needs: str | None = None
    """The module that must be there."""
    backend: str | None = None
    """The backend of unio."""
    owns_buffer: bool = False
    """Whether each connection has a buffer of its own while it waits for data; else one serves them all."""

    def problem(self) -> str | None:
        """Why it can't run here, or None."""
        if self.needs is not None and importlib.util.find_spec(self.needs) is None:
            return f"{self.needs} is not installed for Python {platform.python_version()}"
        for candidate in unio.backends.candidates():
            if candidate.name == self.backend and not candidate.available:
                return candidate.reason
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
    datagrams: bool = False
    """Whether a connection is a socket of UDP."""

    def mode(self) -> list[str]:
        """What the load is told of it besides the numbers."""
        return ["connect"] if self.connect else ["datagrams"] if self.datagrams else []


@dataclass(frozen=True)
class Entry:
    """A contestant in a row."""

    label: str
    contestant: Contestant
    exchange: Exchange | None = None
    """None for a workload, which needs no load from outside."""
    arguments: tuple[str, ...] = ()
    buffer_bytes: int = 0
    """What of its memory for a connection is the buffer that a pending receive owns."""
    file_bytes: int = 0
    """The size of a file that it is given the path of, before its other arguments.

    All have the same file, so that nothing differs but what sends it.
    """


@dataclass(frozen=True)
class Row:
    """Entries that are run in turns, so that they can be compared."""

    name: str
    title: str
    baseline: str
    """The label of the entry that the others are compared with."""
    entries: tuple[Entry, ...]


def _on_unio(program: str, *arguments: str, form: str = "") -> list[Contestant]:
    """One for each backend that is for this system, the unavailable ones included: the report says why."""
    return [
        Contestant(f"unio {each.name}{form}", program, arguments, kind="unio", backend=each.name, owns_buffer=True)
        for each in unio.backends.candidates()
        if each.available or not each.reason.startswith("it is for ")
    ]


def _on_loop(name: str, style: str) -> Contestant:
    needs = None if name == "asyncio" else name
    owns = style == "sock_*"
    return Contestant(f"{name} {style}", "servers/asyncio_echo.py", (name, style), needs=needs, owns_buffer=owns)


def _limit(name: str, program: str, *arguments: str, owns_buffer: bool = False) -> Contestant:
    return Contestant(name, program, arguments, kind="limit", owns_buffer=owns_buffer)


FASTEST = _on_unio("servers/unio_fastest.py")
TUTORIAL = _on_unio("servers/unio_tutorial.py", form=", tutorial")
UVLOOP = _on_loop("uvloop", "Protocol")
ASYNCIO = _on_loop("asyncio", "Protocol")
AIOFASTNET = replace(_on_loop("aiofastnet", "Protocol"), name="aiofastnet on uvloop, Protocol")
BLAZIO = _on_loop("blazio", "Protocol")
C_EPOLL = _limit("C epoll", "servers/epoll_limit.c")
C_IO_URING = _limit("C io_uring", "servers/io_uring_limit.c", owns_buffer=True)
ECHO = [
    *FASTEST,
    *TUTORIAL,
    UVLOOP,
    BLAZIO,
    AIOFASTNET,
    *(_on_loop(name, "Protocol") for name in ("zloop", "rloop", "talyn", "loopmini", "zuvloop", "rsloop")),
    ASYNCIO,
    *(_on_loop(name, style) for style in ("streams", "sock_*") for name in ("uvloop", "asyncio")),
    Contestant("gevent", "servers/gevent_echo.py", needs="gevent", owns_buffer=True),
    Contestant("trio", "servers/trio_echo.py", needs="trio"),
    _limit("select.epoll by hand", "servers/epoll_echo.py"),
    C_EPOLL,
    _limit("C epoll, sends batched", "servers/epoll_limit.c", "batched"),
    C_IO_URING,
    _limit("C io_uring, a call for each", "servers/io_uring_limit.c", "each", owns_buffer=True),
    _limit("C io_uring, send and receive linked", "servers/io_uring_limit.c", "linked", owns_buffer=True),
]


TIME_OUT = "30"
"""Seconds that each receive and each send may take at most: as a server's may, and none ever takes."""

LIMITED = [
    *FASTEST,
    *_on_unio("servers/unio_fastest.py", TIME_OUT, form=", time-outs"),
    *(_on_loop(name, style) for style in ("streams", "time-outs") for name in ("uvloop", "asyncio")),
]
"""Who runs where each receive and each send has a time-out, and the same without."""


def _echo(name: str, title: str, exchange: Exchange) -> Row:
    return _echo_of(ECHO, name, title, exchange, UVLOOP.name)


def _echo_of(contestants: list[Contestant], name: str, title: str, exchange: Exchange, baseline: str) -> Row:
    entries = [Entry(each.name, each, exchange, (str(BUFFER), *each.arguments)) for each in contestants]
    return Row(name, title, baseline, tuple(entries))


def _time_outs() -> Row:
    title = "Echo of 1 KiB on 64 connections, with a time-out on each receive and each send"
    return _echo_of(LIMITED, "time-outs", title, Exchange(64), "asyncio time-outs")


def _datagrams() -> Row:
    loops = [
        Contestant(f"{name} datagrams", "servers/asyncio_datagrams.py", (name,), needs=needs)
        for name, needs in (("uvloop", "uvloop"), ("asyncio", None))
    ]
    contestants = [*_on_unio("servers/unio_datagrams.py"), *loops]
    title = "Echo of datagrams of 512 bytes, 64 peers of one socket"
    return _echo_of(contestants, "datagrams", title, Exchange(64, 512, 512, datagrams=True), "uvloop datagrams")


def _two_buffers() -> Row:
    contestants = [*_on_unio("servers/unio_two_buffers.py"), *(_on_loop(name, "writelines") for name in LOOPS)]
    title = "1 KiB on 64 connections, sent back behind a head of 64 bytes, from two buffers"
    return _echo_of(contestants, "two-buffers", title, Exchange(64, KIB, KIB + HEAD), "uvloop writelines")


def _idle() -> Row:
    """Beside idle connections all run; the strongest also without, in the same passes."""
    entries = []
    for contestant in ECHO:
        both = contestant in (*FASTEST, UVLOOP, ASYNCIO, BLAZIO, C_EPOLL, C_IO_URING)
        for count in (0, IDLE) if both else (IDLE,):
            label, exchange = f"{contestant.name}, {count:,} idle", Exchange(64, idle=count)
            arguments = (str(IDLE_BUFFER), *contestant.arguments)
            entries.append(Entry(label, contestant, exchange, arguments, IDLE_BUFFER if contestant.owns_buffer else 0))
    title = f"Echo of 1 KiB on 64 connections beside {IDLE:,} idle ones"
    return Row("idle", title, f"{UVLOOP.name}, 0 idle", tuple(entries))


def _sendfile() -> Row:
    size = 1024 * KIB
    contestants = [
        *_on_unio("servers/unio_sendfile.py"),
        Contestant("asyncio sock_sendfile", "servers/asyncio_sendfile.py"),
        _limit("a thread for each connection", "servers/threads_sendfile.py"),
    ]
    exchange = Exchange(16, request=1, response=size)
    entries = [Entry(each.name, each, exchange, file_bytes=size) for each in contestants]
    title = "1 MiB of a file for each byte received, on 16 connections"
    return Row("sendfile", title, "asyncio sock_sendfile", tuple(entries))


def _workload(name: str, title: str, baseline: str, others: list[Contestant]) -> Row:
    contestants = [*_on_unio(f"workloads/{name}.py", "unio"), *others]
    entries = [Entry(each.name, each, None, each.arguments) for each in contestants]
    return Row(name, title, baseline, tuple(entries))


def _posts() -> Row:
    program = "workloads/posts.py"
    loops = [
        Contestant(f"{name} call_soon_threadsafe", program, (name,), needs=None if name == "asyncio" else name)
        for name in ("uvloop", "blazio", "zloop", "rloop", "asyncio")
    ]
    trio = Contestant("trio run_sync_soon", program, ("trio",), needs="trio")
    others = [*loops, trio, _limit("queue.SimpleQueue", program, "queue")]
    return _workload("posts", "Packets from one thread to another", "uvloop call_soon_threadsafe", others)


def _polls() -> Row:
    program = "workloads/polls.py"
    others = [
        Contestant(f"{name} add_reader", program, (name,), needs=None if name == "asyncio" else name) for name in LOOPS
    ]
    return _workload("polls", "Sockets that another library reads: told, and told again", "uvloop add_reader", others)


def _looks() -> Row:
    others = [_limit("select.epoll", "workloads/looks.py", "epoll")]
    return _workload("looks", "Looks that find nothing", "select.epoll", others)


def _files() -> Row:
    program = "workloads/files.py"
    others = [
        Contestant("asyncio.to_thread", program, ("asyncio",)),
        Contestant("trio.to_thread", program, ("trio",), needs="trio"),
        _limit("a pool of threads", program, "threads"),
        _limit("one read after the other", program, "loop"),
    ]
    return _workload("files", "Reads of 4 KiB at random offsets, 32 at a time", "a pool of threads", others)


def rows() -> list[Row]:
    """All rows, in the order of the report."""
    return [
        _echo("echo-1k-64", "Echo of 1 KiB on 64 connections", Exchange(64)),
        _echo("echo-1k-512", "Echo of 1 KiB on 512 connections", Exchange(512)),
        _echo("echo-1k-1", "Echo of 1 KiB on one connection", Exchange(1)),
        _echo("echo-64b-64", "Echo of 64 bytes on 64 connections", Exchange(64, 64, 64)),
        _echo("echo-10k-64", "Echo of 10 KiB on 64 connections", Exchange(64, 10 * KIB, 10 * KIB)),
        _echo("echo-100k-16", "Echo of 100 KiB on 16 connections", Exchange(16, 100 * KIB, 100 * KIB)),
        _time_outs(),
        _two_buffers(),
        _datagrams(),
        _echo("connect", "Connect, echo 1 KiB, close; 16 at a time", Exchange(16, connect=True)),
        _idle(),
        _posts(),
        _polls(),
        _looks(),
        _files(),
        _sendfile(),
    ]

"""Runs the entries of a row in turns, and measures each round.

The server has one processor and the load another. All servers of a row are there from the beginning, but asleep: in a
round, one of them works. The order of the entries is turned round after each pass, so that a drift of the machine
strikes all alike.

A loop that never sleeps would take the processor of whoever works. So each contestant is looked at when it has warmed
up, and one that uses its processor while it has nothing to do is kept stopped but for its own rounds.

A round that something else has disturbed is repeated, a few times at most, and marked if it remained so.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import host
from contestants import HERE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from contestants import Entry, Row

TRIES = 3
"""How often a round is run until it is not disturbed."""

IDLE_SECONDS = 0.3
RESTLESS = 0.3
"""For how long each contestant is looked at while it has nothing to do, and for which share of that it may be busy."""


class Failed(Exception):
    """A contestant did not do what it should."""


@dataclass(frozen=True)
class Plan:
    """How it is measured."""

    watch: host.Watch
    binaries: Path
    """The folder that C programs are compiled into, and files are made in."""
    rounds: int
    seconds: float


@dataclass
class Round:
    """What one entry did in one round."""

    rate: float
    """Exchanges a second."""
    exchanges: int
    """All of them, those that ended after the time was up included."""
    user_seconds: float
    system_seconds: float
    """The server's processor time, for all of the exchanges."""
    disturbed: bool
    probes_ns: list[int]
    elsewhere_seconds: float
    """What :class:`host.Watch` has found; the probes of both processors, before the round and after it."""
    load_busy: float = 0.0
    """For which share of the round's time the load had something to do. It never sleeps, but asks again and again."""
    p50_ns: int = 0
    p99_ns: int = 0
    p999_ns: int = 0
    repeated: int = 0
    """How many disturbed ones this one stands for."""


class Runner:
    """One entry: its server, and its load."""

    def __init__(self, entry: Entry, plan: Plan) -> None:
        self.entry = entry
        self.plan = plan
        self.rounds: list[Round] = []
        self.bytes_per_connection: float | None = None
        self.restless = False
        """Whether it uses its processor while it has nothing to do."""
        self._processes: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        contestant, exchange = self.entry.contestant, self.entry.exchange
        source = HERE / contestant.program
        interpreted = [sys.executable, str(source)]
        program = [str(host.compiled(source, self.plan.binaries))] if source.suffix == ".c" else interpreted
        environment = {**os.environ, **({"UNIO_BACKEND": contestant.backend} if contestant.backend else {})}
        where = self.plan.watch.processors if exchange is None else self.plan.watch.processors[:1]
        if self.entry.file_bytes:
            program.append(str(host.made_file(self.entry.file_bytes, self.plan.binaries)))
        self._server = self._driver = self._begin([*program, *self.entry.arguments], where, environment)
        if exchange is not None:
            number = self._line(self._server).strip()
            self._memory_before = host.resident_bytes(self._server.pid)
            load = str(host.compiled(HERE / "load.c", self.plan.binaries))
            sizes = (exchange.connections, exchange.request, exchange.response, exchange.idle)
            arguments = [number, *map(str, sizes), *exchange.mode()]
            self._driver = self._begin([load, *arguments], self.plan.watch.processors[1:])
        if (said := self._line(self._driver).strip()) != "ready":
            raise Failed(f"it said {said!r} and not 'ready'")

    def _begin(
        self, command: list[str], where: tuple[int, ...], environment: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        with host.pinned(*where):
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
                env=environment,
                process_group=0,  # Ctrl-C is for the one who ends them
                preexec_fn=host.end_with_parent,  # noqa: PLW1509 - there is one thread here
            )
        self._processes.append(process)
        return process

    def warm_up(self) -> None:
        """Run a round that isn't counted: caches fill, and all connections are accepted. The responses are checked."""
        self._ask(f"check {self.plan.seconds}")
        exchange = self.entry.exchange
        if exchange is not None and exchange.idle:
            grown = host.resident_bytes(self._server.pid) - self._memory_before
            self.bytes_per_connection = grown / (exchange.idle + exchange.connections) - self.entry.buffer_bytes
        before = host.awake_seconds(self._server.pid)
        time.sleep(IDLE_SECONDS)
        self.restless = host.awake_seconds(self._server.pid) - before > RESTLESS * IDLE_SECONDS
        if self.restless:
            self._server.send_signal(signal.SIGSTOP)

    def run(self) -> None:
        """Run one round, and keep what it says."""
        if self.restless:
            self._server.send_signal(signal.SIGCONT)
        for repeated in range(TRIES):
            found = self._round()
            found.repeated = repeated
            if not found.disturbed:
                break
        if self.restless:
            self._server.send_signal(signal.SIGSTOP)
        self.rounds.append(found)

    def _round(self) -> Round:
        self.plan.watch.begin()
        before = {process.pid: host.process_seconds(process.pid) for process in self._processes}
        said = json.loads(self._ask(f"run {self.plan.seconds}"))
        after = {process.pid: host.process_seconds(process.pid) for process in self._processes}
        own = sum(sum(after[pid]) - sum(before[pid]) for pid in before)
        watched = self.plan.watch.end(own, self.plan.seconds)
        (user, system), (user_before, system_before) = after[self._server.pid], before[self._server.pid]
        return Round(**said, **watched, user_seconds=user - user_before, system_seconds=system - system_before)

    def close(self) -> None:
        """End the processes of this entry."""
        for process in reversed(self._processes):
            process.kill()  # not every loop ends when it is asked to
            process.communicate()

    def _ask(self, line: str) -> str:
        assert self._driver.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # reading says with which status it has ended
            print(line, file=self._driver.stdin, flush=True)
        return self._line(self._driver)

    def _line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            who = "the server" if process is self._server else "the load"
            raise Failed(f"{who} has ended, with status {process.wait()}")
        return line


@contextlib.contextmanager
def _excused(entry: Entry, absent: dict[str, str]) -> Iterator[None]:
    """Note a contestant that fails, so that the others go on."""
    try:
        yield
    except Failed as problem:
        absent[entry.label] = str(problem)


def run_row(row: Row, plan: Plan, progress: Callable[[str], None]) -> dict[str, Any]:
    """Run the rounds of each entry that can run here, and return what was measured; *progress* is told of each step."""
    absent = {entry.label: problem for entry in row.entries if (problem := entry.contestant.problem())}
    runners: list[Runner] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(host.many_descriptors())
        for entry in row.entries:
            progress(f"starting {entry.label}")
            if entry.label not in absent:
                runner = Runner(entry, plan)
                stack.callback(runner.close)
                with _excused(entry, absent):
                    runner.start()
                    runner.warm_up()
                    runners.append(runner)
        for number in range(plan.rounds):
            for runner in runners if number % 2 == 0 else reversed(runners):
                progress(runner.entry.label)
                if runner.entry.label not in absent:
                    with _excused(runner.entry, absent):
                        runner.run()
    runners = [runner for runner in runners if runner.entry.label not in absent]
    return {
        "name": row.name,
        "title": row.title,
        "baseline": row.baseline,
        "absent": absent,
        "entries": [_as_json(runner) for runner in runners],
    }


def _as_json(runner: Runner) -> dict[str, Any]:
    entry = runner.entry
    return {
        "label": entry.label,
        "contestant": entry.contestant.name,
        "kind": entry.contestant.kind,
        "idle": entry.exchange.idle if entry.exchange else 0,
        "bytes_per_connection": runner.bytes_per_connection,
        "restless": runner.restless,
        "rounds": [asdict(each) for each in runner.rounds],
    }

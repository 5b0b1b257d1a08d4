"""Runs the entries of a group in turns, and measures each round.

The server has one processor and the load another. All servers of a group are there from the beginning, but asleep: in a
round, one of them works. The order of the entries is turned round after each pass, so that a drift of the machine
strikes all alike. Before each round a fixed piece of work is timed on both processors; where it, or the one after the
round, was slow, the machine was disturbed, and the round is marked.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from contestants import HERE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from contestants import Entry, Group

SLOW = 1.25
"""A probe that takes so many times the median of its processor's tells of a disturbance."""

TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A contestant did not do what it should."""


@dataclass
class Round:
    """What one entry did in one round."""

    rate: float
    """Exchanges a second."""
    exchanges: int
    """All of them, those that ended after the time was up included."""
    load_busy: float
    """The load's own processor time, as a share of the round's."""
    user_seconds: float
    system_seconds: float
    """The server's processor time, for all of the exchanges."""
    probes_ns: list[int]
    """Of both processors, before the round and after it."""
    p50_ns: int = 0
    p99_ns: int = 0
    p999_ns: int = 0
    disturbed: bool = False


def compiled(source: Path, folder: Path) -> Path:
    """Compile a C program, unless it is newer than its source; return its path."""
    program = folder / source.stem
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        folder.mkdir(parents=True, exist_ok=True)
        flags = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
        subprocess.run(["cc", *flags, "-o", program, source], check=True)
    return program


@contextlib.contextmanager
def pinned(processors: set[int]) -> Iterator[None]:
    """Let the processes that are started meanwhile run on these processors only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Runner:
    """One entry: its server, and its load."""

    def __init__(self, entry: Entry, folder: Path, processors: tuple[int, int]) -> None:
        self.entry = entry
        self.processors = processors
        self.rounds: list[Round] = []
        self.bytes_per_connection: float | None = None
        contestant, source = entry.contestant, HERE / entry.contestant.program
        program = [str(compiled(source, folder))] if source.suffix == ".c" else [sys.executable, str(source)]
        environment = {**os.environ, **({"UNIO_BACKEND": contestant.backend} if contestant.backend else {})}
        self._processes: list[subprocess.Popen[str]] = []
        with pinned(set(processors) if entry.exchange is None else {processors[0]}):
            self._server = self._start([*program, *entry.arguments], environment)
        self._driver = self._server
        try:
            if entry.exchange is not None:
                self._connect(folder)
            self._expect("ready")
        except BaseException:
            self.close()
            raise

    def _start(self, command: list[str], environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
        )
        self._processes.append(process)
        return process

    def _connect(self, folder: Path) -> None:
        exchange = self.entry.exchange
        assert exchange is not None
        number = self._line(self._server).strip()
        before = self._resident_bytes()
        sizes = (exchange.connections, exchange.request, exchange.response, exchange.idle)
        mode = ["connect"] if exchange.connect else []
        with pinned({self.processors[1]}):
            self._driver = self._start([str(folder / "load"), number, *map(str, sizes), *mode])
        self._memory_before = before

    def measure_memory(self) -> None:
        """Take the memory of a connection, its buffer excluded; after a round, when all have been accepted."""
        exchange = self.entry.exchange
        if exchange is not None and exchange.idle:
            grown = self._resident_bytes() - self._memory_before
            self.bytes_per_connection = grown / (exchange.idle + exchange.connections) - self.entry.buffer_bytes

    def run(self, seconds: float) -> Round:
        """Run one round, between two probes."""
        probes = self.probe()
        user, system = self._processor_seconds()
        said = json.loads(self._ask(f"run {seconds}"))
        user_after, system_after = self._processor_seconds()
        return Round(
            **said,
            user_seconds=user_after - user,
            system_seconds=system_after - system,
            probes_ns=probes + self.probe(),
        )

    def probe(self) -> list[int]:
        """Time the fixed piece of work on both processors."""
        if self._driver is self._server:
            return []  # a workload: it uses both, and has no probe
        return [int(self._ask(f"probe {processor}")) for processor in self.processors]

    def close(self) -> None:
        """End the processes of this entry."""
        for process in reversed(self._processes):
            process.kill()  # not every loop ends when it is asked to
            process.communicate()

    def _ask(self, line: str) -> str:
        assert self._driver.stdin is not None
        print(line, file=self._driver.stdin, flush=True)
        return self._line(self._driver)

    def _expect(self, wanted: str) -> None:
        if (said := self._line(self._driver).strip()) != wanted:
            raise Failed(f"{self.entry.label} said {said!r} and not {wanted!r}")

    def _line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise Failed(f"{self.entry.label} has ended, with status {process.wait()}")
        return line

    def _processor_seconds(self) -> tuple[float, float]:
        text = Path(f"/proc/{self._server.pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()  # the name before it may have blanks
        return int(fields[11]) / TICKS, int(fields[12]) / TICKS

    def _resident_bytes(self) -> int:
        for line in Path(f"/proc/{self._server.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise Failed(f"{self.entry.label} has no memory")


@contextlib.contextmanager
def _excused(entry: Entry, absent: dict[str, str]) -> Iterator[None]:
    """Note a contestant that fails, so that the others go on."""
    try:
        yield
    except Failed as problem:
        absent[entry.label] = str(problem)


def run_group(
    group: Group, *, folder: Path, count: int, seconds: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Run *count* rounds of each entry that can run here, and return what was measured."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    usable = sorted(os.sched_getaffinity(0))
    processors = (usable[0], usable[-1])
    compiled(HERE / "load.c", folder)
    absent = {entry.label: problem for entry in group.entries if (problem := entry.contestant.problem())}
    runners: list[Runner] = []
    try:
        for entry in group.entries:
            if entry.label not in absent:
                progress(f"starting {entry.label}")
                with _excused(entry, absent):
                    runners.append(Runner(entry, folder, processors))
        for runner in runners:  # one that isn't counted: caches fill, buffers grow, connections are accepted
            progress(f"warming {runner.entry.label}")
            with _excused(runner.entry, absent):
                runner.run(seconds)
                runner.measure_memory()
        for number in range(count):
            for runner in runners if number % 2 == 0 else reversed(runners):
                progress(runner.entry.label)
                if runner.entry.label not in absent:
                    with _excused(runner.entry, absent):
                        runner.rounds.append(runner.run(seconds))
    finally:
        for runner in runners:
            runner.close()
    runners = [runner for runner in runners if runner.entry.label not in absent]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    mark_disturbed([each for runner in runners for each in runner.rounds])
    return {
        "name": group.name,
        "title": group.title,
        "baseline": group.baseline,
        "absent": absent,
        "entries": [
            {
                "label": runner.entry.label,
                "bytes_per_connection": runner.bytes_per_connection,
                "rounds": [asdict(each) for each in runner.rounds],
            }
            for runner in runners
        ],
    }


def mark_disturbed(rounds: list[Round]) -> None:
    """Mark the rounds beside a slow probe."""
    probed = [each for each in rounds if each.probes_ns]
    for processor in (0, 1):
        times = [time for each in probed for time in each.probes_ns[processor::2]]
        usual = median(times) if times else 0.0
        for each in probed:
            each.disturbed |= max(each.probes_ns[processor::2]) > SLOW * usual

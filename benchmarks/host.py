"""The machine under the measurements: its two processors, what else keeps them busy, and what it is made of."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import unio

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent

TICKS = os.sysconf("SC_CLK_TCK")

COMPILER = ["cc", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]

LIBRARIES = [
    *("uvloop", "aiofastnet", "blazio", "loopmini", "rloop", "rsloop", "talyn", "zloop", "zuvloop"),
    *("trio", "gevent", "cffi"),
]


SLOW = 1.4
"""The fixed piece of work is disturbed when it takes so many times as long as the quickest quarter of the last ones."""
RECENT = 100

ELSEWHERE = 0.1
"""What others may use of the processors, as a share of the time; and as the kernel counts ticks, a few of these."""
ELSEWHERE_TICKS = 3


class Processors(NamedTuple):
    """One for the server, one for the load."""

    server: int
    load: int


def processors() -> Processors | None:
    """The first and the last that this process may use, or None if that is the same one."""
    usable = sorted(os.sched_getaffinity(0))
    return Processors(usable[0], usable[-1]) if len(usable) > 1 else None


@contextlib.contextmanager
def pinned(*numbers: int) -> Iterator[None]:
    """Let this thread, and the processes that are started meanwhile, run on these processors only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, numbers)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def end_with_parent() -> None:
    """Have the kernel end this process when the one that started it does, however that ends."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    """Let the processes that are started meanwhile open as many descriptors as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Watch:
    """Tells whether something else has had a part in a measurement on the two processors.

    Before and after it, a fixed piece of work is timed on both: what differs is what the machine gave. And the kernel's
    accounts tell how long they were busy meanwhile, which the measurement knows its own part of.
    """

    def __init__(self, processors: Processors) -> None:
        self.processors = processors
        self._recent = {number: deque([probe(number) for _ in range(10)], RECENT) for number in processors}

    def begin(self) -> None:
        self._before = self._probes()
        self._busy = busy_seconds(self.processors)

    def end(self, own_seconds: float, seconds: float) -> dict[str, Any]:
        """What was found, with how long they were busy for the measurement, and how long that lasted."""
        elsewhere = busy_seconds(self.processors) - self._busy - own_seconds
        found = self._before + self._probes()
        slow = any(
            taken > SLOW * sorted(recent)[len(recent) // 4]
            for number, recent in self._recent.items()
            for taken in found[self.processors.index(number) :: len(self.processors)]
        )
        disturbed = slow or elsewhere > ELSEWHERE * seconds + ELSEWHERE_TICKS / TICKS
        return {"probes_ns": found, "elsewhere_seconds": round(elsewhere, 3), "disturbed": disturbed}

    def _probes(self) -> list[int]:
        times = [probe(number) for number in self.processors]
        for number, taken in zip(self.processors, times, strict=True):
            self._recent[number].append(taken)
        return times


def probe(number: int) -> int:
    """Time the fixed piece of work on a processor, in nanoseconds."""
    with pinned(number):
        start = time.perf_counter_ns()
        sum(range(200_000))
        return time.perf_counter_ns() - start


def busy_seconds(numbers: tuple[int, ...]) -> float:
    """How long these processors have been busy since the machine started, taken away by a hypervisor included."""
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name.removeprefix("cpu") in map(str, numbers):
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
            total += user + nice + system + irq + softirq + steal
    return total / TICKS


def process_seconds(pid: int) -> tuple[float, float]:
    """The processor time of a process so far, in the program and in the kernel."""
    text = Path(f"/proc/{pid}/stat").read_text()
    fields = text.rpartition(")")[2].split()  # the name before it may have blanks
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


def awake_seconds(pid: int) -> float:
    """For how long the threads of a process have run, or waited for a processor (Linux, "Scheduler Statistics")."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        running, waiting, _ = map(int, path.read_text().split())
        total += running + waiting
    return total / 1e9


def resident_bytes(pid: int) -> int:
    """How much memory a process occupies: counted page by page, for the kernel's quick figure is off by hundreds."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def compiled(source: Path, folder: Path) -> Path:
    """Compile a C program into *folder*, unless that was done; return its path."""
    program = folder / source.stem
    if not program.exists():
        subprocess.run([*COMPILER, "-o", program, source], check=True)
    return program


def made_file(size: int, folder: Path) -> Path:
    """Make a file of *size* bytes in *folder*, unless that was done; return its path."""
    path = folder / f"{size} bytes"
    if not path.exists():
        path.write_bytes(bytes(size))
    return path


def versions() -> dict[str, str]:
    """What all that was measured depends on, by name."""
    processor = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "name" in line),
        platform.machine(),
    )
    found = {
        "processor": f"{processor}, {len(os.sched_getaffinity(0))} to use",
        "kernel": f"{platform.system()} {platform.release()}",
        "compiler": _said(COMPILER[0], "--version"),
        "Python": f"{platform.python_implementation()} {platform.python_version()}, {sys.version.split('[')[-1][:-1]}",
    }
    revision = _said("git", "-C", str(HERE), "describe", "--always", "--dirty")
    core = "with" if importlib.util.find_spec("unio._core") else "without"
    found["unio"] = f"{unio.__version__} ({revision or 'no checkout'}), {core} its part in C"
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _said(*command: str) -> str:
    """The first line that a command prints; empty if there is no such command, or it fails."""
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.partition("\n")[0]
    return ""

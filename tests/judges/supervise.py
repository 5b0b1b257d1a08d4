"""Processes of tests, watched: what hangs or crashes is ended and noted, and the tests after it are run too."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

PATIENCE_SECONDS = 90.0
"""How long nothing may begin or end before a test is taken to hang."""

TICK_SECONDS = 0.1


@dataclasses.dataclass
class Result:
    """What became of a test: passed, skipped, failed, error, hung or crashed."""

    outcome: str
    detail: str = ""

    @property
    def good(self) -> bool:
        return self.outcome in {"passed", "skipped"}


@dataclasses.dataclass
class Group:
    """Tests that are run by one process as long as it lives: a module, or a file."""

    name: str
    command: Sequence[str]  # the path of the events is put in the place of "EVENTS", here and below
    folder: Path
    variables: Mapping[str, str]


class Events:
    """What the processes of a group have written down."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.unlink(missing_ok=True)
        path.touch()

    def lines(self) -> Iterator[dict[str, Any]]:
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # the end of a process that was ended
                continue

    def add(self, **event: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(event) + "\n")

    def results(self) -> dict[str, Result]:
        return {
            line["ends"]: Result(line["outcome"], line.get("detail", "")) for line in self.lines() if "ends" in line
        }

    def begun(self) -> str | None:
        """The test that has begun and not ended."""
        test = None
        for line in self.lines():
            if "begins" in line:
                test = line["begins"]
            elif line.get("ends") == test:
                test = None
        return test

    @property
    def over(self) -> bool:
        return any("over" in line for line in self.lines())


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it has started: it was started as the leader of a group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def watch(process: subprocess.Popen[bytes], events: Events, patience: float) -> bool:
    """Wait until a process has ended. Returns False where it had to be, as nothing went on."""
    size, since = -1, time.monotonic()
    while process.poll() is None:
        if (now := events.path.stat().st_size) != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > patience:
            end(process)
            return False
        time.sleep(TICK_SECONDS)
    end(process)
    return True


def run(group: Group, work: Path, patience: float = PATIENCE_SECONDS, only: str | None = None) -> dict[str, Result]:
    """Run all tests of a group, by as many processes as it takes. Returns the result of each."""
    name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in only or group.name)[-150:]
    events = Events(work / f"{name}.jsonl")
    given = {key: str(events.path) if value == "EVENTS" else value for key, value in group.variables.items()}
    variables = {**os.environ, **given, **({"UNIO_JUDGES_ONLY": only} if only else {})}
    with (work / f"{name}.log").open("wb") as log:
        while True:
            before = len(events.results())
            command = [str(events.path) if word == "EVENTS" else word for word in group.command]
            process = subprocess.Popen(
                command,
                cwd=group.folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                ended = watch(process, events, patience)
            except BaseException:
                end(process)
                raise
            if events.over:
                break
            outcome = "hung" if not ended else "crashed"
            how = f"the process ended with {process.returncode}" if ended else f"nothing happened for {patience:g} s"
            test = events.begun()
            if test is None and len(events.results()) == before:  # it doesn't get as far as the tests
                events.add(ends=group.name, outcome=outcome, detail=f"{how}; see {log.name}")
                break
            if test is not None:
                events.add(ends=test, outcome=outcome, detail=f"{how}; see {log.name}")
    return events.results()

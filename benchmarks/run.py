"""Compares unio with its peers, on this machine: ``nox -s bench``, or ``python benchmarks/run.py --help``.

Writes ``results.json`` (every round, with versions), ``results.md`` (tables of ratios) and a chart for each group.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import contestants
import report
import rounds
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

PEERS = ["unio", "uvloop", "rloop", "blazio", "zloop", "trio", "gevent"]


def versions() -> dict[str, str]:
    found = {"Linux": platform.release(), platform.machine(): f"{os.cpu_count()} processors"}
    found[platform.python_implementation()] = platform.python_version()
    for name in PEERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def parse() -> argparse.Namespace:
    names = [group.name for group in contestants.groups()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"all, or some of: {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of each entry (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a round (default: %(default)s)")
    parser.add_argument(
        "--only", metavar="TEXT", action="append", help="the entries whose name contains it; repeatable"
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="default: %(default)s")
    options = parser.parse_args()
    for name in options.groups:
        if name not in names:
            parser.error(f"there is no group {name!r}; the groups are {', '.join(names)}")
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("at least one round, of more than no time")
    if len(os.sched_getaffinity(0)) < 2:  # noqa: PLR2004 - one for the server, one for the load
        parser.error("two processors are needed: one for the server, one for the load")
    return options


def chosen(options: argparse.Namespace) -> list[contestants.Group]:
    picked = [group for group in contestants.groups() if not options.groups or group.name in options.groups]
    for group in picked:
        if options.only:
            keep = [*options.only, group.baseline]
            group.entries[:] = [entry for entry in group.entries if any(text in entry.label for text in keep)]
    return picked


def main() -> None:
    options = parse()
    groups = chosen(options)
    options.output.mkdir(parents=True, exist_ok=True)
    console = Console()
    columns = (TextColumn("{task.description:50}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"))
    measured: list[dict[str, Any]] = []
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=sum((options.rounds + 2) * len(group.entries) for group in groups))
        for group in groups:

            def step(what: str, title: str = group.name) -> None:
                progress.update(task, advance=1, description=f"{title}: {what}")

            measured.append(
                rounds.run_group(
                    group,
                    folder=options.output / "bin",
                    count=options.rounds,
                    seconds=options.seconds,
                    progress=step,
                )
            )
            results = {"versions": versions(), "rounds": options.rounds, "seconds": options.seconds, "groups": measured}
            (options.output / "results.json").write_text(json.dumps(results, indent=1))
        progress.update(task, completed=progress.tasks[0].total, description="done")
    page = report.write(results, options.output)
    console.print(page.read_text(), markup=False, highlight=False, soft_wrap=True)
    console.print(f"written to {options.output}")


if __name__ == "__main__":
    main()

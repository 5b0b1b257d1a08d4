"""Compares unio with its peers, on this machine: ``nox -s bench``, or ``python benchmarks/run.py``.

Writes ``results.json`` (every round, with the versions of everything), ``summary.md`` and ``rows.md`` (tables of
ratios) and charts. It takes Linux, a C compiler, two processors with nothing else to do, and a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import contestants
import host
import report
import rounds
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from contestants import Row

FULL = (8, 0.4)
QUICK = (2, 0.1)
"""Rounds of each entry, and the seconds of each."""


def parse() -> argparse.Namespace:
    names = [row.name for row in contestants.rows()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"all, or some of: {', '.join(names)}")
    parser.add_argument(
        "--only", metavar="NAME", action="append", help="contestants whose name contains it; repeatable"
    )
    parser.add_argument("--quick", action="store_true", help="in two minutes, and with figures that tell little")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="default: %(default)s")
    options = parser.parse_args()
    for name in options.rows:
        if name not in names:
            parser.error(f"there is no row {name!r}; the rows are {', '.join(names)}")
    return options


def chosen(options: argparse.Namespace) -> list[Row]:
    """The rows to run, each with the entries to run; the one that all are compared with is among them."""
    found = []
    for row in contestants.rows():
        keep = [*(options.only or [""]), row.baseline]
        entries = tuple(entry for entry in row.entries if any(text in entry.label for text in keep))
        if not options.rows or row.name in options.rows:
            found.append(replace(row, entries=entries))
    return found


def measure(rows: list[Row], processors: host.Processors, options: argparse.Namespace, console: Console) -> None:
    """Run the rows; what is finished is written after each."""
    count, seconds = QUICK if options.quick else FULL
    results: dict[str, Any] = {"versions": host.versions(), "rounds": count, "seconds": seconds, "rows": []}
    options.output.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description:45}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    watch = host.Watch(processors)
    # It is drawn between the rounds only: a thread that does it would disturb them.
    with Progress(*columns, console=console, auto_refresh=False) as progress, tempfile.TemporaryDirectory() as binaries:
        task = progress.add_task("", total=sum((count + 1) * len(row.entries) for row in rows))
        for row in rows:

            def step(what: str, name: str = row.name) -> None:
                progress.update(task, advance=1, description=f"{name}: {what}", refresh=True)

            plan = rounds.Plan(watch, Path(binaries), count, seconds)
            results["rows"].append(rounds.run_row(row, plan, step))
            (options.output / "results.json").write_text(json.dumps(results))
            report.write(results, options.output)


def main() -> int:
    options = parse()
    console = Console()
    processors = host.processors()
    if processors is None:
        console.print("two processors are needed: one for the server, one for the load")
        return 1
    try:
        measure(chosen(options), processors, options, console)
    except KeyboardInterrupt:
        console.print(f"interrupted; the rows that were finished are in {options.output}")
        return 130
    summary = options.output / "summary.md"
    console.print(summary.read_text(), markup=False, highlight=False, soft_wrap=True)
    console.print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

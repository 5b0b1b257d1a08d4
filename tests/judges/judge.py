#!/usr/bin/env python3
"""Run suites of others on this loop and compare with what is expected: ``judge.py SUITE...``, or ``all`` for each.

It ends with a table of counts, and with 1 where a test fails that is no exception or an exception passes. With
``--beside`` asyncio's own loop and uvloop are run too, for the table.
"""

from __future__ import annotations

import argparse
import collections
import os
import subprocess
import sys
from pathlib import Path

import exceptions
import run
import suites
from servers import NotInstalledError
from supervise import Result

DOUBLE = Path(__file__).parents[1] / "kqueue_double" / "build.py"

Row = tuple[str, str, str, str]


# Prints why a backend can't run here, if it can't.
PROBLEM = """
import sys, unio.backends
print(*[each.reason for each in unio.backends.candidates() if each.name == sys.argv[1] and not each.available])
"""


def prepare(backend: str, python: str) -> str:
    """Have the processes of tests use a backend; kqueue is the double of it on Linux. Returns why that can't be."""
    os.environ["UNIO_BACKEND"] = backend
    if backend == "kqueue" and sys.platform == "linux":
        built = subprocess.run([sys.executable, str(DOUBLE)], stdout=subprocess.PIPE, text=True, check=True)
        os.environ["UNIO_KQUEUE_LIBRARY"] = built.stdout.strip()
    asked = subprocess.run([python, "-c", PROBLEM, backend], stdout=subprocess.PIPE, text=True, check=True)
    return asked.stdout.strip()


def counted(results: dict[str, Result], exempt: int) -> str:
    outcomes = collections.Counter("passed" if each.good else "failed" for each in results.values())
    skipped = sum(each.outcome == "skipped" for each in results.values())
    return f"{outcomes['passed'] - skipped} | {skipped} | {outcomes['failed'] - exempt} | {exempt}"


def table(rows: dict[Row, str]) -> str:
    head = "| suite | Python | loop | backend | passed | skipped | failed | exceptions |\n"
    head += "| --- | --- | --- | --- | --: | --: | --: | --: |\n"
    return head + "".join(f"| {' | '.join(row)} | {counts} |\n" for row, counts in rows.items())


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the suites of others on this loop, and compare.")
    parser.add_argument("suites", nargs="+", choices=[*suites.SUITES, "all"])
    parser.add_argument("--backends", default="epoll,io_uring", help="separated by commas")
    parser.add_argument("--python", default=sys.executable, help="the Python that runs the tests, with what they need")
    parser.add_argument("--work", type=Path, default=Path("/tmp/unio-judges"), help="where the logs and events go")
    parser.add_argument("--beside", action="store_true", help="asyncio's own loop and uvloop too")
    arguments = parser.parse_args()
    version = run.version_of(arguments.python)
    python = ".".join(version.split(".")[:2])
    rows: dict[Row, str] = {}
    faults: list[str] = []
    for suite in suites.SUITES if "all" in arguments.suites else arguments.suites:
        loops = [("unio", backend) for backend in arguments.backends.split(",")]
        for loop, backend in [*loops, *([("stock", ""), ("uvloop", "")] if arguments.beside else [])]:
            print(f"==== {suite} on {loop} {backend}", flush=True)
            if backend and (problem := prepare(backend, arguments.python)):
                print(f"left out: {problem}")
                continue
            reasons = exceptions.excepted(suite, backend, python) if loop == "unio" else {}
            work = arguments.work / f"{suite}-{loop}-{backend}"
            try:
                results = run.judge(suite, loop, arguments.python, work, known=reasons)
            except NotInstalledError as error:
                print(f"left out: {error}")
                continue
            exempt = sum(not result.good for test, result in results.items() if test in reasons)
            rows[suite, version, loop, backend] = counted(results, exempt)
            if loop == "unio":
                faults += [f"{suite} on {backend}: {fault}" for fault in exceptions.faults(results, reasons)]
    print(table(rows))
    for fault in faults:
        print(f"not as expected: {fault}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())

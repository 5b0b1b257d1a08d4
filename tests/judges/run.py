#!/usr/bin/env python3
"""Run the suites of others against a loop: ``run.py SUITE [MODULE...] [-k TEST...]``; ``--help`` tells the rest."""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import suites
import supervise

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence


def version_of(python: str) -> str:
    return subprocess.run([python, "-V"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]


def told(results: Iterable[supervise.Result]) -> str:
    counts = collections.Counter(result.outcome for result in results)
    return ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items())) or "none"


def judge(
    suite: str,
    loop: str,
    python: str,
    work: Path,
    *,
    modules: Sequence[str] = (),
    only: Sequence[str] = (),
    again: bool = True,
    known: Container[str] = (),
    patience: float = supervise.PATIENCE_SECONDS,
    verbose: bool = False,
) -> dict[str, supervise.Result]:
    """Run a suite, and tell how it goes. What fails, and is not known to, is run again alone, and that counts."""
    work.mkdir(parents=True, exist_ok=True)
    results: dict[str, supervise.Result] = {}
    for group in suites.SUITES[suite](python, loop):
        if modules and group.name.rsplit(".", 1)[-1] not in modules:
            continue
        got = supervise.run(group, work, patience, "\n".join(only) or None)
        for test, result in got.items():
            if again and len(got) > 1 and not result.good and test not in known:
                got[test] = supervise.run(group, work, patience, test).get(test, result)
        results |= got
        print(f"{group.name}: {told(got.values())}", flush=True)
        for test, result in got.items():
            if not result.good:
                last = result.detail.strip().splitlines()[-1:] or [""]
                print(f"  {result.outcome} {test}: {result.detail if verbose else last[0][:300]}", flush=True)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the tests of others against a loop.")
    parser.add_argument("suite", choices=suites.SUITES)
    parser.add_argument("modules", nargs="*", help="modules, as test_tasks; without any, all")
    parser.add_argument("-k", dest="only", action="append", default=[], help="only tests with this in their names")
    parser.add_argument("--loop", default="unio", choices=("unio", "stock", "uvloop"))
    parser.add_argument("--python", default=sys.executable, help="the Python that runs the tests, with what they need")
    parser.add_argument("--work", type=Path, default=Path("/tmp/unio-judges"), help="where the logs and events go")
    parser.add_argument("--results", type=Path, help="write the results there, as JSON")
    parser.add_argument("--once", action="store_true", help="don't run what has failed once more, alone")
    parser.add_argument("--patience", type=float, default=supervise.PATIENCE_SECONDS, help="seconds until a test hangs")
    parser.add_argument("--verbose", "-v", action="store_true", help="show why each test failed")
    given = parser.parse_intermixed_args()
    results = judge(
        given.suite,
        given.loop,
        given.python,
        given.work,
        modules=given.modules,
        only=given.only,
        again=not given.once,
        patience=given.patience,
        verbose=given.verbose,
    )
    print(f"total: {told(results.values())}")
    if given.results:
        report = {
            "suite": given.suite,
            "loop": given.loop,
            "backend": os.environ.get("UNIO_BACKEND", ""),
            "python": version_of(given.python),
            "tests": {test: result.outcome for test, result in sorted(results.items())},
            "details": {test: result.detail for test, result in sorted(results.items()) if not result.good},
        }
        given.results.write_text(json.dumps(report, indent=1))
    return any(not result.good for result in results.values())


if __name__ == "__main__":
    sys.exit(main())

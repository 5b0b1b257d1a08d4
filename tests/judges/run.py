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

import suites
import supervise

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the tests of others against a loop.")
    parser.add_argument("suite", choices=suites.SUITES)
    parser.add_argument("modules", nargs="*", help="modules, as test_tasks; without any, all")
    parser.add_argument("-k", dest="only", action="append", default=[], help="only tests with this in their name (* matches)")
    parser.add_argument("--loop", default="unio", choices=("unio", "stock", "uvloop"))
    parser.add_argument("--python", default=sys.executable, help="the Python that runs the tests, with what they need")
    parser.add_argument("--work", type=Path, default=Path("/tmp/unio-judges"), help="where the logs and events go")
    parser.add_argument("--results", type=Path, help="write the results there, as JSON")
    parser.add_argument("--once", action="store_true", help="don't run what has failed once more, alone")
    parser.add_argument("--patience", type=float, default=supervise.PATIENCE_SECONDS, help="seconds until a test hangs")
    parser.add_argument("--verbose", "-v", action="store_true", help="show why each test failed")
    arguments = parser.parse_intermixed_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, supervise.Result] = {}
    for group in suites.SUITES[arguments.suite](arguments.python, arguments.loop):
        if arguments.modules and group.name.rsplit(".", 1)[-1] not in arguments.modules:
            continue
        got = supervise.run(group, arguments.work, arguments.patience, " ".join(arguments.only) or None)
        if not arguments.once and len(got) > 1:
            for test, result in got.items():
                if not result.good:
                    got[test] = supervise.run(group, arguments.work, arguments.patience, test).get(test, result)
        results |= got
        counts = collections.Counter(result.outcome for result in got.values())
        print(f"{group.name}: {', '.join(f'{number} {outcome}' for outcome, number in sorted(counts.items()))}", flush=True)
        for test, result in got.items():
            if not result.good:
                last = result.detail.strip().splitlines()[-1:] or [""]
                print(f"  {result.outcome} {test}: {result.detail if arguments.verbose else last[0][:300]}", flush=True)
    counts = collections.Counter(result.outcome for result in results.values())
    print(f"total: {', '.join(f'{number} {outcome}' for outcome, number in sorted(counts.items()))}")
    if arguments.results:
        version = subprocess.run([arguments.python, "-V"], capture_output=True, text=True, check=True).stdout.split()[-1]
        told = {
            "suite": arguments.suite,
            "loop": arguments.loop,
            "backend": os.environ.get("UNIO_BACKEND", ""),
            "python": version,
            "tests": {test: result.outcome for test, result in sorted(results.items())},
            "details": {test: result.detail for test, result in sorted(results.items()) if not result.good},
        }
        arguments.results.write_text(json.dumps(told, indent=1))
    return any(not result.good for result in results.values())


if __name__ == "__main__":
    sys.exit(main())

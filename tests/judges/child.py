#!/usr/bin/env python3
"""The process in which tests of unittest's kind are run on a loop; it writes down what begins and how it ends.

``child.py SUITE LOOP EVENTS MODULE``: the file EVENTS gets one JSON object a line. Tests that it names already have
been run by a process before this one, and are left out; where UNIO_JUDGES_ONLY names tests, only those are run.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
import unittest
from pathlib import Path
from typing import Any

if "UNIO_JUDGES_PATH" in os.environ:
    sys.path.insert(1, os.environ["UNIO_JUDGES_PATH"])
if "UNIO_JUDGES_TESTS" in os.environ:  # Debian has put them apart from the package that they are part of
    import test

    test.__path__.append(os.environ["UNIO_JUDGES_TESTS"])

from hooks import HOOKS, chosen
from loops import judged


class Notes(unittest.TestResult):
    """Writes each event at once: whatever becomes of the process, it is known which test it was at."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.file = Path(path).open("a", encoding="utf-8")  # until the process ends
        self.outcome, self.detail = "passed", ""

    def write(self, **event: Any) -> None:
        self.file.write(json.dumps(event) + "\n")
        self.file.flush()

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.outcome, self.detail = "passed", ""
        print("====", test.id(), flush=True)
        self.write(begins=test.id())

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self.write(ends=test.id(), outcome=self.outcome, detail=self.detail)

    def note(self, test: Any, outcome: str, detail: str) -> None:
        if not isinstance(test, unittest.TestCase):  # a class or a module that could not be set up
            self.write(ends=test.id(), outcome=outcome, detail=detail)
        if self.outcome == "passed" or outcome != "skipped":
            self.outcome, self.detail = outcome, detail
        print(detail, flush=True)

    def addError(self, test: Any, err: Any) -> None:
        self.note(test, "error", "".join(traceback.format_exception(*err)))

    def addFailure(self, test: Any, err: Any) -> None:
        self.note(test, "failed", "".join(traceback.format_exception(*err)))

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self.note(test, "failed", f"{subtest}\n" + "".join(traceback.format_exception(*err)))

    def addSkip(self, test: Any, reason: str) -> None:
        self.note(test, "skipped", reason)

    def addUnexpectedSuccess(self, test: Any) -> None:
        self.note(test, "failed", "it was expected to fail")


def flat(suite: unittest.TestSuite) -> list[unittest.TestCase]:
    tests: list[unittest.TestCase] = []
    for each in suite:
        tests += flat(each) if isinstance(each, unittest.TestSuite) else [each]
    return tests


def done(events: str) -> set[str | None]:
    """The tests that have been begun."""
    begun = set()
    for line in Path(events).read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # the end of a process that was ended
            begun.add(json.loads(line).get("begins"))
    return begun


def main(suite: str, loop: str, events: str, name: str) -> None:
    before = done(events)
    notes = Notes(events)
    hook = HOOKS[suite](loop, judged(loop))
    hook.before()
    try:
        module = importlib.import_module(name)
    except unittest.SkipTest as reason:
        notes.write(begins=name)
        notes.write(ends=name, outcome="skipped", detail=str(reason))
        return
    hook.after(module)
    tests = [test for test in flat(unittest.defaultTestLoader.loadTestsFromModule(module)) if hook.wants(test)]
    wanted = chosen([test.id() for test in tests]) - before
    notes.write(tests=sorted(wanted))
    unittest.TestSuite(test for test in tests if test.id() in wanted).run(notes)
    notes.write(over=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

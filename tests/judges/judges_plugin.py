"""A plugin of pytest's that has the tests of others run on a loop, and writes down what begins and how it ends.

It does for suites of pytest's kind what child.py does for those of unittest's; it is told what by the environment.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import hooks
import pytest
from loops import judged

EVENTS = Path(os.environ["UNIO_JUDGES_EVENTS"])
HOOK = hooks.HOOKS[os.environ["UNIO_JUDGES_SUITE"]](
    os.environ["UNIO_JUDGES_LOOP"], judged(os.environ["UNIO_JUDGES_LOOP"])
)
HOOK.before()
outcomes: dict[str, tuple[str, str]] = {}


def write(**event: Any) -> None:
    with EVENTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def begun() -> set[str | None]:
    tests = set()
    for line in EVENTS.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # the end of a process that was ended
            tests.add(json.loads(line).get("begins"))
    return tests


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    wanted = hooks.chosen([item.nodeid for item in items]) - begun()
    items[:] = [item for item in items if item.nodeid in wanted and HOOK.wants(item.nodeid)]
    write(tests=[item.nodeid for item in items])


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.outcome != "passed":
        outcome = "skipped" if report.skipped else "error"
        write(ends=report.nodeid, outcome=outcome, detail=str(report.longrepr))


def pytest_runtest_logstart(nodeid: str) -> None:
    outcomes[nodeid] = ("passed", "")
    write(begins=nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.outcome == "passed" or hasattr(report, "wasxfail"):
        return
    if report.skipped:
        outcomes[report.nodeid] = ("skipped", str(report.longrepr))
    elif outcomes[report.nodeid][0] == "passed":
        outcomes[report.nodeid] = ("failed" if report.when == "call" else "error", report.longreprtext)


def pytest_runtest_logfinish(nodeid: str) -> None:
    outcome, detail = outcomes[nodeid]
    write(ends=nodeid, outcome=outcome, detail=detail)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    is_noted = session.testsfailed and not session.testscollected  # what can't be imported
    if is_noted or exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED}:
        write(over=True)

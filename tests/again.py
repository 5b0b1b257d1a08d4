"""A plugin of pytest's: where UNIO_TESTS_AGAIN is set, as .ci/run sets it, tests that have failed are run once more.

Thousands of tests that race each other on purpose share the machine with whatever else it does there. One that passes
the second time is to be looked at, but it holds up no change. The second run is one of its own, by the same command,
after the first has said all that it has to say, and its exit code counts. What the program that started both has to
tell at its end is in lines that begin with MARK.

Nothing but failed tests has a second run: not a run that a crash has ended, an error before the first test, or no test.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

AGAIN = "UNIO_TESTS_AGAIN"
FAILED = "UNIO_TESTS_FAILED"
"""Names the file with the tests that the second run is for."""

MARK = "run twice: "


def pytest_configure(config: pytest.Config) -> None:
    if path := os.environ.pop(FAILED, None):  # none of the processes that the tests start is the second run
        config.pluginmanager.register(Second(json.loads(Path(path).read_text())))
    elif os.environ.get(AGAIN):
        config.pluginmanager.register(First())


class First:
    """The first run, which another follows where tests have failed."""

    def __init__(self) -> None:
        self._failed: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.setdefault(report.nodeid, reason(report))

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # around what prints the closing lines
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        yield
        cut_short = session.shouldfail or session.shouldstop  # by --maxfail: there are tests that were not run
        if session.exitstatus == pytest.ExitCode.TESTS_FAILED and not cut_short:
            session.exitstatus = self._again(session.config)

    def _again(self, config: pytest.Config) -> int:
        sys.stdout.flush()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "failed.json")
            path.write_text(json.dumps([*self._failed]))
            command = [sys.executable, *sys.orig_argv[1:]]
            environment = os.environ | {FAILED: str(path)}
            code = subprocess.run(command, env=environment, cwd=config.invocation_params.dir, check=False).returncode
        then = "the second time all passed" if code == 0 else f"the second run ended with {code}"
        told = [f"{len(self._failed)} on {where(config)} failed at first; {then}:"]
        told += [f"    {test}: {why}" for test, why in self._failed.items()]
        sys.stdout.writelines(f"{MARK}{line}\n" for line in told)
        return code


class Second:
    """The second run: of tests that have failed, and of no others."""

    def __init__(self, failed: list[str]) -> None:
        self._failed = failed

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        others = [item for item in items if item.nodeid not in self._failed]
        items[:] = [item for item in items if item.nodeid in self._failed]
        if missing := {*self._failed} - {item.nodeid for item in items}:
            raise pytest.UsageError(f"these have failed, and can't be run again: {missing}")
        config.hook.pytest_deselected(items=others)


def reason(report: pytest.TestReport) -> str:
    """Why a test has failed, in a line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = f"{crash.message}" if crash else f"{report.longrepr}"
    return f"{report.when}: {text.strip().partition(chr(10))[0][:200]}"


def where(config: pytest.Config) -> str:
    """What the tests ran on."""
    what = [sys.platform, f"CPython {platform.python_version()}", os.environ.get("UNIO_BACKEND", "every backend")]
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        what.append("without the GIL")
    if (threads := int(getattr(config.option, "parallel_threads", 1))) > 1:
        what.append(f"by {threads} threads")
    return ", ".join(what)

"""The runner of the suites of others: what becomes of each test is known, whatever that does to its process."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

JUDGES = Path(__file__).parent / "judges"

TESTS = """
import os, time, unittest

class Tests(unittest.TestCase):
    def test_a_passes(self): pass
    def test_b_crashes(self): os._exit(3)
    def test_c_fails(self): self.fail("so")
    def test_d_hangs(self): time.sleep(600)
    def test_e_is_skipped(self): self.skipTest("for a reason")
    def test_f_passes(self): pass
"""

PATIENCE_SECONDS = 15.0

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it ends groups of processes, which Windows has not")


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(JUDGES))
    return importlib.import_module


def test_what_crashes_or_hangs_is_noted_and_the_tests_after_it_are_run(imported, tmp_path):
    (tmp_path / "of_others.py").write_text(TESTS)
    suites, supervise = imported("suites"), imported("supervise")
    group = suites.unittest_group("websockets", sys.executable, "stock", "of_others", tmp_path)
    group.variables = {"UNIO_JUDGES_PATH": str(tmp_path)}
    results = supervise.run(group, tmp_path, PATIENCE_SECONDS)
    assert {test.rpartition("_")[2]: result.outcome for test, result in results.items()} == {
        "passes": "passed",
        "crashes": "crashed",
        "fails": "failed",
        "hangs": "hung",
        "skipped": "skipped",
    }
    assert len(results) == 6


def test_a_module_that_cannot_be_imported_is_noted(imported, tmp_path):
    suites, supervise = imported("suites"), imported("supervise")
    group = suites.unittest_group("websockets", sys.executable, "stock", "nowhere_to_be_found", tmp_path)
    results = supervise.run(group, tmp_path, PATIENCE_SECONDS)
    assert {name: result.outcome for name, result in results.items()} == {"nowhere_to_be_found": "crashed"}


def test_a_failure_that_is_no_exception_is_a_fault_and_so_is_an_exception_that_passes(imported):
    exceptions, supervise = imported("exceptions"), imported("supervise")
    results = {
        "known": supervise.Result("failed"),
        "new": supervise.Result("failed", "why"),
        "mended": supervise.Result("passed"),
        "left out": supervise.Result("skipped"),
        "good": supervise.Result("passed"),
    }
    reasons = dict.fromkeys(("known", "mended", "left out", "of another Python"), "for a reason")
    faults = list(exceptions.faults(results, reasons))
    assert faults == ["new failed: why", "mended passes, and is an exception: for a reason"]


def test_every_exception_says_what_becomes_of_the_test_on_the_other_loops(imported):
    exceptions = imported("exceptions")
    for path in exceptions.EXPECTED.glob("*.toml"):
        for each in exceptions.read(path):
            assert each["why"].endswith(".")
            assert each["tests"]
            for beside in each["tests"].values():
                assert set(beside) == {"stock", "uvloop"}

"""Every clause of docs/contract.md has a test that names it, and every name stands for a clause."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CONTRACT = HERE.parent.parent / "docs" / "contract.md"

# A clause is an item of a list that begins with its name in bold; one that no backend keeps yet says so behind it.
CLAUSE = re.compile(r"^- \*\*([A-Z]\d+)\*\*( \*\(planned\)\*| \(planned\))?", re.MULTILINE)


def clauses() -> dict[str, bool]:
    """The names of the clauses, and whether each is to be kept by now."""
    return {found[1]: not found[2] for found in CLAUSE.finditer(CONTRACT.read_text(encoding="utf-8"))}


def clauses_in(nodes: Iterable[ast.AST]) -> set[str]:
    """The arguments of each pytest.mark.clause(...) in decorators, or in what is assigned to pytestmark."""
    return {
        ast.literal_eval(argument)
        for node in nodes
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.clause"
        for argument in call.args
    }


@functools.cache
def named() -> dict[str, set[str]]:
    """The tests and the clauses that each names: from the sources, so that selecting tests makes no difference."""
    found: dict[str, set[str]] = {}
    for path in sorted(HERE.glob("test_*.py")):
        if path == Path(__file__):
            continue
        module = ast.parse(path.read_text(encoding="utf-8"))
        of_all = clauses_in(
            node.value
            for node in module.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
        )
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[f"{path.name}::{node.name}"] = of_all | clauses_in(node.decorator_list)
    return found


def test_the_contract_has_clauses_of_every_group() -> None:
    assert {name[0] for name in clauses()} == set("PASCOXHL")


def test_no_clause_is_stated_twice() -> None:
    names = CLAUSE.findall(CONTRACT.read_text(encoding="utf-8"))
    assert len(names) == len(clauses())


@pytest.mark.parametrize("clause", [name for name, kept in clauses().items() if kept])
def test_a_clause_has_a_test_that_names_it(clause: str) -> None:
    assert [test for test, names in named().items() if clause in names]


def test_the_tests_name_no_unknown_clause() -> None:
    unknown = {test: names - set(clauses()) for test, names in named().items()}
    assert not {test: names for test, names in unknown.items() if names}


def test_every_test_of_the_contract_names_a_clause() -> None:
    assert [test for test, names in named().items() if not names] == []

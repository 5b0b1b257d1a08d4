"""Which backend a port gets: the argument, else the environment variable, else the first that is available."""

from __future__ import annotations

import functools
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import unio
from unio import backends

AVAILABLE = [candidate.name for candidate in backends.candidates() if candidate.available]


@pytest.fixture(autouse=True)
def without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNIO_BACKEND", raising=False)


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three candidates: one that can't run here, and two that can. Returns the names of those that are examined."""
    examined: list[str] = []

    def examine(name: str, reason: str | None) -> str | None:
        examined.append(name)
        return reason

    for name, reason in {"broken": "this kernel is too old", "first": None, "second": None}.items():
        made: Any = types.ModuleType(f"unio.backends.{name}")
        made.unavailable = functools.partial(examine, name, reason)
        made.PORT = type(name, (), {"backend": name})
        monkeypatch.setitem(sys.modules, made.__name__, made)
    here = (sys.platform,)
    monkeypatch.setattr(backends, "_SYSTEMS", {"broken": here, "first": here, "second": here})
    return examined


def test_there_is_a_backend_here() -> None:
    assert AVAILABLE
    with unio.Port() as port:
        assert port.backend == AVAILABLE[0] == backends.choose()
        assert port.backend in repr(port)


@pytest.mark.parametrize("name", AVAILABLE)
def test_each_available_backend_can_be_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with unio.Port(backend=name) as port:
        assert port.backend == name
        assert isinstance(port, unio.Port)
    monkeypatch.setenv("UNIO_BACKEND", name)
    with unio.Port() as port:
        assert port.backend == name


def test_the_argument_is_stronger_than_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIO_BACKEND", "no such backend")
    with unio.Port(backend=AVAILABLE[0]) as port:
        assert port.backend == AVAILABLE[0]
    with pytest.raises(unio.BackendUnavailable):
        unio.Port()


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIO_BACKEND", "")
    with unio.Port() as port:
        assert port.backend == AVAILABLE[0]


def test_the_variable_is_read_for_each_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIO_BACKEND", AVAILABLE[0])
    unio.Port().close()
    monkeypatch.setenv("UNIO_BACKEND", "no such backend")
    with pytest.raises(unio.BackendUnavailable):
        unio.Port()


def test_the_error_lists_every_candidate_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [f"{each.name}: {each.reason}" for each in backends.candidates()]
    with pytest.raises(unio.BackendUnavailable, match=r"'no such'.*unknown") as by_argument:
        unio.Port(backend="no such")
    monkeypatch.setenv("UNIO_BACKEND", "no such")
    with pytest.raises(unio.BackendUnavailable, match=r"'no such'.*UNIO_BACKEND.*unknown") as by_variable:
        unio.Port()
    for caught in (by_argument, by_variable):
        assert isinstance(caught.value, RuntimeError)
        for each in listed:
            assert each in str(caught.value)


def test_candidates_say_what_exists_and_why_not() -> None:
    found = backends.candidates()
    assert len({each.name for each in found}) == len(found)
    for each in found:
        assert each._fields == ("name", "available", "reason")
        assert isinstance(each.available, bool)
        assert each.reason


@pytest.mark.usefixtures("three")
def test_the_first_that_is_available_is_the_default() -> None:
    assert backends.candidates() == [
        ("broken", False, "this kernel is too old"),
        ("first", True, "available"),
        ("second", True, "available"),
    ]
    assert backends.choose() == "first"


def test_a_choice_examines_none_behind_the_one_that_it_makes(three: list[str]) -> None:
    assert backends.choose() == "first"
    assert three == ["broken", "first"]
    assert backends.choose("second") == "second"
    assert three == ["broken", "first", "second"]


IMPORTS_THAT_FAIL = {
    "a module that is lacking": ("import no_such_module", "No module named 'no_such_module'"),
    "a name that is lacking": ("from os import no_such_name", "cannot import name 'no_such_name' from 'os'"),
    "a module that can't be loaded": ("raise ImportError('it is of another Python')", "it is of another Python"),
    "any other error": ("raise OSError(5, 'the disk is broken')", "OSError: [Errno 5] the disk is broken"),
    "an error of its test": ("def unavailable(): raise ValueError('it has a fault')", "ValueError: it has a fault"),
}


@pytest.mark.parametrize("case", IMPORTS_THAT_FAIL)
def test_whatever_is_wrong_with_one_is_its_reason_and_the_next_one_serves(
    three: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str
) -> None:
    source, reason = IMPORTS_THAT_FAIL[case]
    (tmp_path / "broken.py").write_text(source)
    monkeypatch.delitem(sys.modules, "unio.backends.broken")
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path)])
    broken, *others = backends.candidates()
    assert (broken.name, broken.available) == ("broken", False)
    assert reason in broken.reason
    assert [each.available for each in others] == [True, True]
    assert backends.choose() == "first"
    with pytest.raises(unio.BackendUnavailable, match=re.escape(reason)):
        unio.Port(backend="broken")


@pytest.mark.usefixtures("three")
def test_argument_variable_and_default_in_this_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIO_BACKEND", "second")
    assert backends.choose() == "second"
    assert backends.choose("first") == "first"
    monkeypatch.delenv("UNIO_BACKEND")
    assert backends.choose() == "first"


@pytest.mark.usefixtures("three")
def test_one_that_can_not_run_here_is_refused_and_never_replaced_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = "The candidates:\n  broken: this kernel is too old\n  first: available\n  second: available"
    with pytest.raises(unio.BackendUnavailable) as by_argument:
        unio.Port(backend="broken")
    assert str(by_argument.value) == f"the backend 'broken', asked for, can't run here\n{listed}"
    monkeypatch.setenv("UNIO_BACKEND", "broken")
    with pytest.raises(unio.BackendUnavailable) as by_variable:
        unio.Port()
    assert str(by_variable.value) == f"the backend 'broken', named by UNIO_BACKEND, can't run here\n{listed}"


@pytest.mark.parametrize(("name", "meant"), [("epol", "epoll"), ("IOCP", "iocp"), ("io-uring", "io_uring")])
def test_a_name_that_is_nearly_one_is_asked_about(name: str, meant: str) -> None:
    with pytest.raises(unio.BackendUnavailable) as caught:
        unio.Port(backend=name)
    problem, _, *listed = str(caught.value).splitlines()
    assert problem == f"the backend {name!r}, asked for, is unknown (did you mean {meant!r}?)"
    assert listed == [f"  {each.name}: {each.reason}" for each in backends.candidates()]  # a line for each


def test_a_name_that_is_like_none_is_not_guessed_at() -> None:
    with pytest.raises(unio.BackendUnavailable) as caught:
        unio.Port(backend="x" * 10_000)
    assert "did you mean" not in str(caught.value)
    assert len(str(caught.value)) < 1000  # what a person can read


@pytest.mark.parametrize("wrong", [1, b"epoll", unio.Port])
def test_what_is_no_name_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="the backend must be a name"):
        unio.Port(backend=wrong)


def test_where_nothing_can_run_the_error_says_why(three: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_SYSTEMS", {"broken": (sys.platform,)})
    with pytest.raises(unio.BackendUnavailable, match="broken: this kernel is too old"):
        unio.Port()


@pytest.mark.parametrize("name", ["", "EPOLL", " epoll", "unio.backends.epoll", "../epoll"])
def test_a_name_is_taken_as_it_is(name: str) -> None:
    with pytest.raises(unio.BackendUnavailable):
        unio.Port(backend=name)

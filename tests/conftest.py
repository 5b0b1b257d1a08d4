"""What the whole suite shares: the backends it runs over, and resources that are gone when a test ends."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import support
from descriptors import no_more_descriptors_than, open_descriptors
from patience import PATIENCE

import unio

pytest_plugins = ["again"]


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell has begun this in the background, and would have
        signal.signal(signal.SIGINT, signal.default_int_handler)  # every program that a test starts ignore Ctrl-C
    config.addinivalue_line("markers", "clause(*names): the clauses of docs/contract.md that the test is about")
    config.addinivalue_line("markers", "process_wide: it is about what all threads share, such as descriptors")
    support.note_who_waits()


def pytest_sessionfinish(session: pytest.Session) -> None:
    # Everything that the tests import has been imported by now.
    if os.environ.get("PYTHON_GIL") == "0" and sys._is_gil_enabled():
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # Every test that names a backend, itself or through the port fixture, runs once for each that can run here;
    # UNIO_BACKEND narrows them to one, and naming one that can't run here is an error rather than an empty run.
    if "backend" in metafunc.fixturenames:
        if os.environ.get(unio.backends.VARIABLE):
            names = [unio.backends.choose()]
        else:
            names = [candidate.name for candidate in unio.backends.candidates() if candidate.available]
        metafunc.parametrize("backend", names, scope="session")


SHARED = {"backend", "make_listener", "make_pair", "make_port", "patience", "port", "request", "resources", "tmp_path"}
"""What several threads that run a test at once may have in common: makers, and the port, of which each thread has
its own then."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # pytest-run-parallel, where it is asked to, has several threads call each test.
    if int(getattr(config.option, "parallel_threads", 1)) == 1:
        return
    for item in items:
        assert isinstance(item, pytest.Function)
        chosen = item.callspec.params if hasattr(item, "callspec") else {}
        if set(item.fixturenames) - set(chosen) <= SHARED and not item.get_closest_marker("process_wide"):
            item.obj = with_a_port_of_its_own(item.obj)
        else:
            item.add_marker(pytest.mark.parallel_threads(1))


def with_a_port_of_its_own(test: Callable[..., None]) -> Callable[..., None]:
    """The test, with another port for each call that wants one."""

    @functools.wraps(test)
    def call(**fixtures: Any) -> None:
        with contextlib.ExitStack() as stack:
            if "port" in fixtures:
                fixtures["port"] = stack.enter_context(unio.Port(backend=fixtures["port"].backend))
            test(**fixtures)

    return call


@pytest.fixture
def resources() -> Iterator[contextlib.ExitStack]:
    """A stack of what is to be closed when the test ends; then no descriptor may be left over."""
    before = open_descriptors()
    with contextlib.ExitStack() as stack:
        yield stack
    no_more_descriptors_than(before)


@pytest.fixture
def make_port(backend: str, resources: contextlib.ExitStack) -> Callable[[], unio.Port]:
    """Makes ports that are closed when the test ends."""
    return lambda: resources.enter_context(unio.Port(backend=backend))


@pytest.fixture
def port(backend: str, resources: contextlib.ExitStack) -> Iterator[unio.Port]:
    """A port that is closed when the test ends."""
    with unio.Port(backend=backend) as port:
        yield port


@pytest.fixture
def patience(request: pytest.FixtureRequest) -> float:
    """Seconds to wait for a completion: few where the test is marked as one that fails since none comes."""
    expected = [mark for mark in request.node.iter_markers("xfail") if mark.args[0]]
    return PATIENCE / 12 if expected else PATIENCE


@pytest.fixture
def make_listener(resources: contextlib.ExitStack) -> Callable[..., socket.socket]:
    """Makes sockets that listen on the loopback interface and are closed when the test ends."""
    return lambda backlog=128: resources.enter_context(support.listener(backlog))


@pytest.fixture
def make_pair(resources: contextlib.ExitStack) -> Callable[..., tuple[socket.socket, socket.socket]]:
    """Makes pairs of connected stream sockets, ``near`` and ``far``, that are closed when the test ends.

    ``make_pair()`` is over TCP and ``make_pair(local=True)`` over AF_UNIX. Both ends are blocking, with a time-out that
    only a failing test reaches.
    """

    def make(*, local: bool = False) -> tuple[socket.socket, socket.socket]:
        near, far = support.local_pair() if local else support.tcp_pair()
        return resources.enter_context(near), resources.enter_context(far)

    return make


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> support.Hook:
    """What is reported of handlers and tasks, and would end a thread elsewhere."""
    hook = support.Hook()
    monkeypatch.setattr(threading, "excepthook", hook)
    return hook

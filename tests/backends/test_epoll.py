"""What only the epoll backend has: when it can't run, and what it does without a call that few programs need."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from sandbox import FORBID, script
from support import run

import unio

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux'")

EPOLL_CREATE1, EPOLL_CTL, EPOLL_WAIT, EVENTFD2 = {
    "x86_64": (291, 233, 232, 290),
    "aarch64": (20, 21, 22, 19),
}.get(platform.machine(), (0, 0, 0, 0))

FALL_BACK = """
import os, unio
os.environ.pop("UNIO_KQUEUE_LIBRARY", None)
found = {each.name: each for each in unio.backends.candidates()}
print(found["epoll"].available, found["epoll"].reason)
try:
    unio.Port(backend="epoll")
except unio.BackendUnavailable as error:
    print(error)
served = [each.name for each in found.values() if each.available]
try:
    with unio.Port() as port:
        assert port.backend == served[0] == "io_uring"
        port.post("key")
        assert port.wait(30)[0].key == "key"
except unio.BackendUnavailable:
    assert not served
"""


@pytest.mark.skipif(not EVENTFD2, reason="the numbers of this machine's system calls are not written down here")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (EPOLL_CREATE1, "epoll_create1 fails: Operation not permitted"),
        (EVENTFD2, "eventfd fails: Operation not permitted"),
        (EPOLL_CTL, "epoll_ctl fails: Operation not permitted"),
    ],
)
def test_where_a_call_that_it_needs_is_forbidden_another_backend_serves(call: int, words: str) -> None:
    first, *message = script(FORBID + FALL_BACK, str(call), str(errno.EPERM)).splitlines()
    assert first == f"False {words}"
    assert f"  epoll: {words}" in message


@pytest.mark.parametrize("name", ["epoll", "io_uring"])
def test_where_python_knows_no_pidfd_the_completion_of_an_exit_says_so(
    resources: contextlib.ExitStack, child: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    candidate = next(each for each in unio.backends.candidates() if each.name == name)
    if not candidate.available:
        pytest.skip(candidate.reason)
    monkeypatch.delattr(os, "pidfd_open")
    port = resources.enter_context(unio.Port(backend=name))
    found = run(port, unio.ProcessExit(child))
    assert isinstance(found.error, OSError)
    assert found.error.errno == errno.ENOSYS


def watched(port: Any) -> set[int]:
    """The numbers that the system says are in a port's epoll set."""
    lines = Path(f"/proc/self/fdinfo/{port._epoll.fileno()}").read_text().splitlines()
    return {int(line.split()[1]) for line in lines if line.startswith("tfd:")}


def test_what_is_detached_does_not_stay_in_the_epoll_set(resources: contextlib.ExitStack) -> None:
    port = resources.enter_context(unio.Port(backend="epoll"))
    near, _far = map(resources.enter_context, socket.socketpair())
    before = watched(port)
    handle = port.associate(near)
    assert watched(port) - before == {near.fileno()}
    handle.detach()
    assert watched(port) == before

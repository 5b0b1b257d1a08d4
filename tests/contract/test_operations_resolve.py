"""Resolve: names to addresses, as socket.getaddrinfo has them, and never in the way of anything else."""

from __future__ import annotations

import contextlib
import errno
import gc
import socket
import weakref
from pathlib import Path
from typing import Any

import pytest
from resolvers import Resolver, lookup_threads
from support import (
    assert_idle,
    assert_nothing_comes,
    completion,
    completions,
    run,
    succeed,
    until,
)

import unio
from unio.backends.common import file_threads, lookups

NUMERIC = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}


@pytest.mark.clause("O15", "C1")
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"family": socket.AF_INET},
        {"type": socket.SOCK_STREAM},
        {"type": socket.SOCK_DGRAM, "proto": socket.IPPROTO_UDP},
        {"type": socket.SOCK_STREAM, "flags": socket.AI_CANONNAME},
    ],
    ids=str,
)
@pytest.mark.parametrize("host", ["localhost", b"localhost", "127.0.0.1"])
@pytest.mark.parametrize("service", [80, "80", b"80", None])
def test_it_finds_what_getaddrinfo_finds(port: unio.Port, host: Any, service: Any, asked: dict[str, int]) -> None:
    key, state = object(), object()
    resolve = unio.Resolve(host, service, key, state=state, **asked)
    assert run(port, resolve) == (key, resolve, 0, None)
    assert resolve.addresses == socket.getaddrinfo(host, service, **asked)
    assert (resolve.host, resolve.port, resolve.state, resolve.handle) == (host, service, state, None)


@pytest.mark.clause("O15")
def test_no_host_is_any_address_for_one_that_listens_and_this_one_else(port: unio.Port) -> None:
    for flags in (0, socket.AI_PASSIVE):
        resolve = unio.Resolve(None, 80, type=socket.SOCK_STREAM, flags=flags)
        succeed(port, resolve)
        assert resolve.addresses == socket.getaddrinfo(None, 80, type=socket.SOCK_STREAM, flags=flags)


@pytest.mark.clause("O15")
def test_a_port_may_be_the_name_of_a_service(port: unio.Port) -> None:
    try:
        known = socket.getaddrinfo("127.0.0.1", "http", type=socket.SOCK_STREAM)
    except OSError:
        pytest.skip("this system knows no services by name")
    resolve = unio.Resolve("127.0.0.1", "http", type=socket.SOCK_STREAM)
    succeed(port, resolve)
    assert resolve.addresses == known


@pytest.mark.clause("O15")
@pytest.mark.parametrize("host", NUMERIC)
def test_a_numeric_address_is_known_at_once_and_takes_no_thread(port: unio.Port, host: str) -> None:
    before = lookup_threads()
    for family in (0, NUMERIC[host]):
        resolve = unio.Resolve(host, 80, family=family, type=socket.SOCK_STREAM)
        port.submit(resolve)
        [found] = port.wait(0)
        assert found.error is None
        assert resolve.addresses[0][4][0] == host
    assert lookup_threads() == before


@pytest.mark.clause("O15", "C2")
@pytest.mark.parametrize(
    ("host", "service", "asked"),
    [
        ("127.0.0.1", 80, {"family": socket.AF_INET6}),
        ("localhost", "no such service", {"type": socket.SOCK_STREAM}),
        (None, None, {}),
    ],
)
def test_what_is_not_found_is_a_gaierror_that_names_it(port: unio.Port, host: Any, service: Any, asked: Any) -> None:
    resolve = unio.Resolve(host, service, **asked)
    with pytest.raises(socket.gaierror) as said:
        socket.getaddrinfo(host, service, **asked)
    for _ in range(2):
        error = run(port, resolve).error
        assert type(error) is socket.gaierror
        assert error.errno == said.value.errno
        assert repr(host) in str(error)
        assert error.__traceback__ is error.__context__ is None
        assert resolve.addresses == []


@pytest.mark.clause("O15", "S3")
@pytest.mark.parametrize("host", ["a\0b", b"a\0b", "a" * 64, "a..b", "\udc80", "bü" * 40])
def test_what_can_be_no_name_is_refused_where_it_is_given(host: Any) -> None:
    for make in (unio.Resolve, unio.ConnectTo):
        with pytest.raises(ValueError, match=r"name of a host|zero byte"):
            make(host, 80)


@pytest.mark.clause("O15", "S3")
@pytest.mark.parametrize(
    ("host", "service", "asked", "error"),
    [
        (7, 80, {}, TypeError),
        ("localhost", 65536, {}, ValueError),
        ("localhost", -1, {}, ValueError),
        ("localhost", 2**70, {}, ValueError),
        ("localhost", True, {}, TypeError),
        ("localhost", 8.0, {}, TypeError),
        ("localhost", "80\0", {}, ValueError),
        ("localhost", "\udc80", {}, ValueError),
        ("localhost", 80, {"family": "inet"}, TypeError),
        ("localhost", 80, {"type": -1}, ValueError),
        ("localhost", 80, {"flags": 2**40}, ValueError),
    ],
)
def test_wrong_arguments_are_refused_where_they_are_given(
    host: Any, service: Any, asked: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        unio.Resolve(host, service, **asked)


@pytest.mark.process_wide
@pytest.mark.clause("O15")
def test_a_name_that_is_not_ascii_is_asked_for_as_python_does(port: unio.Port, monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver(monkeypatch)
    succeed(port, unio.Resolve("bücher.example", 80))
    assert resolver.asked == [("bücher.example".encode("idna"), 80, 0, 0, 0, 0)]


# A resolver that hangs


@pytest.mark.process_wide
@pytest.mark.clause("O15", "X1", "S8")
@pytest.mark.parametrize("how", ["cancel", "time-out"])
def test_an_end_while_the_resolver_hangs_comes_at_once_and_what_is_found_late_is_dropped(
    port: unio.Port, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    resolver = Resolver(monkeypatch, ["first"], hangs=True)
    resolve = unio.Resolve("name.example", 80)
    port.submit(resolve, 0.01 if how == "time-out" else None)
    until(lambda: resolver.asked)
    if how == "cancel":
        assert port.cancel(resolve)
    found = completion(port)
    assert type(found.error) is (TimeoutError if how == "time-out" else unio.Cancelled)
    resolver.found = ["second"]
    port.submit(resolve)  # another flight, which the answer to the first does not end
    until(lambda: len(resolver.asked) == 2)
    resolver.go_first()
    until(lambda: one_thread_is_idle(port))
    assert_nothing_comes(port, 0.02)
    assert resolve.addresses == []
    resolver.go()
    assert completion(port).error is None
    assert resolve.addresses == ["second"]


def one_thread_is_idle(port: Any) -> bool:
    return bool(port._lookups._waiting == 1)


@pytest.mark.process_wide
@pytest.mark.clause("O15", "P7")
def test_a_resolver_that_hangs_holds_up_no_close_of_the_port(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver(monkeypatch, hangs=True)
    resolves = [unio.Resolve("name.example", 80) for _ in range(lookups.LOOKUPS_MAX + 3)]
    with unio.Port(backend=backend) as port:
        for resolve in resolves:
            port.submit(resolve)
        until(lambda: len(resolver.asked) == lookups.LOOKUPS_MAX)
    assert resolver.hangs
    assert not any(resolve.in_flight for resolve in resolves)
    resolver.go()
    with unio.Port(backend=backend) as other:
        succeed(other, resolves[0])


@pytest.mark.process_wide
@pytest.mark.clause("O15", "O8", "L1")
def test_resolvers_that_hang_are_bounded_and_hold_up_no_file(
    port: unio.Port, monkeypatch: pytest.MonkeyPatch, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    before = lookup_threads()
    resolver = Resolver(monkeypatch, ["found"], hangs=True)
    resolves = [unio.Resolve("name.example", 80) for _ in range(lookups.LOOKUPS_MAX + 8)]
    for resolve in resolves:
        port.submit(resolve)
    until(lambda: len(resolver.asked) == lookups.LOOKUPS_MAX)
    file = port.associate(resources.enter_context(unio.open(tmp_path / "file", "w+b")))
    assert run(port, unio.Write(file, b"data", 0)).error is None
    assert run(port, unio.Flush(file)).error is None
    assert run(port, unio.Resolve("127.0.0.1", 80)).error is None
    assert lookup_threads() - before <= lookups.LOOKUPS_MAX
    late = resolves[-1]
    assert port.cancel(late)  # one that waits for a thread
    assert completion(port).operation is late
    resolver.go()
    assert {id(each.operation) for each in completions(port, len(resolves) - 1)} == {id(each) for each in resolves[:-1]}
    assert_idle(port)
    assert len(resolver.asked) == len(resolves) - 1, "what was cancelled before was not asked for"


@pytest.mark.process_wide
@pytest.mark.clause("O15", "P11")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_thread_that_hangs_keeps_neither_the_port_nor_the_operation_alive(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = Resolver(monkeypatch, hangs=True)
    port = unio.Port(backend=backend)
    resolve = unio.Resolve("name.example", 80)
    port.submit(resolve)
    until(lambda: resolver.asked)
    dead = [weakref.ref(port), weakref.ref(resolve)]
    del port, resolve
    gc.collect()
    assert [each() for each in dead] == [None, None]
    resolver.go()


@pytest.mark.process_wide
@pytest.mark.clause("O15", "L4")
def test_where_no_thread_can_start_it_says_so(port: unio.Port, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(file_threads, "start_thread", refuse)
        error = run(port, unio.Resolve("localhost", 80)).error
        assert error is not None
        assert error.errno == errno.EAGAIN
    succeed(port, unio.Resolve("localhost", 80))


@pytest.mark.clause("O15", "S5", "S6")
def test_it_is_in_flight_once_and_can_be_submitted_again(port: unio.Port) -> None:
    resolve = unio.Resolve("localhost", 80, type=socket.SOCK_STREAM)
    port.submit(resolve)
    with pytest.raises(unio.InFlight):
        port.submit(resolve)
    first = completion(port).operation.addresses
    succeed(port, resolve)
    assert resolve.addresses == first
    assert resolve.addresses is not first, "what was found before is the caller's"

"""The clauses S of the contract: the time-outs of an operation that is submitted again and again."""

from __future__ import annotations

import gc
import itertools
import math
import time
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from support import (
    Background,
    assert_cancelled,
    assert_nothing_comes,
    batch,
    completion,
    completions,
    inside_wait,
    run,
    shortly,
    until,
)

import unio

HOUR = 3600


class Exchange:
    """A receive on a connection of its own, and its peer."""

    def __init__(self, port: unio.Port, make_pair: Any, *, is_waiter: bool = True) -> None:
        self.port = port
        near, self.far = make_pair()
        self.operation = unio.Recv(port.associate(near), bytearray(8))
        if is_waiter:  # what a thread submits that has waited may go another way
            port.wait(0)

    def succeed(self, timeout: float | None) -> None:
        """Have a receive succeed long before its time is over."""
        self.port.submit(self.operation, timeout)
        self.far.send(b"data")
        assert completion(self.port)[1:] == (self.operation, 4, None)

    def fail(self, timeout: float) -> None:
        """Have one time out, and see that it doesn't before its time."""
        start = time.monotonic()
        self.port.submit(self.operation, timeout)
        found = completion(self.port)
        assert time.monotonic() - start >= timeout
        assert found.operation is self.operation
        assert type(found.error) is TimeoutError


@pytest.fixture(params=[True, False], ids=["by a thread that waits", "by one that did not"])
def exchange(port: unio.Port, make_pair: Any, request: pytest.FixtureRequest) -> Exchange:
    return Exchange(port, make_pair, is_waiter=request.param)


# Clause S8: later and earlier than before


@pytest.mark.clause("S8")
@pytest.mark.parametrize(
    "timeouts",
    [
        (0.02, 0.06),
        (HOUR, 0.02),
        (HOUR, 0.01, HOUR, 0.02, 0.03, 0.01),
        (math.inf, 0.02),
        (0.03, None, 0.05),
        (0.02, HOUR, None, 0.03),
        (10**400, 0, 0.02),
    ],
    ids=lambda timeouts: "-".join(map(shortly, timeouts)),
)
def test_a_time_out_is_that_of_the_submission_whatever_the_one_before_had(
    exchange: Exchange, timeouts: tuple[float | None, ...]
) -> None:
    for timeout in timeouts[:-1]:
        exchange.succeed(timeout)
    last = timeouts[-1]
    assert last is not None
    exchange.fail(last)
    exchange.fail(last)
    exchange.succeed(last * 100)
    assert_nothing_comes(exchange.port, 0.02)


@pytest.mark.clause("S8", "O11")
def test_a_timer_is_set_for_later_and_for_earlier(port: unio.Port) -> None:
    timer = unio.Timer(HOUR)
    for delay in (0.02, 0.04, 0.001):
        port.submit(timer, HOUR)
        assert port.cancel(timer)
        assert_cancelled(completion(port))
        timer.delay = delay
        start = time.monotonic()
        assert run(port, timer).error is None
        assert time.monotonic() - start >= delay
        timer.delay = HOUR
        assert isinstance(run(port, timer, delay).error, TimeoutError)


@pytest.mark.clause("S8")
def test_time_outs_that_were_moved_pass_in_the_order_of_their_time(port: unio.Port, make_pair: Any) -> None:
    exchanges = [Exchange(port, make_pair) for _ in range(5)]
    for number, exchange in enumerate(exchanges):
        exchange.succeed((0.05, HOUR, None, 0.2, 0.01)[number])
    for exchange, timeout in zip(exchanges, (0.05, 0.02, 0.04, 0.01, 0.03), strict=True):
        port.submit(exchange.operation, timeout)
    start = time.monotonic()
    until(lambda: time.monotonic() - start > 0.05)
    ordered = [exchanges[number].operation for number in (3, 1, 4, 2, 0)]
    assert [each.operation for each in completions(port, 5)] == ordered


@pytest.mark.clause("S8")
def test_equal_time_outs_pass_in_the_order_of_submission(port: unio.Port, make_pair: Any) -> None:
    exchanges = [Exchange(port, make_pair) for _ in range(4)]
    for number in (3, 1, 2, 0):
        exchanges[number].succeed(0.001 * number)
    for exchange in exchanges:
        port.submit(exchange.operation, 0)
    assert [each.operation for each in completions(port, 4)] == [each.operation for each in exchanges]


# However the time-out is given


class Seconds(float):
    """A float of the program's own."""


class Whole(int):
    """An int of the program's own."""


SPELLINGS: dict[str, Callable[[unio.Port, unio.Operation, Any], object]] = {
    "positional": lambda port, operation, timeout: port.submit(operation, timeout),
    "by name": lambda port, operation, timeout: port.submit(operation, timeout=timeout),
    "both by name": lambda port, operation, timeout: port.submit(operation=operation, timeout=timeout),
    "the other way round": lambda port, operation, timeout: port.submit(timeout=timeout, operation=operation),
    "with a name that is made": lambda port, operation, timeout: port.submit(
        operation, **{"".join("timeout"): timeout}
    ),
}


WRONG: dict[str, tuple[Any, type[Exception]]] = {
    "negative": (-1, ValueError),
    "negative float": (-0.5, ValueError),
    "negative and large": (-(10**400), ValueError),
    "no number": (math.nan, ValueError),
    "negative infinity": (-math.inf, ValueError),
    "truth": (True, TypeError),
    "text": ("1", TypeError),
    "complex": (1j, TypeError),
}


@pytest.mark.clause("S8")
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("number", [0.0, -0.0, 0, 0.001, Seconds(0.001), Whole(0)], ids=repr)
def test_a_time_out_may_be_given_in_any_way(exchange: Exchange, spelling: str, number: Any) -> None:
    for _ in range(2):
        SPELLINGS[spelling](exchange.port, exchange.operation, number)
        assert isinstance(completion(exchange.port).error, TimeoutError)
    SPELLINGS[spelling](exchange.port, exchange.operation, None)
    assert_nothing_comes(exchange.port, 0.01)
    exchange.port.cancel(exchange.operation)
    assert_cancelled(completion(exchange.port))


@pytest.mark.clause("S3", "S8")
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_time_out_that_is_none_is_refused_and_the_operation_stays_idle(
    exchange: Exchange, spelling: str, wrong: str
) -> None:
    number, error = WRONG[wrong]
    with pytest.raises(error):
        SPELLINGS[spelling](exchange.port, exchange.operation, number)
    assert not exchange.operation.in_flight
    exchange.succeed(HOUR)


@pytest.mark.clause("S3")
def test_what_is_no_operation_is_refused_with_a_time_out_too(port: unio.Port) -> None:
    port.wait(0)
    submit: Any = port.submit
    for arguments, keywords in (((None, 1), {}), (("text",), {"timeout": 1}), ((), {"timeout": 1}), ((1, 2, 3), {})):
        with pytest.raises(TypeError):
            submit(*arguments, **keywords)


# Clauses S8, P2: with threads


@pytest.mark.clause("S8", "P2")
@pytest.mark.parametrize("before", [HOUR, 0.001])
def test_a_thread_that_sleeps_is_told_of_a_time_out_that_is_earlier_than_before(
    port: unio.Port, make_pair: Any, before: float
) -> None:
    exchange = Exchange(port, make_pair)
    for _ in range(10):
        exchange.succeed(before)
        waiter = Background(completion, port)
        inside_wait(waiter)
        port.submit(exchange.operation, 0.001)
        port.start_gathered()
        assert isinstance(waiter.result().error, TimeoutError)


@pytest.mark.clause("S8", "P2")
def test_threads_that_submit_with_time_outs_while_others_wait_lose_none(port: unio.Port, make_pair: Any) -> None:
    rounds = 60
    exchanges = [Exchange(port, make_pair, is_waiter=False) for _ in range(12)]
    left = {id(each.operation): rounds for each in exchanges}
    outcomes: list[type] = []

    def work() -> None:
        while any(left.values()):
            for _, operation, _, error in batch(port, limit=1):
                if operation is None:
                    port.post("end")
                    return
                outcomes.append(type(error))
                left[id(operation)] -= 1
                number = left[id(operation)]
                if number:
                    operation.state.far.send(b"x" * (number % 3 == 0))
                    port.submit(operation, (HOUR, 0.0005, 0.002, 0)[number % 4])
                elif not any(left.values()):
                    port.post("end")

    for exchange in exchanges:
        exchange.operation.state = exchange
        port.submit(exchange.operation, 0.001)
    threads = [Background(work) for _ in range(3)]

    def hurry() -> bool:  # those that would wait for an hour
        for exchange in exchanges:
            if exchange.operation.in_flight:
                exchange.far.send(b"x")
        return not any(left.values())

    until(hurry)
    for thread in threads:
        thread.result()
    assert len(outcomes) == rounds * len(exchanges)
    assert set(outcomes) <= {type(None), TimeoutError}


# What is kept


ENDS: dict[str, Callable[[Exchange], object]] = {
    "success": lambda exchange: exchange.far.send(b"data"),
    "cancelled": lambda exchange: exchange.port.cancel(exchange.operation),
    "closed": lambda exchange: exchange.operation.handle.close(),
}


@pytest.mark.clause("S8", "C2")
@pytest.mark.parametrize("end", [*ENDS, "time-out"])
def test_a_time_out_keeps_nothing_alive_once_its_operation_has_ended(port: unio.Port, make_pair: Any, end: str) -> None:
    class Own(unio.Recv):
        pass

    class Key:
        pass

    exchange = Exchange(port, make_pair)
    near, exchange.far = make_pair()
    handle = port.associate(near, Key())
    exchange.operation = Own(handle, bytearray(8))
    gone = [weakref.ref(each) for each in (exchange.operation, handle, handle.key)]
    for timeout in (HOUR, 0.001 if end == "time-out" else HOUR):
        port.submit(exchange.operation, timeout)
        if timeout == HOUR:
            ENDS["success" if end == "time-out" else end](exchange)
        found = completion(port)
        assert found.operation is exchange.operation
        if end == "closed":
            break
    handle.close()
    gc.collect()  # of what the tests have left
    gc.disable()
    try:
        del exchange, handle, found
        assert [each() for each in gone] == [None] * 3
    finally:
        gc.enable()


def _memory_of(step: Callable[[int], None], rounds: int) -> int:
    """How many bytes a step leaves behind, done so often."""
    for number in range(rounds // 10):
        step(number)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(rounds):
            step(number)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


HOURS: dict[str, Callable[[int], float]] = {
    "the same": lambda _: HOUR,
    "later and later": lambda number: HOUR + number,
    "earlier and earlier": lambda number: 10**6 - 10 * number,
    "long and short": lambda number: (HOUR, 60)[number % 2],
}


@pytest.mark.clause("S8")
@pytest.mark.parametrize("timeouts", HOURS)
@pytest.mark.parametrize("anew", [False, True], ids=["again", "made anew"])
def test_time_outs_that_are_never_reached_keep_no_memory(
    port: unio.Port, make_pair: Any, timeouts: str, *, anew: bool
) -> None:
    exchanges = [Exchange(port, make_pair) for _ in range(8)]
    numbers = itertools.count()

    def step(_: int) -> None:
        for exchange in exchanges:
            if anew:
                exchange.operation = unio.Recv(exchange.operation.handle, bytearray(8))
            exchange.succeed(HOURS[timeouts](next(numbers)))

    kept = _memory_of(step, 300)
    assert kept < 30_000  # the least that could be left behind of each of the 2,400, for an hour, is 24 bytes


@pytest.mark.clause("S8")
def test_connections_that_wait_with_time_outs_keep_no_more_memory_for_being_armed_again(
    port: unio.Port, make_pair: Any
) -> None:
    exchanges = [Exchange(port, make_pair) for _ in range(100)]
    for exchange in exchanges:
        port.submit(exchange.operation, HOUR)

    def step(_: int) -> None:
        for exchange in exchanges:
            exchange.far.send(b"data")
        for found in completions(port, len(exchanges)):
            assert found.error is None
            port.submit(found.operation, HOUR)

    assert _memory_of(step, 50) < 30_000

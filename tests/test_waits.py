"""The waits of the tests themselves: they end where something was lost, and not where the machine is slow."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import patience
import pytest
import support
from patience import PATIENCE, happened, patience_left


class Clock:
    """A clock that goes on as it is told to, and a port that lets it do so in its wait."""

    def __init__(self, *waits: Callable[[Clock, float], list[Any]]) -> None:
        self.now = 1000.0
        self._waits = list(waits)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1)

    def wait(self, timeout: float, limit: int) -> list[Any]:
        return self._waits.pop(0)(self, timeout)


def woken(clock: Clock, timeout: float) -> list[Any]:
    clock.now += timeout / 2
    return ["packet"]


def found_at_the_end(clock: Clock, timeout: float) -> list[Any]:
    clock.now += timeout
    return ["packet"]


def nothing(clock: Clock, timeout: float) -> list[Any]:
    clock.now += timeout
    return []


def nothing_where_another_gets_something(clock: Clock, timeout: float) -> list[Any]:
    clock.now += timeout / 2
    happened()
    clock.now += timeout / 2
    return []


@pytest.fixture
def make_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Clock]:
    monkeypatch.setattr(patience, "_happened", 0.0)

    def make(*waits: Callable[[Clock, float], list[Any]]) -> Clock:
        clock = Clock(*waits)
        for module in (patience, support):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep))
        return clock

    return make


def test_a_wait_that_nobody_woke_has_failed_though_it_found_something(make_clock: Any) -> None:
    with pytest.raises(AssertionError, match="nobody was woken for"):
        support.batch(make_clock(found_at_the_end))


def test_a_wait_for_what_does_not_come_ends(make_clock: Any) -> None:
    with pytest.raises(AssertionError, match="a packet was lost"):
        support.batch(make_clock(nothing))


def test_a_wait_goes_on_while_others_get_something(make_clock: Any) -> None:
    elsewhere = [nothing_where_another_gets_something] * 10
    assert support.batch(make_clock(*elsewhere, woken)) == ["packet"]
    with pytest.raises(AssertionError, match="a packet was lost"):
        support.batch(make_clock(*elsewhere, nothing))
    with pytest.raises(AssertionError, match="nobody was woken for"):
        support.batch(make_clock(*elsewhere, found_at_the_end))


def test_many_completions_may_take_any_time(make_clock: Any) -> None:
    assert support.completions(make_clock(*[woken] * 10), 10) == ["packet"] * 10


def test_what_comes_to_one_gives_new_patience_to_all(make_clock: Any) -> None:
    clock = make_clock(woken)
    since = clock.now
    support.batch(clock)
    assert patience_left(since) == PATIENCE
    clock.now += PATIENCE / 2
    support.until(lambda: True)
    assert patience_left(since) == PATIENCE
    clock.now += PATIENCE
    assert support.Background(int).result() == 0
    assert patience_left(since) == PATIENCE


def test_a_condition_is_waited_for_while_something_happens(make_clock: Any) -> None:
    clock = make_clock()

    def late() -> bool:
        if clock.now < 1000 + 5 * PATIENCE:
            happened()
        return clock.now > 1000 + 5.5 * PATIENCE

    support.until(late)
    with pytest.raises(AssertionError, match="did not come true"):
        support.until(lambda: False)

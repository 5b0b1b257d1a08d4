"""The order in which the addresses of a name are tried, and what it comes to: RFC 8305 without any input or output."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from unio.backends.common.race import Race, interleaved


def found(host: str, family: int = socket.AF_INET) -> Any:
    return (family, socket.SOCK_STREAM, 6, "", (host, 80))


def six(host: str) -> Any:
    return found(host, socket.AF_INET6)


def failure(number: int, text: str) -> OSError:
    return OSError(number, text)


@pytest.mark.parametrize(
    ("given", "tried"),
    [
        ([], []),
        ([six("a"), six("b"), found("c"), found("d")], [six("a"), found("c"), six("b"), found("d")]),
        ([found("c"), six("a"), six("b"), six("d")], [found("c"), six("a"), six("b"), six("d")]),
        ([six("a"), found("c"), found("d"), found("e")], [six("a"), found("c"), found("d"), found("e")]),
        ([found("a"), found("a"), found("b")], [found("a"), found("b")]),
    ],
)
def test_the_families_take_turns_beginning_with_the_systems_choice(given: Any, tried: Any) -> None:
    assert interleaved(given) == tried


def test_a_race_goes_on_until_every_address_has_failed() -> None:
    race = Race("name", [six("a"), found("b")])
    assert race.begin() == six("a")
    assert race.has_more
    race.failed(six("a"), failure(errno.ENETUNREACH, "no network"))
    assert not race.is_lost
    assert race.begin() == found("b")
    assert not race.has_more
    assert race.begin() is None
    assert not race.is_lost
    race.failed(found("b"), failure(errno.ECONNREFUSED, "refused"))
    assert race.is_lost


def test_attempts_beside_each_other_are_all_waited_for() -> None:
    race = Race("name", [six("a"), found("b")])
    for _ in range(2):
        race.begin()
    race.failed(found("b"), failure(errno.ECONNREFUSED, "refused"))
    assert not race.is_lost
    race.failed(six("a"), failure(errno.ETIMEDOUT, "late"))
    assert race.is_lost


def test_its_one_error_lists_what_each_said_and_is_of_the_class_of_the_last() -> None:
    race = Race("name", [six("a"), found("b")])
    for number, text in ((errno.ENETUNREACH, "no network"), (errno.ECONNREFUSED, "nobody there")):
        address = race.begin()
        assert address is not None
        race.failed(address, failure(number, text))
    error = race.error()
    assert type(error) is ConnectionRefusedError
    assert str(error).endswith("name can't be connected to: ('a', 80): no network; ('b', 80): nobody there")


def test_a_name_without_addresses_is_an_error_of_its_own() -> None:
    race = Race("name", [])
    assert race.is_lost
    assert race.error().errno == errno.EADDRNOTAVAIL

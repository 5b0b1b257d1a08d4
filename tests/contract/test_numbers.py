"""Numbers of any size: each is taken for what it says, or refused where it is given."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import channels
import pytest
import support

import unio

HUGE = 10**400
"""More than any float or number of C's holds."""


@pytest.mark.clause("P6", "S8", "O11")
@pytest.mark.parametrize("forever", [HUGE, sys.float_info.max, float("inf")], ids=["int", "float", "inf"])
def test_a_huge_number_of_seconds_is_a_very_long_time(port: unio.Port, make_pair: Any, forever: float) -> None:
    near, far = make_pair()
    handle = port.associate(near)
    timer, recv = unio.Timer(forever), unio.Recv(handle, bytearray(8))
    assert timer.delay >= sys.float_info.max
    port.submit(timer)
    port.submit(recv, forever)
    port.submit(unio.Timer(0, "due"), forever)
    assert [found.key for found in port.wait(forever)] == ["due"]
    far.send(b"x")
    assert [found.operation for found in port.wait(forever, HUGE)] == [recv]
    waiter = support.Background(port.wait, forever)  # a thread that has not waited before
    support.inside_wait(waiter)
    assert port.cancel(timer)
    assert [found.operation for found in waiter.result()] == [timer]


@pytest.mark.clause("P6", "S3", "S8", "O11")
@pytest.mark.parametrize("wrong", [-HUGE, -sys.float_info.max], ids=["int", "float"])
def test_a_hugely_negative_one_is_refused(port: unio.Port, wrong: float) -> None:
    timer = unio.Timer(0)
    calls: list[Callable[[], object]] = [
        lambda: port.wait(wrong),
        lambda: port.submit(timer, wrong),
        lambda: unio.Timer(wrong),
        lambda: setattr(timer, "delay", wrong),
        lambda: unio.Pool(port, print, grace=wrong),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="must not be negative"):
            call()
    assert support.succeed(port, timer).operation is timer


@pytest.mark.clause("P6", "S3", "S8", "O11")
@pytest.mark.parametrize("wrong", [Fraction(1), 1j, "1", b"1", True])
def test_a_number_of_seconds_is_an_int_or_a_float(port: unio.Port, wrong: Any) -> None:
    timer = unio.Timer(0)
    calls: list[Callable[[], object]] = [
        lambda: port.wait(wrong),
        lambda: port.submit(timer, wrong),
        lambda: unio.Timer(wrong),
        lambda: unio.Pool(port, print, grace=wrong),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="must be a number of seconds"):
            call()
    support.assert_idle(port)


@pytest.mark.clause("P8")
@pytest.mark.parametrize("number", [HUGE, -HUGE, None, "any"], ids=["huge", "negative", "none", "text"])
def test_what_is_posted_as_a_number_comes_back_as_it_is(port: unio.Port, number: Any) -> None:
    port.post("key", "operation", number)
    assert support.completion(port) == ("key", "operation", number, None)


@pytest.mark.clause("S3", "P4", "P6", "O8", "O9")
def test_a_number_that_is_too_large_is_refused_where_it_is_given(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    near, _ = make_pair()
    sending = port.associate(near)
    file = resources.enter_context(unio.open(tmp_path / "file", "wb+"))
    stored = port.associate(file)
    calls: list[Callable[[int], object]] = [
        lambda number: unio.Read(stored, bytearray(8), number),
        lambda number: unio.Write(stored, b"x", number),
        lambda number: unio.SendFile(sending, file, number),
        lambda number: unio.SendFile(sending, file, 0, number),
        lambda number: unio.Port(backend=port.backend, concurrency=number),
        lambda number: unio.Pool(port, print, number),
    ]
    for call in calls:
        for wrong in (HUGE, -HUGE, 10**5000):
            with pytest.raises(ValueError, match=r"must be between .* not an int of \d+ bits"):
                call(wrong)
        with pytest.raises(TypeError, match="must be an int, not bool"):
            call(True)
    with pytest.raises(ValueError, match="the limit must be at least 1"):
        port.wait(0, -HUGE)
    with pytest.raises(TypeError, match="the limit must be an int, not bool"):
        port.wait(0, True)


@pytest.mark.clause("A2", "S3")
@pytest.mark.parametrize("number", [-1, -HUGE, 2**31, 2**63, HUGE], ids=["-1", "-huge", "2**31", "2**63", "huge"])
def test_a_number_that_no_handle_has_is_that_of_no_open_one(port: unio.Port, make_pair: Any, number: int) -> None:
    near, _ = make_pair()
    with pytest.raises(unio.AssociationError):
        port.associate(number)
    found = support.run(port, unio.SendFile(port.associate(near), number, 0, 1))
    assert isinstance(found.error, OSError)
    assert found.error.errno == errno.EBADF
    for truth in (True, False):  # which would be the descriptors 1 and 0
        with pytest.raises(TypeError):
            port.associate(truth)
        with pytest.raises(TypeError):
            unio.SendFile(port.associate(make_pair()[0]), truth)


@pytest.mark.clause("O9", "C2")
def test_a_number_of_which_only_the_last_bits_are_an_open_file_is_none(
    port: unio.Port, make_pair: Any, resources: contextlib.ExitStack, tmp_path: Path
) -> None:
    near, _ = make_pair()
    handle = port.associate(near)
    (tmp_path / "file").write_bytes(b"data")
    file = resources.enter_context(unio.open(tmp_path / "file"))
    number = channels.system_number(file)
    assert support.succeed(port, unio.SendFile(handle, number)).transferred == 4
    error = support.run(port, unio.SendFile(handle, number + 2**64)).error
    assert isinstance(error, OSError)
    assert error.errno == errno.EBADF


@pytest.mark.clause("O13", "S3")
def test_a_number_that_no_process_has_is_that_of_no_process(port: unio.Port) -> None:
    for number in (2**31 - 1, 2**31, 2**63, HUGE):
        assert isinstance(support.run(port, unio.ProcessExit(number)).error, ProcessLookupError)
    for wrong in (0, -1, -HUGE):
        with pytest.raises(ValueError, match="a process number must be at least 1"):
            unio.ProcessExit(wrong)

    class Child:
        pid: Any = True

    for truth in (True, Child()):
        with pytest.raises(TypeError, match="needs a process or its number"):
            unio.ProcessExit(truth)

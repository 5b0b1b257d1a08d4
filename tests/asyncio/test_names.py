"""Looking names up: addresses that are numbers need nobody, and whoever waits for the others may be cancelled."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest
import support
from awaits import until
from patience import PATIENCE


class Slow:
    """A resolver that answers when it is let go."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.asked, self.go = threading.Event(), threading.Event()
        self._true = socket.getaddrinfo
        patch.setattr(socket, "getaddrinfo", self._ask)

    def _ask(self, *arguments: Any) -> Any:
        if arguments[-1] & socket.AI_NUMERICHOST:
            return self._true(*arguments)
        self.asked.set()
        assert self.go.wait(PATIENCE)
        return self._true("127.0.0.1", 1)


ASKED = [
    ("127.0.0.1", 80, {}),
    ("::1", "80", {"type": socket.SOCK_STREAM}),
    (b"127.0.0.1", None, {"proto": socket.IPPROTO_UDP}),
    (None, 80, {"flags": socket.AI_PASSIVE, "type": socket.SOCK_DGRAM}),
    ("localhost", 80, {"family": socket.AF_INET, "type": socket.SOCK_STREAM}),
    ("localhost", "http", {"type": socket.SOCK_STREAM}),
    (None, None, {}),
    ("no.such.name.invalid", 80, {}),
    ("127.0.0.1", "no such service", {}),
    ("x" * 64, 80, {}),
    ("127.0.0.1", 80, {"family": -7}),
    (7, 80, {}),
    ("127.0.0.1", 1.5, {}),
]


@pytest.mark.parametrize(("host", "port", "options"), ASKED, ids=lambda value: str(value)[:24])
def test_what_is_found_and_what_is_not_are_those_of_the_standard_library(run, host, port, options) -> None:
    def ask() -> Any:
        try:
            return socket.getaddrinfo(host, port, **options)
        except Exception as error:  # noqa: BLE001 - it is compared
            return type(error), error.args

    async def main() -> Any:
        try:
            return await asyncio.get_running_loop().getaddrinfo(host, port, **options)
        except Exception as error:  # noqa: BLE001 - it is compared
            return type(error), error.args

    assert run(main()) == ask()


def test_addresses_that_are_numbers_take_no_thread(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = set(threading.enumerate())
        await loop.getaddrinfo("127.0.0.1", 80)
        await loop.getaddrinfo("fe80::1%1" if socket.has_ipv6 else "127.0.0.1", "80")
        assert await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV) == (
            "127.0.0.1",
            "80",
        )
        assert set(threading.enumerate()) <= before

    run(main())


def test_a_lookup_that_is_cancelled_ends_at_once(run, monkeypatch) -> None:
    slow = Slow(monkeypatch)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        lookup = asyncio.ensure_future(loop.getaddrinfo("slow.example", 80))
        await until(slow.asked.is_set)
        lookup.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lookup
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.getaddrinfo("slow.example", 80), 0.01)

    try:
        run(main())
    finally:
        slow.go.set()


def test_the_loop_goes_on_while_a_name_server_takes_its_time(run, monkeypatch) -> None:
    slow = Slow(monkeypatch)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        lookup = asyncio.ensure_future(loop.getaddrinfo("slow.example", 80))
        await asyncio.sleep(0.01)
        assert not lookup.done()
        slow.go.set()
        assert (await lookup)[0][4] == ("127.0.0.1", 1)

    run(main())


def test_a_connection_is_made_to_a_name(run, make_listener) -> None:
    listening = make_listener()

    async def main() -> None:
        port = listening.getsockname()[1]
        _, writer = await asyncio.open_connection("localhost", port)
        assert writer.get_extra_info("peername")[1] == port
        writer.close()
        with pytest.raises(socket.gaierror):
            await asyncio.open_connection("no.such.name.invalid", port)

    run(main())


def test_a_slow_lookup_is_told_of_in_debug_mode(run, monkeypatch, caplog) -> None:
    slow = Slow(monkeypatch)
    slow.go.set()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = 0  # type: ignore[attr-defined]
        await loop.getaddrinfo("slow.example", 80)

    with caplog.at_level("INFO", "asyncio"):
        run(main())
    assert "slow.example:80 took" in caplog.text


def test_an_address_has_a_name(run) -> None:
    async def main() -> Any:
        return await asyncio.get_running_loop().getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST)

    assert run(main()) == socket.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST)


def test_executors_work_and_are_shut_down(run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, threading.get_ident) != threading.get_ident()
        with pytest.raises(ArithmeticError):
            await loop.run_in_executor(None, lambda: 1 / 0)
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError, match="shutdown"):
            loop.run_in_executor(None, print)

    run(main())
    support.happened()

"""How the tests run coroutines: to their end, with whatever they raise seen, and never for ever."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from certificates import client_context, server_context
from patience import PROGRAM, happened
from support import Background

import unio

Streams = Callable[..., tuple[unio.Stream, unio.Stream]]


class Run:
    """Coroutines on a port, and what has come of them."""

    def __init__(self, port: unio.Port, coroutines: tuple[Coroutine[Any, Any, Any], ...]) -> None:
        self.port = port
        self.results: list[Any] = [None] * len(coroutines)
        self.error: BaseException | None = None
        self.over = threading.Event()
        self._left = len(coroutines)
        self._lock = threading.Lock()
        for number, coroutine in enumerate(coroutines):
            port.start(self._follow(number, coroutine))

    async def _follow(self, number: int, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            self.results[number] = await coroutine
        except BaseException as error:  # noqa: BLE001 - it is raised where the others would be waited for
            self.error = self.error or error
        happened()
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last or self.error is not None:
            self.end()

    def give_up(self) -> None:
        self.error = self.error or AssertionError("nothing happened any more")
        self.end()

    def end(self) -> None:
        self.over.set()
        self.port.stop()


def run_all(port: unio.Port, *coroutines: Coroutine[Any, Any, Any], threads: int = 1) -> list[Any]:
    """Run these, by so many threads or this one. Returns what they return, or raises what one has raised first."""
    helpers = [Background(port.run) for _ in range(threads)] if threads > 1 else []
    run = Run(port, coroutines)
    watchdog = threading.Timer(PROGRAM, run.give_up)
    watchdog.start()
    try:
        while not helpers and not run.over.is_set():
            port.run()
        run.over.wait()
        for helper in helpers:
            while helper.is_alive():  # one that came late was not there to be stopped
                port.stop()
                helper.join(0.01)
            helper.result()
    finally:
        watchdog.cancel()
    if run.error is not None:
        raise run.error
    return run.results


def shake_hands(client: unio.Stream, server: unio.Stream, version: ssl.TLSVersion | None = None) -> None:
    run_all(
        client.port,
        client.start_tls(client_context(version), server_hostname="localhost"),
        server.start_tls(server_context(version), server_side=True),
    )

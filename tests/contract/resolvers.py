"""A resolver in the place of the system's, for what no name does for certain: to hang, to have such addresses."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
from patience import PATIENCE

NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class Resolver:
    """What answers lookups of names: with *found*, or by hanging until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, found: list[Any] | None = None, *, hangs: bool = False) -> None:
        self.found = found or []
        self.asked: list[tuple[Any, ...]] = []
        self.hangs = hangs
        self._hung: list[threading.Event] = []
        self._systems = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, *asked: Any, **named: Any) -> list[Any]:
        if named or asked[-1] & NUMERIC == NUMERIC:
            return self._systems(*asked, **named)
        found, went = list(self.found), threading.Event()
        self._hung.append(went)
        self.asked.append(asked)
        assert not self.hangs or went.wait(PATIENCE)
        return found

    def go(self) -> None:
        """Let all lookups end, also those to come."""
        self.hangs = False
        for each in self._hung:
            each.set()

    def go_first(self) -> None:
        """Let the lookup end that was asked for first."""
        self._hung[0].set()


def address_of(sock: socket.socket) -> Any:
    """The address of a listening socket, as a lookup gives it."""
    return (sock.family, socket.SOCK_STREAM, 0, "", sock.getsockname())


def lookup_threads() -> int:
    return sum(thread.name == "unio-name" for thread in threading.enumerate())

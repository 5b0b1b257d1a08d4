"""Tells which sockets are to be read: ``polls.py HOW``.

HOW is unio (a Poll for each, submitted again), or a loop whose add_reader is used: asyncio, uvloop. In each turn all
SOCKETS sockets get a byte, and each is told of and read.
"""

from __future__ import annotations

import importlib
import socket
import sys
import time
from typing import TYPE_CHECKING

from protocol import serve

if TYPE_CHECKING:
    from collections.abc import Callable

SOCKETS = 32


def pairs() -> list[tuple[socket.socket, socket.socket]]:
    made = [socket.socketpair() for _ in range(SOCKETS)]
    for near, _ in made:
        near.setblocking(False)
    return made


def until(seconds: float, turn: Callable[[], None]) -> int:
    end = time.monotonic() + seconds
    turns = 0
    while time.monotonic() < end:
        turn()
        turns += 1
    return turns * SOCKETS


def over_unio() -> Callable[[float], int]:
    import unio  # noqa: PLC0415 - each way imports what it needs alone

    port, made = unio.Port(), pairs()
    wait, submit = port.wait, port.submit
    wait(0)
    for near, _ in made:
        submit(unio.Poll(port.associate(near), unio.Readiness.READABLE, state=near.recv))

    def turn() -> None:
        for _, far in made:
            far.send(b"x")
        left = SOCKETS
        while left:
            for found in wait():
                poll = found.operation
                poll.state(100)
                submit(poll)
                left -= 1

    return lambda seconds: until(seconds, turn)


def over_loop(name: str) -> Callable[[float], int]:
    loop, made = importlib.import_module(name).new_event_loop(), pairs()
    left = 0

    def told(sock: socket.socket) -> None:
        nonlocal left
        sock.recv(100)
        left -= 1
        if not left:
            loop.stop()

    for near, _ in made:
        loop.add_reader(near, told, near)

    def turn() -> None:
        nonlocal left
        for _, far in made:
            far.send(b"x")
        left = SOCKETS
        loop.run_forever()

    return lambda seconds: until(seconds, turn)


if __name__ == "__main__":
    serve(over_unio() if sys.argv[1] == "unio" else over_loop(sys.argv[1]))

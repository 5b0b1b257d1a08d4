"""Looks whether something has come, and nothing has: ``looks.py HOW``.

HOW is unio (``port.wait(0)``), or epoll (``select.epoll().poll(0)``). A loop of another library asks so in each turn.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from typing import TYPE_CHECKING

from protocol import serve

if TYPE_CHECKING:
    from collections.abc import Callable

AT_ONCE = 100


def looking(look: Callable[[int], object]) -> Callable[[float], int]:
    def work(seconds: float) -> int:
        end = time.monotonic() + seconds
        looks = 0
        while time.monotonic() < end:
            for _ in range(AT_ONCE):
                look(0)
            looks += AT_ONCE
        return looks

    return work


def main() -> None:
    near, far = socket.socketpair()
    with near, far:
        if sys.argv[1] == "epoll":
            epoll = select.epoll()
            epoll.register(near, select.EPOLLIN)
            serve(looking(epoll.poll))
            return
        import unio  # noqa: PLC0415 - each way imports what it needs alone

        with unio.Port() as port:
            port.submit(unio.Recv(port.associate(near)))
            serve(looking(port.wait))


if __name__ == "__main__":
    main()

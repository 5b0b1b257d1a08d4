# What unio._core has, the part of unio that is C (src/core). It is absent where it could not be compiled.
# It names no module that only some systems have, since all of them import it for its types.

import socket
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeAlias

from unio.operations import Operation
from unio.port import Completion, Port

Setter: TypeAlias = Callable[[Any, Any], None]

class Lock:
    def __enter__(self) -> bool: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def locked(self) -> bool: ...

class HotPath:
    epoll: int

    def __new__(
        cls,
        port: Port,
        queue: Any,
        table: dict[int, Any],
        backlog: deque[Any],
        submit: Callable[..., bool],
        wait: Callable[..., list[Completion]],
        /,
    ) -> Self: ...
    def submit(self, operation: Operation, timeout: float | None = None) -> bool: ...
    def wait(self, timeout: float | None = None, limit: int = ...) -> list[Completion]: ...
    def harvest(self, timeout_ms: int, /) -> bool: ...
    def start_gathered(self) -> None: ...
    def close(self) -> None: ...

def faster_setter(function: Setter, /) -> Setter: ...
def learn(*classes: type) -> None: ...
def keeps_number(sock: socket.socket, number: int, /) -> bool: ...
def thread_waits(waiter: object, /) -> None: ...

"""What the servers have in common: a listener, the threads that serve its connections, and an orderly end.

The threads run the one port. Each connection is a coroutine that whichever of them is free goes on with.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import unio
from unio.cli.connection import Connection
from unio.cli.output import Problem, complain

if TYPE_CHECKING:
    import ssl

ACCEPTS = 32
"""How many accepts are in flight: a burst of clients is taken in batches, not one by one."""

LOOK_SECONDS = 0.02
"""How long a server that is stopping sleeps between two looks at what is left."""

BACKLOG = 1024
"""How many clients may wait to be accepted, as far as the system allows."""

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]


class Server:
    """Accepts connections on one listener and serves each until it ends."""

    def __init__(
        self,
        port: unio.Port,
        listener: socket.socket,
        connect: Connect,
        grace: float,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.port = port
        self.address = printable(listener.getsockname())
        self.context = context
        self.stopping = False
        self._listener = port.associate(listener)
        self._connect = connect
        self._grace = grace
        self._connections: set[Connection] = set()
        self._lock = threading.Lock()  # guards _connections
        self._said: set[str] = set()

    def run(self, threads: int, ready: Callable[[], None]) -> None:
        """Serve with this thread and as many others as make *threads*, until it was stopped and all is done.

        *ready* is called once they are there. Raises Problem if the system doesn't have so many.
        """
        for _ in range(ACCEPTS):
            self.port.submit(unio.Accept(self._listener, state=self._accepted))
        with self._helpers(threads - 1):
            ready()
            self.port.run()
        for connection in self._current():  # what had not ended when the time was up
            connection.close()

    @contextlib.contextmanager
    def _helpers(self, count: int) -> Iterator[None]:
        """Have so many other threads at work, which end with this one."""
        helpers: list[threading.Thread] = []
        try:
            for _ in range(count):
                helpers.append(start_thread(self.port.run))  # noqa: PERF401 - to know those before one that fails
            yield
        finally:
            self.port.stop()
            for helper in helpers:
                helper.join()

    def remove(self, connection: Connection) -> None:
        with self._lock:
            self._connections.discard(connection)

    async def stop(self) -> None:
        """Accept no more, and have the threads end when all is done, or the time for that is up."""
        self.stopping = True
        self._listener.close()
        end = time.monotonic() + self._grace
        while (connections := self._current()) and (left := end - time.monotonic()) > 0:
            for connection in connections:
                connection.stop()
            await unio.Timer(min(LOOK_SECONDS, left))
        self.port.stop()

    def _accepted(self, completion: unio.Completion) -> None:
        accept, error = completion.operation, completion.error
        if isinstance(error, unio.Cancelled):
            return
        client = None if error is not None else accept.take()
        if error is not None:
            # Without free descriptors the clients stay in the backlog, and the port makes the next accept wait a
            # moment. So submitting again is all there is to do.
            self._say_once(f"can't accept: {error.strerror}")
        self.port.submit(accept)  # cancelled, where the server is stopping and has closed the listener
        if client is not None:
            self._begin(client)

    def _begin(self, client: socket.socket) -> None:
        try:
            connection = self._connect(self, client)
        except OSError as error:  # the system can't watch one more descriptor: that is this client's loss alone
            client.close()
            self._say_once(f"can't serve a client: {error.strerror}")
            return
        with self._lock:
            self._connections.add(connection)
        self.port.start(connection.run())

    def _current(self) -> list[Connection]:
        with self._lock:
            return list(self._connections)

    def _say_once(self, message: str) -> None:
        # Trouble of this kind comes a thousand times over, and one line is enough to know.
        if message not in self._said:
            self._said.add(message)
            complain(f"{message}\n")


Connect: TypeAlias = Callable[[Server, socket.socket], Connection]
"""What makes the connection of an accepted socket. Raises OSError when the system lacks what it takes."""


def start_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    try:
        thread.start()
    except RuntimeError as error:
        raise Problem(f"can't serve with that many threads: {error}") from error
    return thread


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on the first address that *host* stands for. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.create_server(address, family=family, backlog=BACKLOG)
    # The accepted sockets inherit both. Keep-alive finds clients that vanished without a word; without the other, a
    # short answer could wait for the acknowledgement of what was sent before it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def printable(address: tuple[str, int]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def stop_on_signals(server: Server) -> None:
    """Let the first Ctrl-C or SIGTERM stop the server in order, and the second one end the process at once."""
    port = server.port

    def first(completion: unio.Completion) -> None:
        if completion.error is None:
            for each in signals:
                port.cancel(each)  # from now on they do what they did before: see __main__.py
            port.start(server.stop())

    signals = [unio.Signal(number, state=first) for number in SIGNALS]
    for operation in signals:
        port.submit(operation)

"""The operations that begin with a name: finding its addresses, and connecting to it.

They have no handle, as a timer has none; what they do is in :mod:`unio.backends.common`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unio.arguments import NUMBER_MAX, checked_name, checked_service, whole_number
from unio.operations import Operation, Route

if TYPE_CHECKING:
    from unio.arguments import Address
    from unio.handle import Handle


class _Named(Operation):
    """An operation that asks for the addresses of a name."""

    __slots__ = ("_family", "_host", "_name", "_port", "_service")
    route = Route.NAME

    def __init__(
        self, host: str | bytes | None, port: str | bytes | int | None, family: int, key: Any, state: Any
    ) -> None:
        super().__init__(None, key, state)
        self._name, self._service = checked_name(host), checked_service(port)
        self._family = whole_number(family, "the family", NUMBER_MAX)
        self._host, self._port = host, port

    @property
    def host(self) -> str | bytes | None:
        """The name, as it was given."""
        return self._host

    @property
    def port(self) -> str | bytes | int | None:
        """The port, as it was given."""
        return self._port


class Resolve(_Named):
    """Find the addresses of a name, as :func:`socket.getaddrinfo` does, without blocking.

    What it has found is in :attr:`addresses`. The arguments are that function's: *host* may be None, *port* also the
    name of a service or None. A name that is not ASCII's is taken as Python does, by IDNA. What can't be a name (one
    with a zero byte, or with a part of more than 63 characters) is a :class:`ValueError` here.

    A numeric address is known at once. Anything else is asked for on a thread of the port's, of which it has up to
    32 for this and for nothing else; what comes when all are busy waits for one of them. A thread that asks can't be
    interrupted: after a cancel, a time-out or the close of the port the operation has ended, and what the thread comes
    to later is dropped.

    Errors: :class:`socket.gaierror`, an :class:`OSError` whose number is the system's own ``EAI_`` code, with the name
    in its text; what getaddrinfo(3) says otherwise; ``EAGAIN`` when the system lets no thread start.
    """

    __slots__ = ("_flags", "_protocol", "_type", "addresses")
    name = "resolve"

    addresses: list[tuple[Any, ...]]
    """What :func:`socket.getaddrinfo` returned: a family, type, protocol, canonical name and address for each."""

    def __init__(  # noqa: PLR0913 - those of socket.getaddrinfo
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        key: Any = None,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - as socket.getaddrinfo has it
        proto: int = 0,
        flags: int = 0,
        state: Any = None,
    ) -> None:
        super().__init__(host, port, family, key, state)
        self._type = whole_number(type, "the type", NUMBER_MAX)
        self._protocol = whole_number(proto, "the protocol", NUMBER_MAX)
        self._flags = whole_number(flags, "the flags", NUMBER_MAX)
        self.addresses = []

    def _begin(self) -> object:
        addresses: list[tuple[Any, ...]] = []  # first, as there may be no memory for it
        left = super()._begin(), self.addresses
        self.addresses = addresses
        return left


class ConnectTo(_Named):
    """Connect to a name: find its addresses and try them, as RFC 8305 has it. The first to answer is the connection.

    The addresses are tried in the order in which the system gives them, one family and the other in turns. While none
    has answered, another attempt begins every 250 ms, and at once where one has failed. When one is connected, the
    others are given up and closed.

    The connection is in :attr:`connection`: a handle that has joined the port, with the operation's key, and whose
    ``object`` is the socket. It is the caller's to close. The address that it is connected to is in :attr:`address`.

    *family* is that of :func:`socket.getaddrinfo`, as is what *host* and *port* may be; see :class:`Resolve`.

    Errors: those of :class:`Resolve`. Where no address answers, one :class:`OSError` whose text lists what became of
    each attempt; its number, and so its class, is that of the last to fail.
    """

    __slots__ = ("address", "connection")
    name = "connect_to"

    connection: Handle | None
    """The connection that the last completion brought; None with an error."""

    address: Address
    """The address of its peer."""

    def __init__(
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        key: Any = None,
        *,
        family: int = 0,
        state: Any = None,
    ) -> None:
        super().__init__(host, port, family, key, state)
        self.connection = self.address = None

    def _begin(self) -> object:
        left = super()._begin(), self.connection, self.address
        self.connection = self.address = None
        return left

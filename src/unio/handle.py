"""A handle: a socket, pipe or file that has joined a port."""

from __future__ import annotations

import enum
import socket
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self

from unio.errors import shown

if TYPE_CHECKING:
    from types import TracebackType

_fileno = socket.SocketType.fileno


class HasFileno(Protocol):
    """Whatever has a ``fileno()``: sockets, files, pipes, and most objects that wrap one.

    It may be called by any thread of the port's at any time. Whatever it raises means that the object is closed.
    """

    def fileno(self) -> int: ...


class Kind(enum.Enum):
    """What the operating system says a handle is; it decides which operations the handle can do."""

    SOCKET = "socket"
    PIPE = "pipe"
    FILE = "file"


class Handle:
    """A socket, pipe or file that has joined a port; :meth:`unio.Port.associate` makes it and operations name it.

    It identifies the association itself, not the descriptor's number: when the number is closed and reused, this
    handle never receives or delivers anything that belongs to the successor. It keeps the object that was
    associated alive until the handle or the port is closed.

    At the end of a ``with`` block it is closed. All methods may be called from any thread.
    """

    __slots__ = ()

    key: Any
    """The key of every completion of this handle."""

    kind: Kind

    object: HasFileno | int
    """What was given to :meth:`unio.Port.associate`."""

    skip_on_success: bool
    """Whether an operation that succeeds at once is reported by submit alone."""

    socket: socket.socket | None
    """The socket on which operations work (the associated one, or one that borrows its descriptor); None for others."""

    stream: bool
    """Whether what it carries has no boundaries: all but a datagram socket."""

    number: int  # the operating system's, at the time that it joined
    lifecycle: enum.IntEnum  # what has become of it; 0 for as long as it is in its port

    # What a backend adds. It is no abstract base class: to ask of something whether it is a handle would take ten times
    # as long.

    def __init__(self) -> None:
        raise TypeError("a handle is made by Port.associate")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a handle can't be copied or pickled: it stands for one socket, pipe or file that has joined")

    @abstractmethod
    def fileno(self) -> int:
        """The operating system's handle; -1 once it is closed."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether the handle has left the port: it was closed or detached, or the object behind it was closed."""

    @abstractmethod
    def cancel(self) -> int:
        """Ask every operation that is in flight on this handle to end, as :meth:`unio.Port.cancel` does.

        Returns how many there were to ask. Each still completes exactly once.

        Raises :class:`unio.PortClosed`.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the handle and the object behind it.

        Everything in flight completes with :class:`unio.Cancelled`, in the order of submission; an idle handle
        queues nothing. A system call that another thread is making on the handle ends first, so that the
        descriptor's number is free for reuse only when nothing can touch it any more; a file operation that is
        running on the pool is such a call. Closing twice does nothing.

        It takes as long as the object's own ``close()``, which for a socket with SO_LINGER may be the time until its
        bytes have left; the threads that wait on the port are woken before. If another thread's system call has to
        end first, the object is closed then, where that holds nobody up. What a ``close()`` of a library's raises,
        other than :class:`OSError`, comes out of this when all is done, or of a thread of its own to
        :func:`threading.excepthook`.
        """

    @abstractmethod
    def detach(self) -> HasFileno | int:
        """Take the object off its port, unharmed, and return it: it is the caller's, and may join another port.

        What has arrived for it and was not received stays in it. It gets back what associating has changed, unless the
        program has changed that itself since: on POSIX whether it blocks, a socket's time-out and its low-water mark,
        and on macOS whether a write raises SIGPIPE. To the port it is as if the handle were closed: what is submitted
        to it from then on ends as :class:`unio.Cancelled`, and :meth:`close` does nothing.

        Raises :class:`unio.InFlight` while an operation is in flight on it, also one whose completion no wait has
        returned: :meth:`cancel` them, take what they have brought, and then detach. Raises
        :class:`unio.NotAssociated` if it is closed or was detached before, so that of two threads one gets the object;
        :class:`unio.PortClosed`; :class:`RuntimeError` in a finalizer that comes in the middle of a step of the port's.
        After a :class:`MemoryError` it is called again.

        On Windows it takes 8.1 or newer (``FileReplaceCompletionInformation`` of NtSetInformationFile); where that
        can't be done it raises :class:`OSError` with ``ENOTSUP``, and the handle stays in its port. What
        *skip_on_success* has set can't be taken back there.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        # No code of the program's runs here, such as its object's fileno(): see shown.
        left = self.lifecycle or (self.socket is not None and _fileno(self.socket) < 0)
        where = "closed" if left else f"number={self.number}"
        return f"<unio.Handle {self.kind.value} {where} key={shown(self.key)}>"

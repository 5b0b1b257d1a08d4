"""How what was written to a stream leaves.

One at a time sends. Who does is called the sender here, and is either

- a packet in the port's queue (``CALLED``): the first write posts it, and when its turn comes, it has all that was
  written in the meantime leave in one send. A reader that is about to wait takes the turn before it comes;
- a send in the background (``BUSY``), whose completion sends what has come since, until there is nothing;
- a task that has written more than may wait (``BUSY``). It sends, since it can do nothing else, and leaves the rest
  to the background as soon as few enough bytes are left.

Where somebody else is the sender, such a task waits with a timer, which the sender cancels.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Final

from unio.backends.common.locks import Lock
from unio.errors import Cancelled, InFlight, PortClosed, is_timed_out
from unio.operations import Send, Timer
from unio.streams.deadlines import again, call_timed_out, idled, time_for, time_left
from unio.streams.write_queue import WriteQueue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unio.completion import Completion
    from unio.handle import Handle
    from unio.port import Port
    from unio.streams.tls import TlsEngine
    from unio.streams.write_queue import Piece

SEND_MAX = 1024 * 1024
"""The most bytes that leave in one send, so that a writer sees progress."""

ENCRYPT_MAX = 256 * 1024
"""The same where they have to be encrypted first."""

WIRE_MAX = 2 * ENCRYPT_MAX
"""More than ever waits to be sent of what was encrypted, unless a peer wants it so."""

AGES = 1e9
"""The delay of a timer that is to be cancelled, in seconds."""

NOTHING: tuple[Piece, ...] = ()

# Who sends.
IDLE: Final = 0  # nobody, and nothing waits
CALLED: Final = 1  # a packet that is in the port's queue, unless somebody comes before it
BUSY: Final = 2  # somebody


class Sender:
    """The writing side of a stream. Any thread may call each method at any time."""

    __slots__ = (
        "_engine",
        "_failure",
        "_handle",
        "_idle_timeout",
        "_limit",
        "_lock",
        "_port",
        "_queue",
        "_refusal",
        "_send",
        "_state",
        "_waiting",
        "_wire",
    )

    def __init__(self, port: Port, handle: Handle, limit: int, idle_timeout: float | None) -> None:
        self._port = port
        self._handle = handle
        self._limit = limit
        self._idle_timeout = idle_timeout
        self._send = Send(handle, b"")  # the sender's
        self._lock = Lock()  # guards what follows
        self._queue = WriteQueue()  # what was written
        self._wire = self._queue  # what is to be sent, which with TLS is not the same
        self._engine: TlsEngine | None = None
        self._state = IDLE
        self._waiting: list[tuple[int, Timer]] = []  # for so few bytes to be left, and by what they are woken
        self._failure: Exception | None = None  # why nothing can be sent any more
        self._refusal: Exception | None = None  # why nothing more may be written

    # Writing

    def add(self, piece: Piece) -> bool:
        """Have these bytes leave. Returns True where too many wait by now, and leaves it to the caller to drain."""
        with self._lock:
            self._check_failed()
            if self._refusal is not None:
                raise again(self._refusal)
            self._queue.add(piece)
            if (self._queue.size if self._engine is None else self._size) > self._limit:
                return True
            if not piece or self._state != IDLE:
                return False
            self._state = CALLED
        self._call()
        return False

    async def drain(self, deadline: float | None, most: int | None = 0) -> None:
        """Wait until no more bytes than that wait to be sent, or send them; None is as many as may."""
        most = self._limit if most is None else most
        while True:
            with self._lock:
                self._check_failed()
                if self._size <= most:
                    return
                waiter = None
                if self._state == BUSY:
                    waiter = Timer(AGES)
                    self._waiting.append((most, waiter))
                self._state = BUSY
            if waiter is not None:
                await self._wait_for_sender(waiter, deadline)
                continue
            try:  # this task is the sender; it is one coroutine with the rest for speed
                while self._size > most and self._load():
                    limits = time_for(deadline, self._idle_timeout)
                    try:
                        await (self._send if limits is None else self._send.within(limits[0]))
                    except OSError as error:
                        self._unsent(error, limits)
                    finally:
                        self._account()
            finally:
                self._send_on()

    def refuse(self, error: Exception) -> None:
        """Have further writes raise this; what was written before leaves."""
        with self._lock:
            self._check_failed()
            self._refusal = error

    def fail(self, error: Exception) -> None:
        """Have all writes raise this from now on, unless something was the matter before."""
        with self._lock:
            if self._failure is None:
                self._failure = again(error)
        self._wake()

    def _check_failed(self) -> None:
        if self._failure is not None:
            raise again(self._failure)

    @property
    def _size(self) -> int:
        """How many bytes wait."""
        if self._engine is None:
            return self._queue.size
        return self._queue.size + self._wire.size + self._engine.pending

    # TLS

    def encrypt_with(self, engine: TlsEngine) -> None:
        """Have what is written from now on encrypted; nothing waits, and writes are not refused any more."""
        with self._lock:
            self._engine, self._wire = engine, WriteQueue()
            self._refusal = None

    def add_records(self, engine: TlsEngine) -> None:
        """Have what TLS itself says leave as it is, also where writes are refused, once the caller drains the queue."""
        with self._lock:
            self._wire.add(engine.records())

    def answer(self, engine: TlsEngine) -> None:
        """Have what TLS itself answers to what has come leave in the port's next turn; nobody waits for that.

        Raises :class:`ConnectionAbortedError` where a peer has it answer over and over, and never reads.
        """
        with self._lock:  # with which it can't be something that was written and is just being encrypted
            self._wire.add(engine.records())
            if self._wire.size > WIRE_MAX:
                raise ConnectionAbortedError(errno.ECONNABORTED, "the peer has TLS answer, and takes no answers")
            if not self._wire.size or self._state != IDLE:
                return
            self._state = CALLED
        self._call()

    # Sending

    def _call(self) -> None:
        try:
            self._port.post(self.take_turn)
        except BaseException:
            with self._lock:
                if self._state == CALLED:
                    self._state = IDLE
            raise

    def take_turn(self, _completion: Completion | None = None) -> None:
        """Send what was written, if nobody does so yet."""
        if self._state != CALLED:
            return
        with self._lock:
            if self._state != CALLED:
                return
            self._state = BUSY
        self._send_on()

    async def _wait_for_sender(self, waiter: Timer, deadline: float | None) -> None:
        try:
            await waiter.within(None if deadline is None else time_left(deadline))
        except (Cancelled, TimeoutError) as error:
            with self._lock:
                is_woken = all(waiter is not each for _, each in self._waiting)
                self._waiting = [each for each in self._waiting if each[1] is not waiter]
            if is_woken:
                return
            if isinstance(error, TimeoutError):
                raise call_timed_out() from None
            raise

    def _unsent(self, error: OSError, limits: tuple[float, bool] | None) -> None:
        """Raise what is to be raised for the error of a send, unless the rest may be sent all the same."""
        if not is_timed_out(error):
            self._may_go_on(error)
            raise error
        if limits is not None and not limits[1]:
            raise call_timed_out() from None
        if not self._may_go_on(error):
            self._check_failed()

    def _send_on(self) -> None:
        """Send what waits in the background, or be the sender no more; whoever is calls this."""
        try:
            while self._load(let_go=True):
                self._send.state = self._sent
                if not self._port.submit(self._send, self._idle_timeout):
                    return
                self._account()
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody hears it here: the next write does
            self.fail(error)

    def _sent(self, completion: Completion) -> None:
        """A send of the background has completed."""
        self._send.state = None  # or it would keep the stream alive, and the stream it
        if completion.error is not None:
            self._may_go_on(completion.error)
        self._account()
        self._send_on()

    def _may_go_on(self, error: OSError) -> bool:
        """Whether what is left can still be sent after this; else the stream has failed."""
        if is_timed_out(error):
            if self._send.transferred:
                return True
            error = idled("taken", self._idle_timeout)
        elif isinstance(error, Cancelled) and not self._handle.closed:  # it was the task that was cancelled
            return True
        self.fail(error)
        return False

    def _load(self, *, let_go: bool = False) -> bool:
        """Give the send what is next. Where there is nothing, return False, and have no sender any more if told to."""
        with self._lock:
            pieces = self._next_pieces() if self._failure is None else NOTHING
            if not pieces and let_go:
                self._state = IDLE
        if not pieces:
            self._wake()
            return False
        self._send.buffer = pieces[0] if len(pieces) == 1 else pieces
        return True

    def _next_pieces(self) -> Sequence[Piece]:
        if self._engine is None:
            return self._queue.take(SEND_MAX) if self._queue else NOTHING
        if not self._wire:
            pieces = self._queue.take(ENCRYPT_MAX)
            try:
                self._engine.encrypt(pieces)
            except OSError as error:
                self._failure = again(error)
            self._queue.sent(sum([len(piece) for piece in pieces]))
            self._wire.add(self._engine.records())
        return self._wire.take(SEND_MAX)

    def _account(self) -> None:
        """So much of what was given to the send has left."""
        with self._lock:
            self._wire.sent(self._send.transferred)
        self._wake()

    def _wake(self) -> None:
        """Wake those who have waited for this."""
        if not self._waiting:
            return
        with self._lock:
            size = -1 if self._failure is not None else self._size
            woken = [timer for most, timer in self._waiting if size <= most]
            self._waiting = [each for each in self._waiting if size > each[0]]
        for timer in woken:
            with contextlib.suppress(InFlight):
                timer.delay = 0  # for one that is only just to be submitted
            with contextlib.suppress(PortClosed):
                self._port.cancel(timer)

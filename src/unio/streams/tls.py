"""TLS between bytes that a program reads and writes and records that a connection carries, over :class:`ssl.MemoryBIO`.

No port is in here, and no socket: whoever has records that have come puts them in, and takes out those that are to be
sent. That may be after each call of a method, and has to be after one that raised as well: the peer is told in a record
what went wrong.

One step takes as much as there is: what was received at once, as many records as that may be, is decrypted before it
returns. So OpenSSL never holds back more than the beginning of a record, and ``unwrap()``, which reads as well, finds
nothing to read.

Several threads take turns, by the lock that is taken here; OpenSSL itself lets only one at a time use a connection. The
handshake goes without, as calls of the program's own may run in it, such as ``SSLContext.sni_callback``. So nobody else
may be at work on the engine then, and no second handshake follows: renegotiation is switched off.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple

from unio.backends.common.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

    from unio.streams.receive_buffer import ReceiveBuffer


class TlsInfo(NamedTuple):
    """What a handshake has agreed on."""

    version: str
    """Such as ``"TLSv1.3"``."""

    cipher: str
    """The name of the cipher, such as ``"TLS_AES_256_GCM_SHA384"``."""

    alpn: str | None
    """The protocol that both ends have chosen (``SSLContext.set_alpn_protocols``); None without one."""

    certificate: dict[str, Any] | None
    """The peer's, as :meth:`ssl.SSLSocket.getpeercert` has it: empty if it was not verified, None if there is none."""

    certificate_der: bytes | None
    """The peer's, in DER, verified or not."""


class TlsEngine:
    """One end of a TLS connection.

    *server_side* and *server_hostname* are those of :meth:`ssl.SSLContext.wrap_bio`, as are the errors of wrong ones.
    With *suppress_ragged_eofs* a connection that ends without the peer's close_notify is taken for one that has ended
    in order.
    """

    __slots__ = ("_incoming", "_lock", "_outgoing", "_suppress", "_tls", "ended", "is_shut_down")

    ended: bool
    """Whether the peer has said that it sends no more, or its end was taken for that."""

    is_shut_down: bool
    """Whether this end has said that it sends no more."""

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        suppress_ragged_eofs: bool = False,
    ) -> None:
        context.options |= ssl.OP_NO_RENEGOTIATION
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)
        self._suppress = suppress_ragged_eofs
        self._lock = Lock()
        self.ended = self.is_shut_down = False

    # What has come

    def feed(self, records: Buffer) -> None:
        """Take what the connection has received; nothing means that it has ended."""
        with self._lock:
            if self._incoming.write(records) == 0:
                self._incoming.write_eof()

    def handshake(self) -> bool:
        """Go on with the handshake, as far as what has come takes it; whether it is done.

        Raises :class:`ssl.SSLCertVerificationError`, :class:`ssl.SSLEOFError` where the connection has ended, and
        :class:`ssl.SSLError`.
        """
        try:
            self._tls.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLEOFError):
            if not self._incoming.eof:
                return False
            raise _eof("the peer ended the connection in the middle of the TLS handshake") from None
        return True

    def receive(self, records: Buffer, into: ReceiveBuffer) -> None:
        """Take what the connection has received, and decrypt it, in one step.

        Between the two, shut_down would find what is not its own.
        """
        with self._lock:
            self.feed(records)
            self.decrypt(into)

    def decrypt(self, into: ReceiveBuffer) -> None:
        """Have all that has come received there, and the end.

        Raises :class:`ssl.SSLEOFError` where the connection ended without the peer's close_notify, so that whoever can
        break it may have cut off the rest, and :class:`ssl.SSLError`. What came before is received.
        """
        with self._lock:
            while not self.ended:
                space = into.space()
                try:
                    size: Any = self._tls.read(len(space), space)
                except ssl.SSLZeroReturnError:
                    size = 0
                except (ssl.SSLWantReadError, ssl.SSLEOFError):
                    if not self._incoming.eof:
                        return
                    if not self._suppress:
                        raise _eof(
                            "the peer ended the connection without a close_notify of TLS: what came may not be all"
                        ) from None
                    size = 0
                self.ended = not size
                into.received(size)

    # What is to leave

    def encrypt(self, pieces: Iterable[Buffer]) -> None:
        """Make records of these pieces."""
        with self._lock:
            for piece in pieces:
                left = memoryview(piece)
                while left:
                    left = left[self._tls.write(left) :]

    def shut_down(self) -> None:
        """Say that this end sends no more; the peer may go on."""
        with self._lock:
            if not self.is_shut_down:
                self.is_shut_down = True
                with contextlib.suppress(ssl.SSLError):  # it reads at once what the peer says to that, in vain
                    self._tls.unwrap()

    def records(self) -> bytes:
        """What is to be sent now."""
        with self._lock:
            return self._outgoing.read()

    @property
    def pending(self) -> int:
        """How many bytes are to be sent."""
        return self._outgoing.pending

    # What was agreed on

    @property
    def info(self) -> TlsInfo:
        """What the handshake has agreed on."""
        tls = self._tls
        cipher = tls.cipher()
        return TlsInfo(
            version=tls.version() or "",
            cipher=cipher[0] if cipher else "",
            alpn=tls.selected_alpn_protocol(),
            certificate=tls.getpeercert(),
            certificate_der=tls.getpeercert(binary_form=True),
        )


def _eof(message: str) -> ssl.SSLEOFError:
    return ssl.SSLEOFError(ssl.SSL_ERROR_EOF, message)

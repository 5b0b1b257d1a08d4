"""``python -m unio serve files``: a directory over HTTP/1.1. The protocol is h11's, the bodies are SendFile's."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING

import h11

import unio
from unio.cli.answers import Answer, answer, refuse
from unio.cli.bodies import PIECE_SIZE, FileRange, FileStream
from unio.cli.conditions import combine
from unio.cli.connection import Connection
from unio.cli.heads import Heads
from unio.cli.resources import Refused

if TYPE_CHECKING:
    import socket
    from io import FileIO
    from pathlib import Path

    from unio.cli.server import Server

REQUEST_SECONDS = 30.0
"""How long a client may take to send a request, counted from when it may begin to; so also how long it may idle."""

STALL_SECONDS = 120.0
"""How long a client may take nothing of its response. Progress shows in leaps: a full socket counts as writable again
only when a good part of its buffer, several megabytes on a fast network, has left."""


class FilesConnection(Connection):
    """Takes one request at a time; what a client sends ahead waits in a bounded buffer and then in TCP's."""

    def __init__(self, root: Path, server: Server, client: socket.socket) -> None:
        super().__init__(server, client)
        self._root = root
        self._received = memoryview(self.recv.buffer)
        self._heads = Heads()
        self._http = h11.Connection(h11.SERVER)
        self._deadline = 0.0
        self._body: bytes | FileRange | FileStream = b""
        self._send_file = unio.SendFile(self.handle, -1, state=self.guarded(self._sent_file))  # no file yet

    def start(self) -> None:
        self._deadline = time.monotonic() + REQUEST_SECONDS
        self._proceed()

    def close(self) -> None:
        super().close()
        self._drop_body()

    def received(self, recv: unio.Recv) -> None:
        if recv.transferred:
            self._heads.add(self._received[: recv.transferred])
            self._proceed()
        elif isinstance(recv.error, unio.Cancelled):  # the server is stopping
            self.finish()
        elif isinstance(recv.error, TimeoutError) and self._heads:
            self._respond(refuse(408), last=True)
        else:
            self.close()

    def _proceed(self) -> None:
        try:
            head = self._heads.next()
            if head is None:
                self.receive(max(0.0, self._deadline - time.monotonic()))
                return
            request = self._parse(head)
            # Nobody wants the body of a request here. The connection ends instead of reading past it. One in chunks is
            # there even if it is empty, as h11 was given no byte of it: where its length is said besides, somebody on
            # the way may see another request begin than is seen here (RFC 9112, section 6.1).
            last = not isinstance(self._http.next_event(), h11.EndOfMessage)
        except Refused as refusal:
            self._respond(refuse(refusal.status), last=True)
        else:
            self._respond(self._answer(request), last=last, with_body=request.method != b"HEAD")

    def _parse(self, head: bytes) -> h11.Request:
        self._http.receive_data(head)
        try:
            request = self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise Refused(error.error_status_hint) from error
        if not isinstance(request, h11.Request):
            raise Refused(400)
        return request

    def _answer(self, request: h11.Request) -> Answer:
        if not request.http_version.startswith(b"1."):
            return refuse(505)
        headers = combine(request.headers)
        return answer(self._root, request.method.decode("ascii"), request.target.decode("latin-1"), headers)

    def _respond(self, answer: Answer, *, last: bool, with_body: bool = True) -> None:
        headers = {"Date": formatdate(usegmt=True), **answer.headers}
        if last or self.server.stopping:
            headers["Connection"] = "close"
        reason = HTTPStatus(answer.status).phrase.encode()
        response = h11.Response(status_code=answer.status, headers=list(headers.items()), reason=reason)
        head = self._http.send(response)
        self._body = answer.body
        if not with_body:
            self._drop_body()
        self._send(head + self._begin_body())

    def _begin_body(self) -> bytes:
        """What goes with the headers; the rest is what is left as the body."""
        body = self._body
        if isinstance(body, FileStream):
            return self._http.send(h11.Data(data=body.begin))
        if body:
            self._http.send_with_data_passthrough(h11.Data(data=body))  # type: ignore[arg-type] # it only counts
        self._http.send(h11.EndOfMessage())
        if isinstance(body, FileRange):
            return b""
        self._body = b""
        return body

    def _send(self, data: bytes | memoryview) -> None:
        self.send.buffer = data
        self.server.port.submit(self.send, STALL_SECONDS)

    def sent(self, send: unio.Send) -> None:
        if send.error is None:
            self._send_on()
        elif is_slow(send):
            self._send(memoryview(send.buffer)[send.transferred :])
        else:
            self.close()

    def _send_on(self) -> None:
        """Send what is left of the body, now that what was sent before has been taken."""
        if isinstance(self._body, FileRange) and self._body.count:
            self._send_file.file = self._body.file
            self._send_file.set_range(self._body.offset, self._body.count)
            self.server.port.submit(self._send_file, STALL_SECONDS)
        elif isinstance(self._body, FileStream):
            self._send_piece(self._body.file)
        else:
            self._responded()

    def _sent_file(self, send_file: unio.SendFile) -> None:
        part, sent = self._body, send_file.transferred
        assert isinstance(part, FileRange)
        self._body = FileRange(part.file, part.offset + sent, part.count - sent)
        if self._body.count == 0 or is_slow(send_file):
            self._send_on()
        else:  # the client is gone or takes nothing, or the file became shorter than was promised
            self.close()

    def _send_piece(self, file: FileIO) -> None:
        try:
            piece = file.read(PIECE_SIZE)
        except OSError:  # that this was not all shows in the end that is missing
            self.close()
            return
        if not piece:
            self._drop_body()
        data = self._http.send(h11.Data(data=piece) if piece else h11.EndOfMessage())
        if data:
            self._send(data)
        else:  # to HTTP/1.0 the end of the connection says that this was all
            self._responded()

    def _responded(self) -> None:
        self._drop_body()
        if self._http.our_state is self._http.their_state is h11.DONE and not self.server.stopping:
            self._http.start_next_cycle()
            self.start()
        else:
            self.finish()

    def _drop_body(self) -> None:
        if not isinstance(self._body, bytes):
            self._body.file.close()
        self._body = b""


def is_slow(operation: unio.Operation) -> bool:
    """Whether the client has taken something in the time for it, and only not all."""
    return isinstance(operation.error, TimeoutError) and operation.transferred > 0

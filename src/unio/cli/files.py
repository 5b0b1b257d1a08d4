"""``python -m unio serve files``: a directory over HTTP/1.1. The protocol is h11's, the bodies are SendFile's."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING

import h11

import unio
from unio.cli.answers import Answer, FileRange, answer, refuse
from unio.cli.connection import Connection

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from unio.cli.server import Server

HEAD_SIZE_MAX = 16 * 1024
"""How large a request's line and headers may be, in bytes."""

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
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_SIZE_MAX)
        self._deadline = 0.0
        self._range: FileRange | None = None
        self._send_file = unio.SendFile(self.handle, -1, state=self._sent_file)  # no file yet

    def start(self) -> None:
        self._deadline = time.monotonic() + REQUEST_SECONDS
        self._proceed()

    def close(self) -> None:
        super().close()
        self._close_file()

    def received(self, recv: unio.Recv) -> None:
        if recv.transferred:
            self._http.receive_data(bytes(self._received[: recv.transferred]))
            self._proceed()
        elif isinstance(recv.error, unio.Cancelled):  # the server is stopping
            self.finish()
        elif isinstance(recv.error, TimeoutError) and self._http.trailing_data[0]:
            self._respond(refuse(408), last=True)
        else:
            self.close()

    def _proceed(self) -> None:
        try:
            request = self._http.next_event()
            if request is h11.NEED_DATA:
                self.receive(max(0.0, self._deadline - time.monotonic()))
                return
            assert isinstance(request, h11.Request)
            has_body = not isinstance(self._http.next_event(), h11.EndOfMessage)
        except h11.RemoteProtocolError as error:
            self._respond(refuse(error.error_status_hint), last=True)
        else:
            # Nobody wants the body of a request here. The connection ends instead of reading past it.
            self._respond(self._answer(request), last=has_body, with_body=request.method != b"HEAD")

    def _answer(self, request: h11.Request) -> Answer:
        if not request.http_version.startswith(b"1."):
            return refuse(505)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        return answer(self._root, request.method.decode("ascii"), request.target.decode("latin-1"), headers)

    def _respond(self, answer: Answer, *, last: bool, with_body: bool = True) -> None:
        headers = {"Date": formatdate(usegmt=True), **answer.headers}
        if last or self.server.stopping:
            headers["Connection"] = "close"
        reason = HTTPStatus(answer.status).phrase.encode()
        response = h11.Response(status_code=answer.status, headers=list(headers.items()), reason=reason)
        buffers = [self._http.send(response)]
        if isinstance(answer.body, FileRange):
            self._range = answer.body
        elif with_body:
            buffers.append(answer.body)
        if with_body:
            self._http.send_with_data_passthrough(h11.Data(data=answer.body))  # type: ignore[arg-type] # it only counts
        else:
            self._close_file()
        self._http.send(h11.EndOfMessage())
        self.send.buffer = buffers
        self.server.port.submit(self.send, STALL_SECONDS)

    def sent(self, send: unio.Send) -> None:
        if send.error is not None:
            self.close()
        elif self._range is not None and self._range.count:
            self._send_range(self._range)
        else:
            self._responded()

    def _send_range(self, part: FileRange) -> None:
        self._range = part
        self._send_file.file = part.file
        self._send_file.set_range(part.offset, part.count)
        self.server.port.submit(self._send_file, STALL_SECONDS)

    def _sent_file(self, send_file: unio.SendFile) -> None:
        assert self._range is not None
        sent = send_file.transferred
        rest = FileRange(self._range.file, self._range.offset + sent, self._range.count - sent)
        if not rest.count:
            self._responded()
        elif sent and isinstance(send_file.error, TimeoutError):  # a slow client, but it is alive
            self._send_range(rest)
        else:  # the client is gone or takes nothing, or the file became shorter than was promised
            self.close()

    def _responded(self) -> None:
        self._close_file()
        if self._http.our_state is self._http.their_state is h11.DONE and not self.server.stopping:
            self._http.start_next_cycle()
            self.start()
        else:
            self.finish()

    def _close_file(self) -> None:
        if self._range is not None:
            self._range.file.close()
            self._range = None

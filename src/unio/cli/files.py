"""``python -m unio serve files``: a directory over HTTP/1.1. The protocol is h11's, the bodies are SendFile's."""

from __future__ import annotations

import errno
import os
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
    from pathlib import Path

    from unio.cli.server import Server

REQUEST_SECONDS = 30.0
"""How long a client may take to send a request, counted from when it may begin to; so also how long it may idle."""

STALL_SECONDS = 120.0
"""How long a client may take nothing of its response. Progress shows in leaps: a full socket counts as writable again
only when a good part of its buffer, several megabytes on a fast network, has left."""


SMALL = 16 * 1024
"""Up to so many bytes of a file are copied through the program, since a send of their own costs more."""


class FilesConnection(Connection):
    """Takes one request at a time; what a client sends ahead waits in a bounded buffer and then in TCP's."""

    def __init__(self, root: Path, server: Server, client: socket.socket) -> None:
        super().__init__(server, client, STALL_SECONDS)
        self._root = root
        self._heads = Heads()
        self._http = h11.Connection(h11.SERVER)

    async def serve(self) -> None:
        while not self.server.stopping:
            last = True
            try:
                head = await self._head()
                if head is None:
                    return
                request = self._parse(head)
                # Nobody wants the body of a request here. The connection ends instead of reading past it. One in chunks
                # is there even if it is empty, as h11 was given no byte of it: where its length is said besides,
                # somebody on the way may see another request begin than is seen here (RFC 9112, section 6.1).
                last = not isinstance(self._http.next_event(), h11.EndOfMessage)
            except Refused as refusal:
                await self._respond(refuse(refusal.status), last=True)
            else:
                await self._respond(self._answer(request), last=last, with_body=request.method != b"HEAD")
            if not self._http.our_state is self._http.their_state is h11.DONE:
                return
            self._http.start_next_cycle()

    async def _head(self) -> bytes | None:
        """The next request's; None once there is no other."""
        deadline = time.monotonic() + REQUEST_SECONDS
        while (head := self._heads.next()) is None:
            left = max(0.0, deadline - time.monotonic())
            try:
                piece = await self.hear(self.stream.read_some(PIECE_SIZE, timeout=left))
            except TimeoutError as error:
                if self._heads:
                    raise Refused(408) from error
                return None
            if not piece:
                return None
            self._heads.add(piece)
        return head

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

    async def _respond(self, answer: Answer, *, last: bool, with_body: bool = True) -> None:
        try:
            head = self._begin(answer, last=last)
            await self._send(head, answer.body if with_body else b"")
        finally:
            if not isinstance(answer.body, bytes):
                answer.body.file.close()

    def _begin(self, answer: Answer, *, last: bool) -> bytes:
        headers = {"Date": formatdate(usegmt=True), **answer.headers}
        if last or self.server.stopping:
            headers["Connection"] = "close"
        reason = HTTPStatus(answer.status).phrase.encode()
        return self._http.send(h11.Response(status_code=answer.status, headers=list(headers.items()), reason=reason))

    async def _send(self, head: bytes, body: bytes | FileRange | FileStream) -> None:
        if isinstance(body, FileStream):
            await self._send_stream(head, body)
            return
        if body:
            self._http.send_with_data_passthrough(h11.Data(data=body))  # type: ignore[arg-type] # it only counts
        self._http.send(h11.EndOfMessage())
        if isinstance(body, FileRange) and body.count <= SMALL and (content := content_of(body)) is not None:
            body = content
        if isinstance(body, FileRange):
            await self.stream.write(head)
            await (self._send_file if self.stream.tls is None else self._send_encrypted)(body)
        else:
            await self.stream.write(head + body)

    async def _send_file(self, part: FileRange) -> None:
        send = unio.SendFile(self.stream.handle, part.file)
        begin, end = part.offset, part.offset + part.count
        while begin < end:
            send.set_range(begin, end - begin)
            try:
                await send.within(STALL_SECONDS)
            except TimeoutError:
                if not send.transferred:
                    raise
            begin += checked(send.transferred)

    async def _send_encrypted(self, part: FileRange) -> None:
        handle = self.server.port.associate(part.file)
        buffer = memoryview(bytearray(min(PIECE_SIZE, part.count)))
        read = unio.Read(handle, buffer, part.offset)
        end = part.offset + part.count
        while read.offset < end:
            size = checked((await read).transferred)
            await self.stream.write(buffer[: min(size, end - read.offset)])
            read.offset += size

    async def _send_stream(self, head: bytes, body: FileStream) -> None:
        await self.stream.write(head + self._http.send(h11.Data(data=body.begin)))
        while piece := body.file.read(PIECE_SIZE):  # an error ends the connection: the end that is missing says so
            await self.stream.write(self._http.send(h11.Data(data=piece)))
        await self.stream.write(self._http.send(h11.EndOfMessage()))


def content_of(part: FileRange) -> bytes | None:
    """What is to be sent of a small file, with its head in one go; None where that takes an operation."""
    if not hasattr(os, "pread"):
        return None
    content = os.pread(part.file.fileno(), part.count, part.offset)
    return content if len(content) == part.count else None


def checked(size: int) -> int:
    """How many bytes of a file there were: some, unless it has become shorter than was promised."""
    if not size:
        raise OSError(errno.EIO, "the file became shorter")
    return size

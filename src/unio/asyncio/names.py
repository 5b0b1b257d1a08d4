"""Names: addresses that are numbers are known at once, all others are looked up by the port.

A lookup is an operation, so that a task which waits for one can be cancelled, and a name server that does not answer
keeps nobody's executor busy.
"""

from __future__ import annotations

import socket
from asyncio.log import logger
from typing import Any

from unio.asyncio.bridge import Bridge
from unio.names import Resolve

NUMERIC = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
"""Flags of getnameinfo(3) with which no server is asked."""


class Names(Bridge):
    """A loop that looks names up."""

    async def getaddrinfo(
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - as asyncio has it
        proto: int = 0,
        flags: int = 0,
    ) -> list[tuple[Any, ...]]:
        try:
            lookup = Resolve(host, port, family=family, type=type, proto=proto, flags=flags)
        except (TypeError, ValueError):  # which the function of the standard library says in its own words
            return await super().getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)
        began = self.time()
        try:
            await self.complete(lookup)
        except socket.gaierror as error:  # the port's says which name was not found
            raise socket.gaierror(error.errno, (error.strerror or "").partition(": (")[0]) from None
        if self._debug and (took := self.time() - began) >= self.slow_callback_duration:
            logger.info("Getting address info %s:%r took %.3f seconds", host, port, took)
        return lookup.addresses

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        if flags & NUMERIC == NUMERIC:
            return socket.getnameinfo(sockaddr, flags)
        return await super().getnameinfo(sockaddr, flags)

"""Pairs of connected streams, plain ones and ones in TLS."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest
from running import Streams, shake_hands

import unio

PLAIN, LOCAL, TLS_1_2, TLS_1_3 = "TCP", "local", ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.fixture(params=[PLAIN, LOCAL, TLS_1_2, TLS_1_3], ids=str)
def make_streams(request: pytest.FixtureRequest, port: unio.Port, make_pair: Callable[..., tuple]) -> Streams:
    """Makes pairs of connected streams, a client's and a server's; keyword arguments are those of the client's."""

    def make(**options: float) -> tuple[unio.Stream, unio.Stream]:
        near, far = make_pair(local=request.param == LOCAL)
        client, server = unio.Stream(port, near, **options), unio.Stream(port, far)  # type: ignore[arg-type]
        if isinstance(request.param, ssl.TLSVersion):
            shake_hands(client, server, request.param)
        return client, server

    return make


@pytest.fixture
def streams(make_streams: Streams) -> tuple[unio.Stream, unio.Stream]:
    """A client's stream and a server's, connected with each other."""
    return make_streams()

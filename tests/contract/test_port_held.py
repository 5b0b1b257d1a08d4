"""The clauses P of the contract: who calls a port holds it."""

from __future__ import annotations

import contextlib
import gc
import socket
import weakref
from typing import Any

import pytest
from descriptors import open_descriptors
from support import PATIENCE, Background, asleep

import unio


@pytest.mark.clause("P8")
def test_a_method_alone_keeps_its_port(backend: str) -> None:
    post = unio.Port(backend=backend).post
    gc.collect()
    post("key", "operation", 7)
    port: unio.Port = post.__self__  # type: ignore[attr-defined]
    assert port.wait(0) == [("key", "operation", 7, None)]
    for name in ("associate", "cancel", "close", "start_gathered", "submit", "wait"):
        method = getattr(unio.Port(backend=backend), name)
        gc.collect()
        assert not method.__self__.closed
        method.__self__.close()
    port.close()


@pytest.mark.process_wide
@pytest.mark.clause("P11", "S1")
def test_a_port_whose_last_reference_goes_within_a_wait_lives_until_it_returns(
    backend: str, resources: contextlib.ExitStack
) -> None:
    before = set(open_descriptors())
    near, far = (resources.enter_context(each) for each in socket.socketpair())
    far.settimeout(PATIENCE)
    ports = [unio.Port(backend=backend)]
    known = weakref.ref(ports[0])
    recv: Any = unio.Recv(ports[0].associate(near), bytearray(5))
    ports[0].submit(recv)
    waiter = Background(lambda: ports.pop().wait())
    asleep(waiter)
    gc.collect()
    assert known() is not None, "the thread that waits holds it"
    far.send(b"hello")
    [(_, operation, transferred, error)] = waiter.result()
    assert (operation, transferred, error, bytes(recv.buffer)) == (recv, 5, None, b"hello")
    del waiter, operation
    gc.collect()
    assert known() is None
    left = set(open_descriptors()) - before  # where the system lists them
    assert left <= {near.fileno(), far.fileno()}, "its own descriptors go with it"

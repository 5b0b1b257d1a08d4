"""Addresses: what is accepted where it is given works where it is used, in one form; what is wrong says what to do."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import Any

import channels
import pytest
import support
from platforms import needs_af_unix, needs_names_of_bytes

import unio

LINUX = sys.platform == "linux"
PATH_MAX = 107 if LINUX else 103
"""The longest path of a local socket, in bytes."""


class PathOf:
    """A path-like object of any path."""

    def __init__(self, path: Any) -> None:
        self.path = path

    def __fspath__(self) -> Any:
        return self.path


FORMS: dict[str, Any] = {
    "str": lambda path: path,
    "bytes": os.fsencode,
    "Path": Path,
    "path-like of bytes": lambda path: PathOf(os.fsencode(path)),
}

every_form = pytest.mark.parametrize("form", FORMS)


def names(resources: contextlib.ExitStack) -> list[str]:
    """Names of local sockets of every kind that this system has, the first of which are paths."""
    made = [channels.path(resources, "plain"), channels.path(resources, "with spaces and ü")]
    directory = os.path.dirname(channels.path(resources, "long"))
    made.append(f"{directory}/{'n' * (PATH_MAX - len(directory) - 1)}")
    if LINUX:  # names of files are bytes there, and a name may be no file's at all
        name = f"\0unio-{os.getpid()}-{id(resources)}"
        made += [channels.path(resources, "\udcff"), name, f"{name:n<{PATH_MAX + 1}}", f"{name}\0zero"]
    return made


@pytest.mark.clause("O2")
@needs_af_unix
@every_form
def test_a_local_address_may_be_text_bytes_or_a_path(
    port: unio.Port, resources: contextlib.ExitStack, form: str
) -> None:
    for name in names(resources):
        listening = resources.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(os.fsencode(name))
        listening.listen()
        client = resources.enter_context(socket.socket(socket.AF_UNIX))
        connect = unio.Connect(port.associate(client), FORMS[form](name))
        assert connect.address in (name, os.fsencode(name))
        support.succeed(port, connect)
        assert client.getpeername() == listening.getsockname()


@pytest.mark.clause("O7")
@needs_af_unix
@every_form
def test_so_may_that_of_a_datagram(port: unio.Port, resources: contextlib.ExitStack, form: str) -> None:
    sender = port.associate(resources.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)))
    for name in names(resources):
        receiver = resources.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        receiver.settimeout(support.PATIENCE)
        receiver.bind(os.fsencode(name))
        support.succeed(port, unio.SendTo(sender, b"hello", FORMS[form](name)))
        assert receiver.recv(100) == b"hello"


@pytest.mark.clause("O2", "S3")
@needs_af_unix
@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ("", "is empty"),
        (b"", "is empty"),
        ("/tmp/one\0/tmp/two", "zero byte"),
        (b"/tmp/one\0/tmp/two", "zero byte"),
        ("/" + "n" * PATH_MAX, f"at most {PATH_MAX} bytes"),
        (PathOf("/" + "n" * PATH_MAX), f"at most {PATH_MAX} bytes"),
        ("/" + "ü" * (PATH_MAX // 2 + 1), f"at most {PATH_MAX} bytes"),
        pytest.param("\0" + "n" * 108, "at most 108 bytes", marks=pytest.mark.skipif(not LINUX, reason="needs Linux")),
        pytest.param("\ud800", "no path has", marks=needs_names_of_bytes),
    ],
)
def test_a_path_that_no_local_socket_has_is_refused_where_it_is_given(
    port: unio.Port, resources: contextlib.ExitStack, wrong: Any, what: str
) -> None:
    stream = port.associate(resources.enter_context(socket.socket(socket.AF_UNIX)))
    datagrams = port.associate(resources.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)))
    connect, send = unio.Connect(stream, "/nowhere"), unio.SendTo(datagrams, b"x", "/nowhere")
    for operation in (connect, send):
        with pytest.raises(ValueError, match=what):
            operation.address = wrong
        assert operation.address == "/nowhere"
    for no_path in (None, 5, ("/nowhere",), bytearray(b"/nowhere"), PathOf(None), PathOf(5)):
        with pytest.raises(TypeError):
            connect.address = no_path


@pytest.mark.clause("O2", "S3")
@pytest.mark.parametrize("transport", ["tcp", "tcp6"])
@pytest.mark.parametrize(
    ("wrong", "error", "what"),
    [
        (("{own}", "80"), TypeError, r"the port number must be an int, not str"),
        (("{own}", None), TypeError, r"the port number must be an int, not NoneType"),
        (("{own}", True), TypeError, r"the port number must be an int, not bool"),
        (("{own}", 80.0), TypeError, r"the port number must be an int, not float"),
        (("{own}", 65536), ValueError, r"the port number must be between 0 and 65535, not 65536"),
        ((b"::1", 80), TypeError, r"the host .* must be a str, not bytes"),
        ((None, 80), TypeError, r"the host .* must be a str, not NoneType"),
        (["{own}", 80], TypeError, r"is a tuple \(host, port.*\), not <list>"),
        (("{own}",), TypeError, r"is a tuple \(host, port"),
        (("{own}", 80, 0, 0, 0), TypeError, r"is a tuple \(host, port"),
        ("{own}:80", TypeError, r"is a tuple \(host, port.*\), not '.*:80'"),
        (("localhost", 80), ValueError, r"'localhost' is no numeric address of {family} .*; resolve names first"),
        (("{own}\0", 80), ValueError, r"is no numeric address"),
        (("{other}", 80), ValueError, r"is a numeric address of {other family}, and the socket is one of {family}$"),
    ],
)
def test_an_address_that_is_none_is_refused_with_what_is_wrong_in_it(
    port: unio.Port,
    resources: contextlib.ExitStack,
    transport: str,
    wrong: Any,
    error: type[Exception],
    what: str,
) -> None:
    words = {"own": "127.0.0.1", "other": "::1", "family": "AF_INET", "other family": "AF_INET6"}
    if transport == "tcp6":
        words = {"own": "::1", "other": "127.0.0.1", "family": "AF_INET6", "other family": "AF_INET"}

    def filled(part: Any) -> Any:
        for word, meant in words.items():
            part = part.replace(f"{{{word}}}", meant) if isinstance(part, str) else part
        return part

    given = type(wrong)(map(filled, wrong)) if isinstance(wrong, (list, tuple)) else filled(wrong)
    handle = port.associate(channels.client(resources, transport))
    with pytest.raises(error, match=filled(what)):
        unio.Connect(handle, given)


@pytest.mark.clause("O2")
def test_the_parts_of_an_ipv6_address_after_the_port_may_be_left_out(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    listening = channels.listener(resources, "tcp6")
    host, number, *_ = listening.getsockname()
    for rest in ((), (0,), (0, 0)):
        client = channels.client(resources, "tcp6")
        support.succeed(port, unio.Connect(port.associate(client), (host, number, *rest)))
        assert client.getpeername() == listening.getsockname()
    handle = port.associate(channels.client(resources, "tcp6"))
    wrong: Any
    for wrong in ((2**20,), (-1,), (0, 2**32), (0, -1), (10**400, 0)):
        with pytest.raises(ValueError, match="must be between 0 and"):
            unio.Connect(handle, (host, number, *wrong))
    for wrong in (("0",), (0, "lo"), (0, None), (True,)):
        with pytest.raises(TypeError, match="must be an int"):
            unio.Connect(handle, (host, number, *wrong))


@pytest.mark.clause("O2", "O7")
def test_a_zone_in_an_ipv6_address_is_its_scope_in_the_system_s_form(
    port: unio.Port, resources: contextlib.ExitStack
) -> None:
    connect = unio.Connect(port.associate(channels.client(resources, "tcp6")), ("fe80::1%7", 80))
    assert connect.address == ("fe80::1", 80, 0, 7)
    connect.address = ("fe80::1%7", 80, 5)
    assert connect.address == ("fe80::1", 80, 5, 7)
    connect.address = ("fe80::1%7", 80, 5, 3)  # what is said last is what counts
    assert connect.address == ("fe80::1", 80, 5, 3)
    for nowhere in ("fe80::1%no such interface", "127.0.0.1%7", "%7", "fe80::1%"):
        with pytest.raises(ValueError, match="is no numeric address"):
            connect.address = (nowhere, 80)

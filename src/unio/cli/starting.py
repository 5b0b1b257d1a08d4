"""How a server starts, and what keeps it from that."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import unio
from unio.cli.doctor import describe, wrapped
from unio.cli.output import Problem, complain, write
from unio.cli.resources import real
from unio.cli.server import Connect, Server, listen, stop_on_signals

if TYPE_CHECKING:
    import argparse
    import ssl
    from collections.abc import Iterator


def serve(options: argparse.Namespace, connect: Connect) -> int:
    """Listen, say where, and serve until a signal ends it."""
    context = secured(*options.tls) if options.tls else None
    with about_to(f"listen on {options.host} port {options.port}"):
        listener = listen(options.host, options.port)
    with listener, make_port(options.backend) as port:
        with about_to("serve"):
            server = Server(port, listener, connect, options.grace, context)
            stop_on_signals(server)
        server.run(options.threads, lambda: say(f"listening on {server.address} ({port.backend})\n"))
    return 0


def readable_directory(path: str) -> Path:
    with about_to(f"serve {path!r}"):
        directory = real(path)
        if not directory.is_dir():
            raise Problem(f"{path!r} is not a directory")
        # The dot, which pathlib drops, makes it take both rights: to list the directory and to enter it.
        os.scandir(os.path.join(directory, os.curdir)).close()  # noqa: PTH118 - as said
    return directory


def secured(certificate: str, key: str) -> ssl.SSLContext:
    """What a server needs for TLS."""
    import ssl  # noqa: PLC0415 - who doesn't want it need not have it

    for path in (certificate, key):
        with about_to(f"read {path!r}"):
            Path(path).read_bytes()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=no_password)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise Problem(f"{certificate!r} and {key!r} are no certificate and its key, in PEM: {reason}") from error
    return context


def no_password() -> NoReturn:
    raise ValueError("the key is encrypted")  # nobody is asked for the password: a server may have nobody to ask


def make_port(backend: str | None) -> unio.Port:
    try:
        with about_to("make a port"):
            return unio.Port(backend=backend)
    except unio.BackendUnavailable as error:
        variable = unio.backends.VARIABLE
        source, name = ("--backend", backend) if backend is not None else (variable, os.environ.get(variable) or None)
        what = "no backend can be had" if name is None else f"the backend {name!r}, named by {source}, can't be had"
        known = [wrapped(describe(each), "  ") for each in unio.backends.candidates()]
        raise Problem("\n".join([f"{what} here; there are:", *known])) from error


def say(line: str) -> None:
    """Write to standard output, or else to standard error, and go on without either."""
    try:
        write(line)
    except Problem:
        complain(line)


@contextlib.contextmanager
def about_to(do: str) -> Iterator[None]:
    """Make what the system says of it a problem of the command's."""
    try:
        yield
    except (OSError, UnicodeError, ImportError) as error:
        raise Problem(f"can't {do}: {why(error)}") from error


def why(error: OSError | UnicodeError | ImportError) -> str:
    if isinstance(error, UnicodeError):
        return "that can't be the name of a host"
    if isinstance(error, ImportError):  # of a library that a backend takes, which is there and doesn't fit
        return str(error)
    if error.errno == errno.EADDRINUSE:  # Windows says it in a sentence from which few would see what to do
        return "the address is in use"
    if isinstance(error, socket.gaierror) or getattr(error, "winerror", None):  # their numbers are of another kind
        return str(error.strerror)
    return os.strerror(error.errno or 0)  # the error's own words may be the call that failed

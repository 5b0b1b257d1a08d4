"""The command line: ``doctor`` says what a port finds on this machine, ``serve`` runs a small server on one."""

from __future__ import annotations

import argparse
import errno
import functools
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import unio
from unio.cli.doctor import doctor
from unio.cli.server import Connect, Server, listen, stopping_on_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROGRAM = "python -m unio"

EXIT_USAGE = 2
"""The exit status when the command can't start and its user has to change something; argparse uses the same."""

THREADS_MAX = 1024
"""A slip of the finger should get a message and not a machine out of memory."""


class Problem(Exception):
    """Why the command can't start, said in one line."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message} (--help explains)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except (Problem, unio.BackendUnavailable) as problem:
        sys.stderr.write(f"{PROGRAM}: {problem}\n")
        return EXIT_USAGE
    return status


def parser() -> Parser:
    whole = Parser(prog=PROGRAM, description="Look at unio on this machine, or serve with it.")
    whole.add_argument("--version", action="version", version=f"unio {unio.__version__}")
    commands = whole.add_subparsers(metavar="COMMAND", required=True)

    checks = commands.add_parser("doctor", help="say which backend a port gets here, and why")
    checks.add_argument("--json", action="store_true", help="print one JSON object")
    checks.set_defaults(run=lambda options: doctor(as_json=options.json))

    servers = commands.add_parser("serve", help="run a server").add_subparsers(metavar="SERVER", required=True)
    echo = servers.add_parser("echo", help="send back what each client sends")
    echo.set_defaults(run=serve_echo)
    files = servers.add_parser("files", help="serve a directory over HTTP/1.1 (needs the extra: unio[http])")
    files.add_argument("directory", metavar="DIR", help="the directory to serve")
    files.set_defaults(run=serve_files)
    for server in (echo, files):
        server.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
        server.add_argument("--port", type=number(0, 65535), default=8000, help="0 picks a free one (%(default)s)")
        server.add_argument("--backend", metavar="NAME", help="the backend of the port (the first one available)")
        server.add_argument("--threads", type=number(1, THREADS_MAX), default=1, metavar="N", help="(%(default)s)")
        server.add_argument(
            "--grace", type=seconds, default=5.0, metavar="SECONDS", help="how long the end may take (%(default)s)"
        )
    return whole


def number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number between {least} and {most}")
        return int(text)

    return parse


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def serve_echo(options: argparse.Namespace) -> int:
    from unio.cli.echo import EchoConnection  # noqa: PLC0415 - each server loads only what it needs

    return serve(options, EchoConnection)


def serve_files(options: argparse.Namespace) -> int:
    try:
        from unio.cli.files import FilesConnection  # noqa: PLC0415 - the only part that needs the extra
    except ModuleNotFoundError as error:
        if error.name != "h11":
            raise
        raise Problem("serve files speaks HTTP through h11, which is not here: pip install unio[http]") from error
    return serve(options, functools.partial(FilesConnection, real_directory(options.directory)))


def real_directory(path: str) -> Path:
    try:
        directory = Path(os.path.realpath(path, strict=True))
        if not directory.is_dir():
            raise Problem(f"{path!r} is not a directory")
    except OSError as error:
        raise Problem(f"can't serve {path!r}: {error.strerror}") from error
    return directory


def why(error: OSError | UnicodeError) -> str | None:
    """Why it can't listen."""
    if isinstance(error, UnicodeError):
        return "that can't be the name of a host"
    if error.errno == errno.EADDRINUSE:  # Windows says it in a sentence from which few would see what to do
        return "the address is in use"
    return error.strerror


def serve(options: argparse.Namespace, connect: Connect) -> int:
    """Listen, say where, and serve until a signal ends it."""
    try:
        listener = listen(options.host, options.port)
    except (OSError, UnicodeError) as error:
        raise Problem(f"can't listen on {options.host} port {options.port}: {why(error)}") from error
    with listener, unio.Port(backend=options.backend) as port:
        server = Server(port, listener, connect, options.grace)
        with stopping_on_signals(port):
            sys.stdout.write(f"listening on {server.address} ({port.backend})\n")
            sys.stdout.flush()
            server.run(options.threads)
    return 0

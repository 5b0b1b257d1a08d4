"""The command line: ``doctor`` says what a port finds on this machine, ``serve`` runs a small server on one."""

from __future__ import annotations

import argparse
import functools
import math
from typing import TYPE_CHECKING, NoReturn

import unio
from unio.cli.doctor import doctor
from unio.cli.output import Problem, complain, drop_unwritten, occupy_closed, write
from unio.cli.starting import readable_directory, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROGRAM = "python -m unio"

EXIT_PROBLEM = 2
"""The exit status when the command can't do what it is for and its user has to change something; argparse uses the
same."""

THREADS_MAX = 1024
"""A slip of the finger should get a message and not a machine out of memory."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        raise Problem(f"{message} ({self.prog} --help explains)")

    def _print_message(self, message: str, file: object = None) -> None:  # noqa: ARG002 - there is but one for the help
        write(message)  # argparse itself keeps silent of what it can't print


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    occupy_closed()
    try:
        return run(arguments)
    except Problem as problem:
        complain(f"{PROGRAM}: {problem}\n")
        return EXIT_PROBLEM
    finally:
        drop_unwritten()


def run(arguments: Sequence[str] | None) -> int:
    try:
        options = parser().parse_args(arguments)
    except SystemExit:  # it has printed the help or the version
        return 0
    status: int = options.run(options)
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
        server.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), help="encrypt; both are files in PEM")
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
    return serve(options, functools.partial(FilesConnection, readable_directory(options.directory)))

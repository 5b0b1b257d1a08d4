"""Real servers, for the suites that need one: on loopback, with data of their own, ended when the suite is over."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PATIENCE_SECONDS = 60.0
TICK_SECONDS = 0.05


class NotInstalledError(Exception):
    """The server is no part of this machine; the message says which package has it."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def started(command: Sequence[str], folder: str, port: int) -> Iterator[None]:
    """Run a server until the block is left; it is entered as soon as the server accepts connections."""
    with (Path(folder) / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + PATIENCE_SECONDS
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > until:
                        raise RuntimeError(f"no server: {Path(log.name).read_text(errors='replace')}") from None
                    time.sleep(TICK_SECONDS)
            yield
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def redis() -> Iterator[int]:
    """A Redis, whose port it gives."""
    program = shutil.which("redis-server")
    if program is None:
        raise NotInstalledError("there is no redis-server: Debian's package redis-server has it")
    with tempfile.TemporaryDirectory(prefix="unio-judges-redis-") as folder:
        port = free_port()
        options = {"port": str(port), "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": folder}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        with started([program, *words, "--enable-debug-command", "yes"], folder, port):
            yield port


@contextlib.contextmanager
def postgres() -> Iterator[dict[str, str]]:
    """A PostgreSQL, as the environment in which its clients find it. Root may not run it, and its own user does."""
    programs = [path for path in (shutil.which("postgres"), *glob.glob("/usr/lib/postgresql/*/bin/postgres")) if path]
    if not programs:
        raise NotInstalledError("there is no postgres: Debian's package postgresql has it")
    folder = Path(programs[-1]).parent
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="unio-judges-postgres-") as work:
        if user:
            shutil.chown(work, "postgres", "postgres")
        data = str(Path(work) / "data")
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        initialize = [*user, str(folder / "initdb"), *options, "--pgdata", data]
        subprocess.run(initialize, cwd=work, check=True, stdout=subprocess.DEVNULL)
        port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": work,
            "fsync": "off",
            "max_connections": "200",
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with started([*user, str(folder / "postgres"), "-D", data, *words], work, port):
            yield {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres", "PGDATABASE": "postgres"}

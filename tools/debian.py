"""What the tools that build something from Debian have in common."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path
from typing import IO


class BuildError(Exception):
    """What was wanted can't be had here; the message says why."""


def user_cache(name: str) -> Path:
    """The folder of the user's own where such a tool keeps what it has built."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unio" / name


def mirror() -> str:
    """The address that apt gets Debian from on this machine."""
    fields = "$(ORIGIN) $(COMPONENT) $(CODENAME) $(REPO_URI)"
    listing = ["apt-get", "indextargets", "--format", fields]
    for line in subprocess.run(listing, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines():
        origin, component, codename, address = line.split(" ", 3)
        if origin == "Debian" and component == "main" and "-" not in codename:
            return address
    raise BuildError("apt gets no release of Debian on this machine, and this is made from Debian")


def call(
    command: list[str], log: IO[bytes], environment: dict[str, str] | None = None, cwd: Path | None = None
) -> None:
    """Run a command whose output goes to a log."""
    variables = os.environ | {"DEBIAN_FRONTEND": "noninteractive"} | (environment or {})
    subprocess.run(command, check=True, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd)


def install(packages: tuple[str, ...], log: IO[bytes]) -> None:
    """Install packages on this machine, which needs root; of several tools that do so, one after the other."""
    lock = user_cache("install.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        call(["apt-get", "update"], log)
        call(["apt-get", "install", "--yes", "--no-install-recommends", *packages], log)


def tail(log: Path) -> str:
    """The end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])

#!/usr/bin/env python3
"""Build CPython without the GIL from Debian's source package, and print the path of the interpreter.

It is built once and kept in the user's cache, in a folder that is named after what it was made from. What is there is
used again if it still works. The source comes through apt, which checks it, from the mirror that apt uses on this
machine; of the release that has it, only the list of sources is fetched, into a folder of this tool's own. Of the
machine nothing is changed but that the packages are installed that it takes to compile it, which needs root.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from debian import BuildError, call, mirror, tail, user_cache

PACKAGE = "python3.13"
SUITE = "trixie"  # the oldest release of Debian that has it
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

NEEDED = (
    "build-essential",
    "debian-archive-keyring",
    "dpkg-dev",
    "libffi-dev",
    "libssl-dev",
    "pkg-config",
    "zlib1g-dev",
)

# Not the optimized build, which runs CPython's tests to see what to optimize: this one is there in minutes.
CONFIGURE = ("--disable-gil", "--disable-test-modules", "--without-ensurepip", "--quiet", "OPT=-DNDEBUG -O2")

# Debian's change of where packages are installed doesn't know of the "t" in the name of a virtual environment's folder.
SITECUSTOMIZE = """\
import site, sysconfig
site.addsitedir(sysconfig.get_path("purelib"))
"""

WORKS = "import ctypes, ssl, sys, venv, zlib; sys.exit(sys._is_gil_enabled())"


def identity() -> str:
    """What the interpreter is made from, as a short name."""
    recipe = "\0".join((PACKAGE, SUITE, *CONFIGURE, SITECUSTOMIZE))
    return f"{PACKAGE}t-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def works(python: Path) -> bool:
    """Whether there is an interpreter, it has the modules that it was built for, and no GIL."""
    return python.exists() and subprocess.run([python, "-c", WORKS], check=False).returncode == 0


def install_needed(log: IO[bytes]) -> None:
    """Install what it takes to compile, as far as it isn't there."""
    state = ["dpkg-query", "--show", "--showformat", "${db:Status-Status}\\n", *NEEDED]
    states = subprocess.run(state, stdout=subprocess.PIPE, stderr=log, check=False, text=True).stdout.split()
    if states.count("installed") == len(NEEDED):
        return
    if os.geteuid() != 0:
        raise BuildError(f"only root can install what it takes to compile CPython: {', '.join(NEEDED)}")
    call(["apt-get", "update"], log)
    call(["apt-get", "install", "--yes", "--no-install-recommends", *NEEDED], log)


def fetch_source(folder: Path, log: IO[bytes]) -> Path:
    """Fetch the source package, with Debian's patches applied, and return where it is."""
    (folder / "sources.list").write_text(f"deb-src [signed-by={KEYRING}] {mirror()} {SUITE} main\n")
    for needed in ("lists/partial", "cache/archives/partial", "source"):
        (folder / needed).mkdir(parents=True)
    places = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",  # the sandbox's user can't see this folder
    }
    apt = ["apt-get", *(f"--option={name}={place}" for name, place in places.items())]
    call([*apt, "update"], log)
    call([*apt, "source", PACKAGE], log, cwd=folder / "source")
    [source] = (path for path in (folder / "source").iterdir() if path.is_dir())
    return source


def compile_source(source: Path, folder: Path, log: IO[bytes]) -> None:
    """Compile it, with all processors, and install it in the folder."""
    made = source / "made"
    made.mkdir()
    call(["../configure", f"--prefix={folder}", *CONFIGURE], log, cwd=made)
    call(["make", "--silent", f"--jobs={os.cpu_count()}"], log, cwd=made)
    call(["make", "--silent", "install", f"DESTDIR={source / 'installed'}"], log, cwd=made)
    installed = Path(f"{source / 'installed'}{folder}")
    (installed / "lib" / f"{PACKAGE}t" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    shutil.move(installed, folder)


def build(folder: Path) -> Path:
    """The interpreter, built if it isn't there; of several that want it, one builds it."""
    python = folder / "bin" / f"{PACKAGE}t"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{PACKAGE}t.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if works(python):
            return python
        shutil.rmtree(folder, ignore_errors=True)
        log = folder.parent / f"{PACKAGE}t.log"
        print(f"freethreaded.py: building {python}; {log} tells how it goes", file=sys.stderr, flush=True)
        try:
            with log.open("wb") as output, tempfile.TemporaryDirectory() as name:
                install_needed(output)
                compile_source(fetch_source(Path(name), output), folder, output)
        except subprocess.CalledProcessError as error:
            raise BuildError(f"{error}; the end of {log}:\n{tail(log)}") from error
        if not works(python):
            raise BuildError(f"{python} was built and doesn't work; {log} may tell why")
    return python


def main() -> None:
    if not shutil.which("apt-get"):
        sys.exit("freethreaded.py: it takes Debian's source package, and this machine has no apt-get")
    try:
        print(build(user_cache("freethreaded") / identity()))
    except BuildError as error:
        sys.exit(f"freethreaded.py: {error}")


if __name__ == "__main__":
    main()

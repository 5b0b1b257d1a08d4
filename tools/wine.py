#!/usr/bin/env python3
r"""Run Windows' CPython on Linux, under Wine, on this checkout: ``tools/wine.py run -- python.exe -m pytest``.

The first run builds an environment, which later runs share: a Debian system of its own that holds Wine, made with
debootstrap from the mirror that apt uses on this machine, with the official Windows CPython and the packages of
wine-requirements.txt in it. It needs a Debian machine and root, and changes nothing of the machine but to install
debootstrap. The environment is named after what it was made from, so a change makes another one.

A run sees the environment with a layer in memory above it, which takes what the run writes and is dropped at its end,
and the checkout itself as Z:\unio, where it starts. Mounts and processes are in namespaces of the run's own: however it
ends, even by a kill, the kernel ends its processes and takes its mounts away, and runs in parallel don't meet but on
the network, which is the machine's.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import inspect
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from pathlib import Path
from typing import IO, NoReturn

from debian import BuildError, call, install, mirror, tail, user_cache

CHECKOUT = Path(__file__).resolve().parent.parent
REQUIREMENTS = CHECKOUT / "tools" / "wine-requirements.txt"
CACHE = user_cache("wine")

# Each version of Wine that the tests are run on, the preferred one first, and the release of Debian that has it.
SUITES = {"10": "trixie", "8": "bookworm"}

# The variables of the caller's that a command is given.
PASSED = ("CI", "HYPOTHESIS_", "PYTEST_", "PYTHON", "UNIO_")

ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PYTHONPYCACHEPREFIX": r"C:\pycache",  # the checkout's own __pycache__ is Linux's Python's
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "WINEARCH": "win64",
    "WINEDEBUG": "-all",
    # No .NET, no browser, no menus; and a crash ends the process, not a debugger that waits for someone to look.
    "WINEDLLOVERRIDES": "mscoree=;mshtml=;winemenubuilder.exe=d;winedbg.exe=d",
    "WINEPATH": r"Z:\python",
    "WINEPREFIX": "/prefix",
    "XDG_RUNTIME_DIR": "/tmp",  # noqa: S108 - the environment's own
}

# $1 the new system's folder, $2 the release of Debian, $3 its mirror
INSTALL = r"""
debootstrap --variant=minbase --keyring=/usr/share/keyrings/debian-archive-keyring.gpg "$2" "$1" "$3"
mount -t proc proc "$1/proc"
chroot "$1" apt-get install --quiet --yes --no-install-recommends wine wine64
chroot "$1" apt-get clean
rm -r "$1"/var/lib/apt/lists/*
echo '127.0.0.1 localhost' >"$1/etc/hosts"
echo '::1 localhost' >>"$1/etc/hosts"
mkdir "$1/unio"
chroot "$1" wine wineboot --init
chroot "$1" wine winecfg -v win10
chroot "$1" wineserver --wait
"""

# $1 the environment's folder, $2 the checkout, the rest the command. What is mounted is seen by this process and its
# children alone; /sys is where Wine counts the processors. The last shell is the init of those processes: it stays, to
# reap the ones that Wine leaves to nobody.
RUN = r"""
cd "$1"
mount -t tmpfs tmpfs layer
mkdir layer/new layer/work layer/whole
mount -t overlay overlay -o lowerdir=system,upperdir=layer/new,workdir=layer/work layer/whole
mount --bind "$2" layer/whole/unio
mount -t proc proc layer/whole/proc
mount --bind /sys layer/whole/sys
cd layer/whole
shift 2
exec chroot . sh -c 'cd /unio; wine "$@"; exit "$?"' sh "$@"
"""


def confined(script: str, *arguments: object) -> list[str]:
    """The command that runs a shell script with mounts and processes of its own.

    They end with the script, and the script ends with the process that starts this command, even if that is killed.
    """
    end_with_parent = ["setpriv", "--pdeathsig", "KILL"]
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return [*end_with_parent, *unshare, "sh", "-euc", script, "sh", *map(str, arguments)]


def identity(version: str) -> str:
    """What an environment is made from, as a short name."""
    recipe = "\0".join((SUITES[version], INSTALL, inspect.getsource(install_python), REQUIREMENTS.read_text()))
    return f"wine-{version}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def install_python(python: Path, log: IO[bytes]) -> None:
    """Put Windows' CPython and the required packages into a folder; pip checks what it downloads by its hash."""
    with tempfile.TemporaryDirectory() as name:
        downloads = Path(name)
        target = ["--platform", "win_amd64", "--python-version", "3.13", "--no-deps"]
        pip = [sys.executable, "-m", "pip", "download", "--require-hashes", *target]
        call([*pip, "--dest", name, "--requirement", str(REQUIREMENTS)], log)
        (source,) = downloads.glob("*.tar.gz")
        with tarfile.open(source) as archive:
            (data,) = (archive.extractfile(member) for member in archive if member.name.endswith("/data.zip"))
            assert data is not None
            with zipfile.ZipFile(io.BytesIO(data.read())) as files:
                files.extractall(python.parent)
        (python.parent / "cp313").rename(python)
        packages = python / "Lib" / "site-packages"
        for wheel in downloads.glob("*.whl"):
            with zipfile.ZipFile(wheel) as files:
                files.extractall(packages)
    # With this file Python would ignore the PYTHON variables and would not look beside a script for what it imports.
    (python / "python313._pth").unlink()
    (packages / "unio.pth").write_text("Z:/unio/src\n")
    # platform asks it, and it asks Wine for what Wine doesn't have, which ends the process. Python does without it.
    (python / "_wmi.pyd").unlink()


def install_system(system: Path, version: str, log: IO[bytes]) -> None:
    """Put Debian with Wine into a folder, and on the machine what that takes."""
    install(("debootstrap", "debian-archive-keyring"), log)
    call(confined(INSTALL, system, SUITES[version], mirror()), log, ENVIRONMENT)


def build(version: str, cache: Path) -> Path:
    """The environment's folder, made if it isn't there; of several that want the same one, one makes it."""
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / identity(version)
    with (cache / f"wine-{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder
        partial = cache / f"wine-{version}.partial"
        if partial.exists():  # it was left by a build that was ended
            shutil.rmtree(partial)
        (partial / "layer").mkdir(parents=True)
        log = cache / f"wine-{version}.log"
        print(f"wine.py: building Wine {version} in {folder}; {log} tells how it goes", file=sys.stderr, flush=True)
        try:
            with log.open("wb") as output:
                install_system(partial / "system", version, output)
                install_python(partial / "system" / "python", output)
        except subprocess.CalledProcessError as error:
            raise BuildError(f"{error}; the end of {log}:\n{tail(log)}") from error
        partial.rename(folder)
    return folder


def forward(source: IO[bytes], target: IO[bytes]) -> None:
    # When whoever reads it has read enough, the process's own writing fails too.
    with source, contextlib.suppress(BrokenPipeError):
        while data := source.read(65536):
            target.write(data)
            target.flush()


def run(folder: Path, command: list[str]) -> int:
    """Run a Windows command on the checkout and return its exit code.

    Its standard input is empty and its output goes through pipes: with a file for any of them Wine 8 doesn't start
    Python.
    """
    passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
    process = subprocess.Popen(
        confined(RUN, folder, CHECKOUT, *command),
        env=passed | ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdout
    assert process.stderr
    outputs = [(process.stdout, sys.stdout.buffer), (process.stderr, sys.stderr.buffer)]
    threads = [threading.Thread(target=forward, args=output) for output in outputs]
    try:
        for thread in threads:
            thread.start()
        code = process.wait()
    finally:
        process.kill()  # and with it everything that it started; it may take no less while it waits for that
        for thread in threads:
            thread.join()
    return code if code >= 0 else 128 - code


def terminate(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def environment(version: str | None, cache: Path) -> Path:
    """The environment of the version asked for, or of the first that can be had."""
    if os.geteuid() != 0:
        raise BuildError("only root can build the environment or run in it: debootstrap and mount need it")
    if not shutil.which("apt-get"):
        raise BuildError("the environment is made with Debian's tools, and this machine has no apt-get")
    if version:
        return build(version, cache)
    preferred, *others = SUITES
    try:
        return build(preferred, cache)
    except BuildError as error:
        print(f"wine.py: no Wine {preferred}, so an older one is taken: {error}", file=sys.stderr)
        return build(others[0], cache)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run Windows' CPython under Wine on this checkout.")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where environments are kept (default: %(default)s)")
    parser.add_argument("--wine", choices=SUITES, default=os.environ.get("UNIO_WINE"), help="the version of Wine")
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("build", help="build the environment and print its folder")
    running = commands.add_parser("run", help="build it unless it is there, and run a command in it")
    running.add_argument("command", nargs="+", help="after --, such as: python.exe -m pytest")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, terminate)
    try:
        folder = environment(arguments.wine, arguments.cache)
    except BuildError as error:
        sys.exit(f"wine.py: {error}")
    if arguments.what == "build":
        print(folder)
        return 0
    return run(folder, arguments.command)


if __name__ == "__main__":
    sys.exit(main())

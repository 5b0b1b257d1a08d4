"""Where the suites of others are kept: fetched by name and version, from PyPI or from Debian, never part of this."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from debian import call
from interpreter import apt_get

# The release of Debian that has a version of Python; newer ones are in the one that is in the making.
RELEASES = {"3.11": "bookworm", "3.13": "trixie"}


def folder() -> Path:
    base = os.environ.get("UNIO_JUDGES_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unio" / "judges"


def unpack(archive: Path, place: Path) -> None:
    """Unpack an archive of one folder, as a whole or not at all."""
    partial = place.with_name(f"{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as file:
        file.extractall(partial, filter="data")
    (top,) = partial.iterdir()
    top.rename(place)
    partial.rmdir()


def version_of(name: str, python: str) -> str:
    """The version of a package that a Python has installed."""
    ask = f"import importlib.metadata; print(importlib.metadata.version({name!r}))"
    return subprocess.run([python, "-c", ask], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def sdist(name: str, python: str) -> Path:
    """The unpacked source distribution of a package on PyPI, in the version that a Python has installed."""
    version = version_of(name, python)
    place = folder() / f"{name}-{version}"
    if not place.exists():
        archives = folder() / f"{name}-{version}.archive"
        download = ["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name, "--dest", str(archives)]
        subprocess.run([python, *download, f"{name}=={version}"], check=True)
        (archive,) = archives.iterdir()
        unpack(archive, place)
    return place


def debian_source(package: str, suite: str) -> Path:
    """The unpacked original source of a Debian package, with what its distribution on PyPI leaves out."""
    place = folder() / f"{package}-{suite}"
    if not place.exists():
        work = fresh(place.with_name(f"{place.name}.apt"))
        with (work / "log").open("wb") as log:
            call([*apt_get(work, "deb-src", suite, log), "source", "--tar-only", package], log, cwd=work)
        (archive,) = work.glob("*.orig.tar.*")
        unpack(archive, place)
    return place


def debian_tests(version: str) -> Path:
    """The folder of CPython's own tests, of Debian's package of them, whose interpreters come without."""
    package, suite = f"libpython{version}-testsuite", RELEASES.get(version, "sid")
    place = folder() / package
    if not place.exists():
        work = fresh(place.with_name(f"{place.name}.apt"))
        with (work / "log").open("wb") as log:
            call([*apt_get(work, "deb", suite, log), "download", package], log, cwd=work)
            (archive,) = work.glob("*.deb")
            call(["dpkg-deb", "--extract", str(archive), str(work / "root")], log)
        (work / "root").rename(place)
    return place / "usr" / "lib" / f"python{version}" / "test"


def fresh(work: Path) -> Path:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return work

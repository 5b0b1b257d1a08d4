"""Where the suites of others are kept: fetched by name and version, from PyPI or from Debian, never part of this."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path


def folder() -> Path:
    base = os.environ.get("UNIO_JUDGES_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unio" / "judges"


def sdist(name: str, version: str, python: str = sys.executable) -> Path:
    """The unpacked source distribution of a package."""
    place = folder() / f"{name}-{version}"
    if place.exists():
        return place
    archives = folder() / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    wanted = f"{name}=={version}"
    download = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name, "--dest", str(archives)]
    subprocess.run([*download, wanted], check=True)
    normal = name.replace("-", "_").lower()
    (archive,) = (path for path in archives.iterdir() if path.name.lower().replace("-", "_").startswith(f"{normal}_{version}"))
    partial = folder() / f"{name}-{version}.partial"
    with tarfile.open(archive) as file:
        file.extractall(partial, filter="data")
    (top,) = partial.iterdir()
    top.rename(place)
    partial.rmdir()
    return place

"""The suites of others: where each is had from, and the processes that run it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import cache
from supervise import Group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHILD = str(Path(__file__).parent / "child.py")

# What is no loop's: asyncio's code for Windows, and what it does with its own selector loop and a selector that is none.
OF_OTHERS = {"test_windows_events", "test_windows_utils", "test_proactor_events"}


def unittest_group(suite: str, python: str, loop: str, module: str, folder: Path) -> Group:
    return Group(module, [python, CHILD, suite, loop, "EVENTS", module], folder, {})


def cpython(python: str, loop: str) -> Iterator[Group]:
    """The test_asyncio of the Python that runs it, from its own library."""
    where = "import test.test_asyncio as package; print(package.__path__[0])"
    found = subprocess.run([python, "-c", where], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    for path in sorted(Path(found).glob("test_*.py")):
        if path.stem not in OF_OTHERS:
            yield unittest_group("cpython", python, loop, f"test.test_asyncio.{path.stem}", Path("/tmp"))


def uvloop(python: str, loop: str) -> Iterator[Group]:
    """uvloop's tests, without its sources, which are not compiled."""
    source = cache.sdist("uvloop", "0.23.0", python)
    folder = cache.folder() / "uvloop-tests"
    if not (folder / "tests").exists():
        folder.mkdir(exist_ok=True)
        (folder / "tests").symlink_to(source / "tests")
    for path in sorted((folder / "tests").glob("test_*.py")):
        group = unittest_group("uvloop", python, loop, f"tests.{path.stem}", folder)
        group.variables = {"UNIO_JUDGES_PATH": str(folder)}
        yield group


SUITES: dict[str, Callable[[str, str], Iterator[Group]]] = {"cpython": cpython, "uvloop": uvloop}

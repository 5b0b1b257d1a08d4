"""The suites of others: where each is had from, and the processes that run it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import cache
import servers
from supervise import Group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
CHILD = str(HERE / "child.py")

# What is no loop's but asyncio's: its code for Windows.
OF_OTHERS = {"test_windows_events", "test_windows_utils", "test_proactor_events"}

# What has no tests of asyncio's loop: uvloop's sources and inner life.
OF_UVLOOP_ALONE = {
    *("test_cython", "test_dealloc", "test_fs_event", "test_libuv_api", "test_regr1", "test_sourcecode"),
    "test_process_spawning",
}

# What of redis-py's tests wants other servers, or more of one: clusters, sentinels, TLS, modules.
OF_MORE_SERVERS = {
    *("bloom", "cluster", "credentials", "json", "multidb", "scenario", "search", "sentinel", "ssl", "timeseries"),
    "vsets",
}


def unittest_group(suite: str, python: str, loop: str, module: str, folder: Path) -> Group:
    return Group(module, [python, CHILD, suite, loop, "EVENTS", module], folder, {})


# Prints where test_asyncio is, and of which Python.
WHERE = """
import importlib.util, sys, test
place = importlib.util.find_spec("test.test_asyncio")
print("{}.{}".format(*sys.version_info), place.submodule_search_locations[0] if place else "")
"""


def cpython(python: str, loop: str) -> Iterator[Group]:
    """The test_asyncio of the Python that runs it, from its own library or from Debian's package of its tests."""
    found = subprocess.run([python, "-c", WHERE], stdout=subprocess.PIPE, text=True, check=True).stdout
    version, _, own = found.strip().partition(" ")
    tests, variables = Path(own), {}
    if not own:
        tests = cache.debian_tests(version) / "test_asyncio"
        variables = {"UNIO_JUDGES_TESTS": str(tests.parent)}
    for path in sorted(tests.glob("test_*.py")):
        if path.stem not in OF_OTHERS:
            group = unittest_group("cpython", python, loop, f"test.test_asyncio.{path.stem}", Path("/tmp"))
            group.variables = variables
            yield group


def uvloop(python: str, loop: str) -> Iterator[Group]:
    """uvloop's tests, without its sources, which are not compiled."""
    tests = alone("uvloop", python)
    for path in sorted(tests.glob("test_*.py")):
        if path.stem not in OF_UVLOOP_ALONE:
            group = unittest_group("uvloop", python, loop, f"tests.{path.stem}", tests.parent)
            group.variables = {"UNIO_JUDGES_PATH": str(tests.parent)}
            yield group


def pytest_groups(suite: str, python: str, loop: str, tests: Path, plugins: str = "", *more: str) -> Iterator[Group]:
    """A group for each file of a suite of pytest's kind, with the plugins that it needs and no others."""
    variables = {
        "UNIO_JUDGES_SUITE": suite,
        "UNIO_JUDGES_LOOP": loop,
        "UNIO_JUDGES_EVENTS": "EVENTS",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    pytest = [python, "-m", "pytest", "-p", "no:cacheprovider", "--override-ini", "addopts="]
    pytest += [word for plugin in (*plugins.split(), "judges_plugin") for word in ("-p", plugin)]
    for path in sorted(tests.rglob("*.py")):
        if path.name.startswith("test_") or path.name.endswith("_test.py"):
            name = str(path.relative_to(tests).with_suffix("")).replace(os.sep, ".")
            yield Group(name, [*pytest, *more, str(path)], tests.parent, variables)


def alone(name: str, python: str, *more: str) -> Path:
    """The tests of a source distribution, away from its sources: what is tested is installed, and those are not."""
    source = cache.sdist(name, python)
    folder = source.with_name(f"{source.name}-tests")
    folder.mkdir(exist_ok=True)
    for each in ("tests", *more):
        if not (folder / each).is_symlink():
            (folder / each).symlink_to(source / each)
    return folder / "tests"


def anyio(python: str, loop: str) -> Iterator[Group]:
    """anyio's tests, without those of its packaging and of its plugin, which run processes of their own."""
    tests = alone("anyio", python, "pyproject.toml")
    for group in pytest_groups("anyio", python, loop, tests, "anyio.pytest_plugin pytest_mock pytest_timeout"):
        if group.name not in {"test_lazyimport", "test_pytest_plugin"}:
            yield group


def aiohttp(python: str, loop: str) -> Iterator[Group]:
    tests = alone("aiohttp", python, "pytest.ini", "examples")
    more = ("-m", "not internal and not autobahn")
    for group in pytest_groups("aiohttp", python, loop, tests, "pytest_mock pytest_timeout", *more):
        if "benchmarks" not in group.name:
            yield group


def uvicorn(python: str, loop: str) -> Iterator[Group]:
    tests = alone("uvicorn", python, "pyproject.toml")
    for group in pytest_groups("uvicorn", python, loop, tests, "anyio.pytest_plugin pytest_mock"):
        if "benchmarks" not in group.name:
            yield group


def websockets(python: str, loop: str) -> Iterator[Group]:
    """websockets' tests, which Debian's source has whole; those of the threads' interface are left out."""
    source = cache.debian_source("python-websockets", "trixie")
    folder = cache.folder() / "websockets-tests"
    folder.mkdir(exist_ok=True)
    if not (folder / "tests").exists():
        (folder / "tests").symlink_to(source / "tests")
    for part in ("asyncio", "legacy"):
        for path in sorted((folder / "tests" / part).glob("test_*.py")):
            group = unittest_group("websockets", python, loop, f"tests.{part}.{path.stem}", folder)
            group.variables = {"UNIO_JUDGES_PATH": str(folder)}
            yield group


def installed(package: str, python: str) -> Path:
    where = f"import importlib.util; print(importlib.util.find_spec({package!r}).submodule_search_locations[0])"
    return Path(subprocess.run([python, "-c", where], stdout=subprocess.PIPE, text=True, check=True).stdout.strip())


def tornado(python: str, loop: str) -> Iterator[Group]:
    """tornado's tests, which are installed with it; what it runs itself on asyncio."""
    for path in sorted((installed("tornado", python) / "test").glob("*_test.py")):
        yield unittest_group("tornado", python, loop, f"tornado.test.{path.stem}", Path("/tmp"))


def aiosmtpd(python: str, loop: str) -> Iterator[Group]:
    tests = installed("aiosmtpd", python) / "tests"
    return pytest_groups("aiosmtpd", python, loop, tests, "pytest_mock", "--import-mode=importlib")


def asyncpg(python: str, loop: str) -> Iterator[Group]:
    tests = alone("asyncpg", python)
    with servers.postgres() as variables:
        for path in sorted(tests.glob("test_*.py")):
            if not path.stem.startswith("test__"):  # the sources' own
                group = unittest_group("asyncpg", python, loop, f"tests.{path.stem}", tests.parent)
                group.variables = {"UNIO_JUDGES_PATH": str(tests.parent), **variables}
                yield group


def redis(python: str, loop: str) -> Iterator[Group]:
    """redis-py's tests of its asyncio half, against a plain server: neither cluster nor TLS nor modules."""
    tests = alone("redis", python, "pyproject.toml")
    marks = "not redismod and not onlycluster and not ssl and not cp_integration and not replica"
    with servers.redis() as port:
        more = ("-m", marks, "--redis-url", f"redis://127.0.0.1:{port}/0")
        for group in pytest_groups("redis", python, loop, tests, "pytest_asyncio.plugin pytest_timeout", *more):
            if group.name.startswith("test_asyncio.test_") and not any(part in group.name for part in OF_MORE_SERVERS):
                yield group


SUITES: dict[str, Callable[[str, str], Iterator[Group]]] = {
    "cpython": cpython,
    "uvloop": uvloop,
    "anyio": anyio,
    "aiohttp": aiohttp,
    "uvicorn": uvicorn,
    "websockets": websockets,
    "tornado": tornado,
    "aiosmtpd": aiosmtpd,
    "asyncpg": asyncpg,
    "redis": redis,
}

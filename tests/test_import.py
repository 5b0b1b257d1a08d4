"""What `import unio` shows and what it costs."""

from __future__ import annotations

import importlib.resources
import inspect
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from patience import PROGRAM

import unio

# What a program that moves bytes may never need: another way to run things, protocols, and what is for certain
# operations or commands only.
NOT_NEEDED = {
    "argparse",
    "asyncio",
    "cffi",
    "concurrent.futures",
    "ctypes",
    "dataclasses",
    "h11",
    "http",
    "inspect",
    "json",
    "logging",
    "multiprocessing",
    "queue",
    "signal",
    "ssl",
    "subprocess",
    "tempfile",
    "typing_extensions",
    "unio.__main__",
    "unio.backends.epoll",
    "unio.backends.kqueue",
    "unio.streams",
    "urllib",
}


def test_only_public_names_are_shown() -> None:
    assert dir(unio) == sorted([*unio.__all__, "__version__"])
    assert unio.__all__ == sorted(unio.__all__)
    assert not [name for name in unio.__all__ if name.startswith("_")]


def test_a_star_import_brings_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from unio import *", names)
    del names["__builtins__"]
    assert set(names) == set(unio.__all__)


@pytest.mark.parametrize("name", unio.__all__)
def test_a_public_name_is_there_and_says_what_it_is(name: str) -> None:
    thing = getattr(unio, name)
    assert inspect.getdoc(thing)
    if inspect.isclass(thing) and thing.__module__.startswith("unio"):
        for attribute, value in vars(thing).items():
            if not attribute.startswith("_") and inspect.isfunction(value):
                assert inspect.getdoc(value), f"{name}.{attribute} has no documentation"


def modules_after(statement: str) -> set[str]:
    """The modules of a fresh interpreter after a statement."""
    program = f"{statement}; import sys; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(unio.__file__).parent.parent)}
    command = [sys.executable, "-S", "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PROGRAM, check=True)
    return set(done.stdout.split())


def test_the_import_costs_no_more_than_it_must() -> None:
    brought = modules_after("import unio") - modules_after("pass")
    assert "unio" in brought
    assert brought & NOT_NEEDED == set()


def test_the_types_are_announced() -> None:
    assert (importlib.resources.files("unio") / "py.typed").is_file()


def test_the_version_is_one() -> None:
    assert [int(part) >= 0 for part in unio.__version__.split(".")] == [True] * 3


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this interpreter has the GIL in any case")
def test_nothing_of_it_brings_the_gil_back() -> None:
    program = "import sys, unio, unio.backends, unio.cli\nunio.Port().close()\nsys.exit(sys._is_gil_enabled())"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
    environment["PYTHONPATH"] = str(Path(unio.__file__).parent.parent)
    subprocess.run([sys.executable, "-c", program], env=environment, timeout=PROGRAM, check=True)


ANOTHER_COPY = """
import socket, sys
import unio
def use(unio, port, handle, sock):
    recv, send = unio.Recv(handle), unio.Send(handle, b"from here")
    for _ in range(3):
        port.submit(recv)
        port.submit(send)
        sock.sendall(b"from there")
        port.post("posted")
        found = []
        while len(found) < 3:
            found += port.wait(60)
        assert {each.error for each in found} == {None} and "posted" in [each.key for each in found], found
        assert recv.data == b"from there" and not recv.in_flight and not send.in_flight
        assert sock.recv(100) == b"from here"
near, far = socket.socketpair()
with unio.Port() as port:
    handle = port.associate(near)
    use(unio, port, handle, far)
    port.post(key="posted", operation=1)
    for name in [name for name in sys.modules if name.partition(".")[0] == "unio"]:
        del sys.modules[name]
    import unio as another
    assert another.Port is not unio.Port
    there, here = socket.socketpair()
    with another.Port() as second:
        use(another, second, second.associate(there), here)
        assert port.wait(60)[0].operation == 1
        use(unio, port, handle, far)
print("done")
"""


def test_another_copy_of_the_package_changes_nothing_for_the_first(backend: str) -> None:
    command = [sys.executable, "-c", ANOTHER_COPY]
    environment = os.environ | {unio.backends.VARIABLE: backend}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=PROGRAM)
    assert done.stdout == "done\n"

"""The part in C is compiled as far as a system can compile it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent

# Has unio use the module of a path, and tells what it makes of that.
SCRIPT = """
import importlib.util, json, socket, sys
spec = importlib.util.spec_from_file_location("unio._core", sys.argv[1])
core = sys.modules["unio._core"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(core)
import unio
unio._core = core
from unio.cli.doctor import c_part
near, far = socket.socketpair()
with near, far, unio.Port(backend="epoll") as port:
    near.setblocking(False)
    port.submit(unio.Recv(port.associate(near, "key"), bytearray(4)))
    far.send(b"data")
    [found] = port.wait(30)
    assert (found.key, found.transferred, found.error) == ("key", 4, None)
    told = {"is_fast": port.is_fast, "c_part": c_part()}
print(json.dumps(told | {each.name: each.reason for each in unio.backends.candidates()}))
"""


@pytest.fixture(scope="module")
def hatch_build() -> ModuleType:
    for needed in ("hatchling", "setuptools"):
        pytest.importorskip(needed, reason="it builds unio")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names(module: ModuleType, *, with_ring: bool) -> set[str]:
    return {Path(path).name for path in module.sources(ROOT, with_ring=with_ring)}


@pytest.mark.parametrize("system", ["darwin", "dragonfly6", "freebsd14", "netbsd10", "openbsd7"])
def test_elsewhere_than_on_linux_what_only_linux_has_is_left_out(
    hatch_build: ModuleType, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    everything = {path.name for path in (ROOT / "src/core").glob("*.c")}
    assert names(hatch_build, with_ring=True) == everything - {"no_ring.c"}
    monkeypatch.setattr(sys, "platform", system)
    left_out = {"epoll.c", "ring.c", "ring_requests.c", "ring_results.c", "ring_type.c"}
    assert names(hatch_build, with_ring=False) == everything - left_out


@pytest.mark.skipif(sys.platform != "linux", reason="io_uring is Linux'")
def test_where_the_headers_know_no_io_uring_all_but_that_is_compiled(hatch_build: ModuleType, tmp_path: Path) -> None:
    header = tmp_path / "linux" / "io_uring.h"
    header.parent.mkdir()
    header.write_text("#error of the test: it is lacking\n")
    flags = ["-std=c11", "-O0", f"-I{tmp_path}"]
    with pytest.raises(Exception, match=r"ring\.c"):
        hatch_build.compile_core(ROOT, flags)
    told: list[str] = []
    compiled = hatch_build.compile_core(ROOT, flags, told.append)
    [warning] = told
    assert warning.startswith("unio._core was compiled without io_uring, as <linux/io_uring.h> is lacking or too old: ")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(compiled)],
        env={**os.environ, "UNIO_BACKEND": "epoll"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["is_fast"] is True
    assert found["c_part"] == "there, without io_uring"
    assert found["epoll"] == "available"
    assert found["io_uring"] == "unio._core was compiled without it, as <linux/io_uring.h> was lacking or too old"

